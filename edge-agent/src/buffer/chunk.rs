//! One value of the store: up to 64 passages in columns, with a checksum.
//!
//! ```text
//! bytes 0 to 3    "VCH2"
//! byte  4         codec: 0 plain, 1 zstd
//! bytes 5 and 6   length of the value, little endian
//! bytes 7 to 10   crc32c, little endian, of everything else from the codec on
//! bytes 11 to 51  the key, without its table
//! then            the passages as `PassageBatch::encode` writes them
//! ```
//! A value says by itself what it is, so that it is found out in the wrong place, and found in the
//! bytes of a store that no longer opens ([`super::salvage`]). The columns are as dense as zstd would
//! make them; only free text (`extra`) is worth compressing again.
//!
//! Pure.

use proto::{PassageBatch, codec};

use super::keys::{CHUNK_PASSAGES_MAX, ChunkKey};

/// A value of the store, at most. Leaves of sled hold up to 17 values and go to a file of their
/// own, which nobody syncs, from 128 KiB on.
pub(super) const VALUE_BYTES_MAX: usize = 6 * 1024;

/// Estimated bytes at which a chunk is closed before it has 64 passages. One passage more, whose
/// `extra` may have 2 KiB, still leaves it below [`VALUE_BYTES_MAX`].
pub(super) const CHUNK_BYTES_CLOSE: usize = 3 * 1024;

/// What a passage without `extra` takes in a chunk, at most: every column, unpacked, and a plate as
/// text.
pub(super) const PASSAGE_BYTES_ESTIMATE: usize = 40;

/// What a value begins with.
pub(super) const MAGIC: &[u8; 4] = b"VCH2";
const CODEC_PLAIN: u8 = 0;
const CODEC_ZSTD: u8 = 1;
const KEY_BYTES: usize = ChunkKey::BYTES - 1;

/// Where the parts of the head are.
const CODEC_AT: usize = 4;
const LENGTH_AT: usize = 5;
const CRC_AT: usize = 7;
const KEY_AT: usize = 11;
const HEAD_BYTES: usize = KEY_AT + KEY_BYTES;

/// Unpacked bytes of a chunk, at most: 64 passages of 2 KiB and their columns.
const UNPACKED_BYTES_MAX: usize = CHUNK_PASSAGES_MAX * 4 * 1024;

/// A value that is not what was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum ChunkError {
    #[error("value of {0} bytes is cut short")]
    Short(usize),
    #[error("checksum is wrong")]
    Checksum,
    #[error("not a chunk of this layout")]
    Layout,
    #[error("is that of the passages {0}")]
    Elsewhere(proto::SeqRange),
    #[error("codec {0} is not known")]
    Codec(u8),
    #[error("does not decompress")]
    Compression,
    #[error(transparent)]
    Batch(#[from] proto::batch::BatchError),
    #[error("value is missing")]
    Missing,
}

pub(super) fn encode(key: &ChunkKey, batch: &PassageBatch) -> Vec<u8> {
    let plain = batch.encode();
    let has_text = (0..batch.len()).any(|place| batch.extra_at(place).is_some());
    let packed = has_text
        .then(|| codec::compress(&plain))
        .flatten()
        .filter(|packed| packed.len() < plain.len());
    let (codec, payload) = packed
        .as_deref()
        .map_or((CODEC_PLAIN, plain.as_slice()), |packed| {
            (CODEC_ZSTD, packed)
        });
    let mut value = Vec::with_capacity(HEAD_BYTES + payload.len());
    value.extend_from_slice(MAGIC);
    value.push(codec);
    let bytes = HEAD_BYTES + payload.len();
    value.extend_from_slice(&u16::try_from(bytes).unwrap_or(u16::MAX).to_le_bytes());
    value.extend_from_slice(&[0; 4]);
    value.extend_from_slice(&key.encode()[1..]);
    value.extend_from_slice(payload);
    let crc = checksum(&value);
    value[CRC_AT..KEY_AT].copy_from_slice(&crc.to_le_bytes());
    value
}

pub(super) fn decode(key: &ChunkKey, value: &[u8]) -> Result<PassageBatch, ChunkError> {
    let (found, whole) = open(value)?;
    if found != *key {
        return Err(ChunkError::Elsewhere(found.range));
    }
    if whole.len() != value.len() {
        return Err(ChunkError::Checksum);
    }
    let payload = &value[HEAD_BYTES..];
    let count = usize::try_from(key.range.count()).unwrap_or(usize::MAX);
    match value[CODEC_AT] {
        CODEC_PLAIN => Ok(PassageBatch::decode(payload, count)?),
        CODEC_ZSTD => {
            let plain =
                codec::decompress(payload, UNPACKED_BYTES_MAX).ok_or(ChunkError::Compression)?;
            Ok(PassageBatch::decode(&plain, count)?)
        }
        other => Err(ChunkError::Codec(other)),
    }
}

/// The value that begins where these bytes do, and the key that it was written under.
pub(super) fn open(bytes: &[u8]) -> Result<(ChunkKey, &[u8]), ChunkError> {
    let head = bytes
        .get(..HEAD_BYTES)
        .ok_or(ChunkError::Short(bytes.len()))?;
    if !head.starts_with(MAGIC) {
        return Err(ChunkError::Layout);
    }
    let length = usize::from(u16::from_le_bytes([head[LENGTH_AT], head[LENGTH_AT + 1]]));
    let value = bytes
        .get(..length.max(HEAD_BYTES))
        .ok_or(ChunkError::Short(bytes.len()))?;
    if checksum(value).to_le_bytes() != value[CRC_AT..KEY_AT] {
        return Err(ChunkError::Checksum);
    }
    let key = ChunkKey::decode_part(&head[KEY_AT..]).ok_or(ChunkError::Layout)?;
    Ok((key, value))
}

fn checksum(value: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&value[CODEC_AT..CRC_AT]);
    crc32c::crc32c_append(crc, &value[KEY_AT..])
}

#[cfg(test)]
mod tests {
    use proto::passage::{EventTime, Passage};
    use proto::ranges::{Seq, SeqRange};
    use proto::{Plate, Speed, StreamId};

    use super::*;

    fn chunk(extra: Option<&str>) -> (ChunkKey, PassageBatch) {
        let batch: PassageBatch = (0..40)
            .map(|n| Passage {
                event_time: EventTime::from_millis(1_743_848_130_000 + n * 700),
                speed: Speed::from_kmh(60.0 + f64::from(i32::try_from(n).unwrap())).ok(),
                plate: Plate::Hash([u8::try_from(n).unwrap(); 8]),
                extra: extra.map(Into::into),
                ..Passage::default()
            })
            .collect();
        let (event_min, event_max) = batch.event_span().unwrap();
        let key = ChunkKey {
            stream: StreamId::from_bytes([3; 16]),
            range: SeqRange::from_count(Seq::new(65).unwrap(), 40).unwrap(),
            event_min,
            event_max,
        };
        (key, batch)
    }

    #[test]
    fn a_chunk_is_read_back_with_and_without_free_text() {
        for extra in [None, Some(r#"{"weather":"snow","operator":"north"}"#)] {
            let (key, batch) = chunk(extra);
            let value = encode(&key, &batch);
            assert_eq!(
                value[CODEC_AT],
                u8::from(extra.is_some()),
                "only text is compressed"
            );
            assert_eq!(decode(&key, &value), Ok(batch));
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_found() {
        let (key, batch) = chunk(None);
        let value = encode(&key, &batch);
        for place in 0..value.len() {
            let mut damaged = value.clone();
            damaged[place] ^= 1 << (place % 8);
            assert!(decode(&key, &damaged).is_err(), "byte {place}");
            assert!(decode(&key, &value[..place]).is_err(), "cut at {place}");
        }
    }

    #[test]
    fn a_value_in_the_place_of_another_is_found() {
        let (key, batch) = chunk(None);
        let value = encode(&key, &batch);
        let range = SeqRange::from_count(Seq::new(129).unwrap(), 40).unwrap();
        assert_eq!(
            decode(&ChunkKey { range, ..key }, &value),
            Err(ChunkError::Elsewhere(key.range))
        );
    }
}
