//! ○ All windows and raw rows of a database, read by plain SQL from the tables.

use std::collections::BTreeMap;

use futures_util::TryStreamExt;
use serde_json::Value;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row};

use super::event::{Fact, PlateFact, canonical};
use super::ledger::{Findings, Rows, Windows};
use super::stats::{Interval, LaneStats, Stats, WindowKey};

/// Percentiles that the database keeps beside the sums.
const PERCENTILES: [(&str, i64); 4] = [("p15", 15), ("p50", 50), ("p85", 85), ("p95", 95)];

/// What became of passages in total, from the tables themselves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// In 5-minute windows.
    pub counted: u64,
    /// Raw rows.
    pub stored: u64,
    /// In the loss ledger and not recovered.
    pub lost: u64,
    /// In the side table's daily counts.
    pub rejected: u64,
}

/// Every window of the three lengths. The percentiles are checked on the way: each must follow from
/// the window's own histogram.
///
/// # Errors
/// The database fails.
pub async fn windows(client: &Client) -> Result<(Windows, Findings), tokio_postgres::Error> {
    let mut windows = Windows::new();
    let mut percentiles = Findings::default();
    for interval in Interval::ALL {
        read_windows(client, interval, None, &mut windows, &mut percentiles).await?;
    }
    Ok((windows, percentiles))
}

/// The 5-minute windows of these devices that begin before `to_ms`, likewise.
///
/// # Errors
/// The database fails.
pub async fn windows_of(
    client: &Client,
    devices: &[String],
    to_ms: i64,
) -> Result<(Windows, Findings), tokio_postgres::Error> {
    let (mut windows, mut percentiles) = (Windows::new(), Findings::default());
    let (interval, only) = (Interval::FiveMinutes, Some((devices, to_ms)));
    read_windows(client, interval, only, &mut windows, &mut percentiles).await?;
    Ok((windows, percentiles))
}

async fn read_windows(
    client: &Client,
    interval: Interval,
    only: Option<(&[String], i64)>,
    windows: &mut Windows,
    percentiles: &mut Findings,
) -> Result<(), tokio_postgres::Error> {
    let (devices, to_ms) = only.unzip();
    let sql = format!(
        "SELECT d.device, (extract(epoch FROM w.bucket) * 1000)::int8, w.n, w.n_speed,
                w.n_moving, w.violations, w.sum_ckmh, w.sumsq_ckmh2, w.pace_sum_ms_per_km,
                w.min_ckmh, w.max_ckmh, w.hist_lo, w.hist, w.class_n, w.lane_n,
                w.lane_n_speed, w.lane_sum_ckmh, w.p15_ckmh, w.p50_ckmh, w.p85_ckmh, w.p95_ckmh
         FROM speed_stats_{} w JOIN device d USING (device_key)
         WHERE ($1::text[] IS NULL OR d.device = ANY($1))
           AND ($2::int8 IS NULL OR w.bucket < to_timestamp($2::int8 / 1000.0))",
        interval.name()
    );
    let parameters: [&(dyn ToSql + Sync); 2] = [&devices, &to_ms];
    let rows = client.query_raw(&sql, parameters).await?;
    let mut rows = std::pin::pin!(rows);
    while let Some(row) = rows.try_next().await? {
        let key = WindowKey {
            device: row.get(0),
            interval,
            start_ms: row.get(1),
        };
        let stats = stats(&row);
        for (column, (name, percent)) in (17..).zip(PERCENTILES) {
            let kept: Option<i32> = row.get(column);
            let computed = stats.percentile_ckmh(percent);
            percentiles.compared += 1;
            if kept != computed {
                percentiles.wrong(|| format!("{key}: {name} {kept:?} instead of {computed:?}"));
            }
        }
        windows.insert(key, stats);
    }
    Ok(())
}

fn stats(row: &Row) -> Stats {
    let count = |column: usize| i64::from(row.get::<_, i32>(column));
    let lowest = i32::from(row.get::<_, i16>(11));
    let (lane_n, lane_n_speed, lane_sum): (Vec<i32>, Vec<i32>, Vec<i64>) =
        (row.get(14), row.get(15), row.get(16));
    let at = |list: &[i32], lane: usize| list.get(lane).copied().map_or(0, i64::from);
    let lanes = (0..)
        .zip(0..lane_n.len())
        .filter(|(_, place)| lane_n[*place] != 0)
        .map(|(lane, place)| {
            let of_lane = LaneStats {
                n: at(&lane_n, place),
                n_speed: at(&lane_n_speed, place),
                sum_ckmh: lane_sum.get(place).copied().unwrap_or(0),
            };
            (lane, of_lane)
        })
        .collect();
    Stats {
        n: count(2),
        n_speed: count(3),
        n_moving: count(4),
        violations: count(5),
        sum_ckmh: row.get(6),
        sumsq_ckmh2: row.get(7),
        pace_sum_ms_per_km: row.get(8),
        min_ckmh: row.get(9),
        max_ckmh: row.get(10),
        histogram: counts((lowest..).zip(row.get::<_, Vec<i32>>(12))),
        classes: counts((0..).zip(row.get::<_, Vec<i32>>(13))),
        lanes,
    }
}

/// An array of counts as a map of those that are not zero.
fn counts<K: Ord>(pairs: impl Iterator<Item = (K, i32)>) -> BTreeMap<K, i64> {
    pairs
        .filter(|(_, n)| *n != 0)
        .map(|(key, n)| (key, i64::from(n)))
        .collect()
}

/// Every raw row.
///
/// # Errors
/// The database fails.
pub async fn rows(client: &Client) -> Result<Rows, tokio_postgres::Error> {
    let sql = "SELECT d.device, (extract(epoch FROM p.event_time) * 1000)::int8, p.speed_ckmh,
                      p.lane, p.direction, p.vehicle_class, p.length_cm, p.speed_limit_kmh,
                      p.confidence_permille, p.violation, p.plate, p.extra::text, p.plate_hash
               FROM passage p JOIN device d USING (device_key)";
    let found = client.query_raw(sql, std::iter::empty::<i32>()).await?;
    let mut found = std::pin::pin!(found);
    let mut rows = Rows::new();
    while let Some(row) = found.try_next().await? {
        let extra: Option<String> = row.get(11);
        let fact = Fact {
            event_ms: row.get(1),
            speed_ckmh: row.get(2),
            lane: row.get(3),
            direction: row.get(4),
            vehicle_class: row.get(5),
            length_cm: row.get(6),
            speed_limit_kmh: row.get(7),
            confidence_permille: row.get(8),
            violation: row.get(9),
            plate: match (row.get(10), row.get(12)) {
                (Some(text), _) => PlateFact::Text(text),
                (None, Some(hash)) => PlateFact::Hash(hash),
                (None, None) => PlateFact::Absent,
            },
            extra: extra.map(|text| {
                let value: Value = serde_json::from_str(&text).unwrap_or_default();
                canonical(&value)
            }),
        };
        rows.entry(row.get(0)).or_default().push(fact);
    }
    Ok(rows)
}

/// Counted, stored, lost and rejected passages.
///
/// # Errors
/// The database fails.
pub async fn totals(client: &Client) -> Result<Totals, tokio_postgres::Error> {
    let row = client
        .query_one(
            "SELECT (SELECT coalesce(sum(n), 0)::int8 FROM speed_stats_5m),
                    (SELECT count(*) FROM passage),
                    (SELECT coalesce(sum(last_seq - first_seq + 1 - recovered), 0)::int8
                     FROM loss_ledger WHERE scope = 'all'),
                    (SELECT coalesce(sum(passages), 0)::int8 FROM rejected_day)",
            &[],
        )
        .await?;
    let number = |column: usize| u64::try_from(row.get::<_, i64>(column)).unwrap_or(0);
    Ok(Totals {
        counted: number(0),
        stored: number(1),
        lost: number(2),
        rejected: number(3),
    })
}

/// The books of all streams: accepted = counted + lost + held.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Books {
    /// Streams.
    pub streams: u64,
    /// Passages that units have accepted, as far as the centre knows.
    pub accepted: u64,
    /// Passages that are counted.
    pub counted: u64,
    /// Passages that are known to be lost.
    pub lost: u64,
    /// Passages that wait at their units.
    pub held: u64,
    /// Streams whose books do not add up, in words.
    pub wrong: Vec<String>,
}

/// Adds up the books of all streams from the cursors, and compares them with what `v_ledger` shows and
/// with the entries of the ledger.
///
/// # Errors
/// The database fails.
pub async fn books(client: &Client) -> Result<Books, tokio_postgres::Error> {
    let rows = client
        .query(
            "SELECT d.device, c.stream::text, c.accepted_to, c.counted::text, c.lost::text,
                v.accepted, v.counted, v.lost, v.held, v.unexplained,
                (SELECT coalesce(sum(l.last_seq - l.first_seq + 1 - l.recovered), 0)::int8
                 FROM loss_ledger l WHERE l.stream_key = c.stream_key AND l.scope = 'all')
             FROM stream_cursor c JOIN device d USING (device_key)
             LEFT JOIN v_ledger v USING (stream_key)",
            &[],
        )
        .await?;
    let mut books = Books::default();
    for row in rows {
        let (device, stream): (String, String) = (row.get(0), row.get(1));
        let shown: [Option<i64>; 5] = std::array::from_fn(|place| row.get(5 + place));
        let (accepted, booked): (i64, i64) = (row.get(2), row.get(10));
        let (counted, lost) = (numbers(row.get(3)), numbers(row.get(4)));
        let held = shown[3].unwrap_or(0);
        let right = accepted == counted + lost + held
            && booked == lost
            && shown
                == [
                    Some(accepted),
                    Some(counted),
                    Some(lost),
                    Some(held),
                    Some(0),
                ];
        if !right {
            books.wrong.push(format!(
                "{device} {stream}: accepted {accepted}, counted {counted}, lost {lost}, booked as \
                 lost {booked}; v_ledger shows accepted, counted, lost, held, unexplained {shown:?}"
            ));
        }
        let add = |sum: &mut u64, n: i64| *sum += u64::try_from(n).unwrap_or(0);
        books.streams += 1;
        add(&mut books.accepted, accepted);
        add(&mut books.counted, counted);
        add(&mut books.lost, lost);
        add(&mut books.held, held);
    }
    Ok(books)
}

/// How many numbers a multirange holds, from its text: `{[1,5),[8,9)}`.
fn numbers(text: &str) -> i64 {
    let ends: Vec<i64> = text
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect();
    ends.chunks_exact(2).map(|range| range[1] - range[0]).sum()
}
