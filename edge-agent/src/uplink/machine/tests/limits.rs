//! Single claims about how many messages are on their way or read ahead.

use proto::limits::IN_FLIGHT_BATCHES_MAX;

use super::*;
use crate::uplink::lanes::Lane;

/// A passage comes, and a message of it leaves if it may.
fn comes(world: &mut World) {
    world.apply(&Op::Accept(1));
    world.apply(&Op::BufferShows);
    world.apply(&Op::Advance(250));
    work(world);
}

/// A world whose window was opened by receipts.
fn open() -> World {
    let mut world = linked(0);
    for _ in 0..8 {
        comes(&mut world);
        while !world.up.is_empty() {
            world.apply(&Op::DeliverUp(0));
        }
        while !world.down.is_empty() {
            world.apply(&Op::DeliverDown(0));
        }
    }
    world
}

#[test]
fn a_lane_has_no_more_messages_without_a_receipt_than_its_places() {
    let mut world = open();
    for _ in 0..3 {
        (0..20).for_each(|_| comes(&mut world));
        assert_eq!(world.machine.flight().len(), IN_FLIGHT_BATCHES_MAX);
        // One that is answered makes place for one that waits.
        world.apply(&Op::DeliverUp(0));
        world.apply(&Op::DeliverDown(0));
    }
}

/// Messages of a lane that are being read, and those that wait for the link.
fn ahead(world: &World, lane: Lane) -> (usize, usize) {
    let of_lane = || {
        world
            .machine
            .flight()
            .iter()
            .filter(|(_, m)| m.lane == lane)
    };
    let reading = of_lane().filter(|(_, message)| message.phase == Phase::Reading);
    let ready = of_lane().filter(|(_, message)| matches!(message.phase, Phase::Ready { .. }));
    (reading.count(), ready.count())
}

#[test]
fn no_more_is_read_ahead_of_a_link_without_room_than_two_messages_of_a_lane() {
    let mut world = open();
    world.full = true;
    (0..5).for_each(|_| comes(&mut world));
    assert_eq!(ahead(&world, Lane::Live), (0, 2));
    // With room they leave.
    world.full = false;
    world.feed(Input::Acknowledged { bytes: 0 });
    work(&mut world);
    let sent = world.up.iter().map(|frame| match frame {
        Frame::Passages(_, range) => range.count(),
        _ => 0,
    });
    assert_eq!(sent.sum::<u64>(), 2);
}

#[test]
fn no_more_is_read_ahead_of_a_slow_disk_than_two_messages_of_a_lane() {
    let mut world = open();
    for _ in 0..5 {
        world.apply(&Op::Accept(1));
        world.apply(&Op::BufferShows);
        world.apply(&Op::Advance(250));
    }
    assert_eq!(ahead(&world, Lane::Live), (2, 0));
}

#[test]
fn no_more_of_a_backlog_is_read_ahead_than_two_messages() {
    let mut world = World::new(1);
    world.apply(&Op::Accept(1_000));
    world.apply(&Op::BufferShows);
    world.connects(true);
    let hears = |world: &mut World| {
        while !world.down.is_empty() {
            world.apply(&Op::DeliverDown(0));
            // Nothing of it is so old that it would be folded.
            world.buffer_works();
        }
    };
    for _ in 0..8 {
        hears(&mut world);
        work(&mut world);
        while !world.up.is_empty() {
            world.apply(&Op::DeliverUp(0));
        }
    }
    hears(&mut world);
    assert_eq!(ahead(&world, Lane::Backlog), (2, 0));
    world.full = true;
    (0..5).for_each(|_| work(&mut world));
    assert_eq!(ahead(&world, Lane::Backlog), (0, 2));
}
