use std::collections::{BTreeMap, BTreeSet};

use super::super::reason::ReasonKind;
use super::*;
use crate::store::reader::{EarlyWindow, Losses};

const MINUTE: i64 = 60_000;

/// A unit known since a minute of that day, whose windows are final up to another; heard of at
/// a third.
fn unit(name: &str, first_seen: i64, final_to: i64, heard: i64) -> GroupUnit {
    GroupUnit {
        device: name.to_owned(),
        standing: Standing {
            first_seen_ms: first_seen * MINUTE,
            final_to_ms: Some(final_to * MINUTE),
            frontier_ms: Some(final_to * MINUTE),
            heartbeat_ms: Some(heard * MINUTE),
            backlog_passages: Some(0),
            ..Standing::default()
        },
        lacks_windows: false,
    }
}

/// A window with one vehicle.
fn window(revised: bool, revision: i64) -> WindowRow {
    let sums = Sums {
        n: 1,
        ..Sums::default()
    };
    let mut totals = Totals::default();
    totals.add(&sums, 0, &[]).unwrap();
    WindowRow {
        totals,
        revised,
        revision,
    }
}

/// The answer for the first 20 minutes, at a minute of that day.
fn answer(asked: &[&str], rows: &GroupRows, now: i64) -> GroupAnswer {
    let names: Vec<DeviceId> = asked
        .iter()
        .map(|name| DeviceId::new(name).unwrap())
        .collect();
    let to = Utc::from_millis(20 * MINUTE);
    let range = TimeRange::new(Utc::from_millis(0), to, Interval::FiveMinutes, 100).unwrap();
    GroupAnswer::new(&names, &range, rows, Utc::from_millis(now * MINUTE))
}

/// Start in minutes, units, those final, state.
fn shown(answer: &GroupAnswer) -> Vec<(i64, u64, u64, State)> {
    let entry = |window: &GroupWindow| {
        let start = window.start.as_millis() / MINUTE;
        (start, window.units, window.units_final, window.state)
    };
    answer.windows.iter().map(entry).collect()
}

#[test]
fn a_silent_unit_lowers_the_share_by_its_own_windows_alone() {
    let rows = GroupRows {
        units: vec![unit("KV1", 0, 20, 60), unit("KV2", 0, 5, 6)],
        windows: BTreeMap::from([(0, window(false, 2)), (10 * MINUTE, window(true, 3))]),
        ..GroupRows::default()
    };
    let answer = answer(&["KV1", "KV2", "KV3"], &rows, 60);
    assert_eq!(answer.kvfv, ["KV1", "KV2"]);
    assert_eq!(answer.unknown, ["KV3"]);
    let expected = [
        (0, 2, 2, State::Final),
        (5, 2, 1, State::Partial),
        (10, 2, 1, State::Partial),
        (15, 2, 1, State::Partial),
    ];
    assert_eq!(shown(&answer), expected);
    assert_eq!(answer.state, State::Partial);
    assert_eq!((answer.unit_windows, answer.unit_windows_final), (8, 5));
    assert_eq!(answer.final_share, Some(0.625));
    assert_eq!((answer.vehicles, answer.revision), (Some(2), Some(5)));
    let behind = UnitBehind {
        kvfv_id: "KV2".to_owned(),
        final_to: Some(Utc::from_millis(5 * MINUTE)),
        reasons: vec![Reason::UnitOffline {
            since: Utc::from_millis(6 * MINUTE),
        }],
    };
    assert_eq!(answer.behind, [behind]);
}

#[test]
fn a_unit_counts_from_its_first_sign_and_earlier_where_it_has_vehicles() {
    let rows = GroupRows {
        units: vec![unit("KV1", 0, 20, 60), unit("KV2", 12, 20, 60)],
        windows: BTreeMap::from([(0, window(false, 1))]),
        early: vec![EarlyWindow {
            device: "KV2".to_owned(),
            start_ms: 0,
        }],
        ..GroupRows::default()
    };
    let answer = answer(&["KV1", "KV2"], &rows, 60);
    let units: Vec<u64> = answer.windows.iter().map(|window| window.units).collect();
    assert_eq!(units, [2, 1, 2, 2]);
    assert_eq!(answer.final_share, Some(1.0));
    assert_eq!(answer.state, State::Final);
    assert_eq!(answer.behind, []);
}

#[test]
fn windows_that_are_merely_open_put_no_unit_behind() {
    let rows = GroupRows {
        units: vec![unit("KV1", 0, 5, 17)],
        ..GroupRows::default()
    };
    let answer = answer(&["KV1"], &rows, 17);
    // The window from 15 on has begun.
    let expected = [
        (0, 1, 1, State::Final),
        (5, 1, 0, State::Partial),
        (10, 1, 0, State::Partial),
        (15, 1, 0, State::Partial),
    ];
    assert_eq!(shown(&answer), expected);
    assert_eq!(answer.final_share, Some(0.25));
    assert_eq!(answer.behind, []);
}

#[test]
fn before_the_first_sign_of_any_unit_nothing_is_said() {
    let rows = GroupRows {
        units: vec![unit("KV1", 500, 500, 600)],
        ..GroupRows::default()
    };
    let answer = answer(&["KV1"], &rows, 600);
    assert_eq!(answer.windows, []);
    assert_eq!(answer.final_share, None);
    assert_eq!(answer.state, State::Final);
}

#[test]
fn a_loss_makes_the_windows_of_its_time_incomplete_and_holds_nothing_back() {
    let rows = GroupRows {
        units: vec![unit("KV1", 0, 20, 60)],
        losses: Losses::new(std::iter::once(5 * MINUTE..10 * MINUTE).collect()),
        ..GroupRows::default()
    };
    let answer = answer(&["KV1"], &rows, 60);
    let complete: Vec<bool> = answer
        .windows
        .iter()
        .map(|window| window.complete)
        .collect();
    assert_eq!(complete, [true, false, true, true]);
    assert!(!answer.complete);
    assert_eq!(
        (answer.state, answer.final_share),
        (State::Final, Some(1.0))
    );
}

#[test]
fn of_the_past_a_window_that_is_not_kept_has_no_numbers_and_neither_has_a_total_that_needs_it() {
    let mut rows = GroupRows {
        units: vec![unit("KV1", 0, 20, 60), unit("KV2", 0, 5, 6)],
        windows: BTreeMap::from([(0, window(false, 2)), (10 * MINUTE, window(true, 3))]),
        not_kept: BTreeSet::from([5 * MINUTE]),
        ..GroupRows::default()
    };
    rows.units[1].lacks_windows = true;
    let names = ["KV1", "KV2"].map(|name| DeviceId::new(name).unwrap());
    let to = Utc::from_millis(20 * MINUTE);
    let range = TimeRange::new(Utc::from_millis(0), to, Interval::FiveMinutes, 100).unwrap();
    let at = Utc::from_millis(60 * MINUTE);
    let past = GroupAnswer::past(&names, &range, &rows, at);
    assert_eq!(past.as_of, Some(at));
    let numbers: Vec<_> = past
        .windows
        .iter()
        .map(|window| (window.vehicles, window.revision))
        .collect();
    let expected = [
        (Some(1), Some(2)),
        (None, None),
        (Some(1), Some(3)),
        (Some(0), Some(0)),
    ];
    assert_eq!(numbers, expected);
    assert_eq!((past.vehicles, past.revision), (None, None));
    let reasons: Vec<ReasonKind> = past.behind[0].reasons.iter().map(Reason::kind).collect();
    assert_eq!(past.behind.len(), 1);
    assert_eq!(reasons, [ReasonKind::Unrecorded, ReasonKind::NotKept]);

    rows.filled = Some(window(false, 1).totals);
    let past = GroupAnswer::past(&names, &range, &rows, at);
    assert_eq!((past.vehicles, past.revision), (Some(3), None));
}
