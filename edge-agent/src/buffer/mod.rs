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
//!    and its [`Loss`], in one atomic batch.
//! 4. After a failed flush nothing more is accepted or handed out until the next start.
//! 5. All state has one owner, a thread; its queue is bounded by [`QUEUE_COMMANDS_MAX`].
//!
//! It does not decide what is sent, when, or in which order: that is the uplink's.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use proto::heartbeat::{Backlog, Disk};
use proto::loss::{Loss, LossReason};
use proto::passage::{EventTime, Passage};
use proto::ranges::{Seq, SeqRange, SeqSet};
use proto::receipt::{Centre, RefusalReason, StreamReceipt};
use proto::summary::SummaryEntry;
use proto::{PassageBatch, StreamId};
use serde::Deserialize;
use tokio::sync::{oneshot, watch};

/// Commands that may wait for the owner thread. When it is full, appends are refused with
/// [`AppendError::Overloaded`] (503 at the door) and the uplink's calls wait for room.
pub const QUEUE_COMMANDS_MAX: usize = 1_024;

/// Passages that may be offered without a receipt before the group commit stops reserving ahead:
/// twice the uplink's window at its usual batch of 500.
pub const OFFERED_AHEAD_MAX: u64 = 8_192;

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

/// Why passages were not accepted: none of them is on the disk as far as anybody will ever see,
/// except after `Failed`, when nobody knows and a retry with the same `event_id` is the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The quota is full and the policy refuses, or all that could go is on its way to the centre.
    #[error("buffer holds {held_bytes} bytes, its quota is {quota_bytes} bytes")]
    Full {
        /// Logical bytes in it.
        held_bytes: u64,
        /// Logical bytes allowed.
        quota_bytes: u64,
    },
    /// The file system is full, or down to the free floor.
    #[error("file system of the buffer has {free_bytes} bytes free, the floor is {floor_bytes}")]
    NoSpace {
        /// Bytes free.
        free_bytes: u64,
        /// Bytes to be left free.
        floor_bytes: u64,
    },
    /// A flush failed; the store refuses everything until the agent is restarted.
    #[error("store of the buffer failed and refuses passages until a restart: {0}")]
    Failed(Arc<str>),
    /// The owner thread has more to do than it can.
    #[error("{QUEUE_COMMANDS_MAX} requests wait for the buffer already")]
    Overloaded,
    /// More passages at once than one append may carry.
    #[error("append of {0} passages is above the limit of {APPEND_PASSAGES_MAX}")]
    TooMany(usize),
}

/// Passages of one append, at most; ingest's limit of items lies at or below it.
pub const APPEND_PASSAGES_MAX: usize = 16_384;

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

/// Why passages could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The medium returned something else than was written. The chunk has been moved aside and
    /// its range is booked as a loss; reading goes on behind it.
    #[error("passages {range} are damaged on the disk and were moved aside: {problem}")]
    Corrupt {
        /// The numbers that are lost.
        range: SeqRange,
        /// What was wrong with them.
        problem: String,
    },
    /// The store failed or the agent stops.
    #[error(transparent)]
    Stopped(#[from] StoreStopped),
}

/// The owner thread takes no more commands.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("buffer has stopped: {0}")]
pub struct StoreStopped(pub Arc<str>);

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

/// A sealed entry of a summary that waits for a receipt: what is left of dropped raw passages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingSummary {
    /// Its stream.
    pub stream: StreamId,
    /// Never changes once handed out.
    pub entry: SummaryEntry,
}

/// Everything about the buffer that others need; published after every commit, so every number in
/// it is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BufferState {
    /// Oldest first; the stream of this run, once it has one, comes last.
    pub streams: Vec<Arc<StreamState>>,
    /// What waits for a receipt, over all streams.
    pub unsent: Backlog,
    /// The least event time of held passages that are not counted: what bounds the frontier.
    pub oldest_uncounted: Option<EventTime>,
    /// Losses that no receipt has listed yet, at most [`proto::limits::LOSSES_MAX`] are shown.
    pub losses: Vec<(StreamId, Loss)>,
    /// Passages whose raw form was dropped and whose window deltas wait for a receipt.
    pub summarised: u64,
    /// The disk under it.
    pub disk: Disk,
    /// Logical bytes held, sent copies included.
    pub held_bytes: u64,
    /// Which start of the store this is; rises with every start, even of a new store.
    pub run: u32,
    /// Whether it takes passages.
    pub health: StoreHealth,
    /// The database that the unit belongs to.
    pub centre: Option<Centre>,
    /// Since this start.
    pub counters: Counters,
    /// What an operator should see to.
    pub alarms: Vec<Alarm>,
}

/// One stream of the buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamState {
    /// Which.
    pub id: StreamId,
    /// Whether it is the stream of this run, which still grows.
    pub current: bool,
    /// The durable mark: the last number that is on the disk.
    pub accepted_to: u64,
    /// Numbers that a frame may have contained.
    pub offered: SeqSet,
    /// Numbers whose raw passages are on the disk.
    pub held: SeqSet,
    /// Numbers on the disk that neither a `stored` nor a `lost` of a receipt covers: to be sent.
    pub unsent: SeqSet,
    /// What receipts said is in the windows.
    pub counted: SeqSet,
    /// What receipts said is in the database.
    pub stored: SeqSet,
    /// What receipts said is booked as lost.
    pub lost: SeqSet,
    /// The least event time among the unsent.
    pub oldest_unsent: Option<EventTime>,
}

/// Whether the store takes passages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreHealth {
    /// Yes.
    Ok,
    /// Not while the disk is so full.
    NoSpace,
    /// Not before a restart.
    Failed(Arc<str>),
}

/// Counters since the start of the agent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Passages made durable.
    pub accepted: u64,
    /// Passages recognised by their `event_id`.
    pub duplicates: u64,
    /// Group commits, each with its fsync.
    pub commits: u64,
    /// Sent copies that were deleted for space.
    pub released: u64,
    /// Passages lost, raw or altogether, by reason: quota, corrupt, refused, operator.
    pub lost: [u64; 4],
}

impl Counters {
    /// Where a reason counts in [`Counters::lost`].
    #[must_use]
    pub const fn place(reason: LossReason) -> usize {
        match reason {
            LossReason::Quota => 0,
            LossReason::Corrupt => 1,
            LossReason::Refused => 2,
            LossReason::Operator => 3,
        }
    }
}

/// What an operator should see to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Alarm {
    /// A store that could not be opened was moved to this place.
    StoreQuarantined {
        /// Where it is.
        directory: PathBuf,
    },
    /// So many passages were refused by the centre or damaged, and are kept aside.
    PassagesQuarantined {
        /// How many.
        passages: u64,
    },
    /// A receipt of another database came.
    ForeignCentre {
        /// Which.
        centre: Centre,
    },
}

/// Why the buffer could not be opened at all.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory cannot be used.
    #[error("cannot use the buffer directory {}: {source}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Another process has it open.
    #[error("buffer directory {} is in use by another process", path.display())]
    InUse {
        /// Which.
        path: PathBuf,
    },
    /// A newer agent wrote it.
    #[error(
        "buffer has format {found}, this agent knows up to {known}: it is older than its store; install the newer agent again"
    )]
    Newer {
        /// What the store says.
        found: u32,
        /// What this agent knows.
        known: u32,
    },
    /// A new store cannot be made either.
    #[error("cannot make a store in {}: {problem}", path.display())]
    Store {
        /// Where.
        path: PathBuf,
        /// Why.
        problem: String,
    },
    /// No random bits for the name of the stream.
    #[error("the system gives no random bits: {0}")]
    Random(#[from] getrandom::Error),
}

/// A handle on the buffer. Clones speak to the same owner thread; it ends when all are dropped.
#[derive(Debug, Clone)]
pub struct Buffer {
    commands: flume::Sender<Command>,
    state: watch::Receiver<Arc<BufferState>>,
}

/// The thread's part: hand it to `TaskSet::spawn_blocking_thread("buffer", move || owner.run())`.
#[derive(Debug)]
pub struct OwnerThread {
    commands: flume::Receiver<Command>,
    state: watch::Sender<Arc<BufferState>>,
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
        answer: oneshot::Sender<u64>,
    },
    Summaries {
        stream: StreamId,
        entries_max: usize,
        answer: oneshot::Sender<Vec<PendingSummary>>,
    },
}

impl Buffer {
    /// Opens the store, or makes one; see [`OpenError`]. Blocks for up to three times the
    /// `open_timeout`: call it before the runtime serves anything.
    ///
    /// # Errors
    /// When there is no place for a store, another process has it, or a newer agent wrote it. A
    /// damaged store is no error: it is moved aside and an [`Alarm`] says so.
    pub fn open(settings: &BufferSettings) -> Result<(Self, OwnerThread), OpenError> {
        Err(OpenError::Store {
            path: settings.directory.clone(),
            problem: "not yet".into(),
        })
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

    /// Consecutive passages of a stream from the first held number at or after `first`, none where
    /// nothing is held there. What it hands out is durably marked as offered before; usually the
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

    /// Moves passages aside that the centre refused for ever and books them as lost. Resolves,
    /// with how many they were, once that is durable.
    ///
    /// # Errors
    /// When the buffer has stopped.
    pub async fn refused(
        &self,
        stream: StreamId,
        range: SeqRange,
        reason: RefusalReason,
    ) -> Result<u64, StoreStopped> {
        let (answer, answered) = oneshot::channel();
        self.ask(
            Command::Refused {
                stream,
                range,
                reason,
                answer,
            },
            answered,
        )
        .await
    }

    /// The oldest entries of a stream that stand for dropped raw passages and have no receipt. They
    /// are sealed durably before this resolves.
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
            StoreHealth::Ok | StoreHealth::NoSpace => StoreStopped("the agent stops".into()),
        }
    }
}

impl OwnerThread {
    /// Serves the buffer until every [`Buffer`] is dropped, then writes what is left.
    pub fn run(self) {
        drop((self.commands, self.state));
    }
}
