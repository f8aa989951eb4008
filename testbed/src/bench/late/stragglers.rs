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

use std::time::Duration;

use anyhow::{Result, ensure};
use proto::{DeviceId, EventTime, Passage};

use super::others::{self, Revisions};
use super::work::Work;
use super::{Scale, WINDOW_MS, books, window_start_ms};
use crate::bench::figure::{Figure, Target};
use crate::bench::prepared::{Prepared, of_passages};
use crate::bench::progress;
use crate::bench::stage::{Stage, to_f64};
use crate::clock;
use crate::fleet::Fleet;
use crate::fleet::traffic::{Road, Traffic};
use crate::recompute::{Fact, Ledger, database as tables};

const SECONDS_MAX: f64 = 2.0;
/// Work per passage, against the same with fewer units or windows: noise of a few pages.
const GROWTH_MAX: f64 = 1.2;
const WINDOWS: i64 = 24;
const WINDOWS_LATER: i64 = 4 * WINDOWS;
const PASSAGES_A_WINDOW: i64 = 4;
const CONNECTED_WITHIN: Duration = Duration::from_secs(120);
const DRAINED_WITHIN: Duration = Duration::from_secs(120);

/// Measures.
///
/// # Errors
/// The system does not come up, or what is committed is not what was sent.
pub(super) async fn run(scale: &Scale) -> Result<Vec<Figure>> {
    let mut stage = Stage::start(scale.stragglers, &[]).await?;
    let mut road = Old {
        now_ms: window_start_ms(clock::unix_ms()) - 2 * WINDOW_MS,
        ledger: Ledger::of_windows(),
        seed: 0,
    };
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

/// Traffic of long ago, booked as it is made.
struct Old {
    /// Windows are counted back from here.
    now_ms: i64,
    ledger: Ledger,
    seed: u64,
}

impl Old {
    /// The start of the window so many before.
    const fn window_ms(&self, back: i64) -> i64 {
        self.now_ms - (back + 1) * WINDOW_MS
    }

    /// Some passages into each of these windows of every unit.
    async fn history(
        &mut self,
        stage: &Stage,
        units: &[DeviceId],
        windows: std::ops::Range<i64>,
    ) -> Result<()> {
        let times: Vec<i64> = windows
            .rev()
            .flat_map(|back| {
                let step_ms = WINDOW_MS / PASSAGES_A_WINDOW;
                let start_ms = self.window_ms(back);
                (0..PASSAGES_A_WINDOW).map(move |place| start_ms + place * step_ms)
            })
            .collect();
        let prepared = units.iter().map(|unit| self.unit(unit, &times)).collect();
        send(stage, prepared).await.map(drop)
    }

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

    /// A unit with one passage at each of these times, in a stream of its own.
    fn unit(&mut self, device: &DeviceId, times: &[i64]) -> Prepared {
        self.seed += 1;
        let first = EventTime::from_millis(times.first().copied().unwrap_or(0));
        let mut traffic = Traffic::new(Road::motorway(1.0), self.seed, first);
        let passages: Vec<Passage> = times
            .iter()
            .map(|ms| Passage {
                event_time: EventTime::from_millis(*ms),
                ..traffic.next_passage()
            })
            .collect();
        for passage in &passages {
            self.ledger.add(device.as_str(), Fact::from(passage));
        }
        let total = passages.len();
        of_passages(device, first, passages.into_iter(), total, self.seed)
    }
}

/// Has the database do something by itself.
async fn order(stage: &Stage, statement: &str) -> Result<()> {
    let database = stage.system.database().await?;
    Ok(database.client().batch_execute(statement).await?)
}

/// Lets these units send what they have; seconds until all of them have their receipts, which leave
/// after the COMMIT. The database is not asked meanwhile: its work is what is measured.
async fn send(stage: &Stage, units: Vec<Prepared>) -> Result<f64> {
    let units = units.into_iter().map(|unit| (unit.device, unit.unit));
    let fleet = Fleet::start_prepared(units.collect(), &stage.uplink())?;
    fleet.connected(CONNECTED_WITHIN).await?;
    let start = clock::monotonic();
    fleet.offer(true);
    fleet.drain(DRAINED_WITHIN).await?;
    let seconds = start.elapsed().as_secs_f64();
    ensure!(fleet.receipted() == fleet.posted(), "passages were refused");
    fleet.stop().await?;
    Ok(seconds)
}
