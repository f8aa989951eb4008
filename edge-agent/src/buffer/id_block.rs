//! One value of the store: up to 64 event ids, and of which passages they are.
//!
//! ```text
//! bytes 0 to 3    "VID1"
//! bytes 4 and 5   length of the value, little endian
//! bytes 6 to 9    crc32c, little endian, of the length and of everything behind this
//! bytes 10 to 13  number of the block, little endian
//! then            the block, as postcard
//! ```
//! Like a chunk it says by itself what it is, so that it is found in the bytes of a damaged store. There
//! it may stand for passages that never became durable. Their ids must not be believed: a post that is
//! tried again would be called a duplicate of something that nobody has. So each id names its passage.
//!
//! Pure.

use proto::StreamId;
use serde::{Deserialize, Serialize};

use super::records::{from_bytes, to_bytes};

/// What a value begins with.
pub(super) const MAGIC: &[u8; 4] = b"VID1";

const LENGTH_AT: usize = 4;
const CRC_AT: usize = 6;
const NUMBER_AT: usize = 10;
const HEAD_BYTES: usize = 14;

/// An `event_id`, hashed.
pub(super) type Id = [u8; 16];

/// A block of event ids in the order of their acceptance.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct IdBlock {
    /// When the newest of them was accepted, in ms of the time by which ids age.
    pub(super) newest_ms: i64,
    ids: Vec<Id>,
    /// Their passages, in the same order.
    spans: Vec<Span>,
}

/// Consecutive passages of one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Span {
    stream: StreamId,
    first: u64,
    count: u32,
}

/// A passage by its stream and its number in it.
pub(super) type PassageNumber = (StreamId, u64);

impl IdBlock {
    /// Adds the id of a passage.
    pub(super) fn push(&mut self, id: Id, (stream, seq): PassageNumber) {
        self.ids.push(id);
        match self.spans.last_mut() {
            Some(last) if last.stream == stream && last.first + u64::from(last.count) == seq => {
                last.count += 1;
            }
            _ => self.spans.push(Span {
                stream,
                first: seq,
                count: 1,
            }),
        }
    }

    pub(super) fn ids(&self) -> &[Id] {
        &self.ids
    }

    /// The ids with their passages.
    pub(super) fn entries(&self) -> impl Iterator<Item = (Id, PassageNumber)> {
        let passages = self.spans.iter().flat_map(|span| {
            (0..u64::from(span.count)).map(|step| (span.stream, span.first.saturating_add(step)))
        });
        self.ids.iter().copied().zip(passages)
    }

    /// The value of the block with this number.
    pub(super) fn encode(&self, number: u32) -> Vec<u8> {
        let body = to_bytes(self);
        let length = u16::try_from(HEAD_BYTES + body.len()).unwrap_or(u16::MAX);
        let mut value = Vec::with_capacity(HEAD_BYTES + body.len());
        value.extend_from_slice(MAGIC);
        value.extend_from_slice(&length.to_le_bytes());
        value.extend_from_slice(&[0; 4]);
        value.extend_from_slice(&number.to_le_bytes());
        value.extend_from_slice(&body);
        let crc = checksum(&value);
        value[CRC_AT..NUMBER_AT].copy_from_slice(&crc.to_le_bytes());
        value
    }

    /// The block with this number, if the value is that.
    pub(super) fn decode(number: u32, value: &[u8]) -> Option<Self> {
        let (found, block, bytes) = Self::open(value)?;
        (found == number && bytes == value.len()).then_some(block)
    }

    /// The block whose value begins where these bytes do, its number, and how long the value is.
    pub(super) fn open(bytes: &[u8]) -> Option<(u32, Self, usize)> {
        let head = bytes.get(..HEAD_BYTES)?;
        if !head.starts_with(MAGIC) {
            return None;
        }
        let length = usize::from(u16::from_le_bytes([head[LENGTH_AT], head[LENGTH_AT + 1]]));
        let value = bytes.get(..length.max(HEAD_BYTES))?;
        if checksum(value).to_le_bytes() != value[CRC_AT..NUMBER_AT] {
            return None;
        }
        let number = u32::from_le_bytes(head[NUMBER_AT..].try_into().ok()?);
        Some((number, from_bytes(&value[HEAD_BYTES..]).ok()?, value.len()))
    }
}

fn checksum(value: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&value[LENGTH_AT..CRC_AT]);
    crc32c::crc32c_append(crc, &value[NUMBER_AT..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block() -> (IdBlock, Vec<(Id, PassageNumber)>) {
        let stream = |n| StreamId::from_bytes([n; 16]);
        let passages = [(1, 7), (1, 8), (1, 10), (2, 11), (2, 12), (1, 11)];
        let entries = (0..).zip(passages);
        let entries: Vec<_> = entries
            .map(|(n, (of, seq))| ([n; 16], (stream(of), seq)))
            .collect();
        let mut block = IdBlock {
            newest_ms: 5,
            ..IdBlock::default()
        };
        entries.iter().for_each(|(id, at)| block.push(*id, *at));
        (block, entries)
    }

    #[test]
    fn every_id_names_its_passage() {
        let (block, entries) = block();
        assert_eq!(block.spans.len(), 4, "neighbours share one");
        assert_eq!(block.entries().collect::<Vec<_>>(), entries);
    }

    #[test]
    fn a_value_says_what_it_is_and_every_flipped_bit_and_every_cut_is_found() {
        let (block, _) = block();
        let value = block.encode(9);
        assert_eq!(IdBlock::decode(9, &value), Some(block.clone()));
        assert_eq!(IdBlock::decode(8, &value), None);
        let longer = [value.as_slice(), b"more"].concat();
        assert_eq!(IdBlock::open(&longer), Some((9, block, value.len())));
        for place in 0..value.len() {
            let mut damaged = value.clone();
            damaged[place] ^= 1 << (place % 8);
            assert_eq!(IdBlock::open(&damaged), None, "byte {place}");
            assert_eq!(IdBlock::open(&value[..place]), None, "cut at {place}");
        }
    }
}
