//! What the centre makes of a unit's word of what it holds.

use proto::frame::Up;
use proto::header::Frontier;
use proto::heartbeat::{Backlog, CameraLink, Disk, Heartbeat, HeldStream};
use proto::limits::STREAMS_MAX;
use proto::loss::{Loss, LossReason, LossScope, Losses};
use proto::passage::{EventTime, Passage};
use proto::ranges::{Seq, SeqRange, SeqSet};

use super::plan::LossCause;
use crate::intake::decode::Message;
use crate::testing::{DAY, MemoryCentre, NOW, batch, header, message, passage, stream, summary};

const UNIT: &str = "KV1";

pub(super) fn range(first: u64, last: u64) -> SeqRange {
    SeqRange::new(Seq::new(first).unwrap(), Seq::new(last).unwrap()).unwrap()
}

pub(super) fn set(first: u64, last: u64) -> SeqSet {
    range(first, last).into()
}

pub(super) fn held(n: u8, accepted_to: u64, released: SeqSet, held: SeqSet) -> HeldStream {
    HeldStream {
        stream: stream(n),
        accepted_to,
        released,
        held,
    }
}

/// The `counter`-th word of the unit.
pub(super) fn heartbeat(counter: u64, held: Vec<HeldStream>) -> Message {
    let mut header = header(1, 1, 0, 0);
    header.frontier = Frontier {
        before: EventTime::from_millis(0),
        run: 1,
        counter,
    };
    let heartbeat = Heartbeat {
        held,
        backlog: Backlog::default(),
        camera: CameraLink::Unknown,
        clock_offset_ms: None,
        agent_version: String::new(),
        disk: Disk::default(),
    };
    message(UNIT, &header, &Up::Heartbeat(heartbeat))
}

pub(super) fn passages(count: i64) -> Vec<Passage> {
    (0..count)
        .map(|n| passage(NOW - n * 1_000, 5_000))
        .collect()
}

fn booked(centre: &MemoryCentre) -> Vec<(SeqRange, LossScope, &'static str)> {
    let losses = centre.losses.iter();
    losses
        .map(|loss| (loss.range, loss.scope, loss.cause.word()))
        .collect()
}

#[test]
fn what_a_unit_holds_is_no_loss_and_is_known_to_be_accepted() {
    let mut centre = MemoryCentre::new();
    let flushed = centre.flush(vec![heartbeat(
        1,
        vec![held(1, 50, SeqSet::new(), set(1, 50))],
    )]);
    assert_eq!(centre.cursor(UNIT, 1).accepted_to, 50);
    assert!(centre.losses.is_empty() && flushed.receipts.is_empty());
}

#[test]
fn a_stream_that_is_gone_from_the_inventory_with_a_gap_has_vanished() {
    let mut centre = MemoryCentre::new();
    centre.flush(vec![heartbeat(
        1,
        vec![held(1, 50, SeqSet::new(), set(1, 50))],
    )]);
    centre.flush(vec![batch(UNIT, 1, 1, &passages(10))]);
    let flushed = centre.flush(vec![heartbeat(2, Vec::new())]);
    assert_eq!(
        booked(&centre),
        [(range(11, 50), LossScope::All, "vanished")]
    );
    assert!(centre.cursor(UNIT, 1).is_settled());
    assert_eq!(flushed.tally.lost[&("all", "vanished")], 40);
    assert_eq!(
        centre.losses[0].event_min,
        Some(EventTime::from_millis(NOW - 60 * DAY))
    );
    assert_eq!(
        centre.losses[0].event_max,
        Some(EventTime::from_millis(NOW + 300_000))
    );
    // It is said once.
    centre.flush(vec![heartbeat(3, Vec::new())]);
    assert_eq!(centre.losses.len(), 1);
}

#[test]
fn what_vanished_frees_nothing_at_the_unit_and_is_lost_no_more_when_it_is_counted() {
    let mut centre = MemoryCentre::new();
    let sent = passages(50);
    centre.flush(vec![heartbeat(
        1,
        vec![held(1, 50, SeqSet::new(), set(1, 50))],
    )]);
    centre.flush(vec![heartbeat(2, Vec::new())]);
    let flushed = centre.flush(vec![batch(UNIT, 1, 1, &sent[..30])]);
    let receipt = &flushed.receipts[0].1.streams[0];
    assert_eq!(
        (&receipt.lost, &receipt.counted),
        (&SeqSet::new(), &set(1, 30))
    );
    assert_eq!(centre.recovered[0].range, range(1, 30));
    assert_eq!(flushed.tally.recovered, 30);
    assert_eq!(centre.cursor(UNIT, 1).lost, set(31, 50));
    // What the unit declares it may forget.
    let loss = Loss {
        range: range(31, 40),
        scope: LossScope::All,
        reason: LossReason::Operator,
        event_min: None,
        event_max: None,
    };
    let up = Up::Loss(Losses { losses: vec![loss] });
    let flushed = centre.flush(vec![message(UNIT, &header(1, 31, 10, 50), &up)]);
    assert_eq!(flushed.receipts[0].1.streams[0].lost, set(31, 40));
    assert_eq!(centre.losses.len(), 1, "it was booked before");
}

#[test]
fn an_older_word_a_list_that_is_full_and_a_cloned_identity_prove_nothing() {
    let open = || heartbeat(5, vec![held(1, 50, SeqSet::new(), set(1, 50))]);
    let mut centre = MemoryCentre::new();
    centre.flush(vec![open()]);
    centre.flush(vec![heartbeat(4, Vec::new())]);
    assert!(centre.losses.is_empty(), "an older word");

    let full = (1..=STREAMS_MAX).map(|n| {
        let n = u8::try_from(n).unwrap();
        held(100 + n, 0, SeqSet::new(), SeqSet::new())
    });
    centre.flush(vec![heartbeat(6, full.collect())]);
    assert!(centre.losses.is_empty(), "a list that may lack some");

    for n in 0..12_u64 {
        let stream = 2 + u8::try_from(n % 2).unwrap();
        centre.flush(vec![batch(UNIT, stream, 1 + n / 2, &passages(1))]);
    }
    assert!(centre.state(UNIT).finality.is_cloned(NOW));
    centre.flush(vec![heartbeat(7, Vec::new())]);
    assert!(centre.losses.is_empty(), "a cloned identity");
}

#[test]
fn a_database_put_back_in_time_asks_for_what_is_held_and_books_what_is_not() {
    let mut centre = MemoryCentre::new();
    let sent = passages(100);
    // It knows 1 to 40; the unit has receipts of 1 to 90 and let go of 1 to 60.
    centre.flush(vec![batch(UNIT, 1, 1, &sent[..40])]);
    let flushed = centre.flush(vec![heartbeat(
        1,
        vec![held(1, 100, set(1, 90), set(61, 100))],
    )]);
    assert_eq!(
        booked(&centre),
        [(range(41, 60), LossScope::All, "centre_lost")]
    );
    let receipt = &flushed.receipts[0].1.streams[0];
    assert!(receipt.afresh);
    assert_eq!(
        (&receipt.stored, &receipt.lost),
        (&set(1, 40), &SeqSet::new())
    );
    let flushed = centre.flush(vec![batch(UNIT, 1, 61, &sent[60..])]);
    assert!(!flushed.receipts[0].1.streams[0].afresh);
    let cursor = centre.cursor(UNIT, 1);
    assert!(cursor.is_settled() && cursor.lost == set(41, 60));
    // A copy of the unit's disk that turns up is counted after all.
    centre.flush(vec![batch(UNIT, 1, 41, &sent[40..60])]);
    assert!(centre.cursor(UNIT, 1).lost.is_empty());
}

#[test]
fn of_a_stream_that_the_database_forgot_altogether_the_same_holds() {
    let mut centre = MemoryCentre::new();
    let flushed = centre.flush(vec![heartbeat(
        1,
        vec![held(1, 100, set(1, 100), set(61, 100))],
    )]);
    assert_eq!(
        booked(&centre),
        [(range(1, 60), LossScope::All, LossCause::CentreLost.word())]
    );
    assert!(flushed.receipts[0].1.streams[0].afresh);
    assert_eq!(centre.cursor(UNIT, 1).open(), set(61, 100));
}

#[test]
fn numbers_beyond_what_a_newer_word_knows_of_have_vanished() {
    let mut centre = MemoryCentre::new();
    centre.flush(vec![heartbeat(
        1,
        vec![held(1, 100, SeqSet::new(), set(1, 100))],
    )]);
    // Its store was put back in time.
    centre.flush(vec![heartbeat(
        2,
        vec![held(1, 70, SeqSet::new(), set(1, 70))],
    )]);
    assert_eq!(
        booked(&centre),
        [(range(71, 100), LossScope::All, "vanished")]
    );
}

/// counted = stored + raw rows that are lost + raw rows that the unit still holds.
fn assert_rows_add_up(centre: &MemoryCentre, held: &SeqSet) {
    let cursor = centre.cursor(UNIT, 1);
    let of_scope = |ranges: &mut dyn Iterator<Item = (SeqRange, LossScope)>| -> SeqSet {
        ranges
            .filter(|(_, scope)| *scope == LossScope::RawOnly)
            .map(|(range, _)| range)
            .collect()
    };
    let lost = of_scope(&mut centre.losses.iter().map(|row| (row.range, row.scope)));
    let recovered = of_scope(&mut centre.recovered.iter().map(|row| (row.range, row.scope)));
    let rows: SeqSet = centre
        .raw_rows
        .keys()
        .map(|(_, seq)| range(*seq, *seq))
        .collect();
    let lost = lost.difference(&recovered);
    assert!(
        lost.is_disjoint(&rows),
        "{lost:?} are lost, {rows:?} are not"
    );
    let explained = rows.union(&lost).union(held);
    let missing = cursor.counted.difference(&explained);
    assert!(
        missing.is_empty(),
        "nobody explains the rows of {missing:?}"
    );
    assert!(centre.raw_rows.values().all(|times| *times == 1));
}

#[test]
fn raw_rows_that_a_summary_announced_and_the_unit_holds_no_more_are_lost() {
    let mut centre = MemoryCentre::new();
    let sent = passages(100);
    centre.flush(vec![summary(UNIT, set(1, 100), &sent)]);
    centre.flush(vec![batch(UNIT, 1, 1, &sent[..30])]);
    let known = |held| heartbeat(1, vec![self::held(1, 100, set(1, 30), held)]);
    centre.flush(vec![known(set(31, 100))]);
    assert!(booked(&centre).is_empty(), "they are on their way");
    assert_rows_add_up(&centre, &set(31, 100));
    // Its store was put back to before it accepted them.
    let put_back = |counter| heartbeat(counter, vec![held(1, 60, SeqSet::new(), set(1, 60))]);
    let flushed = centre.flush(vec![put_back(2)]);
    assert_eq!(
        booked(&centre),
        [(range(61, 100), LossScope::RawOnly, "vanished")]
    );
    assert_eq!(flushed.tally.lost[&("raw_only", "vanished")], 40);
    assert_rows_add_up(&centre, &set(31, 60));
    centre.flush(vec![put_back(3)]);
    assert_eq!(centre.losses.len(), 1, "it is said once");
}

#[test]
fn raw_rows_of_a_stream_that_is_gone_from_the_inventory_are_lost() {
    let mut centre = MemoryCentre::new();
    let sent = passages(100);
    centre.flush(vec![summary(UNIT, set(1, 100), &sent)]);
    // Other streams are settled since, more than are remembered.
    for n in 2..30 {
        centre.flush(vec![batch(UNIT, n, 1, &sent[..1])]);
    }
    centre.flush(vec![heartbeat(1, Vec::new())]);
    assert_eq!(
        booked(&centre),
        [(range(1, 100), LossScope::RawOnly, "vanished")]
    );
}

#[test]
fn raw_rows_that_were_called_lost_and_come_after_all_are_stored_and_lost_no_more() {
    let mut centre = MemoryCentre::new();
    let sent = passages(100);
    centre.flush(vec![summary(UNIT, set(1, 100), &sent)]);
    let windows = centre.windows(UNIT);
    // The unit has receipts of 1 to 20, which the database has forgotten.
    centre.flush(vec![heartbeat(
        1,
        vec![held(1, 100, set(1, 20), SeqSet::new())],
    )]);
    assert_eq!(
        booked(&centre),
        [
            (range(1, 20), LossScope::RawOnly, "centre_lost"),
            (range(21, 100), LossScope::RawOnly, "vanished")
        ]
    );
    let flushed = centre.flush(vec![batch(UNIT, 1, 11, &sent[10..50])]);
    let receipt = &flushed.receipts[0].1.streams[0];
    assert_eq!(
        receipt.stored,
        set(11, 50),
        "what was lost is not called settled"
    );
    assert_eq!((flushed.tally.stored, flushed.tally.recovered), (40, 40));
    assert_eq!(centre.windows(UNIT), windows, "they were counted before");
    assert_rows_add_up(&centre, &SeqSet::new());
    // What the unit declares of the rest was booked before, and may be forgotten.
    let loss = Loss {
        range: range(51, 100),
        scope: LossScope::RawOnly,
        reason: LossReason::Quota,
        event_min: None,
        event_max: None,
    };
    let up = Up::Loss(Losses { losses: vec![loss] });
    let flushed = centre.flush(vec![message(UNIT, &header(1, 51, 50, 100), &up)]);
    assert_eq!(flushed.receipts[0].1.streams[0].stored, set(11, 100));
    assert_eq!(centre.losses.len(), 2);
    assert_rows_add_up(&centre, &SeqSet::new());
}
