//! One flush, one transaction.
//!
//! Raw rows by binary COPY, then the fencing tokens FOR SHARE (a new owner raises them and so waits
//! for us, or we see that it has), then windows, side tables and cursors in one pipeline, COMMIT. Any
//! number of rows other than planned rolls all of it back.

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::SinkExt;
use futures_util::future::{try_join, try_join_all};
use proto::topic::Shard;
use service::tasks::TaskSet;
use tokio_postgres::{Client, Statement};

use super::columns::{Columns, Part};
use super::plan::{Plan, RawPart};
use super::statements::Statements;
use crate::intake::rows::{COPY_HEADER, COPY_TRAILER};
use crate::store::connect::{ConnectionError, Target, answered};
use crate::window::rollup::Length;

/// Bytes of raw rows sent at once.
const COPY_CHUNK_BYTES: usize = 256 << 10;

/// Until a flush counts as lost.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(60);

/// Why a flush was not committed, or not known to be.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The database failed.
    #[error("flush failed: {}", with_cause(.0))]
    Database(#[from] tokio_postgres::Error),
    /// Somebody else owns a shard.
    #[error("shard {shard} is owned under another token than {token}")]
    Fenced {
        /// Which.
        shard: Shard,
        /// Ours.
        token: i64,
    },
    /// The database is not in the state that was planned against.
    #[error("{written} rows of {table} were written, {planned} were planned")]
    Rows {
        /// Where.
        table: &'static str,
        /// How many.
        written: u64,
        /// How many there should be.
        planned: u64,
    },
    /// No answer in time.
    #[error("flush was not committed within {} s", FLUSH_TIMEOUT.as_secs())]
    Timeout,
}

fn with_cause(error: &tokio_postgres::Error) -> String {
    error.as_db_error().map_or_else(
        || error.to_string(),
        |cause| format!("{cause} (SQLSTATE {})", cause.code().code()),
    )
}

/// By what right a plan is written.
#[derive(Debug, Clone, Copy)]
pub enum Right<'a> {
    /// As the owner of its shards, under these tokens.
    Owner(&'a BTreeMap<Shard, i64>),
    /// Beside the owner, whose flushes of these shards wait meanwhile. That nothing else has changed
    /// since the plan was made is proved by the revisions, and by how far the devices are final.
    Beside,
}

/// A connection that writes.
pub struct Writer {
    client: Client,
    statements: Statements,
    /// See [`FLUSH_TIMEOUT`].
    pub(super) patience: Duration,
}

impl Writer {
    /// Connects and prepares.
    ///
    /// # Errors
    /// When the database cannot be reached or lacks a table.
    pub async fn open(
        target: &Target,
        name: &str,
        tasks: &TaskSet,
    ) -> Result<Self, ConnectionError> {
        let client = target.connect(name, tasks).await?;
        let statements = answered(FLUSH_TIMEOUT, Statements::prepare(&client)).await?;
        let patience = FLUSH_TIMEOUT;
        Ok(Self {
            client,
            statements,
            patience,
        })
    }

    /// The connection, for reading between flushes.
    #[must_use]
    pub const fn client(&self) -> &Client {
        &self.client
    }

    /// Reads windows of this length: [`super::load::windows`].
    pub(super) fn reading(&self, length: Length) -> &Statement {
        &self.statements.reading[&length]
    }

    /// Writes a plan. With nothing to write it only proves the tokens, so that receipts of what was
    /// committed earlier never come from an owner that is none any more.
    ///
    /// Not cancel safe: dropped in the middle, its outcome is unknown.
    ///
    /// # Errors
    /// When it is not committed, or not known to be: see [`super::verdict`].
    pub async fn commit(&self, plan: &Plan<'_>, right: Right<'_>) -> Result<(), WriteError> {
        let written = tokio::time::timeout(self.patience, self.transaction(plan, right)).await;
        written.unwrap_or(Err(WriteError::Timeout))
    }

    async fn transaction(&self, plan: &Plan<'_>, right: Right<'_>) -> Result<(), WriteError> {
        let columns = Columns::of(plan);
        let mut parts = columns.parts(&self.statements);
        if parts.is_empty() && plan.rows.raw.is_empty() {
            return self.prove(plan, right).await;
        }
        if matches!(right, Right::Beside) {
            parts.insert(0, columns.standing(&self.statements));
        }
        if !plan.rows.raw_days.is_empty() {
            self.prepare_days(plan).await?;
        }
        self.client.batch_execute("BEGIN").await?;
        let written = self.write(plan, parts, right).await;
        match written {
            Ok(()) => Ok(self.client.batch_execute("COMMIT").await?),
            Err(error) => {
                // A failed ROLLBACK means a failed connection, and that rolls back as well.
                if let Err(second) = self.client.batch_execute("ROLLBACK").await {
                    tracing::debug!(error = %second, "rollback failed");
                }
                Err(error)
            }
        }
    }

    /// Partitions cannot be made inside the transaction without holding their locks until its end.
    async fn prepare_days(&self, plan: &Plan<'_>) -> Result<(), tokio_postgres::Error> {
        let days: Vec<i32> = plan
            .rows
            .raw_days
            .iter()
            .filter_map(|day| i32::try_from(*day).ok())
            .collect();
        let prepare = &self.statements.days;
        self.client.execute(prepare, &[&days]).await.map(drop)
    }

    async fn write(
        &self,
        plan: &Plan<'_>,
        parts: Vec<Part<'_>>,
        right: Right<'_>,
    ) -> Result<(), WriteError> {
        self.copy(&plan.rows.raw).await?;
        let statements = parts.into_iter().map(|part| async move {
            let written = self
                .client
                .execute(part.statement, &part.parameters)
                .await?;
            match part.planned {
                Some(planned) if planned != written => Err(WriteError::Rows {
                    table: part.table,
                    written,
                    planned,
                }),
                _ => Ok(()),
            }
        });
        // Polled in this order, so sent in this order, without waiting for one another.
        try_join(self.prove(plan, right), try_join_all(statements))
            .await
            .map(drop)
    }

    async fn prove(&self, plan: &Plan<'_>, right: Right<'_>) -> Result<(), WriteError> {
        let shards: Vec<i16> = plan.shards.iter().map(|shard| shard.get().into()).collect();
        let (statement, tokens) = match right {
            Right::Owner(tokens) => (&self.statements.tokens, tokens),
            Right::Beside => {
                let lock = &self.statements.tokens_alone;
                return Ok(self.client.execute(lock, &[&shards]).await.map(drop)?);
            }
        };
        let rows = self.client.query(statement, &[&shards]).await?;
        let standing: BTreeMap<Option<i16>, Option<i64>> =
            rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        for shard in &plan.shards {
            let token = tokens.get(shard).copied().unwrap_or(0);
            if standing.get(&Some(shard.get().into())) != Some(&Some(token)) {
                return Err(WriteError::Fenced {
                    shard: *shard,
                    token,
                });
            }
        }
        Ok(())
    }

    async fn copy(&self, parts: &[RawPart<'_>]) -> Result<(), WriteError> {
        if parts.is_empty() {
            return Ok(());
        }
        let sink = self
            .client
            .copy_in::<_, Bytes>(&self.statements.copy)
            .await?;
        let mut sink = pin!(sink);
        let mut planned = 0;
        let mut chunk = BytesMut::with_capacity(COPY_CHUNK_BYTES);
        chunk.put_slice(COPY_HEADER);
        for part in parts {
            let rows = part.rows.rows();
            if chunk.len() + rows.byte_len() > COPY_CHUNK_BYTES && !chunk.is_empty() {
                sink.as_mut().feed(chunk.split().freeze()).await?;
                chunk.reserve(COPY_CHUNK_BYTES.max(rows.byte_len()));
            }
            rows.copy_to(&mut chunk, part.device_key, part.stream_key);
            planned += rows.len() as u64;
        }
        chunk.put_slice(COPY_TRAILER);
        sink.as_mut().send(chunk.freeze()).await?;
        let written = sink.as_mut().finish().await?;
        if written == planned {
            Ok(())
        } else {
            Err(WriteError::Rows {
                table: "passage",
                planned,
                written,
            })
        }
    }
}
