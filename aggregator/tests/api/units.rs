//! `GET /kvfv` and `GET /kvfv/{kvfv_id}`.

use serde_json::Value;

use crate::centre::Centre;
use crate::traffic::{MIDNIGHT_MS, passage, store, unit};

#[tokio::test]
async fn pages_hold_every_unit_once_in_order() {
    let centre = Centre::start().await;
    for number in 0..7 {
        unit(&centre.database, &format!("KV{number}")).await;
    }
    let (mut names, mut pages, mut path) = (Vec::new(), 0, "/kvfv?limit=3".to_owned());
    loop {
        let page = centre.get(&path).await.json();
        let units = page["units"].as_array().unwrap();
        names.extend(
            units
                .iter()
                .map(|unit| unit["kvfv_id"].as_str().unwrap().to_owned()),
        );
        pages += 1;
        match page["next"].as_str() {
            Some(next) => path = format!("/kvfv?limit=3&after={next}"),
            None => break,
        }
    }
    assert_eq!(
        names,
        (0..7)
            .map(|number| format!("KV{number}"))
            .collect::<Vec<_>>()
    );
    assert_eq!(pages, 3);
    let whole = centre.get("/kvfv").await.json();
    assert_eq!(whole["units"].as_array().unwrap().len(), 7);
    assert_eq!(whole["next"], Value::Null);
}

#[tokio::test]
async fn a_unit_shows_what_it_said_of_itself() {
    let centre = Centre::start().await;
    unit(&centre.database, "KV1").await;
    let unheard = centre.get("/kvfv/KV1").await.json();
    assert_eq!(unheard["state"], "unheard");
    assert_eq!(unheard["last_passage_window"], Value::Null);
    assert_eq!(unheard["backlog"], Value::Null);
    assert_eq!(unheard["disk"], Value::Null);

    store(
        &centre.database,
        "KV1",
        &[passage(MIDNIGHT_MS + 61_000, Some(5_000))],
    )
    .await;
    let heartbeat = "INSERT INTO device_status (device_key, final_to, frontier, heartbeat_at, \
         backlog_passages, backlog_bytes, backlog_oldest, backlog_newest, \
         backlog_drain_per_min, camera_last_post, clock_offset_ms, \
         agent_version, disk_used_bytes, disk_quota_bytes, disk_free_bytes) \
         SELECT device_key, '2025-04-05T00:05:00Z', '2025-04-05T00:07:00.5Z', now(), 12, 480, \
         '2025-04-05T00:06:00Z', '2025-04-05T00:06:29Z', 6, '2025-04-05T00:06:30Z', -12, '0.1.0', 1, 2, 3 FROM device";
    centre.database.batch_execute(heartbeat).await.unwrap();
    let unit = centre.get("/kvfv/KV1").await.json();
    assert_eq!(unit["kvfv_id"], "KV1");
    assert_eq!(unit["state"], "online");
    assert_eq!(unit["first_seen"], "2020-01-01T00:00:00Z");
    assert_eq!(unit["last_passage_window"], "2025-04-05T00:00:00Z");
    assert_eq!(unit["final_to"], "2025-04-05T00:05:00Z");
    assert_eq!(unit["frontier"], "2025-04-05T00:07:00.5Z");
    assert_eq!(unit["camera_last_post"], "2025-04-05T00:06:30Z");
    assert_eq!(unit["backlog"]["passages"], 12);
    assert_eq!(unit["backlog"]["oldest"], "2025-04-05T00:06:00Z");
    assert_eq!(unit["backlog"]["newest"], "2025-04-05T00:06:29Z");
    assert_eq!(unit["backlog"]["drain_per_min"], 6);
    assert!(unit["backlog"]["done_at"].is_string(), "12 at 6 a minute");
    assert_eq!(unit["clock_offset_ms"], -12);
    assert_eq!(unit["version"], "0.1.0");
    assert_eq!(unit["disk"]["free_bytes"], 3);
    let listed = centre.get("/kvfv").await.json();
    assert_eq!(listed["units"][0]["kvfv_id"], "KV1");

    let old = "UPDATE device_status SET heartbeat_at = now() - interval '1 hour'";
    centre.database.batch_execute(old).await.unwrap();
    assert_eq!(centre.get("/kvfv/KV1").await.json()["state"], "silent");
}
