//! Claims about the buffer as its users see it, through its thread, and about single events that
//! the model meets too seldom.

mod aside;
mod foreign;
mod room;

use std::path::Path;
use std::thread::JoinHandle;

use proto::device::{CentreId, DeviceId};
use proto::limits::{LOSSES_MAX, RANGES_MAX};
use proto::loss::{LossReason, LossScope};
use proto::passage::{EventTime, Passage};
use proto::ranges::{Seq, SeqRange, SeqSet};
use proto::receipt::{Centre, RefusalReason, StreamReceipt};
use proto::window::fold;

use super::engine::Engine;
use super::keys::CHUNK_PASSAGES_MAX;
use super::model::settings;
use super::witness::Witness;
use super::{
    APPEND_PASSAGES_MAX, Admitted, Alarm, AppendError, Appended, Buffer, BufferSettings,
    CentreVerdict, EventKey, FoldScope, OFFERED_AHEAD_MAX, QUEUE_COMMANDS_MAX, QuotaPolicy,
    ReadError, ReadLimit,
};

pub(super) const NOW_MS: i64 = 1_743_848_130_000;
const LIMIT: ReadLimit = ReadLimit {
    passages: 500,
    bytes: 1 << 20,
};
const PLENTY: u64 = 1 << 30;

fn admitted(n: u64, id: Option<u8>) -> Admitted {
    let event_time = EventTime::from_millis(NOW_MS + i64::try_from(n).unwrap() * 1_000);
    let passage = Passage {
        event_time,
        ..Passage::default()
    };
    Admitted {
        passage,
        event_id: id.map(|id| EventKey([id; 16])),
    }
}

pub(super) fn many(from: u64, count: u64) -> Vec<Admitted> {
    (from..from + count).map(|n| admitted(n, None)).collect()
}

pub(super) fn seq(number: u64) -> Seq {
    Seq::new(number).unwrap()
}

pub(super) fn range(first: u64, last: u64) -> SeqRange {
    SeqRange::new(seq(first), seq(last)).unwrap()
}

fn centre(id: u8, timeline: u32) -> Centre {
    Centre {
        id: CentreId::from_bytes([id; 16]),
        timeline,
    }
}

struct Running {
    buffer: Buffer,
    thread: JoinHandle<()>,
}

impl Running {
    fn open(settings: &BufferSettings) -> Self {
        let (buffer, owner) = Buffer::open(settings).unwrap();
        Self {
            buffer,
            thread: std::thread::spawn(move || owner.run()),
        }
    }

    fn stop(self) {
        drop(self.buffer);
        self.thread.join().unwrap();
    }
}

pub(super) fn plain(directory: &Path) -> BufferSettings {
    settings(directory, PLENTY, QuotaPolicy::DropOldest)
}

#[tokio::test]
async fn appended_passages_are_read_back_in_their_order_after_a_restart() {
    let place = tempfile::tempdir().unwrap();
    let running = Running::open(&plain(place.path()));
    let appended = running.buffer.append(many(0, 700)).await.unwrap();
    assert_eq!(
        appended,
        Appended {
            accepted: 700,
            duplicates: 0
        }
    );
    let before = running.buffer.state().borrow().clone();
    running.stop();
    let running = Running::open(&plain(place.path()));
    let state = running.buffer.state().borrow().clone();
    assert!(state.run > before.run);
    assert_eq!(state.unsent.passages, 700);
    assert_eq!(state.unsent.oldest, Some(EventTime::from_millis(NOW_MS)));
    let stream = state.streams[0].id;
    assert!(!state.streams[0].current, "a new run begins a new stream");
    let first = running
        .buffer
        .read(stream, seq(1), LIMIT)
        .await
        .unwrap()
        .unwrap();
    assert_eq!((first.first, first.batch.len()), (seq(1), 500));
    let rest = running
        .buffer
        .read(stream, seq(501), LIMIT)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(rest.batch.len(), 200);
    assert_eq!(rest.batch.event_time(0).as_millis(), NOW_MS + 500_000);
    assert_eq!(running.buffer.read(stream, seq(701), LIMIT).await, Ok(None));
    running.buffer.append(many(700, 1)).await.unwrap();
    assert_eq!(running.buffer.state().borrow().streams.len(), 2);
    running.stop();
}

#[tokio::test]
async fn a_read_can_begin_inside_a_chunk_and_keeps_to_its_limits() {
    let place = tempfile::tempdir().unwrap();
    let running = Running::open(&plain(place.path()));
    running.buffer.append(many(0, 200)).await.unwrap();
    let stream = running.buffer.state().borrow().streams[0].id;
    let limit = ReadLimit {
        passages: 100,
        bytes: 1,
    };
    let run = running
        .buffer
        .read(stream, seq(40), limit)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (run.first, run.batch.len()),
        (seq(40), 25),
        "at least the chunk it begins in"
    );
    let limit = ReadLimit {
        passages: 100,
        bytes: 1 << 20,
    };
    let run = running
        .buffer
        .read(stream, seq(40), limit)
        .await
        .unwrap()
        .unwrap();
    assert_eq!((run.first, run.batch.len()), (seq(40), 100));
    running.stop();
}

#[tokio::test]
async fn an_event_id_counts_once_within_a_request_across_requests_and_across_a_restart() {
    let place = tempfile::tempdir().unwrap();
    let running = Running::open(&plain(place.path()));
    let twice = vec![
        admitted(1, Some(1)),
        admitted(2, Some(2)),
        admitted(1, Some(1)),
    ];
    let appended = running.buffer.append(twice.clone()).await.unwrap();
    assert_eq!(
        appended,
        Appended {
            accepted: 2,
            duplicates: 1
        }
    );
    running.stop();
    let running = Running::open(&plain(place.path()));
    let appended = running.buffer.append(twice).await.unwrap();
    assert_eq!(
        appended,
        Appended {
            accepted: 0,
            duplicates: 3
        }
    );
    assert_eq!(running.buffer.state().borrow().unsent.passages, 2);
    running.stop();
}

#[test]
fn large_commits_do_not_make_event_ids_outgrow_their_bound() {
    const IDS_MAX: usize = 2_000;
    let with_ids = |from: u64, count: u64| -> Vec<Admitted> {
        let numbers = from..from + count;
        let id = |n: u64| EventKey((u128::from(n) * 0x9e37_79b9_7f4a_7c15).to_le_bytes());
        numbers
            .map(|n| Admitted {
                event_id: Some(id(n)),
                ..admitted(n, None)
            })
            .collect()
    };
    let place = tempfile::tempdir().unwrap();
    let mut engine = Engine::open(&plain(place.path()), NOW_MS).unwrap();
    engine.ids.ids_max = IDS_MAX;
    for part in 0..10 {
        let accepted = engine.stage(&with_ids(part * 1_000, 1_000), NOW_MS);
        assert_eq!(accepted.unwrap().unwrap().accepted, 1_000);
        engine.commit(NOW_MS).unwrap();
        assert!(engine.ids.len() <= IDS_MAX, "{} ids", engine.ids.len());
    }
    // All but what is left of a block, the newest.
    let kept = IDS_MAX as u64 - 64;
    let again = engine.stage(&with_ids(10_000 - kept, kept), NOW_MS);
    assert_eq!(u64::from(again.unwrap().unwrap().duplicates), kept);
}

#[tokio::test]
async fn an_event_id_outlives_the_receipt_of_its_passage() {
    let place = tempfile::tempdir().unwrap();
    let running = Running::open(&plain(place.path()));
    running
        .buffer
        .append(vec![admitted(1, Some(1))])
        .await
        .unwrap();
    let stream = running.buffer.state().borrow().streams[0].id;
    let set = SeqSet::from(range(1, 1));
    let receipt = StreamReceipt {
        stream,
        counted: set.clone(),
        stored: set,
        lost: SeqSet::new(),
        afresh: false,
    };
    let verdict = running
        .buffer
        .receipt(centre(1, 1), vec![receipt])
        .await
        .unwrap();
    assert_eq!(verdict, CentreVerdict::Pinned);
    assert_eq!(running.buffer.state().borrow().unsent.passages, 0);
    let appended = running
        .buffer
        .append(vec![admitted(1, Some(1))])
        .await
        .unwrap();
    assert_eq!(
        appended,
        Appended {
            accepted: 0,
            duplicates: 1
        }
    );
    running.stop();
}

#[tokio::test]
async fn a_later_timeline_offers_again_what_is_held_and_another_centre_is_not_believed() {
    let place = tempfile::tempdir().unwrap();
    let running = Running::open(&plain(place.path()));
    running.buffer.append(many(0, 10)).await.unwrap();
    let stream = running.buffer.state().borrow().streams[0].id;
    let set = SeqSet::from(range(1, 10));
    let receipt = StreamReceipt {
        stream,
        counted: set.clone(),
        stored: set,
        lost: SeqSet::new(),
        afresh: false,
    };
    running
        .buffer
        .receipt(centre(1, 1), vec![receipt.clone()])
        .await
        .unwrap();
    let foreign = running
        .buffer
        .receipt(centre(2, 1), vec![receipt])
        .await
        .unwrap();
    assert_eq!(foreign, CentreVerdict::Foreign(centre(2, 1)));
    let state = running.buffer.state().borrow().clone();
    assert_eq!(
        state.alarms,
        [Alarm::ForeignCentre {
            centre: centre(2, 1)
        }]
    );
    assert_eq!(state.unsent.passages, 0);
    let verdict = running
        .buffer
        .receipt(centre(1, 2), Vec::new())
        .await
        .unwrap();
    assert_eq!(verdict, CentreVerdict::NewTimeline);
    assert_eq!(running.buffer.state().borrow().unsent.passages, 10);
    running.stop();
    let running = Running::open(&plain(place.path()));
    let state = running.buffer.state().borrow().clone();
    assert_eq!(
        (state.centre, state.unsent.passages),
        (Some(centre(1, 2)), 10),
        "durable at the stop"
    );
    running.stop();
}

#[tokio::test]
async fn requests_beyond_the_queue_of_the_store_are_told_to_come_back() {
    let place = tempfile::tempdir().unwrap();
    let (buffer, owner) = Buffer::open(&plain(place.path())).unwrap();
    let mut waiting = Vec::new();
    for n in 0..QUEUE_COMMANDS_MAX as u64 {
        let mut append = Box::pin(buffer.append(many(n, 1)));
        assert!(futures_util::poll!(&mut append).is_pending());
        waiting.push(append);
    }
    let refused = buffer.append(many(9_999, 1)).await;
    assert_eq!(refused, Err(AppendError::Overloaded));
    let thread = std::thread::spawn(move || owner.run());
    for appended in futures_util::future::join_all(waiting).await {
        assert_eq!(appended.unwrap().accepted, 1);
    }
    drop(buffer);
    thread.join().unwrap();
}

#[test]
fn an_append_of_more_than_one_commit_takes_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let mut engine = Engine::open(&plain(place.path()), NOW_MS).unwrap();
    let most = APPEND_PASSAGES_MAX as u64;
    let refused = engine.stage(&many(0, most + 1), NOW_MS).unwrap();
    assert_eq!(refused, Err(AppendError::TooMany(APPEND_PASSAGES_MAX + 1)));
    let appended = engine.stage(&many(0, most), NOW_MS).unwrap().unwrap();
    assert_eq!(u64::from(appended.accepted), most);
}

#[tokio::test]
async fn a_read_offers_no_more_ahead_than_one_reservation() {
    let place = tempfile::tempdir().unwrap();
    let running = Running::open(&plain(place.path()));
    running.buffer.append(many(0, 12_000)).await.unwrap();
    let stream = running.buffer.state().borrow().streams[0].id;
    for first in [1, 501, 5_001] {
        let run = running.buffer.read(stream, seq(first), LIMIT).await;
        assert_eq!(run.unwrap().unwrap().first, seq(first));
        let offered = running.buffer.state().borrow().streams[0].offered.clone();
        let ahead = offered.last().unwrap().get() - first + 1;
        assert!((500..=OFFERED_AHEAD_MAX).contains(&ahead), "{offered:?}");
    }
    running.stop();
}

#[tokio::test]
async fn a_post_is_answered_while_a_long_backlog_is_folded() {
    let place = tempfile::tempdir().unwrap();
    let running = Running::open(&plain(place.path()));
    // More than is folded with one commit.
    let count = 70_000;
    for from in (1..=count).step_by(10_000) {
        running.buffer.append(many(from, 10_000)).await.unwrap();
    }
    let stream = running.buffer.state().borrow().streams[0].id;
    let scope = FoldScope {
        to: count,
        if_before: None,
        windows_from: EventTime::from_millis(0),
        windows_to: EventTime::from_millis(2 * NOW_MS),
    };
    let (folded, posted) = tokio::join!(
        running.buffer.fold(stream, scope),
        running.buffer.append(many(count + 1, 1)),
    );
    assert_eq!(posted.unwrap().accepted, 1);
    let folded = folded.unwrap();
    assert!(
        folded.more,
        "all {} passages were folded at once",
        folded.passages
    );
    running.stop();
}

#[test]
fn whoever_asks_before_an_offered_mark_is_durable_waits_for_it_too() {
    let place = tempfile::tempdir().unwrap();
    let mut engine = Engine::open(&plain(place.path()), NOW_MS).unwrap();
    engine.stage(&many(0, 2_000), NOW_MS).unwrap().unwrap();
    engine.commit(NOW_MS).unwrap();
    let stream = engine.streams[0].id;
    assert!(engine.reserve(stream, seq(1), 500));
    assert!(
        engine.reserve(stream, seq(501), 500),
        "staged is not durable"
    );
    engine.commit(NOW_MS).unwrap();
    assert!(!engine.reserve(stream, seq(1), 500));
    assert!(!engine.reserve(stream, seq(501), 500));
}

#[tokio::test]
async fn a_read_whose_passages_go_while_it_waits_hands_out_nothing_that_is_not_offered() {
    let place = tempfile::tempdir().unwrap();
    let running = Running::open(&plain(place.path()));
    running.buffer.append(many(0, 5_000)).await.unwrap();
    let stream = running.buffer.state().borrow().streams[0].id;
    running.stop();
    // Both are asked before the thread looks.
    let (buffer, owner) = Buffer::open(&plain(place.path())).unwrap();
    let reserved = range(1, OFFERED_AHEAD_MAX / 2);
    let reason = RefusalReason::Malformed;
    let (run, moved, thread) = tokio::join!(
        buffer.read(stream, seq(1), LIMIT),
        buffer.refused(stream, reserved, reason, None),
        async { std::thread::spawn(move || owner.run()) },
    );
    assert_eq!(moved, Ok(reserved.count()));
    let run = run.unwrap().unwrap();
    let read = SeqRange::from_count(run.first, run.batch.len() as u64).unwrap();
    let offered = buffer.state().borrow().streams[0].offered.clone();
    assert!(offered.contains_range(read), "{read} of {offered:?}");
    drop(buffer);
    thread.join().unwrap();
}
