//! ● An aggregator: its own intake, selection, plan and memory, run step by step.
//!
//! What stands here in the place of the aggregator's shells (`intake/mqtt`, `intake/presence`,
//! `commit/lease`, `commit/owner`) keeps their order: leases on a connection of their own; nothing
//! planned while a transaction is under way; state that belongs to one set of tokens; tokens raised
//! before anything is believed after an unknown outcome; receipts after COMMIT.

mod flush;
mod lease;
mod link;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use aggregator::commit::lease::Holdings;
use aggregator::commit::surge::Surge;
use aggregator::commit::turns::Turns;
use aggregator::intake::admit::{Door, DoorLimits};
use aggregator::intake::decode::Message;
use aggregator::intake::mqtt::Gate;
use aggregator::window::state::Memory;
use proto::receipt::{Centre, Intake};
use proto::topic::Shard;

use super::database::{Database, LEASE_TTL_MS, Owner, Role, SessionId};
use super::net::{Client, ConnectionId, ToClient};
use super::queue::Millis;
use super::scenario::Bug;
use super::stage::{AggregatorEvent, Event, Stage};
use flush::Flush;
use lease::Keeper;
pub(super) use link::name as centre_name;

/// Windows kept in memory: few, so that they are often loaded again.
const WINDOWS_MAX: usize = 40;

/// By then a process that was told to stop has stopped, or is killed.
const STOP_MS_MAX: Millis = 20_000;

/// The longest wait of an owner after a failure.
const BACKOFF_MS_MAX: Millis = 5_000;

/// One of the aggregators, through all its lives.
pub(super) struct Aggregator {
    place: usize,
    pub(super) life: u32,
    bug: Option<Bug>,
    running: Option<Running>,
    /// While it is stopped, what would have happened to it.
    stopped: Option<Vec<Missed>>,
}

/// What a stopped process finds when it goes on.
enum Missed {
    Event(AggregatorEvent),
    Packet(ConnectionId, ToClient),
}

/// One life.
struct Running {
    holdings: Holdings,
    keeper: Keeper,
    /// When the leases were renewed last.
    renewed: Millis,
    link: Link,
    /// Whether the broker was reached before, and what it still had to bring is lost.
    was_linked: bool,
    relinked: bool,
    subscribed: BTreeSet<Shard>,
    gate: Gate,
    told: BTreeMap<Shard, (i64, Intake)>,
    /// It was told to stop, ends in order, and is back after so long.
    stopping: Option<Millis>,
    door: Door,
    /// Decoded; their turn has not come.
    waiting: Turns,
    /// Those of the next flush.
    pending: Vec<Message>,
    surge: Surge,
    backoff_ms: Millis,
    phase: Phase,
}

/// The connection to the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    Down,
    Dialling,
    /// The broker has not answered yet.
    Greeting(ConnectionId),
    /// And whether the subscriptions stand.
    Connected(ConnectionId, bool),
}

/// What the owner does.
enum Phase {
    /// Owns nothing, or waits for its next attempt.
    Idle,
    /// Its tokens are being raised.
    Raising,
    Session(Box<Session>),
}

/// One connection, one set of tokens, one memory.
struct Session {
    database: SessionId,
    holdings: Holdings,
    centre: Centre,
    memory: Memory,
    stream_keys: Vec<i32>,
    flush: Option<Flush>,
}

/// Why a session ended.
enum Ended {
    /// Tokens are raised before the next one.
    Raise(String),
    Closed(String),
}

impl Debug for Aggregator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Aggregator")
            .field("place", &self.place)
            .field("life", &self.life)
            .finish_non_exhaustive()
    }
}

impl Aggregator {
    pub(super) const fn new(place: usize, bug: Option<Bug>) -> Self {
        Self {
            place,
            life: 0,
            bug,
            running: None,
            stopped: None,
        }
    }

    const fn owner(&self) -> Owner {
        (self.place, self.life)
    }

    const fn client(&self) -> Client {
        Client::Aggregator(self.place, self.life)
    }

    fn later(&self, stage: &mut Stage, delay: Millis, event: AggregatorEvent) {
        let event = Event::Aggregator(self.place, self.life, event);
        stage.queue.after(delay, event);
    }

    pub(super) fn hear(&mut self, stage: &mut Stage, db: &mut Database, event: AggregatorEvent) {
        match (&mut self.stopped, &event) {
            (_, AggregatorEvent::Continue | AggregatorEvent::Kill(_)) | (None, _) => {}
            // COMMIT may have left the process already.
            (_, AggregatorEvent::Commit(_)) if stage.dice.percent(50) => {}
            (Some(missed), _) => return missed.push(Missed::Event(event)),
        }
        match event {
            AggregatorEvent::Start => return self.start(stage),
            AggregatorEvent::Continue => return self.go_on(stage, db),
            AggregatorEvent::Kill(back_after) => return self.kill(stage, db, back_after),
            AggregatorEvent::Commit(id) => return self.commit(stage, db, id),
            AggregatorEvent::Cursors(writes) => db.commit_cursors(stage, &writes),
            _ if self.running.is_none() => return,
            AggregatorEvent::Lease => {
                let renew_ms = stage.scenario.times.renew_ms;
                self.later(stage, renew_ms, AggregatorEvent::Lease);
                self.keep_leases(stage, db);
            }
            AggregatorEvent::News => self.keep_leases(stage, db),
            AggregatorEvent::Claimed(session, claimed) => {
                self.claimed(stage, db, session, &claimed);
            }
            AggregatorEvent::Owner => {
                let flush_ms = stage.scenario.times.flush_ms;
                self.later(stage, flush_ms, AggregatorEvent::Owner);
                self.own(stage, db);
            }
            AggregatorEvent::Retry => self.own(stage, db),
            AggregatorEvent::Answer(id, answer) => self.answered(stage, db, id, answer),
            AggregatorEvent::Dial => self.dialled(stage),
        }
        self.present(stage);
    }

    fn start(&mut self, stage: &mut Stage) {
        if self.running.is_some() {
            return;
        }
        let limits = DoorLimits {
            bytes_max: 1 << 20,
            device_frames_max: 32,
            devices_max: 1_000,
        };
        self.running = Some(Running {
            holdings: Holdings::default(),
            keeper: Keeper::default(),
            renewed: stage.now(),
            link: Link::Down,
            was_linked: false,
            relinked: false,
            subscribed: BTreeSet::new(),
            gate: Gate::Closed("starting".to_owned()),
            told: BTreeMap::new(),
            stopping: None,
            door: Door::new(limits),
            waiting: Turns::default(),
            pending: Vec::new(),
            surge: Surge::default(),
            backoff_ms: 0,
            phase: Phase::Idle,
        });
        stage.say(format_args!("centre {}: life {}", self.place, self.life));
        self.later(stage, 0, AggregatorEvent::Lease);
        let flush_ms = stage.scenario.times.flush_ms;
        self.later(stage, flush_ms, AggregatorEvent::Owner);
    }

    /// SIGKILL.
    pub(super) fn kill(&mut self, stage: &mut Stage, db: &mut Database, back_after: Millis) {
        if self.running.is_some() {
            stage.say(format_args!("centre {}: killed", self.place));
            self.gone(stage, db);
            self.later(stage, back_after, AggregatorEvent::Start);
        }
    }

    /// This life is over.
    fn gone(&mut self, stage: &mut Stage, db: &mut Database) {
        let client = self.client();
        for id in stage.net.of(|other| other == client) {
            stage.cut(id, 1);
        }
        db.forget(self.owner());
        (self.running, self.stopped) = (None, None);
        self.life += 1;
    }

    /// SIGTERM: what is at hand is committed, then all leases are given back.
    pub(super) fn stop(&mut self, stage: &mut Stage, db: &mut Database, back_after: Millis) {
        let Some(running) = self
            .running
            .as_mut()
            .filter(|running| running.stopping.is_none())
        else {
            return;
        };
        stage.say(format_args!("centre {}: told to stop", self.place));
        running.stopping = Some(back_after);
        running.gate = Gate::Closed("stopping".to_owned());
        self.later(stage, STOP_MS_MAX, AggregatorEvent::Kill(back_after));
        self.own(stage, db);
        self.present(stage);
    }

    /// SIGSTOP, and SIGCONT after a while.
    pub(super) fn pause(&mut self, stage: &mut Stage, lasts: Millis) {
        if self.running.is_some() && self.stopped.is_none() {
            stage.say(format_args!(
                "centre {}: stopped for {lasts} ms",
                self.place
            ));
            self.stopped = Some(Vec::new());
            self.later(stage, lasts, AggregatorEvent::Continue);
        }
    }

    fn go_on(&mut self, stage: &mut Stage, db: &mut Database) {
        for missed in self.stopped.take().into_iter().flatten() {
            match missed {
                Missed::Event(event) => self.hear(stage, db, event),
                Missed::Packet(id, packet) => self.receive(stage, id, packet),
            }
        }
    }

    /// The owner's turn.
    fn own(&mut self, stage: &mut Stage, db: &mut Database) {
        let Some(running) = &mut self.running else {
            return;
        };
        if let Phase::Session(session) = &running.phase
            && session.flush.is_none()
        {
            if std::mem::take(&mut running.relinked) {
                // New tokens make the units send again.
                running.keeper.raise = Some(false);
                return self.later(stage, 1, AggregatorEvent::News);
            }
            if running.keeper.raise.is_some() {
                return;
            }
            let mut next = if running.stopping.is_some() {
                running.waiting.take_all()
            } else {
                running.waiting.take_next()
            };
            running.pending.append(&mut next);
            self.go_on_with_session(stage, db);
        } else if running.stopping.is_some() && !matches!(running.phase, Phase::Session(_)) {
            self.leave(stage, db);
        } else if matches!(running.phase, Phase::Idle) {
            self.open_session(stage, db);
        }
    }

    fn open_session(&mut self, stage: &mut Stage, db: &mut Database) {
        let owner = self.owner();
        let Some(running) = &mut self.running else {
            return;
        };
        if running.holdings.tokens.is_empty() {
            running.gate = Gate::Closed("standby".to_owned());
            running.pending.clear();
            running.waiting = Turns::default();
            return;
        }
        let Some(centre) = running.holdings.centre else {
            return;
        };
        let Some(database) = db.connect(stage, owner, Role::Writer) else {
            return self.end(stage, Ended::Closed("cannot connect".to_owned()));
        };
        let holdings = running.holdings.clone();
        let in_use = holdings.tokens.keys().copied().collect();
        running.phase = Phase::Session(Box::new(Session {
            database,
            holdings,
            centre,
            memory: Memory::new(),
            stream_keys: Vec::new(),
            flush: None,
        }));
        self.uses(stage, in_use);
        self.go_on_with_session(stage, db);
    }

    /// Between two flushes: what is at hand goes first, then the gate is opened.
    fn go_on_with_session(&mut self, stage: &mut Stage, db: &mut Database) {
        let Some(running) = &mut self.running else {
            return;
        };
        if let Err(ended) = adopt(running, stage.now()) {
            return self.end(stage, ended);
        }
        let in_use: BTreeSet<Shard> = running.holdings.tokens.keys().copied().collect();
        if in_use != running.keeper.in_use {
            self.uses(stage, in_use);
        }
        let Some(running) = &mut self.running else {
            return;
        };
        if running.pending.is_empty() {
            running.backoff_ms = 0;
            if running.stopping.is_some() {
                return self.leave(stage, db);
            }
            running.gate = if running.surge.is_blown() {
                Gate::Closed("too many devices had something refused for ever".to_owned())
            } else {
                Gate::Open
            };
        } else {
            self.begin_flush(stage, db);
        }
    }

    /// The session is over; what it held in memory is gone.
    fn end(&mut self, stage: &mut Stage, ended: Ended) {
        let Some(running) = &mut self.running else {
            return;
        };
        let (phase, reason) = match ended {
            Ended::Raise(reason) => (Phase::Raising, reason),
            Ended::Closed(reason) => (Phase::Idle, reason),
        };
        stage.say(format_args!(
            "centre {}: session ends: {reason}",
            self.place
        ));
        running.phase = phase;
        running.keeper.in_use.clear();
        running.gate = Gate::Closed(reason);
        running.backoff_ms = (running.backoff_ms * 2).clamp(100, BACKOFF_MS_MAX);
        if matches!(running.phase, Phase::Raising) {
            running.keeper.raise = Some(true);
            self.later(stage, 1, AggregatorEvent::News);
        } else {
            let wait = stage.dice.between(0, running.backoff_ms);
            self.later(stage, wait, AggregatorEvent::Retry);
        }
    }
}

/// Takes over what is owned now, between two flushes: what is known of a shard goes with its token.
fn adopt(running: &mut Running, now: Millis) -> Result<(), Ended> {
    let Phase::Session(session) = &mut running.phase else {
        return Ok(());
    };
    if now - running.renewed >= LEASE_TTL_MS {
        let reason = format!(
            "the leases were not renewed for {} ms",
            now - running.renewed
        );
        return Err(Ended::Closed(reason));
    }
    let owned = &running.holdings;
    if owned.centre != Some(session.centre) {
        return Err(Ended::Raise("the database is another".to_owned()));
    }
    if owned.tokens.is_empty() {
        return Err(Ended::Closed("no shard is owned any more".to_owned()));
    }
    let before = std::mem::replace(&mut session.holdings, owned.clone());
    session.memory.keep_shards(|shard| {
        let token = owned.tokens.get(&shard);
        token.is_some() && token == before.tokens.get(&shard)
    });
    Ok(())
}
