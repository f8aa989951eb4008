//! `GET /kvfv/{kvfv_id}/ledger` and `v_ledger`.

use serde_json::{Value, json};

use crate::centre::Centre;
use crate::traffic::unit;

/// A stream of the only unit: 1,000 accepted, 1 to 600 counted, 1 to 500 stored, 601 to 650 lost.
const STREAM: &str = "INSERT INTO stream_cursor
    (device_key, stream, stream_key, counted, stored, lost, accepted_to, settled, rev)
    SELECT device_key, '00112233-4455-6677-8899-aabbccddeeff', 1, '{[1,601)}', '{[1,501)}',
        '{[601,651)}', 1000, false, 1 FROM device";

const LOSSES: &str = "INSERT INTO loss_ledger
    (device_key, stream_key, first_seq, last_seq, recovered, scope, reason, event_min, event_max, booked_at)
    SELECT device_key, 1, first, last, recovered, scope, reason, '2025-04-05T10:00:00Z', NULL,
        '2025-04-05T12:00:00Z'::timestamptz + first * interval '1 s'
    FROM device, (VALUES (591, 650, 10, 'all', 'vanished'), (441, 500, 0, 'raw_only', 'quota'))
        AS losses (first, last, recovered, scope, reason)";

/// The unit says that it has something left of 651 to 900 of the 950 that it had accepted then.
const INVENTORY: &str = "INSERT INTO device_status
    (device_key, heartbeat_at, inventory_stream, inventory_accepted_to, inventory_held)
    SELECT device_key, now(), '{00112233-4455-6677-8899-aabbccddeeff}', '{950}', '{\"{[651,901)}\"}'
    FROM device";

async fn books(centre: &Centre) -> Value {
    let answer = centre.get("/kvfv/KV1/ledger").await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json()
}

#[tokio::test]
async fn the_books_of_a_stream_add_up() {
    let centre = Centre::start().await;
    unit(&centre.database, "KV1").await;
    for sql in [STREAM, LOSSES] {
        centre.database.batch_execute(sql).await.unwrap();
    }
    let unheard = books(&centre).await;
    assert_eq!(
        (&unheard["total"]["held"], &unheard["explained"]),
        (&json!(350), &json!(true)),
        "a unit that has not been asked yet"
    );

    centre.database.batch_execute(INVENTORY).await.unwrap();
    let answer = books(&centre).await;
    let stream = &answer["streams"][0];
    assert_eq!(stream["stream"], "00112233445566778899aabbccddeeff");
    assert_eq!(stream["accepted"], 1_000);
    assert_eq!(stream["counted"], 600);
    assert_eq!(stream["stored"], 440, "without those that never come");
    assert_eq!(stream["raw_only"], 60);
    assert_eq!(stream["held"], 250 + 50, "and what it accepted since");
    assert_eq!(stream["lost"], 50);
    assert_eq!(stream["lost_by_reason"]["vanished"], 50);
    assert_eq!(stream["lost_by_reason"]["quota"], 0);
    assert_eq!(stream["unexplained"], 50, "901 to 950");
    assert_eq!(answer["explained"], false);
    assert_eq!(answer["total"]["accepted"], 1_000);
    let loss = &answer["losses"][0];
    assert_eq!((&loss["first"], &loss["last"]), (&json!(591), &json!(650)));
    assert_eq!(
        (&loss["passages"], &loss["scope"]),
        (&json!(50), &json!("all"))
    );
    assert_eq!(loss["event_min"], "2025-04-05T10:00:00Z");
    assert_eq!(loss["event_max"], Value::Null);
    assert_eq!(answer["losses"][1]["reason"], "quota");
    assert_eq!(answer["more_losses"], false);
    let view = "SELECT accepted - counted - held - lost - unexplained FROM v_ledger";
    assert_eq!(centre.value(view).await.as_deref(), Some("0"));
}

#[tokio::test]
async fn a_word_that_is_too_old_explains_nothing() {
    let centre = Centre::start().await;
    unit(&centre.database, "KV1").await;
    for sql in [
        STREAM,
        INVENTORY,
        "UPDATE stream_cursor SET updated_at = now() - interval '2 hours'",
        "UPDATE device_status SET heartbeat_at = now() - interval '1 hour'",
    ] {
        centre.database.batch_execute(sql).await.unwrap();
    }
    assert_eq!(books(&centre).await["total"]["unexplained"], 50);
    let limit = "UPDATE ledger_limit SET unexplained_after = interval '30 minutes'";
    centre.database.batch_execute(limit).await.unwrap();
    let answer = books(&centre).await;
    assert_eq!(answer["total"]["unexplained"], 350);
    assert_eq!(answer["total"]["held"], 0);
}

#[tokio::test]
async fn a_range_chooses_streams_by_when_they_were_heard_of() {
    let centre = Centre::start().await;
    unit(&centre.database, "KV1").await;
    centre.database.batch_execute(STREAM).await.unwrap();
    let span = "UPDATE stream_cursor SET first_seen = '2025-04-05T10:00:00Z',
        updated_at = '2025-04-05T12:00:00Z'";
    centre.database.batch_execute(span).await.unwrap();
    for (range, streams) in [
        ("from=2025-04-05T12:00:00Z&to=2025-04-06T00:00:00Z", 1),
        ("from=2025-04-05T12:00:00.001Z", 0),
        ("to=2025-04-05T10:00:00Z", 0),
        ("to=2025-04-05T10:00:00.001Z", 1),
    ] {
        let answer = centre.get(&format!("/kvfv/KV1/ledger?{range}")).await;
        let listed = answer.json()["streams"].as_array().unwrap().len();
        assert_eq!(listed, streams, "{range}");
    }
    for (path, status) in [
        ("/kvfv/KV2/ledger", 404),
        ("/kvfv/K%20V/ledger", 400),
        ("/kvfv/KV1/ledger?from=yesterday", 400),
        ("/kvfv/KV1/ledger?upto=2025-04-05T10:00:00Z", 400),
        (
            "/kvfv/KV1/ledger?from=2025-04-05T12:00:00Z&to=2025-04-05T12:00:00Z",
            422,
        ),
    ] {
        let answer = centre.get(path).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.text);
        assert_eq!(
            answer.header("content-type"),
            Some("application/problem+json")
        );
    }
}

#[tokio::test]
async fn more_streams_than_an_answer_holds_are_refused() {
    let centre = Centre::start().await;
    unit(&centre.database, "KV1").await;
    let many = "INSERT INTO stream_cursor
        (device_key, stream, stream_key, counted, stored, lost, accepted_to, settled, rev)
        SELECT device_key, gen_random_uuid(), n, '{[1,2)}', '{[1,2)}', '{}', 1, true, 1
        FROM device, generate_series(1, 1001) AS n";
    centre.database.batch_execute(many).await.unwrap();
    let answer = centre.get("/kvfv/KV1/ledger").await;
    assert_eq!(answer.status, 422, "{}", answer.text);
    assert_eq!(answer.json()["limit"], 1_000);
}

#[tokio::test]
async fn more_losses_than_an_answer_holds_are_left_out_and_said_so() {
    let centre = Centre::start().await;
    unit(&centre.database, "KV1").await;
    let many = "INSERT INTO loss_ledger (device_key, stream_key, first_seq, last_seq, scope, reason)
        SELECT device_key, 1, 2 * n, 2 * n, 'all', 'quota' FROM device, generate_series(1, 1001) AS n";
    for sql in [STREAM, many] {
        centre.database.batch_execute(sql).await.unwrap();
    }
    let answer = books(&centre).await;
    let listed = answer["losses"].as_array().unwrap();
    assert_eq!(
        (listed.len(), &answer["more_losses"]),
        (1_000, &json!(true))
    );
}
