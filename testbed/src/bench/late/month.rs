//! Thirty days offline with a buffer that is too small for them.
//!
//! Method: a real agent whose link is closed gets 3,000,000 passages of thirty days, with a quota of
//! so many bytes that part of them must go. The link opens; when everything has arrived, every
//! window must be exact, and each passage either a raw row or a raw loss of the ledger.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::backlog::Backlog;
use super::exact::Expected;
use super::{DAY_MS, Scale, books, window_start_ms};
use crate::bench::commits::{CommitWatch, rate};
use crate::bench::figure::{Figure, Target};
use crate::bench::stage::{Stage, to_f64};
use crate::bench::{procfs, progress};
use crate::clock;
use crate::link::{Plan, Shape};
use crate::recompute::{Ledger, database as tables};

const AGENT: &str = "agent-1";
/// Less than a passage takes in the buffer, so that the quota is reached on the way.
const QUOTA_BYTES_PER_PASSAGE: u64 = 7;
const EXACT_WITHIN: Duration = Duration::from_secs(900);
/// After this long without a row everything has arrived.
const QUIET: Duration = Duration::from_secs(10);
const MIB: f64 = 1_048_576.0;

const RAW_LOST: &str = "SELECT coalesce(sum(last_seq - first_seq + 1 - recovered), 0)::int8 \
                        FROM loss_ledger WHERE scope = 'raw_only' AND reason = 'quota'";

/// Measures.
///
/// # Errors
/// The system does not come up, the quota is not reached, or what is committed is not what was posted.
pub(super) async fn run(scale: &Scale) -> Result<Vec<Figure>> {
    let free = Plan::both(Shape::FREE);
    let mut stage = Stage::start_behind(0, &[AGENT], Some(free)).await?;
    let quota = (scale.month_passages * QUOTA_BYTES_PER_PASSAGE).max(1_048_576);
    stage
        .set_agent(AGENT, "buffer", "quota_bytes", i64::try_from(quota)?.into())
        .await?;
    stage.link()?.close();
    let process = stage.agent_process(AGENT)?;
    procfs::reset_peak_resident(process)?;
    let to_ms = window_start_ms(clock::unix_ms());
    let backlog = Backlog {
        from_ms: to_ms - scale.month_days * DAY_MS,
        to_ms,
        passages: scale.month_passages,
        seed: 42,
    };
    progress(&format!(
        "month: posting {} passages into {quota} bytes",
        backlog.passages
    ));
    let mut ledger = Ledger::of_windows();
    let buffered = backlog.post(AGENT, stage.door(AGENT)?, &mut ledger).await?;
    let expected = Expected::of(&stage, &ledger, to_ms).await?;
    let mut rows = CommitWatch::of_rows(&stage).await?;
    progress(&format!("month: {} windows to be exact", expected.count()));
    let opened = clock::monotonic();
    stage.link()?.open();
    let exact = expected.in_sql(EXACT_WITHIN).await?;
    let exact_s = exact.duration_since(opened).as_secs_f64();
    progress(&format!("month: exact after {exact_s:.1} s"));
    let drain_rate = rate(&rows.until_quiet(QUIET).await?).unwrap_or(f64::NAN);
    let peak = to_f64(procfs::peak_resident_bytes(process)?) / MIB;

    let database = stage.system.database().await?;
    let (found, percentiles) = tables::windows(database.client()).await?;
    let windows = ledger.compare_windows(&found);
    ensure!(percentiles.wrong == 0, "percentiles differ: {percentiles}");
    if windows.wrong > 0 {
        progress(&format!("month: windows {windows}"));
    }
    let totals = tables::totals(database.client()).await?;
    let lost: i64 = database.client().query_one(RAW_LOST, &[]).await?.get(0);
    let lost = u64::try_from(lost)?;
    ensure!(lost > 0, "the quota was not reached");
    books::balanced(&stage, buffered, &[]).await?;
    let unexplained = buffered.abs_diff(totals.stored + lost);
    drop((database, rows, expected));
    stage.stop()?;
    let none = Target::AtMost(0.0);
    Ok(vec![
        Figure::new(
            "month.windows_wrong",
            to_f64(windows.wrong),
            "windows",
            none,
        )
        .with_limit(to_f64(windows.compared), "windows compared"),
        Figure::new(
            "month.raw_unexplained",
            to_f64(unexplained),
            "passages",
            none,
        )
        .with_limit(to_f64(buffered), "passages accepted"),
        Figure::new(
            "month.raw_lost_in_ledger",
            to_f64(lost),
            "passages",
            Target::AtLeast(1.0),
        ),
        Figure::new("month.exact_in_sql", exact_s, "s", Target::Any),
        Figure::new("month.drain_rate", drain_rate, "rows/s", Target::Any),
        Figure::new("month.agent_memory", peak, "MiB", Target::Any),
    ])
}
