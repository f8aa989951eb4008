//! What goes into the buffer and what comes out of it. Pure.

use std::path::PathBuf;
use std::time::Duration;

use proto::passage::{EventTime, Passage};
use proto::ranges::{Seq, SeqRange};
use proto::receipt::Centre;
use proto::summary::SummaryEntry;
use proto::{DeviceId, PassageBatch, StreamId};
use serde::Deserialize;

use super::Medium;
#[cfg(doc)]
use super::{AppendError, Buffer, OFFERED_AHEAD_MAX};

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
    /// Whose passages it holds: the name in the unit's certificate.
    pub device: DeviceId,
    /// Where it lives: `store/` inside, attempt marker and stores that were moved aside beside it.
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
