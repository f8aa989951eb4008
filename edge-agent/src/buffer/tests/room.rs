//! Room on the disk: the quota, the free floor, and how densely chunks lie.

use super::*;

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
    let state = engine.state(crate::buffer::StoreHealth::Ok);
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

/// Passages of so many full chunks, `step_s` apart; the quota is then a part of what they take.
fn backlog(directory: &Path, chunks: usize, step_s: u64, quota_part: u64) -> Engine {
    let mut engine = Engine::open(&plain(directory), NOW_MS).unwrap();
    let passages = CHUNK_PASSAGES_MAX * chunks;
    let numbers: Vec<u64> = (0..passages as u64).collect();
    for part in numbers.chunks(APPEND_PASSAGES_MAX) {
        let passages: Vec<_> = part.iter().map(|n| admitted(n * step_s, None)).collect();
        engine.stage(&passages, NOW_MS).unwrap().unwrap();
        engine.commit(NOW_MS).unwrap();
    }
    assert_eq!(engine.streams[0].chunks.len(), chunks);
    engine.settings.quota_bytes = engine.held_bytes / quota_part;
    engine
}

/// Commits a chunk at a time until the quota is kept; how many of the others there were before, and
/// are left after each.
fn shrinks(engine: &mut Engine) -> Vec<usize> {
    let mut held = vec![engine.streams[0].chunks.len()];
    while engine.held_bytes > engine.settings.quota_bytes {
        engine.stage(&many(1, 64), NOW_MS).unwrap().unwrap();
        engine.commit(NOW_MS).unwrap();
        held.push(engine.streams[0].chunks.len() - held.len());
    }
    held
}

#[test]
fn a_quota_that_shrinks_is_reached_so_many_chunks_a_commit_and_no_window_is_lost() {
    let place = tempfile::tempdir().unwrap();
    let mut engine = backlog(place.path(), 3_000, 1, 4);
    assert_eq!(shrinks(&mut engine)[..3], [3_000, 1_976, 952]);
    let losses = &engine.streams[0].losses;
    assert!(losses.iter().all(|loss| loss.scope == LossScope::RawOnly));
    let state = engine.state(crate::buffer::StoreHealth::Ok);
    assert_eq!(state.counters.lost, [state.summarised, 0, 0, 0]);
}

#[test]
fn sent_copies_above_a_quota_go_so_many_chunks_a_commit_and_nothing_is_refused_or_lost() {
    for policy in [QuotaPolicy::DropOldest, QuotaPolicy::RefuseNew] {
        let place = tempfile::tempdir().unwrap();
        let mut engine = backlog(place.path(), 3_000, 1, 4);
        engine.settings.policy = policy;
        let stored = SeqSet::from(range(1, 2_900 * 64));
        let receipt = StreamReceipt {
            stream: engine.streams[0].id,
            counted: stored.clone(),
            stored,
            lost: SeqSet::new(),
            afresh: false,
        };
        engine.receipt(centre(1, 1), &[receipt]);
        assert_eq!(shrinks(&mut engine)[..3], [3_000, 1_976, 952], "{policy:?}");
        let state = engine.state(crate::buffer::StoreHealth::Ok);
        assert_eq!((state.counters.lost, state.summarised), ([0; 4], 0));
        assert!(
            state.streams[0]
                .held
                .contains_range(range(2_900 * 64 + 1, 3_000 * 64))
        );
    }
}

#[test]
fn where_sums_outgrow_their_passages_the_quota_holds_and_no_commit_takes_a_whole_stream() {
    let place = tempfile::tempdir().unwrap();
    // A window of its own for each passage.
    let mut engine = backlog(place.path(), 2_500, 300, 1);
    let (quota, mut chunks) = (engine.settings.quota_bytes, 2_500);
    for commit in 0..10 {
        let more: Vec<_> = (0..64).map(|n| admitted(n * 300, None)).collect();
        engine.stage(&more, NOW_MS).unwrap().unwrap();
        engine.commit(NOW_MS).unwrap();
        assert!(
            engine.held_bytes <= quota,
            "{} of {quota}",
            engine.held_bytes
        );
        let held = engine.streams[0].chunks.len();
        assert!(
            chunks + 1 - held <= 16,
            "{held} chunks after commit {commit}"
        );
        chunks = held;
    }
    // What is neither here nor in sums is stated as lost.
    let state = engine.state(crate::buffer::StoreHealth::Ok);
    assert_eq!(state.streams[0].kept, range(1, 64 * 2_510).into());
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
    let state = engine.state(crate::buffer::StoreHealth::Ok);
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
    engine.rebuild_file_bytes_min = engine.disk.used_bytes;
    assert!(!engine.is_oversized(), "its file is not too large");
    engine.rebuild_file_bytes_min = 0;
    let held_bytes = std::mem::replace(&mut engine.held_bytes, (8 << 20) + 1);
    assert!(!engine.is_oversized(), "the copy would take too long");
    engine.held_bytes = held_bytes;
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
