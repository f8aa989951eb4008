//! `as_of`: the answer of another time.

use aggregator::api::utc::Utc;
use aggregator::store::reader::Interval;
use proto::passage::Passage;
use serde_json::{Value, json};

use crate::centre::Centre;
use crate::traffic::{HOUR_MS, MIDNIGHT_MS, MINUTE_MS, passage, settle, store, traffic, unit};

const DAY: &str = "/kvfv/KV1/avg-speed?from=2025-04-05T00:00:00Z&to=2025-04-06T00:00:00Z";

/// A centre that knows a day of a unit.
async fn centre(passages: &[Passage]) -> Centre {
    let centre = Centre::start().await;
    unit(&centre.database, "KV1").await;
    store(&centre.database, "KV1", passages).await;
    // It has said so since long ago, and was so long ago what it is.
    centre.settle("KV1", MIDNIGHT_MS + 24 * HOUR_MS).await;
    centre
}

impl Centre {
    /// Says that everything before this time is counted, and since when.
    async fn settle(&self, name: &str, final_to_ms: i64) {
        settle(&self.database, name, final_to_ms).await;
        let log = "INSERT INTO finality_log (device_key, at, final_to)
                   SELECT device_key, clock_timestamp(), final_to FROM device_status";
        self.database.execute(log, &[]).await.unwrap();
    }

    /// Now, by the database's clock, as a parameter.
    async fn instant(&self) -> String {
        let clock = "SELECT ceil(extract(epoch FROM clock_timestamp()) * 1000)::int8";
        let read = async || -> i64 { self.database.query_one(clock, &[]).await.unwrap().get(0) };
        let instant = read().await;
        while read().await <= instant + 1 {}
        Utc::from_millis(instant).to_string()
    }

    /// Takes one vehicle out of the windows that hold this time, as a flush would: with the version
    /// before, if that was final.
    async fn change(&self, ms: i64, was_final: bool) {
        for (suffix, minutes) in [("5m", 5), ("1h", 60), ("24h", 1440)] {
            let start = (ms - ms.rem_euclid(minutes * MINUTE_MS)) / 1_000;
            let keep = format!(
                "INSERT INTO speed_history SELECT {minutes}, s.*, clock_timestamp()
                 FROM speed_stats_{suffix} s WHERE bucket = to_timestamp({start})"
            );
            let change = format!(
                "UPDATE speed_stats_{suffix} SET n = n - 1, rev = rev + 1, revised = {was_final},
                     updated_at = clock_timestamp() WHERE bucket = to_timestamp({start})"
            );
            if was_final {
                self.database.execute(&keep, &[]).await.unwrap();
            }
            self.database.execute(&change, &[]).await.unwrap();
        }
    }
}

/// Without what says when it was asked.
fn timeless(mut answer: Value) -> Value {
    let fields = answer.as_object_mut().unwrap();
    fields.remove("as_of");
    answer
}

#[tokio::test]
async fn a_final_answer_is_given_again_after_its_windows_have_changed() {
    let centre = centre(&traffic(MIDNIGHT_MS, 24 * 60)).await;
    for interval in Interval::ALL {
        let path = format!("{DAY}&interval={}", interval.word());
        let then = centre.get(&path).await.json();
        let at = centre.instant().await;
        assert_ne!(then["state"], "partial");
        centre.change(MIDNIGHT_MS + 8 * MINUTE_MS, true).await;
        let now = centre.get(&path).await.json();
        assert_ne!(now["vehicles"], then["vehicles"]);
        let past = centre.get(&format!("{path}&as_of={at}")).await.json();
        assert_eq!(past["as_of"], at);
        assert_eq!(timeless(past), then, "{interval:?}");
    }
}

#[tokio::test]
async fn what_was_partial_and_has_changed_has_no_numbers() {
    let centre = centre(&traffic(MIDNIGHT_MS, 24 * 60)).await;
    let path = "/kvfv/KV1/avg-speed?from=2025-04-05T00:00:00Z&to=2025-04-06T12:00:00Z";
    let open = MIDNIGHT_MS + 30 * HOUR_MS;
    store(&centre.database, "KV1", &[passage(open, Some(5_000))]).await;
    let at = centre.instant().await;
    centre.change(open, false).await;
    let past = centre.get(&format!("{path}&as_of={at}")).await.json();
    for field in [
        "avg_speed",
        "space_mean_speed",
        "vehicles",
        "p50",
        "p85",
        "revision",
    ] {
        assert_eq!(past[field], Value::Null, "{field}");
    }
    assert_eq!(past["state"], "partial");
    let windows = past["windows"].as_array().unwrap();
    let window = windows
        .iter()
        .find(|window| window["start"] == "2025-04-06T06:00:00Z");
    let window = window.unwrap();
    for (field, value) in window.as_object().unwrap() {
        match field.as_str() {
            "start" | "end" => {}
            "state" => assert_eq!(value, "partial"),
            "reasons" => assert_eq!(value, &json!(["not_kept"])),
            "complete" => assert_eq!(value, true),
            _ => assert_eq!(value, &Value::Null, "{field}"),
        }
    }
}

#[tokio::test]
async fn a_time_out_of_reach_is_refused_with_the_limit() {
    let centre = centre(&[]).await;
    let ask = async |as_of: &str| centre.get(&format!("{DAY}&as_of={as_of}")).await;
    let ahead = ask("2999-01-01T00:00:00Z").await;
    assert_eq!(ahead.status, 422);
    let ahead = ahead.json();
    assert_eq!(ahead["type"], "https://verst.example/problems/as-of-ahead");
    assert!(ahead["limit"].is_string(), "{ahead}");
    let forgotten = ask("2025-01-01T00:00:00Z").await;
    assert_eq!(forgotten.status, 422);
    let forgotten = forgotten.json();
    assert_eq!(
        forgotten["type"],
        "https://verst.example/problems/as-of-forgotten"
    );
    let limit = forgotten["limit"].as_str().unwrap();
    assert_eq!(ask(limit).await.status, 200, "the limit itself is answered");
    assert_eq!(ask("yesterday").await.status, 400);
}

#[tokio::test]
async fn a_unit_that_was_not_known_then_is_unknown() {
    let centre = centre(&[]).await;
    let at = centre.instant().await;
    let sql = "INSERT INTO device (device, shard, first_seen) VALUES ('KV2', 0, clock_timestamp())";
    centre.database.execute(sql, &[]).await.unwrap();
    let path = |unit: &str| format!("/kvfv/{unit}/avg-speed?as_of={at}");
    assert_eq!(centre.get(&path("KV1")).await.status, 200);
    assert_eq!(centre.get(&path("KV2")).await.status, 404);
    assert_eq!(centre.get("/kvfv/KV2/avg-speed").await.status, 200);
}

#[tokio::test]
async fn a_loss_that_was_recovered_since_made_the_answer_incomplete_then() {
    let centre = centre(&traffic(MIDNIGHT_MS, 60)).await;
    let lose = format!(
        "INSERT INTO loss_ledger (device_key, stream_key, first_seq, last_seq, scope, reason,
             event_min, event_max, booked_at)
         SELECT device_key, 1, 1, 9, 'all', 'quota', to_timestamp({0}), to_timestamp({0}),
             clock_timestamp() FROM device",
        (MIDNIGHT_MS + 7 * MINUTE_MS) / 1_000
    );
    let complete = async |as_of: &str| {
        let answer = centre.get(&format!("{DAY}&as_of={as_of}")).await.json();
        answer["complete"].as_bool().unwrap()
    };
    let before = centre.instant().await;
    centre.database.execute(&lose, &[]).await.unwrap();
    let lost = centre.instant().await;
    let recover = "UPDATE loss_ledger SET recovered = 9, recovered_at = clock_timestamp()";
    centre.database.execute(recover, &[]).await.unwrap();
    let after = centre.instant().await;
    assert_eq!(
        (
            complete(&before).await,
            complete(&lost).await,
            complete(&after).await
        ),
        (true, false, true)
    );
}
