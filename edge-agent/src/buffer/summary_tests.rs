//! Claims about a backlog that goes ahead as window deltas.

use proto::device::CentreId;
use proto::limits::SUMMARY_ENTRY_WINDOWS_MAX;
use proto::loss::LossScope;
use proto::passage::{EventTime, Passage};
use proto::ranges::{Seq, SeqRange, SeqSet};
use proto::receipt::{Centre, StreamReceipt};
use proto::summary::{Summary, SummaryEntry};
use proto::window::{BUCKET_MS, WindowDelta, fold};
use proto::{PassageBatch, Speed, StreamId};

use super::engine::Engine;
use super::model::settings;
use super::{Admitted, FoldScope, QuotaPolicy, ReadLimit, StoreHealth};

const NOW_MS: i64 = 1_743_848_130_000;
const LIMIT: ReadLimit = ReadLimit {
    passages: 500,
    bytes: 1 << 20,
};

/// Passages `step_ms` apart, the last one now.
pub(super) fn backlog(count: u64, step_ms: i64) -> Vec<Admitted> {
    (0..count)
        .map(|n| Admitted {
            passage: Passage {
                event_time: EventTime::from_millis(
                    NOW_MS - i64::try_from(count - 1 - n).unwrap() * step_ms,
                ),
                speed: Speed::from_centi_kmh(u16::try_from(n * 37 % 20_000).unwrap()),
                ..Passage::default()
            },
            event_id: None,
        })
        .collect()
}

pub(super) const fn all_windows(to: u64) -> FoldScope {
    FoldScope {
        to,
        if_before: None,
        windows_from: EventTime::from_millis(0),
        windows_to: EventTime::from_millis(2 * NOW_MS),
    }
}

fn range(first: u64, last: u64) -> SeqRange {
    SeqRange::new(Seq::new(first).unwrap(), Seq::new(last).unwrap()).unwrap()
}

pub(super) fn accept(engine: &mut Engine, passages: &[Admitted]) -> StreamId {
    for part in passages.chunks(1_000) {
        engine.stage(part, NOW_MS).unwrap().unwrap();
        engine.commit(NOW_MS).unwrap();
    }
    engine.streams.last().unwrap().id
}

pub(super) fn fold_all(engine: &mut Engine, stream: StreamId, scope: &FoldScope) -> u64 {
    let mut passages = 0;
    loop {
        let folded = engine.fold(stream, scope).unwrap();
        engine.commit(NOW_MS).unwrap();
        passages += folded.passages;
        if !folded.more {
            return passages;
        }
    }
}

fn sealed(engine: &mut Engine, stream: StreamId) -> Vec<SummaryEntry> {
    let (pending, _) = engine.seal(stream, usize::MAX).unwrap();
    engine.commit(NOW_MS).unwrap();
    pending.into_iter().map(|pending| pending.entry).collect()
}

/// All entries as one list of windows.
fn merged(entries: &[SummaryEntry]) -> Vec<WindowDelta> {
    let mut windows = std::collections::BTreeMap::new();
    for delta in entries.iter().flat_map(|entry| &entry.deltas) {
        let stats: &mut proto::window::SpeedStats = windows.entry(delta.bucket).or_default();
        stats.merge(&delta.stats);
    }
    windows
        .into_iter()
        .map(|(bucket, stats)| WindowDelta { bucket, stats })
        .collect()
}

fn folded(passages: &[Admitted]) -> Vec<WindowDelta> {
    let batch: PassageBatch = passages.iter().map(|a| a.passage.clone()).collect();
    fold(&batch, |_| true)
}

fn tell(engine: &mut Engine, stream: StreamId, counted: SeqSet, stored: SeqSet) {
    let centre = Centre {
        id: CentreId::from_bytes([9; 16]),
        timeline: 1,
    };
    let receipt = StreamReceipt {
        stream,
        counted,
        stored,
        lost: SeqSet::new(),
        afresh: false,
    };
    engine.receipt(centre, &[receipt]);
    engine.commit(NOW_MS).unwrap();
}

pub(super) fn read(engine: &mut Engine, stream: StreamId, first: u64) -> Option<(u64, usize)> {
    let first = Seq::new(first).unwrap();
    if engine.reserve(stream, first, LIMIT.passages) {
        engine.commit(NOW_MS).unwrap();
    }
    let run = engine.read(stream, first, LIMIT).unwrap().unwrap();
    run.map(|run| (run.first.get(), run.batch.len()))
}

#[test]
fn a_folded_backlog_is_handed_out_raw_only_after_its_receipt_also_after_a_restart() {
    let place = tempfile::tempdir().unwrap();
    let settings = settings(place.path(), 1 << 30, QuotaPolicy::DropOldest);
    let mut engine = Engine::open(&settings, NOW_MS).unwrap();
    // Two hours and more, so that there are several entries.
    let passages = backlog(9_000, 1_000);
    let stream = accept(&mut engine, &passages);
    assert_eq!(fold_all(&mut engine, stream, &all_windows(9_000)), 9_000);
    let entries = sealed(&mut engine, stream);
    assert!(entries.len() > 1);
    assert_eq!(merged(&entries), folded(&passages));
    assert_eq!(
        Summary {
            entries: entries.clone()
        }
        .check(),
        Ok(())
    );
    drop(engine);
    let mut engine = Engine::open(&settings, NOW_MS).unwrap();
    assert_eq!(sealed(&mut engine, stream), entries, "the same bytes");
    assert_eq!(fold_all(&mut engine, stream, &all_windows(9_000)), 0);
    assert_eq!(read(&mut engine, stream, 1), None);
    let first = entries[0].seqs.clone();
    let end = first.last().unwrap().get();
    tell(&mut engine, stream, first, SeqSet::new());
    assert_eq!(read(&mut engine, stream, 1), Some((1, 500)));
    let beyond = read(&mut engine, stream, end - 99);
    assert_eq!(beyond, Some((end - 99, 100)), "not beyond the entry");
    assert_eq!(read(&mut engine, stream, end + 1), None);
    let all = SeqSet::from(range(1, 9_000));
    tell(&mut engine, stream, all.clone(), SeqSet::new());
    assert_eq!(read(&mut engine, stream, end + 1), Some((end + 1, 500)));
    let state = engine.state(StoreHealth::Ok);
    assert_eq!((state.summarised, state.oldest_uncounted), (0, None));
    assert_eq!(state.unsent.passages, 9_000, "raw is still to be sent");
    tell(&mut engine, stream, all.clone(), all);
    assert_eq!(engine.state(StoreHealth::Ok).unsent.passages, 0);
}

#[test]
fn whoever_asks_before_a_seal_is_durable_waits_for_it_too() {
    let place = tempfile::tempdir().unwrap();
    let settings = settings(place.path(), 1 << 30, QuotaPolicy::DropOldest);
    let mut engine = Engine::open(&settings, NOW_MS).unwrap();
    let stream = accept(&mut engine, &backlog(1_000, 1_000));
    fold_all(&mut engine, stream, &all_windows(1_000));
    let (pending, must_wait) = engine.seal(stream, 8).unwrap();
    assert!(must_wait && !pending.is_empty());
    let staged = (pending.clone(), true);
    assert_eq!(engine.seal(stream, 8), Ok(staged), "staged is not durable");
    engine.commit(NOW_MS).unwrap();
    assert_eq!(engine.seal(stream, 8), Ok((pending, false)));
}

#[test]
fn while_nothing_flows_nothing_is_marked_as_offered_and_what_was_stays_raw() {
    let place = tempfile::tempdir().unwrap();
    let settings = settings(place.path(), 1 << 30, QuotaPolicy::DropOldest);
    let mut engine = Engine::open(&settings, NOW_MS).unwrap();
    let passages = backlog(5_000, 1_000);
    engine.offers_ahead = true;
    accept(&mut engine, &passages[..1_000]);
    engine.offers_ahead = false;
    let stream = accept(&mut engine, &passages[1_000..]);
    let state = engine.state(StoreHealth::Ok);
    assert_eq!(state.streams[0].offered, range(1, 1_000).into());
    assert_eq!(fold_all(&mut engine, stream, &all_windows(5_000)), 4_000);
    assert_eq!(read(&mut engine, stream, 1), Some((1, 500)));
    assert_eq!(read(&mut engine, stream, 501), Some((501, 500)));
    assert_eq!(read(&mut engine, stream, 1_001), None);
    // What comes meanwhile is none of the summary's business.
    accept(&mut engine, &backlog(10, 1_000));
    assert_eq!(read(&mut engine, stream, 5_001), Some((5_001, 10)));
}

#[test]
fn a_young_backlog_is_left_alone() {
    let place = tempfile::tempdir().unwrap();
    let settings = settings(place.path(), 1 << 30, QuotaPolicy::DropOldest);
    let mut engine = Engine::open(&settings, NOW_MS).unwrap();
    let stream = accept(&mut engine, &backlog(60, 1_000));
    let before = |ms: i64| FoldScope {
        if_before: Some(EventTime::from_millis(NOW_MS - ms)),
        ..all_windows(60)
    };
    assert_eq!(fold_all(&mut engine, stream, &before(60_000)), 0);
    assert_eq!(fold_all(&mut engine, stream, &before(50_000)), 60);
}

#[test]
fn windows_that_take_no_summaries_stay_raw() {
    let place = tempfile::tempdir().unwrap();
    let settings = settings(place.path(), 1 << 30, QuotaPolicy::DropOldest);
    let mut engine = Engine::open(&settings, NOW_MS).unwrap();
    let mut passages = backlog(640, 1_000);
    passages[200].passage.event_time = EventTime::from_millis(NOW_MS - 70 * 86_400_000);
    let stream = accept(&mut engine, &passages);
    let scope = FoldScope {
        windows_from: EventTime::from_millis(NOW_MS - 58 * 86_400_000),
        ..all_windows(640)
    };
    assert_eq!(fold_all(&mut engine, stream, &scope), 640 - 64);
    let entries = sealed(&mut engine, stream);
    let stale = Seq::new(201).unwrap();
    assert!(entries.iter().all(|entry| !entry.seqs.contains(stale)));
    assert_eq!(read(&mut engine, stream, 193), Some((193, 64)));
}

#[test]
fn sparse_traffic_gives_entries_that_the_centre_takes_in_one_flush() {
    let place = tempfile::tempdir().unwrap();
    let settings = settings(place.path(), 1 << 30, QuotaPolicy::DropOldest);
    let mut engine = Engine::open(&settings, NOW_MS).unwrap();
    let passages = backlog(500, BUCKET_MS);
    let stream = accept(&mut engine, &passages);
    fold_all(&mut engine, stream, &all_windows(500));
    let entries = sealed(&mut engine, stream);
    let most = entries.iter().map(|entry| entry.deltas.len()).max();
    assert!(most.unwrap() <= SUMMARY_ENTRY_WINDOWS_MAX, "{most:?}");
    assert_eq!(merged(&entries), folded(&passages));
}

#[test]
fn a_refused_summary_is_replaced_by_its_passages_and_never_made_again() {
    let place = tempfile::tempdir().unwrap();
    let settings = settings(place.path(), 1 << 30, QuotaPolicy::DropOldest);
    let mut engine = Engine::open(&settings, NOW_MS).unwrap();
    let stream = accept(&mut engine, &backlog(1_000, 1_000));
    fold_all(&mut engine, stream, &all_windows(1_000));
    let [entry] = &sealed(&mut engine, stream)[..] else {
        panic!("one entry")
    };
    let counted = SeqSet::from(range(1, 300));
    assert_eq!(engine.refuse_summary(stream, &entry.seqs, &counted), 0);
    engine.commit(NOW_MS).unwrap();
    let state = engine.state(StoreHealth::Ok);
    assert!(state.losses.is_empty() && state.summarised == 0);
    assert_eq!(fold_all(&mut engine, stream, &all_windows(1_000)), 0);
    assert_eq!(read(&mut engine, stream, 1), Some((1, 500)));
    drop(engine);
    let mut engine = Engine::open(&settings, NOW_MS).unwrap();
    assert_eq!(fold_all(&mut engine, stream, &all_windows(1_000)), 0);
    assert_eq!(read(&mut engine, stream, 501), Some((501, 500)));
}

#[test]
fn a_full_quota_drops_folded_passages_and_their_windows_stay_exact() {
    let place = tempfile::tempdir().unwrap();
    let settings = settings(place.path(), 48 * 1024, QuotaPolicy::DropOldest);
    let mut engine = Engine::open(&settings, NOW_MS).unwrap();
    let passages = backlog(30_000, 1_000);
    let stream = accept(&mut engine, &passages[..6_000]);
    assert_eq!(fold_all(&mut engine, stream, &all_windows(6_000)), 6_000);
    let before = sealed(&mut engine, stream);
    accept(&mut engine, &passages[6_000..]);
    let state = engine.state(StoreHealth::Ok);
    assert!(!state.streams[0].held.overlaps_range(range(1, 6_000)));
    assert!(
        state
            .losses
            .iter()
            .all(|(_, l)| l.scope == LossScope::RawOnly)
    );
    let lost: u64 = state.losses.iter().map(|(_, l)| l.range.count()).sum();
    let held = &state.streams[0].held;
    assert_eq!(lost + held.count(), 30_000);
    let entries = sealed(&mut engine, stream);
    assert_eq!(entries[..before.len()], before, "sealed bytes never change");
    let raw = held.iter().map(|seq| {
        let place = usize::try_from(seq.get()).unwrap() - 1;
        passages[place].passage.clone()
    });
    let mut windows = entries;
    windows.push(SummaryEntry {
        seqs: held.clone(),
        deltas: fold(&raw.collect(), |_| true),
    });
    assert_eq!(merged(&windows), folded(&passages));
}

#[test]
fn a_passage_of_another_time_costs_no_other_its_windows() {
    let place = tempfile::tempdir().unwrap();
    let settings = settings(place.path(), 48 * 1024, QuotaPolicy::DropOldest);
    let mut engine = Engine::open(&settings, NOW_MS).unwrap();
    let mut passages = backlog(30_000, 1_000);
    // A clock that starts in 1970, and one in 2000.
    let wild: Vec<u64> = (0..30).map(|n| n * 500 + 20).collect();
    for n in &wild {
        let year_ms = if n % 1_000 < 500 { 0 } else { 946_684_800_000 };
        let at = &mut passages[usize::try_from(*n).unwrap()].passage.event_time;
        *at = EventTime::from_millis(year_ms + i64::try_from(*n).unwrap());
    }
    let stream = accept(&mut engine, &passages);
    let held = engine.state(StoreHealth::Ok).streams[0].held.clone();
    let entries = sealed(&mut engine, stream);
    assert!(entries.len() < 60, "{} entries", entries.len());
    // The centre takes no summary of windows that old.
    let oldest = EventTime::from_millis(NOW_MS - 58 * 86_400_000);
    let is_old = |entry: &&SummaryEntry| entry.deltas[0].bucket.start() < oldest;
    let refused: Vec<_> = entries.iter().filter(is_old).collect();
    assert!(!refused.is_empty());
    for entry in refused {
        engine.refuse_summary(stream, &entry.seqs, &SeqSet::new());
        engine.commit(NOW_MS).unwrap();
    }
    let losses = engine.state(StoreHealth::Ok).losses;
    let lost = losses.iter().filter(|(_, l)| l.scope == LossScope::All);
    let lost: SeqSet = lost.map(|(_, loss)| loss.range).collect();
    let wild: SeqSet = wild.iter().map(|n| range(n + 1, n + 1)).collect();
    assert_eq!(lost, wild.difference(&held));
}

#[test]
fn a_buffer_that_refuses_at_its_quota_holds_few_deltas_beyond_it_and_the_rest_goes_raw() {
    let quota_bytes = 32 * 1024;
    let place = tempfile::tempdir().unwrap();
    let settings = settings(place.path(), quota_bytes, QuotaPolicy::RefuseNew);
    let mut engine = Engine::open(&settings, NOW_MS).unwrap();
    // A window for each passage takes more than the passage.
    let sent = backlog(1_500, BUCKET_MS);
    let stream = accept(&mut engine, &sent);
    let raw_bytes = engine.held_bytes;
    assert!(raw_bytes < quota_bytes);
    let folded = fold_all(&mut engine, stream, &all_windows(u64::MAX));
    let key_bytes = 64;
    assert!(folded > 0 && folded < 1_500, "{folded} are folded");
    assert!(engine.held_bytes > quota_bytes - quota_bytes / 16);
    assert!(engine.held_bytes <= quota_bytes + quota_bytes / 16 + key_bytes);
    assert_eq!(engine.streams[0].summed().count(), folded);
}
