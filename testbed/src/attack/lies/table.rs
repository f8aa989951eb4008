//! Every lie, and what must become of it.

use anyhow::{Context as _, Result};
use proto::frame::{Down, Up};
use proto::header::UpHeader;
use proto::heartbeat::HeldStream;
use proto::limits::{
    BODY_BYTES_MAX, EVENT_MS_MAX, EXTRA_BYTES_MAX, EXTRA_DEPTH_MAX, FRAME_BYTES_MAX, LOSSES_MAX,
    SEQ_MAX, STREAM_PASSAGES_MAX, STREAMS_MAX, TEXT_BYTES_MAX,
};
use proto::loss::Losses;
use proto::receipt::RefusalReason::{
    self, Horizon, Malformed, UnknownKind, UnknownVersion, Unstorable,
};
use proto::receipt::{Centre, Receipt, StreamReceipt};
use proto::summary::{Summary, SummaryEntry};
use proto::{CentreId, EventTime, Seq, SeqRange, SeqSet, StreamId, window};
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

use super::forge::{all_lost, batch, forged, header, heartbeat, held, with_extra, with_header_of};
use crate::clock;

/// Parts of a frame, as `proto::frame` lays it out.
const PASSAGES: u8 = 1;
const SUMMARY: u8 = 2;
const UNKNOWN: u8 = 99;

/// What must become of a frame.
pub(super) enum Fate {
    /// Refused with this reason.
    Refused(RefusalReason),
    /// Dropped, and counted as damaged.
    Dropped,
    /// Answered with a receipt: it is true, or the unit's own affair.
    Receipted,
    /// Taken without an answer.
    Taken,
}

/// Every lie, and what must become of it.
#[expect(
    clippy::too_many_lines,
    reason = "one entry for each lie, in one table"
)]
pub(super) fn lies(
    dice: &mut ChaCha8Rng,
    foreign: StreamId,
) -> Result<Vec<(&'static str, Vec<u8>, Fate)>> {
    use Fate::{Dropped, Receipted, Refused, Taken};
    let mut counter = 0;
    let mut fresh = |count: u32| {
        counter += 1;
        header(StreamId::from_bytes(dice.random()), count, counter)
    };
    let now_ms = clock::unix_ms();
    let ten = Up::Passages(batch(10, now_ms));
    let mut lies = Vec::new();
    let mut lie = |what, bytes, fate| lies.push((what, bytes, fate));

    for count in [0, 9, 11, 4_097, u32::MAX] {
        let header = UpHeader {
            accepted_to: SEQ_MAX,
            ..fresh(count)
        };
        lie(
            "a count that is not the body's",
            ten.encode(&header),
            Refused(Malformed),
        );
    }
    let top = Seq::new(SEQ_MAX - 3)?;
    let header = UpHeader {
        first: top,
        accepted_to: u64::MAX,
        ..fresh(10)
    };
    lie(
        "numbers beyond 2^63",
        ten.encode(&header),
        Refused(Malformed),
    );
    let header = UpHeader {
        accepted_to: 9,
        ..fresh(10)
    };
    lie(
        "more than was accepted",
        ten.encode(&header),
        Refused(Malformed),
    );
    let header = UpHeader {
        accepted_to: u64::MAX,
        ..fresh(10)
    };
    lie(
        "a stream without end",
        ten.encode(&header),
        Refused(Malformed),
    );
    let header = UpHeader {
        accepted_to: STREAM_PASSAGES_MAX + 1,
        ..fresh(10)
    };
    lie("a stream too long", ten.encode(&header), Refused(Malformed));

    let bomb = zstd::bulk::compress(&vec![0; 64 * BODY_BYTES_MAX], 3)?;
    let bytes = forged(1, PASSAGES, 1, &fresh(500), &bomb)?;
    lie("a decompression bomb", bytes, Refused(Malformed));
    let garbage: Vec<u8> = (0..500_u32).map(|n| n.to_le_bytes()[0]).collect();
    for (kind, codec) in [(PASSAGES, 0), (PASSAGES, 1), (SUMMARY, 0), (3, 0), (4, 0)] {
        let bytes = forged(1, kind, codec, &fresh(5), &garbage)?;
        lie("garbage in a good envelope", bytes, Refused(Malformed));
    }
    lie(
        "version 2",
        forged(2, PASSAGES, 0, &fresh(5), &garbage)?,
        Refused(UnknownVersion),
    );
    lie(
        "an unknown kind",
        forged(1, UNKNOWN, 0, &fresh(5), &garbage)?,
        Refused(UnknownKind),
    );
    lie(
        "an unknown codec",
        forged(1, PASSAGES, 9, &fresh(5), &garbage)?,
        Refused(UnknownKind),
    );

    let mut flipped = ten.encode(&fresh(10));
    *flipped.last_mut().context("a frame")? ^= 1;
    lie("a wrong checksum", flipped, Dropped);
    lie("nothing", Vec::new(), Dropped);
    lie(
        "noise",
        (0..200_u32).map(|n| (n * 7).to_le_bytes()[0]).collect(),
        Dropped,
    );
    lie(
        "a frame above the limit",
        vec![1; FRAME_BYTES_MAX + 1],
        Dropped,
    );
    let everything: SeqSet = SeqRange::from_count(Seq::FIRST, SEQ_MAX)?.into();
    let receipt = Down::Receipt(Receipt {
        centre: Centre {
            id: CentreId::from_bytes([7; 16]),
            timeline: u32::MAX,
        },
        streams: vec![StreamReceipt {
            stream: foreign,
            counted: everything.clone(),
            stored: everything,
            lost: SeqSet::new(),
            afresh: true,
        }],
        correction: None,
    });
    lie("a receipt", receipt.encode(), Dropped);

    let sealed = ten.encode(&fresh(10));
    for bytes in [0, 1, 254, 255] {
        lie(
            "a header of another length",
            with_header_of(sealed.clone(), bytes),
            Dropped,
        );
    }
    let deep = EXTRA_DEPTH_MAX + 1;
    for extra in [
        "{\"a\":\"\\u0000\"}".to_owned(),
        "{\"a\":\"\\ud800\"}".to_owned(),
        "{\"a\":1e999}".to_owned(),
        "{\"a\":NaN}".to_owned(),
        "[1]".to_owned(),
        "{\"a\":1} {}".to_owned(),
        "'; DROP TABLE device; --".to_owned(),
        format!("{{\"a\":{}{}}}", "[".repeat(deep), "]".repeat(deep)),
        format!("{{\"a\":\"{}\"}}", "x".repeat(EXTRA_BYTES_MAX)),
    ] {
        let bytes = with_extra(now_ms, &extra)?.encode(&fresh(10));
        lie("fields that JSONB cannot hold", bytes, Refused(Unstorable));
    }
    let quotes = "{\"a'; DROP TABLE device; --\":\"\\\\copy $1 \\\\.\\u202e\"}";
    let bytes = with_extra(now_ms, quotes)?.encode(&fresh(10));
    lie("fields with SQL in them", bytes, Receipted);

    for event_ms in [0, EVENT_MS_MAX] {
        let bytes = with_extra(event_ms, "")?.encode(&fresh(10));
        lie("passages of 1970 and of 9999", bytes, Receipted);
    }
    for ms in [i64::MIN, i64::MAX] {
        let time = EventTime::from_millis(ms);
        let mut header = UpHeader {
            sent_at: time,
            ..fresh(10)
        };
        header.frontier.before = time;
        lie("clocks at the ends of time", ten.encode(&header), Receipted);
    }
    let header = UpHeader {
        stream: foreign,
        ..fresh(10)
    };
    lie("the stream of another unit", ten.encode(&header), Receipted);

    let summary = |seqs: SeqSet, deltas| {
        Up::Summary(Summary {
            entries: vec![SummaryEntry { seqs, deltas }],
        })
    };
    let ten_seqs = || SeqRange::from_count(Seq::FIRST, 10).map(SeqSet::from);
    let deltas = window::fold(&batch(9, now_ms), |_| true);
    let bytes = summary(ten_seqs()?, deltas).encode(&fresh(10));
    lie(
        "a summary that counts fewer than it stands for",
        bytes,
        Refused(Malformed),
    );
    let all = || SeqRange::from_count(Seq::FIRST, SEQ_MAX).map(SeqSet::from);
    let deltas = window::fold(&batch(10, now_ms), |_| true);
    let bytes = summary(all()?, deltas.clone()).encode(&UpHeader {
        accepted_to: STREAM_PASSAGES_MAX,
        ..fresh(10)
    });
    lie("a summary of 2^63 passages", bytes, Refused(Malformed));
    let twice = [deltas.clone(), deltas.clone()].concat();
    let twenty = SeqRange::from_count(Seq::FIRST, 20)?.into();
    let bytes = summary(twenty, twice).encode(&fresh(20));
    lie("a summary with a window twice", bytes, Refused(Malformed));
    let entry = SummaryEntry {
        seqs: ten_seqs()?,
        deltas: deltas.clone(),
    };
    let entries = vec![entry.clone(), entry];
    let bytes = Up::Summary(Summary { entries }).encode(&fresh(20));
    lie("a summary that counts twice", bytes, Refused(Malformed));
    let entries = Vec::new();
    let bytes = Up::Summary(Summary { entries }).encode(&fresh(0));
    lie("a summary of nothing", bytes, Refused(Malformed));
    let mut deltas = deltas;
    for delta in &mut deltas {
        delta.stats.n_speed = u32::MAX;
    }
    let bytes = summary(ten_seqs()?, deltas).encode(&fresh(10));
    lie(
        "a summary with more speeds than passages",
        bytes,
        Refused(Malformed),
    );
    let deltas = window::fold(&batch(10, EVENT_MS_MAX), |_| true);
    let bytes = summary(ten_seqs()?, deltas).encode(&fresh(10));
    lie("a summary of the year 9999", bytes, Refused(Horizon));
    let mut deltas = window::fold(&batch(10, now_ms), |_| true);
    for delta in &mut deltas {
        delta.stats.sum_ckmh = u64::MAX;
    }
    let bytes = summary(ten_seqs()?, deltas).encode(&fresh(10));
    lie("a summary whose sums cannot be", bytes, Refused(Malformed));

    let header = UpHeader {
        accepted_to: 10,
        ..fresh(10)
    };
    let bytes = Up::Loss(all_lost(1 << 39)?).encode(&header);
    lie(
        "losses of what was never accepted",
        bytes,
        Refused(Malformed),
    );
    let header = UpHeader {
        accepted_to: STREAM_PASSAGES_MAX,
        ..fresh(10)
    };
    let bytes = Up::Loss(all_lost(STREAM_PASSAGES_MAX)?).encode(&header);
    lie("all that a stream can hold is lost", bytes, Receipted);

    let bytes = Up::Loss(all_lost(SEQ_MAX)?).encode(&header);
    lie("losses up to 2^63", bytes, Refused(Malformed));
    let one = all_lost(1)?.losses;
    for losses in [Vec::new(), one.repeat(LOSSES_MAX + 1)] {
        let bytes = Up::Loss(Losses { losses }).encode(&fresh(10));
        lie("no losses, and too many", bytes, Refused(Malformed));
    }

    let streams = |count: usize| (0..count).map(|n| held(foreign, n as u64)).collect();
    let bytes = Up::Heartbeat(heartbeat(streams(STREAMS_MAX + 1))).encode(&fresh(0));
    lie("an inventory too long", bytes, Refused(Malformed));
    let bytes = Up::Heartbeat(heartbeat(vec![held(foreign, u64::MAX)])).encode(&fresh(0));
    lie(
        "an inventory of a stream too long",
        bytes,
        Refused(Malformed),
    );
    let more_held = HeldStream {
        held: all()?,
        ..held(foreign, 5)
    };
    let bytes = Up::Heartbeat(heartbeat(vec![more_held])).encode(&fresh(0));
    lie("more held than accepted", bytes, Refused(Malformed));
    for version in ["x".repeat(TEXT_BYTES_MAX + 1), "\0".to_owned()] {
        let mut said = heartbeat(Vec::new());
        said.agent_version = version;
        let bytes = Up::Heartbeat(said).encode(&fresh(0));
        lie("a version that is none", bytes, Refused(Malformed));
    }
    let more_released = HeldStream {
        released: all()?,
        ..held(foreign, 5)
    };
    let bytes = Up::Heartbeat(heartbeat(vec![more_released])).encode(&fresh(0));
    lie("receipts of what was never accepted", bytes, Taken);
    let bytes = Up::Heartbeat(heartbeat(vec![held(foreign, 5)])).encode(&fresh(0));
    lie("a heartbeat with the ends of all numbers", bytes, Taken);
    let mut last = fresh(10);
    (last.frontier.run, last.frontier.counter) = (u32::MAX, u64::MAX);
    lie(
        "the last word on completeness",
        ten.encode(&last),
        Receipted,
    );
    Ok(lies)
}
