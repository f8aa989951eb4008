//! What the centre answers: receipts after COMMIT, refusals, and the beacon of a shard.

use serde::{Deserialize, Serialize};

use crate::device::{CentreId, StreamId};
use crate::passage::EventTime;
use crate::ranges::{SeqRange, SeqSet};

/// Which database speaks, and in which of its lives: the timeline rises when a standby is promoted
/// or a backup restored, and what was committed before may be gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Centre {
    /// The database; an agent pins the first that it meets.
    pub id: CentreId,
    /// Its life.
    pub timeline: u32,
}

/// "This is committed." Sent after COMMIT only, and quotes committed cursors only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// Who committed.
    pub centre: Centre,
    /// One entry per stream that the flush touched.
    pub streams: Vec<StreamReceipt>,
    /// What the unit has wrong of itself; travels as the header of the frame.
    #[serde(skip)]
    pub correction: Option<Correction>,
}

/// Said to a unit whose clock or whose number of the run cannot be right, and to no other. As in every
/// header, new fields are appended only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Correction {
    /// The centre's clock when it said so.
    pub at: EventTime,
    /// The run of the highest statement of completeness that the centre knows of the unit. One that
    /// never said anything as high, for its store or its clock was lost, is not believed before it
    /// calls its own run by a higher number.
    pub run: u32,
    /// The counter of that statement.
    pub counter: u64,
}

/// The committed cursor of one stream. Of a set with more ranges than a message takes, those that the
/// unit's messages were about come first: what a receipt does not name, it says nothing of. Within one
/// life of the centre cursors only grow, so an older receipt that comes late takes nothing back, unless
/// it says `afresh`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamReceipt {
    /// Which stream.
    pub stream: StreamId,
    /// Numbers that are in the windows or in a side table.
    pub counted: SeqSet,
    /// Numbers whose raw passage is in the database as well; a subset of `counted`.
    pub stored: SeqSet,
    /// Numbers that the ledger has booked as lost on the unit's own word.
    pub lost: SeqSet,
    /// What earlier receipts of this life of the centre said of the stream holds no more: the unit
    /// claims a receipt that the database does not know. What is held is to be offered again.
    pub afresh: bool,
}

/// "This range I do not take", and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Who refuses.
    pub centre: Centre,
    /// The stream of the refused frame.
    pub stream: StreamId,
    /// The range of the refused frame.
    pub range: Option<SeqRange>,
    /// What the unit does next.
    pub class: RefusalClass,
    /// Why.
    pub reason: RefusalReason,
    /// The same for people, at most [`crate::limits::TEXT_BYTES_MAX`] bytes.
    pub detail: String,
    /// The committed cursor, where it helps the unit to rebuild what it sent.
    pub counted: Option<SeqSet>,
}

/// What a refused unit does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RefusalClass {
    /// Keep it and try again with backoff.
    Later,
    /// Offer it in another form: raw instead of summed, smaller, without what is counted.
    Reshape,
    /// Never offer it again to this centre's build; quarantine it.
    Never,
}

/// Why a frame was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RefusalReason {
    /// The wire version is not spoken here.
    UnknownVersion,
    /// The kind of message is not known here.
    UnknownKind,
    /// Too much at once.
    Overload,
    /// More streams, ranges or rows than a device may have.
    Cap,
    /// A summary overlaps what is already counted.
    Overlap,
    /// A window outside what a summary may touch.
    Horizon,
    /// The body is provably not what its header says.
    Malformed,
    /// A value that the database cannot take.
    Unstorable,
}

impl RefusalReason {
    /// The word for it in logs, metrics and status.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::UnknownVersion => "unknown_version",
            Self::UnknownKind => "unknown_kind",
            Self::Overload => "overload",
            Self::Cap => "cap",
            Self::Overlap => "overlap",
            Self::Horizon => "horizon",
            Self::Malformed => "malformed",
            Self::Unstorable => "unstorable",
        }
    }
}

/// Retained per shard: "I own this shard, and I take passages, or not."
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beacon {
    /// Which database stands behind it.
    pub centre: Centre,
    /// The fencing token of the shard's owner; the highest speaks the truth.
    pub token: u64,
    /// The centre's build: quarantined passages are offered once to each new one.
    pub build: String,
    /// The oldest wire version that the centre reads.
    pub wire_min: u8,
    /// The newest wire version that the centre reads; an agent writes at most this.
    pub wire_max: u8,
    /// Whether passages are welcome.
    pub intake: Intake,
    /// The centre's clock when it said so: a unit whose clock was lost knows that it is not earlier.
    pub sent_at: EventTime,
    /// Windows that began longer ago than this take no summaries, only passages: so many ms.
    pub summaries_age_max_ms: u64,
}

/// Whether passages are welcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Intake {
    /// Send.
    Open,
    /// Keep; probe with one batch per backoff.
    Closed,
}
