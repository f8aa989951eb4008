//! What is set aside: refused for ever, or damaged.

use super::*;

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
    let losses = engine.state(crate::buffer::StoreHealth::Ok).losses;
    let [(of, loss)] = losses.as_slice() else {
        panic!("{losses:?}")
    };
    assert_eq!(
        (*of, loss.range, loss.scope),
        (stream, range(1, 20), LossScope::All)
    );
    engine.receipt(centre(9, 2), &[booked]);
    assert!(
        engine
            .state(crate::buffer::StoreHealth::Ok)
            .losses
            .is_empty()
    );
}

#[test]
fn receipts_of_a_stream_with_hundreds_of_holes_are_heard_part_by_part() {
    let place = tempfile::tempdir().unwrap();
    let mut engine = Engine::open(&plain(place.path()), NOW_MS).unwrap();
    engine.stage(&many(0, 600), NOW_MS).unwrap().unwrap();
    engine.commit(NOW_MS).unwrap();
    let stream = engine.streams[0].id;
    let holes: Vec<SeqRange> = (1..=200).map(|n| range(3 * n, 3 * n)).collect();
    for hole in &holes {
        engine.refuse(stream, *hole, None).unwrap();
    }
    let told = |engine: &mut Engine| {
        for of in holes.chunks(RANGES_MAX) {
            let islands = of.iter().map(|hole| hole.first().get());
            let counted: SeqSet = islands.map(|n| range(n - 2, n - 1)).collect();
            let receipt = StreamReceipt {
                stream,
                stored: counted.clone(),
                counted,
                lost: of.iter().copied().collect(),
                afresh: false,
            };
            engine.receipt(centre(9, 1), &[receipt]);
        }
        engine.commit(NOW_MS).unwrap();
        assert!(engine.streams[0].unsent().is_empty());
        assert!(
            engine
                .state(crate::buffer::StoreHealth::Ok)
                .losses
                .is_empty()
        );
    };
    engine.commit(NOW_MS).unwrap();
    drop(engine);
    let mut engine = Engine::open(&plain(place.path()), NOW_MS).unwrap();
    assert_eq!(engine.streams[0].unsent().range_count(), 200);
    told(&mut engine);
    drop(engine);
    let (_, said) = Witness::open(place.path()).unwrap();
    assert!(said.is_some(), "the witness is believed");
    // A value of the store holds the widest of what was said. The rest is sent and answered again.
    let mut engine = Engine::open(&plain(place.path()), NOW_MS).unwrap();
    assert_eq!(engine.streams[0].unsent().range_count(), 200 - RANGES_MAX);
    told(&mut engine);
}

#[test]
fn a_stream_with_many_losses_hides_those_of_no_other() {
    let place = tempfile::tempdir().unwrap();
    let mut streams = Vec::new();
    for losses in [LOSSES_MAX as u64 + 50, 1] {
        let mut engine = Engine::open(&plain(place.path()), NOW_MS).unwrap();
        engine.stage(&many(0, 2 * losses), NOW_MS).unwrap().unwrap();
        engine.commit(NOW_MS).unwrap();
        let stream = engine.streams.last().unwrap().id;
        for n in 1..=losses {
            engine.refuse(stream, range(2 * n, 2 * n), None).unwrap();
        }
        engine.commit(NOW_MS).unwrap();
        streams.push(stream);
    }
    let mut engine = Engine::open(&plain(place.path()), NOW_MS).unwrap();
    let shown = engine.state(crate::buffer::StoreHealth::Ok).losses;
    let of = |stream| shown.iter().filter(|(of, _)| *of == stream).count();
    assert_eq!((of(streams[0]), of(streams[1])), (LOSSES_MAX / 2, 1));
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
