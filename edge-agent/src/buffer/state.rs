//! What others see of the buffer.

use std::path::PathBuf;
use std::sync::Arc;

use proto::heartbeat::{Backlog, Disk};
use proto::loss::{Loss, LossReason};
use proto::passage::EventTime;
use proto::ranges::SeqSet;
use proto::receipt::Centre;
use proto::{DeviceId, StreamId};

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
    /// Passages whose window deltas wait for a receipt, whether their raw form was dropped or follows.
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
    /// The latest time that it stated, as far as it was written down.
    pub centre_time: Option<EventTime>,
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
    /// Numbers of which anything is left here: passages, sums, or losses without a receipt.
    pub kept: SeqSet,
    /// Numbers on the disk that neither a `stored` nor a `lost` of a receipt covers: to be sent.
    pub unsent: SeqSet,
    /// Those of the unsent whose window deltas wait for a receipt: they are not to be sent before it.
    pub summed: SeqSet,
    /// What receipts said is in the windows.
    pub counted: SeqSet,
    /// What receipts said is in the database.
    pub stored: SeqSet,
    /// What receipts said is booked as lost.
    pub lost: SeqSet,
    /// Numbers that were refused for ever and are offered to another build of the centre: that they
    /// are booked as lost settles nothing.
    pub again: SeqSet,
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
    /// Passages that were taken back from the bytes of a damaged store.
    pub salvaged: u64,
    /// Passages lost, raw or altogether, by reason: quota, corrupt, refused, operator.
    pub lost: [u64; 4],
    /// Passages among those lost that were offered again, to another build of the centre.
    pub offered_again: u64,
}

impl Counters {
    pub(super) fn add(&mut self, other: &Self) {
        self.accepted += other.accepted;
        self.duplicates += other.duplicates;
        self.commits += other.commits;
        self.released += other.released;
        self.salvaged += other.salvaged;
        self.offered_again += other.offered_again;
        self.lost
            .iter_mut()
            .zip(other.lost)
            .for_each(|(sum, more)| *sum += more);
    }

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

/// A store of another device, moved aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignStore {
    /// Where it is.
    pub directory: PathBuf,
    /// Which device, where that can be read.
    pub begun_for: Option<DeviceId>,
}

/// What an operator should see to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Alarm {
    /// A store that could not be opened was moved to this place.
    StoreQuarantined {
        /// Where it is.
        directory: PathBuf,
    },
    /// A store that was begun for another device was moved aside, unsent.
    StoreForeign(ForeignStore),
    /// The store was damaged when this run began. Later runs do not repeat it; the losses stay.
    StoreDamaged {
        /// Passages that were taken back from its bytes.
        salvaged: u64,
        /// Passages that were not found again.
        lost: u64,
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
