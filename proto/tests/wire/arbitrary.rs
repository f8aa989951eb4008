//! Strategies for every message of the wire.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proto::device::{CentreId, StreamId};
use proto::frame::{Down, Up};
use proto::header::{Frontier, UpHeader};
use proto::heartbeat::{Backlog, CameraLink, Disk, Heartbeat, HeldStream};
use proto::loss::{Loss, LossReason, LossScope, Losses};
use proto::passage::{
    ConfidencePermille, Direction, EventTime, Lane, LengthCm, Passage, Speed, SpeedLimitKmh,
    VehicleClass,
};
use proto::plate::{Plate, PlateText};
use proto::ranges::{Seq, SeqRange, SeqSet};
use proto::receipt::{
    Beacon, Centre, Correction, Intake, Receipt, Refusal, RefusalClass, RefusalReason,
    StreamReceipt,
};
use proto::summary::{Summary, SummaryEntry};
use proto::{PassageBatch, window};

pub(crate) fn plate() -> impl Strategy<Value = Plate> {
    let text = |text: String| PlateText::new(&text).map_or(Plate::Absent, Plate::Text);
    prop_oneof![
        Just(Plate::Absent),
        "[АВЕКМНОРСТУХ][0-9]{3}[АВЕКМНОРСТУХ]{2}[0-9]{2,3}".prop_map(text),
        "[ABEKMHOPCTYX][0-9]{3}[ABEKMHOPCTYX]{2}[0-9]{2,3}".prop_map(text),
        "[A-ZÀ-Ü0-9 -]{1,12}".prop_map(text),
        any::<[u8; 8]>().prop_map(Plate::Hash),
    ]
}

fn event_time() -> impl Strategy<Value = EventTime> {
    prop_oneof![
        8 => 1_760_000_000_000_i64..1_760_003_600_000,
        1 => 0_i64..=proto::limits::EVENT_MS_MAX,
    ]
    .prop_map(EventTime::from_millis)
}

pub(crate) fn passage() -> impl Strategy<Value = Passage> {
    let place = (
        event_time(),
        option::of((0_u16..=40_000).prop_filter_map("bounded", Speed::from_centi_kmh)),
        plate(),
        option::of((0_u8..16).prop_filter_map("bounded", Lane::new)),
        option::of((0_u8..10).prop_filter_map("bounded", Direction::from_code)),
    );
    let vehicle = (
        option::of((0_u8..16).prop_filter_map("bounded", VehicleClass::new)),
        option::of((0_u16..=10_000).prop_filter_map("bounded", LengthCm::new)),
        option::of((0_u8..=200).prop_filter_map("bounded", SpeedLimitKmh::new)),
        any::<bool>(),
        option::of((0_u16..=1_000).prop_filter_map("bounded", ConfidencePermille::new)),
        option::weighted(
            0.1,
            "[a-z]{1,8}".prop_map(|k| format!("{{\"{k}\":1}}").into_boxed_str()),
        ),
    );
    (place, vehicle).prop_map(
        |(
            (event_time, speed, plate, lane, direction),
            (vehicle_class, length, speed_limit, violation, confidence, extra),
        )| Passage {
            event_time,
            speed,
            plate,
            lane,
            direction,
            vehicle_class,
            length,
            speed_limit,
            violation,
            confidence,
            extra,
        },
    )
}

pub(crate) fn batch() -> impl Strategy<Value = PassageBatch> {
    vec(passage(), 1..120).prop_map(|passages| passages.into_iter().collect())
}

pub(crate) fn seq_set() -> impl Strategy<Value = SeqSet> {
    vec((1_u64..400, 1_u64..20), 0..20).prop_map(|ranges| {
        ranges
            .into_iter()
            .filter_map(|(first, count)| SeqRange::from_count(Seq::new(first).ok()?, count).ok())
            .collect()
    })
}

fn stream() -> impl Strategy<Value = StreamId> {
    any::<[u8; 16]>().prop_map(StreamId::from_bytes)
}

fn centre() -> impl Strategy<Value = Centre> {
    (any::<[u8; 16]>(), any::<u32>()).prop_map(|(id, timeline)| Centre {
        id: CentreId::from_bytes(id),
        timeline,
    })
}

fn summary() -> impl Strategy<Value = Summary> {
    vec(batch(), 1..4).prop_map(|batches| {
        let mut next = 1;
        let entries = batches
            .iter()
            .map(|batch| {
                let first = Seq::new(next).unwrap();
                let range = SeqRange::from_count(first, batch.len() as u64).unwrap();
                next = range.last().get() + 1;
                SummaryEntry {
                    seqs: range.into(),
                    deltas: window::fold(batch, |_| true),
                }
            })
            .collect();
        Summary { entries }
    })
}

fn losses() -> impl Strategy<Value = Losses> {
    let loss = (1_u64..1_000, 1_u64..1_000, option::of(event_time()), 0..4).prop_map(
        |(first, count, event_min, reason)| Loss {
            range: SeqRange::from_count(Seq::new(first).unwrap(), count).unwrap(),
            scope: if count % 2 == 0 {
                LossScope::All
            } else {
                LossScope::RawOnly
            },
            reason: match reason {
                0 => LossReason::Quota,
                1 => LossReason::Corrupt,
                2 => LossReason::Refused,
                _ => LossReason::Operator,
            },
            event_min,
            event_max: event_min,
        },
    );
    vec(loss, 1..5).prop_map(|losses| Losses { losses })
}

fn heartbeat() -> impl Strategy<Value = Heartbeat> {
    let held = (stream(), 0_u64..1_000, seq_set(), seq_set()).prop_map(
        |(stream, accepted_to, released, held)| HeldStream {
            stream,
            accepted_to,
            released,
            held,
        },
    );
    (
        vec(held, 0..4),
        any::<(u32, u32)>(),
        option::of(event_time()),
        "[0-9.a-z-]{0,20}",
    )
        .prop_map(
            |(held, (passages, free), oldest, agent_version)| Heartbeat {
                held,
                backlog: Backlog {
                    passages: passages.into(),
                    bytes: 7,
                    oldest,
                    newest: oldest,
                    drain_per_min: oldest.map(|_| i64::from(free) - i64::from(passages)),
                },
                camera: oldest.map_or(CameraLink::Unknown, CameraLink::LastPostAt),
                clock_offset_ms: oldest.map(|_| -3),
                agent_version,
                disk: Disk {
                    used_bytes: 1,
                    quota_bytes: 2,
                    free_bytes: free.into(),
                },
            },
        )
}

pub(crate) fn header(count: u32) -> impl Strategy<Value = UpHeader> {
    (stream(), 1_u64..1 << 40, event_time(), any::<(u32, u32)>()).prop_map(
        move |(stream, first, before, (run, counter))| UpHeader {
            stream,
            first: Seq::new(first).unwrap(),
            count,
            accepted_to: first + u64::from(count),
            frontier: Frontier {
                before,
                run,
                counter: counter.into(),
            },
            sent_at: before,
        },
    )
}

pub(crate) fn up() -> impl Strategy<Value = (UpHeader, Up)> {
    prop_oneof![
        batch().prop_map(Up::Passages),
        summary().prop_map(Up::Summary),
        losses().prop_map(Up::Loss),
        heartbeat().prop_map(Up::Heartbeat),
    ]
    .prop_flat_map(|message| {
        let count = match &message {
            Up::Passages(batch) => batch.len() as u64,
            Up::Summary(summary) => summary.entries.iter().map(|entry| entry.seqs.count()).sum(),
            Up::Loss(losses) => losses.losses.iter().map(|loss| loss.range.count()).sum(),
            Up::Heartbeat(_) => 0,
        };
        (header(u32::try_from(count).unwrap()), Just(message))
    })
}

pub(crate) fn down() -> impl Strategy<Value = Down> {
    let stream_receipt =
        (stream(), seq_set(), seq_set()).prop_map(|(stream, counted, lost)| StreamReceipt {
            stream,
            stored: counted.clone(),
            counted,
            lost,
            afresh: false,
        });
    let correction = (event_time(), any::<u32>(), any::<u64>())
        .prop_map(|(at, run, counter)| Correction { at, run, counter });
    let receipt = (centre(), vec(stream_receipt, 0..5), option::of(correction)).prop_map(
        |(centre, streams, correction)| {
            Down::Receipt(Receipt {
                centre,
                streams,
                correction,
            })
        },
    );
    let refusal = (centre(), stream(), option::of(seq_set()), "[a-z ]{0,40}").prop_map(
        |(centre, stream, counted, detail)| {
            Down::Refusal(Refusal {
                centre,
                stream,
                range: counted
                    .as_ref()
                    .and_then(|set| set.ranges().first().copied()),
                class: RefusalClass::Reshape,
                reason: RefusalReason::Overlap,
                detail,
                counted,
            })
        },
    );
    let beacon = (
        centre(),
        any::<u64>(),
        "[a-z0-9.]{0,20}",
        any::<bool>(),
        event_time(),
        any::<u64>(),
    )
        .prop_map(|(centre, token, build, open, sent_at, age_max_ms)| {
            Down::Beacon(Beacon {
                centre,
                token,
                build,
                wire_min: 1,
                wire_max: 1,
                intake: if open { Intake::Open } else { Intake::Closed },
                sent_at,
                summaries_age_max_ms: age_max_ms,
            })
        });
    prop_oneof![receipt, refusal, beacon]
}
