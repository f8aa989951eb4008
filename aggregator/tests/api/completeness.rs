//! How complete a range is, by SQL: the same words and numbers as by REST.

use aggregator::metrics::Metrics;
use aggregator::store::connect::Target;
use aggregator::store::reader::Reader;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use proto::topic::Shard;
use service::clock;

use crate::centre::{Centre, settings};
use crate::recompute::utc;
use crate::traffic::{HOUR_MS, MINUTE_MS, Said, passage, say, settle, store, unit};

/// Units in every condition, as of now.
async fn fleet(centre: &Centre, now: i64) {
    let ago = |ms: i64| Some(now - ms);
    let fleet = [
        (
            "well",
            Said {
                heartbeat_ms: now - 20_000,
                final_to_ms: ago(HOUR_MS),
                backlog: Some((12, now - 30_000, now - 20_000)),
                ..Said::default()
            },
        ),
        (
            "settled",
            Said {
                heartbeat_ms: now,
                final_to_ms: ago(0),
                ..Said::default()
            },
        ),
        (
            "silent",
            Said {
                heartbeat_ms: now - 6 * HOUR_MS,
                final_to_ms: ago(7 * HOUR_MS),
                ..Said::default()
            },
        ),
        // A day of camera delay: what happened before the silence is merely open.
        (
            "delayed",
            Said {
                heartbeat_ms: now - 10 * MINUTE_MS,
                final_to_ms: ago(24 * HOUR_MS + 15 * MINUTE_MS),
                ..Said::default()
            },
        ),
        (
            "catching-up",
            Said {
                heartbeat_ms: now - 20_000,
                final_to_ms: ago(5 * HOUR_MS),
                backlog: Some((40_000, now - 5 * HOUR_MS + MINUTE_MS, now - 3 * HOUR_MS)),
                ..Said::default()
            },
        ),
        (
            "cloned",
            Said {
                heartbeat_ms: now - 20_000,
                final_to_ms: ago(5 * HOUR_MS),
                cloned_ms: ago(2 * HOUR_MS),
                ..Said::default()
            },
        ),
    ];
    for (name, said) in &fleet {
        unit(&centre.database, name).await;
        say(&centre.database, name, said).await;
    }
    unit(&centre.database, "mute").await;
    // First heard of an hour ago, with what it had kept until then.
    unit(&centre.database, "new").await;
    let said = Said {
        heartbeat_ms: now,
        final_to_ms: ago(4 * HOUR_MS),
        backlog: Some((70, now - 4 * HOUR_MS, now - HOUR_MS)),
        ..Said::default()
    };
    say(&centre.database, "new", &said).await;
    let kept = [4, 5, 7].map(|hours| passage(now - hours * HOUR_MS, Some(5_000)));
    store(&centre.database, "new", &kept).await;
    let first_seen =
        "UPDATE device SET first_seen = now() - interval '1 hour' WHERE device = 'new'";
    centre.database.batch_execute(first_seen).await.unwrap();
}

/// What a unit's partial windows in the range name, other than that they are open.
async fn named_by_rest(centre: &Centre, name: &str, from: i64, to: i64) -> Vec<String> {
    let (from, to) = (utc(from), utc(to));
    let path = format!("/avg-speed?kvfv={name}&from={from}&to={to}");
    let answer = centre.get(&path).await.json();
    answer["behind"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|unit| unit["reasons"].as_array().unwrap())
        .map(|reason| reason["kind"].as_str().unwrap().to_owned())
        .filter(|kind| kind != "open")
        .collect()
}

#[tokio::test]
async fn sql_and_rest_name_the_same_share_and_the_same_reasons() {
    let centre = Centre::start().await;
    let now = clock::wall_millis();
    fleet(&centre, now).await;
    let names = [
        "well",
        "settled",
        "silent",
        "delayed",
        "catching-up",
        "cloned",
        "mute",
        "new",
    ];
    let hours = |hours: i64| now - hours * HOUR_MS;
    let mut seen = std::collections::BTreeSet::new();
    for (from, to) in [
        (hours(48), hours(30)),
        (hours(30), hours(20)),
        (hours(8), hours(7)),
        (hours(8), hours(6)),
        (hours(6), hours(2)),
        (hours(1), now - 30 * MINUTE_MS),
        (hours(1), now),
    ] {
        for name in names {
            let sql = "SELECT windows, windows_final, final_share, reason, complete \
                       FROM verst_completeness($1::text::timestamptz, $2::text::timestamptz, \
                           ARRAY[$3])";
            let row = centre
                .database
                .query_one(sql, &[&utc(from), &utc(to), &name])
                .await
                .unwrap();
            let path = format!("/avg-speed?kvfv={name}&from={}&to={}", utc(from), utc(to));
            let answer = centre.get(&path).await.json();
            let what = format!("{name} from {} to {}", utc(from), utc(to));
            assert_eq!(answer["unit_windows"], row.get::<_, i64>(0), "{what}");
            assert_eq!(answer["unit_windows_final"], row.get::<_, i64>(1), "{what}");
            let share = row.get::<_, Option<f64>>(2).unwrap_or(2.0);
            let shown = answer["final_share"].as_f64().unwrap_or(2.0);
            assert!((shown - share).abs() < 1e-12, "{shown}, {share} for {what}");
            let reason: Option<&str> = row.get(3);
            let named = named_by_rest(&centre, name, from, to).await;
            let expected = match reason {
                None | Some("open") => Vec::new(),
                Some(reason) => vec![reason.to_owned()],
            };
            // The first that holds; REST names all.
            assert_eq!(named.first(), expected.first(), "{reason:?} for {what}");
            assert_eq!(answer["complete"], row.get::<_, bool>(4), "{what}");
            seen.insert(reason.map(ToOwned::to_owned));
        }
    }
    let all = [
        None,
        Some("backlog"),
        Some("cloned"),
        Some("never_heard"),
        Some("open"),
        Some("unit_offline"),
    ];
    assert!(seen.iter().map(Option::as_deref).eq(all), "{seen:?}");
}

#[tokio::test]
async fn the_share_of_a_fleet_is_that_of_all_its_windows() {
    let centre = Centre::start().await;
    let now = clock::wall_millis();
    fleet(&centre, now).await;
    let share = "SELECT sum(windows_final) || ' of ' || sum(windows) FROM verst_completeness(
        date_bin('5 minutes', now(), 'epoch') - interval '2 hours',
        date_bin('5 minutes', now(), 'epoch') - interval '90 minutes')";
    // Six windows of seven units, of which two have settled so far; the eighth was not heard of yet.
    assert_eq!(centre.value(share).await.as_deref(), Some("12 of 42"));
    let behind = "SELECT string_agg(device || ' ' || behind, ', ' ORDER BY device)
        FROM v_backlog WHERE behind IS NOT NULL";
    let expected = "catching-up backlog, cloned cloned, delayed unit_offline, mute never_heard, \
                    new backlog, silent unit_offline";
    assert_eq!(centre.value(behind).await.as_deref(), Some(expected));
}

#[tokio::test]
async fn a_loss_makes_its_time_incomplete_even_when_its_span_is_odd() {
    let centre = Centre::start().await;
    let now = clock::wall_millis();
    let hour = now - now.rem_euclid(HOUR_MS) - 3 * HOUR_MS;
    unit(&centre.database, "KV1").await;
    store(&centre.database, "KV1", &[passage(hour, Some(5_000))]).await;
    settle(&centre.database, "KV1", now).await;
    let incomplete = async || {
        let path = format!(
            "/avg-speed?kvfv=KV1&from={}&to={}",
            utc(hour),
            utc(hour + 20 * MINUTE_MS)
        );
        let answer = centre.get(&path).await.json();
        let windows = answer["windows"].as_array().unwrap();
        let lost: Vec<usize> = (0..windows.len())
            .filter(|place| windows[*place]["complete"] == false)
            .collect();
        assert_eq!(answer["complete"], lost.is_empty());
        assert_eq!(answer["state"], "final");
        lost
    };
    assert!(incomplete().await.is_empty());
    let minute = |minute: i64| format!("'{}'", utc(hour + minute * MINUTE_MS));
    let unknown = || "NULL".to_owned();
    for (first, last, expected) in [
        (minute(6), minute(8), vec![1]),
        (minute(6), minute(10), vec![1, 2]),
        (minute(-60), minute(-1), vec![]),
        (minute(20), minute(25), vec![]),
        (minute(12), unknown(), vec![2, 3]),
        (unknown(), minute(4), vec![0]),
        (unknown(), unknown(), vec![0, 1, 2, 3]),
    ] {
        let loss = format!(
            "TRUNCATE loss_ledger;
             INSERT INTO loss_ledger (device_key, stream_key, first_seq, last_seq, scope, reason,
                 event_min, event_max)
             SELECT device_key, 1, 1, 10, 'all', 'quota', {first}, {last} FROM device"
        );
        centre.database.batch_execute(&loss).await.unwrap();
        assert_eq!(incomplete().await, expected, "{first} to {last}");
    }
    // A unit that says nonsense spoils no question, neither its own nor one about its neighbours.
    let nonsense = format!(
        "UPDATE loss_ledger SET event_min = {}, event_max = {}",
        minute(15),
        minute(1)
    );
    centre.database.batch_execute(&nonsense).await.unwrap();
    let path = format!("/avg-speed?kvfv=KV1&from={}&to={}", utc(hour), utc(now));
    assert_eq!(centre.get(&path).await.status, 200);
    let recovered = "UPDATE loss_ledger SET event_min = NULL, event_max = NULL, recovered = 10";
    centre.database.batch_execute(recovered).await.unwrap();
    assert!(incomplete().await.is_empty());
}

#[tokio::test]
async fn metrics_show_what_waits_and_who_is_behind_in_the_owned_shards() {
    let centre = Centre::start().await;
    fleet(&centre, clock::wall_millis()).await;
    let elsewhere = "UPDATE device SET shard = 7 WHERE device = 'silent'";
    centre.database.batch_execute(elsewhere).await.unwrap();
    let pool = Target::new(&settings(&centre.url))
        .unwrap()
        .pool(1)
        .unwrap();
    let reader = Reader::new(pool, 0);
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let shown = async |shards: &[u8]| {
        let shards: Vec<Shard> = shards.iter().map(|n| Shard::new(*n).unwrap()).collect();
        metrics.backlog(&reader.backlog(&shards).await.unwrap());
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        let value = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap();
            line.rsplit_once(' ').unwrap().1.to_owned()
        };
        [
            "verst_aggregator_backlog_passages",
            "verst_aggregator_units_behind{reason=\"backlog\"}",
            "verst_aggregator_units_behind{reason=\"unit_offline\"}",
            "verst_aggregator_units_behind{reason=\"cloned\"}",
            "verst_aggregator_units_behind{reason=\"never_heard\"}",
        ]
        .map(value)
        .join(" ")
    };
    assert_eq!(shown(&[0, 7]).await, "40082 2 2 1 1");
    assert_eq!(shown(&[0]).await, "40082 2 1 1 1");
    assert_eq!(shown(&[]).await, "0 0 0 0 0");
}
