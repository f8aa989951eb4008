use proptest::prelude::*;

use super::*;

const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;
/// 15:02 of some day.
const NOW: i64 = 20_000 * 24 * HOUR + 15 * HOUR + 2 * MINUTE;

/// A time of that day.
fn at(hour: i64, minute: i64) -> i64 {
    20_000 * 24 * HOUR + hour * HOUR + minute * MINUTE
}

/// Online, nothing waits, cameras deliver within the hour.
fn well() -> Standing {
    Standing {
        first_seen_ms: 0,
        final_to_ms: Some(at(14, 0)),
        frontier_ms: Some(at(14, 1)),
        heartbeat_ms: Some(at(15, 1)),
        cloned_ms: None,
        backlog_passages: Some(0),
        backlog_oldest_ms: None,
        backlog_newest_ms: None,
    }
}

/// Offline since nine, when nothing waited.
fn offline() -> Standing {
    Standing {
        final_to_ms: Some(at(8, 0)),
        frontier_ms: Some(at(8, 0)),
        heartbeat_ms: Some(at(9, 0)),
        ..well()
    }
}

/// Back, with passages from ten on, of which the newest are of eleven.
fn catching_up() -> Standing {
    Standing {
        final_to_ms: Some(at(10, 0)),
        frontier_ms: Some(at(10, 3)),
        backlog_passages: Some(40_000),
        backlog_oldest_ms: Some(at(10, 3)),
        backlog_newest_ms: Some(at(11, 0)),
        ..well()
    }
}

fn kinds(standing: &Standing, hour: i64, minute: i64) -> Vec<ReasonKind> {
    let start = at(hour, minute);
    let window = start..start + 5 * MINUTE;
    Reasons::of(standing, NOW)
        .of_window(&window)
        .iter()
        .collect()
}

#[test]
fn each_partial_window_names_the_reasons_of_its_time() {
    use ReasonKind::{Backlog, Cloned, NeverHeard, Open, UnitOffline};
    let cloned = Standing {
        cloned_ms: Some(NOW - 23 * HOUR),
        ..offline()
    };
    let no_longer_cloned = Standing {
        cloned_ms: Some(NOW - 24 * HOUR),
        ..well()
    };
    let nobody = Standing::default();
    let only_passages = Standing {
        heartbeat_ms: None,
        backlog_passages: None,
        ..well()
    };
    let on_its_way = Standing {
        backlog_passages: Some(12),
        backlog_oldest_ms: Some(at(15, 0) + 30_000),
        ..well()
    };
    let offline_with_a_backlog = Standing {
        backlog_passages: Some(500),
        backlog_oldest_ms: Some(at(8, 30)),
        ..offline()
    };
    let of_unknown_age = Standing {
        backlog_oldest_ms: None,
        backlog_newest_ms: None,
        ..catching_up()
    };
    type Case = (&'static str, Standing, (i64, i64), &'static [ReasonKind]);
    let table: [Case; 24] = [
        ("settled", well(), (13, 55), &[]),
        ("the camera may be late", well(), (14, 0), &[Open]),
        ("ended just now", well(), (14, 55), &[Open]),
        ("not over", well(), (15, 0), &[Open]),
        ("settled before the silence", offline(), (7, 55), &[]),
        ("would be settled by now", offline(), (8, 0), &[UnitOffline]),
        ("in the silence", offline(), (12, 0), &[UnitOffline]),
        (
            "in the silence, not over",
            offline(),
            (15, 0),
            &[Open, UnitOffline],
        ),
        (
            "begins before the silence",
            offline(),
            (8, 55),
            &[UnitOffline],
        ),
        ("before the backlog", catching_up(), (9, 55), &[]),
        (
            "the oldest of the backlog",
            catching_up(),
            (10, 0),
            &[Backlog],
        ),
        (
            "the newest of the backlog",
            catching_up(),
            (11, 0),
            &[Backlog],
        ),
        ("after the backlog", catching_up(), (14, 0), &[Open]),
        ("after the heartbeat", catching_up(), (15, 5), &[Open]),
        ("on its way is no backlog", on_its_way, (15, 0), &[Open]),
        ("of unknown age", of_unknown_age, (10, 0), &[Backlog]),
        (
            "up to the heartbeat",
            of_unknown_age,
            (15, 0),
            &[Open, Backlog],
        ),
        (
            "offline with a backlog",
            offline_with_a_backlog,
            (8, 30),
            &[UnitOffline, Backlog],
        ),
        (
            "offline, before the backlog",
            offline_with_a_backlog,
            (8, 0),
            &[UnitOffline],
        ),
        ("cloned hides the rest", cloned, (12, 0), &[Cloned]),
        ("cloned and not over", cloned, (15, 0), &[Open, Cloned]),
        ("cloned a day ago", no_longer_cloned, (14, 0), &[Open]),
        ("never heard", nobody, (12, 0), &[NeverHeard]),
        ("never a heartbeat", only_passages, (14, 30), &[Open]),
    ];
    for (name, standing, (hour, minute), expected) in table {
        assert_eq!(kinds(&standing, hour, minute), expected, "{name}");
    }
}

#[test]
fn within_the_usual_delay_of_the_camera_silence_explains_only_its_own_time() {
    // A day of delay, heard of two hours ago.
    let standing = Standing {
        final_to_ms: Some(at(13, 0) - 24 * HOUR),
        frontier_ms: Some(at(13, 2) - 24 * HOUR),
        heartbeat_ms: Some(at(13, 2)),
        ..well()
    };
    let kinds = |hour, minute| kinds(&standing, hour, minute);
    assert_eq!(kinds(12, 0), [ReasonKind::Open]);
    assert_eq!(kinds(14, 0), [ReasonKind::Open, ReasonKind::UnitOffline]);
    assert_eq!(kinds(14 - 24, 0), [ReasonKind::UnitOffline]);
}

#[test]
fn reasons_are_told_in_full_once() {
    let standing = Standing {
        backlog_passages: Some(500),
        backlog_oldest_ms: Some(at(8, 30)),
        ..offline()
    };
    let reasons = Reasons::of(&standing, NOW);
    let all = reasons
        .of_window(&(at(8, 30)..at(8, 35)))
        .and(reasons.of_window(&(at(15, 0)..at(15, 5))));
    let told = serde_json::to_value(reasons.list(all)).unwrap();
    let expected = serde_json::json!([
        {"kind": "open"},
        {"kind": "unit_offline", "since": Utc::from_millis(at(9, 0)).to_string()},
        {"kind": "backlog", "passages": 500, "oldest": Utc::from_millis(at(8, 30)).to_string(), "newest": null},
    ]);
    assert_eq!(told, expected);
    let named = serde_json::to_value(all).unwrap();
    assert_eq!(
        named,
        serde_json::json!(["open", "unit_offline", "backlog"])
    );
    assert_eq!(reasons.list(ReasonKinds::default()), []);
}

fn instant() -> impl Strategy<Value = Option<i64>> {
    prop::option::of(NOW - 48 * HOUR..NOW + HOUR)
}

proptest! {
    #[test]
    fn a_window_has_a_reason_just_when_it_is_partial(
        times in prop::array::uniform6(instant()),
        passages in prop::option::of(0i64..3),
        start in -600i64..10,
    ) {
        let [final_to_ms, frontier_ms, heartbeat_ms, cloned_ms, oldest, newest] = times;
        let standing = Standing {
            first_seen_ms: 0,
            final_to_ms,
            frontier_ms,
            heartbeat_ms,
            cloned_ms,
            backlog_passages: passages,
            backlog_oldest_ms: oldest,
            backlog_newest_ms: newest,
        };
        let start = NOW - NOW.rem_euclid(BUCKET_MS) + start * BUCKET_MS;
        let window = start..start + BUCKET_MS;
        let reasons = Reasons::of(&standing, NOW);
        let kinds = reasons.of_window(&window);
        prop_assert_eq!(kinds.is_empty(), standing.is_final(window.end));
        // Whatever a window names is told.
        let told = reasons.list(kinds);
        prop_assert!(kinds.iter().eq(told.iter().map(Reason::kind)));
    }
}
