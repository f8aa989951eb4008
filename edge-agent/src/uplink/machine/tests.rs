//! The machine against a model of everything around it: a network that drops, duplicates, delays
//! and reorders, a centre that dies, closes, refuses and is put back in time, a buffer that lags, an
//! agent that restarts.
//!
//! Held at every step: a number is in at most one message; what is published is durable and wanted;
//! the window holds; nothing is freed that the centre has not committed; what a summary stands for
//! leaves raw after its receipt only. Once the faults stop, everything drains in a bounded number of
//! steps.

mod buffer;
mod centre;
mod held;
mod limits;
mod schedules;
mod summaries;
mod world;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use proptest::prelude::*;
use proto::frame::WIRE_VERSION;
use proto::limits::IN_FLIGHT_BYTES_MAX;
use proto::loss::{Loss, LossReason, LossScope};
use proto::receipt::{
    Beacon, Intake, Receipt, Refusal, RefusalClass, RefusalReason, StreamReceipt,
};
use proto::{CentreId, EventTime, Seq, SeqSet};

use self::held::Held;
use self::schedules::Op;
use self::world::{Frame, World, bytes_of, claimed};
use super::super::backoff::Backoff;
use super::*;
use crate::buffer::{Folded, StreamState};
use crate::uplink::folding::Backlog;
use crate::uplink::frames::fixtures::buffer_state;

pub(in crate::uplink) const PACE: Pace = Pace {
    batch_passages: 50,
    event_wait_ms: 250,
    heartbeat_ms: 30_000,
    reconnect: Backoff {
        base_ms: 1_000,
        cap_ms: 60_000,
    },
    probe: Backoff {
        base_ms: 1_000,
        cap_ms: 300_000,
    },
    resend: Backoff {
        base_ms: 30_000,
        cap_ms: 300_000,
    },
    open_jitter_ms: 10_000,
    backlog_share_percent: 30,
    rate_bytes_per_s_max: None,
    summary_after_ms: 60_000,
};

const OURS: CentreId = CentreId::from_bytes([1; 16]);
const OTHERS: CentreId = CentreId::from_bytes([2; 16]);

/// Bytes of anything but passages.
const SAID_BYTES: usize = 200;
/// Passages that the buffer folds at once.
const FOLD_PASSAGES: u64 = 300;

/// A world with a link, an open intake and so many passages in the buffer.
fn linked(passages: u16) -> World {
    let mut world = World::new(1);
    world.connects(true);
    let beacon = world.down.remove(0);
    world.feed(beacon);
    world.apply(&Op::Accept(passages));
    world.apply(&Op::BufferShows);
    world
}

/// Reads are answered, and what leaves crosses the link.
fn work(world: &mut World) {
    while let Some(read) = world.reads.pop() {
        world.answer_read(read, u64::MAX);
        while !world.unacked.is_empty() {
            world.acknowledge();
        }
    }
}

#[test]
fn events_wait_for_company_no_longer_than_configured() {
    let mut world = linked(3);
    assert!(world.reads.is_empty());
    assert_eq!(world.machine.timeout(world.now), Some(PACE.event_wait_ms));
    world.apply(&Op::Advance(250));
    assert_eq!(world.reads.len(), 1);
}

#[test]
fn the_window_opens_by_receipts_from_one_to_its_maximum() {
    let mut world = linked(5_000);
    let mut windows = Vec::new();
    for _ in 0..5 {
        work(&mut world);
        windows.push(world.up.len());
        while !world.up.is_empty() {
            let frame = world.up.remove(0);
            world.arrive(&frame);
        }
        // One receipt for the flush.
        let last = world.down.pop().unwrap();
        world.down.clear();
        world.feed(last);
    }
    for (receipts, messages) in windows.iter().enumerate() {
        assert!(*messages <= 1 << receipts, "{windows:?}");
    }
    assert!(windows[0] == 1 && windows[4] > 1, "{windows:?}");
    assert!(world.machine.tally().messages_answered >= 5);
}

#[test]
fn a_duplicate_receipt_changes_nothing() {
    let mut world = linked(60);
    work(&mut world);
    let frame = world.up.remove(0);
    world.arrive(&frame);
    world.apply(&Op::DuplicateDown(0));
    world.apply(&Op::DeliverDown(0));
    let before = world.machine.tally();
    world.apply(&Op::DeliverDown(0));
    assert_eq!(
        world.machine.tally().messages_answered,
        before.messages_answered
    );
}

#[test]
fn an_unanswered_message_is_sent_again_after_its_deadline_and_on_a_new_link() {
    let mut world = linked(50);
    work(&mut world);
    world.up.clear();
    world.apply(&Op::Advance(29_999));
    assert!(world.reads.is_empty());
    world.apply(&Op::Advance(40_000));
    work(&mut world);
    assert_eq!(world.up.len(), 1);
    world.cut();
    world.apply(&Op::Advance(60_000));
    world.connects(true);
    let beacon = world.down.remove(0);
    world.feed(beacon);
    // Nothing of it can be folded.
    world.buffer_works();
    work(&mut world);
    assert_eq!(
        (world.up.len(), world.machine.tally().messages_resent),
        (1, 2)
    );
}

#[test]
fn a_new_owner_is_sent_everything_again_at_once() {
    let mut world = linked(50);
    work(&mut world);
    world.up.clear();
    world.apply(&Op::CentreReturns);
    world.apply(&Op::DeliverDown(0));
    work(&mut world);
    assert_eq!(world.up.len(), 1);
}

#[test]
fn a_closed_intake_gets_one_probe_per_backoff() {
    let mut world = linked(0);
    world.apply(&Op::Intake(false));
    world.apply(&Op::DeliverDown(0));
    world.apply(&Op::Accept(5_000));
    world.apply(&Op::BufferShows);
    for probes in 1..6 {
        let next = world.machine.timeout(world.now).unwrap();
        world.now = next;
        world.feed(Input::Tick);
        work(&mut world);
        assert!(
            world.up.len() <= probes,
            "{} messages after {probes} turns",
            world.up.len()
        );
    }
    assert!(!world.up.is_empty());
}

#[test]
fn never_moves_a_range_aside_and_the_rest_goes_on() {
    let mut world = linked(100);
    work(&mut world);
    world.apply(&Op::Refuse {
        which: 0,
        class: RefusalClass::Never,
        reason: RefusalReason::Malformed,
    });
    world.apply(&Op::DeliverDown(0));
    assert_eq!(world.to_refuse.len(), 1);
    world.drain();
    let (id, held) = &world.streams[0];
    assert_eq!(
        (held.aside.count(), world.cursors[id].counted.count()),
        (50, 50)
    );
}

#[test]
fn what_one_build_refused_is_offered_once_to_the_next() {
    let mut world = linked(50);
    let refuse = |world: &mut World| {
        work(world);
        let is_passages = |frame: &Frame| matches!(frame, Frame::Passages(..));
        while world.up.iter().any(is_passages) {
            world.up.retain(is_passages);
            world.apply(&Op::Refuse {
                which: 0,
                class: RefusalClass::Never,
                reason: RefusalReason::Malformed,
            });
            world.apply(&Op::DeliverDown(0));
            world.apply(&Op::BufferWorks);
            world.apply(&Op::BufferShows);
            world.apply(&Op::Advance(300));
            work(world);
        }
        assert!(world.reads.is_empty(), "all are aside");
    };
    refuse(&mut world);
    for (build, offers) in [(1, false), (2, true), (1, false), (2, false), (3, true)] {
        world.apply(&Op::NewBuild(build));
        world.apply(&Op::DeliverDown(0));
        world.apply(&Op::BufferWorks);
        world.apply(&Op::BufferShows);
        assert_eq!(!world.reads.is_empty(), offers, "build {build}");
        if offers {
            refuse(&mut world);
        }
    }
    world.drain();
    assert_eq!(world.streams[0].1.lost.count(), 50);
}

#[test]
fn a_bad_summary_costs_itself_only_and_is_not_sent_for_ever() {
    let mut world = linked(0);
    world.apply(&Op::Accept(100));
    for _ in 0..4 {
        world.apply(&Op::Summarise(25));
    }
    world.apply(&Op::BufferShows);
    let bad = Seq::new(26).unwrap();
    let mut sendings = 0;
    for _ in 0..200 {
        world.up.retain(|frame| matches!(frame, Frame::Summary(..)));
        if let Some(Frame::Summary(stream, entries)) = world.up.first().cloned() {
            sendings += 1;
            if entries.iter().any(|seqs| seqs.contains(bad)) {
                world.up.remove(0);
                let (class, reason) = (RefusalClass::Reshape, RefusalReason::Horizon);
                world.refuse(stream, claimed(&entries), class, reason);
            } else {
                world.apply(&Op::DeliverUp(0));
            }
        }
        world.apply(&Op::DeliverDown(0));
        world.apply(&Op::BufferWorks);
        world.apply(&Op::BufferShows);
        world.apply(&Op::Advance(100));
    }
    let (id, held) = &world.streams[0];
    assert!(held.entries.is_empty());
    assert_eq!(held.gone.count(), 25);
    assert_eq!(world.cursors[id].counted.count(), 75);
    assert!(sendings < 8, "{sendings} sendings");
}

#[test]
fn too_large_a_message_comes_again_in_halves() {
    let mut world = linked(50);
    work(&mut world);
    world.apply(&Op::Refuse {
        which: 0,
        class: RefusalClass::Reshape,
        reason: RefusalReason::Cap,
    });
    world.apply(&Op::DeliverDown(0));
    let (_, _, range) = world.reads[0];
    assert_eq!(range.count(), 25);
}

#[test]
fn heartbeats_come_at_their_interval() {
    let mut world = linked(0);
    assert_eq!(world.heartbeats, 1);
    world.apply(&Op::Advance(29_999));
    assert_eq!(world.heartbeats, 1);
    world.apply(&Op::Advance(1));
    assert_eq!(world.heartbeats, 2);
}
