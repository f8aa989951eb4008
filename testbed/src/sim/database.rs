//! ● The database: what the aggregator's SQL means, in memory, with failures at will.
//!
//! A flush is one transaction: raw rows, the proof of the tokens, windows with the revision before,
//! cursors likewise, side tables (`aggregator/src/commit/writer.rs`, `statements.rs`); any number of
//! rows other than planned rolls all of it back. A transaction whose connection is lost may still
//! come to its COMMIT later; until then it holds its locks, so whoever raises its tokens or writes
//! its rows waits for its end. Readers do not wait: they see what was before.

use std::collections::{BTreeMap, BTreeSet};

use aggregator::commit::plan::{LossRow, Plan, RejectedRow};
use aggregator::intake::rows::Rows;
use aggregator::window::dedup::Cursor;
use aggregator::window::finality::Finality;
use aggregator::window::past::Past;
use aggregator::window::rollup::WindowId;
use aggregator::window::state::{Day, DeviceChange, DeviceState, Memory, Window};
use bytes::BytesMut;
use proto::header::Frontier;
use proto::receipt::Centre;
use proto::topic::Shard;
use proto::{CentreId, DeviceId, StreamId};
use tokio_postgres::error::SqlState;

use super::oracle::Expected;
use super::queue::{Millis, wall_ms};
use super::rows::{RawRow, read_rows};
use super::scenario::Bug;
use super::stage::{Event, Stage};

const DAY_MS: i64 = 86_400_000;

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

/// What one transaction writes.
#[derive(Debug, Clone, Default)]
pub(super) struct Writes {
    pub(super) devices: Vec<DeviceWrites>,
    pub(super) raw: Vec<RawRow>,
    pub(super) rejected: Vec<RejectedRow>,
    pub(super) losses: Vec<LossRow>,
    pub(super) shards: BTreeSet<Shard>,
}

/// What it writes of one device.
#[derive(Debug, Clone)]
pub(super) struct DeviceWrites {
    pub(super) device: DeviceId,
    pub(super) change: DeviceChange,
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

#[derive(Debug, Clone, Default)]
struct Lease {
    owner: Option<Owner>,
    expires_at: Millis,
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
    leases: BTreeMap<Shard, Lease>,
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
    copy: Option<(Tables, Expected)>,
    sessions: BTreeMap<SessionId, (Owner, Role)>,
    opened: u64,
    in_doubt: Vec<InDoubt>,
    timeline: u32,
    no_fencing: bool,
    /// Event times of passages that no table takes.
    poison: BTreeSet<i64>,
}

impl Writes {
    pub(super) fn of(plan: &Plan<'_>) -> Self {
        let mut devices: Vec<DeviceWrites> = plan
            .changes
            .iter()
            .map(|(device, change)| DeviceWrites {
                device: device.clone(),
                change: change.clone(),
            })
            .collect();
        devices.sort_by(|one, other| one.device.as_str().cmp(other.device.as_str()));
        let mut bytes = BytesMut::new();
        for part in &plan.rows.raw {
            let rows: &Rows = part.rows.rows();
            rows.copy_to(&mut bytes, part.device_key, part.stream_key);
        }
        Self {
            devices,
            raw: read_rows(&bytes),
            rejected: plan.rows.rejected.clone(),
            losses: plan.rows.losses.clone(),
            shards: plan.shards.clone(),
        }
    }

    /// Whether it writes anything; if not it only proves its tokens.
    pub(super) fn is_empty(&self) -> bool {
        let nothing = |change: &DeviceChange| {
            change.cursors.is_empty() && change.windows.is_empty() && !change.status_changed
        };
        self.raw.is_empty() && self.devices.iter().all(|device| nothing(&device.change))
    }

    /// The planted bug: cursors on their own.
    pub(super) fn split_cursors(&mut self) -> Self {
        let mut cursors = Self {
            shards: self.shards.clone(),
            ..Self::default()
        };
        for written in &mut self.devices {
            let change = DeviceChange {
                key: written.change.key,
                cursors: std::mem::take(&mut written.change.cursors),
                ..DeviceChange::default()
            };
            let device = written.device.clone();
            cursors.devices.push(DeviceWrites { device, change });
        }
        cursors
    }
}

impl Database {
    pub(super) fn new(bug: Option<Bug>) -> Self {
        Self {
            tables: Tables::default(),
            copy: None,
            sessions: BTreeMap::new(),
            opened: 0,
            in_doubt: Vec::new(),
            timeline: 1,
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
    }

    /// The standby takes a copy, as it does all the time.
    pub(super) fn copy(&mut self, stage: &Stage) {
        self.copy = Some((self.tables.clone(), stage.oracle.expected()));
    }

    /// The standby takes over, without what was committed since its copy.
    pub(super) fn promote(&mut self, stage: &mut Stage) {
        self.sessions.clear();
        self.in_doubt.clear();
        let (tables, expected) = self.copy.clone().unwrap_or_default();
        self.tables = tables;
        self.timeline += 1;
        stage.oracle.promoted(self.timeline, expected);
    }

    // Leases: `aggregator/src/commit/lease.rs`.

    /// The shards among `held` whose leases are still the owner's, now renewed.
    pub(super) fn renew(
        &mut self,
        now: Millis,
        owner: Owner,
        held: &BTreeSet<Shard>,
        ttl_ms: Millis,
    ) -> BTreeSet<Shard> {
        let mut kept = BTreeSet::new();
        for shard in held {
            if let Some(lease) = self.tables.leases.get_mut(shard)
                && lease.owner == Some(owner)
            {
                lease.expires_at = now + ttl_ms;
                kept.insert(*shard);
            }
        }
        kept
    }

    /// The shards among `wanted` that are free, now leased, and who had them.
    pub(super) fn acquire(
        &mut self,
        now: Millis,
        owner: Owner,
        wanted: &BTreeSet<Shard>,
        ttl_ms: Millis,
        missed_ms: Millis,
    ) -> (BTreeSet<Shard>, BTreeSet<Owner>) {
        let keepers: BTreeSet<Owner> = self
            .sessions
            .values()
            .filter(|(_, role)| *role == Role::Lease)
            .map(|(owner, _)| *owner)
            .collect();
        let (mut shards, mut owners) = (BTreeSet::new(), BTreeSet::new());
        for shard in wanted {
            let lease = self.tables.leases.entry(*shard).or_default();
            let free = lease.expires_at < now
                || lease.owner.is_none_or(|of| {
                    of == owner || lease.expires_at < now + missed_ms && !keepers.contains(&of)
                });
            if free {
                owners.extend(lease.owner.filter(|of| *of != owner));
                *lease = Lease {
                    owner: Some(owner),
                    expires_at: now + ttl_ms,
                };
                shards.insert(*shard);
            }
        }
        (shards, owners)
    }

    /// Ends the writers of these owners, as far as that works.
    pub(super) fn end_writers(&mut self, stage: &mut Stage, owners: &BTreeSet<Owner>) {
        if stage.dice.percent(70) {
            self.sessions
                .retain(|_, (of, role)| *role != Role::Writer || !owners.contains(of));
        }
    }

    /// Raises the tokens of these shards; waits for whoever has them locked.
    pub(super) fn raise(
        &mut self,
        stage: &mut Stage,
        shards: &BTreeSet<Shard>,
    ) -> BTreeMap<Shard, i64> {
        if !self.no_fencing {
            self.settle(stage, |writes| !writes.shards.is_disjoint(shards));
        }
        let raised = shards.iter().map(|shard| {
            let token = self.tables.tokens.entry(*shard).or_default();
            *token += 1;
            (*shard, *token)
        });
        raised.collect()
    }

    /// Who else owns something now.
    pub(super) fn other_owner(&self, now: Millis, owner: Owner) -> Option<String> {
        let mut leases = self.tables.leases.values();
        let other = leases.find(|l| l.expires_at >= now && l.owner.is_some_and(|of| of != owner));
        other
            .and_then(|lease| lease.owner)
            .map(|(place, life)| format!("{place} life {life}"))
    }

    // Reading: `aggregator/src/commit/load.rs`.

    /// Brings devices into memory, and enters those that are not known.
    pub(super) fn load_devices(&mut self, memory: &mut Memory, devices: &[DeviceId], today: i64) {
        for device in devices {
            let next = i32::try_from(self.tables.devices.len()).unwrap_or(i32::MAX) + 1;
            let key = *self.tables.devices.entry(device.clone()).or_insert(next);
            let status = self.tables.status.get(&key).cloned().unwrap_or_default();
            let of_device = || {
                let all = self.tables.cursors.iter();
                all.filter(move |((of, _), _)| *of == key)
            };
            let begun = of_device().filter(|(_, (_, first_seen))| *first_seen >= today * DAY_MS);
            let rejected = self
                .tables
                .rejected_days
                .get(&key)
                .copied()
                .unwrap_or_default();
            let state = DeviceState {
                key,
                finality: Finality::restored(
                    status.final_to_ms,
                    status.frontier,
                    status.cloned_at_ms,
                ),
                past: status.past,
                today: Day {
                    new_streams: begun.count(),
                    ..rejected.on(today)
                },
                cursors: of_device()
                    .filter(|(_, (cursor, _))| !cursor.is_settled())
                    .map(|((_, stream), (cursor, _))| (*stream, cursor.clone()))
                    .collect(),
                ..DeviceState::default()
            };
            memory.learn_device(device.clone(), state);
        }
    }

    pub(super) fn load_cursors(&self, memory: &mut Memory, wanted: &[(DeviceId, StreamId)]) {
        for (device, stream) in wanted {
            let key = memory.device(device).map_or(0, |state| state.key);
            let found = self.tables.cursors.get(&(key, *stream));
            let cursor = found.map(|(cursor, _)| cursor.clone()).unwrap_or_default();
            memory.learn_cursor(device, *stream, cursor);
        }
    }

    pub(super) fn load_windows(&self, memory: &mut Memory, wanted: &[(DeviceId, WindowId)]) {
        for (device, id) in wanted {
            let key = memory.device(device).map_or(0, |state| state.key);
            let window = self
                .tables
                .windows
                .get(&(key, *id))
                .cloned()
                .unwrap_or_default();
            memory.learn_window(device, *id, window);
        }
    }

    pub(super) fn stream_keys(&mut self, count: usize) -> Vec<i32> {
        let next = || {
            self.tables.stream_key += 1;
            self.tables.stream_key
        };
        std::iter::repeat_with(next).take(count).collect()
    }

    // Writing: `aggregator/src/commit/writer.rs`.

    /// COMMIT arrives, on this connection, under these tokens.
    pub(super) fn commit(
        &mut self,
        stage: &mut Stage,
        session: SessionId,
        writes: Writes,
        tokens: &BTreeMap<Shard, i64>,
    ) -> Answer {
        if !self.is_connected(session) {
            return Answer::Lost;
        }
        let trouble = stage.dice.percent(stage.weather.database_trouble);
        let kind = stage.dice.between(0, 6);
        match kind {
            0 if trouble => return self.lose(session),
            1 if trouble => return Answer::Failed(SqlState::T_R_SERIALIZATION_FAILURE),
            2 if trouble => return Answer::Failed(SqlState::DISK_FULL),
            3 if trouble => return Answer::Failed(SqlState::ADMIN_SHUTDOWN),
            _ => {}
        }
        if let Err(answer) = self.prove(stage, &writes, tokens) {
            return answer;
        }
        if trouble && kind == 4 {
            let id = stage.dice.number();
            let ends = stage.dice.between(10, 20_000);
            stage.say(format_args!(
                "database: transaction {id:x} in doubt for {ends} ms"
            ));
            stage.queue.after(ends, Event::InDoubt(id));
            self.in_doubt.push(InDoubt { id, writes });
            return self.lose(session);
        }
        self.apply(stage, &writes);
        if trouble {
            self.lose(session)
        } else {
            Answer::Committed
        }
    }

    fn lose(&mut self, session: SessionId) -> Answer {
        self.sessions.remove(&session);
        Answer::Lost
    }

    /// Everything that may roll a transaction back.
    fn prove(
        &mut self,
        stage: &mut Stage,
        writes: &Writes,
        tokens: &BTreeMap<Shard, i64>,
    ) -> Result<(), Answer> {
        if writes
            .raw
            .iter()
            .any(|row| self.poison.contains(&row.fact.event_ms))
        {
            return Err(Answer::Failed(SqlState::UNTRANSLATABLE_CHARACTER));
        }
        // Whoever writes the same rows waits for those who have them locked.
        if !writes.is_empty() {
            self.settle(stage, |other| {
                let devices = || writes.devices.iter().map(|one| &one.device);
                other
                    .devices
                    .iter()
                    .any(|one| devices().any(|device| *device == one.device))
            });
        }
        if self.no_fencing {
            return Ok(());
        }
        for shard in &writes.shards {
            let (token, standing) = (tokens.get(shard), self.tables.tokens.get(shard));
            if token.is_none() || token != standing {
                return Err(Answer::Fenced(format!(
                    "shard {shard} is under token {standing:?}, not {token:?}"
                )));
            }
        }
        for DeviceWrites { device, change } in &writes.devices {
            for (stream, cursor) in &change.cursors {
                let standing = self.tables.cursors.get(&(change.key, *stream));
                if standing.map_or(0, |(cursor, _)| cursor.rev) != cursor.rev - 1 {
                    return Err(Answer::Fenced(format!("cursor of {device} {stream}")));
                }
            }
            for (id, window) in &change.windows {
                let standing = self.tables.windows.get(&(change.key, *id));
                if standing.map_or(0, |window| window.rev) != window.rev - 1 {
                    return Err(Answer::Fenced(format!("window {id:?} of {device}")));
                }
            }
        }
        Ok(())
    }

    fn apply(&mut self, stage: &mut Stage, writes: &Writes) {
        let now_ms = wall_ms(stage.now());
        for DeviceWrites { change, .. } in &writes.devices {
            let key = change.key;
            for (stream, cursor) in &change.cursors {
                let row = self.tables.cursors.entry((key, *stream));
                row.or_insert_with(|| (Cursor::default(), now_ms)).0 = cursor.clone();
            }
            for (id, window) in &change.windows {
                self.tables.windows.insert((key, *id), window.clone());
            }
            if change.status_changed {
                let finality = &change.finality;
                let row = self.tables.status.entry(key).or_default();
                *row = Status {
                    final_to_ms: row.final_to_ms.max(finality.final_to_ms),
                    frontier: finality.frontier,
                    cloned_at_ms: finality.cloned_at_ms,
                    past: change.past,
                };
            }
            if change.rejected_changed {
                self.tables.rejected_days.insert(key, change.today);
            }
        }
        stage.oracle.committed(now_ms, writes);
    }

    /// A planted bug's second transaction.
    pub(super) fn commit_cursors(&mut self, stage: &mut Stage, writes: &Writes) {
        self.apply(stage, writes);
    }

    /// The transaction comes to its end.
    pub(super) fn end(&mut self, stage: &mut Stage, id: u64) {
        self.settle_where(stage, |one| one.id == id);
    }

    fn settle(&mut self, stage: &mut Stage, which: impl Fn(&Writes) -> bool) {
        self.settle_where(stage, |one| which(&one.writes));
    }

    /// Ends transactions in doubt, one way or the other.
    fn settle_where(&mut self, stage: &mut Stage, which: impl Fn(&InDoubt) -> bool) {
        let (ending, left) = std::mem::take(&mut self.in_doubt)
            .into_iter()
            .partition(which);
        self.in_doubt = left;
        let ending: Vec<InDoubt> = ending;
        for InDoubt { id, writes } in ending {
            let commits = stage.dice.percent(60);
            stage.say(format_args!(
                "database: transaction {id:x} ends, committed: {commits}"
            ));
            if commits {
                self.apply(stage, &writes);
            }
        }
    }
}
