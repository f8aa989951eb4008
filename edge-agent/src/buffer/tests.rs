//! Claims about the buffer as its users see it, through its thread, and about single events that
//! the model meets too seldom.

use std::path::Path;
use std::thread::JoinHandle;

use proto::device::CentreId;
use proto::limits::RANGES_MAX;
use proto::loss::{LossReason, LossScope};
use proto::passage::{EventTime, Passage};
use proto::ranges::{Seq, SeqRange, SeqSet};
use proto::receipt::{Centre, RefusalReason, StreamReceipt};
use proto::window::fold;

use super::engine::Engine;
use super::model::settings;
use super::{
    APPEND_PASSAGES_MAX, Admitted, Alarm, AppendError, Appended, Buffer, BufferSettings,
    CentreVerdict, EventKey, OFFERED_AHEAD_MAX, QUEUE_COMMANDS_MAX, QuotaPolicy, ReadError,
    ReadLimit,
};

const NOW_MS: i64 = 1_743_848_130_000;
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

fn many(from: u64, count: u64) -> Vec<Admitted> {
    (from..from + count).map(|n| admitted(n, None)).collect()
}

fn seq(number: u64) -> Seq {
    Seq::new(number).unwrap()
}

fn range(first: u64, last: u64) -> SeqRange {
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

fn plain(directory: &Path) -> BufferSettings {
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
async fn refused_passages_are_aside_and_lost_and_their_neighbours_stay() {
    let place = tempfile::tempdir().unwrap();
    let running = Running::open(&plain(place.path()));
    running.buffer.append(many(0, 200)).await.unwrap();
    let stream = running.buffer.state().borrow().streams[0].id;
    let refused = running
        .buffer
        .refused(stream, range(60, 140), RefusalReason::Malformed, None);
    assert_eq!(refused.await, Ok(81));
    running.stop();
    let running = Running::open(&plain(place.path()));
    let state = running.buffer.state().borrow().clone();
    assert_eq!(state.alarms, [Alarm::PassagesQuarantined { passages: 81 }]);
    let losses: Vec<_> = state
        .losses
        .iter()
        .map(|(_, l)| (l.range, l.scope, l.reason))
        .collect();
    assert_eq!(
        losses,
        [(range(60, 140), LossScope::All, LossReason::Refused)]
    );
    assert_eq!(
        state.streams[0].unsent,
        [range(1, 59), range(141, 200)].into_iter().collect()
    );
    let run = running
        .buffer
        .read(stream, seq(60), LIMIT)
        .await
        .unwrap()
        .unwrap();
    assert_eq!((run.first, run.batch.len()), (seq(141), 60));
    running.stop();
}

#[test]
fn what_is_aside_is_called_lost_again_when_the_centre_was_put_back_in_time() {
    let place = tempfile::tempdir().unwrap();
    let mut engine = Engine::open(&plain(place.path()), NOW_MS).unwrap();
    engine.stage(&many(0, 20), NOW_MS).unwrap().unwrap();
    engine.commit(NOW_MS).unwrap();
    let stream = engine.streams[0].id;
    engine.refuse(stream, range(1, 20), None).unwrap();
    engine.commit(NOW_MS).unwrap();
    let booked = StreamReceipt {
        stream,
        counted: SeqSet::new(),
        stored: SeqSet::new(),
        lost: range(1, 20).into(),
        afresh: false,
    };
    engine.receipt(centre(9, 1), std::slice::from_ref(&booked));
    engine.commit(NOW_MS).unwrap();
    drop(engine);
    // Nothing of the stream was left but what is aside.
    let mut engine = Engine::open(&plain(place.path()), NOW_MS).unwrap();
    assert!(engine.streams.is_empty());
    assert_eq!(
        engine.receipt(centre(9, 2), &[]),
        CentreVerdict::NewTimeline
    );
    engine.commit(NOW_MS).unwrap();
    let losses = engine.state(super::StoreHealth::Ok).losses;
    let [(of, loss)] = losses.as_slice() else {
        panic!("{losses:?}")
    };
    assert_eq!(
        (*of, loss.range, loss.scope),
        (stream, range(1, 20), LossScope::All)
    );
    engine.receipt(centre(9, 2), &[booked]);
    assert!(engine.state(super::StoreHealth::Ok).losses.is_empty());
}

#[tokio::test]
async fn what_one_build_refused_comes_back_once_for_each_other_build_across_restarts() {
    let place = tempfile::tempdir().unwrap();
    let running = Running::open(&plain(place.path()));
    running.buffer.append(many(0, 200)).await.unwrap();
    let stream = running.buffer.state().borrow().streams[0].id;
    let refuse = |buffer: Buffer, build: &'static str| async move {
        let reason = RefusalReason::Malformed;
        let refused = buffer.refused(stream, range(60, 140), reason, Some(build.into()));
        assert_eq!(refused.await, Ok(81));
    };
    refuse(running.buffer.clone(), "a").await;
    // The centre books the loss.
    let booked = StreamReceipt {
        stream,
        counted: SeqSet::new(),
        stored: SeqSet::new(),
        lost: range(60, 140).into(),
        afresh: false,
    };
    let told = running.buffer.receipt(centre(1, 1), vec![booked.clone()]);
    told.await.unwrap();
    running.stop();
    let running = Running::open(&plain(place.path()));
    assert_eq!(running.buffer.offer_again("a".into()).await, Ok(0));
    assert_eq!(running.buffer.offer_again("b".into()).await, Ok(81));
    running.stop();
    let running = Running::open(&plain(place.path()));
    let told = running.buffer.receipt(centre(1, 1), vec![booked]);
    told.await.unwrap();
    let state = running.buffer.state().borrow().clone();
    assert_eq!(state.alarms, []);
    assert_eq!(state.streams[0].unsent, range(1, 200).into());
    let run = running.buffer.read(stream, seq(60), LIMIT).await.unwrap();
    let run = run.unwrap();
    assert_eq!((run.first, run.batch.len()), (seq(60), 141));
    assert_eq!(run.batch.event_time(0).as_millis(), NOW_MS + 59_000);
    refuse(running.buffer.clone(), "b").await;
    for build in ["a", "b"] {
        assert_eq!(running.buffer.offer_again(build.into()).await, Ok(0));
    }
    running.stop();
}

#[test]
fn two_refusals_of_one_chunk_in_one_commit_damage_nothing() {
    let place = tempfile::tempdir().unwrap();
    let mut engine = Engine::open(&plain(place.path()), NOW_MS).unwrap();
    engine.stage(&many(0, 64), NOW_MS).unwrap().unwrap();
    engine.commit(NOW_MS).unwrap();
    let stream = engine.streams[0].id;
    for part in [range(1, 10), range(20, 30)] {
        assert_eq!(engine.refuse(stream, part, None), Ok(part.count()));
    }
    engine.commit(NOW_MS).unwrap();
    assert_eq!(engine.counters.lost, [0, 0, 21, 0]);
    for chunk in &engine.streams[0].chunks {
        let batch = engine.passages(stream, chunk).unwrap();
        assert_eq!(batch.len() as u64, chunk.range.count());
    }
}

/// Writes something else over the value of one chunk.
fn damage(engine: &mut Engine, place: usize) -> SeqRange {
    let stream = engine.streams[0].id;
    let chunk = engine.streams[0].chunks[place];
    engine.changes.put(&chunk.key(stream).encode(), vec![7; 90]);
    engine.commit(NOW_MS).unwrap();
    chunk.range
}

#[tokio::test]
async fn a_damaged_chunk_costs_its_own_passages_only_and_is_booked() {
    let place = tempfile::tempdir().unwrap();
    let mut engine = Engine::open(&plain(place.path()), NOW_MS).unwrap();
    engine.stage(&many(0, 192), NOW_MS).unwrap().unwrap();
    engine.commit(NOW_MS).unwrap();
    assert_eq!(damage(&mut engine, 1), range(65, 128));
    let stream = engine.streams[0].id;
    drop(engine);
    let running = Running::open(&plain(place.path()));
    let run = running
        .buffer
        .read(stream, seq(1), LIMIT)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        run.batch.len(),
        64,
        "what stands before the damage is handed out"
    );
    let error = running
        .buffer
        .read(stream, seq(65), LIMIT)
        .await
        .unwrap_err();
    assert!(matches!(error, ReadError::Corrupt { range: lost, .. } if lost == range(65, 128)));
    let run = running
        .buffer
        .read(stream, seq(65), LIMIT)
        .await
        .unwrap()
        .unwrap();
    assert_eq!((run.first, run.batch.len()), (seq(129), 64));
    running.stop();
    let running = Running::open(&plain(place.path()));
    let state = running.buffer.state().borrow().clone();
    let (_, loss) = state.losses[0];
    assert_eq!(
        (loss.range, loss.reason),
        (range(65, 128), LossReason::Corrupt)
    );
    assert_eq!(
        loss.event_min,
        Some(EventTime::from_millis(NOW_MS + 64_000))
    );
    assert_eq!(
        loss.event_max,
        Some(EventTime::from_millis(NOW_MS + 127_000))
    );
    running.stop();
}

#[test]
fn a_full_quota_drops_the_oldest_raw_passages_and_keeps_their_windows() {
    let place = tempfile::tempdir().unwrap();
    let settings = settings(place.path(), 16 * 1024, QuotaPolicy::DropOldest);
    let mut engine = Engine::open(&settings, NOW_MS).unwrap();
    engine.offered_ahead_max = 128;
    engine.offers_ahead = true;
    let all = many(0, 20_000);
    for part in all.chunks(500) {
        engine.stage(part, NOW_MS).unwrap().unwrap();
        engine.commit(NOW_MS).unwrap();
    }
    let quota = engine.settings.quota_bytes;
    assert!(
        engine.held_bytes <= quota + 16 * 1024,
        "{} of {quota}",
        engine.held_bytes
    );
    let state = engine.state(super::StoreHealth::Ok);
    assert_eq!(state.counters.lost, [state.summarised, 0, 0, 0]);
    assert!(state.summarised > 5_000, "{}", state.summarised);
    let stream = &engine.streams[0];
    assert!(
        state.streams[0].held.contains_range(range(1, 128)),
        "offered ones stay"
    );
    assert!(
        stream
            .losses
            .iter()
            .all(|loss| loss.scope == LossScope::RawOnly)
    );
    let mut seqs = state.streams[0].held.clone();
    let mut counted = 0;
    for meta in &stream.entries {
        let entry = engine.entry(stream.id, meta.number).unwrap().unwrap().entry;
        assert!(seqs.is_disjoint(&entry.seqs) && entry.seqs.range_count() <= RANGES_MAX);
        seqs = seqs.union(&entry.seqs);
        let passages = entry.seqs.iter().map(|seq| {
            let place = usize::try_from(seq.get()).unwrap() - 1;
            all[place].passage.clone()
        });
        assert_eq!(entry.deltas, fold(&passages.collect(), |_| true));
        counted += entry.seqs.count();
    }
    assert_eq!(seqs, SeqSet::from(range(1, 20_000)));
    assert_eq!(counted, state.summarised);
}

#[test]
fn a_full_quota_that_refuses_takes_passages_again_after_a_receipt() {
    let place = tempfile::tempdir().unwrap();
    let settings = settings(place.path(), 4 * 1024, QuotaPolicy::RefuseNew);
    let mut engine = Engine::open(&settings, NOW_MS).unwrap();
    let mut accepted = 0;
    let refusal = loop {
        match engine.stage(&many(accepted, 500), NOW_MS).unwrap() {
            Ok(appended) => accepted += u64::from(appended.accepted),
            Err(refusal) => break refusal,
        }
        engine.commit(NOW_MS).unwrap();
    };
    assert!(
        matches!(
            refusal,
            AppendError::Full {
                quota_bytes: 4_096,
                ..
            }
        ),
        "{refusal}"
    );
    let stream = engine.streams[0].id;
    let set = SeqSet::from(range(1, accepted));
    let receipt = StreamReceipt {
        stream,
        counted: set.clone(),
        stored: set,
        lost: SeqSet::new(),
        afresh: false,
    };
    engine.receipt(centre(1, 1), &[receipt]);
    engine.stage(&many(accepted, 500), NOW_MS).unwrap().unwrap();
    engine.commit(NOW_MS).unwrap();
    let state = engine.state(super::StoreHealth::Ok);
    assert!(state.counters.released > 0);
    assert_eq!(state.counters.lost, [0; 4]);
}

#[test]
fn a_large_file_without_unsent_passages_is_rebuilt_and_keeps_what_is_held() {
    let place = tempfile::tempdir().unwrap();
    let mut engine = Engine::open(&plain(place.path()), NOW_MS).unwrap();
    let known = [admitted(1, Some(1)), admitted(2, Some(2))];
    engine.stage(&known, NOW_MS).unwrap().unwrap();
    engine.commit(NOW_MS).unwrap();
    engine.rebuild_file_bytes_min = 0;
    engine.measure_disk();
    assert!(!engine.is_oversized(), "something waits");
    let stream = engine.streams[0].id;
    let set = SeqSet::from(range(1, 2));
    let receipt = StreamReceipt {
        stream,
        counted: set.clone(),
        stored: set,
        lost: SeqSet::new(),
        afresh: false,
    };
    engine.receipt(centre(1, 1), &[receipt]);
    engine.commit(NOW_MS).unwrap();
    assert!(engine.is_oversized());
    let run = engine.run;
    let mut engine = engine.rebuild(NOW_MS).unwrap();
    assert!(engine.run > run);
    let again = engine.stage(&known, NOW_MS).unwrap();
    assert_eq!(
        again,
        Ok(Appended {
            accepted: 0,
            duplicates: 2
        })
    );
    let chunk = engine.streams[0].chunks[0];
    let kept = engine.passages(stream, &chunk).unwrap();
    assert!(
        kept.iter()
            .zip(&known)
            .all(|(kept, known)| kept == known.passage)
    );
    assert!(engine.streams[0].is_settled());
    assert!(!place.path().join("store.old").exists());
}

#[test]
fn slow_traffic_ends_in_full_chunks_all_the_same() {
    let place = tempfile::tempdir().unwrap();
    let mut engine = Engine::open(&plain(place.path()), NOW_MS).unwrap();
    for n in 0..640 {
        engine.stage(&many(n, 1), NOW_MS).unwrap().unwrap();
        engine.commit(NOW_MS).unwrap();
    }
    let chunks = engine.streams[0].chunks.len();
    assert!(chunks <= 64 + 10, "{chunks} chunks for 640 passages");
    let stream = engine.streams[0].id;
    drop(engine);
    let mut engine = Engine::open(&plain(place.path()), NOW_MS).unwrap();
    assert_eq!(engine.streams[0].chunks.len(), chunks);
    engine.reserve(stream, Seq::FIRST, 640);
    engine.commit(NOW_MS).unwrap();
    let limit = ReadLimit {
        passages: 640,
        bytes: 1 << 20,
    };
    let run = engine
        .read(stream, Seq::FIRST, limit)
        .unwrap()
        .unwrap()
        .unwrap();
    assert!(
        run.batch
            .iter()
            .zip(many(0, 640))
            .all(|(read, made)| read == made.passage)
    );
    assert_eq!(run.batch.len(), 640);
}

#[test]
fn passages_with_much_free_text_stay_within_the_size_of_a_value() {
    let place = tempfile::tempdir().unwrap();
    let mut engine = Engine::open(&plain(place.path()), NOW_MS).unwrap();
    // Text that does not compress, as long as admission allows.
    let text = |n: u64| -> String {
        let mut word = n;
        (0..2_000)
            .map(|_| {
                word = word
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(99);
                char::from(b'!' + u8::try_from(word >> 58).unwrap())
            })
            .map(|c| if matches!(c, '"' | '\\') { '.' } else { c })
            .collect()
    };
    let passages: Vec<_> = (0..100)
        .map(|n| {
            let mut admitted = admitted(n, None);
            admitted.passage.extra = Some(format!(r#"{{"note":"{}"}}"#, text(n)).into());
            admitted
        })
        .collect();
    engine.stage(&passages, NOW_MS).unwrap().unwrap();
    engine.commit(NOW_MS).unwrap();
    engine.check().unwrap();
    let stream = &engine.streams[0];
    let read: Vec<_> = stream
        .chunks
        .iter()
        .flat_map(|chunk| {
            engine
                .passages(stream.id, chunk)
                .unwrap()
                .iter()
                .collect::<Vec<_>>()
        })
        .collect();
    assert!(
        read.iter()
            .eq(passages.iter().map(|admitted| &admitted.passage))
    );
}

#[test]
fn below_the_free_floor_passages_are_refused_until_there_is_room() {
    let place = tempfile::tempdir().unwrap();
    let settings = BufferSettings {
        // No disk has so much.
        free_floor_bytes: u64::MAX,
        ..plain(place.path())
    };
    let mut engine = Engine::open(&settings, NOW_MS).unwrap();
    // The room inside its own file is used first: that makes no file grow.
    let mut accepted = 0;
    let refusal = loop {
        engine.measure_disk();
        match engine.stage(&many(accepted, 2_000), NOW_MS).unwrap() {
            Ok(appended) => accepted += u64::from(appended.accepted),
            Err(refusal) => break refusal,
        }
        engine.commit(NOW_MS).unwrap();
    };
    let AppendError::NoSpace { floor_bytes, .. } = refusal else {
        panic!("{refusal}")
    };
    assert_eq!(floor_bytes, u64::MAX);
    engine.settings.free_floor_bytes = 0;
    let appended = engine.stage(&many(accepted, 1), NOW_MS).unwrap().unwrap();
    assert_eq!(appended.accepted, 1);
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
