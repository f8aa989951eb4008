//! Power cuts: what the agent answered with success is on the disk, wherever the power goes.
//!
//! A real writer ([`work`]), a process of its own, fills a real buffer while everything that reaches
//! the disk is recorded. For each cut the disk is laid out as it may be then, and the real buffer is
//! opened on it, twice.
//!
//! | level | what is recorded | what is laid out |
//! | --- | --- | --- |
//! | `blocks` | writes and flushes of the block device under a real ext4 | sectors of 512 bytes that no flush covers: dropped, torn, reordered; ext4 replays its journal |
//! | `files` | system calls (`strace`) | what no fsync covers: writes dropped or torn; names that no sync of their directory covers: there or not |
//!
//! `blocks` needs root, loop devices and FUSE; `files` any account. `files` knows a file system only
//! by what POSIX promises, which is less than what ext4 does; `blocks` has the real one.
//!
//! Invariants: every acknowledged passage without a receipt is found, also behind its summary; every
//! summary that left is found with the same bytes; a passage is found under the one number that it
//! was given, so that what comes back from the dead is not counted twice; no store is moved aside. After
//! some cuts another unit opens the disk first: it must know that the store is not its own.
//! The harness proves itself: with `fdatasync` left out, cuts must lose.

pub mod blocks;
mod disk;
mod files;
mod found;
mod fuse;
mod recorder;
mod tape;
mod trace;
pub mod work;

use std::path::Path;

use clap::ValueEnum;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use crate::held::HeldError;
use disk::Fate;
use files::SyscallLog;
use found::Promises;
use tape::Tape;

/// The hidden command of `testbed` that is recorded: [`work::write_and_tell`].
pub const WRITER: &str = "powercut-writer";

/// Of the cuts, those after which another unit opens the disk first.
const VISITED_ONE_IN: u64 = 3;

/// Where the writer is recorded and the cuts are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// The block device under ext4.
    Blocks,
    /// The system calls.
    Files,
}

/// What to try.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Where.
    pub level: Level,
    /// Cuts.
    pub cuts: u64,
    /// Of the first; the next ones follow.
    pub seed: u64,
    /// Whether `fdatasync` works.
    pub syncs: bool,
    /// How often each disk is opened.
    pub opens: u64,
}

/// What came of it.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Where.
    pub level: Level,
    /// Cuts that were made.
    pub cuts: u64,
    /// Cuts after which something was wrong.
    pub failed: u64,
    /// Events of the recording: writes, syncs, words.
    pub events: usize,
    /// Passages that the writer was promised, over its whole run.
    pub acknowledged: u64,
    /// Passages that had to be found, over all cuts.
    pub passages_checked: u64,
    /// Summaries that had to be found, over all cuts.
    pub summaries_checked: u64,
    /// The first things that were wrong, each with the seed of its cut.
    pub faults: Vec<String>,
}

/// The harness could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum PowerCutError {
    /// The machine.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The buffer.
    #[error(transparent)]
    Held(#[from] HeldError),
    /// Something else.
    #[error("{0}")]
    Work(String),
}

enum Recording {
    Blocks(Tape),
    Files(SyscallLog),
}

impl Recording {
    fn events(&self) -> usize {
        match self {
            Self::Blocks(tape) => tape.events.len(),
            Self::Files(log) => log.events.len(),
        }
    }

    fn first_promise(&self) -> usize {
        match self {
            Self::Blocks(tape) => tape.first_promise(),
            Self::Files(log) => log.first_promise(),
        }
    }

    fn promises(&self, cut: usize) -> Promises {
        match self {
            Self::Blocks(tape) => Promises::of(tape.said(cut)),
            Self::Files(log) => Promises::of(log.said(cut)),
        }
    }
}

/// Records `program`, which is this testbed, and makes the cuts.
///
/// # Errors
/// The harness cannot work here; what a cut broke stands in the report.
pub fn run(plan: &Plan, program: &Path) -> Result<Report, PowerCutError> {
    let recording = match plan.level {
        Level::Blocks => Recording::Blocks(blocks::record(program, plan.syncs)?),
        Level::Files => Recording::Files(SyscallLog::record(program)?),
    };
    let events = recording.events();
    let mut report = Report {
        level: plan.level,
        cuts: plan.cuts,
        failed: 0,
        events,
        acknowledged: recording.promises(events).passages().end,
        passages_checked: 0,
        summaries_checked: 0,
        faults: Vec::new(),
    };
    for seed in plan.seed..plan.seed + plan.cuts {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let cut = rng.random_range(recording.first_promise() + 1..=events);
        let promises = recording.promises(cut);
        let passages = promises.passages();
        report.passages_checked += passages.end - passages.start;
        report.summaries_checked += promises.summaries() as u64;
        let look = |root: &Path| {
            let is_visited = seed.is_multiple_of(VISITED_ONE_IN);
            let known = is_visited.then(|| found::visit(root)).transpose()?;
            let mut faults = found::faults(root, &promises, plan.opens)?;
            faults.extend(known.flatten());
            Ok(faults)
        };
        let outcome = match &recording {
            Recording::Blocks(tape) => blocks::after_cut(tape, cut, &mut rng, look),
            Recording::Files(log) => {
                let place = tempfile::tempdir()?;
                let disk = log.disk_after(cut, plan.syncs);
                disk.after_power_loss(place.path(), |bytes| fate(&mut rng, bytes))?;
                look(place.path())
            }
        };
        // That the store does not open at all is a fault of the store, not of the harness.
        let faults = outcome.unwrap_or_else(|error| vec![error.to_string()]);
        if !faults.is_empty() {
            report.failed += 1;
            crate::held::list(&mut report.faults, seed, faults);
        }
    }
    Ok(report)
}

fn fate(rng: &mut ChaCha8Rng, bytes: usize) -> Fate {
    match rng.random_range(0..3) {
        0 => Fate::Dropped,
        1 => Fate::Kept,
        _ => {
            let sectors = bytes.div_ceil(tape::SECTOR_BYTES);
            Fate::Torn((0..sectors).map(|_| rng.random()).collect())
        }
    }
}
