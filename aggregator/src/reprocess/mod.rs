//! `aggregator reprocess`: passages of the side table, folded into their windows deliberately.
//!
//! ```text
//! side ○ (rows of one device and day) ─► fold ● (the plan of one transaction) ─► commit/writer ○ ─► report ●
//! ```
//!
//! Works beside a running aggregator and beside itself: a transaction takes rows out of the side
//! table and writes the windows that they change, guarded like those of a flush by the revisions.
//! Whoever planned against rows that another has changed rolls back, reads again and goes on; for the
//! aggregator that is [`crate::commit::owner`].
//!
//! Invariants: a passage leaves the side table in the transaction that counts it; one that a summary
//! has counted before is never counted again; a device's transactions take one UTC day each, and at
//! most `CHUNK_PASSAGES_MAX` passages.

mod fold;
mod report;
mod side;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use proto::device::DeviceId;
use proto::window::Bucket;
use service::clock::wall_millis;
use service::tasks::TaskSet;
use tokio_util::sync::CancellationToken;

pub use report::{DayReport, Report, WindowReport};

use self::side::{Chunk, Place};
use crate::commit::load::{self, LoadError};
use crate::commit::verdict::{Next, next};
use crate::commit::writer::{Right, WriteError, Writer};
use crate::config::{RawConfig, WindowsConfig};
use crate::store::connect::{ConnectionError, Target};
use crate::store::schema::{self, SchemaError};
use crate::window::lateness::{Horizon, Rejection};
use crate::window::rollup::{Length, WindowId};
use crate::window::state::Memory;

const DAY_MS: i64 = 86_400_000;

/// Passages of one transaction.
const CHUNK_PASSAGES_MAX: i64 = 10_000;

/// Attempts at one transaction that others have overtaken.
const AGAIN_MAX: u32 = 20;

/// A run that is stopped in the middle of a transaction holds up the aggregator no longer.
const SESSION: &str = "SET idle_in_transaction_session_timeout = '5s'";

/// What to fold in.
#[derive(Debug, Clone)]
pub struct Request {
    /// Whose passages.
    pub device: DeviceId,
    /// From this event time on, ms since 1970.
    pub from_ms: Option<i64>,
    /// Before this event time.
    pub to_ms: Option<i64>,
    /// Rejected for this reason.
    pub reason: Option<Rejection>,
    /// Change nothing.
    pub dry_run: bool,
}

/// Why it ended early. What is in the report of an earlier transaction stays.
#[derive(Debug, thiserror::Error)]
pub enum ReprocessError {
    /// The schema.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// Nobody of that name.
    #[error("the centre has never heard of a unit {0:?}; GET /kvfv lists them")]
    UnknownUnit(String),
    /// The database failed.
    #[error("the database failed: {0}; what was folded in before stays, run it again for the rest")]
    Database(#[from] ConnectionError),
    /// State could not be read.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A transaction failed.
    #[error("{0}; what was folded in before stays, run it again for the rest")]
    Write(#[from] WriteError),
    /// A row that Verst has not written.
    #[error("passage {seq} of stream {stream_key} in rejected_passage: {source}")]
    Foreign {
        /// Key of the stream.
        stream_key: i32,
        /// Its number.
        seq: i64,
        /// What is wrong.
        source: side::ForeignRow,
    },
}

impl From<tokio_postgres::Error> for ReprocessError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Database(error.into())
    }
}

struct Run<'a> {
    windows: &'a WindowsConfig,
    raw: &'a RawConfig,
    request: &'a Request,
    device_key: i32,
    writer: Writer,
    memory: Memory,
}

/// Folds in what the request names. In a dry run nothing is written, and the report says what would
/// have been.
///
/// # Errors
/// When the database fails or holds what Verst never writes, or the unit is unknown.
pub async fn reprocess(
    target: &Target,
    windows: &WindowsConfig,
    raw: &RawConfig,
    request: &Request,
) -> Result<Report, ReprocessError> {
    let tasks = TaskSet::new(CancellationToken::new());
    let mut client = target.connect("verst-reprocess", &tasks).await?;
    schema::check(&mut client).await?;
    let name = request.device.as_str();
    let device = client
        .query_opt("SELECT device_key FROM device WHERE device = $1", &[&name])
        .await?
        .ok_or_else(|| ReprocessError::UnknownUnit(name.to_owned()))?;
    let writer = Writer::open(target, "verst-reprocess", &tasks).await?;
    writer.client().batch_execute(SESSION).await?;
    let mut run = Run {
        windows,
        raw,
        request,
        device_key: device.get(0),
        writer,
        memory: Memory::new(),
    };
    run.all().await
}

impl Run<'_> {
    async fn all(&mut self) -> Result<Report, ReprocessError> {
        let mut report = Report::new(self.request);
        let (mut after, mut attempts) = (None, 0);
        loop {
            let chunk = side::read(
                self.writer.client(),
                self.device_key,
                self.request,
                after,
                CHUNK_PASSAGES_MAX,
            )
            .await?;
            let Some(last) = chunk.last() else {
                return Ok(report);
            };
            match self.chunk(&chunk, last).await {
                Ok(day) => {
                    report.add(day);
                    (after, attempts) = (Some(last), 0);
                }
                Err(ReprocessError::Write(error)) if attempts < AGAIN_MAX && passes(&error) => {
                    attempts += 1;
                    self.memory = Memory::new();
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// One transaction.
    async fn chunk(&mut self, chunk: &Chunk, last: Place) -> Result<DayReport, ReprocessError> {
        let now_ms = wall_millis();
        let device = &self.request.device;
        let client = self.writer.client();
        if self.memory.device(device).is_none() {
            let today = now_ms.div_euclid(DAY_MS);
            let devices = std::slice::from_ref(device);
            load::devices(client, &mut self.memory, devices, today).await?;
        }
        let missing = missing(&self.memory, device, chunk);
        load::windows(&self.writer, &mut self.memory, &missing).await?;
        let scope = fold::Scope {
            now_ms,
            horizon: Horizon::at(now_ms, self.windows.horizon_ms(), self.windows.ahead_ms()),
            raw_from_day: self
                .raw
                .enabled
                .then(|| now_ms.div_euclid(DAY_MS) - i64::from(self.raw.retention_days)),
        };
        let (plan, folded) = fold::plan(&self.memory, device, chunk, &scope);
        let changes = plan.changes.get(device);
        if !self.request.dry_run && changes.is_some_and(|change| !change.taken.is_empty()) {
            self.writer.commit(&plan, Right::Beside).await?;
        }
        let windows = changes
            .zip(self.memory.device(device))
            .map(|(change, before)| WindowReport::of(change, before))
            .unwrap_or_default();
        let day = DayReport::new(last.event_ms.div_euclid(DAY_MS), folded, windows);
        self.memory.install(plan.changes);
        Ok(day)
    }
}

/// Windows that the plan needs and that are not in memory.
fn missing(memory: &Memory, device: &DeviceId, chunk: &Chunk) -> Vec<(DeviceId, WindowId)> {
    let buckets: BTreeSet<i64> = chunk
        .rows
        .iter()
        .map(|row| Bucket::of(row.event_time).start().as_millis())
        .collect();
    let ids: BTreeSet<WindowId> = buckets
        .into_iter()
        .flat_map(|start_ms| {
            let bucket = Bucket::of(proto::EventTime::from_millis(start_ms));
            Length::ALL.map(|length| WindowId::over(length, bucket))
        })
        .collect();
    let known = memory.device(device);
    ids.into_iter()
        .filter(|id| known.is_none_or(|state| !state.windows.contains_key(id)))
        .map(|id| (device.clone(), id))
        .collect()
}

/// Whether planning anew helps.
fn passes(error: &WriteError) -> bool {
    match error {
        WriteError::Rows { .. } => true,
        WriteError::Database(cause) => next(cause.code()) == Next::Again,
        WriteError::Fenced { .. } | WriteError::Timeout => false,
    }
}
