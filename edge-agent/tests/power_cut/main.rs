//! What is acknowledged survives a power cut.
//!
//! A real writer, this program started again, appends passages to a real buffer under `strace`. It
//! prints each acknowledgement, so one log orders acknowledgements and file operations. For 100
//! seeded cuts the directory is then rebuilt as a disk may hold it after the power was lost at that
//! point: what was synced is there; every later write is there, missing, or torn between sectors of
//! 512 bytes; a name is certain only once its directory was synced. The real buffer opens it, twice,
//! and every passage acknowledged before the cut and not yet receipted must be in it, also behind its
//! summary; and every summary handed out before the cut must be there with the same bytes.
//!
//! The test proves itself: with the syncs of sled's main file left out of the replay, passages must
//! get lost.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail the test")]
#![expect(
    clippy::print_stdout,
    reason = "the recorded writer's acknowledgements"
)]

mod disk;
mod trace;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use edge_agent::buffer::{
    Admitted, Buffer, BufferSettings, FoldScope, QuotaPolicy, ReadError, ReadLimit,
};
use proto::StreamId;
use proto::device::CentreId;
use proto::passage::{EventTime, Passage, Speed};
use proto::ranges::{Seq, SeqRange, SeqSet};
use proto::receipt::{Centre, StreamReceipt};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use disk::{Disk, Fate};
use trace::{Event, Operation, SYSTEM_CALLS};

const CENTRE: Centre = Centre {
    id: CentreId::from_bytes([1; 16]),
    timeline: 1,
};

const CUTS: u64 = 100;
const COMMITS: u64 = 220;

/// Says where the writer works; set only in the recorded process.
const WRITER: &str = "VERST_POWER_CUT_WRITER";

/// Event times are the passages' numbers counted from here.
const EPOCH_MS: i64 = 1_743_848_130_000;

/// Small enough that sent copies are deleted and their space is used again.
const QUOTA_BYTES: u64 = 48 * 1024;

fn settings(directory: &Path) -> BufferSettings {
    BufferSettings {
        directory: directory.join("buffer"),
        quota_bytes: QUOTA_BYTES,
        free_floor_bytes: 0,
        policy: QuotaPolicy::RefuseNew,
        linger: Duration::ZERO,
        open_timeout: Duration::from_secs(60),
    }
}

/// Runs work on a buffer whose thread ends before this returns.
fn with_buffer<T>(directory: &Path, work: impl AsyncFnOnce(&Buffer) -> T) -> T {
    let (buffer, owner) = Buffer::open(&settings(directory)).unwrap();
    let thread = std::thread::spawn(move || owner.run());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let result = runtime.block_on(work(&buffer));
    drop(buffer);
    thread.join().unwrap();
    result
}

/// All windows take summaries, and all passages are old enough.
const ANY: FoldScope = FoldScope {
    to: u64::MAX,
    if_before: None,
    windows_from: EventTime::from_millis(0),
    windows_to: EventTime::from_millis(2 * EPOCH_MS),
};

/// The process that is recorded: bursts and single passages, now and then summaries that leave, and
/// now and then a receipt.
fn write_and_tell(directory: &Path) {
    with_buffer(directory, async |buffer| {
        let mut sent = 0_u64;
        for commit in 0..COMMITS {
            let count = [1, 3, 64, 1, 150, 17][usize::try_from(commit % 6).unwrap()];
            let passages = (sent..sent + count).map(passage).collect();
            buffer.append(passages).await.unwrap();
            sent += count;
            println!("acknowledged {sent}");
            if commit % 5 == 3 {
                let stream = buffer.state().borrow().streams[0].id;
                buffer.fold(stream, ANY).await.unwrap();
                for sum in summaries(buffer, stream).await {
                    println!("sealed {sum}");
                }
            }
            if commit % 7 == 6 {
                // From here on a lost one is no loss: the centre has it.
                println!("receipted {sent}");
                let stream = buffer.state().borrow().streams[0].id;
                let range = SeqRange::from_count(Seq::FIRST, sent).unwrap();
                let counted = SeqSet::from(range);
                let stored = counted.clone();
                let receipt = StreamReceipt {
                    stream,
                    counted,
                    stored,
                    lost: SeqSet::new(),
                    afresh: false,
                };
                buffer.receipt(CENTRE, vec![receipt]).await.unwrap();
            }
        }
    });
}

fn passage(number: u64) -> Admitted {
    let event_time = EventTime::from_millis(EPOCH_MS + i64::try_from(number).unwrap());
    let speed = Speed::from_centi_kmh(u16::try_from(number * 7_919 % 20_000).unwrap());
    Admitted {
        passage: Passage {
            event_time,
            speed,
            ..Passage::default()
        },
        event_id: None,
    }
}

/// Checksums of the summaries as they leave.
async fn summaries(buffer: &Buffer, stream: StreamId) -> Vec<u64> {
    let pending = buffer.pending_summaries(stream, usize::MAX).await.unwrap();
    let sum = |entry| crc32c::crc32c(&postcard::to_stdvec(entry).unwrap());
    let sums = pending.iter().map(|pending| sum(&pending.entry).into());
    sums.collect()
}

/// What is in a buffer.
#[derive(Default)]
struct Found {
    passages: BTreeSet<u64>,
    summaries: BTreeSet<u64>,
    /// Whether a store had to be moved aside.
    was_aside: bool,
}

/// The numbers of all passages in the buffer, those behind a summary included.
fn found(directory: &Path) -> Found {
    with_buffer(directory, async |buffer| {
        let state = buffer.state().borrow().clone();
        let mut found = Found {
            was_aside: !state.alarms.is_empty(),
            ..Found::default()
        };
        for stream in &state.streams {
            found.summaries.extend(summaries(buffer, stream.id).await);
            // Counted, so that the passages behind them can be read.
            let receipt = StreamReceipt {
                stream: stream.id,
                counted: stream.summed.union(&stream.counted),
                stored: SeqSet::new(),
                lost: SeqSet::new(),
                afresh: false,
            };
            buffer.receipt(CENTRE, vec![receipt]).await.unwrap();
            let mut next = Seq::FIRST;
            loop {
                let limit = ReadLimit {
                    passages: 4_096,
                    bytes: 1 << 20,
                };
                match buffer.read(stream.id, next, limit).await {
                    Ok(Some(run)) => {
                        let numbers = run
                            .batch
                            .iter()
                            .map(|passage| passage.event_time.as_millis());
                        let passages = &mut found.passages;
                        passages.extend(numbers.map(|ms| u64::try_from(ms - EPOCH_MS).unwrap()));
                        next = Seq::new(run.first.get() + run.batch.len() as u64).unwrap();
                    }
                    Ok(None) => break,
                    Err(ReadError::Corrupt { range, .. }) => next = range.last().next().unwrap(),
                    Err(ReadError::Stopped(error)) => panic!("{error}"),
                }
            }
        }
        found
    })
}

/// Records the writer.
fn record(directory: &Path) -> Vec<Event> {
    let log = directory.join("strace.log");
    let home = directory.join("home");
    std::fs::create_dir(&home).unwrap();
    let status = Command::new("strace")
        .args([
            "-f",
            "-y",
            "-xx",
            "-s",
            "1048576",
            "-e",
            &format!("trace={SYSTEM_CALLS}"),
            "-o",
        ])
        .arg(&log)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", TEST, "--nocapture", "--test-threads", "1"])
        .env(WRITER, &home)
        .stdout(std::process::Stdio::null())
        .status()
        .unwrap_or_else(|error| {
            panic!("strace does not start ({error}); install it: apt-get install -y strace")
        });
    assert!(status.success(), "the recorded writer failed: {status}");
    trace::read(&std::fs::read_to_string(log).unwrap(), &home)
}

/// The summaries that must be found after a cut: those handed out since the last receipt.
fn promised_summaries(events: &[Event]) -> BTreeSet<u64> {
    let said = events
        .iter()
        .rev()
        .filter_map(|event| match &event.operation {
            Operation::Say(text) => Some(text),
            _ => None,
        });
    said.take_while(|text| !text.starts_with("receipted"))
        .filter_map(|text| text.strip_prefix("sealed")?.trim().parse().ok())
        .collect()
}

/// What must be found after a cut: the first number without a receipt, and the last acknowledged.
fn promised(events: &[Event]) -> std::ops::Range<u64> {
    let last = |word: &str| {
        let said = events
            .iter()
            .rev()
            .find_map(|event| match &event.operation {
                Operation::Say(text) => text.strip_prefix(word)?.trim().parse().ok(),
                _ => None,
            });
        said.unwrap_or(0)
    };
    last("receipted")..last("acknowledged")
}

/// The numbers that are missing after a cut, and whether the store had to be moved aside.
fn missing_after(events: &[Event], seed: u64, syncs: bool, opens: usize) -> (BTreeSet<u64>, bool) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let first_promise = events
        .iter()
        .position(|event| matches!(event.operation, Operation::Say(_)));
    let cut = rng.random_range(first_promise.unwrap()..events.len());
    let before = &events[..cut];
    let mut disk = Disk::default();
    for event in before {
        let is_main_file = event
            .operation
            .path()
            .is_some_and(|path| path.ends_with("store/db"));
        if syncs || !is_main_file || !matches!(event.operation, Operation::Sync { .. }) {
            disk.apply(event, before);
        }
    }
    let place = tempfile::tempdir().unwrap();
    disk.after_power_loss(place.path(), |bytes| match rng.random_range(0..3) {
        0 => Fate::Dropped,
        1 => Fate::Kept,
        _ => Fate::Torn(
            (0..bytes.div_ceil(disk::SECTOR_BYTES))
                .map(|_| rng.random())
                .collect(),
        ),
    });
    let mut missing = BTreeSet::new();
    let mut was_aside = false;
    for open in 0..opens {
        let found = found(place.path());
        let passages = promised(before).filter(|number| !found.passages.contains(number));
        missing.extend(passages);
        if open == 0 {
            // The receipt that this gave has freed them before the next.
            let summaries = promised_summaries(before);
            missing.extend(summaries.difference(&found.summaries));
        }
        was_aside |= found.was_aside;
    }
    (missing, was_aside)
}

const TEST: &str = "acknowledged_passages_survive_a_hundred_power_cuts_and_not_without_the_syncs";

#[test]
fn acknowledged_passages_survive_a_hundred_power_cuts_and_not_without_the_syncs() {
    if let Some(home) = std::env::var_os(WRITER) {
        return write_and_tell(Path::new(&home));
    }
    let place = tempfile::tempdir().unwrap();
    let events = record(place.path());
    let all = promised(&events);
    assert!(all.end > 5_000, "the log ends at passage {}", all.end);
    let cut = |at: usize| promised_summaries(&events[..at]).len();
    assert!((0..events.len()).any(|at| cut(at) > 0), "no summary left");
    for seed in 0..CUTS {
        let (missing, was_aside) = missing_after(&events, seed, true, 2);
        assert!(missing.is_empty(), "cut {seed} lost {missing:?}");
        assert!(!was_aside, "cut {seed}: the store had to be moved aside");
    }
    let losing = (0..CUTS).filter(|seed| {
        let (missing, _) = missing_after(&events, *seed, false, 1);
        !missing.is_empty()
    });
    let losing = losing.count();
    assert!(
        losing > 50,
        "without the syncs only {losing} of {CUTS} cuts lost passages"
    );
}
