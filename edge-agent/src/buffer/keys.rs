//! The layout of the store: one tree, so that one batch is atomic over everything in it.
//!
//! ```text
//! 00 name                                     facts of the store (format, run, centre, time)
//! 01 stream:16 first:8 count-1:1 min:8 max:8  a chunk of passages; see `chunk.rs`
//! 02                                          how many commits there were
//! 02 stream:16                                a stream's marks; see `records.rs`
//! 03 stream:16 first:8                        a loss without a receipt
//! 04 stream:16 number:4                       a summary entry without a receipt
//! 05 number:4                                 a block of event ids; see `id_block.rs`
//! 06 (as 01)                                  a chunk set aside: refused, or damaged
//! 07 stream:16                                numbers that were refused and are offered again
//! 08 stream:16                                which builds of the centre refused which numbers
//! ```
//! All numbers are big endian, so that keys sort as their numbers do. A chunk's key says which
//! passages it holds and when they happened: a value that cannot be read still has a count and a
//! span of time.
//!
//! Pure.

use proto::StreamId;
use proto::passage::EventTime;
use proto::ranges::{Seq, SeqRange};

/// Passages in one chunk, at most. With the limit on bytes it keeps values inside sled's main
/// file, the only one that is synced.
pub(super) const CHUNK_PASSAGES_MAX: usize = 64;

pub(super) const FACT_FORMAT: &[u8] = b"\x00format";
pub(super) const FACT_RUN: &[u8] = b"\x00run";
pub(super) const FACT_CENTRE: &[u8] = b"\x00centre";
pub(super) const FACT_CENTRE_TIME: &[u8] = b"\x00centre-time";

/// Changes with every commit, as the marks of the current stream do, so it stands beside them.
pub(super) const GENERATION: &[u8] = &[STREAM];

const CHUNK: u8 = 0x01;
const STREAM: u8 = 0x02;
const LOSS: u8 = 0x03;
const SUMMARY: u8 = 0x04;
const EVENT_IDS: u8 = 0x05;
const ASIDE: u8 = 0x06;
const AGAIN: u8 = 0x07;
const REFUSALS: u8 = 0x08;

/// Which passages a chunk holds, and when they happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ChunkKey {
    pub(super) stream: StreamId,
    pub(super) range: SeqRange,
    pub(super) event_min: EventTime,
    pub(super) event_max: EventTime,
}

impl ChunkKey {
    /// Length of the key, which counts towards the quota.
    pub(super) const BYTES: usize = 1 + 16 + 8 + 1 + 8 + 8;

    pub(super) fn encode(&self) -> [u8; Self::BYTES] {
        self.encode_as(CHUNK)
    }

    /// The key under which the chunk is set aside.
    pub(super) fn encode_aside(&self) -> [u8; Self::BYTES] {
        self.encode_as(ASIDE)
    }

    fn encode_as(&self, table: u8) -> [u8; Self::BYTES] {
        let mut key = [table; Self::BYTES];
        key[1..17].copy_from_slice(self.stream.as_bytes());
        key[17..25].copy_from_slice(&self.range.first().get().to_be_bytes());
        key[25] = u8::try_from(self.range.count() - 1).unwrap_or(u8::MAX);
        key[26..34].copy_from_slice(&self.event_min.as_millis().to_be_bytes());
        key[34..42].copy_from_slice(&self.event_max.as_millis().to_be_bytes());
        key
    }

    fn decode(key: &[u8]) -> Option<Self> {
        Self::decode_part(key.get(1..)?)
    }

    /// Of a key without its table.
    pub(super) fn decode_part(part_of_key: &[u8]) -> Option<Self> {
        let mut key = [0; Self::BYTES];
        key[1..].copy_from_slice((part_of_key.len() == Self::BYTES - 1).then_some(part_of_key)?);
        let key = &key;
        let first = Seq::new(u64::from_be_bytes(part(key, 17))).ok()?;
        let range = SeqRange::from_count(first, u64::from(key[25]) + 1).ok()?;
        Some(Self {
            stream: StreamId::from_bytes(part(key, 1)),
            range,
            event_min: EventTime::from_millis(i64::from_be_bytes(part(key, 26))),
            event_max: EventTime::from_millis(i64::from_be_bytes(part(key, 34))),
        })
    }
}

/// A key of the store, read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Key {
    Fact,
    Generation,
    Chunk(ChunkKey),
    Stream(StreamId),
    Loss(StreamId, Seq),
    Summary(StreamId, u32),
    EventIds(u32),
    Aside(ChunkKey),
    Again(StreamId),
    Refusals(StreamId),
}

impl Key {
    /// None for a key that this format does not have.
    pub(super) fn decode(key: &[u8]) -> Option<Self> {
        let (table, rest) = key.split_first()?;
        match *table {
            0x00 => Some(Self::Fact),
            CHUNK => ChunkKey::decode(key).map(Self::Chunk),
            ASIDE => ChunkKey::decode(key).map(Self::Aside),
            STREAM if rest.is_empty() => Some(Self::Generation),
            STREAM => Some(Self::Stream(StreamId::from_bytes(rest.try_into().ok()?))),
            AGAIN => Some(Self::Again(StreamId::from_bytes(rest.try_into().ok()?))),
            REFUSALS => Some(Self::Refusals(StreamId::from_bytes(rest.try_into().ok()?))),
            LOSS if rest.len() == 24 => {
                let first = Seq::new(u64::from_be_bytes(part(rest, 16))).ok()?;
                Some(Self::Loss(StreamId::from_bytes(part(rest, 0)), first))
            }
            SUMMARY if rest.len() == 20 => {
                let number = u32::from_be_bytes(part(rest, 16));
                Some(Self::Summary(StreamId::from_bytes(part(rest, 0)), number))
            }
            EVENT_IDS => Some(Self::EventIds(u32::from_be_bytes(rest.try_into().ok()?))),
            _ => None,
        }
    }
}

/// A copy of `N` bytes; the caller has checked the length.
fn part<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    std::array::from_fn(|place| bytes[at + place])
}

pub(super) fn stream(stream: StreamId) -> [u8; 17] {
    of_stream(STREAM, stream)
}

pub(super) fn again(stream: StreamId) -> [u8; 17] {
    of_stream(AGAIN, stream)
}

pub(super) fn refusals(stream: StreamId) -> [u8; 17] {
    of_stream(REFUSALS, stream)
}

fn of_stream(table: u8, stream: StreamId) -> [u8; 17] {
    let mut key = [table; 17];
    key[1..].copy_from_slice(stream.as_bytes());
    key
}

pub(super) fn loss(stream: StreamId, first: Seq) -> [u8; 25] {
    let mut key = [LOSS; 25];
    key[1..17].copy_from_slice(stream.as_bytes());
    key[17..].copy_from_slice(&first.get().to_be_bytes());
    key
}

pub(super) fn summary(stream: StreamId, number: u32) -> [u8; 21] {
    let mut key = [SUMMARY; 21];
    key[1..17].copy_from_slice(stream.as_bytes());
    key[17..].copy_from_slice(&number.to_be_bytes());
    key
}

pub(super) fn event_ids(number: u32) -> [u8; 5] {
    let mut key = [EVENT_IDS; 5];
    key[1..].copy_from_slice(&number.to_be_bytes());
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(stream: u8, first: u64) -> ChunkKey {
        ChunkKey {
            stream: StreamId::from_bytes([stream; 16]),
            range: SeqRange::from_count(Seq::new(first).unwrap(), 64).unwrap(),
            event_min: EventTime::from_millis(1_743_848_130_000),
            event_max: EventTime::from_millis(1_743_848_190_000),
        }
    }

    #[test]
    fn every_key_is_read_back() {
        let id = StreamId::from_bytes([7; 16]);
        let seq = Seq::new(900).unwrap();
        let key = chunk(7, 900);
        for (bytes, read) in [
            (key.encode().to_vec(), Key::Chunk(key)),
            (key.encode_aside().to_vec(), Key::Aside(key)),
            (stream(id).to_vec(), Key::Stream(id)),
            (again(id).to_vec(), Key::Again(id)),
            (refusals(id).to_vec(), Key::Refusals(id)),
            (loss(id, seq).to_vec(), Key::Loss(id, seq)),
            (summary(id, 3).to_vec(), Key::Summary(id, 3)),
            (event_ids(9).to_vec(), Key::EventIds(9)),
            (FACT_RUN.to_vec(), Key::Fact),
            (GENERATION.to_vec(), Key::Generation),
        ] {
            assert_eq!(Key::decode(&bytes), Some(read));
            assert_eq!(Key::decode(&bytes[..bytes.len() - 1]), {
                // A fact has any name; everything else has one length.
                if bytes[0] == 0 { Some(Key::Fact) } else { None }
            });
        }
    }

    #[test]
    fn chunks_sort_by_stream_then_by_number() {
        assert!(chunk(1, 255).encode() < chunk(1, 256).encode());
        assert!(chunk(1, u64::from(u32::MAX)).encode() < chunk(2, 1).encode());
    }

    #[test]
    fn unknown_tables_are_not_misread() {
        assert_eq!(Key::decode(&[0x77, 1, 2]), None);
        assert_eq!(Key::decode(&[]), None);
    }
}
