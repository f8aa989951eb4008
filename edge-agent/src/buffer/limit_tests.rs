//! Limits of single commits and of what is set aside, driven over.

use std::pin::pin;
use std::time::Duration;

use futures_util::FutureExt as _;
use proto::passage::EventTime;
use service::clock::monotonic;

use super::engine::Engine;
use super::model::settings;
use super::summary_tests::{accept, all_windows, backlog, fold_all, read};
use super::tests::{NOW_MS, many, plain, range};
use super::{Buffer, BufferSettings, FoldScope, Moment, QuotaPolicy};

#[test]
fn a_lone_passage_is_written_when_its_linger_is_over_and_not_before() {
    let place = tempfile::tempdir().unwrap();
    let linger = Duration::from_millis(50);
    let settings = BufferSettings {
        linger,
        ..plain(place.path())
    };
    let (buffer, thread) = Buffer::open(&settings).unwrap();
    let start = monotonic();
    let mut owner = thread.owner(start);
    let at = |ms| Moment {
        monotonic: start + Duration::from_millis(ms),
        wall_ms: NOW_MS,
    };
    let mut append = pin!(buffer.append(many(0, 1)));
    for ms in [0, 20, 49] {
        assert!(append.as_mut().now_or_never().is_none(), "after {ms} ms");
        assert_eq!(owner.step(at(ms)), start + linger);
    }
    assert!(append.as_mut().now_or_never().is_none());
    owner.step(at(50));
    let appended = append.as_mut().now_or_never().expect("it is durable");
    assert_eq!(appended.unwrap().accepted, 1);
}

#[test]
fn a_long_backlog_is_folded_so_many_passages_at_a_time() {
    let place = tempfile::tempdir().unwrap();
    let mut engine = Engine::open(&plain(place.path()), NOW_MS).unwrap();
    let stream = accept(&mut engine, &backlog(70_000, 1_000));
    let mut fold = || engine.fold(stream, &all_windows(70_000)).unwrap();
    let (first, rest) = (fold(), fold());
    assert!((64_000..=65_536).contains(&first.passages), "{first:?}");
    assert!(first.more && !rest.more, "{rest:?}");
    assert_eq!(first.passages + rest.passages, 70_000);
}

#[test]
fn what_would_make_too_many_ranges_of_a_folded_backlog_stays_raw() {
    const CHUNKS: u64 = 100;
    let place = tempfile::tempdir().unwrap();
    let mut engine = Engine::open(&plain(place.path()), NOW_MS).unwrap();
    let mut passages = backlog(CHUNKS * 64, 1_000);
    // Every second chunk has a window that takes no summaries.
    for admitted in passages.iter_mut().step_by(128) {
        admitted.passage.event_time = EventTime::from_millis(NOW_MS - 70 * 86_400_000);
    }
    let stream = accept(&mut engine, &passages);
    let scope = FoldScope {
        windows_from: EventTime::from_millis(NOW_MS - 58 * 86_400_000),
        ..all_windows(CHUNKS * 64)
    };
    let folded = fold_all(&mut engine, stream, &scope);
    assert_eq!(engine.streams[0].summed().range_count(), 32);
    assert_eq!(engine.streams[0].summed().count(), folded);
    let behind = engine.streams[0].summed().last().unwrap().get() + 1;
    let raw = read(&mut engine, stream, behind);
    assert!(raw.is_some_and(|(first, count)| first == behind && count > 64));
    assert_eq!(fold_all(&mut engine, stream, &scope), 0, "for good");
}

#[test]
fn what_was_refused_comes_back_for_another_build_so_many_chunks_at_a_time() {
    let place = tempfile::tempdir().unwrap();
    let mut engine = Engine::open(&plain(place.path()), NOW_MS).unwrap();
    engine.stage(&many(0, 70 * 64), NOW_MS).unwrap().unwrap();
    engine.commit(NOW_MS).unwrap();
    let stream = engine.streams[0].id;
    engine.refuse(stream, range(1, 70 * 64), Some("a")).unwrap();
    engine.commit(NOW_MS).unwrap();
    for passages in [64 * 64, 6 * 64, 0] {
        assert_eq!(engine.offer_again("b"), Ok(passages));
        engine.commit(NOW_MS).unwrap();
    }
}

#[test]
fn what_is_aside_takes_an_eighth_of_the_quota_and_the_oldest_goes_first() {
    const QUOTA: u64 = 64 * 1024;
    let place = tempfile::tempdir().unwrap();
    let settings = settings(place.path(), QUOTA, QuotaPolicy::DropOldest);
    let mut engine = Engine::open(&settings, NOW_MS).unwrap();
    let passages = many(0, 16_000);
    engine.stage(&passages, NOW_MS).unwrap().unwrap();
    engine.commit(NOW_MS).unwrap();
    let stream = engine.streams[0].id;
    engine.refuse(stream, range(1, 16_000), None).unwrap();
    engine.commit(NOW_MS).unwrap();
    let bytes: u64 = engine.aside.iter().map(|(_, b)| u64::from(*b)).sum();
    assert!((QUOTA / 9..=QUOTA / 8).contains(&bytes), "{bytes} bytes");
    let (oldest, _) = engine.aside.front().unwrap();
    let (newest, _) = engine.aside.back().unwrap();
    assert!(oldest.range.first().get() > 1);
    assert_eq!(newest.range.last().get(), 16_000);
}
