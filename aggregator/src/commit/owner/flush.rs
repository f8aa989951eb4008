//! One flush: load, select, plan, commit, answer; and what to do when a part of it fails.

use proto::device::DeviceId;
use proto::frame::Down;
use proto::receipt::{Refusal, RefusalClass, RefusalReason};
use service::clock::{monotonic, wall_millis};

use super::super::gather::{halves, new_streams, owned, parted, unknown_devices, unknown_streams};
use super::super::load::{self, LoadError};
use super::super::plan::{Context, Plan, plan, refusal};
use super::super::select::{LeftOver, Selection, select};
use super::super::surge::Surge;
use super::super::verdict::{Next, next};
use super::super::writer::{Right, WriteError};
use super::{Ended, Hand, Owner, Session};
use crate::intake::admit::Dropped;
use crate::intake::decode::{Message, refused};
use crate::window::lateness::Horizon;
use crate::window::rollup::{Length, WindowId};
use crate::window::state::Memory;

/// A day in ms.
const DAY_MS: i64 = 86_400_000;

/// Attempts at a flush that was rolled back for a passing reason, before the connection is suspected.
const AGAIN_MAX: u32 = 8;

/// Why a part of a flush failed.
enum Failure {
    Next(Next, String),
    Fenced(String),
    /// Rolled back: the database holds other rows than memory.
    Stale(String),
}

impl Owner {
    /// Commits the pending messages, in one transaction unless some value cannot be stored. What
    /// waits for the next flush is left over afterwards; after a failure, all that was not committed is
    /// pending.
    pub(super) async fn flush(
        &mut self,
        session: &mut Session,
        hand: &mut Hand,
    ) -> Result<(), Ended> {
        let begun = monotonic();
        let mut parts = vec![std::mem::take(&mut hand.pending)];
        let mut left_over = Vec::new();
        let mut attempts = 0;
        while let Some(messages) = parts.pop() {
            let failure = match self.part(session, &mut hand.surge, &messages).await {
                Ok(waiting) => {
                    let (waiting, committed) = parted(messages, &waiting);
                    left_over.extend(waiting);
                    // Giving tens of megabytes back takes milliseconds in which the database would wait.
                    tokio::task::spawn_blocking(move || drop(committed));
                    continue;
                }
                Err(failure) => failure,
            };
            let ended = match failure {
                Failure::Next(Next::Bisect, reason) => {
                    self.metrics.flushed("bisected");
                    self.bisect(session, &mut hand.surge, messages, &reason, &mut parts);
                    continue;
                }
                Failure::Next(Next::Again, reason) if attempts < AGAIN_MAX => {
                    attempts += 1;
                    tracing::info!(reason, attempts, "flush rolled back; trying again");
                    self.metrics.flushed("again");
                    parts.push(messages);
                    continue;
                }
                Failure::Stale(reason) if attempts < AGAIN_MAX => {
                    attempts += 1;
                    tracing::info!(reason, attempts, "the database has moved on; loading again");
                    self.metrics.flushed("stale");
                    session.memory = Memory::new();
                    session.floor_ms = None;
                    parts.push(messages);
                    continue;
                }
                Failure::Next(Next::Close, reason) => Ended::Closed(reason),
                Failure::Next(_, reason) => Ended::Unknown(reason),
                Failure::Fenced(reason) | Failure::Stale(reason) => Ended::Fenced(reason),
            };
            hand.pending = messages;
            hand.pending.extend(parts.into_iter().rev().flatten());
            hand.pending.extend(left_over);
            return Err(ended);
        }
        let now = monotonic();
        let took = now.duration_since(begun);
        hand.backlog.flushed(took);
        hand.left_over.wait(left_over, now, took);
        session.memory.shrink_to(self.limits.windows_cached_max);
        self.metrics
            .devices
            .set(gauge(session.memory.device_count()));
        self.metrics
            .windows_cached
            .set(gauge(session.memory.window_count()));
        Ok(())
    }

    /// Splits messages of which some value cannot be stored: by device, then by message. The one that
    /// is left alone is refused for ever, until the fuse is blown.
    fn bisect(
        &self,
        session: &Session,
        surge: &mut Surge,
        messages: Vec<Message>,
        reason: &str,
        parts: &mut Vec<Vec<Message>>,
    ) {
        if messages.len() == 1 {
            for message in &messages {
                let sender = &message.sender().device;
                let range = message.header.range();
                tracing::error!(device = %sender, stream = %message.header.stream, ?range, reason,
                    "a message cannot be stored; it is refused");
                let refused = refused(RefusalClass::Never, RefusalReason::Unstorable, reason);
                let (stream, centre) = (message.header.stream, session.centre);
                let refusal = refusal(centre, stream, range, refused, None);
                self.refuse(session, surge, sender, refusal);
            }
            return;
        }
        let (first, second) = halves(messages);
        // The last is taken first: the order of a device's messages is kept.
        parts.push(second);
        parts.push(first);
    }

    /// One transaction. Says what waits for the next.
    async fn part(
        &self,
        session: &mut Session,
        surge: &mut Surge,
        messages: &[Message],
    ) -> Result<Vec<LeftOver>, Failure> {
        let begun = monotonic();
        let now_ms = wall_millis();
        let owned = owned(messages, &session.holdings.tokens);
        (owned.len()..messages.len()).for_each(|_| self.metrics.dropped(Dropped::Shard));
        let patience = session.writer.patience;
        let loading = self.load(session, messages, &owned, now_ms);
        let loaded = tokio::time::timeout(patience, loading).await;
        let (horizon, selection) = loaded.map_err(|_| Failure::from(WriteError::Timeout))??;
        let context = Context {
            now_ms,
            horizon,
            raw: self.raw,
            rejected_per_day_max: i64::from(self.limits.rejected_per_day_max),
            stream_keys: &session.stream_keys,
            centre: session.centre,
        };
        let plan = plan(&session.memory, messages, &selection.parts, &context);
        session
            .writer
            .commit(&plan, Right::Owner(&session.holdings.tokens))
            .await?;
        self.metrics
            .flush_seconds
            .observe(begun.elapsed().as_secs_f64());
        let used = plan.stream_keys_used;
        self.answer(session, surge, plan);
        session.stream_keys.drain(..used);
        Ok(selection.left_over)
    }

    /// Reads what the messages need and memory lacks.
    async fn load(
        &self,
        session: &mut Session,
        messages: &[Message],
        owned: &[usize],
        now_ms: i64,
    ) -> Result<(Horizon, Selection), LoadError> {
        let client = session.writer.client();
        let memory = &mut session.memory;
        let today = now_ms.div_euclid(DAY_MS);
        let devices = unknown_devices(memory, messages, owned);
        load::devices(client, memory, &devices, today).await?;
        let streams = unknown_streams(memory, messages, owned);
        load::cursors(client, memory, &streams).await?;
        let floor_ms = match session.floor_ms {
            Some(floor_ms) => floor_ms,
            None => load::floor_ms(client).await?,
        };
        session.floor_ms = Some(floor_ms);
        if session.fleet.is_none() {
            let shards = session.holdings.tokens.keys().copied();
            session.fleet = Some(load::fleet(client, shards).await?);
        }
        let horizon = Horizon::at(now_ms, self.windows.horizon_ms(), self.windows.ahead_ms())
            .not_below(floor_ms);
        let selection = select(memory, messages, owned, &horizon);
        load::windows(&session.writer, memory, &selection.windows).await?;
        let new = new_streams(memory, messages, owned);
        if session.stream_keys.len() < new {
            let more = new - session.stream_keys.len();
            let keys = load::stream_keys(client, more).await?;
            session.stream_keys.extend(keys);
        }
        Ok((horizon, selection))
    }

    /// After the COMMIT: install, count, send receipts and refusals.
    fn answer(&self, session: &mut Session, surge: &mut Surge, plan: Plan<'_>) {
        let now_ms = wall_millis();
        self.metrics.flushed("committed");
        self.metrics.committed(&plan.tally, now_ms);
        for length in Length::ALL {
            let of_length = |id: &&WindowId| id.length == length;
            let windows = plan
                .changes
                .values()
                .map(|change| change.windows.keys().filter(of_length).count());
            self.metrics.wrote_windows(length.word(), windows.sum());
        }
        for (device, change) in &plan.changes {
            if change.clone_alarm {
                self.metrics.clone_alarms.inc();
                tracing::error!(%device, "two streams advance by turns: the identity is cloned; \
                    nothing of it turns final for a day");
            }
        }
        session.memory.install(plan.changes);
        self.metrics.receipted(plan.receipts.len());
        for (device, receipt) in plan.receipts {
            self.downlink.send(&device, &Down::Receipt(receipt));
        }
        for (device, refusal) in plan.refusals {
            if refusal.class == RefusalClass::Never {
                tracing::warn!(%device, stream = %refusal.stream, range = ?refusal.range,
                    detail = refusal.detail, "refused for ever");
            }
            self.refuse(session, surge, &device, refusal);
        }
    }

    /// Sends a refusal; one for ever counts, and is none once the fuse is blown.
    fn refuse(
        &self,
        session: &Session,
        surge: &mut Surge,
        device: &DeviceId,
        mut refusal: Refusal,
    ) {
        if refusal.class == RefusalClass::Never {
            let heard = session.memory.device_count();
            let fleet = session.fleet.unwrap_or(0).max(heard);
            if surge.never(device, fleet, wall_millis()) {
                tracing::error!(
                    "many devices had something refused for ever within minutes: \
                    intake closes, for this is more likely a fault of this build than of them"
                );
            }
            if surge.is_blown() {
                refusal.class = RefusalClass::Later;
            }
        }
        self.metrics.refused(refusal.reason.word());
        self.downlink.send(device, &Down::Refusal(refusal));
    }
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Self {
        let verdict = match &error {
            // Nothing was being committed: what Bisect would find is not in the messages.
            LoadError::Database(cause) => match next(cause.code()) {
                Next::Bisect => Next::Close,
                other => other,
            },
            LoadError::Foreign { .. } => Next::Close,
        };
        Self::Next(verdict, error.to_string())
    }
}

impl From<WriteError> for Failure {
    fn from(error: WriteError) -> Self {
        let reason = error.to_string();
        match &error {
            WriteError::Database(cause) => Self::Next(next(cause.code()), reason),
            WriteError::Timeout => Self::Next(Next::Reconnect, reason),
            WriteError::Fenced { .. } => Self::Fenced(reason),
            WriteError::Rows { .. } => Self::Stale(reason),
        }
    }
}
