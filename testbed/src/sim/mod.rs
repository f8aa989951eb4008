//! The simulator: the product's own decisions under every fault, in virtual time, from one seed.
//!
//! ```text
//! camera ─► door ─► buffer ─► uplink ─► gate ─► router ─► intake ─► select, plan ─► database
//!             ●        ●         ●        ●    (simulated)   ●           ●         (simulated)
//! ```
//! ● is the product's code: admission ([`edge_agent::ingest`]), the buffer with its owner's steps over
//! a simulated disk, the uplink's machine, courier and frames, the gate's verdicts (`broker::session`), the
//! aggregator's door, decoder, selection, plan, memory, verdicts and balance of leases. Simulated is what does I/O around
//! it, and that can do everything bad: links that are cut or half open, a router that drops, delays,
//! reorders, duplicates and forgets, disks that are full or whose power goes before or after a sync,
//! clocks that are wrong, a database that fails before or after COMMIT or is put back in time,
//! aggregators that are killed, frozen or told to stop, stores that are put back to an earlier image or
//! run a second time as a copy, and somebody with a certificate who tries what he must not.
//!
//! Invariants: the same seed gives the same trace, byte for byte; nothing here reads a clock, draws
//! from the system's randomness, or opens anything. The judge (`oracle`) looks at every step.
//!
//! What it does not cover: sled, sockets, TLS, SQL. The tests of the power cut, the gate and the real
//! processes do.

mod broker;
mod camera;
mod centre;
mod database;
mod dice;
mod disk;
mod intruder;
mod net;
mod oracle;
mod queue;
mod rows;
mod scenario;
mod stage;
mod trace;
mod unit;
mod weather;
mod world;

#[cfg(test)]
mod tests;

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;
use service::panics::contain;

pub use oracle::Tally;
pub use scenario::{Bug, Course};

/// What became of one seed.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Which.
    pub seed: u64,
    /// What is wrong, if anything.
    pub problem: Option<String>,
    /// Virtual ms until the end.
    pub at_ms: u64,
    /// Events.
    pub events: u64,
    /// What it saw.
    pub tally: Tally,
    /// What happened, line by line; empty unless it was asked for.
    #[serde(skip)]
    pub trace: String,
}

/// Runs one seed. A panic of the product's code is a problem like any other.
#[must_use]
pub fn run(seed: u64, course: Course, bug: Option<Bug>, traced: bool) -> Report {
    let world = move || world::World::new(seed, course, bug, traced).run();
    contain(world).unwrap_or_else(|panic| Report {
        seed,
        problem: Some(format!("panic: {}", panic.message)),
        at_ms: 0,
        events: 0,
        tally: Tally::default(),
        trace: String::new(),
    })
}

/// What became of several seeds.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Summary {
    /// Seeds that were run.
    pub seeds: u64,
    /// The seeds with a problem, the lowest first.
    pub failed: Vec<Report>,
    /// Sums over all.
    pub events: u64,
    /// Virtual seconds.
    pub virtual_s: u64,
    /// Sums over all, but for the longest time to drain.
    pub tally: Tally,
}

/// Runs seeds on so many threads. With `first_only` it ends soon after the first problem.
#[must_use]
pub fn run_all(
    seeds: RangeInclusive<u64>,
    course: Course,
    bug: Option<Bug>,
    threads: usize,
    first_only: bool,
) -> Summary {
    let (next, last) = (AtomicU64::new(*seeds.start()), *seeds.end());
    let summary = Mutex::new(Summary::default());
    let add = |report: Report| {
        let mut summary = summary.lock().unwrap_or_else(PoisonError::into_inner);
        summary.add(report);
        first_only && !summary.failed.is_empty()
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed > last || add(run(seed, course, bug, false)) {
                        // The others see that there is nothing left.
                        return next.store(last + 1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let mut summary = summary.into_inner().unwrap_or_else(PoisonError::into_inner);
    summary.failed.sort_by_key(|report| report.seed);
    summary
}

impl Summary {
    fn add(&mut self, report: Report) {
        self.seeds += 1;
        self.events += report.events;
        self.virtual_s += report.at_ms / 1_000;
        self.tally.add(&report.tally);
        if report.problem.is_some() {
            self.failed.push(report);
        }
    }
}

/// The command that runs one seed again and writes down what happens.
#[must_use]
pub fn replay_command(seed: u64, course: Course, bug: Option<Bug>) -> String {
    let course = (course != Course::default()).then(|| option("--course", course));
    let options = [course, bug.map(|bug| option("--plant", bug))];
    let options: String = options.into_iter().flatten().collect();
    format!("testbed sim --seeds {seed}..{seed}{options} --trace sim-{seed}.txt")
}

fn option(name: &str, value: impl clap::ValueEnum) -> String {
    let value = value.to_possible_value();
    value.map_or_else(String::new, |value| format!(" {name} {}", value.get_name()))
}
