//! `as_of`: the answer of another time.

use aggregator::api::utc::Utc;
use aggregator::store::reader::Interval;
use proto::passage::Passage;
use serde_json::{Value, json};

use crate::centre::Centre;
use crate::traffic::{HOUR_MS, MIDNIGHT_MS, MINUTE_MS, passage, settle, store, traffic, unit};

const DAY: &str = "/kvfv/KV1/avg-speed?from=2025-04-05T00:00:00Z&to=2025-04-06T00:00:00Z";

/// The same of three units, one of which the centre does not know.
const GROUP: &str = "/avg-speed?kvfv=KV1,KV2,KV9&from=2025-04-05T00:00:00Z&to=2025-04-06T00:00:00Z";

/// A centre that knows a day of a unit.
async fn centre(passages: &[Passage]) -> Centre {
    let centre = Centre::start().await;
    centre.knows("KV1", passages).await;
    // It has said so since long ago, and was so long ago what it is.
    centre.settle("KV1", MIDNIGHT_MS + 24 * HOUR_MS).await;
    centre
}

/// And another, whose day is settled until then.
async fn two_units(second_final_to_ms: i64) -> Centre {
    let centre = centre(&traffic(MIDNIGHT_MS, 24 * 60)).await;
    let further = traffic(MIDNIGHT_MS + 17_001, 24 * 60);
    centre.knows("KV2", &further).await;
    centre.settle("KV2", second_final_to_ms).await;
    centre
}

impl Centre {
    async fn knows(&self, name: &str, passages: &[Passage]) {
        unit(&self.database, name).await;
        store(&self.database, name, passages).await;
    }

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

    /// Takes one vehicle out of the windows of all units that hold this time, as a flush would: with
    /// the version before, if that was final.
    async fn change(&self, ms: i64, was_final: bool) {
        for interval in Interval::ALL {
            self.change_one("KV%", interval, ms, was_final).await;
        }
    }

    /// The same of the windows of one length of units with such names.
    async fn change_one(&self, names: &str, interval: Interval, ms: i64, was_final: bool) {
        let (suffix, minutes) = (interval.word(), interval.length_ms() / MINUTE_MS);
        let start = interval.floor(ms) / 1_000;
        let window = format!(
            "bucket = to_timestamp({start})
             AND device_key IN (SELECT device_key FROM device WHERE device LIKE '{names}')"
        );
        let keep = format!(
            "INSERT INTO speed_history SELECT {minutes}, s.*, clock_timestamp()
             FROM speed_stats_{suffix} s WHERE {window}"
        );
        let change = format!(
            "UPDATE speed_stats_{suffix} SET n = n - 1, rev = rev + 1, revised = {was_final},
                 updated_at = clock_timestamp() WHERE {window}"
        );
        if was_final {
            self.database.execute(&keep, &[]).await.unwrap();
        }
        self.database.execute(&change, &[]).await.unwrap();
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
    let centre = two_units(MIDNIGHT_MS + 24 * HOUR_MS).await;
    for (interval, question) in Interval::ALL
        .into_iter()
        .flat_map(|i| [(i, DAY), (i, GROUP)])
    {
        let path = format!("{question}&interval={}", interval.word());
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

const NUMBERS: [&str; 6] = [
    "avg_speed",
    "space_mean_speed",
    "vehicles",
    "p50",
    "p85",
    "revision",
];

/// The same windows, where those that hold no numbers say nothing else than before.
#[track_caller]
fn same_but_for(past: &Value, then: &Value, not_kept: &[&str]) {
    let windows = |answer: &Value| answer["windows"].as_array().unwrap().clone();
    assert_eq!(windows(past).len(), windows(then).len());
    for (past, mut then) in windows(past).into_iter().zip(windows(then)) {
        if not_kept.contains(&then["start"].as_str().unwrap()) {
            for (field, value) in then.as_object_mut().unwrap() {
                let is_kept = ["start", "end", "state", "complete", "units", "units_final"]
                    .contains(&field.as_str());
                if !is_kept {
                    *value = Value::Null;
                }
            }
        }
        assert_eq!(past, then);
    }
}

#[tokio::test]
async fn of_many_units_a_window_that_was_partial_and_has_changed_at_one_has_no_numbers() {
    let noon = MIDNIGHT_MS + 12 * HOUR_MS;
    let centre = two_units(noon).await;
    let then = centre.get(GROUP).await.json();
    let at = centre.instant().await;
    // One that was final, at both; and one that was partial at the second unit, there alone.
    centre.change(MIDNIGHT_MS + 8 * MINUTE_MS, true).await;
    for interval in Interval::ALL {
        let late = noon + 63 * MINUTE_MS;
        centre.change_one("KV2", interval, late, false).await;
    }
    let past = centre.get(&format!("{GROUP}&as_of={at}")).await.json();
    same_but_for(&past, &then, &["2025-04-05T13:00:00Z"]);
    for field in NUMBERS {
        assert_eq!(past[field], Value::Null, "{field}");
    }
    for field in [
        "kvfv",
        "unknown",
        "from",
        "to",
        "interval",
        "state",
        "complete",
        "final_share",
        "unit_windows",
        "unit_windows_final",
    ] {
        assert_eq!(past[field], then[field], "{field}");
    }
    assert_eq!(then["unknown"], json!(["KV9"]));
    let behind = json!([{
        "kvfv_id": "KV2",
        "final_to": "2025-04-05T12:00:00Z",
        "reasons": [{"kind": "unrecorded"}, {"kind": "not_kept"}],
    }]);
    assert_eq!(past["behind"], behind);
}

#[tokio::test]
async fn totals_of_many_units_are_put_together_from_shorter_windows_where_those_are_known() {
    let noon = MIDNIGHT_MS + 12 * HOUR_MS;
    let centre = two_units(noon).await;
    let path = format!("{GROUP}&interval=24h");
    let then = centre.get(&path).await.json();
    let at = centre.instant().await;
    // A passage that came late for an hour that was final, on a day that was not.
    let late = noon - 57 * MINUTE_MS;
    for (interval, was_final) in [
        (Interval::FiveMinutes, true),
        (Interval::Hour, true),
        (Interval::Day, false),
    ] {
        centre.change_one("KV2", interval, late, was_final).await;
    }
    let past = centre.get(&format!("{path}&as_of={at}")).await.json();
    same_but_for(&past, &then, &["2025-04-05T00:00:00Z"]);
    assert_eq!(past["revision"], Value::Null);
    for field in &NUMBERS[..5] {
        assert_eq!(past[field], then[field], "{field}");
        assert_ne!(past[field], Value::Null, "{field}");
    }
}

#[tokio::test]
async fn many_units_at_a_time_out_of_reach_or_before_they_were_known_are_refused() {
    let centre = two_units(MIDNIGHT_MS).await;
    let ask = async |as_of: &str| {
        let answer = centre.get(&format!("{GROUP}&as_of={as_of}")).await;
        (answer.status, answer.json())
    };
    let (status, ahead) = ask("2999-01-01T00:00:00Z").await;
    assert_eq!(status, 422);
    assert_eq!(ahead["type"], "https://verst.example/problems/as-of-ahead");
    let (status, forgotten) = ask("2025-04-06T00:00:00Z").await;
    assert_eq!(status, 422);
    let kind = "https://verst.example/problems/as-of-forgotten";
    assert_eq!(forgotten["type"], kind);
    let (status, _) = ask(forgotten["limit"].as_str().unwrap()).await;
    assert_eq!(status, 200, "the limit itself is answered");
    assert_eq!(ask("yesterday").await.0, 400);

    let at = centre.instant().await;
    let later =
        "INSERT INTO device (device, shard, first_seen) VALUES ('KV9', 0, clock_timestamp())";
    centre.database.execute(later, &[]).await.unwrap();
    let (_, past) = ask(&at).await;
    assert_eq!(past["unknown"], json!(["KV9"]));
    let now = centre.get(GROUP).await.json();
    assert_eq!(now["unknown"], json!([]));
    let alone = format!("/avg-speed?kvfv=KV9&as_of={at}");
    assert_eq!(centre.get(&alone).await.status, 404);
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
    for field in NUMBERS {
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
        let [one, many] = [DAY, GROUP].map(|question| format!("{question}&as_of={as_of}"));
        let [one, many] = [
            centre.get(&one).await.json(),
            centre.get(&many).await.json(),
        ];
        assert_eq!(one["complete"], many["complete"]);
        one["complete"].as_bool().unwrap()
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
