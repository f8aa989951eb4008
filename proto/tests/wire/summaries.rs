//! What a summary costs on the wire.

use proto::device::StreamId;
use proto::frame::{Up, UpFrame};
use proto::header::{Frontier, UpHeader};
use proto::passage::{EventTime, Lane, Passage, Speed, VehicleClass};
use proto::ranges::{Seq, SeqRange};
use proto::summary::{Summary, SummaryEntry};
use proto::window::{BUCKET_MS, fold};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const WINDOWS: i64 = 72;
const PASSAGES_A_WINDOW: i64 = 3_600;

/// What a link of 64 kbit/s carries in a second and a half.
const BYTES_MAX: usize = 12 * 1_024;

/// A motorway of six lanes, cars and lorries, some passages without a speed.
fn passage(random: &mut ChaCha8Rng, event_ms: i64) -> Passage {
    let lane = random.random_range(0..6_u8);
    let kind = random.random_range(0..100);
    let (class, wish) = match kind {
        0..60 => (2, 102.0),
        60..72 => (3, 98.0),
        72..80 => (5, 88.0),
        80..82 => (4, 92.0),
        82..83 => (1, 108.0),
        _ => (9, 84.0),
    };
    let wish = wish + 7.0 * f64::from(lane % 3);
    let spread: f64 = (0..6).map(|_| random.random_range(-8.0..8.0)).sum();
    let kmh = ((wish + spread) * 10.0).round() / 10.0;
    Passage {
        event_time: EventTime::from_millis(event_ms),
        speed: Speed::from_kmh(kmh)
            .ok()
            .filter(|_| random.random_range(0..300) > 0),
        lane: Lane::new(lane),
        vehicle_class: VehicleClass::new(class),
        violation: kmh > 130.0,
        ..Passage::default()
    }
}

#[test]
fn six_hours_of_dense_traffic_fit_twelve_kibibytes() {
    let mut random = ChaCha8Rng::seed_from_u64(6);
    let mut first = Seq::FIRST;
    let mut entries = Vec::new();
    for hour in 0..WINDOWS / 12 {
        let count = 12 * PASSAGES_A_WINDOW;
        let batch = (0..count)
            .map(|n| {
                let start = 1_760_000_100_000 + hour * 12 * BUCKET_MS;
                passage(&mut random, start + n * 12 * BUCKET_MS / count)
            })
            .collect();
        let range = SeqRange::from_count(first, u64::try_from(count).unwrap()).unwrap();
        first = range.last().next().unwrap();
        entries.push(SummaryEntry {
            seqs: range.into(),
            deltas: fold(&batch, |_| true),
        });
    }
    let count = first.get() - 1;
    let header = UpHeader {
        stream: StreamId::from_bytes([7; 16]),
        first: Seq::FIRST,
        count: u32::try_from(count).unwrap(),
        accepted_to: count,
        frontier: Frontier {
            before: EventTime::from_millis(1_760_000_100_000),
            run: 1_760_000_000,
            counter: 5_000,
        },
        sent_at: EventTime::from_millis(1_760_030_000_000),
    };
    let message = Up::Summary(Summary { entries });
    let frame = message.encode(&header);
    assert_eq!(UpFrame::open(&frame).unwrap().message(), Ok(message));
    println!("{} bytes for {WINDOWS} windows", frame.len());
    assert!(frame.len() <= BYTES_MAX, "{} bytes", frame.len());
}
