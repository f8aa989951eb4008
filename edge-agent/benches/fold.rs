//! Folding the backlog of an outage before anything of it leaves: 3,000,000 passages, three days at 12
//! a second.
//!
//! `cargo bench -p edge-agent` prints how long all of it takes, how long the longest part of it, and how
//! long a camera waits that posts meanwhile: the buffer's one thread does both.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark that prints"
)]

use std::cell::Cell;
use std::time::Duration;

use edge_agent::buffer::{Admitted, Buffer, BufferSettings, FoldScope, Folded, QuotaPolicy};
use proto::{DeviceId, EventTime, Passage, Speed, StreamId};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use service::clock::monotonic;

const PASSAGES: u64 = 3_000_000;
const POST: usize = 10_000;
const PER_SECOND: i64 = 12;
const START_MS: i64 = 1_760_000_000_000;

fn passage(random: &mut ChaCha8Rng, place: u64) -> Admitted {
    let place = i64::try_from(place).unwrap();
    Admitted {
        passage: Passage {
            event_time: EventTime::from_millis(START_MS + place * 1_000 / PER_SECOND),
            speed: Speed::from_centi_kmh(random.random_range(3_000..13_000)),
            ..Passage::default()
        },
        event_id: None,
    }
}

async fn fill(buffer: &Buffer, random: &mut ChaCha8Rng) -> StreamId {
    let mut place = 0;
    while place < PASSAGES {
        let end = (place + POST as u64).min(PASSAGES);
        let post = (place..end).map(|place| passage(random, place)).collect();
        buffer.append(post).await.unwrap();
        place = end;
    }
    buffer.state().borrow().streams[0].id
}

/// Folds everything, and tells how long each part took.
async fn fold(buffer: &Buffer, stream: StreamId) -> Vec<Duration> {
    let scope = FoldScope {
        to: PASSAGES,
        if_before: None,
        windows_from: EventTime::from_millis(0),
        windows_to: EventTime::from_millis(2 * START_MS),
    };
    let mut parts = Vec::new();
    let mut all = 0;
    loop {
        let begun = monotonic();
        let Folded { passages, more } = buffer.fold(stream, scope).await.unwrap();
        parts.push(begun.elapsed());
        all += passages;
        if !more {
            assert!(all == PASSAGES, "{all} of {PASSAGES} passages were folded");
            return parts;
        }
    }
}

fn sorted(mut times: Vec<Duration>) -> Vec<Duration> {
    times.sort_unstable();
    times
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

async fn measure(directory: &std::path::Path) {
    let settings = BufferSettings {
        device: DeviceId::new("KV1").unwrap(),
        directory: directory.to_owned(),
        quota_bytes: 4 << 30,
        free_floor_bytes: 0,
        policy: QuotaPolicy::RefuseNew,
        linger: Duration::from_millis(50),
        open_timeout: Duration::from_secs(60),
    };
    let (buffer, owner) = Buffer::open(&settings).unwrap();
    let thread = std::thread::spawn(move || owner.run());
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let stream = fill(&buffer, &mut random).await;

    let begun = monotonic();
    let is_folded = Cell::new(false);
    let folding = async {
        let parts = fold(&buffer, stream).await;
        is_folded.set(true);
        (parts, begun.elapsed())
    };
    let posting = async {
        let mut posts = Vec::new();
        while !is_folded.get() {
            let post = vec![passage(&mut random, PASSAGES)];
            let posted = monotonic();
            buffer.append(post).await.unwrap();
            posts.push(posted.elapsed());
        }
        posts
    };
    let ((parts, all), posts) = tokio::join!(folding, posting);
    let (parts, posts) = (sorted(parts), sorted(posts));
    println!(
        "fold of {PASSAGES} passages: {:.2} s in {} parts, the median {:.0} ms, the longest {:.0} ms",
        all.as_secs_f64(),
        parts.len(),
        ms(parts[parts.len() / 2]),
        ms(parts[parts.len() - 1]),
    );
    println!(
        "posts meanwhile, one after the other: {}, the median after {:.0} ms, the last after {:.0} ms",
        posts.len(),
        ms(posts[posts.len() / 2]),
        ms(posts[posts.len() - 1]),
    );
    drop(buffer);
    thread.join().unwrap();
}

fn main() {
    let place = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.unwrap();
    runtime.block_on(measure(place.path()));
}
