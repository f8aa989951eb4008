//! ● A unit: its camera, its disk, and the agent's own admission, buffer and uplink, run step by step.
//!
//! What stands here in the place of the agent's shells (`ingest/http`, `uplink/driver`, the buffer's
//! thread) is told the virtual time and decides nothing.

mod door;
mod images;
mod link;
mod turns;
mod uplink;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use edge_agent::buffer::{
    AppendError, Appended, Buffer, BufferSettings, BufferState, HandedOver, Moment, Owner,
};
use edge_agent::clock::{Known, Reading};
use edge_agent::uplink::backoff::{Backoff, Jitter};
use edge_agent::uplink::courier::{Answer, Courier};
use edge_agent::uplink::exchange::{Input, Pace};
use edge_agent::uplink::frames::Framer;
use edge_agent::uplink::frontier::Statements;
use edge_agent::uplink::machine::Machine;
use proto::{DeviceId, EventTime, SeqRange, StreamId};
use service::clock::monotonic;
use tokio::sync::watch;

use super::camera::Camera;
use super::disk::{Disk, Fate};
use super::net::{Client, ConnectionId};
use super::oracle::CAMERA_DELAY_MS;
use super::queue::{Millis, wall_ms};
use super::scenario::{Bug, UnitSetup};
use super::stage::{Event, Stage, UnitEvent};
use images::Backup;

/// Within this time a unit sees that its disk has space again: it looks once a second, when its
/// thread has a turn.
const SPACE_SEEN_MS: Millis = 6_000;

/// What the buffer was asked, and what came of it.
enum Done {
    Posted {
        times: Vec<i64>,
        appended: Result<Appended, AppendError>,
    },
    Answered(Answer),
}

type Reply = Pin<Box<dyn Future<Output = Done>>>;

/// A connection to the broker.
#[derive(Debug)]
struct Link {
    id: ConnectionId,
    pkid: u16,
    /// The bytes of each unacknowledged publish and, for the planted bug, what it holds.
    unacknowledged: BTreeMap<u16, (usize, Option<(StreamId, SeqRange)>)>,
}

/// One run of the agent.
struct Running {
    began: Millis,
    courier: Courier,
    known: Known,
    owner: Owner,
    /// The buffer's state as it was shown last.
    state: watch::Receiver<Arc<BufferState>>,
    replies: Vec<Reply>,
    link: Option<Link>,
    /// When the buffer's thread and the machine have their next turn.
    buffer_at: Millis,
    uplink_at: Millis,
}

/// See the module.
pub(super) struct Unit {
    pub(super) place: usize,
    /// Whose certificate it has: its own place, but for a copy.
    identity: usize,
    pub(super) name: DeviceId,
    setup: UnitSetup,
    /// Its clock minus the centre's.
    clock_ms: i64,
    /// When its disk had no space left last.
    was_full_at: Option<Millis>,
    /// Bytes of its disk before the turn of the buffer's thread.
    bytes_before: u64,
    /// An image of its store that was taken.
    taken: Option<Backup>,
    /// How often it has begun, as far as its store knows; for the planted bug.
    begun: u64,
    /// Somebody has switched it off.
    off: bool,
    batch_passages: u64,
    bug: Option<Bug>,
    disk: Disk,
    pub(super) camera: Camera,
    pub(super) life: u32,
    running: Option<Running>,
    epoch: Instant,
    last_losses: Vec<(StreamId, proto::loss::Loss)>,
}

impl Debug for Unit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unit")
            .field("name", &self.name)
            .field("life", &self.life)
            .finish_non_exhaustive()
    }
}

impl Unit {
    pub(super) fn new(stage: &Stage, place: usize) -> Self {
        let setup = stage.scenario.units[place];
        let identity = stage.scenario.identity(place);
        Self {
            place,
            identity,
            name: name(identity),
            setup,
            clock_ms: setup.skew_ms,
            was_full_at: None,
            bytes_before: 0,
            taken: None,
            begun: 0,
            off: false,
            batch_passages: stage.scenario.batch_passages,
            bug: stage.scenario.bug,
            disk: Disk::new(stage.scenario.bug == Some(Bug::SkipFlush)),
            camera: Camera::new(name(identity), setup.ids, setup.copy_of.is_some()),
            life: 0,
            running: None,
            epoch: monotonic(),
            last_losses: Vec::new(),
        }
    }

    /// By the unit's own clock.
    fn wall_ms(&self, now: Millis) -> i64 {
        wall_ms(now) + self.clock_ms
    }

    /// The clock is wrong by so much.
    pub(super) fn step_clock(&mut self, stage: &mut Stage, by_ms: i64) {
        self.show_clock(stage, self.setup.skew_ms + by_ms);
    }

    /// Somebody sets the clock right.
    pub(super) fn set_clock(&mut self, stage: &mut Stage) {
        self.show_clock(stage, self.setup.skew_ms);
    }

    fn show_clock(&mut self, stage: &mut Stage, clock_ms: i64) {
        self.note_time(stage);
        self.clock_ms = clock_ms;
        stage.say(format_args!("{}: clock is off by {clock_ms} ms", self.name));
    }

    /// What time it is may be seen otherwise from now on: what the unit could say before is what it is
    /// held to after.
    fn note_time(&self, stage: &mut Stage) {
        let believed = self.reading(stage.now()).now;
        stage
            .oracle
            .takes_time_for(self.identity, believed.as_millis());
    }

    /// What time it is, as far as a running unit knows.
    fn reading(&self, now: Millis) -> Reading {
        let wall = EventTime::from_millis(self.wall_ms(now));
        self.running
            .as_ref()
            .map_or(Reading::right(wall), |running| {
                running.known.reading(wall, running.clock(now))
            })
    }

    fn moment(&self, now: Millis) -> Moment {
        Moment {
            monotonic: self.epoch + Duration::from_millis(now),
            wall_ms: self.wall_ms(now),
        }
    }

    fn pace(&self, stage: &Stage) -> Pace {
        let wait = |base_ms, cap_ms| Backoff { base_ms, cap_ms };
        Pace {
            batch_passages: self.batch_passages,
            event_wait_ms: 250,
            heartbeat_ms: stage.scenario.times.heartbeat_ms,
            reconnect: wait(1_000, 60_000),
            probe: wait(1_000, 300_000),
            resend: wait(30_000, 300_000),
            open_jitter_ms: 10_000,
            backlog_share_percent: 30,
            summary_after_ms: self.setup.summary_after_ms,
            rate_bytes_per_s_max: self.setup.rate_bytes_per_s_max,
        }
    }

    pub(super) fn hear(&mut self, stage: &mut Stage, event: UnitEvent) {
        match event {
            UnitEvent::Start => self.start(stage),
            UnitEvent::Post => self.post(stage),
            UnitEvent::Buffer => self.step(stage),
            UnitEvent::Uplink => self.feed(stage, Input::Tick),
            UnitEvent::Dial => self.dial(stage),
            UnitEvent::ClockSet => self.set_clock(stage),
        }
    }

    fn later(&self, stage: &mut Stage, delay: Millis, event: UnitEvent) {
        let event = Event::Unit(self.place, self.life, event);
        stage.queue.after(delay, event);
    }

    fn start(&mut self, stage: &mut Stage) {
        if self.off || self.running.is_some() {
            return;
        }
        self.disk.cut();
        let now = stage.now();
        if self.disk.is_full() {
            // It cannot even begin its run, and is started again and again.
            return self.later(stage, 2_000, UnitEvent::Start);
        }
        if !self.setup.rtc {
            self.show_clock(stage, -wall_ms(now));
            let takes = stage.dice.pick(&[2_000, 20_000, 60_000]);
            self.later(stage, takes, UnitEvent::ClockSet);
        }
        let settings = BufferSettings {
            device: self.name.clone(),
            directory: "simulated".into(),
            quota_bytes: self.setup.quota_bytes,
            free_floor_bytes: 0,
            policy: self.setup.policy,
            linger: Duration::from_millis(50),
            open_timeout: Duration::from_secs(60),
        };
        let handed = HandedOver {
            medium: Box::new(self.disk.clone()),
            stream: self.next_stream(stage),
            offered_ahead_max: self.setup.offered_ahead_max,
        };
        let (buffer, owner) = match Buffer::over(&settings, handed, self.moment(now)) {
            Ok(opened) => opened,
            Err(error) => {
                return stage
                    .oracle
                    .fail(format!("{} does not start: {error}", self.name));
            }
        };
        let mut receiver = buffer.state();
        let state = receiver.borrow_and_update().clone();
        stage.say(format_args!(
            "{}: life {}, run {}, {} unsent",
            self.name, self.life, state.run, state.unsent.passages
        ));
        let jitter = Jitter::new(stage.dice.number());
        let machine = Machine::new(self.pace(stage), state.centre, jitter);
        let framer = Framer::new(Statements::new(state.run, CAMERA_DELAY_MS));
        let floor = state.centre_time.unwrap_or(EventTime::from_millis(0));
        self.running = Some(Running {
            began: now,
            courier: Courier::new(machine, framer, buffer),
            known: Known::new(floor),
            owner,
            state: receiver,
            replies: Vec::new(),
            link: None,
            buffer_at: Millis::MAX,
            uplink_at: Millis::MAX,
        });
        self.look(stage, &state);
        self.observe(stage);
        self.feed(stage, Input::Tick);
        self.ask_turn(stage);
        self.later(stage, 100, UnitEvent::Post);
    }

    /// Its disk has no space left, or some again.
    pub(super) fn fill_disk(&mut self, stage: &mut Stage, full: bool) {
        self.disk.fill(full);
        if self.was_full_at.is_some() || full {
            self.was_full_at = Some(stage.now());
        }
        stage.say(format_args!("{}: disk full: {full}", self.name));
    }

    /// Whether posts may be refused for want of space.
    fn wants_space(&self, now: Millis) -> bool {
        let lately = self.was_full_at.is_some_and(|at| now - at < SPACE_SEEN_MS);
        lately || self.disk.is_full()
    }

    /// The power goes.
    pub(super) fn crash(&mut self, stage: &mut Stage) {
        self.note_time(stage);
        if self.running.take().is_none() {
            return;
        }
        self.disk.cut();
        let held = self.disk.held();
        stage.oracle.cut(self.identity, self.place, held);
        let (place, life) = (self.place, self.life);
        for id in stage.net.of(|client| client == Client::Unit(place, life)) {
            // The broker notices at once, or by its keep-alive.
            stage.cut(id, 1);
        }
        self.life += 1;
        self.camera.unanswered();
        stage.say(format_args!("{}: power cut", self.name));
        let off = stage.dice.pick(&[100, 3_000, 30_000]);
        self.later(stage, off, UnitEvent::Start);
    }

    /// The power will go during the next commit.
    pub(super) fn crash_in_commit(&mut self, durable: bool) {
        self.disk.foretell(if durable {
            Fate::CutAfter
        } else {
            Fate::CutBefore
        });
    }

    /// Whether nothing waits here; otherwise what.
    pub(super) fn waits(&self, timeline: u32) -> Option<String> {
        let Some(running) = &self.running else {
            return Some(format!("{} is down", self.name));
        };
        let state = running.state.borrow();
        let idle = state.unsent.passages == 0 && state.losses.is_empty() && state.summarised == 0;
        let done = idle && !self.camera.is_waiting() && running.replies.is_empty();
        // Until it has heard of the database's present life it believes that of the last.
        let done = done
            && state
                .centre
                .is_some_and(|centre| centre.timeline == timeline);
        (!done).then(|| {
            format!(
                "{}: {} unsent, {} losses, {} summarised, camera waits: {}, link {:?}, shut {:?}, {:?}",
                self.name,
                state.unsent.passages,
                state.losses.len(),
                state.summarised,
                self.camera.is_waiting(),
                running.courier.machine().link(),
                running.courier.machine().why_shut(),
                running.courier.machine().tally(),
            )
        })
    }
}

/// Names of units are those of their places.
pub(super) fn name(place: usize) -> DeviceId {
    device(&format!("KV{place}"))
}

/// A name that is known to be one.
pub(super) fn device(name: &str) -> DeviceId {
    DeviceId::new(name).unwrap_or_else(|error| unreachable!("{error}"))
}
