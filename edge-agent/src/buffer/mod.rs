//! The edge buffer: the only queue in the whole system that holds passages for long.
//!
//! ```text
//! ingest ──append──► [bounded queue] ──► owner thread ──one sled batch, flush, fdatasync──► answers
//! uplink ──read, receipt, refused──►          │
//!                                             └──► watch::Receiver<Arc<BufferState>>
//! ```
//!
//! Invariants
//! 1. [`Buffer::append`] resolves after the fsync that covers its passages, never before.
//! 2. Whatever [`Buffer::read`] hands out lies below the durable mark and inside the durable
//!    offered mark of its stream.
//! 3. A passage leaves the disk only when a receipt covers it, or together with its window delta
//!    and its loss, in one atomic batch.
//! 4. After a failed flush nothing more is accepted or handed out until the next start.
//! 5. What was accepted and is neither settled nor on the disk is found out at the next start, taken back
//!    from the bytes of the damaged store where it is still there, and booked as lost otherwise.
//! 6. All state has one owner, a thread; its queue is bounded by [`QUEUE_COMMANDS_MAX`].
//!
//! It does not decide what is sent, when, or in which order: that is the uplink's.

mod chunk;
#[cfg(test)]
mod damage_tests;
mod engine;
mod error;
mod id_block;
mod ids;
mod keys;
mod loading;
mod losses;
mod medium;
#[cfg(test)]
mod model;
mod opening;
mod owner;
mod records;
mod salvage;
mod state;
mod store;
mod stream;
mod summaries;
#[cfg(test)]
mod summary_tests;
#[cfg(test)]
mod tests;
mod witness;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use prometheus_client::metrics::histogram::Histogram;
use proto::passage::{EventTime, Passage};
use proto::ranges::{Seq, SeqRange, SeqSet};
use proto::receipt::{Centre, RefusalReason, StreamReceipt};
use proto::summary::SummaryEntry;
use proto::{PassageBatch, StreamId};
use serde::Deserialize;
use service::clock::wall_millis;
use tokio::sync::{oneshot, watch};

pub use error::{AppendError, OpenError, ReadError, StoreStopped};
pub use medium::{Changes, Entry, Medium, StoreError};
pub use owner::{Moment, Owner};
pub use state::{Alarm, BufferState, Counters, StoreHealth, StreamState};

use engine::Engine;
use keys::Key;

/// Commands that may wait for the owner thread. When it is full, appends are refused with
/// [`AppendError::Overloaded`] (503 at the door) and the uplink's calls wait for room.
pub const QUEUE_COMMANDS_MAX: usize = 1_024;

/// Passages that may be offered without a receipt before the group commit stops reserving ahead:
/// twice the uplink's window at its usual batch of 500.
pub const OFFERED_AHEAD_MAX: u64 = 8_192;

/// Passages of one append, at most; ingest's limit of items lies at or below it.
pub const APPEND_PASSAGES_MAX: usize = 16_384;

/// Seconds that group commits take: from an SSD to an SD card that is busy with itself.
const COMMIT_SECONDS: [f64; 12] = [
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
];

/// What to do with new passages when the quota is full of passages without a receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QuotaPolicy {
    /// Drop the oldest raw passages that were never offered, keep their window deltas, and say so
    /// in the loss ledger.
    #[default]
    DropOldest,
    /// Refuse new passages ([`AppendError::Full`]).
    RefuseNew,
}

/// What the buffer needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BufferSettings {
    /// Where it lives: `store/` inside, attempt marker and quarantined stores beside it.
    pub directory: PathBuf,
    /// Logical bytes that it may hold; its files take up to 2.3 times as much.
    pub quota_bytes: u64,
    /// Bytes of the file system that it leaves free.
    pub free_floor_bytes: u64,
    /// What happens at the quota.
    pub policy: QuotaPolicy,
    /// How long a lone passage waits for company before its fsync. Saves flash wear; not used
    /// while traffic is dense.
    pub linger: Duration,
    /// How long opening the store may take before it is taken for damaged.
    pub open_timeout: Duration,
}

/// A passage that passed admission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    /// What is kept of it.
    pub passage: Passage,
    /// Its `event_id`, hashed; a second passage with the same one is a duplicate.
    pub event_id: Option<EventKey>,
}

/// An `event_id` as 128 bits of a hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventKey(pub [u8; 16]);

/// What became of the passages of one append. They are durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Passages that are new.
    pub accepted: u32,
    /// Passages whose `event_id` was accepted before.
    pub duplicates: u32,
}

/// How much [`Buffer::read`] hands out at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadLimit {
    /// Passages, at most.
    pub passages: usize,
    /// Bytes as stored, at most; at least one passage is handed out all the same.
    pub bytes: usize,
}

/// Consecutive passages of one stream, ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRun {
    /// The number of the first.
    pub first: Seq,
    /// The passages.
    pub batch: PassageBatch,
}

impl StoredRun {
    /// Its numbers and passages, if it is the beginning of what was asked for.
    #[must_use]
    pub fn within(self, asked: SeqRange) -> Option<(SeqRange, PassageBatch)> {
        let read = SeqRange::from_count(self.first, self.batch.len() as u64).ok()?;
        let begins = read.first() == asked.first() && read.last() <= asked.last();
        begins.then_some((read, self.batch))
    }
}

/// What the buffer thinks of the centre that spoke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CentreVerdict {
    /// The one that is pinned, in the life that is known.
    Known,
    /// The first ever seen; it is pinned now.
    Pinned,
    /// The pinned one in a later life: what is still held counts as not sent.
    NewTimeline,
    /// Another database than the pinned one, or an earlier life. What it says is ignored.
    Foreign(Centre),
}

/// What of a stream [`Buffer::fold`] may fold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoldScope {
    /// Up to this number.
    pub to: u64,
    /// Nothing, unless some of it happened before this time.
    pub if_before: Option<EventTime>,
    /// Windows that begin earlier take no summaries.
    pub windows_from: EventTime,
    /// Nor do windows that end later.
    pub windows_to: EventTime,
}

/// What came of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Folded {
    /// Passages that were folded.
    pub passages: u64,
    /// Whether there is more to fold.
    pub more: bool,
}

/// A sealed entry of a summary that waits for a receipt. Its raw passages were dropped, or follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingSummary {
    /// Its stream.
    pub stream: StreamId,
    /// Never changes once handed out.
    pub entry: SummaryEntry,
}

/// What stands in for a disk and for chance, where both are in somebody's hand: the simulator's.
#[derive(Debug)]
pub struct HandedOver {
    /// Where keys and values lie; open.
    pub medium: Box<dyn Medium>,
    /// The name of this run's stream; no other run may ever have had it. Runs that begin without a
    /// restart of the agent, as after a full disk, have the names that follow it.
    pub stream: StreamId,
    /// Stands in for [`OFFERED_AHEAD_MAX`], so that a few passages are enough to have some that were
    /// never offered.
    pub offered_ahead_max: u64,
}

/// A handle on the buffer. Clones speak to the same owner thread; it ends when all are dropped.
#[derive(Debug, Clone)]
pub struct Buffer {
    commands: flume::Sender<Command>,
    state: watch::Receiver<Arc<BufferState>>,
    offers_ahead: Arc<AtomicBool>,
}

/// The thread's part: hand it to `TaskSet::spawn_blocking_thread("buffer", move || owner.run())`.
#[derive(Debug)]
pub struct OwnerThread {
    commit_seconds: Histogram,
    engine: Box<Engine>,
    commands: flume::Receiver<Command>,
    state: watch::Sender<Arc<BufferState>>,
    offers_ahead: Arc<AtomicBool>,
}

#[derive(Debug)]
enum Command {
    Append {
        passages: Vec<Admitted>,
        answer: oneshot::Sender<Result<Appended, AppendError>>,
    },
    Read {
        stream: StreamId,
        first: Seq,
        limit: ReadLimit,
        answer: oneshot::Sender<Result<Option<StoredRun>, ReadError>>,
    },
    Receipt {
        centre: Centre,
        streams: Vec<StreamReceipt>,
        answer: oneshot::Sender<CentreVerdict>,
    },
    Refused {
        stream: StreamId,
        range: SeqRange,
        reason: RefusalReason,
        build: Option<Arc<str>>,
        answer: oneshot::Sender<u64>,
    },
    SummaryRefused {
        stream: StreamId,
        seqs: SeqSet,
        counted: SeqSet,
        answer: oneshot::Sender<u64>,
    },
    OfferAgain {
        build: Arc<str>,
        answer: oneshot::Sender<u64>,
    },
    CentreTime(EventTime),
    Fold {
        stream: StreamId,
        scope: FoldScope,
        answer: oneshot::Sender<Folded>,
    },
    Summaries {
        stream: StreamId,
        entries_max: usize,
        answer: oneshot::Sender<Vec<PendingSummary>>,
    },
}

impl Buffer {
    /// Opens the store, or makes one. Blocks for up to three times the `open_timeout`: call it
    /// before the runtime serves anything.
    ///
    /// # Errors
    /// When there is no place for a store, another process has it, or a newer agent wrote it. A
    /// damaged store is no error: it is moved aside and an [`Alarm`] says so.
    pub fn open(settings: &BufferSettings) -> Result<(Self, OwnerThread), OpenError> {
        Ok(Self::around(Engine::open(settings, wall_millis())?))
    }

    /// The buffer over a medium that is open already, without a thread: [`Owner::step`] does the work.
    ///
    /// # Errors
    /// When the medium cannot be read, or a newer agent wrote it.
    pub fn over(
        settings: &BufferSettings,
        handed: HandedOver,
        at: Moment,
    ) -> Result<(Self, Owner), OpenError> {
        let (buffer, thread) = Self::around(Engine::over(settings, handed, at.wall_ms)?);
        Ok((buffer, thread.owner(at.monotonic)))
    }

    fn around(engine: Engine) -> (Self, OwnerThread) {
        let mut engine = Box::new(engine);
        let (commands, queue) = flume::bounded(QUEUE_COMMANDS_MAX);
        let (publisher, state) = watch::channel(Arc::new(engine.state(StoreHealth::Ok)));
        let offers_ahead = Arc::<AtomicBool>::default();
        let thread = OwnerThread {
            offers_ahead: Arc::clone(&offers_ahead),
            commit_seconds: Histogram::new(COMMIT_SECONDS),
            engine,
            commands: queue,
            state: publisher,
        };
        let buffer = Self {
            commands,
            state,
            offers_ahead,
        };
        (buffer, thread)
    }

    /// Makes passages durable. Resolves after the fsync that covers them. Dropping the future does
    /// not take the passages back.
    ///
    /// # Errors
    /// See [`AppendError`]; nothing of the append is accepted then.
    pub async fn append(&self, passages: Vec<Admitted>) -> Result<Appended, AppendError> {
        let (answer, answered) = oneshot::channel();
        self.commands
            .try_send(Command::Append { passages, answer })
            .map_err(|error| match error {
                flume::TrySendError::Full(_) => AppendError::Overloaded,
                flume::TrySendError::Disconnected(_) => AppendError::Failed(self.why().0),
            })?;
        answered
            .await
            .map_err(|_| AppendError::Failed(self.why().0))?
    }

    /// The state after the last commit, and a signal for each further one.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<Arc<BufferState>> {
        self.state.clone()
    }

    /// Says whether passages leave as they come. Then the group commit that accepts them marks them as
    /// offered, which spares a commit for each message. While they do not it must not: what is offered
    /// cannot be folded. False at the start; a word that comes late costs only that.
    pub fn offer_ahead(&self, on: bool) {
        self.offers_ahead.store(on, Ordering::Relaxed);
    }

    /// Consecutive passages of a stream from the first held number at or after `first`, none where
    /// nothing is held there or a summary that waits for its receipt stands for it. What it hands out is durably marked as offered before; usually the
    /// group commit that accepted the passages reserved that ahead, otherwise this waits for an
    /// fsync that reserves the next [`OFFERED_AHEAD_MAX`] / 2 numbers as well.
    ///
    /// # Errors
    /// See [`ReadError`]; after `Corrupt` ask again from the number behind the range.
    pub async fn read(
        &self,
        stream: StreamId,
        first: Seq,
        limit: ReadLimit,
    ) -> Result<Option<StoredRun>, ReadError> {
        let (answer, answered) = oneshot::channel();
        self.ask(
            Command::Read {
                stream,
                first,
                limit,
                answer,
            },
            answered,
        )
        .await?
    }

    /// Takes over what the centre has committed. In force at once, durable with the next commit (a
    /// lost one only causes a duplicate at the centre). An empty list only shows the centre, as a
    /// beacon does.
    ///
    /// # Errors
    /// When the buffer has stopped.
    pub async fn receipt(
        &self,
        centre: Centre,
        streams: Vec<StreamReceipt>,
    ) -> Result<CentreVerdict, StoreStopped> {
        let (answer, answered) = oneshot::channel();
        self.ask(
            Command::Receipt {
                centre,
                streams,
                answer,
            },
            answered,
        )
        .await
    }

    /// Moves passages aside that a build of the centre refused for ever and books them as lost.
    /// Resolves, with how many they were, once that is durable.
    ///
    /// # Errors
    /// When the buffer has stopped.
    pub async fn refused(
        &self,
        stream: StreamId,
        range: SeqRange,
        reason: RefusalReason,
        build: Option<Arc<str>>,
    ) -> Result<u64, StoreStopped> {
        let (answer, answered) = oneshot::channel();
        self.ask(
            Command::Refused {
                stream,
                range,
                reason,
                build,
                answer,
            },
            answered,
        )
        .await
    }

    /// Drops the pending summaries that stand for no other numbers than these, for the centre does not
    /// take them: what is held of them is sent raw, and of the rest what it has not `counted` is booked
    /// as lost altogether. Resolves, with how many passages that were, once it is durable. What is
    /// dropped already is passed over.
    ///
    /// # Errors
    /// When the buffer has stopped.
    pub async fn summary_refused(
        &self,
        stream: StreamId,
        seqs: SeqSet,
        counted: SeqSet,
    ) -> Result<u64, StoreStopped> {
        let (answer, answered) = oneshot::channel();
        self.ask(
            Command::SummaryRefused {
                stream,
                seqs,
                counted,
                answer,
            },
            answered,
        )
        .await
    }

    /// Puts passages back into line that were moved aside and that this build of the centre has not
    /// refused: to each build they are offered once. Some at a time: ask again until it resolves,
    /// durably, with 0 passages.
    ///
    /// # Errors
    /// When the buffer has stopped.
    pub async fn offer_again(&self, build: Arc<str>) -> Result<u64, StoreStopped> {
        let (answer, answered) = oneshot::channel();
        self.ask(Command::OfferAgain { build, answer }, answered)
            .await
    }

    /// Takes over the time that the pinned centre stated; durable with a later commit, at most once
    /// an hour. Where the queue is full it is dropped: the centre states it again.
    pub fn centre_time(&self, at: EventTime) {
        self.commands.try_send(Command::CentreTime(at)).ok();
    }

    /// Folds passages that no message may have contained into window deltas, the oldest first and
    /// some at a time: ask again while there is more. Their raw form is handed out once the deltas have
    /// a receipt, or were refused. Resolves once it is durable.
    ///
    /// # Errors
    /// When the buffer has stopped.
    pub async fn fold(&self, stream: StreamId, scope: FoldScope) -> Result<Folded, StoreStopped> {
        let (answer, answered) = oneshot::channel();
        let command = Command::Fold {
            stream,
            scope,
            answer,
        };
        self.ask(command, answered).await
    }

    /// The oldest entries of a stream that have no receipt. They are sealed durably before this
    /// resolves.
    ///
    /// # Errors
    /// When the buffer has stopped.
    pub async fn pending_summaries(
        &self,
        stream: StreamId,
        entries_max: usize,
    ) -> Result<Vec<PendingSummary>, StoreStopped> {
        let (answer, answered) = oneshot::channel();
        self.ask(
            Command::Summaries {
                stream,
                entries_max,
                answer,
            },
            answered,
        )
        .await
    }

    async fn ask<T>(
        &self,
        command: Command,
        answered: oneshot::Receiver<T>,
    ) -> Result<T, StoreStopped> {
        self.commands
            .send_async(command)
            .await
            .map_err(|_| self.why())?;
        answered.await.map_err(|_| self.why())
    }

    fn why(&self) -> StoreStopped {
        match &self.state.borrow().health {
            StoreHealth::Failed(why) => StoreStopped(Arc::clone(why)),
            StoreHealth::NoSpace => StoreStopped("the disk is full".into()),
            StoreHealth::Ok => StoreStopped("the agent stops".into()),
        }
    }
}

/// The passages of a chunk, in its place or set aside, as a medium was given it: the stream, the
/// number of the first, and all of them. None for any other key, and for a damaged value.
#[must_use]
pub fn passages_of(key: &[u8], value: &[u8]) -> Option<(StreamId, Seq, PassageBatch)> {
    let (Key::Chunk(key) | Key::Aside(key)) = Key::decode(key)? else {
        return None;
    };
    let batch = chunk::decode(&key, value).ok()?;
    Some((key.stream, key.range.first(), batch))
}
