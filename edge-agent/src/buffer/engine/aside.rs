//! Setting aside what can neither be sent nor stay: refused for ever, or damaged.
//!
//! "For ever" is the word of one build of the centre: to each other build what is aside is offered
//! once. It is booked as lost meanwhile; when it is counted after all the centre takes that back.
//!
//! Invariant: a chunk leaves its place only in the batch that writes its loss.

use proto::PassageBatch;
use proto::StreamId;
use proto::limits::RANGES_MAX;
use proto::loss::LossReason;
use proto::ranges::{Seq, SeqRange};
use sha2::{Digest, Sha256};

use super::{Engine, logical_bytes};
use crate::buffer::chunk;
use crate::buffer::keys::{self, ChunkKey};
use crate::buffer::medium::StoreError;
use crate::buffer::records::{BuildKey, Marks, to_bytes};
use crate::buffer::stream::{ChunkMeta, Stream};

/// Chunks set aside take at most this part of the quota; the oldest go first.
const ASIDE_PART: u64 = 8;

/// Chunks that come back into line at once.
const AGAIN_CHUNKS_MAX: usize = 64;

impl Engine {
    /// Moves numbers aside that this build of the centre refused for ever. Returns how many they
    /// were.
    pub(in crate::buffer) fn refuse(
        &mut self,
        id: StreamId,
        range: SeqRange,
        build: Option<&str>,
    ) -> Result<u64, StoreError> {
        let stream = self.streams.iter().find(|stream| stream.id == id);
        let refused = stream.map(|stream| stream.held().intersection(&range.into()));
        let taken = self.take_out(id, range, LossReason::Refused)?;
        if let (Some(build), Some(refused)) = (build.map(build_key), refused) {
            let ranges = refused.ranges().iter();
            ranges.for_each(|range| self.remember_refusal(id, *range, build));
        }
        Ok(taken)
    }

    /// Puts chunks back into line that this build of the centre has not refused yet, some at a time.
    /// Returns how many passages they hold; 0 when there are no more.
    pub(in crate::buffer) fn offer_again(&mut self, build: &str) -> Result<u64, StoreError> {
        let build = build_key(build);
        let (mut chunks, mut passages) = (0, 0);
        for (key, bytes) in std::mem::take(&mut self.aside) {
            let refusals = self.refusals.get(&key.stream);
            let is_refused = refusals.is_some_and(|known| known.contains(build, key.range));
            if is_refused || chunks == AGAIN_CHUNKS_MAX || !self.has_place_for(&key) {
                self.aside.push_back((key, bytes));
                continue;
            }
            let value = self.value(&key.encode_aside())?.unwrap_or_default();
            if chunk::decode(&key, &value).is_err() {
                // Damaged: it is here to be kept, not to be sent.
                self.remember_refusal(key.stream, key.range, build);
                self.aside.push_back((key, bytes));
                continue;
            }
            self.changes.delete(&key.encode_aside());
            self.changes.put(&key.encode(), value);
            let stream = self.stream_again(key.stream);
            stream.offer_again(ChunkMeta {
                range: key.range,
                event_min: key.event_min,
                event_max: key.event_max,
                bytes,
            });
            chunks += 1;
            passages += key.range.count();
        }
        self.counters.offered_again += passages;
        Ok(passages)
    }

    /// States once more that what is aside is lost: a centre that was put back in time may not know.
    pub(super) fn state_aside_again(&mut self) {
        let aside: Vec<ChunkKey> = self.aside.iter().map(|(key, _)| *key).collect();
        for key in aside {
            self.stream_again(key.stream).lose_again(&ChunkMeta {
                range: key.range,
                event_min: key.event_min,
                event_max: key.event_max,
                bytes: 0,
            });
        }
    }

    /// Whether the numbers that are offered again stay within what one record holds.
    fn has_place_for(&self, key: &ChunkKey) -> bool {
        let stream = self.streams.iter().find(|known| known.id == key.stream);
        stream.is_none_or(|stream| stream.again().range_count() < RANGES_MAX)
    }

    /// The stream of a chunk that was set aside; it may have been forgotten, for all of it was
    /// settled.
    fn stream_again(&mut self, id: StreamId) -> &mut Stream {
        let known = self.streams.iter().position(|stream| stream.id == id);
        let place = known.unwrap_or_else(|| {
            self.streams.insert(0, Stream::new(id, Marks::default()));
            0
        });
        &mut self.streams[place]
    }

    fn remember_refusal(&mut self, id: StreamId, range: SeqRange, build: BuildKey) {
        let refusals = self.refusals.entry(id).or_default();
        refusals.add(build, range);
        self.changes.put(&keys::refusals(id), to_bytes(refusals));
    }

    /// Forgets who refused what of streams of which nothing is aside or offered again.
    pub(super) fn forget_refusals(&mut self) {
        if self.refusals.is_empty() {
            return;
        }
        let (aside, streams) = (&self.aside, &self.streams);
        let is_open = |id: StreamId| {
            aside.iter().any(|(key, _)| key.stream == id)
                || streams.iter().any(|s| s.id == id && !s.again().is_empty())
        };
        let gone = self.refusals.extract_if(.., |id, _| !is_open(*id));
        for (id, _) in gone {
            self.changes.delete(&keys::refusals(id));
        }
    }

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
            let value = self.value(&key.encode())?.unwrap_or_default();
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

fn build_key(build: &str) -> BuildKey {
    let hash: [u8; 32] = Sha256::digest(build).into();
    std::array::from_fn(|place| hash[place])
}
