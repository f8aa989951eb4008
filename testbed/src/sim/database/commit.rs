//! ● Writing: `aggregator/src/commit/writer.rs`, `statements.rs`.

use std::collections::BTreeMap;

use aggregator::window::dedup::Cursor;
use proto::topic::Shard;
use tokio_postgres::error::SqlState;

use super::super::queue::wall_ms;
use super::super::stage::{Event, Stage};
use super::{Answer, Database, DeviceWrites, InDoubt, SessionId, Status, Writes};

impl Database {
    /// COMMIT arrives, on this connection, under these tokens.
    pub(in crate::sim) fn commit(
        &mut self,
        stage: &mut Stage,
        session: SessionId,
        mut writes: Writes,
        tokens: &BTreeMap<Shard, i64>,
    ) -> Answer {
        if !self.is_connected(session) {
            return Answer::Lost;
        }
        writes.session = session.0;
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
        for DeviceWrites { device, change, .. } in &writes.devices {
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
        let tokens = &self.tables.tokens;
        stage.oracle.committed(now_ms, writes, tokens);
    }

    /// A planted bug's second transaction.
    pub(in crate::sim) fn commit_cursors(&mut self, stage: &mut Stage, writes: &Writes) {
        self.apply(stage, writes);
    }

    /// The transaction comes to its end.
    pub(in crate::sim) fn end(&mut self, stage: &mut Stage, id: u64) {
        self.settle_where(stage, |one| one.id == id);
    }

    pub(super) fn settle(&mut self, stage: &mut Stage, which: impl Fn(&Writes) -> bool) {
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
