//! Bytes from strangers: never a panic, never more memory than the limits say.

use proptest::prelude::*;
use proto::device::StreamId;
use proto::frame::{BodyError, Down, FrameError, Up, UpFrame};
use proto::header::{Frontier, UpHeader};
use proto::heartbeat::{Backlog, CameraLink, Disk, Heartbeat, HeldStream};
use proto::limits::{
    BATCH_PASSAGES_MAX, BODY_BYTES_MAX, EVENT_MS_MAX, FRAME_BYTES_MAX, LOSSES_MAX, STREAMS_MAX,
    SUMMARY_ENTRIES_MAX, TEXT_BYTES_MAX,
};
use proto::loss::{Loss, LossReason, LossScope, Losses};
use proto::passage::{EventTime, Passage};
use proto::ranges::{Seq, SeqRange, SeqSet};
use proto::summary::{Summary, SummaryEntry, SummaryError};
use proto::topic::Topic;
use proto::{PassageBatch, window};

use crate::arbitrary;

/// Gives a frame that was tampered with a good checksum again, as an attacker would.
fn with_good_checksum(mut frame: Vec<u8>) -> Vec<u8> {
    if frame.len() >= 8 {
        let crc = crc32c::crc32c_append(crc32c::crc32c(&frame[..4]), &frame[8..]);
        frame[4..8].copy_from_slice(&crc.to_le_bytes());
    }
    frame
}

fn read_everything(bytes: &[u8]) {
    if let Ok(frame) = UpFrame::open(bytes)
        && let Ok(Up::Passages(batch)) = frame.message()
    {
        assert!(batch.len() <= proto::limits::BATCH_PASSAGES_MAX);
        batch.iter().for_each(drop);
        window::fold(&batch, |_| true)
            .iter()
            .for_each(|delta| delta.check().unwrap());
        assert_eq!(
            PassageBatch::decode(&batch.encode(), batch.len()).unwrap(),
            batch
        );
    }
    drop(Down::decode(bytes));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn random_bytes_are_refused_in_peace(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        read_everything(&bytes);
        read_everything(&with_good_checksum(bytes.clone()));
        drop(PassageBatch::decode(&bytes, 7));
        drop(std::str::from_utf8(&bytes).map(Topic::parse));
    }

    #[test]
    fn tampered_frames_are_refused_in_peace(
        (header, message) in arbitrary::up(),
        places in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = message.encode(&header);
        for (place, value) in &places {
            let place = place.index(bytes.len());
            bytes[place] = *value;
        }
        read_everything(&with_good_checksum(bytes.clone()));
        bytes.truncate(cut.index(bytes.len()));
        read_everything(&with_good_checksum(bytes));
    }

    #[test]
    fn a_flipped_bit_never_goes_unnoticed((header, message) in arbitrary::up(), place in any::<prop::sample::Index>(), bit in 0..8) {
        let mut bytes = message.encode(&header);
        let place = place.index(bytes.len());
        bytes[place] ^= 1_u8 << bit;
        prop_assert_eq!(UpFrame::open(&bytes), Err(FrameError::Checksum));
    }
}

fn header(count: u32) -> UpHeader {
    UpHeader {
        stream: StreamId::from_bytes([7; 16]),
        first: Seq::FIRST,
        count,
        accepted_to: u64::from(count),
        frontier: Frontier {
            before: EventTime::from_millis(0),
            run: 1,
            counter: 1,
        },
        sent_at: EventTime::from_millis(0),
    }
}

/// A frame with any body, codec and kind, and a good checksum.
fn forged(version: u8, kind: u8, codec: u8, count: u32, body: &[u8]) -> Vec<u8> {
    let header = postcard::to_stdvec(&header(count)).unwrap();
    let prefix = [
        version,
        kind,
        codec,
        u8::try_from(header.len()).unwrap(),
        0,
        0,
        0,
        0,
    ];
    with_good_checksum([&prefix[..], &header, body].concat())
}

#[test]
fn a_decompression_bomb_is_refused_unread() {
    let bomb = zstd::bulk::compress(&vec![0; 64 * BODY_BYTES_MAX], 19).unwrap();
    assert!(bomb.len() < 16_384);
    let bytes = forged(1, 1, 1, 500, &bomb);
    assert_eq!(
        UpFrame::open(&bytes).unwrap().message(),
        Err(BodyError::Compression)
    );
}

#[test]
fn a_batch_of_more_passages_than_allowed_is_refused() {
    for (passages, taken) in [(BATCH_PASSAGES_MAX, true), (BATCH_PASSAGES_MAX + 1, false)] {
        let batch: PassageBatch = std::iter::repeat_n(Passage::default(), passages).collect();
        let count = u32::try_from(passages).unwrap();
        let bytes = forged(1, 1, 0, count, &batch.encode());
        let message = UpFrame::open(&bytes).unwrap().message();
        assert_eq!(message.is_ok(), taken, "{passages}");
    }
}

#[test]
fn event_times_outside_the_years_1970_to_9999_are_refused() {
    for (ms, taken) in [
        (-1, false),
        (0, true),
        (EVENT_MS_MAX, true),
        (EVENT_MS_MAX + 1, false),
    ] {
        let passage = Passage {
            event_time: EventTime::from_millis(ms),
            ..Passage::default()
        };
        let batch: PassageBatch = std::iter::once(passage).collect();
        let bytes = forged(1, 1, 0, 1, &batch.encode());
        let message = UpFrame::open(&bytes).unwrap().message();
        assert_eq!(message.is_ok(), taken, "{ms}");
    }
}

#[test]
fn a_count_that_lies_is_refused() {
    let batch: PassageBatch = std::iter::repeat_n(Passage::default(), 10).collect();
    for count in [0, 9, 11, 4_097, u32::MAX] {
        let bytes = forged(1, 1, 0, count, &batch.encode());
        // Ten equal passages are columns of one value each, which would fit nine as well.
        let message = UpFrame::open(&bytes).unwrap().message();
        assert!(message.is_err(), "{count}: {message:?}");
    }
    assert!(
        UpFrame::open(&forged(1, 1, 0, 10, &batch.encode()))
            .unwrap()
            .message()
            .is_ok()
    );
}

#[test]
fn other_versions_kinds_and_codecs_are_told_apart_from_garbage() {
    let body = PassageBatch::from_iter([Passage::default()]).encode();
    for (bytes, expected) in [
        (forged(2, 1, 0, 1, &body), BodyError::Version(2)),
        (forged(0, 1, 0, 1, &body), BodyError::Version(0)),
        (forged(1, 99, 0, 1, &body), BodyError::Kind(99)),
        (forged(1, 1, 9, 1, &body), BodyError::Codec(9)),
    ] {
        let error = UpFrame::open(&bytes).unwrap().message().unwrap_err();
        assert_eq!(error, expected);
        assert!(error.is_from_another_version());
    }
    let garbage = forged(1, 1, 0, 1, &[0xFF; 40]);
    let error = UpFrame::open(&garbage).unwrap().message().unwrap_err();
    assert!(!error.is_from_another_version(), "{error}");
}

#[test]
fn an_oversize_frame_is_refused_before_it_is_read() {
    let bytes = vec![1; FRAME_BYTES_MAX + 1];
    assert_eq!(
        UpFrame::open(&bytes),
        Err(FrameError::TooLong(FRAME_BYTES_MAX + 1))
    );
}

#[test]
fn statistics_that_claim_speeds_without_a_histogram_are_refused() {
    let fast = Passage {
        speed: proto::Speed::from_centi_kmh(5),
        ..Passage::default()
    };
    let mut delta = window::fold(&PassageBatch::from_iter([fast]), |_| true).remove(0);
    assert_eq!(delta.check(), Ok(()));
    delta.stats.histogram = window::Histogram::default();
    assert!(delta.check().is_err());
}

#[test]
fn a_summary_beyond_its_size_is_refused() {
    let entry = |number: usize, windows: i64| {
        let passages = (0..windows).map(|window| Passage {
            event_time: EventTime::from_millis(window * window::BUCKET_MS),
            ..Passage::default()
        });
        let first = Seq::new(number as u64 * 10_000 + 1).unwrap();
        SummaryEntry {
            seqs: SeqRange::from_count(first, windows.unsigned_abs())
                .unwrap()
                .into(),
            deltas: window::fold(&passages.collect(), |_| true),
        }
    };
    let check = |entries: usize, windows: i64| {
        let entries = (0..entries).map(|number| entry(number, windows)).collect();
        Summary { entries }.check()
    };
    assert_eq!(check(SUMMARY_ENTRIES_MAX, 16), Ok(()));
    for (entries, windows) in [(0, 1), (SUMMARY_ENTRIES_MAX + 1, 1), (64, 17)] {
        let refused = check(entries, windows);
        assert!(
            matches!(refused, Err(SummaryError::Size { .. })),
            "{refused:?}"
        );
    }
}

#[test]
fn losses_and_inventories_beyond_their_size_are_refused() {
    let loss = Loss {
        range: SeqRange::from_count(Seq::FIRST, 1).unwrap(),
        scope: LossScope::All,
        reason: LossReason::Quota,
        event_min: None,
        event_max: None,
    };
    for (count, taken) in [
        (0, false),
        (1, true),
        (LOSSES_MAX, true),
        (LOSSES_MAX + 1, false),
    ] {
        let losses = Losses {
            losses: vec![loss; count],
        };
        assert_eq!(losses.check().is_ok(), taken, "{count}");
    }
    let held = HeldStream {
        stream: StreamId::from_bytes([7; 16]),
        accepted_to: 0,
        released: SeqSet::new(),
        held: SeqSet::new(),
    };
    let heartbeat = |streams: usize, version: String| Heartbeat {
        held: vec![held.clone(); streams],
        backlog: Backlog::default(),
        camera: CameraLink::Unknown,
        clock_offset_ms: None,
        agent_version: version,
        disk: Disk::default(),
    };
    let version = |bytes| "v".repeat(bytes);
    for (streams, bytes, taken) in [
        (STREAMS_MAX, TEXT_BYTES_MAX, true),
        (STREAMS_MAX + 1, 1, false),
        (0, TEXT_BYTES_MAX + 1, false),
    ] {
        let checked = heartbeat(streams, version(bytes)).check();
        assert_eq!(checked.is_ok(), taken, "{checked:?}");
    }
    assert!(heartbeat(0, "\0".to_owned()).check().is_err());
}
