//! What can go wrong, by what the caller does next.

use std::path::PathBuf;
use std::sync::Arc;

use proto::DeviceId;
use proto::ranges::SeqRange;

use super::{APPEND_PASSAGES_MAX, QUEUE_COMMANDS_MAX};

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
    #[error(
        "file system of {} has {free_bytes} bytes free, {floor_bytes} must stay free; make room there, passages are taken again as soon as there is some", path.display()
    )]
    NoSpace {
        /// The directory of the buffer.
        path: PathBuf,
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
    /// An older agent wrote it, in a format that this one does not read.
    #[error(
        "buffer has format {found}, this agent reads format {known} only: it is newer than its store; let the older agent send what is in it, then move {} away", path.display()
    )]
    Older {
        /// Where it is.
        path: PathBuf,
        /// What the store says.
        found: u32,
        /// What this agent knows.
        known: u32,
    },
    /// It was begun for another device, and cannot be moved aside.
    #[error(
        "store {} was begun for {found}, this unit is {device}, and it cannot be moved aside: {source}; move it away", path.display()
    )]
    Foreign {
        /// Where it is.
        path: PathBuf,
        /// Whose passages it holds.
        found: DeviceId,
        /// Who this unit is.
        device: DeviceId,
        /// Why it stays.
        source: std::io::Error,
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
