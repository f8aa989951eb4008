//! What a unit says of itself when it has nothing else to say, and every so often anyway.

use serde::{Deserialize, Serialize};

use crate::device::StreamId;
use crate::limits::{STREAMS_MAX, TEXT_BYTES_MAX};
use crate::passage::EventTime;
use crate::ranges::SeqSet;

/// The body of a `Heartbeat` frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// The streams whose passages the unit still holds, by which the ledger adds up.
    pub held: Vec<HeldStream>,
    /// What waits for a receipt.
    pub backlog: Backlog,
    /// Whether the camera delivers.
    pub camera: CameraLink,
    /// The unit's clock less true time, where it knows.
    pub clock_offset_ms: Option<i64>,
    /// The agent's version.
    pub agent_version: String,
    /// The disk under the buffer.
    pub disk: Disk,
}

/// One stream in the unit's inventory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldStream {
    /// Which.
    pub stream: StreamId,
    /// The last number that it accepted.
    pub accepted_to: u64,
    /// Numbers whose receipt arrived, the right to delete them with it.
    pub released: SeqSet,
    /// Numbers of which the unit has something left: passages (also ones that are released), sums or
    /// losses without a receipt. Of the others nothing will ever be heard. Where it has more ranges
    /// than a message takes, the narrowest gaps are filled.
    pub held: SeqSet,
}

/// What waits for a receipt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backlog {
    /// Passages.
    pub passages: u64,
    /// Logical bytes.
    pub bytes: u64,
    /// The least event time among them.
    pub oldest: Option<EventTime>,
    /// The greatest event time among them.
    pub newest: Option<EventTime>,
    /// Passages by which it shrinks in a minute: receipted less accepted, below 0 while it grows;
    /// none before the unit has looked for long enough.
    pub drain_per_min: Option<i64>,
}

/// Whether the camera delivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CameraLink {
    /// Nothing was ever posted in this run.
    Unknown,
    /// The last post came at this time by the unit's clock.
    LastPostAt(EventTime),
}

/// The disk under the buffer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Bytes that the buffer's files take.
    pub used_bytes: u64,
    /// Logical bytes that the buffer may hold.
    pub quota_bytes: u64,
    /// Bytes free on the file system.
    pub free_bytes: u64,
}

/// A heartbeat beyond its bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeartbeatError {
    /// Too many streams.
    #[error("heartbeat lists {0} streams, the limit is {STREAMS_MAX}")]
    Streams(usize),
    /// Too long a version.
    #[error("heartbeat names a version of {0} bytes, the limit is {TEXT_BYTES_MAX}")]
    Version(usize),
    /// Text that the database cannot hold.
    #[error("heartbeat names a version with the character U+0000")]
    Nul,
}

impl Heartbeat {
    /// Whether its parts are within bounds.
    ///
    /// # Errors
    /// Names the first that is not.
    pub fn check(&self) -> Result<(), HeartbeatError> {
        if self.held.len() > STREAMS_MAX {
            return Err(HeartbeatError::Streams(self.held.len()));
        }
        if self.agent_version.len() > TEXT_BYTES_MAX {
            return Err(HeartbeatError::Version(self.agent_version.len()));
        }
        if self.agent_version.contains('\0') {
            return Err(HeartbeatError::Nul);
        }
        Ok(())
    }
}
