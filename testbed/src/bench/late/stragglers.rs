//! One late passage into each of a thousand old windows.
//!
//! Method: a thousand simulated units have windows of some hours. Then each sends one passage that
//! is hours old, into another window than its last; the clock runs from the moment when they may
//! send until all have their receipts, which leave after the COMMIT. The database says how many rows
//! it wrote and read and how many pages it touched: once for a tenth of the units, once for all, and
//! once for all after every unit has four times as many windows. Work per passage must not grow with
//! either: it is counted in pages, for PostgreSQL scans a table of few pages as a whole, however
//! many rows of it are wanted. Before each round the aggregator is restarted, so that it has to read
//! what it needs, and PostgreSQL has done its maintenance: it follows from what was written before, and
//! would fall into one round and not into another. At the end every window is compared with the recomputation, and windows that
//! nobody was late for must have the revision that they had.

use anyhow::{Result, ensure};
use proto::DeviceId;

use super::old::{Old, order, send};
use super::others::{self, Revisions};
use super::work::Work;
use super::{Scale, WINDOW_MS, books};
use crate::bench::figure::{Figure, Target};
use crate::bench::progress;
use crate::bench::stage::{Stage, to_f64};
use crate::recompute::database as tables;

const SECONDS_MAX: f64 = 2.0;
/// Work per passage, against the same with fewer units or windows: noise of a few pages.
const GROWTH_MAX: f64 = 1.2;
const WINDOWS: i64 = 24;
const WINDOWS_LATER: i64 = 4 * WINDOWS;
const PASSAGES_A_WINDOW: i64 = 4;

/// Measures.
///
/// # Errors
/// The system does not come up, or what is committed is not what was sent.
pub(super) async fn run(scale: &Scale) -> Result<Vec<Figure>> {
    let mut stage = Stage::start(scale.stragglers, &[]).await?;
    let mut road = Old::new(PASSAGES_A_WINDOW);
    let units = stage.units.clone();
    let tenth = &units[..units.len().div_ceil(10)];

    order(&stage, "ALTER SYSTEM SET autovacuum = off").await?;
    order(&stage, "SELECT pg_reload_conf()").await?;
    progress("stragglers: a history for every unit");
    road.history(&stage, &units, 0..WINDOWS).await?;
    let few = road.late(&mut stage, tenth, 3).await?;
    let all = road.late(&mut stage, &units, 5).await?;
    road.history(&stage, &units, WINDOWS..WINDOWS_LATER).await?;
    let later = road.late(&mut stage, &units, 7).await?;
    let one_unit = road.late_to_one(&stage, &units[0]).await?;

    let database = stage.system.database().await?;
    let (found, percentiles) = tables::windows(database.client()).await?;
    let findings = road.ledger.compare_windows(&found);
    ensure!(findings.exact(), "windows differ: {findings}");
    ensure!(percentiles.wrong == 0, "percentiles differ: {percentiles}");
    drop(database);
    books::balanced(&stage, road.ledger.passages(), &[]).await?;
    stage.stop()?;

    let growth = |name, value, limit| {
        Figure::new(name, value, "times", Target::AtMost(GROWTH_MAX))
            .with_limit(limit, "pages before")
    };
    let of_work = |name, value| Figure::new(name, value, "per passage", Target::Any);
    let seconds = all.seconds.max(later.seconds);
    Ok(vec![
        Figure::new(
            "stragglers.seconds",
            seconds,
            "s",
            Target::AtMost(SECONDS_MAX),
        )
        .with_limit(1.0, "s from flush to flush"),
        Figure::new(
            "stragglers.other_windows_revised",
            to_f64(few.others + all.others + later.others),
            "revisions",
            Target::AtMost(0.0),
        ),
        of_work("stragglers.rows_written", all.written()),
        of_work("stragglers.rows_read", all.read()),
        of_work("stragglers.pages", all.pages()),
        growth(
            "stragglers.growth_with_passages",
            all.pages() / few.pages(),
            few.pages(),
        ),
        growth(
            "stragglers.growth_with_range",
            later.pages() / all.pages(),
            all.pages(),
        ),
        Figure::new("stragglers.one_unit_seconds", one_unit, "s", Target::Any),
    ])
}

/// What one round cost.
#[derive(Debug, Clone)]
struct Round {
    seconds: f64,
    passages: f64,
    work: Work,
    /// Revisions of windows that nobody was late for.
    others: u64,
}

impl Round {
    fn written(&self) -> f64 {
        to_f64(self.work.written) / self.passages
    }

    fn read(&self) -> f64 {
        to_f64(self.work.fetched + self.work.scanned) / self.passages
    }

    fn pages(&self) -> f64 {
        to_f64(self.work.pages) / self.passages
    }
}

impl Old {
    /// One passage of each of these units into the window so many before.
    async fn late(&mut self, stage: &mut Stage, units: &[DeviceId], back: i64) -> Result<Round> {
        order(stage, "VACUUM ANALYZE").await?;
        stage.restart_aggregator().await?;
        let at_ms = self.window_ms(back) + WINDOW_MS / 2 + 1;
        let prepared = units.iter().map(|unit| self.unit(unit, &[at_ms])).collect();
        let before = others::revisions(stage, &stage.units).await?;
        let start = Work::so_far(stage).await?;
        let seconds = send(stage, prepared).await?;
        let work = Work::so_far(stage).await?.since(&start);
        let after = others::revisions(stage, &stage.units).await?;
        progress(&format!(
            "stragglers: {} passages in {seconds:.2} s, {work:?}",
            units.len()
        ));
        let hit = |(device, start_ms): &(String, i64)| {
            *start_ms == self.window_ms(back) && units.iter().any(|unit| unit.as_str() == device)
        };
        let untouched: Revisions = before.into_iter().filter(|(key, _)| !hit(key)).collect();
        Ok(Round {
            seconds,
            passages: to_f64(units.len() as u64),
            work,
            others: others::moved(&untouched, &after, i64::MAX),
        })
    }

    /// As many passages of one unit, each into another window.
    async fn late_to_one(&mut self, stage: &Stage, unit: &DeviceId) -> Result<f64> {
        let count = i64::try_from(stage.units.len())?;
        let times: Vec<i64> = (0..count)
            .rev()
            .map(|back| self.window_ms(back) + WINDOW_MS / 3)
            .collect();
        let prepared = vec![self.unit(unit, &times)];
        let seconds = send(stage, prepared).await?;
        progress(&format!(
            "stragglers: {count} windows of one unit in {seconds:.2} s"
        ));
        Ok(seconds)
    }
}
