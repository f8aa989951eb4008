//! What lies are made of: true parts, parts at the end of their range, and frames that no encoder
//! makes.

use anyhow::{Context as _, Result};
use proto::frame::Up;
use proto::header::{Frontier, UpHeader};
use proto::heartbeat::{Backlog, CameraLink, Disk, Heartbeat, HeldStream};
use proto::limits::EVENT_MS_MAX;
use proto::loss::{Loss, LossReason, LossScope, Losses};
use proto::plate::{Plate, PlateText};
use proto::{EventTime, Passage, PassageBatch, Seq, SeqRange, SeqSet, StreamId};

use super::super::PLATE;
use crate::clock;

const HOUR_MS: i64 = 3_600_000;

/// A header that is true of `count` passages from 1 on.
pub(super) fn header(stream: StreamId, count: u32, counter: u64) -> UpHeader {
    let now_ms = clock::unix_ms();
    UpHeader {
        stream,
        first: Seq::FIRST,
        count,
        accepted_to: u64::from(count),
        frontier: Frontier {
            before: EventTime::from_millis(now_ms - HOUR_MS),
            run: 1,
            counter,
        },
        sent_at: EventTime::from_millis(now_ms),
    }
}

/// A frame that says of itself that its header has so many bytes, with a good checksum.
pub(super) fn with_header_of(mut frame: Vec<u8>, bytes: u8) -> Vec<u8> {
    frame[3] = bytes;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&frame[..4]), &frame[8..]);
    frame[4..8].copy_from_slice(&crc.to_le_bytes());
    frame
}

/// Ten passages with a plate, of which the last one says this besides.
pub(super) fn with_extra(event_ms: i64, extra: &str) -> Result<Up> {
    let mut passages = batch(9, event_ms);
    passages.push(&Passage {
        event_time: EventTime::from_millis(event_ms),
        plate: Plate::Text(PlateText::new(PLATE)?),
        extra: (!extra.is_empty()).then(|| extra.into()),
        ..Passage::default()
    });
    Ok(Up::Passages(passages))
}

pub(super) fn batch(passages: u32, event_ms: i64) -> PassageBatch {
    let passage = |n| Passage {
        event_time: EventTime::from_millis(event_ms.saturating_sub(i64::from(n)).max(0)),
        ..Passage::default()
    };
    (0..passages).map(passage).collect()
}

/// A frame with any parts and a good checksum.
pub(super) fn forged(
    version: u8,
    kind: u8,
    codec: u8,
    header: &UpHeader,
    body: &[u8],
) -> Result<Vec<u8>> {
    let sealed = Up::Passages(batch(1, 0)).encode(header);
    let header_bytes = usize::from(*sealed.get(3).context("a frame has a length")?);
    let header = sealed
        .get(8..8 + header_bytes)
        .context("a frame has a header")?;
    let prefix = [version, kind, codec, u8::try_from(header_bytes)?];
    let crc = crc32c::crc32c(&prefix);
    let crc = crc32c::crc32c_append(crc32c::crc32c_append(crc, header), body);
    Ok([&prefix[..], &crc.to_le_bytes(), header, body].concat())
}

pub(super) fn heartbeat(held: Vec<HeldStream>) -> Heartbeat {
    Heartbeat {
        held,
        backlog: Backlog {
            passages: u64::MAX,
            bytes: u64::MAX,
            oldest: Some(EventTime::from_millis(i64::MIN)),
            newest: Some(EventTime::from_millis(i64::MAX)),
            drain_per_min: Some(i64::MIN),
        },
        camera: CameraLink::LastPostAt(EventTime::from_millis(EVENT_MS_MAX)),
        clock_offset_ms: Some(i64::MIN),
        agent_version: "0.1.0'; DROP TABLE device; --".to_owned(),
        disk: Disk {
            used_bytes: u64::MAX,
            quota_bytes: u64::MAX,
            free_bytes: u64::MAX,
        },
    }
}

pub(super) fn held(stream: StreamId, accepted_to: u64) -> HeldStream {
    HeldStream {
        stream,
        accepted_to,
        released: SeqSet::new(),
        held: SeqSet::new(),
    }
}

pub(super) fn all_lost(count: u64) -> Result<Losses> {
    let loss = Loss {
        range: SeqRange::from_count(Seq::FIRST, count)?,
        scope: LossScope::All,
        reason: LossReason::Operator,
        event_min: Some(EventTime::from_millis(i64::MIN)),
        event_max: Some(EventTime::from_millis(i64::MAX)),
    };
    Ok(Losses { losses: vec![loss] })
}
