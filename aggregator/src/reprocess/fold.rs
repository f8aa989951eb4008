//! ● The plan of one transaction.

use std::collections::{BTreeSet, HashMap};

use proto::device::DeviceId;
use proto::topic::Shard;

use super::side::Chunk;
use crate::commit::draft::{Draft, FoldedIn};
use crate::commit::plan::{Plan, Planner};
use crate::window::lateness::Horizon;
use crate::window::state::Memory;

/// What a plan must know besides state and passages.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scope {
    /// The centre's clock, ms since 1970.
    pub(super) now_ms: i64,
    /// Its end ahead is kept; its old end is what this is there to pass.
    pub(super) horizon: Horizon,
    /// The oldest day (since 1970) whose raw rows are kept; none when none are stored.
    pub(super) raw_from_day: Option<i64>,
}

/// Plans. The device and all windows of the passages must be in memory.
///
/// # Panics
/// When something is not in memory.
pub(super) fn plan(
    memory: &Memory,
    device: &DeviceId,
    chunk: &Chunk,
    scope: &Scope,
) -> (Plan<'static>, FoldedIn) {
    let state = memory
        .device(device)
        .unwrap_or_else(|| panic!("{device} is not loaded"));
    let mut draft = Draft::new(state, scope.now_ms);
    let mut planner = Planner::new(&[]);
    let folded = draft.rejected(
        &chunk.batch,
        &chunk.rows,
        &scope.horizon,
        scope.raw_from_day,
        &mut planner,
    );
    let (change, _) = draft.finish();
    // In the order of their times.
    let oldest_ms = chunk
        .rows
        .first()
        .map_or(scope.now_ms, |row| row.event_time.as_millis());
    let plan = Plan {
        changes: HashMap::from([(device.clone(), change)]),
        rows: planner.rows,
        shards: BTreeSet::from([Shard::of(device)]),
        oldest_ms,
        receipts: Vec::new(),
        refusals: Vec::new(),
        stream_keys_used: 0,
        tally: planner.tally,
    };
    (plan, folded)
}
