//! The whole system under live traffic, for people to watch and for machines to check.
//!
//! ```text
//! cameras ──POST──► 3 real agents ─┐
//!                                  ├──TLS──► broker ──► aggregator ──► PostgreSQL
//! simulated units (200) ───────────┘
//! ```
//!
//! Watching: a live summary until Ctrl-C, with commands to try. `--check`: so many seconds of the
//! same with outages in the middle, then everything drains and every window and every raw row
//! of the database is compared with what was posted.
//!
//! Invariant: what the summary and the verdict call accepted was accepted by an agent or a simulated
//! unit, and stands in the ledger that the database is compared with.

mod cameras;
mod outage;
mod screen;

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proto::DeviceId;
use proto::device::DeviceIdError;
use serde::Serialize;
use service::tasks::StuckTasks;
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::feed::PostingError;
use crate::fleet::counters::ReceiptTimes;
use crate::fleet::{self, Fleet, FleetError, FleetOptions};
use crate::pki::BROKER_HOST;
use crate::recompute::{Fact, Ledger, database as tables};
use crate::system::{Options, System, SystemError, Tuning};

use cameras::Cameras;
use screen::{AgentLook, AgentStatus, Look, Screen};

/// How long the fleet may take to connect, through a cold start.
const CONNECTED_WITHIN: Duration = Duration::from_secs(60);
/// From the last passage until all receipts are there, after outages.
const DRAINED_WITHIN: Duration = Duration::from_secs(180);
/// How often the summary is made anew.
const REFRESH: Duration = Duration::from_secs(1);
/// Freshness is shown of the receipts of so many refreshes.
const FRESHNESS_LOOKS: usize = 10;

/// What to show.
#[derive(Debug, Clone)]
pub struct Order {
    /// Real agents.
    pub agents: usize,
    /// Simulated units.
    pub units: usize,
    /// Passages per second and unit.
    pub passages_per_s: f64,
    /// For how long; `None`: until Ctrl-C.
    pub seconds: Option<u64>,
    /// Whether to break things in the middle and compare at the end.
    pub check: bool,
    /// Whether to print one JSON line at the end.
    pub json: bool,
}

/// The one line at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// Passages that agents and units accepted.
    pub accepted: u64,
    /// In windows.
    pub counted: u64,
    /// Raw rows.
    pub stored: u64,
    /// In the loss ledger.
    pub lost: u64,
    /// Accepted and neither counted nor lost.
    pub buffered: u64,
    /// Windows of all lengths that were compared.
    pub windows_compared: u64,
    /// Of them, those that differ.
    pub windows_wrong: u64,
    /// Streams whose books do not add up: accepted = counted + lost + held.
    pub books_wrong: u64,
    /// From the post at a unit to its receipt (sent after COMMIT), before the first outage.
    pub freshness_p50_ms: Option<u64>,
    /// The same for 99 % of the passages.
    pub freshness_p99_ms: Option<u64>,
}

impl Outcome {
    /// Everything accepted is counted and stored, nothing is lost, every window is right.
    #[must_use]
    pub const fn exact(&self) -> bool {
        self.accepted > 0
            && self.counted == self.accepted
            && self.stored == self.accepted
            && self.lost == 0
            && self.buffered == 0
            && self.windows_compared > 0
            && self.windows_wrong == 0
            && self.books_wrong == 0
    }
}

/// A demo that did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The system.
    #[error(transparent)]
    System(#[from] SystemError),
    /// The simulated units.
    #[error(transparent)]
    Fleet(#[from] FleetError),
    /// A unit's name.
    #[error(transparent)]
    Name(#[from] DeviceIdError),
    /// A camera.
    #[error(transparent)]
    Posting(#[from] PostingError),
    /// A camera's task.
    #[error("camera stopped: {0}")]
    Camera(String),
    /// Cameras that do not end.
    #[error(transparent)]
    Stuck(#[from] StuckTasks),
    /// The terminal.
    #[error("cannot write the summary: {0}")]
    Screen(#[from] std::io::Error),
}

/// What was posted so far, shared by cameras, the fleet's recorder and the summary.
#[derive(Debug, Clone)]
struct SharedLedger(Arc<Mutex<Ledger>>);

impl SharedLedger {
    /// Whoever watches for hours wants the windows compared, not every row kept in memory.
    fn new(with_rows: bool) -> Self {
        let ledger = if with_rows {
            Ledger::new()
        } else {
            Ledger::of_windows()
        };
        Self(Arc::new(Mutex::new(ledger)))
    }

    fn lock(&self) -> MutexGuard<'_, Ledger> {
        // A panic while holding it ends the process, so it is never seen poisoned.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Everything that runs.
struct Stage {
    system: System,
    fleet: Fleet,
    simulated: usize,
    cameras: Cameras,
    ledger: SharedLedger,
}

/// Runs the demo until its time is over or `stop` is cancelled.
///
/// # Errors
/// Whatever kept it from being shown or compared; differences are in the [`Outcome`].
pub async fn run(order: &Order, stop: CancellationToken) -> Result<Outcome, DemoError> {
    let mut screen = Screen::new(order.json);
    screen.note("starting database, broker, aggregator, agents")?;
    let mut stage = Stage::set(order).await?;
    screen.note(&format!("{} units are connected", stage.units()))?;
    screen.help(&screen::commands(&stage.system))?;
    let begun = clock::monotonic();
    let mut looks: VecDeque<ReceiptTimes> = VecDeque::new();
    let mut acts = outage::acts(order);
    let mut calm: Option<ReceiptTimes> = None;
    loop {
        let elapsed = begun.elapsed();
        let is_over = order
            .seconds
            .is_some_and(|seconds| elapsed.as_secs() >= seconds);
        if is_over || stop.is_cancelled() {
            break;
        }
        stage.check()?;
        while let Some(act) = acts.due(elapsed) {
            calm.get_or_insert_with(|| stage.fleet.counters().receipt_times());
            screen.note(act.text())?;
            stage.play(act)?;
        }
        let totals = stage.totals().await;
        let times = stage.fleet.counters().receipt_times();
        let earlier = looks
            .len()
            .checked_sub(FRESHNESS_LOOKS)
            .and_then(|place| looks.get(place));
        let fresh = earlier.map_or_else(|| times.clone(), |earlier| times.since(earlier));
        looks.push_back(times);
        if looks.len() > FRESHNESS_LOOKS {
            looks.pop_front();
        }
        screen.show(&stage.look(elapsed, totals, &fresh))?;
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(REFRESH) => {}
        }
    }
    stage.mend()?;
    screen.note("time is over: cameras stop, everything drains")?;
    let calm = calm.unwrap_or_else(|| stage.fleet.counters().receipt_times());
    let outcome = stage.end(&calm, &mut screen).await?;
    Ok(outcome)
}

impl Stage {
    async fn set(order: &Order) -> Result<Self, DemoError> {
        let agents = fleet::names("real", order.agents)?;
        let units = fleet::names("sim", order.units)?;
        let text = |names: &[DeviceId]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let system = System::start(Options {
            agents: text(&agents),
            units: text(&units),
            tuning: Tuning::default(),
            ..Options::default()
        })
        .await?;
        let ledger = SharedLedger::new(order.check);
        let recorded = ledger.clone();
        let broker = system.broker_address();
        let pki = system.pki.directory().to_owned();
        let fleet = Fleet::start(FleetOptions {
            recorder: Some(Arc::new(move |posted: fleet::Posted<'_>| {
                let mut ledger = recorded.lock();
                for place in 0..posted.passages.len() {
                    let fact = Fact::from(&posted.passages.passage(place));
                    ledger.add(posted.device.as_str(), fact);
                }
            })),
            ..FleetOptions::new(units, order.passages_per_s, broker, BROKER_HOST, &pki)
        })?;
        fleet.connected(CONNECTED_WITHIN).await?;
        let cameras = Cameras::start(&system, order.passages_per_s, &ledger);
        Ok(Self {
            system,
            fleet,
            simulated: order.units,
            cameras,
            ledger,
        })
    }

    fn units(&self) -> usize {
        self.system.agents.len() + self.simulated
    }

    /// Whether all that should run still does.
    fn check(&self) -> Result<(), DemoError> {
        self.cameras
            .failure()
            .map_or(Ok(()), |cause| Err(DemoError::Camera(cause)))
    }

    fn play(&mut self, act: outage::Act) -> Result<(), DemoError> {
        tokio::task::block_in_place(|| act.play(&mut self.system)).map_err(DemoError::from)
    }

    /// Starts again whatever an act left broken.
    fn mend(&mut self) -> Result<(), DemoError> {
        tokio::task::block_in_place(|| outage::mend(&mut self.system)).map_err(DemoError::from)
    }

    /// From the tables; none while the database is down.
    async fn totals(&self) -> Option<tables::Totals> {
        let database = self.system.database().await.ok()?;
        tables::totals(database.client()).await.ok()
    }

    fn look(
        &self,
        elapsed: Duration,
        totals: Option<tables::Totals>,
        fresh: &ReceiptTimes,
    ) -> Look {
        let agents = tokio::task::block_in_place(|| self.agents());
        Look {
            elapsed,
            accepted: self.ledger.lock().passages(),
            totals,
            connected: self.fleet.counters().connected.load(Ordering::Relaxed),
            units: self.simulated,
            freshness_ms: (fresh.quantile_ms(0.5), fresh.quantile_ms(0.99)),
            agents,
        }
    }

    fn agents(&self) -> Vec<AgentLook> {
        let agents = self.system.agents.iter();
        agents
            .map(|(device, agent)| AgentLook {
                device: device.clone(),
                accepted: self.ledger.lock().passages_of(device),
                status: agent
                    .status()
                    .ok()
                    .and_then(|report| AgentStatus::of(&report)),
            })
            .collect()
    }

    /// Stops the traffic, waits until everything is settled, compares, and ends the programs.
    async fn end(self, calm: &ReceiptTimes, screen: &mut Screen) -> Result<Outcome, DemoError> {
        let Self {
            mut system,
            fleet,
            cameras,
            ledger,
            ..
        } = self;
        cameras.stop().await?;
        system.broker.ready(CONNECTED_WITHIN).await?;
        system.aggregator.ready(CONNECTED_WITHIN).await?;
        fleet.drain(DRAINED_WITHIN).await?;
        fleet.stop().await?;
        let ledger = std::mem::take(&mut *ledger.lock());
        let accepted = ledger.passages();
        system.settled(accepted, DRAINED_WITHIN).await?;
        let verdict = system.judge(&ledger).await?;
        screen.note(&verdict.to_string())?;
        system.stop()?;
        let totals = verdict.totals;
        let decided = totals.counted + totals.rejected + totals.lost;
        Ok(Outcome {
            accepted,
            counted: totals.counted,
            stored: totals.stored,
            lost: totals.lost,
            buffered: accepted.saturating_sub(decided),
            windows_compared: verdict.windows.compared,
            // A raw row that differs is a window that somebody else would compute differently.
            windows_wrong: verdict.windows.wrong + verdict.rows_wrong(),
            books_wrong: verdict.books.wrong.len() as u64,
            freshness_p50_ms: calm.quantile_ms(0.5),
            freshness_p99_ms: calm.quantile_ms(0.99),
        })
    }
}
