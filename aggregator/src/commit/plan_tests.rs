//! What the plan promises: every passage counted once and in its window, whatever is resent,
//! overlapping, reordered, summarised, lost or too late.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proto::batch::PassageBatch;
use proto::device::{DeviceId, StreamId};
use proto::frame::Up;
use proto::header::Frontier;
use proto::limits::{
    CURSOR_RANGES_MAX, LOSSES_MAX, NEW_STREAMS_PER_DAY_MAX, RANGES_MAX, STREAMS_MAX,
    WINDOW_PASSAGES_MAX,
};
use proto::loss::{Loss, LossReason, LossScope, Losses};
use proto::passage::{EventTime, Passage};
use proto::ranges::{Seq, SeqRange, SeqSet};
use proto::receipt::{RefusalClass, RefusalReason};
use proto::window::{BUCKET_MS, Bucket, SpeedStats, fold};

use crate::testing::{DAY, MemoryCentre, NOW, batch, header, message, passage, stream, summary};
use crate::window::lateness::Rejection;
use crate::window::rollup::{Length, WindowId};
use crate::window::state::Window;

const UNIT: &str = "KV1";

fn range(first: u64, last: u64) -> SeqRange {
    SeqRange::new(Seq::new(first).unwrap(), Seq::new(last).unwrap()).unwrap()
}

fn set(first: u64, last: u64) -> SeqSet {
    range(first, last).into()
}

/// `count` passages, one a second, the last one now.
fn passages(count: i64) -> Vec<Passage> {
    (0..count)
        .map(|n| {
            passage(
                NOW - (count - 1 - n) * 1_000,
                5_000 + u16::try_from(n).unwrap(),
            )
        })
        .collect()
}

fn loss(range: SeqRange, scope: LossScope, accepted_to: u64) -> crate::intake::decode::Message {
    let loss = Loss {
        range,
        scope,
        reason: LossReason::Quota,
        event_min: None,
        event_max: None,
    };
    let losses = Losses { losses: vec![loss] };
    message(UNIT, &header(1, 1, 0, accepted_to), &Up::Loss(losses))
}

/// What the windows must hold, one passage at a time.
fn recomputed(passages: &[Passage]) -> BTreeMap<WindowId, SpeedStats> {
    let mut windows: BTreeMap<WindowId, SpeedStats> = BTreeMap::new();
    for passage in passages {
        let alone: PassageBatch = std::iter::once(passage.clone()).collect();
        for delta in fold(&alone, |_| true) {
            for length in Length::ALL {
                let window = windows
                    .entry(WindowId::over(length, delta.bucket))
                    .or_default();
                window.merge(&delta.stats);
            }
        }
    }
    windows
}

fn stats(windows: BTreeMap<WindowId, Window>) -> BTreeMap<WindowId, SpeedStats> {
    windows
        .into_iter()
        .map(|(id, window)| (id, window.stats))
        .collect()
}

#[test]
fn a_resent_batch_is_counted_once_and_receipted_again() {
    let mut centre = MemoryCentre::new();
    let sent = passages(10);
    for turn in 0..3 {
        let flushed = centre.flush(vec![batch(UNIT, 1, 1, &sent)]);
        assert_eq!(
            flushed.receipts[0].1.streams[0].counted,
            set(1, 10),
            "{turn}"
        );
        assert_eq!(flushed.tally.duplicate, if turn == 0 { 0 } else { 10 });
    }
    assert_eq!(stats(centre.windows(UNIT)), recomputed(&sent));
    assert!(centre.raw_rows.len() == 10 && centre.raw_rows.values().all(|times| *times == 1));
}

#[test]
fn a_batch_delivered_three_times_in_one_flush_is_counted_once() {
    let mut centre = MemoryCentre::new();
    let sent = passages(10);
    let flushed = centre.flush((0..3).map(|_| batch(UNIT, 1, 1, &sent)).collect());
    assert_eq!((flushed.tally.counted, flushed.tally.duplicate), (10, 20));
    assert_eq!(
        flushed.receipts.len(),
        1,
        "one receipt for a device and flush"
    );
    assert_eq!(stats(centre.windows(UNIT)), recomputed(&sent));
}

#[test]
fn of_an_overlapping_batch_only_the_new_numbers_are_counted() {
    let mut centre = MemoryCentre::new();
    let sent = passages(30);
    centre.flush(vec![batch(UNIT, 1, 11, &sent[10..20])]);
    let flushed = centre.flush(vec![batch(UNIT, 1, 1, &sent)]);
    assert_eq!((flushed.tally.counted, flushed.tally.duplicate), (20, 10));
    assert_eq!(stats(centre.windows(UNIT)), recomputed(&sent));
    assert_eq!(centre.raw_rows.len(), 30);
}

#[test]
fn a_flush_that_was_lost_leaves_no_trace() {
    let mut centre = MemoryCentre::new();
    let sent = passages(10);
    centre.flush_in_vain(vec![batch(UNIT, 1, 1, &sent)]);
    assert!(centre.windows(UNIT).is_empty());
    centre.flush(vec![batch(UNIT, 1, 1, &sent)]);
    assert_eq!(stats(centre.windows(UNIT)), recomputed(&sent));
    assert!(centre.windows(UNIT).values().all(|window| window.rev == 1));
}

#[test]
fn passages_beyond_the_horizon_go_to_the_side_table_and_are_settled() {
    let mut centre = MemoryCentre::new();
    let mut sent = passages(4);
    sent[1] = passage(NOW - 61 * DAY, 1);
    sent[2] = passage(NOW + 300_001, 1);
    let flushed = centre.flush(vec![batch(UNIT, 1, 1, &sent)]);
    assert_eq!(flushed.receipts[0].1.streams[0].stored, set(1, 4));
    let reasons: Vec<_> = centre
        .rejected
        .iter()
        .map(|row| (row.seq, row.reason))
        .collect();
    assert_eq!(reasons, [(2, Rejection::TooOld), (3, Rejection::TooNew)]);
    assert_eq!(
        stats(centre.windows(UNIT)),
        recomputed(&[sent[0].clone(), sent[3].clone()])
    );
    let raw: Vec<u64> = centre.raw_rows.keys().map(|(_, seq)| *seq).collect();
    assert_eq!(
        raw,
        [1, 4],
        "what no window took is in the side table alone"
    );
}

#[test]
fn the_side_table_is_capped_for_each_device_and_day() {
    let mut centre = MemoryCentre::new();
    centre.rejected_per_day_max = 3;
    let old: Vec<Passage> = (0..5).map(|n| passage(n, 1)).collect();
    centre.flush(vec![batch(UNIT, 1, 1, &old)]);
    assert_eq!(
        (centre.rejected.len(), centre.state(UNIT).today.rejected),
        (3, 5)
    );
    assert_eq!(centre.cursor(UNIT, 1).counted, set(1, 5));
    let unkept: Vec<_> = centre
        .unkept
        .iter()
        .map(|(key, row)| (key.scope(), row.range, row.passages))
        .collect();
    assert_eq!(
        unkept,
        [("rejected", range(4, 5), 2)],
        "the ledger names the others"
    );
    centre.now_ms += DAY;
    centre.flush(vec![batch(UNIT, 1, 6, &old)]);
    assert_eq!(
        (centre.rejected.len(), centre.state(UNIT).today.rejected),
        (6, 5)
    );
}

#[test]
fn a_full_window_sends_the_rest_to_the_side_table() {
    let mut centre = MemoryCentre::new();
    let sent = vec![passage(NOW, 100); 5];
    centre.flush(vec![batch(UNIT, 1, 1, &sent[..1])]);
    let device = DeviceId::new(UNIT).unwrap();
    let bucket = Bucket::of(EventTime::from_millis(NOW));
    let id = WindowId::over(Length::Minutes5, bucket);
    let mut window = centre.windows(UNIT)[&id].clone();
    window.stats.n = WINDOW_PASSAGES_MAX - 2;
    centre.memory.learn_window(&device, id, window);
    let flushed = centre.flush(vec![batch(UNIT, 1, 2, &sent[1..])]);
    assert_eq!(
        flushed.tally.rejected,
        BTreeMap::from([(Rejection::WindowFull, 2)])
    );
    assert_eq!(centre.windows(UNIT)[&id].stats.n, WINDOW_PASSAGES_MAX);
    assert_eq!(centre.cursor(UNIT, 1).counted, set(1, 5));
}

#[test]
fn a_device_changes_at_most_64_windows_in_a_flush_and_comes_to_its_end() {
    let mut centre = MemoryCentre::new();
    let sent: Vec<Passage> = (0..150)
        .map(|n| passage(NOW - n * BUCKET_MS, 5_000))
        .collect();
    let flushed = centre.flush(vec![
        batch(UNIT, 1, 1, &sent[..140]),
        batch(UNIT, 1, 141, &sent[140..]),
    ]);
    assert_eq!(flushed.transactions, 3);
    assert_eq!(stats(centre.windows(UNIT)), recomputed(&sent));
    assert_eq!(centre.cursor(UNIT, 1).counted, set(1, 150));
    assert!(centre.raw_rows.len() == 150 && centre.raw_rows.values().all(|times| *times == 1));
}

#[test]
fn passages_after_their_summary_are_stored_and_not_counted_again() {
    let mut centre = MemoryCentre::new();
    let sent = passages(10);
    let flushed = centre.flush(vec![summary(UNIT, set(1, 10), &sent)]);
    let receipt = &flushed.receipts[0].1.streams[0];
    assert_eq!(
        (&receipt.counted, &receipt.stored),
        (&set(1, 10), &SeqSet::new())
    );
    let flushed = centre.flush(vec![batch(UNIT, 1, 1, &sent)]);
    assert_eq!((flushed.tally.stored, flushed.tally.counted), (10, 0));
    assert_eq!(flushed.receipts[0].1.streams[0].stored, set(1, 10));
    assert_eq!(stats(centre.windows(UNIT)), recomputed(&sent));
    assert_eq!(centre.raw_rows.len(), 10);
}

#[test]
fn without_raw_rows_what_is_counted_is_stored() {
    let mut centre = MemoryCentre::new();
    centre.raw = false;
    let sent = passages(20);
    centre.flush(vec![
        summary(UNIT, set(1, 10), &sent[..10]),
        batch(UNIT, 1, 11, &sent[10..]),
    ]);
    assert_eq!(centre.cursor(UNIT, 1).stored, set(1, 20));
    assert!(centre.raw_rows.is_empty());
}

#[test]
fn a_summary_that_overlaps_is_to_be_rebuilt_and_one_that_is_contained_is_receipted() {
    let mut centre = MemoryCentre::new();
    let sent = passages(10);
    centre.flush(vec![batch(UNIT, 1, 1, &sent[..5])]);
    let flushed = centre.flush(vec![summary(UNIT, set(4, 10), &sent[3..])]);
    let refusal = &flushed.refusals[0].1;
    assert_eq!(
        (refusal.class, refusal.reason, &refusal.counted),
        (
            RefusalClass::Reshape,
            RefusalReason::Overlap,
            &Some(set(1, 5))
        )
    );
    let flushed = centre.flush(vec![summary(UNIT, set(2, 4), &sent[1..4])]);
    assert!(flushed.refusals.is_empty());
    assert_eq!(flushed.receipts[0].1.streams[0].counted, set(1, 5));
    assert_eq!(stats(centre.windows(UNIT)), recomputed(&sent[..5]));
}

#[test]
fn a_summary_near_the_end_of_the_horizon_is_to_be_sent_raw() {
    let mut centre = MemoryCentre::new();
    let old = [passage(NOW - 59 * DAY, 1)];
    let flushed = centre.flush(vec![summary(UNIT, set(1, 1), &old)]);
    assert_eq!(flushed.refusals[0].1.reason, RefusalReason::Horizon);
    assert!(centre.windows(UNIT).is_empty());
}

#[test]
fn losses_are_booked_without_what_is_counted_and_recovered_when_they_arrive() {
    let mut centre = MemoryCentre::new();
    let sent = passages(10);
    centre.flush(vec![batch(UNIT, 1, 4, &sent[3..6])]);
    let flushed = centre.flush(vec![loss(range(1, 10), LossScope::All, 10)]);
    let booked: Vec<SeqRange> = centre.losses.iter().map(|row| row.range).collect();
    assert_eq!(booked, [range(1, 3), range(7, 10)]);
    assert_eq!(flushed.receipts[0].1.streams[0].lost.count(), 7);
    centre.flush(vec![loss(range(1, 10), LossScope::All, 10)]);
    assert_eq!(centre.losses.len(), 2, "booked once");
    centre.flush(vec![batch(UNIT, 1, 1, &sent)]);
    let recovered: Vec<SeqRange> = centre.recovered.iter().map(|row| row.range).collect();
    assert_eq!(recovered, booked);
    assert!(centre.cursor(UNIT, 1).lost.is_empty());
    assert_eq!(stats(centre.windows(UNIT)), recomputed(&sent));
}

/// Islands of `width` numbers, with a hole of one number after each.
fn holes(count: u64, width: u64) -> Vec<SeqRange> {
    (1..=count)
        .map(|n| range(n * (width + 1), n * (width + 1)))
        .collect()
}

fn losses(of: &[SeqRange], accepted_to: u64) -> crate::intake::decode::Message {
    let loss = |range: &SeqRange| Loss {
        range: *range,
        scope: LossScope::All,
        reason: LossReason::Corrupt,
        event_min: None,
        event_max: None,
    };
    let losses = Losses {
        losses: of.iter().map(loss).collect(),
    };
    message(UNIT, &header(1, 1, 0, accepted_to), &Up::Loss(losses))
}

#[test]
fn a_stream_with_hundreds_of_lost_holes_drains() {
    let mut centre = MemoryCentre::new();
    let holes = holes(300, 2);
    let accepted_to = holes[299].last().get();
    let sent = passages(600);
    for stated in holes.chunks(LOSSES_MAX) {
        assert!(
            centre
                .flush(vec![losses(stated, accepted_to)])
                .refusals
                .is_empty()
        );
    }
    for (island, hole) in holes.iter().enumerate() {
        let first = hole.first().get() - 2;
        let part = &sent[island * 2..island * 2 + 2];
        let flushed = centre.flush(vec![batch(UNIT, 1, first, part)]);
        assert!(
            flushed.refusals.is_empty(),
            "island {island}: {:?}",
            flushed.refusals
        );
        let receipt = &flushed.receipts[0].1.streams[0];
        assert!(
            receipt.stored.contains_range(range(first, first + 1)),
            "island {island} is answered"
        );
        let sets = [&receipt.counted, &receipt.stored, &receipt.lost];
        assert!(sets.iter().all(|set| set.range_count() <= RANGES_MAX));
    }
    assert!(centre.cursor(UNIT, 1).is_settled());
    assert_eq!(stats(centre.windows(UNIT)), recomputed(&sent));
    assert_eq!(centre.losses.len(), 300);
}

#[test]
fn receipts_say_of_many_losses_first_those_that_were_stated() {
    let mut centre = MemoryCentre::new();
    let mut unheard = holes(300, 2);
    let accepted_to = unheard[299].last().get();
    while !unheard.is_empty() {
        let stated = &unheard[..unheard.len().min(LOSSES_MAX)];
        let flushed = centre.flush(vec![losses(stated, accepted_to)]);
        let lost = &flushed.receipts[0].1.streams[0].lost;
        let before = unheard.len();
        unheard.retain(|hole| !lost.contains_range(*hole));
        assert!(
            unheard.len() < before,
            "{before} losses are stated for ever"
        );
    }
    assert_eq!(centre.losses.len(), 300, "each is booked once");
}

#[test]
fn of_more_losses_than_a_cursor_takes_those_that_fit_are_booked_with_it() {
    let mut centre = MemoryCentre::new();
    let most = CURSOR_RANGES_MAX as u64;
    let holes = holes(most + 10, 2);
    let accepted_to = holes.last().unwrap().last().get();
    for _ in 0..2 {
        for stated in holes.chunks(LOSSES_MAX) {
            centre.flush(vec![losses(stated, accepted_to)]);
        }
    }
    let refused = centre.flush(vec![losses(&holes[CURSOR_RANGES_MAX..], accepted_to)]);
    let refusal = &refused.refusals[0].1;
    assert_eq!(
        (refusal.class, refusal.reason),
        (RefusalClass::Later, RefusalReason::Cap)
    );
    let booked: SeqSet = centre.losses.iter().map(|row| row.range).collect();
    assert_eq!(
        centre.cursor(UNIT, 1).lost,
        booked,
        "the ledger has what the cursor has"
    );
    assert_eq!(
        centre.losses.len(),
        CURSOR_RANGES_MAX,
        "and each of them once"
    );
}

#[test]
fn raw_passages_that_are_lost_are_settled_for_what_is_counted() {
    let mut centre = MemoryCentre::new();
    centre.flush(vec![summary(UNIT, set(1, 5), &passages(5))]);
    centre.flush(vec![loss(range(1, 9), LossScope::RawOnly, 9)]);
    assert_eq!(centre.cursor(UNIT, 1).stored, set(1, 5));
    assert_eq!(centre.losses[0].range, range(1, 5));
}

#[test]
fn more_unfinished_streams_than_allowed_are_put_off() {
    let mut centre = MemoryCentre::new();
    let streams = u8::try_from(STREAMS_MAX).unwrap() + 1;
    let messages = (1..=streams)
        .map(|n| batch(UNIT, n, 2, &passages(1)))
        .collect();
    let flushed = centre.flush(messages);
    assert_eq!(flushed.refusals.len(), 1);
    let refusal = &flushed.refusals[0].1;
    assert_eq!(
        (refusal.class, refusal.reason),
        (RefusalClass::Later, RefusalReason::Cap)
    );
    assert_eq!(flushed.tally.refused, 1);
    // Once a gap is filled, the stream is finished, and another may begin.
    centre.flush(vec![batch(UNIT, 1, 1, &passages(1))]);
    let flushed = centre.flush(vec![batch(UNIT, streams, 2, &passages(1))]);
    assert!(flushed.refusals.is_empty());
}

#[test]
fn a_unit_that_begins_a_thousand_streams_a_day_is_put_off() {
    let mut centre = MemoryCentre::new();
    let send = |stream: usize, first: u64, accepted_to: u64| {
        let mut header = header(1, first, 1, accepted_to);
        header.stream = StreamId::from_bytes((stream as u128).to_le_bytes());
        let up = Up::Passages(passages(1).into_iter().collect());
        message(UNIT, &header, &up)
    };
    // One that goes on, and others that end with their first passage.
    centre.flush(vec![send(0, 1, 2)]);
    for stream in 1..NEW_STREAMS_PER_DAY_MAX {
        let flushed = centre.flush(vec![send(stream, 1, 1)]);
        assert!(flushed.refusals.is_empty(), "stream {stream}");
    }
    let flushed = centre.flush(vec![send(NEW_STREAMS_PER_DAY_MAX, 1, 1), send(0, 2, 2)]);
    assert_eq!(flushed.refusals.len(), 1, "a stream that is known goes on");
    let refusal = &flushed.refusals[0].1;
    assert_eq!(
        (refusal.class, refusal.reason),
        (RefusalClass::Later, RefusalReason::Cap)
    );
}

#[test]
fn a_final_window_that_changes_is_revised() {
    let mut centre = MemoryCentre::new();
    let late = passage(NOW - 2 * BUCKET_MS, 1);
    let mut stating = header(1, 1, 1, 2);
    stating.frontier = Frontier {
        before: EventTime::from_millis(NOW),
        run: 1,
        counter: 1,
    };
    let up = Up::Passages(std::iter::once(late.clone()).collect());
    centre.flush(vec![message(UNIT, &stating, &up)]);
    assert!(
        centre.windows(UNIT).values().all(|window| !window.revised),
        "not final before"
    );
    centre.flush(vec![batch(UNIT, 1, 2, &[late])]);
    let revised: Vec<Length> = centre
        .windows(UNIT)
        .iter()
        .filter(|(_, window)| window.revised)
        .map(|(id, _)| id.length)
        .collect();
    assert_eq!(
        revised,
        [Length::Minutes5],
        "the hour and the day have not ended yet"
    );
}

#[test]
fn a_refused_body_is_answered_by_its_range() {
    let mut centre = MemoryCentre::new();
    let garbage = message(
        UNIT,
        &header(1, 1, 5, 9),
        &Up::Passages(passages(4).into_iter().collect()),
    );
    let flushed = centre.flush(vec![garbage, batch(UNIT, 1, 6, &passages(2))]);
    let refusal = &flushed.refusals[0].1;
    assert_eq!(
        (refusal.class, refusal.range),
        (RefusalClass::Never, Some(range(1, 5)))
    );
    assert_eq!(
        refusal.counted,
        Some(set(6, 7)),
        "with the committed cursor"
    );
    assert_eq!(flushed.tally.counted, 2);
}

#[test]
fn devices_do_not_hold_each_other_up() {
    let mut centre = MemoryCentre::new();
    let backlog: Vec<Passage> = (0..100).map(|n| passage(NOW - n * BUCKET_MS, 1)).collect();
    let messages = vec![
        batch("KV1", 1, 1, &backlog),
        batch("KV2", 1, 1, &passages(3)),
    ];
    let flushed = centre.flush(messages);
    assert_eq!(
        flushed
            .receipts
            .iter()
            .filter(|(device, _)| device.as_str() == "KV2")
            .count(),
        1
    );
    assert_eq!(
        flushed
            .receipts
            .iter()
            .filter(|(device, _)| device.as_str() == "KV1")
            .count(),
        2
    );
}

/// What may happen between the unit and the centre.
#[derive(Debug, Clone)]
enum Operation {
    /// Numbers of a batch, from and how many.
    Send(u64, u64),
    /// A sealed summary of numbers.
    Summarise(u64, u64),
    /// A commit.
    Flush,
    /// The database goes away in mid-flush; what was at hand is sent again or not.
    ConnectionLost,
}

const NUMBERS: u64 = 60;
const PASSAGES: usize = 60;

fn place(number: u64) -> usize {
    usize::try_from(number).unwrap() - 1
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let part = (1..=NUMBERS, 1..=20_u64)
        .prop_map(|(first, count)| (first, count.min(NUMBERS - first + 1)));
    let operation = prop_oneof![
        5 => part.clone().prop_map(|(first, count)| Operation::Send(first, count)),
        1 => part.prop_map(|(first, count)| Operation::Summarise(first, count)),
        2 => Just(Operation::Flush),
        1 => Just(Operation::ConnectionLost),
    ];
    proptest::collection::vec(operation, 1..40)
}

/// In order but for some that are minutes or hours late, or too late for any window.
fn traffic() -> impl Strategy<Value = Vec<Passage>> {
    let one = (
        prop_oneof![6 => 0..600_000_i64, 2 => 0..8 * 3_600_000_i64, 1 => 61 * DAY..62 * DAY],
        proptest::option::of(0..=40_000_u16),
    );
    proptest::collection::vec(one, PASSAGES).prop_map(|all| {
        let made = all.into_iter().map(|(age, ckmh)| Passage {
            speed: ckmh.and_then(proto::Speed::from_centi_kmh),
            ..passage(NOW - age, 0)
        });
        made.collect()
    })
}

proptest! {
    #[test]
    fn any_delivery_of_the_same_passages_gives_the_same_windows(
        sent in traffic(),
        operations in operations(),
        raw in any::<bool>(),
    ) {
        let mut centre = MemoryCentre::new();
        centre.raw = raw;
        let of = |first: u64, count: u64| &sent[place(first)..place(first + count)];
        let mut hand = Vec::new();
        for operation in operations {
            match operation {
                Operation::Send(first, count) => {
                    hand.push(batch(UNIT, 1, first, of(first, count)));
                }
                Operation::Summarise(first, count) => {
                    let old = of(first, count).iter().any(|p| p.event_time.as_millis() < NOW - DAY);
                    if !old {
                        hand.push(summary(UNIT, set(first, first + count - 1), of(first, count)));
                    }
                }
                Operation::Flush => {
                    centre.flush(std::mem::take(&mut hand));
                }
                Operation::ConnectionLost => {
                    centre.flush_in_vain(std::mem::take(&mut hand));
                }
            }
        }
        hand.push(batch(UNIT, 1, 1, &sent));
        centre.flush(hand);

        let (in_time, late): (Vec<_>, Vec<_>) = sent
            .iter()
            .cloned()
            .enumerate()
            .partition(|(_, passage)| passage.event_time.as_millis() >= NOW - 60 * DAY);
        let counted: Vec<Passage> = in_time.iter().map(|(_, passage)| passage.clone()).collect();
        prop_assert_eq!(stats(centre.windows(UNIT)), recomputed(&counted));
        prop_assert_eq!(&centre.cursor(UNIT, 1).counted, &set(1, NUMBERS));
        prop_assert_eq!(&centre.cursor(UNIT, 1).stored, &set(1, NUMBERS));
        let rejected: BTreeSet<u64> = centre.rejected.iter().map(|row| row.seq).collect();
        prop_assert_eq!(rejected.len(), centre.rejected.len());
        let expected: BTreeSet<u64> = late.iter().map(|(place, _)| *place as u64 + 1).collect();
        prop_assert_eq!(rejected, expected);
        prop_assert!(centre.raw_rows.values().all(|times| *times == 1));
        let expected = if raw { in_time.len() } else { 0 };
        prop_assert_eq!(centre.raw_rows.len(), expected);
    }

    #[test]
    fn streams_do_not_mix(sent in traffic()) {
        let mut centre = MemoryCentre::new();
        let two = vec![batch(UNIT, 1, 1, &sent), batch(UNIT, 2, 1, &sent)];
        centre.flush(two);
        prop_assert_eq!(&centre.state(UNIT).cursors[&stream(1)].counted, &set(1, NUMBERS));
        prop_assert_eq!(&centre.state(UNIT).cursors[&stream(2)].counted, &set(1, NUMBERS));
        let total: u32 = centre
            .windows(UNIT)
            .iter()
            .filter(|(id, _)| id.length == Length::Hours24)
            .map(|(_, window)| window.stats.n)
            .sum();
        let once = centre.rejected.len() as u64 / 2;
        prop_assert_eq!(u64::from(total), 2 * (NUMBERS - once));
    }
}
