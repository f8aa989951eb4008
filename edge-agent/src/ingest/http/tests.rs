use std::path::Path;

use proto::{DeviceId, EventTime};
use serde_json::{Value, json};

use super::*;
use crate::buffer::{BufferSettings, QuotaPolicy};
use crate::clock::{Monotonic, wall};
use crate::ingest::plates::PlatePolicy;

const GOOD: &str = r#"{"timestamp":"2025-04-05T10:15:30Z","vehicle_speed":85.2}"#;
const BAD: &str = r#"{"timestamp":"2025-04-05T10:15:30Z","lane":99}"#;

fn door(directory: &Path, settings: IngestSettings, quota_bytes: u64) -> Door {
    let clock = Clock::new(Monotonic::start());
    door_by(clock, directory, settings, quota_bytes)
}

fn door_by(clock: Clock, directory: &Path, settings: IngestSettings, quota_bytes: u64) -> Door {
    let buffer = BufferSettings {
        device: DeviceId::new("KV1").unwrap(),
        directory: directory.to_owned(),
        quota_bytes,
        free_floor_bytes: 0,
        policy: QuotaPolicy::RefuseNew,
        linger: std::time::Duration::ZERO,
        open_timeout: std::time::Duration::from_secs(60),
    };
    let (buffer, owner) = Buffer::open(&buffer).unwrap();
    std::thread::spawn(move || owner.run());
    let rules = Rules {
        device: DeviceId::new("KV1").unwrap(),
        plates: PlatePolicy::Kept,
        future_ms_max: 300_000,
    };
    Door::new(buffer, rules, clock, settings)
}

async fn post(door: &Door, media: &str, body: impl Into<Body>) -> (StatusCode, Value) {
    let request = Request::post("/v1/passages")
        .header("content-type", media)
        .body(body.into())
        .unwrap();
    let response = take(State(door.clone()), request).await;
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap())
}

fn small() -> IngestSettings {
    IngestSettings {
        body_bytes_max: 4_096,
        items_max: 5,
        in_flight_bytes_max: 8_192,
    }
}

#[tokio::test]
async fn a_unit_in_1970_takes_the_passages_of_a_camera_that_knows_the_time() {
    let place = tempfile::tempdir().unwrap();
    let clock = Clock::over(|| EventTime::from_millis(0), Monotonic::start());
    let door = door_by(clock, place.path(), small(), 1 << 20);
    let (status, answer) = post(&door, "application/json", GOOD).await;
    assert_eq!((status, &answer["accepted"]), (StatusCode::OK, &json!(1)));
}

#[tokio::test]
async fn what_lies_ahead_of_both_clocks_is_refused_and_what_is_dated_by_the_units_is_not() {
    let lost = || EventTime::from_millis(0);
    let years_ahead = || EventTime::from_millis(wall().as_millis() * 2);
    let clocks: [(fn() -> EventTime, StatusCode); 2] = [
        (lost, StatusCode::UNPROCESSABLE_ENTITY),
        (years_ahead, StatusCode::OK),
    ];
    let ahead = r#"{"timestamp":"2079-01-01T00:00:00Z"}"#;
    for (shown, judged) in clocks {
        let place = tempfile::tempdir().unwrap();
        let clock = Clock::over(shown, Monotonic::start());
        let door = door_by(clock.clone(), place.path(), small(), 1 << 20);
        let (status, _) = post(&door, "application/json", ahead).await;
        assert_eq!(status, StatusCode::OK, "nobody knows better");
        clock.corrected(Some(wall()));
        let (status, answer) = post(&door, "application/json", ahead).await;
        assert_eq!(status, judged, "{answer}");
        let (status, answer) = post(&door, "application/json", GOOD).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
    }
}

#[tokio::test]
async fn objects_arrays_and_lines_are_taken_and_are_in_the_buffer() {
    let place = tempfile::tempdir().unwrap();
    let door = door(place.path(), small(), 1 << 20);
    let one = json!({"accepted": 1, "duplicates": 0, "rejected": 0, "errors": []});
    let (status, answer) = post(&door, "application/json", GOOD).await;
    assert_eq!((status, answer), (StatusCode::OK, one));
    let (_, answer) = post(&door, "application/json", format!("[{GOOD},{GOOD}]")).await;
    assert_eq!(answer["accepted"], 2);
    let (_, answer) = post(
        &door,
        "application/x-ndjson; charset=utf-8",
        format!("{GOOD}\n{GOOD}\n"),
    )
    .await;
    assert_eq!(answer["accepted"], 2);
    assert_eq!(door.buffer.state().borrow().unsent.passages, 5);
    let (status, answer) = post(&door, "application/json", "[]").await;
    assert_eq!((status, &answer["accepted"]), (StatusCode::OK, &json!(0)));
}

#[tokio::test]
async fn errors_beyond_those_that_are_listed_are_counted() {
    let place = tempfile::tempdir().unwrap();
    let settings = IngestSettings {
        body_bytes_max: 1 << 20,
        items_max: 1_000,
        in_flight_bytes_max: 1 << 20,
    };
    let door = door(place.path(), settings, 1 << 20);
    for bad in [ERRORS_SHOWN_MAX, ERRORS_SHOWN_MAX + 3] {
        let body = [GOOD].into_iter().chain(std::iter::repeat_n(BAD, bad));
        let body = body.collect::<Vec<_>>().join("\n");
        let (status, answer) = post(&door, "application/x-ndjson", body).await;
        assert_eq!((status, &answer["rejected"]), (StatusCode::OK, &json!(bad)));
        let listed = answer["errors"].as_array().unwrap();
        assert_eq!(listed.len(), ERRORS_SHOWN_MAX);
    }
}

#[tokio::test]
async fn bad_items_do_not_cost_the_good_ones() {
    let place = tempfile::tempdir().unwrap();
    let door = door(place.path(), small(), 1 << 20);
    let body = format!(r#"[{GOOD},{BAD},{{"vehicle_speed":NaN}},{GOOD}]"#);
    let (status, answer) = post(&door, "application/json", body).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(
        (&answer["accepted"], &answer["rejected"]),
        (&json!(2), &json!(2))
    );
    assert_eq!(
        answer["errors"][0],
        json!({
            "index": 1, "field": "lane", "value": "99", "problem": "is out of range",
            "limit": "a whole number from 0 to 15",
        })
    );
    assert_eq!(answer["errors"][1]["index"], 2);
    let (status, answer) = post(&door, "application/x-ndjson", format!("{GOOD}\n{{oops\n")).await;
    assert_eq!((status, &answer["rejected"]), (StatusCode::OK, &json!(1)));
    let counters = door.counters();
    assert_eq!(counters.items.load(Ordering::Relaxed), 6);
    assert_eq!(counters.accepted.load(Ordering::Relaxed), 3);
    assert_eq!(counters.rejected.load(Ordering::Relaxed), 3);
    assert!(counters.last_post_ms.load(Ordering::Relaxed) > 0);
}

#[tokio::test]
async fn a_retry_with_event_ids_counts_once() {
    let place = tempfile::tempdir().unwrap();
    let door = door(place.path(), small(), 1 << 20);
    let body = r#"[{"timestamp":"2025-04-05T10:15:30Z","event_id":"a"},{"timestamp":"2025-04-05T10:15:30Z","event_id":"b"}]"#;
    let (_, answer) = post(&door, "application/json", body).await;
    assert_eq!(
        (&answer["accepted"], &answer["duplicates"]),
        (&json!(2), &json!(0))
    );
    let (_, answer) = post(&door, "application/json", body).await;
    assert_eq!(
        (&answer["accepted"], &answer["duplicates"]),
        (&json!(0), &json!(2))
    );
}

#[tokio::test]
async fn requests_beyond_a_limit_are_refused_with_the_limit() {
    let place = tempfile::tempdir().unwrap();
    let door = door(place.path(), small(), 1 << 20);
    let many = format!("[{}]", [GOOD; 6].join(","));
    let large = " ".repeat(5_000);
    for (media, body, status, slug) in [
        ("text/csv", GOOD, 415, "media-type"),
        ("application/json", "speed", 400, "not-json"),
        ("application/json", "", 400, "not-json"),
        ("application/json", "[1,2", 400, "not-json"),
        ("application/json", BAD, 422, "nothing-accepted"),
        ("application/json", many.as_str(), 413, "too-many-items"),
        ("application/json", large.as_str(), 413, "body-too-large"),
    ] {
        let (found, problem) = post(&door, media, body.to_owned()).await;
        assert_eq!(found.as_u16(), status, "{problem}");
        let uri = format!("https://verst.example/problems/{slug}");
        assert_eq!(
            (&problem["type"], &problem["status"]),
            (&json!(uri), &json!(status))
        );
    }
    let (_, problem) = post(&door, "application/json", vec![b'[', 0xff, b']']).await;
    assert_eq!(problem["detail"], "body is not UTF-8 from byte 1 on");
    let (_, problem) = post(&door, "application/json", BAD).await;
    assert_eq!(
        problem["detail"],
        "all 1 items were rejected; item 0: lane 99 is out of range, allowed is a whole number from 0 to 15"
    );
}

#[tokio::test]
async fn requests_beyond_the_bytes_in_flight_are_told_to_come_back() {
    let place = tempfile::tempdir().unwrap();
    let door = door(place.path(), small(), 1 << 20);
    let held = door.enter(8_000).unwrap();
    let (status, problem) = post(&door, "application/json", GOOD).await;
    assert_eq!(
        (status.as_u16(), &problem["limit_bytes"]),
        (503, &json!(8_192))
    );
    drop(held);
    assert_eq!(
        post(&door, "application/json", GOOD).await.0,
        StatusCode::OK
    );
}

#[tokio::test]
async fn a_full_buffer_that_refuses_is_429() {
    let place = tempfile::tempdir().unwrap();
    let door = door(place.path(), small(), 100);
    let mut last = StatusCode::OK;
    for _ in 0..10 {
        last = post(&door, "application/json", GOOD).await.0;
    }
    assert_eq!(last, StatusCode::TOO_MANY_REQUESTS);
    let counters = door.counters();
    let items = counters.items.load(Ordering::Relaxed);
    let refused = counters.refused.load(Ordering::Relaxed);
    assert_eq!(items, counters.accepted.load(Ordering::Relaxed) + refused);
}
