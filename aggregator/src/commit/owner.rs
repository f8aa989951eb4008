//! The one who plans and commits.
//!
//! Holds committed state for the shards that are owned, under the tokens of one moment. Whatever
//! makes an outcome unknown, or a token another, ends the session: state is thrown away, after a lost
//! connection the tokens are raised first, and the messages at hand are planned anew against state
//! that is read again. While the database cannot take anything, intake is closed and no more is held
//! than was at hand.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use proto::device::{DeviceId, StreamId};
use proto::frame::Down;
use proto::receipt::{Centre, Receipt, RefusalClass, RefusalReason};
use service::clock::{monotonic, wall_millis};
use service::ops::{Condition, Health};
use service::tasks::TaskSet;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::lease::{Holdings, Instance, Raise};
use super::load::{self, LoadError};
use super::plan::{Context, Plan, plan, refusal};
use super::select::{LeftOver, select};
use super::surge::Surge;
use super::verdict::{Next, next};
use super::writer::{WriteError, Writer};
use crate::backoff::Backoff;
use crate::config::{LimitsConfig, WindowsConfig};
use crate::intake::admit::Dropped;
use crate::intake::decode::{Message, refused};
use crate::intake::mqtt::{Downlink, Gate};
use crate::metrics::Metrics;
use crate::store::connect::Target;
use crate::window::lateness::Horizon;
use crate::window::rollup::Length;
use crate::window::state::Memory;

/// A day in ms.
const DAY_MS: i64 = 86_400_000;

/// A flush begins sooner when rows and deltas of so much memory wait: some 350,000 raw rows.
const FLUSH_BYTES_MAX: usize = 32 << 20;

/// Attempts at a flush that was rolled back for a passing reason, before the connection is suspected.
const AGAIN_MAX: u32 = 8;

/// Whether the database takes what is committed, as `/readyz` shows it.
pub const CONDITION: &str = "commit";

/// What the owner needs.
pub struct Owner {
    /// Windows and flushes.
    pub windows: WindowsConfig,
    /// Whether raw rows are stored.
    pub raw: bool,
    /// Bounds of memory.
    pub limits: LimitsConfig,
    /// Where the database is.
    pub target: Target,
    /// Who we are.
    pub instance: Instance,
    /// The connection's task.
    pub tasks: TaskSet,
    /// What is owned.
    pub holdings: watch::Receiver<Holdings>,
    /// To the lease keeper.
    pub raises: mpsc::Sender<Raise>,
    /// From the threads that decode.
    pub messages: flume::Receiver<Vec<Message>>,
    /// Receipts and refusals.
    pub downlink: Downlink,
    /// Whether frames are taken.
    pub gate: watch::Sender<Gate>,
    /// For `/readyz`.
    pub health: Health,
    /// Counts.
    pub metrics: Metrics,
}

/// What outlives a session.
struct Hand {
    /// Messages that wait for the next flush.
    pending: Vec<Message>,
    surge: Surge,
    backoff: Backoff,
}

/// Why a session ended.
enum Ended {
    /// The program stops, and everything at hand is committed.
    Stopped,
    /// Other tokens than ours, or rows other than planned: read everything again.
    Fenced(String),
    /// The outcome of the last flush may be unknown.
    Unknown(String),
    /// Rolled back, and it would be again.
    Closed(String),
}

/// One connection, one set of tokens, one memory.
struct Session {
    writer: Writer,
    holdings: Holdings,
    centre: Centre,
    memory: Memory,
    stream_keys: Vec<i32>,
}

/// Why a part of a flush failed.
enum Failure {
    Next(Next, String),
    Fenced(String),
}

impl Owner {
    /// Commits until `stop`; then what is at hand, once more.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut hand = Hand {
            pending: Vec::new(),
            surge: Surge::default(),
            backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(5)),
        };
        self.close("starting".to_owned());
        while let Some(holdings) = self.owned(&mut hand, &stop).await {
            let ended = match Writer::open(&self.target, &self.instance.writer(), &self.tasks).await
            {
                Ok(writer) => self.session(writer, holdings, &mut hand, &stop).await,
                Err(error) => Ended::Closed(format!("cannot connect to the database: {error}")),
            };
            match ended {
                Ended::Stopped => return,
                Ended::Fenced(reason) => {
                    self.metrics.flushed("fenced");
                    self.close(reason);
                    self.raise(&stop).await;
                }
                Ended::Unknown(reason) => {
                    self.metrics.flushed("unknown");
                    self.close(reason);
                    self.raise(&stop).await;
                }
                Ended::Closed(reason) => {
                    self.metrics.flushed("closed");
                    self.close(reason);
                }
            }
            if stop.is_cancelled() {
                return;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(hand.backoff.delay()) => {}
            }
        }
    }

    /// Waits until something is owned. As a standby, what arrives is dropped.
    async fn owned(&mut self, hand: &mut Hand, stop: &CancellationToken) -> Option<Holdings> {
        loop {
            let holdings = self.holdings.borrow_and_update().clone();
            self.metrics
                .shards_owned
                .set(i64::try_from(holdings.tokens.len()).unwrap_or(0));
            if !holdings.tokens.is_empty() {
                return Some(holdings);
            }
            let owner = holdings
                .other
                .as_deref()
                .unwrap_or("nobody yet, or the database is away");
            self.close(format!("standby: the shards are owned by {owner}"));
            hand.pending.clear();
            tokio::select! {
                () = stop.cancelled() => return None,
                changed = self.holdings.changed() => if changed.is_err() { return None },
                chunk = self.messages.recv_async() => match chunk {
                    Ok(chunk) => chunk.iter().for_each(|_| self.metrics.dropped(Dropped::Shard)),
                    Err(_) => return None,
                },
            }
        }
    }

    /// Has the tokens raised, however long that takes: before it, what an earlier connection may still
    /// be committing is not decided.
    async fn raise(&self, stop: &CancellationToken) {
        let raised = async {
            loop {
                let (done, raised) = oneshot::channel();
                if self.raises.send(done).await.is_err() || raised.await.is_ok() {
                    return;
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = raised => {}
        }
    }

    async fn session(
        &mut self,
        writer: Writer,
        holdings: Holdings,
        hand: &mut Hand,
        stop: &CancellationToken,
    ) -> Ended {
        let Some(centre) = holdings.centre else {
            return Ended::Closed("it is not known yet which database this is".to_owned());
        };
        let (memory, stream_keys) = (Memory::new(), Vec::new());
        let mut session = Session {
            writer,
            holdings,
            centre,
            memory,
            stream_keys,
        };
        let mut ticks = tokio::time::interval(self.windows.flush_interval());
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // What is at hand from before goes first: only when it is in is the gate opened.
            if !hand.pending.is_empty()
                && let Err(ended) = self.flush(&mut session, hand).await
            {
                return ended;
            }
            hand.backoff.reset();
            if hand.surge.is_blown() {
                let reason = "too many devices had something refused for ever: look into the log, \
                              then restart";
                self.close(reason.to_owned());
            } else {
                self.open();
            }
            if hand.pending.is_empty() {
                let stopping = self.gather(hand, &mut ticks, stop).await;
                if stopping {
                    self.close("stopping".to_owned());
                    return match self.drain(&mut session, hand).await {
                        Ok(()) => Ended::Stopped,
                        Err(ended) => ended,
                    };
                }
            }
            if self.holdings.has_changed().unwrap_or(true) {
                let now = self.holdings.borrow_and_update().clone();
                if now.tokens != session.holdings.tokens || now.centre != Some(session.centre) {
                    return Ended::Fenced("the tokens have changed".to_owned());
                }
            }
        }
    }

    /// Collects messages until the flush is due. Says whether the program stops.
    async fn gather(
        &self,
        hand: &mut Hand,
        ticks: &mut Interval,
        stop: &CancellationToken,
    ) -> bool {
        let (mut passages, mut bytes) = (0, 0);
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    return false;
                }
                () = stop.cancelled() => return true,
                chunk = self.messages.recv_async() => {
                    let Ok(chunk) = chunk else { return true };
                    passages += chunk.iter().map(Message::passages).sum::<u64>();
                    bytes += chunk.iter().map(Message::memory_bytes).sum::<usize>();
                    hand.pending.extend(chunk);
                }
            }
            if passages >= self.windows.flush_passages_max || bytes >= FLUSH_BYTES_MAX {
                ticks.reset();
                return false;
            }
        }
    }

    /// Commits what is at hand and what has been decoded, at the stop.
    async fn drain(&mut self, session: &mut Session, hand: &mut Hand) -> Result<(), Ended> {
        hand.pending.extend(self.messages.try_iter().flatten());
        while !hand.pending.is_empty() {
            self.flush(session, hand).await?;
        }
        Ok(())
    }

    /// Commits the pending messages, in one transaction unless some value cannot be stored. What
    /// waits for the next flush is pending afterwards; after a failure, all that was not committed.
    async fn flush(&mut self, session: &mut Session, hand: &mut Hand) -> Result<(), Ended> {
        let mut parts = vec![std::mem::take(&mut hand.pending)];
        let mut left_over = Vec::new();
        let mut attempts = 0;
        while let Some(messages) = parts.pop() {
            let failure = match self.part(session, &mut hand.surge, &messages).await {
                Ok(waiting) => {
                    left_over.extend(picked(messages, &waiting));
                    continue;
                }
                Err(failure) => failure,
            };
            let ended = match failure {
                Failure::Next(Next::Bisect, reason) => {
                    self.metrics.flushed("bisected");
                    self.bisect(session, messages, &reason, &mut parts);
                    continue;
                }
                Failure::Next(Next::Again, reason) if attempts < AGAIN_MAX => {
                    attempts += 1;
                    tracing::info!(reason, attempts, "flush rolled back; trying again");
                    self.metrics.flushed("again");
                    parts.push(messages);
                    continue;
                }
                Failure::Next(Next::Close, reason) => Ended::Closed(reason),
                Failure::Next(_, reason) => Ended::Unknown(reason),
                Failure::Fenced(reason) => Ended::Fenced(reason),
            };
            hand.pending = messages;
            hand.pending.extend(parts.into_iter().rev().flatten());
            hand.pending.extend(left_over);
            return Err(ended);
        }
        hand.pending = left_over;
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
    /// is left alone is refused for ever.
    fn bisect(
        &self,
        session: &Session,
        mut messages: Vec<Message>,
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
                self.metrics.refused(refusal.reason.word());
                self.downlink.send(sender, &Down::Refusal(refusal));
            }
            return;
        }
        let devices: BTreeSet<&DeviceId> = messages
            .iter()
            .map(|message| &message.sender().device)
            .collect();
        let second = if devices.len() > 1 {
            let half: HashSet<DeviceId> = devices
                .iter()
                .take(devices.len() / 2)
                .map(|device| (*device).clone())
                .collect();
            let (first, second): (Vec<_>, Vec<_>) = messages
                .into_iter()
                .partition(|message| half.contains(&message.sender().device));
            messages = first;
            second
        } else {
            messages.split_off(messages.len() / 2)
        };
        // The last is taken first: the order of a device's messages is kept.
        parts.push(second);
        parts.push(messages);
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
        let owned: Vec<usize> = (0..messages.len())
            .filter(|place| {
                session
                    .holdings
                    .tokens
                    .contains_key(&messages[*place].sender().shard)
            })
            .collect();
        (owned.len()..messages.len()).for_each(|_| self.metrics.dropped(Dropped::Shard));
        let today = now_ms.div_euclid(DAY_MS);
        let devices = unknown_devices(&session.memory, messages, &owned);
        load::devices(
            session.writer.client(),
            &mut session.memory,
            &devices,
            today,
        )
        .await?;
        let streams = unknown_streams(&session.memory, messages, &owned);
        load::cursors(session.writer.client(), &mut session.memory, &streams).await?;
        let horizon = Horizon::at(now_ms, self.windows.horizon_ms(), self.windows.ahead_ms());
        let selection = select(&session.memory, messages, &owned, &horizon);
        load::windows(
            session.writer.client(),
            &mut session.memory,
            &selection.windows,
        )
        .await?;
        let new = new_streams(&session.memory, messages, &owned);
        if session.stream_keys.len() < new {
            let more = new - session.stream_keys.len();
            session
                .stream_keys
                .extend(load::stream_keys(session.writer.client(), more).await?);
        }
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
            .commit(&plan, &session.holdings.tokens)
            .await?;
        self.metrics
            .flush_seconds
            .observe(begun.elapsed().as_secs_f64());
        let used = plan.stream_keys_used;
        self.answer(session, surge, plan);
        session.stream_keys.drain(..used);
        Ok(selection.left_over)
    }

    /// After the COMMIT: install, count, send receipts and refusals.
    fn answer(&self, session: &mut Session, surge: &mut Surge, plan: Plan<'_>) {
        let now_ms = wall_millis();
        self.metrics.flushed("committed");
        self.metrics.committed(&plan.tally, now_ms);
        for length in Length::ALL {
            let of_length = |id: &&crate::window::rollup::WindowId| id.length == length;
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
        for (device, streams) in plan.receipts {
            let receipt = Receipt {
                centre: session.centre,
                streams,
            };
            self.downlink.send(&device, &Down::Receipt(receipt));
        }
        for (device, mut refusal) in plan.refusals {
            if refusal.class == RefusalClass::Never {
                tracing::warn!(%device, stream = %refusal.stream, range = ?refusal.range,
                    detail = refusal.detail, "refused for ever");
                if surge.never(&device, session.memory.device_count(), now_ms) {
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
            self.downlink.send(&device, &Down::Refusal(refusal));
        }
    }

    fn open(&self) {
        self.gate
            .send_if_modified(|gate| std::mem::replace(gate, Gate::Open) != Gate::Open);
        self.health.set(CONDITION, Condition::Ok);
    }

    fn close(&self, reason: String) {
        self.health
            .set(CONDITION, Condition::NotReady(reason.clone()));
        self.gate.send_if_modified(|gate| {
            let closed = Gate::Closed(reason);
            std::mem::replace(gate, closed.clone()) != closed
        });
    }
}

fn unknown_devices(memory: &Memory, messages: &[Message], owned: &[usize]) -> Vec<DeviceId> {
    let unknown: HashSet<&DeviceId> = owned
        .iter()
        .map(|place| &messages[*place].sender().device)
        .filter(|device| memory.device(device).is_none())
        .collect();
    unknown.into_iter().cloned().collect()
}

fn unknown_streams(
    memory: &Memory,
    messages: &[Message],
    owned: &[usize],
) -> Vec<(DeviceId, StreamId)> {
    let unknown: HashSet<(&DeviceId, StreamId)> = owned
        .iter()
        .filter_map(|place| {
            let message = &messages[*place];
            let (device, stream) = (&message.sender().device, message.stream()?);
            let known = memory.device(device)?.cursors.contains_key(&stream);
            (!known).then_some((device, stream))
        })
        .collect();
    unknown
        .into_iter()
        .map(|(device, stream)| (device.clone(), stream))
        .collect()
}

/// How many streams have no key yet.
fn new_streams(memory: &Memory, messages: &[Message], owned: &[usize]) -> usize {
    let mut new: HashMap<(&DeviceId, StreamId), ()> = HashMap::new();
    for place in owned {
        let message = &messages[*place];
        let device = &message.sender().device;
        let Some(stream) = message.stream() else {
            continue;
        };
        let cursor = memory
            .device(device)
            .and_then(|state| state.cursors.get(&stream));
        if cursor.is_none_or(|cursor| cursor.stream_key == 0) {
            new.insert((device, stream), ());
        }
    }
    new.len()
}

/// The messages that wait, with what is decided of them.
fn picked(messages: Vec<Message>, waiting: &[LeftOver]) -> impl Iterator<Item = Message> {
    let decided: HashMap<usize, usize> = waiting
        .iter()
        .map(|one| (one.message, one.decided))
        .collect();
    messages
        .into_iter()
        .enumerate()
        .filter_map(move |(place, mut message)| {
            message.decided = *decided.get(&place)?;
            Some(message)
        })
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
            WriteError::Fenced { .. } | WriteError::Rows { .. } => Self::Fenced(reason),
        }
    }
}
