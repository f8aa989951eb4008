//! What one group commit does: the buffer without its thread and its queue.
//!
//! Changes are staged first (`stage`, `receipt`, `refuse`, `reserve` …) and made durable together by
//! [`Engine::commit`]. What is staged is in memory already, so nothing is read, answered or
//! published between staging and commit: the owner thread sees to that. After a failed commit the
//! engine is not used any more.
//!
//! [`beginning`] opens the store, [`recover`] makes good what damage did; [`commit`] stages passages
//! and commits, [`compact`] merges small chunks; [`read`] and [`entries`] hand out what is sent,
//! [`fold`] makes summaries of a backlog; [`receipts`] frees what the centre has, [`aside`] takes out
//! what it will never have; [`room`] keeps the quota, [`rebuild`] makes the file small again; [`view`]
//! is what others see.

mod aside;
mod beginning;
mod commit;
mod compact;
mod entries;
mod fold;
mod read;
mod rebuild;
mod receipts;
mod recover;
mod room;
mod view;

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use proto::heartbeat::Disk;
use proto::passage::EventTime;
use proto::receipt::Centre;
use proto::summary::SummaryEntry;
use proto::{PassageBatch, StreamId};

#[cfg(doc)]
use super::OFFERED_AHEAD_MAX;
use super::id_block::IdBlock;
use super::ids::EventIds;
use super::keys::{self, ChunkKey};
use super::medium::{Changes, Medium, StoreError};
use super::opening::Home;
use super::records::{Refusals, to_bytes};
use super::stream::Stream;
use super::witness::Witness;
use super::{BufferSettings, Counters, ForeignStore};
#[cfg(doc)]
use rebuild::REBUILD_FILE_BYTES_MIN;

/// sled's files take up to this many times the logical bytes; while they take more, new passages
/// find room inside them.
const FILE_BYTES_PER_HELD: u64 = 3;

#[derive(Debug)]
pub(super) struct Engine {
    pub(super) settings: BufferSettings,
    /// None when the medium was handed over open.
    home: Option<Home>,
    pub(super) store: Box<dyn Medium>,
    /// Beside the store; none when the medium was handed over open.
    witness: Option<Witness>,
    /// Commits since the store was made.
    generation: u64,
    /// In the order of their runs; the current one last.
    pub(super) streams: Vec<Stream>,
    has_current: bool,
    /// See [`OFFERED_AHEAD_MAX`].
    pub(super) offered_ahead_max: u64,
    /// Whether passages leave as they come, so that the commit that accepts them marks them as offered.
    pub(super) offers_ahead: bool,
    /// See [`REBUILD_FILE_BYTES_MIN`].
    pub(super) rebuild_file_bytes_min: u64,
    /// The last number of the current stream whose chunk can be read.
    durable_to: u64,
    /// The summary entry that was written last, so that it need not be read to grow.
    pub(super) open_entry: Option<(StreamId, u32, SummaryEntry)>,
    /// The name of this run's stream, drawn before its first passage.
    next_id: StreamId,
    pub(super) run: u32,
    pub(super) changes: Changes,
    staging: Staging,
    pub(super) ids: EventIds,
    ids_changed: bool,
    /// Blocks of ids that are staged or were read since the last commit.
    id_blocks: BTreeMap<u32, IdBlock>,
    centre: Option<Centre>,
    foreign: Option<Centre>,
    /// Logical bytes of everything but marks and ids.
    pub(super) held_bytes: u64,
    pub(super) aside: VecDeque<(ChunkKey, u32)>,
    refusals: BTreeMap<StreamId, Refusals>,
    centre_time: Option<EventTime>,
    /// Stores that were moved aside, the newest last.
    quarantined: Vec<PathBuf>,
    foreign_stores: Vec<ForeignStore>,
    /// Bytes that both take from the quota.
    stores_aside_bytes: u64,
    /// Passages that were taken back, and lost, when this run began.
    damage: Option<(u64, u64)>,
    pub(super) counters: Counters,
    pub(super) disk: Disk,
}

/// The chunk in the making.
#[derive(Debug, Default)]
struct Staging {
    batch: PassageBatch,
    estimate: usize,
}

/// Why a chunk's passages are not to be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ChunkFault {
    /// The value is not what was written.
    Damaged(String),
    /// The store cannot be read.
    Store(StoreError),
}

impl Engine {
    /// The quota without what stores take that were moved aside, but at least half of it.
    pub(super) fn quota_bytes(&self) -> u64 {
        let quota = self.settings.quota_bytes;
        quota - (self.stores_aside_bytes / FILE_BYTES_PER_HELD).min(quota / 2)
    }

    pub(super) fn is_below_floor(&self) -> bool {
        self.disk.free_bytes < self.settings.free_floor_bytes
    }

    /// Whether the files are so much larger than what is held that new passages reuse their space.
    pub(super) fn has_room_inside(&self) -> bool {
        self.held_bytes * FILE_BYTES_PER_HELD < self.disk.used_bytes
    }

    /// Looks at the disk; a few system calls, so not at every commit.
    pub(super) fn measure_disk(&mut self) {
        self.disk = Disk {
            used_bytes: self.store.file_bytes(),
            quota_bytes: self.settings.quota_bytes,
            free_bytes: self.store.free_bytes(),
        };
    }

    /// See [`Medium::check`].
    pub(super) fn check(&self) -> Result<(), StoreError> {
        self.store.check()
    }

    /// The last number of a stream whose chunk can be read.
    pub(super) fn durable_to(&self, place: usize) -> u64 {
        if self.has_current && place + 1 == self.streams.len() {
            self.durable_to
        } else {
            u64::MAX
        }
    }

    /// Stages what changed of streams beside their chunks.
    fn write_streams(&mut self) {
        for stream in self.streams.iter_mut().filter(|s| s.is_changed()) {
            let id = stream.id;
            if std::mem::take(&mut stream.marks_changed) {
                self.changes.put(&keys::stream(id), stream.marks.to_value());
            }
            match stream.take_again().map(|again| (again.is_empty(), again)) {
                Some((true, _)) => self.changes.delete(&keys::again(id)),
                Some((false, again)) => self.changes.put(&keys::again(id), to_bytes(again)),
                None => {}
            }
            for (first, loss) in stream.losses.take_changes() {
                let key = keys::loss(id, first);
                match loss {
                    Some(loss) => self.changes.put(&key, to_bytes(&loss)),
                    None => self.changes.delete(&key),
                }
            }
        }
    }

    /// A value as it will stand on the disk after the next commit.
    fn value(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        staged_or_stored(&self.changes, self.store.as_ref(), key)
    }
}

fn staged_or_stored(
    changes: &Changes,
    store: &dyn Medium,
    key: &[u8],
) -> Result<Option<Vec<u8>>, StoreError> {
    match changes.get(key) {
        Some(staged) => Ok(staged.map(<[u8]>::to_vec)),
        None => store.get(key),
    }
}

/// What a chunk counts towards the quota.
pub(super) fn logical_bytes(value: usize) -> u32 {
    u32::try_from(ChunkKey::BYTES + value).unwrap_or(u32::MAX)
}

/// Shared by all who must say why a store failed.
pub(super) fn why(error: &StoreError) -> Arc<str> {
    error.to_string().into()
}
