//! Staging passages and making all that is staged durable: the group commit.
//!
//! **The offered mark** costs no fsync of its own: the group commit that accepts passages marks them
//! as offered as well, as long as passages flow to the centre and not more than
//! [`OFFERED_AHEAD_MAX`] offered ones lack a receipt. The backlog of an outage is not marked, so that
//! it can be folded into summaries; what of it is sent raw `reserve` marks 4,096 at a time, with one
//! commit for all of them.

use proto::ranges::{Seq, SeqRange};

use super::{Engine, Staging, logical_bytes};
#[cfg(doc)]
use crate::buffer::OFFERED_AHEAD_MAX;
use crate::buffer::chunk::{self, CHUNK_BYTES_CLOSE, PASSAGE_BYTES_ESTIMATE};
use crate::buffer::id_block::{IdBlock, PassageNumber};
use crate::buffer::keys::{self, CHUNK_PASSAGES_MAX, ChunkKey};
use crate::buffer::medium::StoreError;
use crate::buffer::records::{Marks, to_bytes};
use crate::buffer::stream::{ChunkMeta, Stream};
use crate::buffer::{APPEND_PASSAGES_MAX, Admitted, AppendError, Appended, EventKey, QuotaPolicy};

/// Blocks of event ids that go for their age per commit, beyond as many as were filled since the last.
const EXPIRED_BLOCKS_MAX: usize = 4;

impl Engine {
    /// Stages the passages of one append.
    ///
    /// The outer error is the store's: then the run is over.
    pub(in crate::buffer) fn stage(
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
                path: self.settings.directory.clone(),
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

    fn is_known(&mut self, key: EventKey) -> Result<bool, StoreError> {
        if self.ids.is_in_newest(key) {
            return Ok(true);
        }
        for number in self.ids.candidates(key) {
            if self.id_block(number)?.ids().contains(&key.0) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn remember(&mut self, key: EventKey, now_ms: i64) {
        self.ids_changed = true;
        let passage = self.next_passage();
        if let Some((number, block)) = self.ids.remember(key, passage, now_ms) {
            self.changes
                .put(&keys::event_ids(number), block.encode(number));
            self.id_blocks.insert(number, block);
        }
    }

    /// What the next passage to be staged will be.
    fn next_passage(&self) -> PassageNumber {
        let staged = self.staging.batch.len() as u64 + 1;
        match self.streams.last().filter(|_| self.has_current) {
            Some(current) => (current.id, current.marks.accepted_to + staged),
            None => (self.next_id, staged),
        }
    }

    pub(super) fn id_block(&mut self, number: u32) -> Result<&IdBlock, StoreError> {
        if !self.id_blocks.contains_key(&number) {
            let value = self.value(&keys::event_ids(number))?.unwrap_or_default();
            // A block that is gone or cannot be read knows no id.
            self.id_blocks
                .insert(number, IdBlock::decode(number, &value).unwrap_or_default());
        }
        Ok(self.id_blocks.entry(number).or_default())
    }

    /// Forgets ids that are too old, some with each commit, and at once those beyond the bound.
    fn expire_ids(&mut self, now_ms: i64) -> Result<(), StoreError> {
        let age_ms = self.ids.aged_to(now_ms);
        let mut aged = self.ids.take_filled() + EXPIRED_BLOCKS_MAX;
        while let Some(number) = self.ids.oldest() {
            if !self.ids.is_over() {
                let Some(left) = aged.checked_sub(1) else {
                    break;
                };
                aged = left;
            }
            let newest_ms = self.id_block(number)?.newest_ms;
            if !self.ids.is_expired(newest_ms, age_ms) {
                break;
            }
            let block = self.id_blocks.remove(&number).unwrap_or_default();
            self.ids.forget_oldest(block.ids());
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
        if self.offers_ahead && ahead + range.count() <= self.offered_ahead_max {
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

    /// Whether something is staged.
    pub(in crate::buffer) fn is_dirty(&self) -> bool {
        !self.changes.is_empty()
            || !self.staging.batch.is_empty()
            || self.streams.iter().any(Stream::is_changed)
    }

    /// Makes all that is staged durable.
    pub(in crate::buffer) fn commit(&mut self, now_ms: i64) -> Result<(), StoreError> {
        self.make_room()?;
        self.compact()?;
        self.close_chunk();
        self.expire_ids(now_ms)?;
        if std::mem::take(&mut self.ids_changed)
            && let Some((number, block)) = self.ids.unfinished()
        {
            self.changes
                .put(&keys::event_ids(number), block.encode(number));
        }
        self.write_streams();
        self.id_blocks.clear();
        self.durable_to = self
            .streams
            .last()
            .map_or(0, |stream| stream.marks.accepted_to);
        if self.changes.is_empty() {
            return Ok(());
        }
        self.generation += 1;
        self.changes
            .put(keys::GENERATION, to_bytes(&self.generation));
        self.store.commit(std::mem::take(&mut self.changes))?;
        for stream in &mut self.streams {
            stream.leave_staged = false;
        }
        self.counters.commits += 1;
        let statement = self.witness.is_some().then(|| self.statement());
        if let Some((witness, statement)) = self.witness.as_mut().zip(statement) {
            witness.state(statement);
        }
        Ok(())
    }
}
