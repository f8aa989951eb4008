//! Against a real PostgreSQL.

use proto::device::DeviceId;
use proto::passage::Passage;
use proto::window::BUCKET_MS;
use service::clock::wall_millis;

use super::{Report, ReprocessError, Request, reprocess};
use crate::commit::database_tests::Base;
use crate::commit::owner_tests::failing;
use crate::commit::side_table::as_json;
use crate::config::{RawConfig, WindowsConfig};
use crate::testing::passage;
use crate::window::lateness::Rejection;

const UNIT: &str = "KV1";
const DAY_MS: i64 = 86_400_000;

const VEHICLES: &str = "SELECT coalesce(sum(n), 0)::int8 FROM speed_stats_5m";
const SIDE: &str = "SELECT count(*) FROM rejected_passage";
const RAW: &str = "SELECT count(*) FROM passage";

/// A unit whose passages all came too late.
async fn unit() -> Base {
    let base = Base::new().await;
    let device = "INSERT INTO device (device, shard) VALUES ($1, 0)";
    base.client.execute(device, &[&UNIT]).await.unwrap();
    base
}

/// Midnight UTC so many days ago.
fn midnight(days_ago: i64) -> i64 {
    let now = wall_millis();
    now - now.rem_euclid(DAY_MS) - days_ago * DAY_MS
}

fn passages(from_ms: i64, count: i64) -> Vec<Passage> {
    (0..count)
        .map(|n| passage(from_ms + n * 61_000, 5_000 + u16::try_from(n).unwrap()))
        .collect()
}

/// Puts passages into the side table, numbered from `first` on.
async fn reject(base: &Base, first: i64, passages: &[Passage], reason: Rejection, counted: bool) {
    let sql = "INSERT INTO rejected_passage
                   (device_key, stream_key, seq, event_time, reason, counted, passage)
               SELECT device_key, 1, $2, to_timestamp($3::text::numeric / 1000), $4, $5, $6::text::jsonb
               FROM device WHERE device = $1";
    for (seq, passage) in (first..).zip(passages) {
        let ms = passage.event_time.as_millis().to_string();
        let json = as_json(passage).to_string();
        base.client
            .execute(sql, &[&UNIT, &seq, &ms, &reason.word(), &counted, &json])
            .await
            .unwrap();
    }
}

fn request() -> Request {
    Request {
        device: DeviceId::new(UNIT).unwrap(),
        from_ms: None,
        to_ms: None,
        reason: None,
        dry_run: false,
    }
}

async fn run(base: &Base, request: &Request) -> Result<Report, ReprocessError> {
    let (windows, raw) = (WindowsConfig::default(), RawConfig::default());
    reprocess(&base.target, &windows, &raw, request).await
}

#[tokio::test]
async fn a_dry_run_says_what_the_run_then_does() {
    let base = unit().await;
    // Beyond the horizon and beyond the raw retention; within the raw retention.
    reject(
        &base,
        1,
        &passages(midnight(100), 50),
        Rejection::TooOld,
        false,
    )
    .await;
    reject(
        &base,
        51,
        &passages(midnight(70), 30),
        Rejection::TooOld,
        false,
    )
    .await;
    let settle = "INSERT INTO device_status (device_key, final_to)
                  SELECT device_key, date_trunc('day', now() - interval '90 days') FROM device";
    base.client.execute(settle, &[]).await.unwrap();
    let dry = Request {
        dry_run: true,
        ..request()
    };
    let said = run(&base, &dry).await.unwrap();
    assert_eq!((said.counted, said.raw_rows, said.days.len()), (80, 30, 2));
    for untouched in [VEHICLES, RAW] {
        assert_eq!(base.number(untouched).await, 0, "{untouched}");
    }
    assert_eq!(base.number(SIDE).await, 80);

    let done = run(&base, &request()).await.unwrap();
    assert_eq!(done.days, said.days);
    for (left, expected) in [(VEHICLES, 80), (RAW, 30), (SIDE, 0)] {
        assert_eq!(base.number(left).await, expected, "{left}");
    }
    for length in ["1h", "24h"] {
        let vehicles = VEHICLES.replace("5m", length);
        assert_eq!(base.number(&vehicles).await, 80, "{length}");
    }
    let revised = "SELECT count(*) FROM speed_stats_24h WHERE revised";
    assert_eq!(base.number(revised).await, 1, "what was final is revised");
    let again = run(&base, &request()).await.unwrap();
    assert_eq!((again.counted, again.days.len()), (0, 0));
}

#[tokio::test]
async fn only_what_the_request_names_is_folded_in() {
    let base = unit().await;
    reject(
        &base,
        1,
        &passages(midnight(100), 10),
        Rejection::TooOld,
        false,
    )
    .await;
    reject(
        &base,
        11,
        &passages(midnight(99), 10),
        Rejection::TooOld,
        false,
    )
    .await;
    reject(
        &base,
        21,
        &passages(midnight(99), 10),
        Rejection::WindowFull,
        false,
    )
    .await;
    let named = Request {
        from_ms: Some(midnight(99)),
        to_ms: Some(midnight(98)),
        reason: Some(Rejection::TooOld),
        ..request()
    };
    assert_eq!(run(&base, &named).await.unwrap().counted, 10);
    let gone = "SELECT count(*) FROM rejected_passage WHERE seq BETWEEN 11 AND 20";
    assert_eq!((base.number(gone).await, base.number(SIDE).await), (0, 20));
    let stranger = Request {
        device: DeviceId::new("KV9").unwrap(),
        ..request()
    };
    let error = run(&base, &stranger).await.unwrap_err();
    assert!(matches!(error, ReprocessError::UnknownUnit(_)), "{error}");
}

#[tokio::test]
async fn what_a_summary_has_counted_is_not_counted_again() {
    let base = unit().await;
    reject(
        &base,
        1,
        &passages(midnight(70), 10),
        Rejection::TooOld,
        true,
    )
    .await;
    let report = run(&base, &request()).await.unwrap();
    assert_eq!((report.counted, report.counted_before), (0, 10));
    assert_eq!(base.number(VEHICLES).await, 0);
    assert_eq!(base.number(RAW).await, 10);
    assert_eq!(base.number(SIDE).await, 0);
}

#[tokio::test]
async fn what_still_has_no_place_stays() {
    let base = unit().await;
    let full = midnight(70);
    reject(&base, 1, &passages(full, 10), Rejection::WindowFull, false).await;
    reject(
        &base,
        11,
        &passages(wall_millis() + DAY_MS, 5),
        Rejection::TooNew,
        false,
    )
    .await;
    // Its first window has room for two more.
    let window = "INSERT INTO speed_stats_LENGTH (device_key, bucket, n, n_speed, n_moving,
            violations, sum_ckmh, sumsq_ckmh2, pace_sum_ms_per_km, hist_lo, hist, class_n, lane_n,
            lane_n_speed, lane_sum_ckmh, rev, revised)
        SELECT device_key, to_timestamp($1::text::numeric / 1000), 1048574, 0, 0, 0, 0, 0, 0, 0,
            '{}', '{}', '{}', '{}', '{}', 1, false FROM device";
    for length in ["5m", "1h", "24h"] {
        let sql = window.replace("LENGTH", length);
        base.client
            .execute(&sql, &[&full.to_string()])
            .await
            .unwrap();
    }
    let report = run(&base, &request()).await.unwrap();
    assert_eq!(report.counted, 7, "two of the five of the first window");
    let left: Vec<_> = report.left.into_iter().collect();
    assert_eq!(left, [("too_new", 5), ("window_full", 3)]);
    assert_eq!(base.number(SIDE).await, 8);
    assert_eq!(BUCKET_MS / 61_000, 4, "five passages fall into it");
}

#[tokio::test]
async fn a_day_of_more_passages_than_a_transaction_takes_is_folded_in_two() {
    let base = unit().await;
    let day = "INSERT INTO rejected_passage
            (device_key, stream_key, seq, event_time, reason, counted, passage)
        SELECT device_key, 1, n, to_timestamp($1::text::numeric / 1000 + n), 'too_old', false,
            $2::text::jsonb
        FROM device, generate_series(1, 10003) AS n";
    let json = as_json(&passage(0, 5_000)).to_string();
    let from = midnight(70).to_string();
    base.client.execute(day, &[&from, &json]).await.unwrap();
    let report = run(&base, &request()).await.unwrap();
    let parts: Vec<u64> = report.days.iter().map(|day| day.counted).collect();
    assert_eq!(parts, [10_000, 3]);
    for (left, expected) in [(VEHICLES, 10_003), (SIDE, 0)] {
        assert_eq!(base.number(left).await, expected, "{left}");
    }
    // 34 windows in the first transaction.
    let words = report.to_string();
    assert_eq!(words.matches(" → ").count(), 12 + 1, "{words}");
    assert!(words.contains("and 22 more windows"), "{words}");
}

#[tokio::test]
async fn a_transaction_that_is_overtaken_too_often_ends_the_run_and_the_next_goes_on() {
    for (failures, ends) in [(20, false), (21, true)] {
        let base = unit().await;
        let late = passages(midnight(70), 10);
        reject(&base, 1, &late, Rejection::TooOld, false).await;
        failing(&base, "speed_stats_5m", failures).await;
        let first = run(&base, &request()).await;
        assert_eq!(first.is_err(), ends, "{first:?}");
        let again = run(&base, &request()).await.unwrap();
        assert_eq!(again.counted, if ends { 10 } else { 0 });
        assert_eq!(base.number(VEHICLES).await, 10);
        assert_eq!(base.number(SIDE).await, 0);
    }
}

#[tokio::test]
async fn two_runs_at_once_count_everything_once() {
    let base = unit().await;
    for day in 0..6 {
        let first = 1 + day * 100;
        reject(
            &base,
            first,
            &passages(midnight(80 + day), 100),
            Rejection::TooOld,
            false,
        )
        .await;
    }
    let request = request();
    let (one, two) = tokio::join!(run(&base, &request), run(&base, &request));
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!(one.counted + two.counted, 600);
    for (left, expected) in [(VEHICLES, 600), (SIDE, 0)] {
        assert_eq!(base.number(left).await, expected, "{left}");
    }
}

#[tokio::test]
async fn a_run_whose_connection_dies_leaves_every_passage_in_one_place() {
    let base = unit().await;
    for day in 0..4 {
        let first = 1 + day * 100;
        reject(
            &base,
            first,
            &passages(midnight(80 + day), 100),
            Rejection::TooOld,
            false,
        )
        .await;
    }
    let sessions = "application_name = 'verst-reprocess' AND datname = current_database()";
    let alive = format!("SELECT count(*) FROM pg_stat_activity WHERE {sessions}");
    let kill = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {sessions}");
    let mut failures = 0;
    // A kill after every statement of ours, after every second, every fourth …
    for pause in (0..).map(|doublings| 1_u32 << doublings) {
        let request = request();
        let killer = async {
            loop {
                for _ in 0..pause {
                    base.number("SELECT 1::int8").await;
                }
                base.client.execute(&kill, &[]).await.unwrap();
            }
        };
        let done = tokio::select! {
            done = run(&base, &request) => done,
            () = killer => unreachable!("the killer never ends"),
        };
        while base.number(&alive).await > 0 {}
        let sum = base.number(VEHICLES).await + base.number(SIDE).await;
        assert_eq!(sum, 400, "killed after every {pause} statements");
        match done {
            Ok(_) => break,
            Err(_) => failures += 1,
        }
    }
    assert!(failures > 0, "nothing was killed in time");
    assert_eq!(base.number(SIDE).await, 0);
}
