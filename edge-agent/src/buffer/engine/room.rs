//! Making room, and taking out what cannot stay: how passages leave the disk.
//!
//! In this order: copies of passages that the centre has stored, oldest first; under `drop_oldest`
//! then the oldest raw passages that were never offered, whose window deltas stay in their place,
//! where they were not made before;
//! then chunks set aside; and at the very end those deltas. A passage that a frame may have
//! contained and that has no receipt never goes: it may be counted already, and a delta made of it
//! now might count it twice.
//!
//! A commit takes no more than [`EVICTED_CHUNKS_MAX`] of those copies, and no more than
//! [`DROPPED_CHUNKS_MAX`] chunks of raw passages, so that it neither lasts long nor takes much memory;
//! the rest follows with the next. Until the last copy has gone nothing else goes, and nothing is
//! refused for want of room. Where traffic is so thin that the sums take more room than the passages
//! did, that frees nothing, and the oldest sums go at once.
//!
//! Invariant: a chunk is deleted only if it is settled, or in the batch that writes its loss.

use proto::loss::LossReason;
use proto::ranges::{SeqRange, SeqSet};

use super::{ChunkFault, Engine, FILE_BYTES_PER_HELD};
use crate::buffer::medium::StoreError;
use crate::buffer::stream::ChunkMeta;
use crate::buffer::{Counters, QuotaPolicy, summaries};

/// When room is made, this part of the limit is freed beyond it, so that not every commit must.
const SLACK_PART: u64 = 64;

/// Chunks of sent copies that are deleted with one commit, or twice the bytes that it brings.
const EVICTED_CHUNKS_MAX: usize = 1_024;

/// Chunks of raw passages that are dropped with one commit, or twice the bytes that it brings.
const DROPPED_CHUNKS_MAX: usize = 1_024;

/// The same where that frees nothing.
const FRUITLESS_CHUNKS_MAX: usize = 16;

/// What one commit has dropped of raw passages.
struct Dropped {
    chunks: usize,
    bytes: u64,
    /// What was held before, with what the commit brings.
    held_bytes: u64,
    /// What it brings.
    brought_bytes: u64,
}

impl Dropped {
    /// Whether less is held than before the commit.
    const fn has_freed(&self, held_bytes: u64) -> bool {
        held_bytes + self.brought_bytes <= self.held_bytes
    }

    const fn is_enough(&self, held_bytes: u64) -> bool {
        let chunks_max = if self.has_freed(held_bytes) {
            DROPPED_CHUNKS_MAX
        } else {
            FRUITLESS_CHUNKS_MAX
        };
        self.chunks >= chunks_max && self.bytes >= 2 * self.brought_bytes
    }
}

impl Engine {
    /// Bytes of sent copies, and whether any raw passage could be dropped.
    pub(super) fn evictable(&self) -> (u64, bool) {
        let sent = self
            .streams
            .iter()
            .map(|stream| stream.bytes - stream.unsent_bytes)
            .sum();
        let droppable = self.streams.iter().any(|stream| {
            !stream
                .unsent()
                .difference(&stream.marks.pending_offers())
                .is_empty()
        });
        (sent, droppable)
    }

    /// Brings the held bytes under the quota again, as far as that is allowed.
    pub(super) fn make_room(&mut self) -> Result<(), StoreError> {
        let quota = self.quota_bytes();
        let squeezed = self.is_below_floor() && !self.has_room_inside();
        let limit = if squeezed {
            quota.min(self.disk.used_bytes / FILE_BYTES_PER_HELD)
        } else {
            quota
        };
        if self.held_bytes <= limit {
            return Ok(());
        }
        let copies_stay = self.evict_sent(limit - limit / SLACK_PART);
        if copies_stay || self.held_bytes <= quota || self.settings.policy == QuotaPolicy::RefuseNew
        {
            return Ok(());
        }
        let goal = quota - quota / SLACK_PART;
        let mut dropped = Dropped {
            chunks: 0,
            bytes: 0,
            held_bytes: self.held_bytes,
            brought_bytes: self.brought_bytes(),
        };
        for place in 0..self.streams.len() {
            self.drop_unsent(place, goal, &mut dropped)?;
        }
        if dropped.is_enough(self.held_bytes) && dropped.has_freed(self.held_bytes) {
            return Ok(());
        }
        self.drop_aside(goal);
        self.drop_entries(quota);
        Ok(())
    }

    /// Bytes of the chunks that become durable with the next commit.
    fn brought_bytes(&self) -> u64 {
        let Some(current) = self.streams.last().filter(|_| self.has_current) else {
            return 0;
        };
        let chunks = current.chunks.iter().rev();
        chunks
            .take_while(|chunk| chunk.range.last().get() > self.durable_to)
            .map(|chunk| u64::from(chunk.bytes))
            .sum()
    }

    /// Deletes sent copies, the oldest first; whether some of them must wait for the next commit.
    fn evict_sent(&mut self, goal: u64) -> bool {
        let bytes_min = 2 * self.brought_bytes();
        let (mut chunks, mut bytes) = (0, 0);
        for place in 0..self.streams.len() {
            let mut at = 0;
            let settled = self.streams[place].marks.settled();
            while self.held_bytes > goal
                && self.streams[place].bytes > self.streams[place].unsent_bytes
            {
                let stream = &mut self.streams[place];
                let Some(chunk) = stream.chunks.get(at).copied() else {
                    break;
                };
                if !settled.contains_range(chunk.range) {
                    at += 1;
                    continue;
                }
                if chunks >= EVICTED_CHUNKS_MAX && bytes >= bytes_min {
                    return true;
                }
                chunks += 1;
                bytes += u64::from(chunk.bytes);
                stream.replace(at..at + 1, []);
                self.counters.released += chunk.range.count();
                self.held_bytes -= u64::from(chunk.bytes);
                self.changes
                    .delete(&chunk.key(self.streams[place].id).encode());
            }
        }
        false
    }

    /// Drops raw passages of one stream that were never offered; their deltas take their place.
    fn drop_unsent(
        &mut self,
        place: usize,
        goal: u64,
        dropped: &mut Dropped,
    ) -> Result<(), StoreError> {
        let id = self.streams[place].id;
        let durable_to = self.durable_to(place);
        let before = dropped.chunks;
        let mut at = 0;
        while self.held_bytes > goal && !dropped.is_enough(self.held_bytes) {
            let stream = &self.streams[place];
            let Some(chunk) = stream.chunks.get(at).copied() else {
                break;
            };
            if chunk.range.last().get() > durable_to {
                break;
            }
            let settled = stream.marks.settled();
            let offered = stream.marks.offered.difference(&settled);
            if settled.contains_range(chunk.range) || offered.overlaps_range(chunk.range) {
                at += 1;
                continue;
            }
            dropped.chunks += 1;
            dropped.bytes += u64::from(chunk.bytes);
            let batch = match self.passages(id, &chunk) {
                Ok(batch) => batch,
                Err(ChunkFault::Store(error)) => return Err(error),
                Err(ChunkFault::Damaged(_)) => {
                    self.take_out(id, chunk.range, LossReason::Corrupt)?;
                    continue;
                }
            };
            let stream = &self.streams[place];
            let uncounted = SeqSet::from(chunk.range)
                .difference(&stream.marks.counted)
                .difference(&stream.marks.lost)
                .difference(stream.summed());
            for entry in summaries::entries_of(chunk.range.first(), &batch, uncounted) {
                self.add_entry(place, entry)?;
            }
            self.lose(place, &chunk, chunk.range, LossReason::Quota, true);
            self.streams[place].replace(at..at + 1, []);
            self.held_bytes -= u64::from(chunk.bytes);
            self.changes.delete(&chunk.key(id).encode());
        }
        if dropped.chunks > before {
            self.streams[place].refresh();
        }
        Ok(())
    }

    /// Books passages as lost that leave the disk.
    pub(super) fn lose(
        &mut self,
        place: usize,
        chunk: &ChunkMeta,
        within: SeqRange,
        reason: LossReason,
        summarised: bool,
    ) {
        let stream = &mut self.streams[place];
        let unsettled = SeqSet::from(within).difference(&stream.marks.settled());
        stream.declare(chunk, within, reason, summarised);
        self.counters.lost[Counters::place(reason)] += unsettled.count();
    }
}
