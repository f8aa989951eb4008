//! Making room, and taking out what cannot stay: how passages leave the disk.
//!
//! In this order: copies of passages that the centre has stored, oldest first; under `drop_oldest`
//! then the oldest raw passages that were never offered, whose window deltas stay in their place;
//! then chunks set aside; and at the very end those deltas. A passage that a frame may have
//! contained and that has no receipt never goes: it may be counted already, and a delta made of it
//! now might count it twice.
//!
//! Invariant: a chunk is deleted only if it is settled, or in the batch that writes its loss.

use proto::StreamId;
use proto::loss::LossReason;
use proto::ranges::{SeqRange, SeqSet};
use proto::summary::SummaryEntry;

use super::{ChunkFault, Engine, FILE_BYTES_PER_HELD};
use crate::buffer::keys;
use crate::buffer::records::{StoredEntry, to_bytes};
use crate::buffer::store::StoreError;
use crate::buffer::stream::{ChunkMeta, EntryMeta};
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
        self.drop_entries(quota)
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
            let marks = &self.streams[place].marks;
            let uncounted = SeqSet::from(chunk.range)
                .difference(&marks.counted)
                .difference(&marks.lost);
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

    pub(super) fn lose(
        &mut self,
        place: usize,
        chunk: &ChunkMeta,
        within: SeqRange,
        reason: LossReason,
        summarised: bool,
    ) {
        let stream = &mut self.streams[place];
        let id = stream.id;
        let unsettled = SeqSet::from(within)
            .difference(&stream.marks.settled())
            .count();
        let losses = stream.declare(chunk, within, reason, summarised);
        self.counters.lost[Counters::place(reason)] += unsettled;
        self.write_losses(id, &losses);
    }

    /// Adds to the last entry of the stream, or begins the next one.
    fn add_entry(&mut self, place: usize, entry: SummaryEntry) -> Result<(), StoreError> {
        let id = self.streams[place].id;
        let last = self.streams[place].entries.back().cloned();
        let open = match &last {
            Some(meta) if !meta.sealed => self.open_entry(id, meta.number)?,
            _ => None,
        };
        let joined = open.and_then(|open| summaries::joined(&open, &entry));
        let number = match (&last, &joined) {
            (Some(meta), Some(_)) => meta.number,
            (Some(meta), None) => meta.number + 1,
            (None, _) => 0,
        };
        let extends = joined.is_some();
        let entry = joined.unwrap_or(entry);
        let key = keys::summary(id, number);
        let value = to_bytes(&StoredEntry {
            sealed: false,
            entry: entry.clone(),
        });
        let bytes = u32::try_from(key.len() + value.len()).unwrap_or(u32::MAX);
        self.changes.put(&key, value);
        let (event_min, event_max) = summaries::event_span(&entry);
        let seqs = entry.seqs.clone();
        let meta = EntryMeta {
            number,
            sealed: false,
            seqs,
            event_min,
            event_max,
            bytes,
        };
        if extends && let Some(before) = self.streams[place].entries.pop_back() {
            self.held_bytes -= u64::from(before.bytes);
        }
        self.held_bytes += u64::from(bytes);
        self.streams[place].entries.push_back(meta);
        self.open_entry = Some((id, number, entry));
        Ok(())
    }

    fn open_entry(&self, id: StreamId, number: u32) -> Result<Option<SummaryEntry>, StoreError> {
        match &self.open_entry {
            Some((stream, open, entry)) if (*stream, *open) == (id, number) => {
                Ok(Some(entry.clone()))
            }
            _ => Ok(self.entry(id, number)?.map(|stored| stored.entry)),
        }
    }

    /// The last resort: deltas go, too, and their passages are lost altogether.
    fn drop_entries(&mut self, goal: u64) -> Result<(), StoreError> {
        for place in 0..self.streams.len() {
            let id = self.streams[place].id;
            while self.held_bytes > goal {
                let Some(entry) = self.streams[place].entries.pop_front() else {
                    break;
                };
                self.open_entry = None;
                self.held_bytes -= u64::from(entry.bytes);
                self.changes.delete(&keys::summary(id, entry.number));
                for range in entry.seqs.ranges() {
                    let span = ChunkMeta {
                        range: *range,
                        event_min: entry.event_min,
                        event_max: entry.event_max,
                        bytes: 0,
                    };
                    self.lose(place, &span, *range, LossReason::Quota, false);
                }
                self.streams[place].refresh();
            }
        }
        Ok(())
    }
}
