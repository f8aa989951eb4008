//! Benchmarks of the whole system: real programs, real TLS, real disks, on one machine.
//!
//! `testbed bench pipeline` runs them one after the other and prints a table, or with `--json` one
//! line. Each file says its method at the top. Common rules:
//! - warm-up is excluded, rates run from commit to commit, ratios are medians of neighbours;
//! - what the machine itself would allow is measured in the same run and stands beside the figure;
//! - load generators are lean, because they share the cores with what they measure, and their CPU
//!   time is reported;
//! - whatever was posted is checked to be counted: a wrong result is an error, not a slow one.
//!
//! Part of the command line: errors are for people (`anyhow`).

pub mod bounds;
pub mod bytes;
pub mod centre;
pub mod commits;
pub mod disk;
pub mod entropy;
pub mod events;
pub mod figure;
pub mod http;
pub mod late;
pub mod live;
pub mod memory;
pub mod posts;
pub mod prepared;
pub mod probe;
pub mod procfs;
pub mod raw;
pub mod relay;
pub mod schedule;
pub mod stage;
pub mod windows;

use std::time::Duration;

use anyhow::{Context, Result};

pub use figure::Report;

/// How much is measured. The defaults are those of the figures; less is for trying things out.
#[derive(Debug, Clone)]
pub struct Scale {
    /// Simulated units.
    pub units: usize,
    /// Passages that are prepared for `windows`.
    pub passages: usize,
    /// Passages that are prepared for all segments of `raw`.
    pub raw_passages: usize,
    /// Measured pairs or segments, where several are.
    pub pairs: usize,
    /// How long units offer in one segment of `raw`, and how long bare COPY goes on.
    pub segment: Duration,
    /// One segment of `posts` and `bulk`.
    pub post_segment: Duration,
    /// Before measuring what runs at a steady rate.
    pub warm_up: Duration,
    /// Measuring what runs at a steady rate.
    pub live: Duration,
    /// Measuring the API.
    pub gets: Duration,
    /// Passages that an agent buffers in `memory`.
    pub buffered: u64,
}

impl Default for Scale {
    fn default() -> Self {
        Self {
            units: 1_000,
            passages: 30_000_000,
            raw_passages: 120_000_000,
            pairs: 8,
            segment: Duration::from_secs(12),
            post_segment: Duration::from_secs(4),
            warm_up: Duration::from_secs(20),
            live: Duration::from_secs(60),
            gets: Duration::from_secs(30),
            buffered: 3_000_000,
        }
    }
}

impl Scale {
    /// A tenth or so of everything: whether it works, not how fast it is.
    #[must_use]
    pub fn small() -> Self {
        Self {
            units: 100,
            passages: 2_000_000,
            raw_passages: 6_000_000,
            pairs: 1,
            segment: Duration::from_secs(10),
            post_segment: Duration::from_secs(2),
            warm_up: Duration::from_secs(5),
            live: Duration::from_secs(10),
            gets: Duration::from_secs(9),
            buffered: 100_000,
        }
    }

    /// A billion passages a day come from 1,000 units; from fewer, their share.
    fn live_rate_min(&self) -> f64 {
        // The traffic is random: 2 % below the mean is within it.
        0.98 * 11.6 * stage::to_f64(self.units as u64)
    }
}

/// One benchmark: what it is called and what it gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Name {
    /// Units to committed windows, raw rows off.
    Windows,
    /// Raw rows at saturation against bare COPY.
    Raw,
    /// A billion passages a day: freshness, CPU, API.
    Live,
    /// Durable POSTs of one passage.
    Posts,
    /// Durable POSTs of 1,000 passages.
    Bulk,
    /// Resident memory of an agent.
    Memory,
    /// Bytes on the wire.
    Bytes,
}

impl Name {
    /// All of them, the cheap ones first.
    pub const ALL: [Self; 7] = [
        Self::Bytes,
        Self::Posts,
        Self::Bulk,
        Self::Memory,
        Self::Windows,
        Self::Raw,
        Self::Live,
    ];

    const fn word(self) -> &'static str {
        match self {
            Self::Windows => "windows",
            Self::Raw => "raw",
            Self::Live => "live",
            Self::Posts => "posts",
            Self::Bulk => "bulk",
            Self::Memory => "memory",
            Self::Bytes => "bytes",
        }
    }
}

/// Runs these benchmarks of the group "pipeline".
///
/// # Errors
/// The system does not come up, or a result is wrong.
pub async fn pipeline(names: &[Name], scale: &Scale) -> Result<Report> {
    let mut figures = Vec::new();
    for name in names {
        progress(&format!("{}: starting the system", name.word()));
        // Large futures, one at a time: on the heap.
        let measured = match name {
            Name::Windows => Box::pin(windows::run(scale)).await,
            Name::Raw => Box::pin(raw::run(scale)).await,
            Name::Live => Box::pin(live::run(scale)).await,
            Name::Posts => Box::pin(posts::singles(scale)).await,
            Name::Bulk => Box::pin(posts::bulk(scale)).await,
            Name::Memory => Box::pin(memory::run(scale)).await,
            Name::Bytes => Box::pin(bytes::run(scale)).await,
        };
        figures.extend(measured.with_context(|| format!("benchmark {}", name.word()))?);
    }
    Ok(Report::new(figures))
}

/// What goes on, for whoever waits.
#[expect(clippy::print_stderr, reason = "part of the command line")]
fn progress(text: &str) {
    eprintln!("{text}");
}
