//! `GET /kvfv/{kvfv_id}/avg-speed`.

use aggregator::store::reader::Interval;
use proto::passage::Passage;
use serde_json::{Value, json};
use service::clock;

use crate::centre::Centre;
use crate::recompute::{assert_recomputed, utc};
use crate::traffic::{
    HOUR_MS, MIDNIGHT_MS, MINUTE_MS, Said, passage, past, say, settle, store, traffic, unit,
};

fn path(unit: &str, from_ms: i64, to_ms: i64, interval: Interval) -> String {
    let (from, to) = (utc(from_ms), utc(to_ms));
    format!(
        "/kvfv/{unit}/avg-speed?from={from}&to={to}&interval={}",
        interval.word()
    )
}

#[track_caller]
fn once_written(
    answer: &Value,
    passages: &[Passage],
    time_ms: std::ops::Range<i64>,
    interval: Interval,
) {
    let shown = assert_recomputed(answer, passages, time_ms, interval);
    assert!(shown.iter().all(|window| window["revision"] == 1));
}

#[tokio::test]
async fn every_answer_equals_a_recomputation_from_the_passages() {
    let centre = Centre::start().await;
    let passages = traffic(MIDNIGHT_MS - 7 * HOUR_MS, 60 * 60);
    unit(&centre.database, "KV1").await;
    store(&centre.database, "KV1", &passages).await;
    // Another unit's passages stay out of it.
    unit(&centre.database, "KV2").await;
    store(&centre.database, "KV2", &passages[..50]).await;
    past(&centre.database, "KV1", MIDNIGHT_MS + 10 * HOUR_MS, 3).await;

    let ranges = [
        (-24 * HOUR_MS, 72 * HOUR_MS),
        (0, 24 * HOUR_MS),
        (-7 * HOUR_MS, 17 * HOUR_MS),
        (7 * MINUTE_MS + 13, 24 * HOUR_MS + 7 * MINUTE_MS + 13),
        (-3 * HOUR_MS - 20 * MINUTE_MS, 3 * HOUR_MS + 25 * MINUTE_MS),
        (10 * MINUTE_MS, 25 * MINUTE_MS),
        (HOUR_MS + 1, HOUR_MS + 2),
    ];
    for (from, to) in ranges.map(|(from, to)| (MIDNIGHT_MS + from, MIDNIGHT_MS + to)) {
        for interval in Interval::ALL {
            let answer = centre.get(&path("KV1", from, to, interval)).await;
            assert_eq!(answer.status, 200, "{}", answer.text);
            let again = centre.get(&path("KV1", from, to, interval)).await;
            assert_eq!(answer.text, again.text, "the past from memory");
            once_written(&answer.json(), &passages, from..to, interval);
        }
    }
}

#[tokio::test]
async fn answers_from_memory_stay_right_while_time_moves_on() {
    let centre = Centre::start().await;
    let passages = traffic(MIDNIGHT_MS - 2 * HOUR_MS, 12 * 60);
    unit(&centre.database, "KV1").await;
    store(&centre.database, "KV1", &passages).await;
    for step in 0..30 {
        // By fits and starts: the past behind the question, at its end, and beyond.
        let now = MIDNIGHT_MS + step * 7 * MINUTE_MS;
        past(&centre.database, "KV1", now - (step % 5) * 9 * MINUTE_MS, 0).await;
        for (span, interval) in [
            (2 * HOUR_MS, Interval::FiveMinutes),
            (90 * MINUTE_MS, Interval::FiveMinutes),
            (30 * HOUR_MS, Interval::Hour),
        ] {
            let range = now - span..now;
            let path = path("KV1", range.start, range.end, interval);
            let answer = centre.get(&path).await;
            assert_eq!(answer.status, 200, "{}", answer.text);
            let from = interval.ceil(range.start);
            once_written(&answer.json(), &passages, from..range.end, interval);
        }
    }
}

#[tokio::test]
async fn the_past_is_kept_until_it_changes_and_the_present_is_read_each_time() {
    let centre = Centre::start().await;
    unit(&centre.database, "KV1").await;
    let from = MIDNIGHT_MS;
    let passages: Vec<_> = (0..12)
        .map(|n| passage(from + n * 5 * MINUTE_MS, Some(6_000)))
        .collect();
    store(&centre.database, "KV1", &passages).await;
    past(&centre.database, "KV1", from + 50 * MINUTE_MS, 0).await;
    let path = path("KV1", from, from + 65 * MINUTE_MS, Interval::FiveMinutes);
    let vehicles = async || {
        let answer = centre.get(&path).await.json();
        let of_windows = answer["windows"].as_array().unwrap().iter();
        let of_windows: u64 = of_windows.map(|w| w["vehicles"].as_u64().unwrap()).sum();
        (answer["vehicles"].as_u64().unwrap(), of_windows)
    };
    let add = async |minutes: i64| {
        let sql = "UPDATE speed_stats_5m SET n = n + 100
                   WHERE bucket = 'epoch'::timestamptz + $1 * interval '1 minute'";
        #[expect(clippy::cast_precision_loss, reason = "minutes since 1970")]
        let bucket = (from / MINUTE_MS + minutes) as f64;
        assert_eq!(centre.database.execute(sql, &[&bucket]).await.unwrap(), 1);
    };
    assert_eq!(vehicles().await, (12, 12));
    // As no flush does it: the past changes, and nobody is told.
    add(0).await;
    assert_eq!(vehicles().await.1, 12);
    add(50).await;
    assert_eq!(vehicles().await.1, 112);
    past(&centre.database, "KV1", from + 50 * MINUTE_MS, 1).await;
    assert_eq!(vehicles().await.1, 212);
}

#[tokio::test]
async fn a_loss_that_is_booked_later_makes_the_past_incomplete() {
    let centre = Centre::start().await;
    unit(&centre.database, "KV1").await;
    let from = MIDNIGHT_MS;
    store(&centre.database, "KV1", &[passage(from, Some(6_000))]).await;
    past(&centre.database, "KV1", from + 50 * MINUTE_MS, 0).await;
    let path = path("KV1", from, from + HOUR_MS, Interval::FiveMinutes);
    let incomplete = async || {
        let answer = centre.get(&path).await.json();
        let windows = answer["windows"].as_array().unwrap();
        let lost: Vec<usize> = (0..windows.len())
            .filter(|place| windows[*place]["complete"] == false)
            .collect();
        assert_eq!(answer["complete"], lost.is_empty());
        lost
    };
    assert_eq!(incomplete().await, Vec::<usize>::new());
    let loss = "INSERT INTO loss_ledger (device_key, stream_key, first_seq, last_seq, scope, reason, \
                event_min, event_max) SELECT device_key, 1, 1, 10, 'all', 'quota', \
                '2025-04-05T00:06:00Z', '2025-04-05T00:11:00Z' FROM device";
    centre.database.batch_execute(loss).await.unwrap();
    assert_eq!(incomplete().await, [1, 2]);
    let found = "UPDATE loss_ledger SET recovered = 10";
    centre.database.batch_execute(found).await.unwrap();
    assert_eq!(incomplete().await, Vec::<usize>::new());
}

#[tokio::test]
async fn an_answer_has_this_form() {
    let centre = Centre::start().await;
    unit(&centre.database, "KV12345").await;
    let at = MIDNIGHT_MS + 10 * HOUR_MS;
    let passages = [
        Passage {
            violation: true,
            ..passage(at, Some(12_000))
        },
        passage(at + 1, Some(6_000)),
        passage(at + 2, None),
        passage(at + 5 * MINUTE_MS, Some(4_000)),
    ];
    store(&centre.database, "KV12345", &passages).await;
    settle(&centre.database, "KV12345", at + 5 * MINUTE_MS).await;
    let interval = Interval::FiveMinutes;
    let answer = centre
        .get(&path("KV12345", at, at + 10 * MINUTE_MS, interval))
        .await;
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("cache-control"), Some("max-age=1"));
    let expected = json!({
        "kvfv_id": "KV12345",
        "from": "2025-04-05T10:00:00Z",
        "to": "2025-04-05T10:10:00Z",
        "interval": "5m",
        "avg_speed": 73.33,
        "space_mean_speed": 60.0,
        "vehicles": 4,
        "p50": 60.5,
        "p85": 120.0,
        "state": "partial",
        "complete": true,
        "revision": 2,
        "final_to": "2025-04-05T10:05:00Z",
        "reasons": [{"kind": "open"}],
        "windows": [
            {
                "start": "2025-04-05T10:00:00Z",
                "end": "2025-04-05T10:05:00Z",
                "avg_speed": 90.0,
                "space_mean_speed": 80.0,
                "vehicles": 3,
                "p50": 61.0,
                "p85": 120.0,
                "min_speed": 60.0,
                "max_speed": 120.0,
                "std_dev": 42.43,
                "violations": 1,
                "state": "final",
                "complete": true,
                "revision": 1
            },
            {
                "start": "2025-04-05T10:05:00Z",
                "end": "2025-04-05T10:10:00Z",
                "avg_speed": 40.0,
                "space_mean_speed": 40.0,
                "vehicles": 1,
                "p50": 40.0,
                "p85": 40.0,
                "min_speed": 40.0,
                "max_speed": 40.0,
                "std_dev": null,
                "violations": 0,
                "state": "partial",
                "reasons": ["open"],
                "complete": true,
                "revision": 1
            }
        ]
    });
    assert_eq!(answer.json(), expected);
}

#[tokio::test]
async fn adjoining_ranges_share_no_window_and_miss_none() {
    let centre = Centre::start().await;
    unit(&centre.database, "KV1").await;
    let starts = [0, 5, 10, 15].map(|minute| MIDNIGHT_MS + minute * MINUTE_MS);
    store(
        &centre.database,
        "KV1",
        &starts.map(|start| passage(start, Some(5_000))),
    )
    .await;
    let seven = MIDNIGHT_MS + 7 * MINUTE_MS;
    let mut seen = Vec::new();
    for (from, to) in [(MIDNIGHT_MS, seven), (seven, MIDNIGHT_MS + 16 * MINUTE_MS)] {
        let answer = centre
            .get(&path("KV1", from, to, Interval::FiveMinutes))
            .await
            .json();
        seen.extend(
            answer["windows"]
                .as_array()
                .unwrap()
                .iter()
                .map(|window| window["start"].clone()),
        );
    }
    assert_eq!(seen, starts.map(|start| Value::from(utc(start))));
}

#[tokio::test]
async fn a_range_may_be_written_in_any_offset() {
    let centre = Centre::start().await;
    unit(&centre.database, "KV1").await;
    store(&centre.database, "KV1", &traffic(MIDNIGHT_MS, 120)).await;
    let ask = async |from: &str, to: &str| {
        let answer = centre
            .get(&format!("/kvfv/KV1/avg-speed?from={from}&to={to}"))
            .await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.json()
    };
    let utc = ask("2025-04-05T00:00:00Z", "2025-04-05T01:00:00Z").await;
    assert_ne!(utc["vehicles"], 0);
    let moscow = ask(
        "2025-04-05T03:00:00%2B03:00",
        "2025-04-05T04:00:00.000%2B03:00",
    )
    .await;
    let unescaped = ask("2025-04-05T03:00:00+03:00", "2025-04-04T21:00:00-04:00").await;
    assert_eq!(utc, moscow);
    assert_eq!(utc, unescaped);
}

#[tokio::test]
async fn a_window_is_partial_then_final_then_revised() {
    let centre = Centre::start().await;
    unit(&centre.database, "KV1").await;
    store(
        &centre.database,
        "KV1",
        &[passage(MIDNIGHT_MS, Some(5_000))],
    )
    .await;
    let end = MIDNIGHT_MS + 5 * MINUTE_MS;
    let state = async || {
        let answer = centre
            .get(&path("KV1", MIDNIGHT_MS, end, Interval::FiveMinutes))
            .await
            .json();
        assert_eq!(answer["state"], answer["windows"][0]["state"]);
        let view = centre.value("SELECT state FROM v_speed_5m").await;
        assert_eq!(answer["state"].as_str(), view.as_deref());
        view.unwrap()
    };
    assert_eq!(state().await, "partial");
    settle(&centre.database, "KV1", end - MINUTE_MS).await;
    assert_eq!(state().await, "partial");
    settle(&centre.database, "KV1", end).await;
    assert_eq!(state().await, "final");
    let revise = "UPDATE speed_stats_5m SET revised = true, rev = rev + 1";
    centre.database.batch_execute(revise).await.unwrap();
    assert_eq!(state().await, "revised");
}

#[tokio::test]
async fn a_partial_window_says_why_and_a_final_one_does_not() {
    let centre = Centre::start().await;
    unit(&centre.database, "KV1").await;
    let now = clock::wall_millis();
    let hour = Interval::Hour.floor(now);
    // Offline for two hours, with passages of the hour before still at the unit.
    let said = Said {
        heartbeat_ms: hour - 2 * HOUR_MS,
        final_to_ms: Some(hour - 4 * HOUR_MS),
        backlog: Some((500, hour - 3 * HOUR_MS, hour - 2 * HOUR_MS - 1)),
        ..Said::default()
    };
    say(&centre.database, "KV1", &said).await;
    let answer = centre
        .get(&path("KV1", hour - 5 * HOUR_MS, hour, Interval::Hour))
        .await
        .json();
    let reasons: Vec<&Value> = answer["windows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|window| &window["reasons"])
        .collect();
    let expected = [
        &Value::Null,
        &json!(["unit_offline"]),
        &json!(["unit_offline", "backlog"]),
        &json!(["open", "unit_offline"]),
        &json!(["open", "unit_offline"]),
    ];
    assert_eq!(reasons, expected);
    let expected = json!([
        {"kind": "open"},
        {"kind": "unit_offline", "since": utc(hour - 2 * HOUR_MS)},
        {"kind": "backlog", "passages": 500, "oldest": utc(hour - 3 * HOUR_MS),
         "newest": utc(hour - 2 * HOUR_MS - 1)},
    ]);
    assert_eq!(answer["reasons"], expected);
    assert_eq!(answer["final_to"], utc(hour - 4 * HOUR_MS));
}

#[tokio::test]
async fn a_known_unit_without_traffic_counts_zero() {
    let centre = Centre::start().await;
    unit(&centre.database, "KV1").await;
    let to = MIDNIGHT_MS + 10 * MINUTE_MS;
    settle(&centre.database, "KV1", to).await;
    let answer = centre
        .get(&path("KV1", MIDNIGHT_MS, to, Interval::FiveMinutes))
        .await
        .json();
    assert_eq!(answer["vehicles"], 0);
    assert_eq!(answer["avg_speed"], Value::Null);
    assert_eq!(answer["p85"], Value::Null);
    assert_eq!(answer["state"], "final");
    let windows = answer["windows"].as_array().unwrap();
    assert_eq!(windows.len(), 2);
    assert!(
        windows
            .iter()
            .all(|window| window["vehicles"] == 0 && window["revision"] == 0)
    );
}
