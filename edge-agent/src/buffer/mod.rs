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
mod exchange;
pub mod export;
mod handle;
mod id_block;
mod ids;
mod keys;
#[cfg(test)]
mod limit_tests;
mod loading;
mod losses;
mod medium;
#[cfg(test)]
pub(crate) mod model;
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

use proto::ranges::Seq;
use proto::{PassageBatch, StreamId};

pub use error::{AppendError, OpenError, ReadError, StoreStopped};
pub use exchange::{
    Admitted, Appended, BufferSettings, CentreVerdict, EventKey, FoldScope, Folded, HandedOver,
    PendingSummary, QuotaPolicy, ReadLimit, StoredRun,
};
pub use handle::Buffer;
pub use medium::{Changes, Entry, Medium, StoreError};
pub use owner::{Moment, Owner, OwnerThread};
pub use state::{Alarm, BufferState, Counters, ForeignStore, StoreHealth, StreamState};

use keys::Key;

/// Commands that may wait for the owner thread. When it is full, appends are refused with
/// [`AppendError::Overloaded`] (503 at the door) and the uplink's calls wait for room.
pub const QUEUE_COMMANDS_MAX: usize = 1_024;

/// Passages that may be offered without a receipt before the group commit stops reserving ahead:
/// twice the uplink's window at its usual batch of 500.
pub const OFFERED_AHEAD_MAX: u64 = 8_192;

/// Passages of one append, at most; ingest's limit of items lies at or below it.
pub const APPEND_PASSAGES_MAX: usize = 16_384;

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
