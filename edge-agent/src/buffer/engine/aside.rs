//! Setting aside what can neither be sent nor stay: refused for ever, or damaged.
//!
//! Invariant: a chunk leaves its place only in the batch that writes its loss.

use proto::PassageBatch;
use proto::StreamId;
use proto::loss::LossReason;
use proto::ranges::{Seq, SeqRange};

use super::{Engine, logical_bytes};
use crate::buffer::chunk;
use crate::buffer::keys::ChunkKey;
use crate::buffer::store::StoreError;
use crate::buffer::stream::ChunkMeta;

/// Chunks set aside take at most this part of the quota; the oldest go first.
const ASIDE_PART: u64 = 8;

impl Engine {
    /// Moves numbers of a stream aside and books them as lost. Returns how many they were.
    pub(in crate::buffer) fn take_out(
        &mut self,
        id: StreamId,
        range: SeqRange,
        reason: LossReason,
    ) -> Result<u64, StoreError> {
        let Some(place) = self.streams.iter().position(|stream| stream.id == id) else {
            return Ok(0);
        };
        let mut taken = 0;
        let mut at = self.streams[place].place_of(range.first());
        while let Some(chunk) = self.streams[place].chunks.get(at).copied() {
            let Some(part) = chunk.range.intersection(range) else {
                break;
            };
            let key = chunk.key(id);
            let parts = if part == chunk.range {
                None
            } else {
                self.passages(id, &chunk).ok()
            };
            self.changes.delete(&key.encode());
            self.held_bytes -= u64::from(chunk.bytes);
            if let Some(batch) = parts {
                let kept = self.split(&key, &batch, part);
                self.lose(place, &chunk, part, reason, false);
                taken += part.count();
                at += kept.len();
                self.streams[place].replace(at - kept.len()..at - kept.len() + 1, kept);
            } else {
                // Whole, or not to be taken apart: then the rest of it cannot be read either.
                let value = self.store_value(&key.encode())?;
                let reason = if part == chunk.range {
                    reason
                } else {
                    LossReason::Corrupt
                };
                self.lose(place, &chunk, chunk.range, reason, false);
                taken += chunk.range.count();
                self.streams[place].replace(at..at + 1, []);
                self.put_aside(key, value);
            }
        }
        self.streams[place].refresh();
        self.drop_aside_above_its_part();
        Ok(taken)
    }

    /// Writes what stays of a chunk as chunks, and the rest of it aside.
    fn split(&mut self, key: &ChunkKey, batch: &PassageBatch, out: SeqRange) -> Vec<ChunkMeta> {
        let mut kept = Vec::new();
        let (first, last) = (key.range.first(), key.range.last());
        let before = Seq::new(out.first().get() - 1)
            .ok()
            .and_then(|to| SeqRange::new(first, to));
        let after = out.last().next().and_then(|from| SeqRange::new(from, last));
        for range in before.into_iter().chain(Some(out)).chain(after) {
            let skip = usize::try_from(range.first().get() - first.get()).unwrap_or(usize::MAX);
            let count = usize::try_from(range.count()).unwrap_or(usize::MAX);
            let part: PassageBatch = batch.iter().skip(skip).take(count).collect();
            let Some((event_min, event_max)) = part.event_span() else {
                continue;
            };
            // The checksum covers the key of a chunk in its place, also of one that is set aside.
            let key = ChunkKey {
                range,
                event_min,
                event_max,
                ..*key
            };
            let value = chunk::encode(&key, &part);
            if range == out {
                self.put_aside(key, value);
                continue;
            }
            let bytes = logical_bytes(value.len());
            self.changes.put(&key.encode(), value);
            self.held_bytes += u64::from(bytes);
            kept.push(ChunkMeta {
                range,
                event_min,
                event_max,
                bytes,
            });
        }
        kept
    }

    fn put_aside(&mut self, key: ChunkKey, value: Vec<u8>) {
        let bytes = logical_bytes(value.len());
        self.changes.put(&key.encode_aside(), value);
        self.held_bytes += u64::from(bytes);
        self.aside.push_back((key, bytes));
    }

    fn drop_aside_above_its_part(&mut self) {
        let limit = self.quota_bytes() / ASIDE_PART;
        let mut bytes: u64 = self.aside.iter().map(|(_, bytes)| u64::from(*bytes)).sum();
        while bytes > limit {
            bytes -= self.drop_oldest_aside();
        }
    }

    pub(super) fn drop_aside(&mut self, goal: u64) {
        while self.held_bytes > goal && !self.aside.is_empty() {
            self.drop_oldest_aside();
        }
    }

    /// Its passages are booked as lost already.
    fn drop_oldest_aside(&mut self) -> u64 {
        let Some((key, bytes)) = self.aside.pop_front() else {
            return 0;
        };
        self.held_bytes -= u64::from(bytes);
        self.changes.delete(&key.encode_aside());
        u64::from(bytes)
    }
}
