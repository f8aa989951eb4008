use proto::loss::{LossReason, LossScope};

use super::*;

fn range(first: u64, last: u64) -> SeqRange {
    SeqRange::new(Seq::new(first).unwrap(), Seq::new(last).unwrap()).unwrap()
}

fn chunk(first: u64, last: u64) -> ChunkMeta {
    ChunkMeta {
        range: range(first, last),
        event_min: EventTime::from_millis(i64::try_from(first).unwrap()),
        event_max: EventTime::from_millis(i64::try_from(last).unwrap()),
        bytes: 100,
    }
}

fn stream() -> Stream {
    let mut stream = Stream::new(StreamId::from_bytes([1; 16]), Marks::default());
    stream.marks.accepted_to = 30;
    [chunk(1, 10), chunk(11, 20), chunk(21, 30)]
        .into_iter()
        .for_each(|c| stream.push(c));
    stream
}

fn receipt(counted: &[SeqRange], stored: &[SeqRange], lost: &[SeqRange]) -> StreamReceipt {
    let set = |ranges: &[SeqRange]| ranges.iter().copied().collect();
    StreamReceipt {
        stream: StreamId::from_bytes([1; 16]),
        counted: set(counted),
        stored: set(stored),
        lost: set(lost),
        afresh: false,
    }
}

#[test]
fn what_is_stored_is_no_longer_unsent_and_what_is_only_counted_still_is() {
    let mut stream = stream();
    stream.receipt(&receipt(&[range(1, 20)], &[range(1, 10)], &[]));
    assert_eq!(stream.unsent(), &SeqSet::from(range(11, 30)));
    assert_eq!(stream.unsent_bytes, 200);
    assert_eq!(stream.oldest_unsent(), Some(EventTime::from_millis(11)));
    assert_eq!(
        stream.newest_unsent(),
        stream.chunks.back().map(|c| c.event_max)
    );
    assert_eq!(stream.oldest_uncounted(), Some(EventTime::from_millis(21)));
}

#[test]
fn a_later_timeline_makes_everything_held_unsent_again() {
    let mut stream = stream();
    stream.receipt(&receipt(&[range(1, 30)], &[range(1, 30)], &[]));
    assert!(stream.is_settled());
    stream.pop_front();
    stream.forget_receipts();
    assert_eq!(stream.unsent(), &SeqSet::from(range(11, 30)));
}

fn losses(stream: &Stream) -> Vec<(SeqRange, LossScope)> {
    let losses = stream.losses.iter();
    losses.map(|loss| (loss.range, loss.scope)).collect()
}

#[test]
fn what_is_stored_is_not_declared_and_neighbours_become_one() {
    let mut stream = stream();
    stream.receipt(&receipt(&[range(5, 12)], &[range(5, 7)], &[]));
    stream.declare(&chunk(1, 10), range(1, 10), LossReason::Quota, true);
    stream.declare(&chunk(11, 20), range(11, 20), LossReason::Quota, true);
    let raw_only = [
        (range(1, 4), LossScope::RawOnly),
        (range(8, 20), LossScope::RawOnly),
    ];
    assert_eq!(losses(&stream), raw_only);
}

#[test]
fn without_a_summary_only_counted_numbers_are_lost_raw_only() {
    let mut stream = stream();
    stream.receipt(&receipt(&[range(1, 4)], &[], &[]));
    stream.declare(&chunk(1, 10), range(1, 10), LossReason::Corrupt, false);
    let kinds = [
        (range(1, 4), LossScope::RawOnly),
        (range(5, 10), LossScope::All),
    ];
    assert_eq!(losses(&stream), kinds);
}

#[test]
fn what_is_offered_again_is_lost_no_more_until_it_is_refused_anew() {
    let mut stream = stream();
    stream.declare(&chunk(1, 10), range(1, 10), LossReason::Refused, false);
    stream.pop_front();
    let booked = receipt(&[], &[], &[range(1, 10)]);
    stream.receipt(&booked);
    assert!(stream.losses.is_empty());
    stream.offer_again(chunk(1, 10));
    stream.receipt(&booked);
    assert_eq!(stream.unsent(), &SeqSet::from(range(1, 30)));
    assert_eq!(
        stream.oldest_uncounted(),
        Some(EventTime::from_millis(11)),
        "it holds no window back"
    );
    stream.receipt(&receipt(&[range(1, 4)], &[range(1, 4)], &[range(5, 10)]));
    assert_eq!(stream.again(), &SeqSet::from(range(5, 10)));
    stream.declare(&chunk(5, 10), range(5, 10), LossReason::Refused, false);
    assert_eq!(losses(&stream), [(range(5, 10), LossScope::All)]);
    stream.receipt(&receipt(&[range(1, 5)], &[range(1, 5)], &[range(6, 10)]));
    assert!(stream.losses.is_empty() && stream.again().is_empty());
}

#[test]
fn a_receipt_frees_what_it_books() {
    let mut stream = stream();
    stream.declare(&chunk(1, 10), range(1, 10), LossReason::Corrupt, false);
    stream.declare(&chunk(11, 20), range(11, 20), LossReason::Quota, true);
    stream.receipt(&receipt(&[range(4, 20)], &[], &[range(1, 3)]));
    // 4 to 10 were declared as lost altogether, but had been counted: their raw rows are lost.
    let kept = [
        (range(4, 10), LossScope::RawOnly),
        (range(11, 20), LossScope::RawOnly),
    ];
    assert_eq!(losses(&stream), kept);
    stream.receipt(&receipt(&[range(4, 20)], &[range(4, 20)], &[range(1, 3)]));
    assert!(stream.losses.is_empty());
}
