//! Passages folded into the tables as the aggregator folds them, and read back for comparison.

use std::collections::BTreeMap;

use aggregator::store::reader::Interval;
use proto::batch::PassageBatch;
use proto::passage::{EventTime, Lane, Passage, Speed, VehicleClass};
use proto::window::{SpeedStats, fold};
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

/// 2025-04-05T00:00:00Z.
pub(crate) const MIDNIGHT_MS: i64 = 1_743_811_200_000;
pub(crate) const MINUTE_MS: i64 = 60_000;
pub(crate) const HOUR_MS: i64 = 60 * MINUTE_MS;

pub(crate) fn passage(ms: i64, centi_kmh: Option<u16>) -> Passage {
    Passage {
        event_time: EventTime::from_millis(ms),
        speed: centi_kmh.and_then(Speed::from_centi_kmh),
        ..Passage::default()
    }
}

/// Passages from `from_ms` on, about one a minute for `minutes`, of all kinds; the same each time.
pub(crate) fn traffic(from_ms: i64, minutes: i64) -> Vec<Passage> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut draw = move |below: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    (0..minutes)
        // A quiet hour among them, and gaps of some minutes.
        .filter(|minute| !(300..360).contains(minute) && minute % 40 > 5)
        .map(|minute| {
            let ms = from_ms + minute * MINUTE_MS + i64::try_from(draw(60_000)).unwrap();
            let centi = u16::try_from(draw(16_000)).unwrap();
            Passage {
                lane: Lane::new(u8::try_from(draw(3)).unwrap()),
                vehicle_class: VehicleClass::new(u8::try_from(draw(14)).unwrap()),
                violation: draw(10) == 0,
                ..passage(ms, (draw(20) > 0).then_some(centi))
            }
        })
        .collect()
}

/// The statistics of the passages by window of `interval`, by their start in ms.
pub(crate) fn windows(passages: &[Passage], interval: Interval) -> BTreeMap<i64, SpeedStats> {
    let mut batch = PassageBatch::new();
    passages.iter().for_each(|passage| batch.push(passage));
    let mut windows: BTreeMap<i64, SpeedStats> = BTreeMap::new();
    for delta in fold(&batch, |_| true) {
        let start = interval.floor(delta.bucket.start().as_millis());
        windows.entry(start).or_default().merge(&delta.stats);
    }
    windows
}

/// Makes a unit that the centre has known for years.
pub(crate) async fn unit(database: &Client, name: &str) {
    let sql = "INSERT INTO device (device, shard, first_seen) VALUES ($1, 0, '2020-01-01Z')";
    database.execute(sql, &[&name]).await.unwrap();
}

/// Says that everything of the unit before this time is counted.
pub(crate) async fn settle(database: &Client, name: &str, final_to_ms: i64) {
    let sql = "INSERT INTO device_status (device_key, final_to)
               SELECT device_key, to_timestamp($2::float8 / 1000) FROM device WHERE device = $1
               ON CONFLICT (device_key) DO UPDATE SET final_to = excluded.final_to";
    #[expect(
        clippy::cast_precision_loss,
        reason = "53 bits are enough for milliseconds"
    )]
    database
        .execute(sql, &[&name, &(final_to_ms as f64)])
        .await
        .unwrap();
}

/// What a unit says of itself.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Said {
    /// When its last heartbeat arrived.
    pub(crate) heartbeat_ms: i64,
    /// Its windows that end by then are final, and its statement stands there.
    pub(crate) final_to_ms: Option<i64>,
    /// Passages that wait, the oldest and the newest of them.
    pub(crate) backlog: Option<(i64, i64, i64)>,
    /// When another spoke under its name.
    pub(crate) cloned_ms: Option<i64>,
}

/// Writes down what the unit says.
pub(crate) async fn say(database: &Client, name: &str, said: &Said) {
    let (passages, oldest, newest) = match said.backlog {
        Some((passages, oldest, newest)) => (passages, Some(oldest), Some(newest)),
        None => (0, None, None),
    };
    let time = |ms: Option<i64>| match ms {
        Some(ms) => format!("to_timestamp({ms} / 1000.0)"),
        None => "NULL".to_owned(),
    };
    let final_to_ms = said.final_to_ms.map(|ms| Interval::FiveMinutes.floor(ms));
    let sql = format!(
        "INSERT INTO device_status (device_key, heartbeat_at, frontier, final_to, cloned_at, \
             backlog_passages, backlog_bytes, backlog_oldest, backlog_newest) \
         SELECT device_key, {}, {}, {}, {}, {passages}, {passages} * 40, {}, {} \
         FROM device WHERE device = '{name}'",
        time(Some(said.heartbeat_ms)),
        time(said.final_to_ms),
        time(final_to_ms),
        time(said.cloned_ms),
        time(oldest),
        time(newest),
    );
    database.batch_execute(&sql).await.unwrap();
}

/// Says how often the windows of the unit that start before this time have changed.
pub(crate) async fn past(database: &Client, name: &str, to_ms: i64, changes: i64) {
    let sql = "INSERT INTO device_status (device_key, past_to, past_changes)
               SELECT device_key, 'epoch'::timestamptz + $2 * interval '1 ms', $3
               FROM device WHERE device = $1
               ON CONFLICT (device_key) DO UPDATE
               SET past_to = excluded.past_to, past_changes = excluded.past_changes";
    #[expect(
        clippy::cast_precision_loss,
        reason = "53 bits are enough for milliseconds"
    )]
    let to_ms = to_ms as f64;
    let params: [&(dyn ToSql + Sync); 3] = [&name, &to_ms, &changes];
    database.execute(sql, &params).await.unwrap();
}

/// Writes the windows of a unit's passages, all three lengths.
pub(crate) async fn store(database: &Client, name: &str, passages: &[Passage]) {
    for interval in Interval::ALL {
        for (start_ms, stats) in windows(passages, interval) {
            put(database, name, interval, start_ms, &stats).await;
        }
    }
}

async fn put(database: &Client, name: &str, interval: Interval, start_ms: i64, stats: &SpeedStats) {
    let sql = format!(
        "INSERT INTO speed_stats_{} (device_key, bucket, n, n_speed, n_moving, violations, sum_ckmh, \
         sumsq_ckmh2, pace_sum_ms_per_km, min_ckmh, max_ckmh, p15_ckmh, p50_ckmh, p85_ckmh, \
         p95_ckmh, hist_lo, hist, class_n, lane_n, lane_n_speed, lane_sum_ckmh, rev, revised) \
         SELECT device_key, to_timestamp($2::float8 / 1000), $3, $4, $5, $6, $7, $8, $9, $10, $11, \
         $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, 1, false FROM device WHERE device = $1",
        interval.word(),
    );
    let int4 = |count: u32| i32::try_from(count).unwrap();
    let int8 = |sum: u64| i64::try_from(sum).unwrap();
    let speed = |speed: Option<Speed>| speed.map(|speed| i32::from(speed.centi_kmh()));
    let trimmed = |counts: &[u32]| -> Vec<i32> {
        let used = counts
            .iter()
            .rposition(|count| *count > 0)
            .map_or(0, |last| last + 1);
        counts[..used].iter().map(|count| int4(*count)).collect()
    };
    let lanes = trimmed(&stats.lane_n).len();
    let lane_sums: Vec<i64> = stats.lane_sum_ckmh[..lanes]
        .iter()
        .map(|sum| int8(*sum))
        .collect();
    let lane_speeds: Vec<i32> = stats.lane_n_speed[..lanes]
        .iter()
        .map(|n| int4(*n))
        .collect();
    let lowest = i16::try_from(stats.histogram.lowest_kmh()).unwrap();
    let percentile = |percent| speed(stats.percentile(percent));
    #[expect(
        clippy::cast_precision_loss,
        reason = "53 bits are enough for milliseconds"
    )]
    let start = start_ms as f64;
    let rows = database
        .execute(
            &sql,
            &[
                &name,
                &start,
                &int4(stats.n),
                &int4(stats.n_speed),
                &int4(stats.n_moving),
                &int4(stats.violations),
                &int8(stats.sum_ckmh),
                &int8(stats.sumsq_ckmh2),
                &int8(stats.pace_sum_ms_per_km),
                &speed(stats.min),
                &speed(stats.max),
                &percentile(15),
                &percentile(50),
                &percentile(85),
                &percentile(95),
                &lowest,
                &trimmed(stats.histogram.counts()),
                &trimmed(&stats.class_n),
                &trimmed(&stats.lane_n),
                &lane_speeds,
                &lane_sums,
            ],
        )
        .await
        .unwrap();
    assert_eq!(rows, 1, "{name} is no unit");
}
