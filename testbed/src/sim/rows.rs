//! ● Raw rows of a binary COPY, read back field by field.
//!
//! PostgreSQL documentation, "COPY", binary format. The columns are those of
//! `aggregator/src/intake/rows.rs`; what is read here shares no code with what wrote it.

use crate::recompute::Fact;
use crate::recompute::event::{PlateFact, canonical};

/// Microseconds from 1970 to 2000.
const POSTGRES_EPOCH_US: i64 = 946_684_800_000_000;

/// One row.
#[derive(Debug, Clone)]
pub(super) struct RawRow {
    pub(super) device_key: i32,
    pub(super) stream_key: i32,
    pub(super) seq: u64,
    pub(super) fact: Fact,
}

/// Reads rows up to the end of the bytes, or to what is no row.
pub(super) fn read_rows(bytes: &[u8]) -> Vec<RawRow> {
    let mut rest = bytes;
    std::iter::from_fn(|| row(&mut rest)).collect()
}

fn row(rest: &mut &[u8]) -> Option<RawRow> {
    let (columns, fields) = rest.split_first_chunk::<2>()?;
    if i16::from_be_bytes(*columns) != 15 {
        return None;
    }
    *rest = fields;
    let event_us = i64::from_be_bytes(fixed(rest)?) + POSTGRES_EPOCH_US;
    let seq = u64::from_be_bytes(fixed(rest)?);
    let device_key = i32::from_be_bytes(fixed(rest)?);
    let stream_key = i32::from_be_bytes(fixed(rest)?);
    let speed_ckmh = field(rest)?
        .and_then(|bytes| bytes.try_into().ok())
        .map(i32::from_be_bytes);
    let mut small = || -> Option<Option<i16>> {
        Some(
            field(rest)?
                .and_then(|bytes| bytes.try_into().ok())
                .map(i16::from_be_bytes),
        )
    };
    let (lane, direction, vehicle_class) = (small()?, small()?, small()?);
    let (length_cm, speed_limit_kmh, confidence_permille) = (small()?, small()?, small()?);
    let violation = field(rest)? == Some(&[1]);
    let text = field(rest)?.map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    let hash = field(rest)?.map(<[u8]>::to_vec);
    // The first byte is the version of jsonb.
    let extra = field(rest)?.and_then(|bytes| serde_json::from_slice(bytes.get(1..)?).ok());
    let plate = match (text, hash) {
        (Some(text), _) => PlateFact::Text(text),
        (None, Some(hash)) => PlateFact::Hash(hash),
        (None, None) => PlateFact::Absent,
    };
    let fact = Fact {
        event_ms: event_us / 1_000,
        speed_ckmh,
        lane,
        direction,
        vehicle_class,
        length_cm,
        speed_limit_kmh,
        confidence_permille,
        violation,
        plate,
        extra: extra.map(|value| canonical(&value)),
    };
    Some(RawRow {
        device_key,
        stream_key,
        seq,
        fact,
    })
}

/// The next field; the inner none is NULL.
fn field<'a>(rest: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    let (length, behind) = rest.split_first_chunk::<4>()?;
    let length = i32::from_be_bytes(*length);
    *rest = behind;
    let Ok(length) = usize::try_from(length) else {
        return Some(None);
    };
    let (value, behind) = behind.split_at_checked(length)?;
    *rest = behind;
    Some(Some(value))
}

fn fixed<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    field(rest)??.try_into().ok()
}
