//! Bytes and nanoseconds per passage on the wire.
//!
//! `cargo bench -p proto` first prints the bytes, then measures: encoding at the unit, opening at
//! the centre, and opening with folding into windows. Traffic is that of a three-lane motorway at
//! 12 vehicles a second: exponential headways, speeds in 0.1 km/h, civil plates.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group};
use proto::device::{DeviceId, StreamId};
use proto::frame::{Up, UpFrame};
use proto::header::{Frontier, UpHeader};
use proto::passage::{EventTime, Lane, Passage, Speed, VehicleClass};
use proto::plate::{Plate, PlateText};
use proto::ranges::Seq;
use proto::{PassageBatch, topic, window};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const BATCH: usize = 500;
const BATCHES: usize = 64;
const PER_SECOND: f64 = 12.0;

#[derive(Clone, Copy)]
enum Plates {
    Kept,
    Hashed,
    Dropped,
}

const VARIANTS: [(&str, Plates, f64); 3] = [
    ("kept", Plates::Kept, 9.0),
    ("hashed", Plates::Hashed, 12.5),
    ("dropped", Plates::Dropped, 4.0),
];

fn traffic(plates: Plates) -> Vec<PassageBatch> {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let mut now_ms = 1_760_000_000_000.0;
    let mut next = || {
        now_ms += -(1.0 - random.random::<f64>()).ln() * 1_000.0 / PER_SECOND;
        passage(&mut random, now_ms, plates)
    };
    (0..BATCHES)
        .map(|_| (0..BATCH).map(|_| next()).collect())
        .collect()
}

#[expect(clippy::cast_possible_truncation, reason = "a time of this century")]
fn passage(random: &mut ChaCha8Rng, now_ms: f64, plates: Plates) -> Passage {
    let lane = random.random_range(1..=3_u8);
    let heavy = lane == 1 && random.random_bool(0.4);
    let wish = 80.0 + 15.0 * f64::from(lane) - if heavy { 10.0 } else { 0.0 };
    // A sum of uniform numbers is near enough to a normal one.
    let spread: f64 = (0..6).map(|_| random.random_range(-6.0..6.0)).sum();
    Passage {
        event_time: EventTime::from_millis(now_ms as i64),
        speed: Speed::from_kmh(((wish + spread) * 10.0).round() / 10.0).ok(),
        plate: plate(random, plates),
        lane: Lane::new(lane),
        vehicle_class: VehicleClass::new(if heavy { 9 } else { 2 }),
        violation: wish + spread > 130.0,
        ..Passage::default()
    }
}

fn plate(random: &mut ChaCha8Rng, plates: Plates) -> Plate {
    const LETTERS: [char; 12] = ['А', 'В', 'Е', 'К', 'М', 'Н', 'О', 'Р', 'С', 'Т', 'У', 'Х'];
    const REGIONS: [&str; 12] = [
        "77", "97", "99", "177", "197", "199", "777", "799", "50", "90", "150", "750",
    ];
    match plates {
        Plates::Dropped => Plate::Absent,
        Plates::Hashed => Plate::Hash(random.random()),
        Plates::Kept => {
            let mut letter = || LETTERS[random.random_range(0..LETTERS.len())];
            let (a, b, c) = (letter(), letter(), letter());
            let number = random.random_range(1..1_000);
            let region = if random.random_bool(0.7) {
                REGIONS[random.random_range(0..REGIONS.len())].to_owned()
            } else {
                format!("{:02}", random.random_range(1..90))
            };
            let text = format!("{a}{number:03}{b}{c}{region}");
            PlateText::new(&text).map_or(Plate::Absent, Plate::Text)
        }
    }
}

fn frames(batches: &[PassageBatch], random: &mut impl Rng) -> Vec<Vec<u8>> {
    let mut first = Seq::FIRST;
    let mut stream = [0; 16];
    random.fill_bytes(&mut stream);
    batches
        .iter()
        .map(|batch| {
            let count = u32::try_from(batch.len()).unwrap_or(u32::MAX);
            let now = batch.event_time(batch.len() - 1);
            let header = UpHeader {
                stream: StreamId::from_bytes(stream),
                first,
                count,
                accepted_to: first.get() + u64::from(count),
                frontier: Frontier {
                    before: now,
                    run: 12,
                    counter: first.get(),
                },
                sent_at: now,
            };
            first = Seq::new(first.get() + u64::from(count)).unwrap_or(first);
            Up::Passages(batch.clone()).encode(&header)
        })
        .collect()
}

/// MQTT 3.1.1 (section 3.3: fixed header, topic, packet identifier) and TLS 1.3 records of at most
/// 16 KiB (RFC 8446, section 5.2: 5 bytes of header, 1 of type, 16 of tag).
fn framing_bytes(frame: usize) -> usize {
    let topic = DeviceId::new("KV12345").map_or(0, |device| topic::up(&device).len());
    let variable = 2 + topic + 2 + frame;
    let remaining_length = if variable < 16_384 { 2 } else { 3 };
    let packet = 1 + remaining_length + variable;
    packet - frame + packet.div_ceil(16_384) * 22
}

#[expect(clippy::print_stderr, reason = "the figure that this program is for")]
fn bytes_per_passage() {
    let mut random = ChaCha8Rng::seed_from_u64(2);
    for (name, plates, target) in VARIANTS {
        let frames = frames(&traffic(plates), &mut random);
        let total: usize = frames
            .iter()
            .map(|frame| frame.len() + framing_bytes(frame.len()))
            .sum();
        #[expect(clippy::cast_precision_loss, reason = "a mean of some thousands")]
        let mean = total as f64 / (BATCHES * BATCH) as f64;
        let verdict = if mean <= target { "met" } else { "NOT met" };
        eprintln!("bytes per passage, plates {name:8} {mean:6.2}  (target {target}, {verdict})");
    }
}

fn nanoseconds_per_passage(criterion: &mut Criterion) {
    let mut random = ChaCha8Rng::seed_from_u64(3);
    let mut group = criterion.benchmark_group("passage");
    group.throughput(Throughput::Elements((BATCH * BATCHES) as u64));
    for (name, plates, _) in VARIANTS {
        let batches = traffic(plates);
        let frames = frames(&batches, &mut random);
        group.bench_with_input(
            BenchmarkId::new("encode", name),
            &batches,
            |bencher, batches| {
                bencher.iter(|| {
                    batches
                        .iter()
                        .map(|b| black_box(b.encode()).len())
                        .sum::<usize>()
                });
            },
        );
        group.bench_with_input(
            BenchmarkId::new("decode", name),
            &frames,
            |bencher, frames| {
                bencher.iter(|| {
                    frames
                        .iter()
                        .filter_map(|frame| decoded(frame))
                        .for_each(drop)
                });
            },
        );
        group.bench_with_input(
            BenchmarkId::new("decode+fold", name),
            &frames,
            |bencher, frames| {
                bencher.iter(|| {
                    let fold = |batch| window::fold(&batch, |_| true).len();
                    frames
                        .iter()
                        .filter_map(|frame| decoded(frame))
                        .map(fold)
                        .sum::<usize>()
                });
            },
        );
    }
    group.finish();
}

fn decoded(frame: &[u8]) -> Option<PassageBatch> {
    match UpFrame::open(black_box(frame)).ok()?.message().ok()? {
        Up::Passages(batch) => Some(batch),
        _ => None,
    }
}

criterion_group!(benches, nanoseconds_per_passage);

fn main() {
    bytes_per_passage();
    benches();
    Criterion::default().configure_from_args().final_summary();
}
