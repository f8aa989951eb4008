//! Chunks and event ids in the bytes of a store that does not open, or that lost them: each value says
//! by itself what it is ([`super::chunk`], [`super::id_block`]).
//!
//! What is found may have been sent, counted, even deleted before. That is harmless: it keeps its
//! stream and its number, and the centre counts a number once.
//!
//! sled wipes what stands behind a damaged place at the end of its log when it opens. So the newest
//! segments are read before that, and looked through as well ([`newest_segments`]).

use std::fs::File;
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::chunk::{self, VALUE_BYTES_MAX};
use super::id_block::{self, IdBlock};
use super::keys::ChunkKey;

/// sled's unit of space.
const SEGMENT_BYTES: u64 = 512 * 1024;

/// Bytes of a segment's header: a checksum, its place in the log, and how far that is stable.
const SEGMENT_HEADER_BYTES: usize = 20;

/// sled hides places in the log behind this.
const LSN_MASK: u64 = 0x7FFF_FFFF_FFFF_FFFF;

/// Segments that are kept: 8 MiB for the time of the opening, the last 700,000 passages.
const SEGMENTS_KEPT_MAX: usize = 16;

/// What a value begins with.
const MAGIC_BYTES: usize = chunk::MAGIC.len();

/// Bytes that are looked through at once.
const LOOK_BYTES: usize = 1024 * 1024;

/// The segments of sled's file that were written last.
pub(super) fn newest_segments(main_file: &Path) -> Vec<Vec<u8>> {
    let Ok(file) = File::open(main_file) else {
        return Vec::new();
    };
    let bytes = file.metadata().map_or(0, |metadata| metadata.len());
    let mut segments: Vec<(u64, u64)> = (0..bytes.div_ceil(SEGMENT_BYTES))
        .map(|number| number * SEGMENT_BYTES)
        .filter_map(|at| {
            let mut header = [0; SEGMENT_HEADER_BYTES];
            file.read_exact_at(&mut header, at).ok()?;
            let lsn: [u8; 8] = header[4..12].try_into().ok()?;
            Some((u64::from_le_bytes(lsn) ^ LSN_MASK, at))
        })
        .filter(|(lsn, _)| lsn.is_multiple_of(SEGMENT_BYTES))
        .collect();
    segments.sort_unstable_by(|a, b| b.cmp(a));
    segments.truncate(SEGMENTS_KEPT_MAX);
    let read = segments.into_iter().map(|(_, at)| {
        let length = SEGMENT_BYTES.min(bytes - at);
        let mut segment = vec![0; usize::try_from(length).unwrap_or(0)];
        file.read_exact_at(&mut segment, at).ok()?;
        Some(segment)
    });
    read.flatten().collect()
}

/// What was found in the bytes.
#[derive(Debug)]
pub(super) enum Found<'a> {
    /// A chunk with its key, sound as its checksum says.
    Chunk(ChunkKey, &'a [u8]),
    /// A block of event ids with its number, likewise.
    Ids(u32, IdBlock),
    /// What begins like a chunk and is none: damaged, or written over in part.
    Broken,
}

/// Calls `take` with each value in the bytes, in no order, until it breaks off.
pub(super) fn values_in(
    mut source: impl Read,
    mut take: impl FnMut(Found<'_>) -> ControlFlow<()>,
) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(LOOK_BYTES + VALUE_BYTES_MAX);
    loop {
        let mut next = source.by_ref().take(LOOK_BYTES as u64);
        let is_end = next.read_to_end(&mut bytes)? == 0;
        // What may be cut short is looked at with what comes next.
        let until = if is_end {
            bytes.len()
        } else {
            bytes.len().saturating_sub(VALUE_BYTES_MAX)
        };
        let mut at = 0;
        while at < until {
            let Some(found) = find_magic(&bytes[at..]) else {
                at = until.max(at);
                break;
            };
            at += found;
            if at >= until {
                break;
            }
            let (found, length) = value_at(&bytes[at..]);
            if let Some(found) = found
                && take(found).is_break()
            {
                return Ok(());
            }
            at += length;
        }
        if is_end {
            return Ok(());
        }
        bytes.drain(..at.min(bytes.len()));
    }
}

/// The value that begins where these bytes do, and how far to go on.
fn value_at(bytes: &[u8]) -> (Option<Found<'_>>, usize) {
    if let Ok((key, value)) = chunk::open(bytes) {
        return (Some(Found::Chunk(key, value)), value.len());
    }
    match IdBlock::open(bytes) {
        Some((number, block, length)) => (Some(Found::Ids(number, block)), length),
        None if bytes.starts_with(chunk::MAGIC) => (Some(Found::Broken), MAGIC_BYTES),
        None => (None, MAGIC_BYTES),
    }
}

fn find_magic(bytes: &[u8]) -> Option<usize> {
    bytes
        .windows(MAGIC_BYTES)
        .position(|window| window == chunk::MAGIC || window == id_block::MAGIC)
}

#[cfg(test)]
mod tests {
    use proto::passage::{EventTime, Passage};
    use proto::ranges::{Seq, SeqRange};
    use proto::{PassageBatch, StreamId};

    use super::*;

    fn value(first: u64) -> (ChunkKey, Vec<u8>) {
        let batch: PassageBatch = (0..64)
            .map(|n| Passage {
                event_time: EventTime::from_millis(1_743_848_130_000 + n),
                ..Passage::default()
            })
            .collect();
        let (event_min, event_max) = batch.event_span().unwrap();
        let key = ChunkKey {
            stream: StreamId::from_bytes([3; 16]),
            range: SeqRange::from_count(Seq::new(first).unwrap(), 64).unwrap(),
            event_min,
            event_max,
        };
        let value = chunk::encode(&key, &batch);
        (key, value)
    }

    #[test]
    fn of_a_long_log_the_segments_that_were_written_last_are_kept() {
        use std::os::unix::fs::FileExt as _;

        let file = tempfile::NamedTempFile::new().unwrap();
        let count = SEGMENTS_KEPT_MAX as u64 + 4;
        file.as_file().set_len(count * SEGMENT_BYTES).unwrap();
        // They lie in the file in another order than in the log.
        for place in 0..count {
            let lsn = (place * 7 % count * SEGMENT_BYTES) ^ LSN_MASK;
            let header = lsn.to_le_bytes();
            let at = place * SEGMENT_BYTES + 4;
            file.as_file().write_all_at(&header, at).unwrap();
        }
        let kept = newest_segments(file.path());
        let lsn_of = |segment: &Vec<u8>| {
            let lsn: [u8; 8] = segment[4..12].try_into().unwrap();
            (u64::from_le_bytes(lsn) ^ LSN_MASK) / SEGMENT_BYTES
        };
        let kept: Vec<u64> = kept.iter().map(lsn_of).collect();
        assert_eq!(kept, (4..count).rev().collect::<Vec<_>>());
    }

    #[test]
    fn every_sound_value_is_found_wherever_it_lies() {
        let mut bytes = Vec::new();
        let (mut expected, mut blocks) = (Vec::new(), Vec::new());
        for n in 0..4_000_u64 {
            let (key, mut value) = value(1 + n * 64);
            bytes.extend(chunk::MAGIC);
            bytes.extend(vec![0xA5; usize::try_from(n % 97 * 11).unwrap()]);
            if n % 10 == 0 {
                value[20] ^= 1;
            } else {
                expected.push(key);
            }
            bytes.extend(value);
            if n % 7 == 0 {
                let mut block = IdBlock::default();
                block.push([9; 16], (StreamId::from_bytes([3; 16]), n));
                let number = u32::try_from(n).unwrap();
                bytes.extend(block.encode(number));
                blocks.push((number, block));
            }
        }
        assert!(bytes.len() > 2 * LOOK_BYTES);
        let (mut found, mut found_blocks, mut broken) = (Vec::new(), Vec::new(), 0);
        values_in(bytes.as_slice(), |value| {
            match value {
                Found::Chunk(key, value) => {
                    chunk::decode(&key, value).unwrap();
                    found.push(key);
                }
                Found::Ids(number, block) => found_blocks.push((number, block)),
                Found::Broken => broken += 1,
            }
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!((found, found_blocks), (expected, blocks));
        // Those with a flipped bit, and the lone beginnings before each.
        assert_eq!(broken, 400 + 4_000);
    }

    #[test]
    fn whoever_has_enough_hears_of_nothing_more() {
        let bytes = [value(1).1, value(65).1, value(129).1].concat();
        let mut found = 0;
        let enough = |_: Found<'_>| {
            found += 1;
            if found == 2 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        values_in(bytes.as_slice(), enough).unwrap();
        assert_eq!(found, 2);
    }
}
