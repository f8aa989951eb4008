//! Raw passages as rows of `COPY passage FROM STDIN (FORMAT binary)`.
//!
//! Made on the decoding threads, before it is known which keys device and stream have: both stand at
//! a fixed place in each row and are written there when the row is copied out.
//!
//! PostgreSQL documentation, "COPY", binary format: fields are preceded by their length, big endian;
//! timestamps are microseconds since 2000-01-01.

use bytes::{BufMut, BytesMut};
use proto::batch::PassageBatch;
use proto::plate::Plate;
use proto::ranges::Seq;

/// The columns, in the order in which [`Rows::push`] writes them.
pub const COPY_STATEMENT: &str = "COPY passage (event_time, seq, device_key, stream_key, \
    speed_ckmh, lane, direction, vehicle_class, length_cm, speed_limit_kmh, confidence_permille, \
    violation, plate, plate_hash, extra) FROM STDIN (FORMAT binary)";

const COLUMNS: i16 = 15;

/// Begins every binary COPY: signature, flags, length of the header's extension.
pub const COPY_HEADER: &[u8; 19] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// Ends every binary COPY.
pub const COPY_TRAILER: &[u8; 2] = b"\xff\xff";

/// Microseconds from 1970 to 2000.
const POSTGRES_EPOCH_US: i64 = 946_684_800_000_000;

/// From the start of a row to the values of its keys: the number of columns, then event time and
/// sequence number with 4 + 8 bytes each, then a length, a key, a length, a key.
const DEVICE_KEY_AT: usize = 2 + 12 + 12 + 4;
const STREAM_KEY_AT: usize = DEVICE_KEY_AT + 4 + 4;

/// Version of PostgreSQL's binary form of jsonb.
const JSONB_VERSION: u8 = 1;

/// What a row takes at least, for reserving.
const ROW_BYTES: usize = 96;

/// Rows whose keys are still missing.
#[derive(Debug, Clone, Default)]
pub struct Rows {
    bytes: Vec<u8>,
    starts: Vec<u32>,
}

impl Rows {
    /// Room for so many.
    #[must_use]
    pub fn with_capacity(rows: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(rows * ROW_BYTES),
            starts: Vec::with_capacity(rows),
        }
    }

    /// All passages of a batch whose first number is `first`.
    #[must_use]
    pub fn of_batch(batch: &PassageBatch, first: Seq) -> Self {
        let mut rows = Self::with_capacity(batch.len());
        for (place, seq) in (0..batch.len()).zip(first.get()..) {
            rows.push(batch, place, seq);
        }
        rows
    }

    /// How many.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.starts.len()
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// Their bytes.
    #[must_use]
    pub const fn byte_len(&self) -> usize {
        self.bytes.len()
    }

    /// Appends the passage at a place of a batch.
    pub fn push(&mut self, batch: &PassageBatch, place: usize, seq: u64) {
        let passage = batch.passage(place);
        self.starts
            .push(u32::try_from(self.bytes.len()).unwrap_or(u32::MAX));
        let out = &mut self.bytes;
        out.put_i16(COLUMNS);
        out.put_i32(8);
        out.put_i64(passage.event_time.as_millis() * 1_000 - POSTGRES_EPOCH_US);
        out.put_i32(8);
        out.put_u64(seq);
        out.put_i32(4);
        out.put_i32(0);
        out.put_i32(4);
        out.put_i32(0);
        match passage.speed {
            Some(speed) => {
                out.put_i32(4);
                out.put_i32(i32::from(speed.centi_kmh()));
            }
            None => out.put_i32(NULL),
        }
        put_small(out, passage.lane.map(|lane| i16::from(lane.get())));
        put_small(
            out,
            passage
                .direction
                .map(|direction| i16::from(direction.code())),
        );
        put_small(
            out,
            passage.vehicle_class.map(|class| i16::from(class.get())),
        );
        put_small(
            out,
            passage
                .length
                .and_then(|length| i16::try_from(length.get()).ok()),
        );
        put_small(out, passage.speed_limit.map(|limit| i16::from(limit.get())));
        put_small(
            out,
            passage.confidence.and_then(|c| i16::try_from(c.get()).ok()),
        );
        out.put_i32(1);
        out.put_u8(u8::from(passage.violation));
        match &passage.plate {
            Plate::Absent => {
                out.put_i32(NULL);
                out.put_i32(NULL);
            }
            Plate::Text(text) => {
                put_bytes(out, text.as_str().as_bytes());
                out.put_i32(NULL);
            }
            Plate::Hash(hash) => {
                out.put_i32(NULL);
                put_bytes(out, hash);
            }
        }
        match &passage.extra {
            Some(extra) => {
                out.put_i32(1 + i32::try_from(extra.len()).unwrap_or(i32::MAX));
                out.put_u8(JSONB_VERSION);
                out.put_slice(extra.as_bytes());
            }
            None => out.put_i32(NULL),
        }
    }

    /// Appends the rows to `out` with their keys.
    pub fn copy_to(&self, out: &mut BytesMut, device_key: i32, stream_key: i32) {
        let base = out.len();
        out.put_slice(&self.bytes);
        for start in &self.starts {
            let row = base + *start as usize;
            let (device, stream) = (row + DEVICE_KEY_AT, row + STREAM_KEY_AT);
            out[device..device + 4].copy_from_slice(&device_key.to_be_bytes());
            out[stream..stream + 4].copy_from_slice(&stream_key.to_be_bytes());
        }
    }
}

#[cfg(test)]
impl Rows {
    /// The sequence number in each row.
    pub(crate) fn seqs(&self) -> impl Iterator<Item = u64> {
        self.starts.iter().map(|start| {
            let at = *start as usize + 2 + 12 + 4;
            u64::from_be_bytes(self.bytes[at..at + 8].try_into().unwrap())
        })
    }
}

const NULL: i32 = -1;

fn put_small(out: &mut Vec<u8>, value: Option<i16>) {
    match value {
        Some(value) => {
            out.put_i32(2);
            out.put_i16(value);
        }
        None => out.put_i32(NULL),
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.put_i32(i32::try_from(bytes.len()).unwrap_or(i32::MAX));
    out.put_slice(bytes);
}

#[cfg(test)]
mod tests {
    use proto::passage::{EventTime, Passage};

    use super::*;

    #[test]
    fn keys_are_written_into_every_row() {
        let batch: PassageBatch = (0..3)
            .map(|n| Passage {
                event_time: EventTime::from_millis(n * 1_000),
                extra: (n == 1).then(|| r#"{"a":1}"#.into()),
                ..Passage::default()
            })
            .collect();
        let rows = Rows::of_batch(&batch, Seq::FIRST);
        let mut out = BytesMut::from(&COPY_HEADER[..]);
        rows.copy_to(&mut out, 0x0102_0304, 0x0506_0708);
        let device: Vec<usize> = places(&out, &[0, 0, 0, 4, 1, 2, 3, 4]);
        let stream: Vec<usize> = places(&out, &[0, 0, 0, 4, 5, 6, 7, 8]);
        assert_eq!((rows.len(), device.len(), stream.len()), (3, 3, 3));
        assert!(
            device
                .iter()
                .zip(&stream)
                .all(|(device, stream)| device + 8 == *stream)
        );
    }

    fn places(text: &[u8], wanted: &[u8]) -> Vec<usize> {
        text.windows(wanted.len())
            .enumerate()
            .filter_map(|(place, window)| (window == wanted).then_some(place))
            .collect()
    }
}
