//! `GET /avg-speed`: many units together.

use aggregator::store::reader::Interval;
use serde_json::json;
use service::clock;

use crate::centre::Centre;
use crate::recompute::{assert_recomputed, utc};
use crate::traffic::{
    HOUR_MS, MIDNIGHT_MS, MINUTE_MS, Said, passage, say, settle, store, traffic, unit,
};

fn path(units: &str, from_ms: i64, to_ms: i64, interval: Interval) -> String {
    let (from, to) = (utc(from_ms), utc(to_ms));
    let word = interval.word();
    format!("/avg-speed?kvfv={units}&from={from}&to={to}&interval={word}")
}

#[tokio::test]
async fn an_answer_over_units_equals_a_recomputation_from_all_their_passages() {
    let centre = Centre::start().await;
    let mut all = Vec::new();
    // Different passages, with windows that only one unit has.
    for (name, shift_ms, minutes) in [("KV1", 0, 300), ("KV2", 17_001, 90), ("KV3", 33_333, 600)] {
        let passages = traffic(MIDNIGHT_MS + shift_ms, minutes);
        unit(&centre.database, name).await;
        store(&centre.database, name, &passages).await;
        all.extend(passages);
    }
    // One that is not asked for stays out of it.
    unit(&centre.database, "KV4").await;
    store(&centre.database, "KV4", &traffic(MIDNIGHT_MS, 60)).await;

    let (from, to) = (MIDNIGHT_MS, MIDNIGHT_MS + 12 * HOUR_MS);
    for interval in Interval::ALL {
        let answer = centre
            .get(&path("KV3,KV1,KV2", from, to, interval))
            .await
            .json();
        assert_eq!(answer["kvfv"], json!(["KV1", "KV2", "KV3"]));
        let shown = assert_recomputed(&answer, &all, from..to, interval);
        assert!(shown.iter().all(|window| window["units"] == 3));
    }
}

#[tokio::test]
async fn an_answer_over_units_has_this_form() {
    let centre = Centre::start().await;
    let at = MIDNIGHT_MS + 10 * HOUR_MS;
    for (name, centi) in [("KV1", 12_000), ("KV2", 6_000)] {
        unit(&centre.database, name).await;
        store(&centre.database, name, &[passage(at, Some(centi))]).await;
        settle(&centre.database, name, at + 5 * MINUTE_MS).await;
    }
    let interval = Interval::FiveMinutes;
    let answer = centre
        .get(&path("KV2,KV1,KV9", at, at + 5 * MINUTE_MS, interval))
        .await;
    assert_eq!(answer.header("cache-control"), Some("max-age=1"));
    let expected = json!({
        "kvfv": ["KV1", "KV2"],
        "unknown": ["KV9"],
        "from": "2025-04-05T10:00:00Z",
        "to": "2025-04-05T10:05:00Z",
        "interval": "5m",
        "avg_speed": 90.0,
        "space_mean_speed": 80.0,
        "vehicles": 2,
        "p50": 61.0,
        "p85": 120.0,
        "state": "final",
        "complete": true,
        "revision": 2,
        "final_share": 1.0,
        "unit_windows": 2,
        "unit_windows_final": 2,
        "behind": [],
        "windows": [{
            "start": "2025-04-05T10:00:00Z",
            "end": "2025-04-05T10:05:00Z",
            "avg_speed": 90.0,
            "space_mean_speed": 80.0,
            "vehicles": 2,
            "p50": 61.0,
            "p85": 120.0,
            "min_speed": 60.0,
            "max_speed": 120.0,
            "std_dev": 42.43,
            "violations": 0,
            "state": "final",
            "complete": true,
            "revision": 2,
            "units": 2,
            "units_final": 2
        }]
    });
    assert_eq!(answer.json(), expected);
}

#[tokio::test]
async fn a_unit_that_is_silent_for_hours_holds_back_no_other() {
    let centre = Centre::start().await;
    let now = clock::wall_millis();
    let hour = Interval::Hour.floor(now) - 4 * HOUR_MS;
    for name in ["KV-quiet", "KV-well"] {
        unit(&centre.database, name).await;
        let starts = [0, 1, 2].map(|hours| passage(hour + hours * HOUR_MS, Some(8_000)));
        store(&centre.database, name, &starts).await;
    }
    let well = Said {
        heartbeat_ms: now,
        final_to_ms: Some(now),
        ..Said::default()
    };
    let quiet = Said {
        heartbeat_ms: hour,
        final_to_ms: Some(hour + HOUR_MS),
        ..Said::default()
    };
    say(&centre.database, "KV-well", &well).await;
    say(&centre.database, "KV-quiet", &quiet).await;

    let to = hour + 3 * HOUR_MS;
    let interval = Interval::Hour;
    let states = async |path: String| {
        let answer = centre.get(&path).await.json();
        let states: Vec<String> = answer["windows"]
            .as_array()
            .unwrap()
            .iter()
            .map(|window| window["state"].as_str().unwrap().to_owned())
            .collect();
        (answer, states)
    };
    let single = |name: &str| {
        let (from, to) = (utc(hour), utc(to));
        format!("/kvfv/{name}/avg-speed?from={from}&to={to}&interval=1h")
    };
    let (answer, each) = states(single("KV-well")).await;
    assert_eq!(each, ["final", "final", "final"]);
    assert_eq!(answer["state"], "final");
    let (_, each) = states(single("KV-quiet")).await;
    assert_eq!(each, ["final", "partial", "partial"]);

    let (answer, each) = states(path("KV-quiet,KV-well", hour, to, interval)).await;
    assert_eq!(each, ["final", "partial", "partial"]);
    assert_eq!(answer["unit_windows"], 6);
    assert_eq!(answer["unit_windows_final"], 4);
    let behind = json!([{
        "kvfv_id": "KV-quiet",
        "final_to": utc(hour + HOUR_MS),
        "reasons": [{"kind": "unit_offline", "since": utc(hour)}],
    }]);
    assert_eq!(answer["behind"], behind);
    let sql = "SELECT string_agg(device || ' ' || state, ', ' ORDER BY device, window_start)
               FROM v_speed_1h WHERE window_start >= now() - interval '1 day'";
    let expected = "KV-quiet final, KV-quiet partial, KV-quiet partial, \
                    KV-well final, KV-well final, KV-well final";
    assert_eq!(centre.value(sql).await.as_deref(), Some(expected));
}

#[tokio::test]
async fn units_that_are_all_unknown_are_no_answer() {
    let centre = Centre::start().await;
    let answer = centre.get("/avg-speed?kvfv=KV1,KV2").await;
    assert_eq!(answer.status, 404);
    assert_eq!(answer.json()["kvfv"], json!(["KV1", "KV2"]));
}
