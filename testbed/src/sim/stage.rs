//! ● What all actors share: time, chance, connections, weather, the trace, the judge.

use std::fmt::Arguments;

use bytes::Bytes;
use proto::topic::Shard;

use super::database::{Owner, SessionId};
use super::dice::Dice;
use super::net::{Client, ConnectionId, Net, ToBroker, ToClient};
use super::oracle::Oracle;
use super::queue::{Millis, Queue};
use super::scenario::Scenario;
use super::trace::Trace;
use super::weather::{Fault, Weather};

/// Whatever happens.
#[derive(Debug)]
pub(super) enum Event {
    ToBroker(ConnectionId, ToBroker),
    ToClient(Client, ConnectionId, ToClient),
    /// A message came through the broker's router: connection, topic, payload, retained.
    Routed(ConnectionId, String, Bytes, bool),
    Unit(usize, u32, UnitEvent),
    Aggregator(usize, u32, AggregatorEvent),
    Intrusion,
    /// The store of a unit is copied, and this copy of the unit begins to run.
    Clone(usize),
    /// Of this copy of a unit and the unit itself the other one is switched on; whether it is the copy.
    TakesTurn(usize, bool),
    /// The transaction of a lost connection comes to its end.
    InDoubt(u64),
    /// A standby takes its copy of the database.
    Copy,
    Fault,
    Ends(Fault),
    Heal,
}

/// What happens to a unit.
#[derive(Debug)]
pub(super) enum UnitEvent {
    /// Power is back.
    Start,
    /// The camera posts.
    Post,
    /// The uplink's time has come.
    Uplink,
    /// The buffer's thread has its turn.
    Buffer,
    /// The attempt to connect comes to its end.
    Dial,
    /// Somebody sets its clock right.
    ClockSet,
}

/// What happens to an aggregator.
#[derive(Debug)]
pub(super) enum AggregatorEvent {
    Start,
    /// It was stopped and goes on.
    Continue,
    /// It was told to stop and has not, and is killed; it comes back after so long.
    Kill(Millis),
    /// The lease keeper's turn.
    Lease,
    /// The same, out of turn: something has changed.
    News,
    /// The keeper has claimed shards, over this connection, of these owners.
    Claimed(Option<SessionId>, Vec<(Shard, Option<Owner>)>),
    /// The owner's turn: it flushes, or opens a session.
    Owner,
    /// The same, out of turn, after a failure.
    Retry,
    /// COMMIT reaches the database.
    Commit(u64),
    /// The database's answer reaches the owner.
    Answer(u64, super::database::Answer),
    /// The second transaction of a planted bug.
    Cursors(Box<super::database::Writes>),
    /// The attempt to connect to the broker comes to its end.
    Dial,
}

/// Shared by all actors.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) queue: Queue<Event>,
    pub(super) dice: Dice,
    pub(super) net: Net,
    pub(super) weather: Weather,
    pub(super) trace: Trace,
    pub(super) oracle: Oracle,
    pub(super) scenario: Scenario,
}

impl Stage {
    pub(super) const fn now(&self) -> Millis {
        self.queue.now()
    }

    pub(super) fn say(&mut self, line: Arguments<'_>) {
        self.trace.line(self.queue.now(), line);
    }
}
