use super::*;

const WAIT_MS: Millis = 250;

fn range(first: u64, last: u64) -> SeqRange {
    SeqRange::new(Seq::new(first).unwrap(), Seq::new(last).unwrap()).unwrap()
}

fn state(accepted_to: u64, current: bool) -> StreamState {
    let unsent: SeqSet = range(1, accepted_to).into();
    StreamState {
        id: StreamId::from_bytes([1; 16]),
        current,
        accepted_to,
        offered: SeqSet::new(),
        kept: SeqSet::new(),
        held: unsent.clone(),
        unsent,
        summed: SeqSet::new(),
        counted: SeqSet::new(),
        stored: SeqSet::new(),
        lost: SeqSet::new(),
        again: SeqSet::new(),
        oldest_unsent: None,
    }
}

fn queue(now: Millis, accepted_to: u64) -> Queue {
    let mut queue = Queue::new(StreamId::from_bytes([1; 16]), 500);
    queue.observe(now, &state(accepted_to, true), WAIT_MS, std::iter::empty());
    queue
}

fn receipt(stored: SeqSet) -> StreamReceipt {
    let stream = StreamId::from_bytes([1; 16]);
    StreamReceipt {
        stream,
        counted: stored.clone(),
        stored,
        lost: SeqSet::new(),
        afresh: false,
    }
}

#[test]
fn a_full_batch_leaves_at_once_and_a_part_after_its_wait() {
    let queue = queue(1_000, 507);
    assert_eq!(
        queue.next(1_000, Lane::Live, WAIT_MS, u64::MAX),
        Some(range(1, 500))
    );
    let mut rest = queue;
    rest.take(Lane::Live, range(1, 500));
    assert_eq!(rest.next(1_000, Lane::Live, WAIT_MS, u64::MAX), None);
    assert_eq!(rest.timeout(1_000, WAIT_MS), Some(1_250));
    assert_eq!(
        rest.next(1_250, Lane::Live, WAIT_MS, u64::MAX),
        Some(range(501, 507))
    );
}

#[test]
fn no_passage_waits_longer_because_others_follow_it() {
    let mut queue = queue(1_000, 1);
    for step in 1..100 {
        let none = std::iter::empty();
        queue.observe(1_000 + step * 10, &state(1 + step, true), WAIT_MS, none);
        assert!(queue.arrivals.marks.len() <= 20);
    }
    let later = 1_000 + 990;
    let due = queue.arrivals.due_to(later, WAIT_MS);
    // Number n arrived at 1,000 + (n - 1) × 10: whoever came 250 ms before is due.
    assert!(due > (later - WAIT_MS - 1_000) / 10, "due to {due}");
}

#[test]
fn after_an_outage_the_present_and_the_past_go_side_by_side() {
    let mut queue = queue(0, 2_000);
    queue.connected();
    queue.observe(10, &state(2_100, true), WAIT_MS, std::iter::empty());
    assert_eq!(
        queue.next(300, Lane::Live, WAIT_MS, u64::MAX),
        Some(range(2_001, 2_100))
    );
    assert_eq!(
        queue.next(300, Lane::Backlog, WAIT_MS, u64::MAX),
        Some(range(1, 500))
    );
    queue.take(Lane::Backlog, range(1, 1_700));
    assert_eq!(
        queue.next(300, Lane::Backlog, WAIT_MS, u64::MAX),
        Some(range(1_701, 2_000))
    );
}

#[test]
fn a_summary_holds_its_passages_back_and_what_the_windows_lack_goes_first() {
    let mut queue = queue(0, 2_000);
    queue.connected();
    let mut state = state(2_000, true);
    state.summed = range(1, 1_000).into();
    queue.observe(0, &state, WAIT_MS, std::iter::empty());
    assert_eq!(queue.next_backlog(0, false, 500), Some(range(1_001, 1_500)));
    assert_eq!(queue.next_backlog(0, true, 500), None);
    let mut counted = receipt(SeqSet::new());
    counted.counted = range(1, 1_000).into();
    queue.settle(&counted);
    assert_eq!(queue.next_backlog(0, true, 500), None, "the buffer decides");
    state.summed = SeqSet::new();
    queue.observe(0, &state, WAIT_MS, std::iter::empty());
    assert_eq!(
        queue.next(0, Lane::Backlog, WAIT_MS, u64::MAX),
        Some(range(1_001, 1_500))
    );
    assert_eq!(queue.next_backlog(0, true, 500), Some(range(1, 500)));
}

#[test]
fn a_ragged_cursor_is_mended_before_anything_jumps_the_queue() {
    let mut queue = queue(0, 2_000);
    let holes = (0..20)
        .map(|hole| range(1 + hole * 10, 5 + hole * 10))
        .collect();
    queue.settle(&receipt(holes));
    queue.connected();
    assert_eq!(
        queue.next(300, Lane::Live, WAIT_MS, u64::MAX),
        Some(range(6, 10))
    );
    assert_eq!(queue.next(300, Lane::Backlog, WAIT_MS, u64::MAX), None);
}

#[test]
fn what_a_store_that_was_opened_again_still_holds_is_sent_whatever_receipts_said() {
    let mut queue = queue(0, 1_000);
    queue.settle(&receipt(range(1, 500).into()));
    queue.give_up(range(501, 1_000));
    let next = |queue: &Queue| queue.next(300, Lane::Backlog, WAIT_MS, u64::MAX);
    assert_eq!(next(&queue), None);
    queue.reopened();
    let held = state(1_000, true);
    queue.observe(300, &held, WAIT_MS, std::iter::empty());
    queue.connected();
    assert_eq!(next(&queue), Some(range(1, 500)));
}

#[test]
fn settled_travelling_and_suspect_numbers_are_not_pending() {
    let mut queue = queue(0, 1_000);
    queue.settle(&receipt(range(1, 100).into()));
    queue.suspect(range(101, 201));
    queue.observe(
        0,
        &state(1_000, true),
        WAIT_MS,
        [range(202, 400)].into_iter(),
    );
    assert_eq!(
        queue.next(500, Lane::Live, WAIT_MS, u64::MAX),
        Some(range(401, 900))
    );
    assert_eq!(
        queue.next(500, Lane::Suspect, WAIT_MS, u64::MAX),
        Some(range(101, 150))
    );
    queue.take(Lane::Suspect, range(101, 150));
    assert_eq!(
        queue.next(500, Lane::Suspect, WAIT_MS, u64::MAX),
        Some(range(151, 201))
    );
    queue.settle(&receipt(range(1, 300).into()));
    assert_eq!(queue.next(500, Lane::Suspect, WAIT_MS, u64::MAX), None);
}

#[test]
fn a_suspect_of_one_passage_is_not_split_away() {
    let mut queue = queue(0, 10);
    queue.suspect(range(7, 7));
    assert_eq!(
        queue.next(500, Lane::Suspect, WAIT_MS, u64::MAX),
        Some(range(7, 7))
    );
}

#[test]
fn a_pause_holds_every_lane_and_then_ends() {
    let mut queue = queue(0, 10);
    queue.paused_until = 5_000;
    assert_eq!(queue.next(4_999, Lane::Live, WAIT_MS, u64::MAX), None);
    assert_eq!(queue.timeout(4_999, WAIT_MS), Some(5_000));
    assert_eq!(
        queue.next(5_000, Lane::Live, WAIT_MS, u64::MAX),
        Some(range(1, 10))
    );
}
