//! Making room, and taking out what cannot stay: how passages leave the disk.
//!
//! In this order: copies of passages that the centre has stored, oldest first; under `drop_oldest`
//! then the oldest raw passages that were never offered, whose window deltas stay in their place,
//! where they were not made before;
//! then chunks set aside; and at the very end those deltas. A passage that a frame may have
//! contained and that has no receipt never goes: it may be counted already, and a delta made of it
//! now might count it twice.
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
        self.evict_sent(limit - limit / SLACK_PART);
        if self.held_bytes <= quota || self.settings.policy == QuotaPolicy::RefuseNew {
            return Ok(());
        }
        let goal = quota - quota / SLACK_PART;
        for place in 0..self.streams.len() {
            self.drop_unsent(place, goal)?;
        }
        self.drop_aside(goal);
        self.drop_entries(quota);
        Ok(())
    }

    fn evict_sent(&mut self, goal: u64) {
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
                stream.replace(at..at + 1, []);
                self.counters.released += chunk.range.count();
                self.held_bytes -= u64::from(chunk.bytes);
                self.changes
                    .delete(&chunk.key(self.streams[place].id).encode());
            }
        }
    }

    /// Drops raw passages of one stream that were never offered; their deltas take their place.
    fn drop_unsent(&mut self, place: usize, goal: u64) -> Result<(), StoreError> {
        let id = self.streams[place].id;
        let durable_to = self.durable_to(place);
        let (mut at, mut dropped) = (0, false);
        while self.held_bytes > goal {
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
            dropped = true;
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
        if dropped {
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
