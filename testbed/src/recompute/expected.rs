//! ● Comparison with a file of expected 5-minute windows that somebody else computed.
//!
//! Columns: `kvfv_id,window_start_utc,n,sum_ckmh,min_ckmh,max_ckmh`. Here `n` counts the passages
//! with a speed, as sum, minimum and maximum do.

use std::collections::BTreeMap;
use std::io::Read;

use jiff::Timestamp;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::ledger::{Findings, Windows};
use super::stats::{Interval, WindowKey};

/// One row of the file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    kvfv_id: String,
    #[serde(deserialize_with = "timestamp")]
    window_start_utc: Timestamp,
    n: i64,
    sum_ckmh: i64,
    min_ckmh: Option<i32>,
    max_ckmh: Option<i32>,
}

fn timestamp<'de, D: Deserializer<'de>>(text: D) -> Result<Timestamp, D::Error> {
    String::deserialize(text)?.parse().map_err(D::Error::custom)
}

/// Compares every row of the file with the database's windows, and every window with the file.
///
/// # Errors
/// The file is not such a table.
pub fn compare(csv: impl Read, found: &Windows) -> Result<Findings, csv::Error> {
    let mut rows = BTreeMap::new();
    for row in csv::Reader::from_reader(csv).deserialize() {
        let row: Row = row?;
        let start_ms = row.window_start_utc.as_millisecond();
        let interval = Interval::FiveMinutes;
        rows.insert(
            WindowKey {
                device: row.kvfv_id.clone(),
                interval,
                start_ms,
            },
            row,
        );
    }
    let mut findings = Findings::default();
    for (key, row) in &rows {
        findings.compared += 1;
        let Some(stats) = found.get(key) else {
            findings.wrong(|| format!("{key}: missing"));
            continue;
        };
        let ours = (
            stats.n_speed,
            stats.sum_ckmh,
            stats.min_ckmh,
            stats.max_ckmh,
        );
        let theirs = (row.n, row.sum_ckmh, row.min_ckmh, row.max_ckmh);
        if ours != theirs {
            findings.wrong(|| format!("{key}: {ours:?} instead of {theirs:?} (n, sum, min, max)"));
        }
    }
    let base = found
        .keys()
        .filter(|key| key.interval == Interval::FiveMinutes);
    for key in base.filter(|key| !rows.contains_key(key)) {
        findings.compared += 1;
        findings.wrong(|| format!("{key}: not in the file"));
    }
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recompute::stats::Stats;

    fn windows() -> Windows {
        let key = |interval, start_ms| WindowKey {
            device: "a".into(),
            interval,
            start_ms,
        };
        let stats = Stats {
            n: 2,
            n_speed: 2,
            sum_ckmh: 100,
            min_ckmh: Some(40),
            max_ckmh: Some(60),
            ..Stats::default()
        };
        Windows::from([
            (key(Interval::FiveMinutes, 300_000), stats.clone()),
            (key(Interval::Hour, 0), stats),
        ])
    }

    const HEAD: &str = "kvfv_id,window_start_utc,n,sum_ckmh,min_ckmh,max_ckmh\n";

    fn wrong(rows: &str) -> u64 {
        compare(format!("{HEAD}{rows}").as_bytes(), &windows())
            .expect("a table")
            .wrong
    }

    #[test]
    fn every_row_must_be_there_and_equal_and_no_window_besides() {
        assert_eq!(wrong("a,1970-01-01T00:05:00Z,2,100,40,60\n"), 0);
        assert_eq!(wrong("a,1970-01-01T00:05:00Z,2,101,40,60\n"), 1);
        assert_eq!(wrong("a,1970-01-01T00:10:00Z,2,100,40,60\n"), 2);
        assert_eq!(wrong(""), 1);
    }
}
