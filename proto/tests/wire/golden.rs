//! The bytes of version 1, frozen. A change that turns one of these red needs a new wire version:
//! units in the field write these bytes for years, and every centre must read them.
//!
//! `VERST_GOLDEN=write` writes files that are missing; it never changes one that is there.

use std::path::PathBuf;

use proto::device::{CentreId, StreamId};
use proto::frame::{Down, DownError, FrameError, Up, UpFrame};
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

const NOON: i64 = 1_743_850_530_000; // 2025-04-05T10:55:30Z

fn range(first: u64, count: u64) -> SeqRange {
    SeqRange::from_count(Seq::new(first).unwrap(), count).unwrap()
}

fn header(count: u32) -> UpHeader {
    UpHeader {
        stream: StreamId::from_bytes(*b"stream-of-golden"),
        first: Seq::new(1_001).unwrap(),
        count,
        accepted_to: 1_500,
        frontier: Frontier {
            before: EventTime::from_millis(NOON - 1_000),
            run: 3,
            counter: 42,
        },
        sent_at: EventTime::from_millis(NOON + 250),
    }
}

fn centre() -> Centre {
    Centre {
        id: CentreId::from_bytes(*b"centre-of-golden"),
        timeline: 2,
    }
}

fn correction() -> Correction {
    Correction {
        at: EventTime::from_millis(NOON),
        run: 1_743_850_530,
        counter: 86_400,
    }
}

/// Every field used, every kind of plate, a step back in time, a missing speed.
fn batch() -> PassageBatch {
    let text = |text| Plate::Text(PlateText::new(text).unwrap());
    let plain = |offset_ms: i64, centi_kmh: u16| Passage {
        event_time: EventTime::from_millis(NOON + offset_ms),
        speed: Speed::from_centi_kmh(centi_kmh),
        lane: Lane::new(2),
        vehicle_class: VehicleClass::new(5),
        ..Passage::default()
    };
    [
        Passage {
            plate: text("А123ВС68"),
            ..plain(0, 8_520)
        },
        Passage {
            plate: text("A123BC777"),
            violation: true,
            ..plain(400, 13_110)
        },
        Passage {
            plate: text("A123БВ68"),
            speed: None,
            ..plain(-5_000, 0)
        },
        Passage {
            plate: Plate::Hash(*b"8 bytes!"),
            ..plain(900_000, 0)
        },
        Passage {
            direction: Some(Direction::NorthWest),
            length: LengthCm::new(1_650),
            speed_limit: SpeedLimitKmh::new(90),
            confidence: ConfidencePermille::new(985),
            extra: Some(r#"{"axles":5}"#.into()),
            ..plain(900_400, 40_000)
        },
    ]
    .into_iter()
    .collect()
}

fn ups() -> Vec<(&'static str, UpHeader, Up)> {
    let summary = Summary {
        entries: vec![SummaryEntry {
            seqs: range(1_001, 5).into(),
            deltas: window::fold(&batch(), |_| true),
        }],
    };
    let losses = Losses {
        losses: vec![Loss {
            range: range(7, 3),
            scope: LossScope::RawOnly,
            reason: LossReason::Quota,
            event_min: Some(EventTime::from_millis(NOON)),
            event_max: None,
        }],
    };
    let heartbeat = Heartbeat {
        held: vec![HeldStream {
            stream: StreamId::from_bytes(*b"stream-of-golden"),
            accepted_to: 1_500,
            released: [range(1, 900), range(950, 10)].into_iter().collect(),
            held: [range(512, 389), range(901, 600)].into_iter().collect(),
        }],
        backlog: Backlog {
            passages: 590,
            bytes: 8_000,
            oldest: Some(EventTime::from_millis(NOON)),
            newest: Some(EventTime::from_millis(NOON + 61_000)),
            drain_per_min: Some(-720),
        },
        camera: CameraLink::LastPostAt(EventTime::from_millis(NOON)),
        clock_offset_ms: Some(-12),
        agent_version: "0.1.0".to_owned(),
        disk: Disk {
            used_bytes: 1 << 20,
            quota_bytes: 1 << 30,
            free_bytes: 1 << 33,
        },
    };
    vec![
        ("passages", header(5), Up::Passages(batch())),
        ("summary", header(5), Up::Summary(summary)),
        ("loss", header(3), Up::Loss(losses)),
        ("heartbeat", header(0), Up::Heartbeat(heartbeat)),
    ]
}

fn downs() -> Vec<(&'static str, Down)> {
    let counted: SeqSet = [range(1, 1_005), range(1_100, 50)].into_iter().collect();
    vec![
        (
            "receipt",
            Down::Receipt(Receipt {
                centre: centre(),
                streams: vec![StreamReceipt {
                    stream: StreamId::from_bytes(*b"stream-of-golden"),
                    counted: counted.clone(),
                    stored: range(1, 1_000).into(),
                    lost: SeqSet::new(),
                    afresh: false,
                }],
                correction: None,
            }),
        ),
        (
            "correction",
            Down::Receipt(Receipt {
                centre: centre(),
                streams: Vec::new(),
                correction: Some(correction()),
            }),
        ),
        (
            "refusal",
            Down::Refusal(Refusal {
                centre: centre(),
                stream: StreamId::from_bytes(*b"stream-of-golden"),
                range: Some(range(1_001, 5)),
                class: RefusalClass::Reshape,
                reason: RefusalReason::Overlap,
                detail: "entry 0 overlaps what is counted".to_owned(),
                counted: Some(counted),
            }),
        ),
        (
            "beacon",
            Down::Beacon(Beacon {
                centre: centre(),
                token: 17,
                build: "0.1.0".to_owned(),
                wire_min: 1,
                wire_max: 1,
                intake: Intake::Open,
                sent_at: EventTime::from_millis(NOON),
                summaries_age_max_ms: 58 * 86_400_000,
            }),
        ),
    ]
}

/// The frozen bytes of a message, as lines of hexadecimal digits.
fn frozen(name: &str, now: &[u8]) -> Vec<u8> {
    let path =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/v1/{name}.hex"));
    if !path.exists() && std::env::var("VERST_GOLDEN").as_deref() == Ok("write") {
        let lines: Vec<String> = now
            .chunks(32)
            .map(|line| line.iter().map(|byte| format!("{byte:02x}")).collect())
            .collect();
        std::fs::write(&path, lines.join("\n") + "\n").unwrap();
    }
    let digits: String = std::fs::read_to_string(&path)
        .unwrap()
        .split_whitespace()
        .collect();
    digits
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

#[test]
fn frames_from_units_are_what_they_were() {
    for (name, header, message) in ups() {
        let bytes = message.encode(&header);
        let frozen = frozen(name, &bytes);
        let frame = UpFrame::open(&frozen).unwrap();
        assert_eq!(frame.header, header, "{name}");
        assert_eq!(frame.message().unwrap(), message, "{name}");
        assert_eq!(bytes, frozen, "{name}");
    }
}

#[test]
fn frames_from_the_centre_are_what_they_were() {
    for (name, message) in downs() {
        let bytes = message.encode();
        let frozen = frozen(name, &bytes);
        assert_eq!(Down::decode(&frozen).unwrap(), message, "{name}");
        assert_eq!(bytes, frozen, "{name}");
    }
}

/// Headers grow at their end only, so that either side may be the newer one.
#[test]
fn a_correction_is_read_by_an_agent_that_knows_less_or_more_of_it() {
    let downs = downs();
    let (_, corrected) = downs
        .iter()
        .find(|(name, _)| *name == "correction")
        .unwrap();
    let bytes = corrected.encode();
    let header = usize::from(bytes[3]);
    let with_header = |header: &[u8]| {
        let mut frame = bytes[..3].to_vec();
        frame.push(u8::try_from(header.len()).unwrap());
        let body = &bytes[8 + usize::from(bytes[3])..];
        let crc = crc32c::crc32c(&frame);
        let crc = crc32c::crc32c_append(crc32c::crc32c_append(crc, header), body);
        frame.extend(crc.to_le_bytes());
        [frame.as_slice(), header, body].concat()
    };
    let longer = [&bytes[8..8 + header], b"later"].concat();
    assert_eq!(Down::decode(&with_header(&longer)).as_ref(), Ok(corrected));
    let Down::Receipt(bare) = Down::decode(&with_header(&[])).unwrap() else {
        panic!("a receipt is another message without its header");
    };
    assert_eq!(bare.correction, None);
    let short = Down::decode(&with_header(&bytes[8..8 + header - 1]));
    assert_eq!(short, Err(DownError::Frame(FrameError::Header)));
}
