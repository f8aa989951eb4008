//! Single claims about what goes ahead of a late backlog.

use super::*;

/// A world whose link comes up with so many old passages in the buffer, `offered` of them in a message
/// of an earlier link.
fn late(passages: u16, offered: u64) -> World {
    let mut world = World::new(1);
    world.late = true;
    world.apply(&Op::Accept(passages));
    let range = SeqRange::from_count(Seq::FIRST, offered);
    let held = &mut world.streams[0].1;
    range
        .into_iter()
        .for_each(|range| held.offered.insert(range));
    world.apply(&Op::BufferShows);
    world.connects(true);
    let beacon = world.down.remove(0);
    world.feed(beacon);
    world
}

fn answer_reads(world: &mut World) {
    while let Some(read) = world.reads.pop() {
        world.answer_read(read, u64::MAX);
    }
}

/// The buffer folds, and hands out its summaries.
fn works(world: &mut World) {
    world.buffer_works();
    while !world.to_fold.is_empty() || !world.to_summarise.is_empty() {
        world.buffer_works();
    }
}

/// The centre takes what is on its way, the buffer hears of it.
fn exchange(world: &mut World) {
    while !world.up.is_empty() {
        world.apply(&Op::DeliverUp(0));
    }
    while !world.down.is_empty() {
        world.apply(&Op::DeliverDown(0));
    }
    works(world);
    world.apply(&Op::BufferShows);
    works(world);
}

fn is_summary(frame: &Frame) -> bool {
    matches!(frame, Frame::Summary(..))
}

#[test]
fn nothing_of_a_late_backlog_leaves_before_its_summary_and_its_raw_passages_after_the_receipt() {
    let mut world = late(200, 0);
    assert!(
        world.reads.is_empty() && world.up.is_empty(),
        "it is being folded"
    );
    works(&mut world);
    assert!(matches!(&world.up[..], [Frame::Summary(..)]));
    assert!(world.reads.is_empty(), "its receipt is not there");
    exchange(&mut world);
    assert_eq!(world.cursors[&world.streams[0].0].counted.count(), 200);
    assert_eq!(world.reads[0].2.first(), Seq::FIRST);
    world.drain();
}

#[test]
fn live_passages_do_not_wait_for_summaries() {
    let mut world = late(200, 0);
    world.apply(&Op::Accept(60));
    world.apply(&Op::BufferShows);
    world.apply(&Op::Advance(250));
    let live = SeqRange::new(Seq::new(201).unwrap(), Seq::new(250).unwrap()).unwrap();
    assert_eq!(world.reads[0].2, live);
    world.drain();
}

#[test]
fn what_the_windows_lack_follows_the_summary_at_once() {
    let mut world = late(200, 50);
    works(&mut world);
    assert!(is_summary(&world.up[0]), "first of all");
    assert_eq!(
        world.reads[0].2,
        SeqRange::from_count(Seq::FIRST, 50).unwrap()
    );
    answer_reads(&mut world);
    assert_eq!(world.up.len(), 2);
    world.drain();
}

#[test]
fn a_young_backlog_goes_as_it_is() {
    let mut world = late(200, 0);
    world.late = false;
    works(&mut world);
    answer_reads(&mut world);
    assert!(matches!(&world.up[..], [Frame::Passages(..)]));
}

#[test]
fn a_summary_that_is_refused_gives_way_to_its_passages() {
    let mut world = late(200, 0);
    works(&mut world);
    world.apply(&Op::Refuse {
        which: 0,
        class: RefusalClass::Reshape,
        reason: RefusalReason::Horizon,
    });
    exchange(&mut world);
    answer_reads(&mut world);
    assert!(
        matches!(&world.up[..], [Frame::Passages(..)]),
        "{:?}",
        world.up
    );
    world.drain();
    let (id, held) = &world.streams[0];
    assert!(held.gone.is_empty());
    assert_eq!(world.cursors[id].stored.count(), 200);
}

#[test]
fn an_intake_that_was_closed_for_long_is_met_with_summaries_too() {
    let mut world = late(0, 0);
    world.apply(&Op::Intake(false));
    world.apply(&Op::DeliverDown(0));
    world.apply(&Op::Accept(500));
    world.apply(&Op::BufferShows);
    world.apply(&Op::Intake(true));
    world.apply(&Op::DeliverDown(0));
    world.apply(&Op::Advance(10_000));
    works(&mut world);
    assert!(is_summary(&world.up[0]));
    world.drain();
}
