//! The machine over a model link to a centre that flushes at intervals, in virtual time: the link is
//! full, live passages come through it soon, and neither lane starves.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;

use proto::frame::WIRE_VERSION;
use proto::limits::IN_FLIGHT_BYTES_MAX;
use proto::receipt::{Beacon, Intake, Receipt, StreamReceipt};
use proto::{CentreId, EventTime, Seq, SeqSet};

use super::super::model_link::ModelLink;
use super::super::rate::FRAMING_BYTES;
use super::*;
use crate::buffer::StreamState;
use crate::uplink::frames::fixtures::{STREAM, buffer_state};
use crate::uplink::lanes::Lane;

const PACE: Pace = Pace {
    batch_passages: 2_000,
    // The link is what is looked at here.
    summary_after_ms: 0,
    ..tests::PACE
};

const CENTRE: Centre = Centre {
    id: CentreId::from_bytes([1; 16]),
    timeline: 1,
};

/// More than any test drains.
const BACKLOG: u64 = 1 << 40;

/// From one group commit of the buffer to the next.
const COMMIT_MS: Millis = 50;

/// From the question to a framed run.
const READ_MS: Millis = 3;

/// What a flush takes.
const FLUSH_TAKES_MS: Millis = 30;

const HEARTBEAT_BYTES: usize = 150;

/// What a link asks for, and what a unit brings.
#[derive(Debug, Clone, Copy)]
struct Scene {
    bytes_per_s: u64,
    round_trip_ms: Millis,
    jitter_ms: Millis,
    flush_ms: Millis,
    live_per_s: u64,
    pace: Pace,
}

const SLOW: Scene = Scene {
    bytes_per_s: 8_000,
    round_trip_ms: 300,
    jitter_ms: 20,
    flush_ms: 1_000,
    live_per_s: 12,
    pace: PACE,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Loaded(MessageId, u64, u64),
    Acknowledged(usize),
    Arrives(u64, u64),
    Commit,
    Flush,
    Receipt,
}

struct World {
    scene: Scene,
    machine: Machine,
    link: ModelLink,
    now: Millis,
    events: BinaryHeap<Reverse<(Millis, u64, Event)>>,
    count: u64,
    accepted: u64,
    /// Bytes of frames.
    sizes: BTreeMap<MessageId, (SeqRange, usize)>,
    arrived: SeqSet,
    stored: SeqSet,
    heard: SeqSet,
    /// Handed to the link by live and by the rest, headers included.
    handed: [u64; 2],
    /// From the post of live passages to their flush.
    delays_ms: Vec<Millis>,
}

impl World {
    fn new(scene: Scene) -> Self {
        let mut world = Self {
            scene,
            machine: Machine::new(scene.pace, Some(CENTRE), Jitter::new(1)),
            link: ModelLink::new(scene.bytes_per_s, scene.round_trip_ms, scene.jitter_ms),
            now: 0,
            events: BinaryHeap::new(),
            count: 0,
            accepted: BACKLOG,
            sizes: BTreeMap::new(),
            arrived: SeqSet::new(),
            stored: SeqSet::new(),
            heard: SeqSet::new(),
            handed: [0; 2],
            delays_ms: Vec::new(),
        };
        world.feed(Input::Tick);
        world.feed(Input::Buffer(world.state()));
        world.feed(Input::Subscribed);
        world.feed(Input::Beacon(Beacon {
            centre: CENTRE,
            token: 1,
            build: "1".into(),
            wire_min: WIRE_VERSION,
            wire_max: WIRE_VERSION,
            intake: Intake::Open,
            sent_at: EventTime::from_millis(0),
            summaries_age_max_ms: u64::MAX,
        }));
        world.at(COMMIT_MS, Event::Commit);
        world.at(scene.flush_ms, Event::Flush);
        world
    }

    fn at(&mut self, when: Millis, event: Event) {
        self.count += 1;
        self.events.push(Reverse((when, self.count, event)));
    }

    fn state(&self) -> Arc<BufferState> {
        let mut state = buffer_state();
        let all = SeqSet::from(SeqRange::from_count(Seq::FIRST, self.accepted).unwrap());
        state.streams = vec![Arc::new(StreamState {
            id: STREAM,
            current: true,
            accepted_to: self.accepted,
            offered: SeqSet::new(),
            held: all.clone(),
            kept: SeqSet::new(),
            unsent: all.difference(&self.heard),
            summed: SeqSet::new(),
            counted: self.heard.clone(),
            stored: self.heard.clone(),
            lost: SeqSet::new(),
            again: SeqSet::new(),
            oldest_unsent: None,
        })];
        Arc::new(state)
    }

    fn feed(&mut self, input: Input) {
        self.machine.handle(self.now, input);
        while let Some(command) = self.machine.poll() {
            match command {
                Command::Read { id, range, .. } => {
                    let (first, last) = (range.first().get(), range.last().get());
                    self.at(self.now + READ_MS, Event::Loaded(id, first, last));
                }
                Command::Publish(id) => {
                    let (range, bytes) = self.sizes.remove(&id).unwrap();
                    let of_live = usize::from(range.first().get() <= BACKLOG);
                    self.handed[of_live] += (bytes + FRAMING_BYTES) as u64;
                    let arrives = self.cross(bytes);
                    let (first, last) = (range.first().get(), range.last().get());
                    self.at(arrives, Event::Arrives(first, last));
                }
                Command::Forget(id) => drop(self.sizes.remove(&id)),
                Command::Heartbeat => {
                    self.cross(HEARTBEAT_BYTES);
                    let bytes = HEARTBEAT_BYTES;
                    self.machine.handle(self.now, Input::Said { bytes });
                }
                Command::Connect | Command::Receipt(..) | Command::OfferAgain(_) => {}
                Command::CentreTime(_) | Command::Corrected(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// A frame goes over the link and is acknowledged by the gate.
    fn cross(&mut self, bytes: usize) -> Millis {
        let arrives = self.link.up(self.now, bytes);
        let back = self.link.down(arrives);
        self.at(back, Event::Acknowledged(bytes));
        arrives
    }

    /// Runs on; says which part of the bottleneck's time was used.
    fn run(&mut self, for_ms: Millis) -> f64 {
        let (until, busy_us) = (self.now + for_ms, self.link.busy_us);
        self.handed = [0; 2];
        self.delays_ms.clear();
        loop {
            let wake = self.machine.timeout(self.now).unwrap_or(Millis::MAX);
            let next = self.events.peek().map_or(Millis::MAX, |event| event.0.0);
            if wake.max(self.now) < next {
                self.now = wake.max(self.now + 1);
                self.feed(Input::Tick);
                continue;
            }
            let Some(Reverse((now, _, event))) = self.events.pop() else {
                break;
            };
            if now > until {
                self.events.push(Reverse((now, 0, event)));
                break;
            }
            self.now = now;
            self.happen(event);
        }
        self.now = until;
        (self.link.busy_us - busy_us) as f64 / (for_ms * 1_000) as f64
    }

    fn happen(&mut self, event: Event) {
        let range =
            |first, last| SeqRange::new(Seq::new(first).unwrap(), Seq::new(last).unwrap()).unwrap();
        match event {
            Event::Loaded(id, first, last) => {
                let range = range(first, last);
                let bytes = 60 + 7 * usize::try_from(range.count()).unwrap();
                self.sizes.insert(id, (range, bytes));
                self.feed(Input::Loaded { id, range, bytes });
            }
            Event::Acknowledged(bytes) => self.feed(Input::Acknowledged { bytes }),
            Event::Arrives(first, last) => self.arrived.insert(range(first, last)),
            Event::Commit => {
                self.accepted = BACKLOG + self.now * self.scene.live_per_s / 1_000;
                self.feed(Input::Buffer(self.state()));
                self.at(self.now + COMMIT_MS, Event::Commit);
            }
            Event::Flush => {
                let done = self.now + FLUSH_TAKES_MS;
                for run in self.arrived.ranges() {
                    for number in run.first().get().max(BACKLOG + 1)..=run.last().get() {
                        let posted = (number - BACKLOG) * 1_000 / self.scene.live_per_s;
                        self.delays_ms.push(done - posted);
                    }
                }
                self.stored = self.stored.union(&self.arrived);
                self.arrived = SeqSet::new();
                let heard = self.link.down(done);
                self.at(heard, Event::Receipt);
                self.at(self.now + self.scene.flush_ms, Event::Flush);
            }
            Event::Receipt => {
                self.heard = self.stored.clone();
                let streams = vec![StreamReceipt {
                    stream: STREAM,
                    counted: self.heard.clone(),
                    stored: self.heard.clone(),
                    lost: SeqSet::new(),
                    afresh: false,
                }];
                self.feed(Input::Receipt(Receipt {
                    centre: CENTRE,
                    streams,
                    correction: None,
                }));
            }
        }
    }

    fn live_p99_ms(&mut self) -> Millis {
        self.delays_ms.sort_unstable();
        self.delays_ms[self.delays_ms.len() * 99 / 100]
    }

    /// Runs until the estimates stand, then for as long, and says what came of that.
    fn measured(scene: Scene, for_ms: Millis) -> (f64, Self) {
        let mut world = Self::new(scene);
        world.run(20_000);
        let used = world.run(for_ms);
        let [live, backlog] = world.handed;
        println!(
            "{} B/s, {} ms, flush {} ms: {used:.3} used, {live} B live, {backlog} B backlog, live \
             p99 {} ms",
            scene.bytes_per_s,
            scene.round_trip_ms,
            scene.flush_ms,
            world.live_p99_ms()
        );
        assert_eq!(world.machine.tally().messages_resent, 0, "nothing was lost");
        (used, world)
    }
}

#[test]
fn a_slow_link_is_full_and_live_passages_are_committed_within_three_seconds() {
    for flush_ms in [250, 1_000] {
        let (used, mut world) = World::measured(Scene { flush_ms, ..SLOW }, 300_000);
        assert!(used >= 0.95, "{used}");
        assert!(world.live_p99_ms() <= 3_000, "{} ms", world.live_p99_ms());
    }
}

#[test]
fn a_long_way_is_full_too() {
    let scene = Scene {
        round_trip_ms: 800,
        ..SLOW
    };
    for flush_ms in [250, 1_000] {
        let (used, mut world) = World::measured(Scene { flush_ms, ..scene }, 300_000);
        assert!(used >= 0.9, "{used}");
        assert!(world.live_p99_ms() <= 4_000, "{} ms", world.live_p99_ms());
    }
}

#[test]
fn a_megabit_is_full_when_the_centre_flushes_often() {
    let scene = Scene {
        bytes_per_s: 125_000,
        round_trip_ms: 100,
        flush_ms: 250,
        ..SLOW
    };
    let (used, mut world) = World::measured(scene, 60_000);
    assert!(used >= 0.9, "{used}");
    assert!(world.live_p99_ms() <= 2_000, "{} ms", world.live_p99_ms());
}

#[test]
fn on_a_lan_the_bytes_that_may_lack_a_receipt_are_all_used() {
    let scene = Scene {
        bytes_per_s: 12_500_000,
        round_trip_ms: 1,
        jitter_ms: 0,
        ..SLOW
    };
    let (_, mut world) = World::measured(scene, 30_000);
    let flushes = 30_000 / scene.flush_ms;
    let most = flushes * IN_FLIGHT_BYTES_MAX as u64;
    assert!(
        world.handed[1] * 10 >= most * 8,
        "{} of {most}",
        world.handed[1]
    );
    assert!(world.live_p99_ms() <= 2_000, "{} ms", world.live_p99_ms());
}

#[test]
fn neither_lane_starves_when_live_alone_could_fill_the_link() {
    for percent in [10, 30, 60] {
        let pace = Pace {
            backlog_share_percent: percent,
            ..PACE
        };
        let scene = Scene {
            live_per_s: 3_000,
            pace,
            ..SLOW
        };
        let (used, world) = World::measured(scene, 120_000);
        let [live, backlog] = world.handed;
        let share = backlog * 100 / (live + backlog);
        assert!(used >= 0.9, "{used}");
        assert!(
            share + 2 >= percent,
            "{share} % for the backlog, {percent} are guaranteed"
        );
        assert!(
            live * 100 >= (live + backlog) * (90 - percent),
            "{live} B live"
        );
    }
}

#[test]
fn a_cap_is_held_and_live_goes_first_under_it() {
    let pace = Pace {
        rate_bytes_per_s_max: Some(8_000),
        ..PACE
    };
    let scene = Scene {
        bytes_per_s: 125_000,
        pace,
        ..SLOW
    };
    let (_, mut world) = World::measured(scene, 120_000);
    let sent = world.handed[0] + world.handed[1];
    assert!((8_000 * 108..=8_000 * 121).contains(&sent), "{sent}");
    assert!(world.live_p99_ms() <= 3_000, "{} ms", world.live_p99_ms());
}

#[test]
fn what_the_owner_holds_back_stays_and_the_rest_goes_on() {
    let mut world = World::new(SLOW);
    world.run(20_000);
    world.feed(Input::Allowed(Allowed::Live));
    world.run(5_000);
    world.run(60_000);
    let [live, backlog] = world.handed;
    assert!(
        backlog == 0 && live > 0,
        "{backlog} B of the backlog, {live} B live"
    );
    world.feed(Input::Allowed(Allowed::Nothing));
    world.run(60_000);
    assert_eq!(world.handed, [0, 0]);
    world.feed(Input::Allowed(Allowed::Everything));
    assert!(world.run(60_000) >= 0.9);
}

#[test]
fn messages_of_a_slow_link_are_small() {
    let mut world = World::new(SLOW);
    world.run(20_000);
    let of_backlog = world
        .machine
        .flight()
        .iter()
        .filter(|(_, m)| m.lane == Lane::Backlog);
    let largest = of_backlog.map(|(_, m)| m.range.count()).max().unwrap();
    assert!((100..=500).contains(&largest), "{largest}");
}
