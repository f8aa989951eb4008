//! ○ Flink's side: the script that runs it, and what its windows are worth.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use tokio::task::block_in_place;

use crate::process::Launch;
use crate::recompute::{Findings, Interval, Windows};

const SCRIPT: &str = include_str!("../../../../flink/tumble.py");
/// Which Python has Flink, where it is not the first in the path.
const PYTHON_VARIABLE: &str = "VERST_FLINK_PYTHON";

/// A Python that has Flink; none where there is none.
pub(super) fn python() -> Result<Option<PathBuf>> {
    let python = std::env::var_os(PYTHON_VARIABLE).map_or_else(|| "python3".into(), PathBuf::from);
    let check = Launch::new("python", &python, "/dev/null").args(["-c", "import pyflink.table"]);
    // One that does not start has no Flink either.
    let output = block_in_place(|| check.output());
    Ok(output
        .is_ok_and(|output| output.status.success())
        .then_some(python))
}

/// What the script says of itself.
#[derive(Debug, Deserialize)]
pub(super) struct Cost {
    pub(super) cpu_s: f64,
    pub(super) wall_s: f64,
    pub(super) peak_resident_bytes: u64,
}

/// What Flink reached.
pub(super) struct Theirs {
    pub(super) cost: Cost,
    pub(super) rows: Vec<Row>,
}

/// A window as Flink writes it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Row {
    device: String,
    start_ms: i64,
    n: i64,
    n_speed: i64,
    sum_ckmh: Option<i64>,
    min_ckmh: Option<i32>,
    max_ckmh: Option<i32>,
}

impl Theirs {
    /// Runs it over the files in this directory.
    ///
    /// # Errors
    /// Flink fails, or says something else than expected.
    pub(super) fn measure(python: &Path, directory: &Path) -> Result<Self> {
        let script = directory.join("tumble.py");
        std::fs::write(&script, SCRIPT)?;
        let log = directory.join("flink.log");
        let windows = directory.join("windows");
        let launch = Launch::new("flink", python, &log)
            .arg(&script)
            .arg(directory.join("few"))
            .arg(directory.join("passages"))
            .arg(&windows);
        let output = block_in_place(|| launch.output())?;
        let said = String::from_utf8_lossy(&output.stdout);
        let complaint = || {
            let text = String::from_utf8_lossy(&output.stderr);
            let tail: Vec<&str> = text.lines().rev().take(20).collect();
            tail.into_iter().rev().collect::<Vec<_>>().join("\n")
        };
        ensure!(output.status.success(), "Flink failed: {}", complaint());
        let line = said.lines().last().context("the script says nothing")?;
        let cost = serde_json::from_str(line).with_context(|| line.to_owned())?;
        let mut rows = Vec::new();
        for entry in std::fs::read_dir(&windows)? {
            let path = entry?.path();
            let name = path.file_name().map(|name| name.to_string_lossy());
            // Parts that begin with a dot were never committed.
            if !name.is_some_and(|name| name.starts_with("part-")) {
                continue;
            }
            let mut reader = csv::ReaderBuilder::new()
                .has_headers(false)
                .from_path(&path)?;
            for row in reader.deserialize() {
                rows.push(row?);
            }
        }
        Ok(Self { cost, rows })
    }
}

/// What Flink's windows are worth.
#[derive(Debug)]
pub(super) struct Judged {
    pub(super) counted: u64,
    pub(super) findings: Findings,
}

/// Compares the 5-minute windows, in the columns that both have.
pub(super) fn judge(expected: &Windows, rows: &[Row]) -> Result<Judged> {
    let found: HashMap<(&str, i64), &Row> = rows
        .iter()
        .map(|row| ((row.device.as_str(), row.start_ms), row))
        .collect();
    let mut findings = Findings::default();
    let five = expected
        .iter()
        .filter(|(key, _)| key.interval == Interval::FiveMinutes);
    for (key, stats) in five {
        findings.compared += 1;
        let theirs = found.get(&(key.device.as_str(), key.start_ms)).map(|row| {
            let sum = row.sum_ckmh.unwrap_or(0);
            (row.n, row.n_speed, sum, row.min_ckmh, row.max_ckmh)
        });
        let right = (
            stats.n,
            stats.n_speed,
            stats.sum_ckmh,
            stats.min_ckmh,
            stats.max_ckmh,
        );
        if theirs != Some(right) {
            findings.wrong(|| format!("{key}: {theirs:?} instead of {right:?}"));
        }
    }
    let counted: i64 = rows.iter().map(|row| row.n).sum();
    Ok(Judged {
        counted: u64::try_from(counted)?,
        findings,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recompute::{Stats, WindowKey};

    #[test]
    fn a_window_that_is_missing_or_short_of_a_passage_is_wrong() {
        let key = |start_ms| WindowKey {
            device: "a".to_owned(),
            interval: Interval::FiveMinutes,
            start_ms,
        };
        let stats = Stats {
            n: 2,
            n_speed: 1,
            sum_ckmh: 50,
            min_ckmh: Some(50),
            max_ckmh: Some(50),
            ..Stats::default()
        };
        let expected = Windows::from([
            (key(0), stats.clone()),
            (key(300_000), stats.clone()),
            (key(600_000), stats),
        ]);
        let row = |start_ms, n| Row {
            device: "a".to_owned(),
            start_ms,
            n,
            n_speed: 1,
            sum_ckmh: Some(50),
            min_ckmh: Some(50),
            max_ckmh: Some(50),
        };
        let judged = judge(&expected, &[row(0, 2), row(300_000, 1)]).unwrap();
        assert_eq!((judged.counted, judged.findings.wrong), (3, 2));
        assert_eq!(judged.findings.compared, 3);
    }
}
