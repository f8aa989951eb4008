//! Merging small chunks: slow traffic commits passages one by one.

use proto::PassageBatch;
use proto::ranges::SeqRange;

use super::{ChunkFault, Engine, logical_bytes};
use crate::buffer::chunk;
use crate::buffer::keys::{CHUNK_PASSAGES_MAX, ChunkKey};
use crate::buffer::medium::StoreError;
use crate::buffer::stream::ChunkMeta;

/// Chunks below this are merged with their neighbours once they make a full one.
const SMALL_CHUNK_PASSAGES: u64 = 32;

/// And chunks that free text makes large are not small.
const SMALL_CHUNK_BYTES: u32 = 1_024;

impl Engine {
    /// Merges the small chunks at the end of the current stream into a full one.
    pub(super) fn compact(&mut self) -> Result<(), StoreError> {
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
}
