//! A plan as the parameters of a flush's statements: one array for each column.
//!
//! An array of arrays would be flattened by `unnest`, so all lists of integers of a table travel in
//! one flat array, each row with the places of its own.

use std::collections::BTreeMap;
use std::time::SystemTime;

use proto::heartbeat::{CameraLink, Heartbeat};
use proto::passage::EventTime;
use tokio_postgres::Statement;
use tokio_postgres::types::ToSql;

use super::load::{multirange, time};
use super::plan::{Plan, RejectedRow, SideRows};
use super::statements::Statements;
use crate::window::dedup::Cursor;
use crate::window::finality::Finality;
use crate::window::past::Past;
use crate::window::rollup::Length;
use crate::window::state::{Before, Day};

mod windows;

use windows::WindowColumns;

/// One statement of a flush, ready to be sent.
pub(super) struct Part<'a> {
    pub(super) table: &'static str,
    pub(super) statement: &'a Statement,
    pub(super) parameters: Vec<&'a (dyn ToSql + Sync)>,
    /// Rows that it must write; none where that follows from nothing that was planned.
    pub(super) planned: Option<u64>,
}

/// A plan in columns.
pub(super) struct Columns {
    oldest: SystemTime,
    versions: BTreeMap<Length, VersionColumns>,
    windows: BTreeMap<Length, WindowColumns>,
    new_cursors: CursorColumns,
    cursors: CursorColumns,
    status: StatusColumns,
    finality_log: FinalityLogColumns,
    standing: StandingColumns,
    heartbeats: HeartbeatColumns,
    rejected: RejectedColumns,
    rejected_days: RejectedDayColumns,
    taken: TakenColumns,
    losses: LossColumns,
    recovered: RecoveredColumns,
    unkept: UnkeptColumns,
}

impl Columns {
    pub(super) fn of(plan: &Plan<'_>) -> Self {
        let mut columns = Self {
            oldest: time(plan.oldest_ms),
            versions: BTreeMap::new(),
            windows: BTreeMap::new(),
            new_cursors: CursorColumns::default(),
            cursors: CursorColumns::default(),
            status: StatusColumns::default(),
            finality_log: FinalityLogColumns::default(),
            standing: StandingColumns::default(),
            heartbeats: HeartbeatColumns::default(),
            rejected: RejectedColumns::default(),
            rejected_days: RejectedDayColumns::default(),
            taken: TakenColumns::default(),
            losses: LossColumns::default(),
            recovered: RecoveredColumns::default(),
            unkept: UnkeptColumns::default(),
        };
        let mut changes: Vec<_> = plan.changes.values().collect();
        // In the order of the keys, so that neighbouring rows stand in neighbouring pages.
        changes.sort_unstable_by_key(|change| change.key);
        for change in changes {
            columns.standing.device_key.push(change.key);
            let standing = &mut columns.standing;
            standing.final_to.push(change.before.final_to_ms.map(time));
            standing
                .cloned_at
                .push(change.before.cloned_at_ms.map(time));
            for row in &change.taken {
                columns.taken.device_key.push(change.key);
                columns.taken.stream_key.push(row.stream_key);
                columns.taken.seq.push(signed(row.seq));
                columns
                    .taken
                    .event_time
                    .push(time(row.event_time.as_millis()));
            }
            let mut windows: Vec<_> = change.windows.iter().collect();
            windows.sort_unstable_by_key(|(id, _)| **id);
            for (id, window) in windows {
                let rows = columns.windows.entry(id.length).or_default();
                rows.push(change.key, *id, window);
                if change.keeps_version_before(*id, window) {
                    let versions = columns.versions.entry(id.length).or_default();
                    versions.device_key.push(change.key);
                    versions.bucket.push(time(id.start_ms));
                    versions.rev.push(window.rev - 1);
                }
            }
            for (stream, cursor) in &change.cursors {
                let rows = if cursor.rev == 1 {
                    &mut columns.new_cursors
                } else {
                    &mut columns.cursors
                };
                rows.push(change.key, stream.to_string(), cursor);
            }
            if change.status_changed {
                columns
                    .status
                    .push(change.key, &change.finality, change.past, change.before);
            }
            if let Some(final_to_ms) = change.finality.final_to_ms
                && change.before.final_to_ms != Some(final_to_ms)
            {
                columns.finality_log.device_key.push(change.key);
                columns.finality_log.final_to.push(time(final_to_ms));
            }
            if change.rejected_changed {
                columns.rejected_days.push(change.key, change.today);
            }
        }
        columns.side_rows(&plan.rows);
        columns
    }

    fn side_rows(&mut self, rows: &SideRows<'_>) {
        for (key, (sent_at, heartbeat)) in &rows.heartbeats {
            self.heartbeats.push(*key, *sent_at, heartbeat);
        }
        rows.rejected.iter().for_each(|row| self.rejected.push(row));
        for row in &rows.losses {
            let losses = &mut self.losses;
            losses.device_key.push(row.device_key);
            losses.stream_key.push(row.stream_key);
            losses.first_seq.push(signed(row.range.first().get()));
            losses.last_seq.push(signed(row.range.last().get()));
            losses.scope.push(row.scope.word());
            losses.reason.push(row.cause.word());
            losses.event_min.push(plausible(row.event_min));
            losses.event_max.push(plausible(row.event_max));
        }
        for row in &rows.recovered {
            let recovered = &mut self.recovered;
            recovered.stream_key.push(row.stream_key);
            recovered.scope.push(row.scope.word());
            recovered.first_seq.push(signed(row.range.first().get()));
            recovered.last_seq.push(signed(row.range.last().get()));
        }
        for (key, row) in &rows.unkept {
            let unkept = &mut self.unkept;
            unkept.device_key.push(row.device_key);
            unkept.stream_key.push(key.stream_key);
            unkept.first_seq.push(signed(row.range.first().get()));
            unkept.last_seq.push(signed(row.range.last().get()));
            unkept.passages.push(signed(row.passages));
            unkept.scope.push(key.scope());
            unkept.reason.push(key.reason.word());
            unkept.event_min.push(time(row.event_min.as_millis()));
            unkept.event_max.push(time(row.event_max.as_millis()));
        }
    }

    /// Proves that the devices are final as far as they were when the plan was made.
    pub(super) fn standing<'a>(&'a self, statements: &'a Statements) -> Part<'a> {
        self.standing.part(&statements.standing)
    }

    /// The statements that have something to write, and before them the proof that the floor is not
    /// above what the plan took.
    pub(super) fn parts<'a>(&'a self, statements: &'a Statements) -> Vec<Part<'a>> {
        let mut parts = Vec::new();
        for (length, columns) in &self.versions {
            parts.push(columns.part(&statements.versions[length]));
        }
        for (length, columns) in &self.windows {
            parts.push(columns.part(length.table(), &statements.windows[length]));
        }
        parts.push(self.new_cursors.part(&statements.new_cursors));
        parts.push(self.cursors.part(&statements.cursors));
        parts.push(self.status.part(&statements.status));
        parts.push(self.finality_log.part(&statements.finality_log));
        parts.push(self.heartbeats.part(&statements.heartbeats));
        parts.push(self.rejected.part(&statements.rejected));
        parts.push(self.rejected_days.part(&statements.rejected_days));
        parts.push(self.taken.part(&statements.taken));
        parts.push(self.losses.part(&statements.losses));
        parts.push(self.unkept.part(&statements.unkept));
        let mut recovered = self.recovered.part(&statements.recovered);
        if recovered.planned != Some(0) {
            recovered.planned = None;
        }
        parts.push(recovered);
        parts.retain(|part| part.planned != Some(0));
        if !parts.is_empty() {
            parts.insert(
                0,
                Part {
                    table: "cursor_floor",
                    statement: &statements.floor,
                    parameters: vec![&self.oldest],
                    planned: Some(1),
                },
            );
        }
        parts
    }
}

/// Columns of one table: a vector for each, all of one length, bound in their order.
macro_rules! columns {
    ($name:ident, $table:literal, { $first:ident: $first_type:ty, $($column:ident: $type:ty),* $(,)? }) => {
        #[derive(Default)]
        struct $name {
            $first: Vec<$first_type>,
            $($column: Vec<$type>),*
        }

        impl $name {
            fn part<'a>(&'a self, statement: &'a Statement) -> Part<'a> {
                Part {
                    table: $table,
                    statement,
                    parameters: vec![&self.$first, $(&self.$column),*],
                    planned: Some(self.$first.len() as u64),
                }
            }
        }
    };
}

columns!(CursorColumns, "stream_cursor", {
    device_key: i32, stream: String, stream_key: i32, counted: String, stored: String,
    lost: String, presumed: String, rowless: String, accepted_to: i64, settled: bool, rev: i32,
});
columns!(StatusColumns, "device_status", {
    device_key: i32, final_to: Option<SystemTime>, frontier: Option<SystemTime>,
    run: i64, counter: i64, cloned_at: Option<SystemTime>,
    past_to: Option<SystemTime>, past_changes: i64,
});
columns!(StandingColumns, "device_status", {
    device_key: i32, final_to: Option<SystemTime>, cloned_at: Option<SystemTime>,
});
columns!(FinalityLogColumns, "finality_log", {
    device_key: i32, final_to: SystemTime,
});
columns!(VersionColumns, "speed_history", {
    device_key: i32, bucket: SystemTime, rev: i32,
});
columns!(HeartbeatColumns, "device_status", {
    device_key: i32, sent_at: Option<SystemTime>, passages: i64, bytes: i64,
    oldest: Option<SystemTime>, newest: Option<SystemTime>, drain: Option<i64>,
    camera: Option<SystemTime>, clock: Option<i64>,
    version: String, used: i64, quota: i64, free: i64,
    streams: String, accepted_to: String, held: String,
});
columns!(RejectedColumns, "rejected_passage", {
    device_key: i32, stream_key: i32, seq: i64, event_time: SystemTime,
    reason: &'static str, counted: bool, passage: String,
});
columns!(RejectedDayColumns, "rejected_day", {
    device_key: i32, day: i32, passages: i64, kept: i64,
});
columns!(TakenColumns, "rejected_passage", {
    device_key: i32, stream_key: i32, seq: i64, event_time: SystemTime,
});
columns!(LossColumns, "loss_ledger", {
    device_key: i32, stream_key: i32, first_seq: i64, last_seq: i64,
    scope: &'static str, reason: &'static str,
    event_min: Option<SystemTime>, event_max: Option<SystemTime>,
});
columns!(UnkeptColumns, "loss_ledger", {
    device_key: i32, stream_key: i32, first_seq: i64, last_seq: i64, passages: i64,
    scope: &'static str, reason: &'static str, event_min: SystemTime, event_max: SystemTime,
});
columns!(RecoveredColumns, "loss_ledger", {
    stream_key: i32, scope: &'static str, first_seq: i64, last_seq: i64,
});

impl CursorColumns {
    fn push(&mut self, device_key: i32, stream: String, cursor: &Cursor) {
        self.device_key.push(device_key);
        self.stream.push(stream);
        self.stream_key.push(cursor.stream_key);
        self.counted.push(multirange(&cursor.counted));
        self.stored.push(multirange(&cursor.stored));
        self.lost.push(multirange(&cursor.lost));
        self.presumed.push(multirange(&cursor.presumed));
        self.rowless.push(multirange(&cursor.rowless));
        self.accepted_to.push(signed(cursor.accepted_to));
        self.settled.push(cursor.is_settled());
        self.rev.push(cursor.rev);
    }
}

impl StatusColumns {
    fn push(&mut self, device_key: i32, finality: &Finality, past: Past, before: Before) {
        self.device_key.push(device_key);
        self.final_to.push(finality.final_to_ms.map(time));
        self.frontier
            .push(plausible(finality.frontier.map(|frontier| frontier.before)));
        self.run
            .push(finality.frontier.map_or(0, |frontier| frontier.run.into()));
        self.counter.push(
            finality
                .frontier
                .map_or(0, |frontier| signed(frontier.counter)),
        );
        self.cloned_at.push(finality.cloned_at_ms.map(time));
        self.past_to.push(past.to_ms.map(time));
        self.past_changes.push(past.changes - before.past_changes);
    }
}

impl HeartbeatColumns {
    fn push(&mut self, device_key: i32, sent_at: EventTime, heartbeat: &Heartbeat) {
        self.device_key.push(device_key);
        self.sent_at.push(plausible(Some(sent_at)));
        self.passages.push(signed(heartbeat.backlog.passages));
        self.bytes.push(signed(heartbeat.backlog.bytes));
        self.oldest.push(plausible(heartbeat.backlog.oldest));
        self.newest.push(plausible(heartbeat.backlog.newest));
        self.drain.push(heartbeat.backlog.drain_per_min);
        self.camera.push(match heartbeat.camera {
            CameraLink::Unknown => None,
            CameraLink::LastPostAt(at) => plausible(Some(at)),
        });
        self.clock.push(heartbeat.clock_offset_ms);
        self.version.push(heartbeat.agent_version.clone());
        self.used.push(signed(heartbeat.disk.used_bytes));
        self.quota.push(signed(heartbeat.disk.quota_bytes));
        self.free.push(signed(heartbeat.disk.free_bytes));
        let listed = heartbeat.held.iter();
        self.streams
            .push(array(listed.clone().map(|held| held.stream.to_string())));
        self.accepted_to.push(array(
            listed
                .clone()
                .map(|held| signed(held.accepted_to).to_string()),
        ));
        self.held.push(array(
            listed.map(|held| format!("\"{}\"", multirange(&held.held))),
        ));
    }
}

impl RejectedColumns {
    fn push(&mut self, row: &RejectedRow) {
        self.device_key.push(row.device_key);
        self.stream_key.push(row.stream_key);
        self.seq.push(signed(row.seq));
        self.event_time.push(time(row.event_time.as_millis()));
        self.reason.push(row.reason.word());
        self.counted.push(row.counted);
        self.passage.push(row.passage.to_string());
    }
}

impl RejectedDayColumns {
    fn push(&mut self, device_key: i32, today: Day) {
        self.device_key.push(device_key);
        self.day.push(i32::try_from(today.day).unwrap_or(i32::MAX));
        self.passages.push(today.rejected);
        self.kept.push(today.rejected_kept);
    }
}

/// An array as text: an array of arrays would be flattened.
fn array(elements: impl Iterator<Item = String>) -> String {
    format!("{{{}}}", elements.collect::<Vec<_>>().join(","))
}

/// Sums and sequence numbers fit 63 bits; what a heartbeat claims beyond is cut.
fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// A time that a unit stated, if the database can hold it.
fn plausible(at: Option<EventTime>) -> Option<SystemTime> {
    at.filter(|at| at.is_plausible())
        .map(|at| time(at.as_millis()))
}
