use proto::Seq;
use proto::loss::{LossReason, LossScope};

use super::*;
use crate::uplink::frames::fixtures::{STREAM, buffer_state};

fn range(first: u64, count: u64) -> SeqRange {
    SeqRange::from_count(Seq::new(first).unwrap(), count).unwrap()
}

fn loss(first: u64) -> Loss {
    let (scope, reason) = (LossScope::All, LossReason::Quota);
    Loss {
        range: range(first, 5),
        scope,
        reason,
        event_min: None,
        event_max: None,
    }
}

fn notes(losses: &[Loss], summarised: u64) -> Notes {
    let mut state = buffer_state();
    state.losses = losses.iter().map(|loss| (STREAM, *loss)).collect();
    state.summarised = summarised;
    let mut notes = Notes::default();
    notes.observe(&state);
    notes
}

fn sent(notes: &mut Notes, now: Millis) {
    let note = notes.next(now).unwrap();
    assert!(matches!(note, Note::ReadSummary(STREAM, _)));
    notes.left(&note, now, 30_000);
    notes.summary_sent(STREAM, range(1, 10), range(1, 10).into(), 2, now + 30_000);
}

fn receipt(counted: u64) -> StreamReceipt {
    let counted: SeqSet = range(1, counted).into();
    StreamReceipt {
        stream: STREAM,
        stored: counted.clone(),
        counted,
        lost: SeqSet::new(),
        afresh: false,
    }
}

#[test]
fn losses_are_stated_again_only_when_they_change_or_stay() {
    let mut notes = notes(&[loss(1)], 0);
    let note = notes.next(0).unwrap();
    notes.left(&note, 0, 30_000);
    assert_eq!((notes.next(29_999), notes.timeout(0)), (None, Some(30_000)));
    assert_eq!(notes.next(30_000), Some(note));
    let mut state = buffer_state();
    state.losses = vec![(STREAM, loss(1)), (STREAM, loss(10))];
    notes.observe(&state);
    assert!(matches!(notes.next(1), Some(Note::Losses(_, losses)) if losses.len() == 2));
    state.losses.clear();
    notes.observe(&state);
    assert_eq!(notes.next(60_000), None);
}

#[test]
fn one_summary_is_on_its_way_until_its_receipt_or_deadline() {
    let mut notes = notes(&[], 10);
    sent(&mut notes, 0);
    assert_eq!(notes.next(29_999), None);
    assert!(!notes.settle(&receipt(9)));
    assert!(notes.settle(&receipt(10)));
    sent(&mut notes, 1);
    assert!(notes.next(30_001).is_some(), "overdue");
}

#[test]
fn passages_make_way_for_summaries_that_are_answered() {
    let mut notes = notes(&[], 10);
    let mut now = 0;
    for _ in 0..UNANSWERED_MAX {
        assert_eq!(notes.hold(now), Hold::All);
        sent(&mut notes, now);
        assert_eq!(notes.hold(now), Hold::Counted);
        notes.lose_all();
        now += 1_000;
    }
    assert_eq!(notes.hold(now), Hold::Nothing);
    sent(&mut notes, now);
    assert!(notes.settle(&receipt(10)));
    assert_eq!(notes.hold(now), Hold::All, "the next ones");
    notes.summary_absent(STREAM);
    assert_eq!(notes.hold(now), Hold::Nothing);
}

#[test]
fn refused_summaries_come_again_ever_more_slowly() {
    let mut notes = notes(&[], 10);
    for (now, wait) in [(0, 1_000), (1_000, 2_000)] {
        sent(&mut notes, now);
        assert!(
            notes.refused(STREAM, range(1, 9)).is_none(),
            "another range"
        );
        assert!(notes.refused(STREAM, range(1, 10)).is_some());
        notes.pause_summaries(now, |refusals| u64::from(refusals) * 1_000);
        assert_eq!(
            (notes.next(now), notes.timeout(now)),
            (None, Some(now + wait))
        );
    }
}

#[test]
fn after_a_refusal_entries_go_one_by_one_until_one_is_answered() {
    let mut notes = notes(&[], 10);
    let all = Some(Note::ReadSummary(STREAM, SUMMARY_ENTRIES_MAX));
    let one = Some(Note::ReadSummary(STREAM, 1));
    assert_eq!(notes.next(0), all);
    sent(&mut notes, 0);
    assert!(notes.refused(STREAM, range(1, 10)).is_some());
    notes.split();
    assert_eq!(notes.next(0), one);
    sent(&mut notes, 0);
    assert!(notes.refused(STREAM, range(1, 10)).is_some());
    notes.giving_up();
    assert_eq!(notes.next(0), None, "the buffer still has it");
    notes.given_up();
    assert_eq!(notes.next(0), one);
    sent(&mut notes, 0);
    assert!(notes.settle(&receipt(10)));
    assert_eq!(notes.next(0), all);
}

#[test]
fn a_stream_without_summaries_is_not_asked_again_until_something_changes() {
    let mut notes = notes(&[], 10);
    let note = notes.next(0).unwrap();
    notes.left(&note, 0, 30_000);
    notes.summary_absent(STREAM);
    assert_eq!(notes.next(0), None);
    notes.reopened();
    assert_eq!(
        notes.next(0),
        Some(note.clone()),
        "a store opened again is asked again"
    );
    notes.left(&note, 0, 30_000);
    notes.summary_absent(STREAM);
    let mut state = buffer_state();
    state.summarised = 11;
    notes.observe(&state);
    assert_eq!(notes.next(0), Some(note));
}
