//! What one group commit does: the buffer without its thread and its queue.
//!
//! Changes are staged first (`stage`, `receipt`, `refuse`, `reserve` …) and made durable together by
//! [`Engine::commit`]. What is staged is in memory already, so nothing is read, answered or
//! published between staging and commit: the owner thread sees to that. After a failed commit the
//! engine is not used any more.
//!
//! [`commit`] stages passages and commits, [`compact`] merges small chunks; [`read`] and
//! [`entries`] hand out what is sent, [`fold`] makes summaries of a backlog; [`receipts`] frees what the centre has; [`aside`] takes out what it will never have;
//! [`room`] keeps the quota; [`rebuild`] makes the file small again; [`recover`] makes good what damage
//! did.

mod aside;
mod commit;
mod compact;
mod entries;
mod fold;
mod read;
mod rebuild;
mod receipts;
mod recover;
mod room;

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use proto::heartbeat::{Backlog, Disk};
use proto::limits::LOSSES_MAX;
use proto::passage::EventTime;
use proto::receipt::Centre;
use proto::summary::SummaryEntry;
use proto::{PassageBatch, StreamId};

use super::id_block::IdBlock;
use super::ids::EventIds;
use super::keys::{self, ChunkKey};
use super::loading::Loaded;
use super::medium::{Changes, Medium, StoreError};
use super::opening::{Home, directory_bytes};
use super::records::{FORMAT, Refusals, to_bytes};
use super::salvage;
use super::store::main_file;
use super::stream::Stream;
use super::witness::Witness;
use super::{
    Alarm, BufferSettings, BufferState, Counters, HandedOver, OFFERED_AHEAD_MAX, OpenError,
    StoreHealth,
};
use rebuild::REBUILD_FILE_BYTES_MIN;
use recover::Recovery;

/// sled's files take up to this many times the logical bytes; while they take more, new passages
/// find room inside them.
const FILE_BYTES_PER_HELD: u64 = 3;

#[derive(Debug)]
pub(super) struct Engine {
    pub(super) settings: BufferSettings,
    /// None when the medium was handed over open.
    home: Option<Home>,
    store: Box<dyn Medium>,
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
    ids: EventIds,
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
    /// Bytes that quarantined stores take from the quota.
    quarantine_bytes: u64,
    /// The newest last.
    quarantined: Vec<PathBuf>,
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
    /// Opens the store and begins a new run in it, durably.
    pub(super) fn open(settings: &BufferSettings, now_ms: i64) -> Result<Self, OpenError> {
        let home = Home::lock(&settings.directory)?;
        Self::open_in(home, settings.clone(), now_ms)
    }

    fn open_in(home: Home, settings: BufferSettings, now_ms: i64) -> Result<Self, OpenError> {
        let (witness, said) =
            Witness::open(&settings.directory).map_err(|source| OpenError::Directory {
                path: settings.directory.clone(),
                source,
            })?;
        // Before the store is opened, which may wipe them.
        let newest = salvage::newest_segments(&main_file(&home.store()));
        let aside_bytes_max = settings.quota_bytes / 2 * FILE_BYTES_PER_HELD;
        let opened = home.open(settings.open_timeout, aside_bytes_max, Loaded::read)?;
        let stores = std::iter::once(opened.home.store()).chain(opened.quarantined.clone());
        let recovery = Recovery {
            said,
            moved_aside: opened.moved_aside,
            newest,
            files: stores.map(|store| main_file(&store)).collect(),
        };
        let home = Some((opened.home, opened.quarantined));
        let mut engine = Self::begin(settings, home, opened.loaded, draw_stream()?, now_ms);
        let recovered = engine.recover(&recovery);
        recovered.map_err(|error| engine.not_begun(&error))?;
        engine.witness = Some(witness);
        engine.start(now_ms)
    }

    fn not_begun(&self, error: &StoreError) -> OpenError {
        OpenError::Store {
            path: self.settings.directory.clone(),
            problem: error.to_string(),
        }
    }

    /// Begins a new run in a medium that is open already.
    pub(super) fn over(
        settings: &BufferSettings,
        handed: HandedOver,
        now_ms: i64,
    ) -> Result<Self, OpenError> {
        let HandedOver {
            medium,
            stream,
            offered_ahead_max,
        } = handed;
        let loaded = Loaded::of(medium).map_err(|error| OpenError::Store {
            path: settings.directory.clone(),
            problem: error.to_string(),
        })?;
        let mut engine = Self::begin(settings.clone(), None, loaded, stream, now_ms);
        engine.offered_ahead_max = offered_ahead_max;
        engine.start(now_ms)
    }

    /// The same again, under the next name.
    fn over_again(self, now_ms: i64) -> Result<Self, OpenError> {
        let next = u128::from_be_bytes(*self.next_id.as_bytes()).wrapping_add(1);
        let handed = HandedOver {
            medium: self.store,
            stream: StreamId::from_bytes(next.to_be_bytes()),
            offered_ahead_max: self.offered_ahead_max,
        };
        Self::over(&self.settings, handed, now_ms)
    }

    /// Closes the store and opens it again as a new run: what to do after a full disk.
    pub(super) fn restart(mut self, now_ms: i64) -> Result<Self, OpenError> {
        let Some(home) = self.home.take() else {
            return self.over_again(now_ms);
        };
        let Self {
            settings, store, ..
        } = self;
        drop(store);
        Self::open_in(home, settings, now_ms)
    }

    fn begin(
        settings: BufferSettings,
        home: Option<(Home, Vec<PathBuf>)>,
        loaded: Loaded,
        next_id: StreamId,
        now_ms: i64,
    ) -> Self {
        let (home, quarantined) = home.unzip();
        let quarantined = quarantined.unwrap_or_default();
        let Loaded {
            store,
            streams,
            ids,
            generation,
            run,
            centre,
            centre_time,
            aside,
            refusals,
        } = loaded;
        let held = |stream: &Stream| {
            let entries: u64 = stream
                .entries
                .iter()
                .map(|entry| u64::from(entry.bytes))
                .sum();
            let chunks: u64 = stream
                .chunks
                .iter()
                .map(|chunk| u64::from(chunk.bytes))
                .sum();
            entries + chunks
        };
        let aside_bytes: u64 = aside.iter().map(|(_, bytes)| u64::from(*bytes)).sum();
        Self {
            held_bytes: streams.iter().map(held).sum::<u64>() + aside_bytes,
            home,
            store,
            witness: None,
            generation,
            streams,
            has_current: false,
            offered_ahead_max: OFFERED_AHEAD_MAX,
            offers_ahead: false,
            rebuild_file_bytes_min: REBUILD_FILE_BYTES_MIN,
            durable_to: 0,
            open_entry: None,
            next_id,
            run: next_run(run, now_ms),
            changes: Changes::default(),
            staging: Staging::default(),
            ids,
            ids_changed: false,
            id_blocks: BTreeMap::new(),
            centre,
            foreign: None,
            centre_time,
            aside,
            refusals,
            quarantine_bytes: quarantined.iter().map(|store| directory_bytes(store)).sum(),
            quarantined,
            damage: None,
            counters: Counters::default(),
            disk: Disk::default(),
            settings,
        }
    }

    /// Makes the beginning of the run durable.
    fn start(mut self, now_ms: i64) -> Result<Self, OpenError> {
        self.changes.put(keys::FACT_FORMAT, to_bytes(&FORMAT));
        self.changes.put(keys::FACT_RUN, to_bytes(&self.run));
        self.forget_streams();
        self.measure_disk();
        let began = self.commit(now_ms);
        began.map_err(|error| self.not_begun(&error))?;
        Ok(self)
    }

    /// The quota without what quarantined stores take, but at least half of it.
    pub(super) fn quota_bytes(&self) -> u64 {
        let quota = self.settings.quota_bytes;
        quota - (self.quarantine_bytes / FILE_BYTES_PER_HELD).min(quota / 2)
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

    /// What others see.
    pub(super) fn state(&mut self, health: StoreHealth) -> BufferState {
        let last = self.streams.len().wrapping_sub(1);
        let has_current = self.has_current;
        let views = self
            .streams
            .iter_mut()
            .enumerate()
            .map(|(place, stream)| stream.view(has_current && place == last))
            .collect();
        let losses = self
            .streams
            .iter()
            .flat_map(|stream| stream.losses.iter().map(|loss| (stream.id, *loss)))
            .take(LOSSES_MAX)
            .collect();
        let summarised = self
            .streams
            .iter()
            .flat_map(|s| &s.entries)
            .map(|entry| entry.seqs.count())
            .sum();
        BufferState {
            streams: views,
            unsent: Backlog {
                passages: self
                    .streams
                    .iter()
                    .map(|stream| stream.unsent().count())
                    .sum(),
                bytes: self.streams.iter().map(|stream| stream.unsent_bytes).sum(),
                oldest: self.streams.iter().filter_map(Stream::oldest_unsent).min(),
                newest: self.streams.iter().filter_map(Stream::newest_unsent).max(),
                drain_per_min: None,
            },
            oldest_uncounted: self
                .streams
                .iter()
                .filter_map(Stream::oldest_uncounted)
                .min(),
            losses,
            summarised,
            disk: self.disk,
            held_bytes: self.held_bytes,
            run: self.run,
            health,
            centre: self.centre,
            centre_time: self.centre_time,
            counters: self.counters,
            alarms: self.alarms(),
        }
    }

    fn alarms(&self) -> Vec<Alarm> {
        let aside = self.quarantined.iter().cloned();
        let stores = aside.map(|directory| Alarm::StoreQuarantined { directory });
        let damage = self.damage;
        let damage = damage.map(|(salvaged, lost)| Alarm::StoreDamaged { salvaged, lost });
        let passages = self.aside.iter().map(|(key, _)| key.range.count()).sum();
        let passages = (passages > 0).then_some(Alarm::PassagesQuarantined { passages });
        let foreign = self.foreign.map(|centre| Alarm::ForeignCentre { centre });
        stores
            .chain(damage)
            .chain(passages)
            .chain(foreign)
            .collect()
    }

    /// Stages what changed of streams beside their chunks.
    fn write_streams(&mut self) {
        for stream in self.streams.iter_mut().filter(|s| s.is_changed()) {
            let id = stream.id;
            if std::mem::take(&mut stream.marks_changed) {
                self.changes.put(&keys::stream(id), to_bytes(&stream.marks));
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

/// The name of a stream that no other run ever had.
fn draw_stream() -> Result<StreamId, OpenError> {
    let mut id = [0; 16];
    getrandom::fill(&mut id)?;
    Ok(StreamId::from_bytes(id))
}

/// Rises with every start, also when the store before was lost: then by the clock.
fn next_run(before: u32, now_ms: i64) -> u32 {
    let clock_s = u32::try_from(now_ms / 1_000).unwrap_or(0);
    before.saturating_add(1).max(clock_s)
}

/// What a chunk counts towards the quota.
pub(super) fn logical_bytes(value: usize) -> u32 {
    u32::try_from(ChunkKey::BYTES + value).unwrap_or(u32::MAX)
}

/// Shared by all who must say why a store failed.
pub(super) fn why(error: &StoreError) -> Arc<str> {
    error.to_string().into()
}
