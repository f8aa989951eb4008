//! `testbed sim`: the product's decisions under every fault, in virtual time.

use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::thread::available_parallelism;

use anyhow::{Context as _, ensure};
use clap::Args;
use service::exit;
use testbed::sim::{Bug, Course, replay_command, run, run_all};

/// Simulate units, broker, database and two aggregators under faults, in virtual time: the product's
/// own decisions, every fault drawn from the seed, every step judged. Needs no other program.
#[derive(Debug, Args)]
pub(super) struct Sim {
    /// Seeds, both included: `1..500`.
    #[arg(long, value_name = "A..B", value_parser = seeds, default_value = "1..500")]
    seeds: RangeInclusive<u64>,
    /// One line of JSON instead of text.
    #[arg(long)]
    json: bool,
    /// Write down what happens; for one seed.
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// What is tried.
    #[arg(long, value_enum, value_name = "COURSE", default_value_t)]
    course: Course,
    /// Break the simulated shells on purpose, to see that it is found.
    #[arg(long, value_enum, value_name = "BUG")]
    plant: Option<Bug>,
}

fn seeds(text: &str) -> Result<RangeInclusive<u64>, String> {
    let number = |text: &str| {
        text.parse::<u64>()
            .map_err(|error| format!("{text:?}: {error}"))
    };
    match text.split_once("..") {
        Some((first, last)) => Ok(number(first)?..=number(last)?),
        None => number(text).map(|seed| seed..=seed),
    }
}

impl Sim {
    pub(super) fn run(self) -> anyhow::Result<u8> {
        let (first, last) = (*self.seeds.start(), *self.seeds.end());
        ensure!(first <= last, "--seeds {first}..{last} holds no seed");
        if let Some(file) = &self.trace {
            ensure!(
                first == last,
                "--trace writes down one seed: --seeds {first}..{first}"
            );
            let report = run(first, self.course, self.plant, true);
            std::fs::write(file, &report.trace)
                .with_context(|| format!("cannot write {}", file.display()))?;
        }
        let threads = available_parallelism().map_or(1, NonZeroUsize::get);
        let summary = run_all(self.seeds.clone(), self.course, self.plant, threads, false);
        if self.json {
            super::say(&serde_json::to_string(&summary)?);
        } else {
            let tally = &summary.tally;
            super::say(&format!(
                "{} seeds, {} failed: {} passages, {} transactions, {} receipts, {} faults, {} virtual h",
                summary.seeds,
                summary.failed.len(),
                tally.accepted,
                tally.commits,
                tally.receipts,
                tally.faults,
                summary.virtual_s / 3_600,
            ));
            for report in &summary.failed {
                let problem = report.problem.as_deref().unwrap_or_default();
                super::say(&format!(
                    "seed {} at {} ms: {problem}\n    {}",
                    report.seed,
                    report.at_ms,
                    replay_command(report.seed, self.course, self.plant),
                ));
            }
        }
        Ok(if summary.failed.is_empty() {
            exit::OK
        } else {
            exit::FAILURE
        })
    }
}
