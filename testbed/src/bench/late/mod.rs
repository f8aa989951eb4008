//! Six hours late: how soon everything is exact, and what it costs those who are not late.
//!
//! `testbed bench late` runs these one after the other, with the rules of [`crate::bench`]. Event
//! times of hours ago are posted to real agents whose link is closed, so that no run takes hours.
//! Whatever is measured, the windows are compared with the recomputation of [`crate::recompute`],
//! and a difference ends the run; so do books of the ledger that do not add up, stream by stream.

mod backlog;
mod books;
mod camera;
mod continuous;
mod exact;
mod flink;
mod flood;
mod month;
mod old;
mod others;
mod outage;
mod stragglers;
mod work;

use std::time::Duration;

use anyhow::{Context, Result};
use proto::window::BUCKET_MS as WINDOW_MS;

use super::figure::Report;
use super::progress;

const DAY_MS: i64 = 24 * 3_600_000;

/// How much is measured. The defaults are those of the figures; less is for trying things out.
#[derive(Debug, Clone)]
pub struct Scale {
    /// Windows that one unit was offline in `outage`.
    pub outage_windows: i64,
    /// Passages that it buffered.
    pub outage_passages: u64,
    /// How long the slow link is watched.
    pub raw_phase: Duration,
    /// Units that come back together in `flood`, each a real agent.
    pub returning: usize,
    /// Passages that each of them buffered.
    pub returning_passages: u64,
    /// Units that are live meanwhile, simulated.
    pub live_units: usize,
    /// Simulated units that saturate the centre before, to compare with.
    pub saturating_units: usize,
    /// For so long.
    pub saturation: Duration,
    /// Old windows that get one passage each in `stragglers`, each of another unit.
    pub stragglers: usize,
    /// Passages that each of as many units has in each window in `continuous`.
    pub continuous_passages: i64,
    /// Days that one unit is offline in `month`: the windows alone must fit into the quota.
    pub month_days: i64,
    /// Passages that it buffers.
    pub month_passages: u64,
    /// Passages that both systems get in `flink`.
    pub flink_passages: usize,
}

impl Default for Scale {
    fn default() -> Self {
        Self {
            outage_windows: 72,
            outage_passages: 260_000,
            raw_phase: Duration::from_secs(120),
            returning: 100,
            returning_passages: 250_000,
            live_units: 900,
            saturating_units: 100,
            saturation: Duration::from_secs(12),
            stragglers: 1_000,
            continuous_passages: 100,
            month_days: 30,
            month_passages: 3_000_000,
            flink_passages: 10_000_000,
        }
    }
}

impl Scale {
    /// A tenth or less of everything: whether it works, not how fast it is.
    #[must_use]
    pub fn small() -> Self {
        Self {
            outage_windows: 12,
            outage_passages: 20_000,
            raw_phase: Duration::from_secs(10),
            returning: 5,
            returning_passages: 20_000,
            live_units: 40,
            saturating_units: 40,
            saturation: Duration::from_secs(4),
            stragglers: 50,
            continuous_passages: 20,
            month_days: 2,
            month_passages: 300_000,
            flink_passages: 200_000,
        }
    }
}

/// One benchmark: what it is called and what it gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Name {
    /// One unit after six hours, on a link of 64 kbit/s.
    Outage,
    /// A hundred units back at once, nine hundred live.
    Flood,
    /// One late passage into each of a thousand old windows.
    Stragglers,
    /// Four late passages, beside a continuous aggregate of TimescaleDB.
    Continuous,
    /// Thirty days offline with a buffer too small for them.
    Month,
    /// The same passages with Apache Flink.
    Flink,
}

impl Name {
    /// All of them, the cheap ones first.
    pub const ALL: [Self; 6] = [
        Self::Stragglers,
        Self::Continuous,
        Self::Month,
        Self::Outage,
        Self::Flood,
        Self::Flink,
    ];

    const fn word(self) -> &'static str {
        match self {
            Self::Outage => "outage",
            Self::Flood => "flood",
            Self::Stragglers => "stragglers",
            Self::Continuous => "continuous",
            Self::Month => "month",
            Self::Flink => "flink",
        }
    }
}

/// Runs these benchmarks of the group "late".
///
/// # Errors
/// The system does not come up, or a result is wrong.
pub async fn run(names: &[Name], scale: &Scale) -> Result<Report> {
    let (mut figures, mut notes) = (Vec::new(), Vec::new());
    for name in names {
        progress(&format!("{}: starting the system", name.word()));
        // Large futures, one at a time: on the heap.
        let measured = match name {
            Name::Outage => Box::pin(outage::run(scale)).await,
            Name::Flood => Box::pin(flood::run(scale)).await,
            Name::Stragglers => Box::pin(stragglers::run(scale)).await,
            Name::Continuous => Box::pin(continuous::run(scale, &mut notes)).await,
            Name::Month => Box::pin(month::run(scale)).await,
            Name::Flink => Box::pin(flink::run(scale, &mut notes)).await,
        };
        figures.extend(measured.with_context(|| format!("benchmark {}", name.word()))?);
    }
    let mut report = Report::new(figures);
    report.notes = notes;
    Ok(report)
}

/// The start of the window of this moment.
const fn window_start_ms(ms: i64) -> i64 {
    ms - ms.rem_euclid(WINDOW_MS)
}
