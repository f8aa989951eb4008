//! ● The database: what the aggregator's SQL means, in memory, with failures at will.
//!
//! A flush is one transaction: raw rows, the proof of the tokens, windows with the revision before,
//! cursors likewise, side tables (`aggregator/src/commit/writer.rs`, `statements.rs`); any number of
//! rows other than planned rolls all of it back. A transaction whose connection is lost may still
//! come to its COMMIT later; until then it holds its locks, so whoever raises its tokens or writes
//! its rows waits for its end. Readers do not wait: they see what was before.

mod commit;
mod lease;
mod load;
mod writes;

use std::collections::{BTreeMap, BTreeSet};

use aggregator::window::dedup::Cursor;
use aggregator::window::past::Past;
use aggregator::window::rollup::WindowId;
use aggregator::window::state::{Day, Window};
use proto::header::Frontier;
use proto::receipt::Centre;
use proto::topic::Shard;
use proto::{CentreId, DeviceId, StreamId};
use tokio_postgres::error::SqlState;

use super::oracle::Expected;
use super::queue::Millis;
use super::scenario::Bug;
use super::stage::Stage;
use lease::Keeper;
pub(super) use lease::{LEASE_TTL_MS, View, owner_name};
pub(super) use writes::{DeviceWrites, Writes};

/// A connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SessionId(u64);

/// Who asks: an aggregator in one of its lives.
pub(super) type Owner = (usize, u32);

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Lease,
    Writer,
}
/// How a transaction ended, as its owner sees it.
#[derive(Debug, Clone)]
pub(super) enum Answer {
    Committed,
    /// Rolled back; by which SQLSTATE.
    Failed(SqlState),
    /// Other tokens than ours, or other rows than planned: rolled back.
    Fenced(String),
    /// The connection is gone, and perhaps the transaction is not.
    Lost,
}

/// What `device_status` says of completeness.
#[derive(Debug, Clone, Default)]
struct Status {
    final_to_ms: Option<i64>,
    frontier: Option<Frontier>,
    cloned_at_ms: Option<i64>,
    past: Past,
}

/// What a standby has a copy of.
#[derive(Debug, Clone, Default)]
struct Tables {
    devices: BTreeMap<DeviceId, i32>,
    cursors: BTreeMap<(i32, StreamId), (Cursor, i64)>,
    windows: BTreeMap<(i32, WindowId), Window>,
    status: BTreeMap<i32, Status>,
    rejected_days: BTreeMap<i32, Day>,
    tokens: BTreeMap<Shard, i64>,
    keepers: BTreeMap<Owner, Keeper>,
    leases: BTreeMap<Shard, Option<Owner>>,
    stream_key: i32,
}

/// A transaction that has done all its work, on a connection that is lost.
#[derive(Debug)]
struct InDoubt {
    id: u64,
    writes: Writes,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Database {
    tables: Tables,
    /// What a standby has.
    copy: (Tables, Expected),
    sessions: BTreeMap<SessionId, (Owner, Role)>,
    opened: u64,
    in_doubt: Vec<InDoubt>,
    timeline: u32,
    /// When the server started.
    started_at: Millis,
    /// It is down, or nobody has connected since.
    is_starting: bool,
    no_fencing: bool,
    /// Event times of passages that no table takes.
    poison: BTreeSet<i64>,
}

impl Database {
    /// One in which these shards can be leased.
    pub(super) fn new(bug: Option<Bug>, shards: &BTreeSet<Shard>) -> Self {
        let free = shards.iter().map(|shard| (*shard, None));
        let tables = Tables {
            leases: free.collect(),
            ..Tables::default()
        };
        Self {
            copy: (tables.clone(), Expected::default()),
            tables,
            sessions: BTreeMap::new(),
            opened: 0,
            in_doubt: Vec::new(),
            timeline: 1,
            started_at: 0,
            is_starting: false,
            no_fencing: bug == Some(Bug::NoFencing),
            poison: BTreeSet::new(),
        }
    }

    pub(super) fn centre(&self) -> Centre {
        Centre {
            id: CentreId::from_bytes([7; 16]),
            timeline: self.timeline,
        }
    }

    /// A passage of this time is one that no table takes.
    pub(super) fn refuses(&mut self, event_ms: i64) {
        self.poison.insert(event_ms);
    }

    pub(super) fn connect(&mut self, stage: &Stage, owner: Owner, role: Role) -> Option<SessionId> {
        if !stage.weather.database_up {
            return None;
        }
        if self.sessions.is_empty() && self.is_starting {
            (self.started_at, self.is_starting) = (stage.now(), false);
        }
        self.opened += 1;
        let id = SessionId(self.opened);
        self.sessions.insert(id, (owner, role));
        Some(id)
    }

    pub(super) fn is_connected(&self, id: SessionId) -> bool {
        self.sessions.contains_key(&id)
    }

    /// A process is gone, and its connections with it.
    pub(super) fn forget(&mut self, owner: Owner) {
        self.sessions.retain(|_, (of, _)| *of != owner);
    }

    /// Dies: connections are gone, and what was not committed is decided.
    pub(super) fn stop(&mut self, stage: &mut Stage) {
        self.sessions.clear();
        self.settle(stage, |_| true);
        self.is_starting = true;
    }

    /// The standby takes a copy, as it does all the time.
    pub(super) fn copy(&mut self, stage: &Stage) {
        self.copy = (self.tables.clone(), stage.oracle.expected());
    }

    /// The standby takes over, without what was committed since its copy.
    pub(super) fn promote(&mut self, stage: &mut Stage) {
        self.sessions.clear();
        self.in_doubt.clear();
        let (tables, expected) = self.copy.clone();
        self.tables = tables;
        self.timeline += 1;
        self.is_starting = true;
        stage.oracle.promoted(self.timeline, expected);
    }
}
