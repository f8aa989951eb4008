//! What every frame from a unit says before its body.
//!
//! Readable when the body is not, so that a body that cannot be decoded can be refused by its
//! range. New fields are appended only: an older reader skips what it does not know.

use serde::{Deserialize, Serialize};

use crate::device::StreamId;
use crate::passage::EventTime;
use crate::ranges::{Seq, SeqRange};

/// The header of a frame from a unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpHeader {
    /// The stream that the frame speaks of.
    pub stream: StreamId,
    /// The first of the passages that it stands for.
    pub first: Seq,
    /// How many passages it stands for; 0 in a heartbeat.
    pub count: u32,
    /// The last number that the stream has accepted so far; 0 before the first.
    pub accepted_to: u64,
    /// The unit's statement of completeness.
    pub frontier: Frontier,
    /// The unit's clock when the frame was made.
    pub sent_at: EventTime,
}

impl UpHeader {
    /// The passages that the frame stands for; none in a heartbeat or when the numbers overflow.
    #[must_use]
    pub fn range(&self) -> Option<SeqRange> {
        SeqRange::from_count(self.first, u64::from(self.count)).ok()
    }
}

/// "Everything of mine before `before` has been counted", said as the `counter`-th statement of the
/// `run`-th run. The centre believes the highest (run, counter).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frontier {
    /// Event times below this are complete.
    pub before: EventTime,
    /// Starts of this agent's store, counted durably; a new store begins at its clock's seconds
    /// since 1970, so that it rises even when the old store was lost.
    pub run: u32,
    /// Statements of this run.
    pub counter: u64,
}

impl Frontier {
    /// By which the centre believes the highest.
    #[must_use]
    pub const fn order(self) -> (u32, u64) {
        (self.run, self.counter)
    }
}
