//! What one group commit does: the buffer without its thread and its queue.
//!
//! Changes are staged first (`stage`, `receipt`, `refuse`, `reserve` …) and made durable together by
//! [`Engine::commit`]. What is staged is in memory already, so nothing is read, answered or
//! published between staging and commit: the owner thread sees to that. After a failed commit the
//! engine is not used any more.
//!
//! **The offered mark** costs no fsync of its own: the group commit that accepts passages marks
//! them as offered as well, as long as not more than [`OFFERED_AHEAD_MAX`] offered ones lack a
//! receipt. That is always so while the link is up. Behind that bound (the backlog of an outage)
//! `reserve` marks numbers 4,096 at a time, with one commit for all of them.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proto::heartbeat::{Backlog, Disk};
use proto::limits::{LOSSES_MAX, STREAMS_MAX};
use proto::loss::{Loss, LossReason};
use proto::ranges::{Seq, SeqRange};
use proto::receipt::{Centre, StreamReceipt};
use proto::summary::SummaryEntry;
use proto::{PassageBatch, StreamId};

use super::chunk::{self, CHUNK_BYTES_CLOSE, ChunkError, PASSAGE_BYTES_ESTIMATE};
use super::ids::EventIds;
use super::keys::{self, CHUNK_PASSAGES_MAX, ChunkKey};
use super::loading::Loaded;
use super::opening::{Home, Opened, directory_bytes};
use super::records::{FORMAT, IdBlock, Marks, StoredEntry, from_bytes, to_bytes};
use super::store::{Changes, Store, StoreError};
use super::stream::{ChunkMeta, Stream};
use super::{
    APPEND_PASSAGES_MAX, Admitted, Alarm, AppendError, Appended, BufferSettings, BufferState,
    CentreVerdict, Counters, EventKey, OFFERED_AHEAD_MAX, OpenError, PendingSummary, QuotaPolicy,
    ReadError, ReadLimit, StoreHealth, StoredRun,
};

/// Chunks below this are merged with their neighbours once they make a full one: slow traffic
/// commits passages one by one.
const SMALL_CHUNK_PASSAGES: u64 = 32;

/// And chunks that free text makes large are not small.
const SMALL_CHUNK_BYTES: u32 = 1_024;

/// Blocks of event ids that are looked at for expiry per commit.
const EXPIRED_BLOCKS_MAX: usize = 4;

/// sled's files take up to this many times the logical bytes; while they take more, new passages
/// find room inside them.
pub(super) const FILE_BYTES_PER_HELD: u64 = 3;

/// A store is rebuilt when its file has more bytes than this…
const REBUILD_FILE_BYTES_MIN: u64 = 64 * 1024 * 1024;

/// …and it holds no more than this, so that the copy takes less than a second.
const REBUILD_HELD_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Keys that are copied with one commit.
const REBUILD_BATCH: usize = 256;

#[derive(Debug)]
pub(super) struct Engine {
    pub(super) settings: BufferSettings,
    home: Home,
    store: Store,
    /// In the order of their runs; the current one last.
    pub(super) streams: Vec<Stream>,
    has_current: bool,
    /// See [`OFFERED_AHEAD_MAX`].
    pub(super) offered_ahead_max: u64,
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
    /// Bytes that a quarantined store takes from the quota.
    quarantine_bytes: u64,
    quarantined: Option<PathBuf>,
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
        let opened = home.open(settings.open_timeout, Loaded::read)?;
        Self::begin(settings.clone(), opened, now_ms)
    }

    /// Closes the store and opens it again as a new run: what to do after a full disk.
    pub(super) fn restart(self, now_ms: i64) -> Result<Self, OpenError> {
        let Self {
            settings,
            home,
            store,
            ..
        } = self;
        drop(store);
        let opened = home.open(settings.open_timeout, Loaded::read)?;
        Self::begin(settings, opened, now_ms)
    }

    /// Whether nothing waits, little is held, and the file, which never shrinks, is large.
    pub(super) fn is_oversized(&self) -> bool {
        let is_sent = self.streams.iter().all(Stream::is_settled);
        is_sent
            && self.held_bytes <= REBUILD_HELD_BYTES_MAX
            && self.disk.used_bytes > self.rebuild_file_bytes_min
    }

    /// Copies what is held into a new, small store, and goes on with that as a new run.
    pub(super) fn rebuild(self, now_ms: i64) -> Result<Self, OpenError> {
        let fault = |problem: String| OpenError::Store {
            path: self.settings.directory.clone(),
            problem,
        };
        let place = self.home.store_new();
        self.copy_to(&place)
            .map_err(|error| fault(error.to_string()))?;
        self.home
            .replace_store()
            .map_err(|error| fault(error.to_string()))?;
        self.restart(now_ms)
    }

    fn copy_to(&self, place: &Path) -> Result<(), StoreError> {
        let copy = Store::open(place)?;
        let mut changes = Changes::new();
        let mut at = sled::IVec::default();
        let mut copied = 0_usize;
        while let Some((key, value)) = self.store.after(&at)? {
            changes.put(&key, value.to_vec());
            copied += 1;
            if copied.is_multiple_of(REBUILD_BATCH) {
                copy.commit(std::mem::replace(&mut changes, Changes::new()))?;
            }
            at = key;
        }
        copy.commit(changes)
    }

    fn begin(
        settings: BufferSettings,
        opened: Opened<Loaded>,
        now_ms: i64,
    ) -> Result<Self, OpenError> {
        let Opened {
            home,
            loaded,
            quarantined,
        } = opened;
        let Loaded {
            store,
            streams,
            ids,
            run,
            centre,
            aside,
        } = loaded;
        let mut stream_id = [0; 16];
        getrandom::fill(&mut stream_id)?;
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
        let mut engine = Self {
            held_bytes: streams.iter().map(held).sum::<u64>() + aside_bytes,
            home,
            store,
            streams,
            has_current: false,
            offered_ahead_max: OFFERED_AHEAD_MAX,
            rebuild_file_bytes_min: REBUILD_FILE_BYTES_MIN,
            durable_to: 0,
            open_entry: None,
            next_id: StreamId::from_bytes(stream_id),
            run: next_run(run, now_ms),
            changes: Changes::new(),
            staging: Staging::default(),
            ids,
            ids_changed: false,
            id_blocks: BTreeMap::new(),
            centre,
            foreign: None,
            aside,
            quarantine_bytes: quarantined.as_deref().map_or(0, directory_bytes),
            quarantined,
            counters: Counters::default(),
            disk: Disk::default(),
            settings,
        };
        engine.changes.put(keys::FACT_FORMAT, to_bytes(&FORMAT));
        engine.changes.put(keys::FACT_RUN, to_bytes(&engine.run));
        engine.forget_streams();
        engine.measure_disk();
        engine.commit(now_ms).map_err(|error| OpenError::Store {
            path: engine.settings.directory.clone(),
            problem: error.to_string(),
        })?;
        Ok(engine)
    }

    /// Stages the passages of one append.
    ///
    /// The outer error is the store's: then the run is over.
    pub(super) fn stage(
        &mut self,
        passages: &[Admitted],
        now_ms: i64,
    ) -> Result<Result<Appended, AppendError>, StoreError> {
        if let Err(refusal) = self.admit(passages.len()) {
            return Ok(Err(refusal));
        }
        let mut duplicates = 0;
        for admitted in passages {
            if let Some(key) = admitted.event_id {
                if self.is_known(key)? {
                    duplicates += 1;
                    continue;
                }
                self.remember(key, now_ms);
            }
            self.staging.estimate += PASSAGE_BYTES_ESTIMATE
                + admitted
                    .passage
                    .extra
                    .as_ref()
                    .map_or(0, |extra| extra.len());
            self.staging.batch.push(&admitted.passage);
            if self.staging.batch.len() == CHUNK_PASSAGES_MAX
                || self.staging.estimate >= CHUNK_BYTES_CLOSE
            {
                self.close_chunk();
            }
        }
        let all = u32::try_from(passages.len()).unwrap_or(u32::MAX);
        self.counters.accepted += u64::from(all - duplicates);
        self.counters.duplicates += u64::from(duplicates);
        Ok(Ok(Appended {
            accepted: all - duplicates,
            duplicates,
        }))
    }

    fn admit(&self, passages: usize) -> Result<(), AppendError> {
        if passages > APPEND_PASSAGES_MAX {
            return Err(AppendError::TooMany(passages));
        }
        if self.held_bytes < self.quota_bytes() && !self.is_below_floor() {
            return Ok(());
        }
        let (sent, droppable) = self.evictable();
        if self.is_below_floor() && sent == 0 && !self.has_room_inside() {
            return Err(AppendError::NoSpace {
                free_bytes: self.disk.free_bytes,
                floor_bytes: self.settings.free_floor_bytes,
            });
        }
        let quota_bytes = self.quota_bytes();
        let droppable = droppable && self.settings.policy == QuotaPolicy::DropOldest;
        if self.held_bytes >= quota_bytes && sent == 0 && !droppable {
            return Err(AppendError::Full {
                held_bytes: self.held_bytes,
                quota_bytes,
            });
        }
        Ok(())
    }

    /// The quota without what a quarantined store takes, but at least half of it.
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

    fn is_known(&mut self, key: EventKey) -> Result<bool, StoreError> {
        if self.ids.is_in_newest(key) {
            return Ok(true);
        }
        for number in self.ids.candidates(key) {
            if self.id_block(number)?.ids.contains(&key.0) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn remember(&mut self, key: EventKey, now_ms: i64) {
        self.ids_changed = true;
        if let Some((number, block)) = self.ids.remember(key, now_ms) {
            self.changes.put(&keys::event_ids(number), to_bytes(&block));
            self.id_blocks.insert(number, block);
        }
    }

    fn id_block(&mut self, number: u32) -> Result<&IdBlock, StoreError> {
        if !self.id_blocks.contains_key(&number) {
            let value = self
                .store
                .get(&keys::event_ids(number))?
                .unwrap_or_default();
            // A block that is gone or cannot be read knows no id.
            self.id_blocks
                .insert(number, from_bytes(&value).unwrap_or_default());
        }
        Ok(self.id_blocks.entry(number).or_default())
    }

    fn expire_ids(&mut self, now_ms: i64) -> Result<(), StoreError> {
        for _ in 0..EXPIRED_BLOCKS_MAX {
            let Some(number) = self.ids.oldest() else {
                break;
            };
            let block = self.id_block(number)?.clone();
            if !self.ids.is_expired(block.newest_ms, now_ms) {
                break;
            }
            self.ids.forget_oldest(&block.ids);
            self.changes.delete(&keys::event_ids(number));
        }
        Ok(())
    }

    /// Gives the staged passages their numbers and writes them as a chunk.
    fn close_chunk(&mut self) {
        let Staging { batch, .. } = std::mem::take(&mut self.staging);
        let Some((event_min, event_max)) = batch.event_span() else {
            return;
        };
        if !self.has_current {
            let marks = Marks {
                run: self.run,
                ..Marks::default()
            };
            self.streams.push(Stream::new(self.next_id, marks));
            self.has_current = true;
        }
        let ahead = self.offered_ahead();
        let Some(stream) = self.streams.last_mut() else {
            return;
        };
        let first = Seq::new(stream.marks.accepted_to + 1).ok();
        // 2⁶³ numbers last for longer than any disk.
        let range = first.and_then(|first| SeqRange::from_count(first, batch.len() as u64).ok());
        let Some(range) = range else { return };
        if ahead + range.count() <= self.offered_ahead_max {
            stream.offer(range);
        }
        stream.marks.accepted_to = range.last().get();
        stream.marks_changed = true;
        let key = ChunkKey {
            stream: stream.id,
            range,
            event_min,
            event_max,
        };
        let value = chunk::encode(&key, &batch);
        let bytes = logical_bytes(value.len());
        stream.push(ChunkMeta {
            range,
            event_min,
            event_max,
            bytes,
        });
        self.held_bytes += u64::from(bytes);
        self.changes.put(&key.encode(), value);
    }

    fn offered_ahead(&self) -> u64 {
        self.streams.iter().map(Stream::pending_offers).sum()
    }

    /// Merges the small chunks at the end of the current stream into a full one.
    fn compact(&mut self) -> Result<(), StoreError> {
        let Some(stream) = self.streams.last().filter(|_| self.has_current) else {
            return Ok(());
        };
        let end = stream.chunks.len();
        let mut start = end;
        let mut passages = 0;
        let mut next = stream.marks.accepted_to + 1;
        while let Some(chunk) = start
            .checked_sub(1)
            .and_then(|place| stream.chunks.get(place))
        {
            let fits =
                passages + chunk.range.count() <= CHUNK_PASSAGES_MAX as u64 + SMALL_CHUNK_PASSAGES;
            let follows = chunk.range.last().get() + 1 == next;
            let is_small =
                chunk.range.count() < SMALL_CHUNK_PASSAGES && chunk.bytes < SMALL_CHUNK_BYTES;
            if !is_small || !fits || !follows {
                break;
            }
            passages += chunk.range.count();
            next = chunk.range.first().get();
            start -= 1;
        }
        if passages < CHUNK_PASSAGES_MAX as u64 {
            return Ok(());
        }
        let (mut merged, mut bytes, mut stop) = (PassageBatch::new(), 0, start);
        while let Some(chunk) = stream.chunks.get(stop) {
            let count = merged.len() as u64 + chunk.range.count();
            bytes += chunk.bytes as usize;
            if count > CHUNK_PASSAGES_MAX as u64 || bytes > chunk::VALUE_BYTES_MAX {
                break;
            }
            match self.passages(stream.id, chunk) {
                Ok(batch) => merged.extend(&batch),
                // Left where it is: whoever reads it deals with it.
                Err(ChunkFault::Damaged(_)) => break,
                Err(ChunkFault::Store(error)) => return Err(error),
            }
            stop += 1;
        }
        if stop - start > 1 {
            self.merge(start..stop, &merged);
        }
        Ok(())
    }

    fn merge(&mut self, places: std::ops::Range<usize>, merged: &PassageBatch) {
        let Some(stream) = self.streams.last_mut() else {
            return;
        };
        let Some((event_min, event_max)) = merged.event_span() else {
            return;
        };
        let first = stream.chunks[places.start].range.first();
        let Ok(range) = SeqRange::from_count(first, merged.len() as u64) else {
            return;
        };
        let key = ChunkKey {
            stream: stream.id,
            range,
            event_min,
            event_max,
        };
        let value = chunk::encode(&key, merged);
        let bytes = logical_bytes(value.len());
        let before: u64 = stream
            .chunks
            .range(places.clone())
            .map(|c| u64::from(c.bytes))
            .sum();
        for chunk in stream.chunks.range(places.clone()) {
            self.changes.delete(&chunk.key(stream.id).encode());
        }
        self.changes.put(&key.encode(), value);
        stream.replace(
            places,
            [ChunkMeta {
                range,
                event_min,
                event_max,
                bytes,
            }],
        );
        stream.refresh();
        self.held_bytes = self.held_bytes - before + u64::from(bytes);
    }

    /// The passages of a chunk, checked.
    pub(super) fn passages(
        &self,
        stream: StreamId,
        chunk: &ChunkMeta,
    ) -> Result<PassageBatch, ChunkFault> {
        let key = chunk.key(stream);
        let value = self.store.get(&key.encode()).map_err(ChunkFault::Store)?;
        let damaged = |error: ChunkError| ChunkFault::Damaged(error.to_string());
        let value = value.ok_or_else(|| damaged(ChunkError::Missing))?;
        chunk::decode(&key, &value).map_err(damaged)
    }

    /// Marks numbers as offered before they are read. Returns whether a commit must come first.
    pub(super) fn reserve(&mut self, stream: StreamId, first: Seq, passages: usize) -> bool {
        let Some(stream) = self.streams.iter_mut().find(|known| known.id == stream) else {
            return false;
        };
        let Some(chunk) = stream.chunks.get(stream.place_of(first)) else {
            return false;
        };
        let first = first.max(chunk.range.first());
        let to = |count: u64| {
            let last = (first.get() + count.max(1) - 1).min(stream.marks.accepted_to);
            Seq::new(last)
                .ok()
                .and_then(|last| SeqRange::new(first, last))
        };
        let wanted = to(passages as u64);
        if wanted.is_none_or(|wanted| stream.marks.offered.contains_range(wanted)) {
            return false;
        }
        if let Some(ahead) = to((passages as u64).max(self.offered_ahead_max / 2)) {
            stream.offer(ahead);
        }
        true
    }

    /// Reads passages that are reserved.
    pub(super) fn read(
        &mut self,
        id: StreamId,
        first: Seq,
        limit: ReadLimit,
    ) -> Result<Result<Option<StoredRun>, ReadError>, StoreError> {
        let Some(at) = self.streams.iter().position(|stream| stream.id == id) else {
            return Ok(Ok(None));
        };
        let mut run: Option<StoredRun> = None;
        let mut bytes = 0;
        let start = self.streams[at].place_of(first);
        for place in start..self.streams[at].chunks.len() {
            let chunk = self.streams[at].chunks[place];
            let taken = run.as_ref().map_or(0, |run| run.batch.len());
            let next = run
                .as_ref()
                .map_or(first.get(), |run| run.first.get() + taken as u64);
            let is_gap = run.is_some() && chunk.range.first().get() != next;
            let is_full = taken >= limit.passages
                || (taken > 0 && bytes + chunk.bytes as usize > limit.bytes);
            if is_gap || is_full {
                break;
            }
            let batch = match self.passages(id, &chunk) {
                Ok(batch) => batch,
                Err(ChunkFault::Store(error)) => return Err(error),
                // What came before is handed out first; the damage is met again by the next read.
                Err(ChunkFault::Damaged(_)) if run.is_some() => break,
                Err(ChunkFault::Damaged(problem)) => {
                    tracing::error!(stream = %id, range = %chunk.range, problem, "damaged passages are moved aside");
                    self.take_out(id, chunk.range, LossReason::Corrupt)?;
                    return Ok(Err(ReadError::Corrupt {
                        range: chunk.range,
                        problem,
                    }));
                }
            };
            bytes += chunk.bytes as usize;
            let skip = usize::try_from(first.get().saturating_sub(chunk.range.first().get()))
                .unwrap_or(usize::MAX);
            let run = run.get_or_insert_with(|| StoredRun {
                first: first.max(chunk.range.first()),
                batch: PassageBatch::new(),
            });
            let room = limit.passages.max(1) - taken;
            if skip == 0 && batch.len() <= room {
                run.batch.extend(&batch);
            } else {
                batch
                    .iter()
                    .skip(skip)
                    .take(room)
                    .for_each(|passage| run.batch.push(&passage));
            }
        }
        Ok(Ok(run))
    }

    /// Takes over what the centre committed.
    pub(super) fn receipt(&mut self, centre: Centre, receipts: &[StreamReceipt]) -> CentreVerdict {
        let verdict = match self.centre {
            None => CentreVerdict::Pinned,
            Some(pinned) if pinned == centre => CentreVerdict::Known,
            Some(pinned) if pinned.id == centre.id && pinned.timeline < centre.timeline => {
                self.streams.iter_mut().for_each(Stream::forget_receipts);
                CentreVerdict::NewTimeline
            }
            Some(_) => {
                self.foreign = Some(centre);
                return CentreVerdict::Foreign(centre);
            }
        };
        if verdict != CentreVerdict::Known {
            self.centre = Some(centre);
            self.changes.put(keys::FACT_CENTRE, to_bytes(&centre));
        }
        for receipt in receipts {
            let Some(stream) = self
                .streams
                .iter_mut()
                .find(|known| known.id == receipt.stream)
            else {
                continue;
            };
            let freed = stream.receipt(receipt);
            for loss in &freed.losses {
                self.changes
                    .delete(&keys::loss(stream.id, loss.range.first()));
            }
            for loss in &freed.changed {
                self.changes
                    .put(&keys::loss(stream.id, loss.range.first()), to_bytes(loss));
            }
            for entry in freed.entries {
                self.held_bytes -= u64::from(entry.bytes);
                self.changes.delete(&keys::summary(stream.id, entry.number));
            }
        }
        self.forget_streams();
        verdict
    }

    /// Forgets streams of earlier runs of which nothing is left. With too many streams, the sent
    /// copies of the oldest go, too.
    fn forget_streams(&mut self) {
        let mut surplus = self.streams.len().saturating_sub(STREAMS_MAX);
        let current = self
            .has_current
            .then(|| self.streams.last().map(|stream| stream.id))
            .flatten();
        self.streams.retain_mut(|stream| {
            if Some(stream.id) == current {
                return true;
            }
            if surplus > 0 && stream.is_settled() {
                surplus -= 1;
                while let Some(chunk) = stream.pop_front() {
                    self.counters.released += chunk.range.count();
                    self.held_bytes -= u64::from(chunk.bytes);
                    self.changes.delete(&chunk.key(stream.id).encode());
                }
            }
            if stream.is_empty() {
                self.changes.delete(&keys::stream(stream.id));
            }
            !stream.is_empty()
        });
    }

    /// The oldest pending entries of a stream, sealed. Returns whether a commit must come first.
    pub(super) fn seal(
        &mut self,
        id: StreamId,
        entries_max: usize,
    ) -> Result<(Vec<PendingSummary>, bool), StoreError> {
        let Some(stream) = self.streams.iter_mut().find(|stream| stream.id == id) else {
            return Ok((Vec::new(), false));
        };
        let mut sealed_now = false;
        let mut pending = Vec::new();
        for meta in stream.entries.iter_mut().take(entries_max) {
            let key = keys::summary(id, meta.number);
            let value = self.store.get(&key)?.unwrap_or_default();
            let Ok(stored) = from_bytes::<StoredEntry>(&value) else {
                continue;
            };
            if !meta.sealed {
                meta.sealed = true;
                sealed_now = true;
                self.open_entry = None;
                let entry = StoredEntry {
                    sealed: true,
                    entry: stored.entry.clone(),
                };
                self.changes.put(&key, to_bytes(&entry));
            }
            pending.push(PendingSummary {
                stream: id,
                entry: stored.entry,
            });
        }
        Ok((pending, sealed_now))
    }

    /// Whether something is staged.
    pub(super) fn is_dirty(&self) -> bool {
        !self.changes.is_empty()
            || !self.staging.batch.is_empty()
            || self.streams.iter().any(|stream| stream.marks_changed)
    }

    /// Makes all that is staged durable.
    pub(super) fn commit(&mut self, now_ms: i64) -> Result<(), StoreError> {
        // Room first: it reads chunks, and what is merged or closed now cannot be read yet.
        self.make_room()?;
        self.compact()?;
        self.close_chunk();
        self.expire_ids(now_ms)?;
        if std::mem::take(&mut self.ids_changed)
            && let Some((number, block)) = self.ids.unfinished()
        {
            self.changes.put(&keys::event_ids(number), to_bytes(block));
        }
        for stream in self
            .streams
            .iter_mut()
            .filter(|stream| stream.marks_changed)
        {
            self.changes
                .put(&keys::stream(stream.id), to_bytes(&stream.marks));
            stream.marks_changed = false;
        }
        self.id_blocks.clear();
        self.durable_to = self
            .streams
            .last()
            .map_or(0, |stream| stream.marks.accepted_to);
        if self.changes.is_empty() {
            return Ok(());
        }
        self.store
            .commit(std::mem::replace(&mut self.changes, Changes::new()))?;
        self.counters.commits += 1;
        Ok(())
    }

    /// Looks at the disk; a few system calls, so not at every commit.
    pub(super) fn measure_disk(&mut self) {
        self.disk = Disk {
            used_bytes: self.store.file_bytes(),
            quota_bytes: self.settings.quota_bytes,
            free_bytes: self.store.free_bytes(),
        };
    }

    /// See [`Store::check_blobs`].
    pub(super) fn check_blobs(&self) -> Result<(), StoreError> {
        self.store.check_blobs()
    }

    /// The last number of a stream whose chunk can be read.
    pub(super) fn durable_to(&self, place: usize) -> u64 {
        if self.has_current && place + 1 == self.streams.len() {
            self.durable_to
        } else {
            u64::MAX
        }
    }

    /// A value as it stands on the disk; empty where there is none.
    pub(super) fn store_value(&self, key: &[u8]) -> Result<Vec<u8>, StoreError> {
        Ok(self
            .store
            .get(key)?
            .map(|value| value.to_vec())
            .unwrap_or_default())
    }

    /// The summary entry with a number, as stored.
    pub(super) fn entry(
        &self,
        stream: StreamId,
        number: u32,
    ) -> Result<Option<StoredEntry>, StoreError> {
        let value = self.store.get(&keys::summary(stream, number))?;
        Ok(value.and_then(|value| from_bytes(&value).ok()))
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
            counters: self.counters,
            alarms: self.alarms(),
        }
    }

    fn alarms(&self) -> Vec<Alarm> {
        let directory = self.quarantined.clone();
        let store = directory.map(|directory| Alarm::StoreQuarantined { directory });
        let passages = self.aside.iter().map(|(key, _)| key.range.count()).sum();
        let passages = (passages > 0).then_some(Alarm::PassagesQuarantined { passages });
        let foreign = self.foreign.map(|centre| Alarm::ForeignCentre { centre });
        store.into_iter().chain(passages).chain(foreign).collect()
    }

    pub(super) fn write_losses(&mut self, stream: StreamId, losses: &[Loss]) {
        for loss in losses {
            self.changes
                .put(&keys::loss(stream, loss.range.first()), to_bytes(loss));
        }
    }
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
