//! A recorded file through the whole real system, and the comparison of every window.
//!
//! One real agent for each unit of the file posts its lines in their order; broker, aggregator and
//! database are private. The files are years old as a rule, so the horizon is set to reach back to
//! their first passage.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::future::try_join_all;
use serde::Serialize;

use crate::clock;
use crate::feed::{self, Feed, FeedError, Pace, PostingError};
use crate::postgres::Options as ClusterOptions;
use crate::recompute::{Findings, Ledger, database as tables, expected};
use crate::system::{Options, System, SystemError, Tuning};

const DAY_MS: i64 = 86_400_000;
/// Room beyond the oldest passage, in days.
const HORIZON_MARGIN_DAYS: i64 = 3;
/// The centre's own default.
const HORIZON_DAYS_MIN: i64 = 60;
/// The centre's own limit.
const HORIZON_DAYS_MAX: i64 = 36_500;
/// From the last post until all is counted and stored, on a busy machine.
const SETTLED_WITHIN: Duration = Duration::from_secs(300);

/// What to replay.
#[derive(Debug, Clone)]
pub struct Order {
    /// NDJSON in the customer's format, perhaps compressed by gzip.
    pub file: PathBuf,
    /// A table of what its 5-minute windows must be.
    pub expect: Option<PathBuf>,
    /// How many times faster than it happened; `None`: as fast as it goes.
    pub speedup: Option<f64>,
}

/// What came of it.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Units in the file.
    pub units: usize,
    /// Passages that agents accepted, each durable.
    pub accepted: u64,
    /// In windows.
    pub counted: u64,
    /// Raw rows.
    pub stored: u64,
    /// In the loss ledger.
    pub lost: u64,
    /// In the side table.
    pub rejected: u64,
    /// Windows of all lengths that were recomputed and compared.
    pub windows_compared: u64,
    /// Of them, those that differ.
    pub windows_wrong: u64,
    /// Raw rows that differ.
    pub rows_wrong: u64,
    /// Rows of the table of expected windows; 0 without one.
    pub expected_compared: u64,
    /// Of them, those that differ.
    pub expected_wrong: u64,
    /// Until the last passage was accepted.
    pub posting_ms: u128,
    /// Until the last passage was counted and stored.
    pub settled_ms: u128,
    /// Streams whose books do not add up: accepted = counted + lost + held.
    pub books_wrong: u64,
    /// The first differences in words.
    pub differences: Vec<String>,
}

impl Report {
    /// Everything is equal, and something was compared.
    #[must_use]
    pub const fn exact(&self) -> bool {
        let differences =
            self.windows_wrong + self.rows_wrong + self.expected_wrong + self.books_wrong;
        let complete = self.accepted == self.counted && self.accepted == self.stored;
        differences == 0 && complete && self.windows_compared > 0
    }
}

/// A replay that did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The file.
    #[error(transparent)]
    Feed(#[from] FeedError),
    /// No lines.
    #[error("{} holds no passages", .0.display())]
    Empty(PathBuf),
    /// The system.
    #[error(transparent)]
    System(#[from] SystemError),
    /// An agent.
    #[error(transparent)]
    Posting(#[from] PostingError),
    /// The table of expected windows.
    #[error("{path}: {problem}")]
    Expected {
        /// Which file.
        path: String,
        /// What is wrong.
        problem: String,
    },
}

/// Replays a file.
///
/// # Errors
/// Anything that kept it from being compared; differences are in the [`Report`].
pub async fn run(order: &Order) -> Result<Report, ReplayError> {
    let feed = feed::read(&order.file)?;
    if feed.is_empty() {
        return Err(ReplayError::Empty(order.file.clone()));
    }
    replay(&feed, order.expect.as_deref(), order.speedup).await
}

/// Replays what was read or generated.
///
/// # Errors
/// As [`run`].
pub async fn replay(
    feed: &Feed,
    expect: Option<&Path>,
    speedup: Option<f64>,
) -> Result<Report, ReplayError> {
    let options = Options {
        agents: feed.keys().cloned().collect(),
        tuning: Tuning {
            horizon_days: horizon_days(feed),
            ..Tuning::default()
        },
        cluster: ClusterOptions::default(),
        ..Options::default()
    };
    let system = System::start(options).await?;
    let begun = clock::monotonic();
    let pace = Pace {
        speedup,
        ..Pace::FULL
    };
    let posts = feed.iter().map(|(device, lines)| {
        let camera = system.agents[device].camera();
        feed::post(device, lines, camera, pace)
    });
    let mut ledger = Ledger::new();
    try_join_all(posts)
        .await?
        .into_iter()
        .for_each(|of_unit| ledger.merge(of_unit));
    let posting_ms = begun.elapsed().as_millis();
    system.settled(ledger.passages(), SETTLED_WITHIN).await?;
    let settled_ms = begun.elapsed().as_millis();
    let verdict = system.judge(&ledger).await?;
    let outside = match expect {
        Some(path) => compare_expected(&system, path).await?,
        None => Findings::default(),
    };
    system.stop()?;
    let quoted = [
        Some(&verdict.windows),
        verdict.rows.as_ref(),
        Some(&outside),
    ];
    Ok(Report {
        units: feed.len(),
        accepted: ledger.passages(),
        counted: verdict.totals.counted,
        stored: verdict.totals.stored,
        lost: verdict.totals.lost,
        rejected: verdict.totals.rejected,
        windows_compared: verdict.windows.compared,
        windows_wrong: verdict.windows.wrong,
        rows_wrong: verdict.rows_wrong(),
        expected_compared: outside.compared,
        expected_wrong: outside.wrong,
        posting_ms,
        settled_ms,
        books_wrong: verdict.books.wrong.len() as u64,
        differences: quoted
            .into_iter()
            .flatten()
            .flat_map(|findings| findings.quoted.clone())
            .chain(verdict.books.wrong.clone())
            .collect(),
    })
}

async fn compare_expected(system: &System, path: &Path) -> Result<Findings, ReplayError> {
    let name = path.display().to_string();
    let fault = |problem: String| ReplayError::Expected {
        path: name.clone(),
        problem,
    };
    let file = std::fs::File::open(path).map_err(|error| fault(error.to_string()))?;
    let database = system.database().await?;
    let (windows, _) = tables::windows(database.client())
        .await
        .map_err(SystemError::from)?;
    let findings = expected::compare(file, &windows).map_err(|error| fault(error.to_string()))?;
    if findings.compared == 0 {
        return Err(fault("no rows".to_owned()));
    }
    Ok(findings)
}

/// Far enough back for the oldest passage.
fn horizon_days(feed: &Feed) -> u32 {
    let times = feed.values().flatten().map(|line| line.fact.event_ms);
    let oldest = times.min().unwrap_or_default();
    let days = (clock::unix_ms() - oldest) / DAY_MS + HORIZON_MARGIN_DAYS;
    u32::try_from(days.clamp(HORIZON_DAYS_MIN, HORIZON_DAYS_MAX)).unwrap_or(u32::MAX)
}
