//! From a frame to a message that can be planned. Pure.
//!
//! A frame with a bad checksum or header says nothing that could be believed: it is dropped. A body
//! that cannot be decoded behind a good header is refused by its range. A panic of a decoder is a bug
//! of this build, contained to its frame: refused `never`, which units offer again to the next build.

use bytes::Bytes;
use proto::batch::PassageBatch;
use proto::device::StreamId;
use proto::frame::{BodyError, FrameError, Up, UpFrame};
use proto::header::UpHeader;
use proto::heartbeat::{Heartbeat, HeldStream};
use proto::limits::{STREAM_PASSAGES_MAX, TEXT_BYTES_MAX};
use proto::loss::Losses;
use proto::passage::EventTime;
use proto::ranges::SeqRange;
use proto::receipt::{RefusalClass, RefusalReason};
use proto::summary::Summary;
use proto::window::{WindowDelta, fold};
use service::panics::contain;

use super::admit::{Frame, Place, Sender};
use super::rows::Rows;

/// A window delta with a histogram of ordinary width.
const DELTA_BYTES: usize = 1_024;

/// A frame, understood as far as it can be without knowing what is already counted.
#[derive(Debug)]
pub struct Message {
    place: Place,
    /// What the frame says of itself.
    pub header: UpHeader,
    /// What it brings.
    pub body: Body,
    /// How many of its passages, or of its summary's entries, earlier flushes have decided: a message
    /// that touches too many windows is taken in parts.
    pub decided: usize,
}

/// What a frame brings.
#[derive(Debug)]
pub enum Body {
    /// Passages, already folded.
    Passages(Passages),
    /// Window deltas.
    Summary(Summary),
    /// Declared losses.
    Losses(Losses),
    /// The unit's state.
    Heartbeat(Heartbeat),
    /// Nothing that can be taken.
    Refused(Refused),
}

/// Why a body is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// What the unit does next.
    pub class: RefusalClass,
    /// Why.
    pub reason: RefusalReason,
    /// The same for people.
    pub detail: String,
}

/// A batch, folded and, where raw rows are stored, written as rows, on the assumption that all of it
/// is new. Where that is wrong, [`Passages::batch`] gives the single passages.
#[derive(Debug)]
pub struct Passages {
    /// Their numbers.
    pub range: SeqRange,
    /// The least and the greatest event time.
    pub span: (EventTime, EventTime),
    /// What they add to windows.
    pub deltas: Vec<WindowDelta>,
    /// Their rows; empty when raw rows are not stored.
    pub rows: Rows,
    frame: Bytes,
}

impl Message {
    /// Who sent it.
    #[must_use]
    pub fn sender(&self) -> &Sender {
        self.place.sender()
    }

    /// How many passages it brings; 0 for anything but a batch.
    #[must_use]
    pub fn passages(&self) -> u64 {
        match &self.body {
            Body::Passages(passages) => passages.range.count(),
            _ => 0,
        }
    }

    /// About how much memory it takes beyond its frame: rows and window deltas.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let deltas = match &self.body {
            Body::Passages(passages) => {
                return passages.rows.byte_len() + passages.deltas.len() * DELTA_BYTES;
            }
            Body::Summary(summary) => summary.entries.iter().map(|entry| entry.deltas.len()).sum(),
            Body::Losses(_) | Body::Heartbeat(_) | Body::Refused(_) => 0,
        };
        deltas * DELTA_BYTES
    }

    /// Gives its place back.
    #[must_use]
    pub fn into_body(self) -> Body {
        self.body
    }

    /// Of how many parts it consists that can be taken one by one: passages, entries of a summary.
    #[must_use]
    pub fn parts(&self) -> usize {
        match &self.body {
            Body::Passages(passages) => passages.places(),
            Body::Summary(summary) => summary.entries.len(),
            Body::Losses(_) | Body::Heartbeat(_) | Body::Refused(_) => 1,
        }
    }

    /// The streams whose cursors it concerns; none for what is refused anyway.
    pub fn streams(&self) -> impl Iterator<Item = StreamId> + '_ {
        let (one, listed) = match &self.body {
            Body::Passages(_) | Body::Summary(_) | Body::Losses(_) => {
                (Some(self.header.stream), &[] as &[HeldStream])
            }
            Body::Heartbeat(heartbeat) => (None, heartbeat.held.as_slice()),
            Body::Refused(_) => (None, &[] as &[HeldStream]),
        };
        let begun = listed.iter().filter(|held| held.accepted_to > 0);
        one.into_iter().chain(begun.map(|held| held.stream))
    }
}

impl Passages {
    /// How many there are.
    #[must_use]
    pub fn places(&self) -> usize {
        usize::try_from(self.range.count()).unwrap_or(usize::MAX)
    }

    /// The single passages, decoded once more: keeping them for every batch would take three times
    /// the memory, and few batches need it.
    #[must_use]
    pub fn batch(&self) -> PassageBatch {
        match UpFrame::open(&self.frame).map(|frame| frame.message()) {
            Ok(Ok(Up::Passages(batch))) => batch,
            other => unreachable!("a frame that was decoded before is now {other:?}"),
        }
    }
}

/// Decodes and folds; `raw` says whether rows are wanted.
///
/// # Errors
/// When nothing in the frame can be trusted.
pub fn decode(frame: Frame, raw: bool) -> Result<Message, FrameError> {
    let Frame { place, bytes } = frame;
    let opened = contain(|| UpFrame::open(&bytes)).unwrap_or(Err(FrameError::Header))?;
    let header = opened.header.clone();
    let body = contain(|| body(&opened, &bytes, raw)).unwrap_or_else(|contained| {
        let device = &place.sender().device;
        tracing::error!(%device, stream = %header.stream, first = header.first.get(), panic = contained.message,
            "a decoder panicked; the frame is refused");
        Body::Refused(refused(
            RefusalClass::Never,
            RefusalReason::Malformed,
            &format!("decoder of this build failed: {}", contained.message),
        ))
    });
    Ok(Message {
        place,
        header,
        body,
        decided: 0,
    })
}

fn body(frame: &UpFrame<'_>, bytes: &Bytes, raw: bool) -> Body {
    match frame.message() {
        Ok(Up::Passages(batch)) => passages(&frame.header, &batch, bytes, raw),
        Ok(Up::Summary(summary)) => {
            let last = summary
                .entries
                .iter()
                .filter_map(|entry| entry.seqs.last())
                .max();
            beyond(frame.header.accepted_to, last.map_or(0, proto::Seq::get))
                .map_or(Body::Summary(summary), Body::Refused)
        }
        Ok(Up::Loss(losses)) => {
            let last = losses
                .losses
                .iter()
                .map(|loss| loss.range.last().get())
                .max();
            beyond(frame.header.accepted_to, last.unwrap_or(0))
                .map_or(Body::Losses(losses), Body::Refused)
        }
        Ok(Up::Heartbeat(heartbeat)) => {
            let wrong = heartbeat.held.iter().find_map(|held| {
                let last = held.held.last().map_or(0, proto::Seq::get);
                beyond(held.accepted_to, last)
            });
            wrong.map_or(Body::Heartbeat(heartbeat), Body::Refused)
        }
        Err(error) => Body::Refused(verdict(&error)),
    }
}

fn passages(header: &UpHeader, batch: &PassageBatch, bytes: &Bytes, raw: bool) -> Body {
    let (Some(range), Some(span)) = (header.range(), batch.event_span()) else {
        return Body::Refused(verdict(&BodyError::Range {
            header: format!("{} from {}", header.count, header.first),
            body: batch.len().to_string(),
        }));
    };
    if let Some(refused) = beyond(header.accepted_to, range.last().get()) {
        return Body::Refused(refused);
    }
    let rows = if raw {
        Rows::of_batch(batch, range.first())
    } else {
        Rows::default()
    };
    let deltas = fold(batch, |_| true);
    Body::Passages(Passages {
        range,
        span,
        deltas,
        rows,
        frame: bytes.clone(),
    })
}

/// A stream that sends numbers which it says it never accepted contradicts itself, and none accepts
/// more than [`STREAM_PASSAGES_MAX`].
fn beyond(accepted_to: u64, last: u64) -> Option<Refused> {
    (last > accepted_to || accepted_to > STREAM_PASSAGES_MAX).then(|| {
        let detail = format!("number {last} or accepted_to {accepted_to} is beyond its limit");
        refused(RefusalClass::Never, RefusalReason::Malformed, &detail)
    })
}

fn verdict(error: &BodyError) -> Refused {
    let (class, reason) = match error {
        BodyError::Version(_) => (RefusalClass::Later, RefusalReason::UnknownVersion),
        BodyError::Kind(_) | BodyError::Codec(_) => {
            (RefusalClass::Later, RefusalReason::UnknownKind)
        }
        BodyError::Batch(proto::batch::BatchError::Extra { .. }) => {
            (RefusalClass::Never, RefusalReason::Unstorable)
        }
        _ => (RefusalClass::Never, RefusalReason::Malformed),
    };
    refused(class, reason, &error.to_string())
}

/// A refusal with its detail cut to what a refusal may carry.
#[must_use]
pub fn refused(class: RefusalClass, reason: RefusalReason, detail: &str) -> Refused {
    let mut end = detail.len().min(TEXT_BYTES_MAX);
    while !detail.is_char_boundary(end) {
        end -= 1;
    }
    Refused {
        class,
        reason,
        detail: detail[..end].to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proto::device::DeviceId;
    use proto::passage::Passage;

    use super::super::admit::{Door, DoorLimits};
    use super::*;
    use crate::testing;

    fn arrive(bytes: Vec<u8>) -> Result<Message, FrameError> {
        let limits = DoorLimits {
            bytes_max: 1 << 20,
            device_frames_max: 9,
            devices_max: 9,
        };
        let topic = proto::topic::up(&DeviceId::new("KV1").unwrap());
        decode(Door::new(limits).admit(&topic, bytes.into()).unwrap(), true)
    }

    fn batch() -> PassageBatch {
        (0..5)
            .map(|n| Passage {
                event_time: EventTime::from_millis(n),
                ..Passage::default()
            })
            .collect()
    }

    #[test]
    fn a_damaged_frame_is_dropped_and_not_refused() {
        let mut bytes = Up::Passages(batch()).encode(&testing::header(1, 1, 5, 5));
        *bytes.last_mut().unwrap() ^= 1;
        assert_eq!(arrive(bytes).unwrap_err(), FrameError::Checksum);
    }

    #[test]
    fn a_batch_arrives_folded_and_as_rows_and_can_be_had_whole() {
        let message = arrive(Up::Passages(batch()).encode(&testing::header(1, 1, 5, 5))).unwrap();
        let Body::Passages(passages) = &message.body else {
            panic!("{message:?}")
        };
        assert_eq!((passages.rows.len(), passages.deltas[0].stats.n), (5, 5));
        assert_eq!(passages.batch(), batch());
        assert_eq!(
            (message.passages(), message.streams().collect::<Vec<_>>()),
            (5, vec![testing::stream(1)])
        );
    }

    #[test]
    fn numbers_beyond_what_was_accepted_are_refused_for_ever() {
        let message = arrive(Up::Passages(batch()).encode(&testing::header(1, 1, 5, 4))).unwrap();
        let Body::Refused(refused) = &message.body else {
            panic!("{message:?}")
        };
        assert_eq!(refused.class, RefusalClass::Never);
    }

    #[test]
    fn a_stream_beyond_what_any_unit_can_have_seen_is_refused_for_ever() {
        let most = STREAM_PASSAGES_MAX;
        for (last, accepted_to, taken) in [
            (most, most, true),
            (most, most + 1, false),
            (proto::limits::SEQ_MAX, u64::MAX, false),
        ] {
            let header = testing::header(1, last - 4, 5, accepted_to);
            let message = arrive(Up::Passages(batch()).encode(&header)).unwrap();
            assert_eq!(matches!(message.body, Body::Passages(_)), taken, "{last}");
        }
    }

    #[test]
    fn a_contradiction_between_header_and_body_is_refused_for_ever() {
        let message =
            arrive(Up::Passages(batch()).encode(&testing::header(1, 1, 500, 500))).unwrap();
        let Body::Refused(refused) = &message.body else {
            panic!("{message:?}")
        };
        assert_eq!(
            (refused.class, refused.reason),
            (RefusalClass::Never, RefusalReason::Malformed)
        );
    }

    #[test]
    fn details_are_cut_at_a_character() {
        let long = "é".repeat(TEXT_BYTES_MAX);
        let detail = refused(RefusalClass::Never, RefusalReason::Malformed, &long).detail;
        assert!(detail.len() <= TEXT_BYTES_MAX && detail.chars().all(|c| c == 'é'));
    }
}
