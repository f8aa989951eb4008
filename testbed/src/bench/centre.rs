//! Two aggregators: how soon the shards of one that goes are served by the other, and what it costs.
//!
//! Method: units post live traffic (simulated, the agents' defaults) while two aggregators share the
//! shards, with the leases that they have by default. One is killed, stopped in order, stopped like a
//! machine that hangs, and started again, in rounds. Measured from the signal:
//! - until every shard has its lease at the other (`owned`);
//! - until every unit of the shards that moved has more in its windows than at the signal (`served`):
//!   this holds the flush interval as well.
//!
//! A start is measured from the process's start until both own the same number. The worst round
//! counts. In the end every window is compared with the recomputation, and the database has noted
//! who wrote under which fencing token.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use proto::{DeviceId, Shard};

use super::figure::{Figure, Report, Target};
use super::progress;
use super::stage::to_f64;
use crate::clock;
use crate::fleet::{Fleet, FleetOptions, Posted, names};
use crate::pki::BROKER_HOST;
use crate::recompute::{Fact, Ledger};
use crate::system::{CENTRE, Options, READY_WITHIN, SECOND_CENTRE, STOPPED_WITHIN, System, Tuning};
use crate::system::{Database, Server};

const PASSAGES_PER_S_AND_UNIT: f64 = 11.6;

/// The aggregator's defaults.
const LEASE_TTL_MS: u32 = 10_000;
const LEASE_RENEW_MS: u32 = 1_000;

const TAKEOVER_S_MAX: f64 = 15.0;
const HANDOVER_S_MAX: f64 = 2.0;

/// Longer than any of it may take.
const MOVED_WITHIN: Duration = Duration::from_secs(90);
const CONNECTED_WITHIN: Duration = Duration::from_secs(120);
const DRAINED_WITHIN: Duration = Duration::from_secs(120);
/// Traffic between two events.
const STRETCH: Duration = Duration::from_secs(3);
/// How often the tables are looked at.
const LOOK: Duration = Duration::from_millis(20);
/// What was being committed at the signal is in by then.
const COMMITTED_WITHIN: Duration = Duration::from_millis(100);

const OWNERS: &str = "SELECT split_part(owner, ' ', 1), count(*) FROM shard_lease
    WHERE owner IS NOT NULL GROUP BY 1";
const COUNTED: &str = "SELECT d.device, sum(w.n)::int8
    FROM speed_stats_24h w JOIN device d USING (device_key)
    WHERE d.shard = ANY($1) GROUP BY d.device";
const SHARDS_OF: &str = "SELECT shard FROM shard_lease WHERE split_part(owner, ' ', 1) = $1";

/// How much is measured.
#[derive(Debug, Clone)]
pub struct Scale {
    /// Simulated units.
    pub units: usize,
    /// Rounds of everything.
    pub rounds: usize,
}

impl Default for Scale {
    fn default() -> Self {
        Self {
            units: 300,
            rounds: 3,
        }
    }
}

impl Scale {
    /// Whether it works, not how fast it is.
    #[must_use]
    pub const fn small() -> Self {
        Self {
            units: 40,
            rounds: 1,
        }
    }
}

/// Runs it.
///
/// # Errors
/// The system does not come up, or shards do not move.
pub async fn run(scale: &Scale) -> Result<Report> {
    progress("centre: starting the system");
    let units = names("sim", scale.units)?;
    let mut system = System::start(Options {
        units: units.iter().map(ToString::to_string).collect(),
        tuning: Tuning {
            lease_ttl_ms: LEASE_TTL_MS,
            lease_renew_ms: LEASE_RENEW_MS,
            ..Tuning::default()
        },
        ..Options::default()
    })
    .await?;
    system.watch_fencing().await?;
    let ledger = Arc::new(Mutex::new(Ledger::of_windows()));
    let fleet = start_fleet(&system, units, &ledger)?;
    fleet.connected(CONNECTED_WITHIN).await?;
    let (mut second, _) = system.second_aggregator()?;
    let watch = Watch {
        database: system.database().await?,
    };
    let mut times = Times::default();
    for round in 1..=scale.rounds {
        progress(&format!("centre: round {round} of {}", scale.rounds));
        let mut pair = [&mut system.aggregator, &mut second];
        times.round(&watch, &mut pair).await?;
    }
    fleet.drain(DRAINED_WITHIN).await?;
    ensure!(fleet.posted() == fleet.receipted(), "passages were refused");
    fleet.stop().await?;
    let ledger = Arc::try_unwrap(ledger).ok().context("still recording")?;
    let ledger = ledger.into_inner().unwrap_or_else(PoisonError::into_inner);
    let verdict = system.judge(&ledger).await?;
    if !verdict.windows.exact() {
        progress(&format!("centre: {verdict}"));
    }
    let fencing = system.fencing().await?;
    progress(&format!("centre: {fencing:?}"));
    tokio::task::block_in_place(|| second.stop(STOPPED_WITHIN));
    system.stop()?;
    let none = Target::AtMost(0.0);
    let mut figures = times.figures();
    figures.extend([
        Figure::new(
            "centre.windows_wrong",
            to_f64(verdict.windows.wrong),
            "windows",
            none,
        ),
        Figure::new(
            "centre.writes_under_foreign_tokens",
            to_f64(fencing.foreign.unsigned_abs()),
            "writes",
            none,
        ),
    ]);
    Ok(Report::new(figures))
}

fn start_fleet(
    system: &System,
    units: Vec<DeviceId>,
    ledger: &Arc<Mutex<Ledger>>,
) -> Result<Fleet> {
    let ledger = ledger.clone();
    let record = move |posted: Posted<'_>| {
        let mut ledger = ledger.lock().unwrap_or_else(PoisonError::into_inner);
        for passage in posted.passages.iter() {
            ledger.add(posted.device.as_str(), Fact::from(&passage));
        }
    };
    Ok(Fleet::start(FleetOptions {
        recorder: Some(Arc::new(record)),
        ..FleetOptions::new(
            units,
            PASSAGES_PER_S_AND_UNIT,
            system.broker_address(),
            BROKER_HOST,
            system.pki.directory(),
        )
    })?)
}

/// From a signal until the shards are owned by the other, and served.
#[derive(Debug, Clone, Copy)]
struct Moved {
    owned_s: f64,
    served_s: f64,
}

/// Of all rounds.
#[derive(Debug, Default)]
struct Times {
    added: Vec<f64>,
    killed: Vec<Moved>,
    stopped: Vec<Moved>,
    frozen: Vec<Moved>,
}

impl Times {
    /// The second comes; the first is killed and comes back; the second stops in order and comes
    /// back; the first hangs and wakes up; the second stops.
    async fn round(&mut self, watch: &Watch, pair: &mut [&mut Server; 2]) -> Result<()> {
        self.added.push(watch.added(pair[1]).await?);
        tokio::time::sleep(STRETCH).await;

        let killed = watch
            .moved(CENTRE, SECOND_CENTRE, || pair[0].kill())
            .await?;
        progress(&format!("centre: killed {killed:?}"));
        self.killed.push(killed);
        self.added.push(watch.added(pair[0]).await?);
        tokio::time::sleep(STRETCH).await;

        let stopped = watch
            .moved(SECOND_CENTRE, CENTRE, || pair[1].terminate())
            .await?;
        progress(&format!("centre: stopped {stopped:?}"));
        self.stopped.push(stopped);
        tokio::task::block_in_place(|| pair[1].stop(STOPPED_WITHIN));
        self.added.push(watch.added(pair[1]).await?);
        tokio::time::sleep(STRETCH).await;

        let frozen = watch
            .moved(CENTRE, SECOND_CENTRE, || pair[0].pause())
            .await?;
        progress(&format!("centre: frozen {frozen:?}"));
        self.frozen.push(frozen);
        pair[0].resume();
        watch.shared(clock::monotonic()).await?;
        tokio::time::sleep(STRETCH).await;

        tokio::task::block_in_place(|| pair[1].stop(STOPPED_WITHIN));
        watch.owned(CENTRE, clock::monotonic()).await.map(drop)
    }

    fn figures(&self) -> Vec<Figure> {
        let worst = |times: &[f64]| times.iter().copied().fold(f64::NAN, f64::max);
        let figure = |name, times: Vec<f64>, target| Figure::new(name, worst(&times), "s", target);
        let owned = |moved: &[Moved]| moved.iter().map(|one| one.owned_s).collect();
        let served = |moved: &[Moved]| moved.iter().map(|one| one.served_s).collect();
        let takeover = Target::AtMost(TAKEOVER_S_MAX);
        let handover = Target::AtMost(HANDOVER_S_MAX);
        vec![
            figure("centre.killed_owned", owned(&self.killed), takeover),
            figure("centre.killed_served", served(&self.killed), takeover),
            figure("centre.frozen_owned", owned(&self.frozen), takeover),
            figure("centre.frozen_served", served(&self.frozen), takeover),
            figure("centre.stopped_owned", owned(&self.stopped), handover),
            figure("centre.stopped_served", served(&self.stopped), Target::Any),
            figure("centre.rebalanced", self.added.clone(), Target::Any),
        ]
    }
}

/// What the tables say.
struct Watch {
    database: Database,
}

impl Watch {
    /// Starts one; seconds until both own the same number.
    async fn added(&self, server: &mut Server) -> Result<f64> {
        let start = clock::monotonic();
        server.start()?;
        let seconds = self.shared(start).await?;
        server.ready(READY_WITHIN).await?;
        progress(&format!(
            "centre: {} shares after {seconds:.2} s",
            server.name()
        ));
        Ok(seconds)
    }

    async fn shared(&self, start: Instant) -> Result<f64> {
        let half = i64::from(Shard::COUNT) / 2;
        let is_even = |owners: &BTreeMap<String, i64>| {
            [CENTRE, SECOND_CENTRE]
                .iter()
                .all(|name| owners.get(*name) == Some(&half))
        };
        self.until(start, is_even).await
    }

    async fn owned(&self, name: &str, start: Instant) -> Result<f64> {
        let all = i64::from(Shard::COUNT);
        self.until(start, |owners| owners.get(name) == Some(&all))
            .await
    }

    async fn until(
        &self,
        start: Instant,
        what: impl Fn(&BTreeMap<String, i64>) -> bool,
    ) -> Result<f64> {
        loop {
            let rows = self.database.client().query(OWNERS, &[]).await?;
            let owners = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
            if what(&owners) {
                return Ok(start.elapsed().as_secs_f64());
            }
            if start.elapsed() > MOVED_WITHIN {
                bail!("shards are owned by {owners:?} after {MOVED_WITHIN:?}");
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// What becomes of the shards of `from` when something happens to it.
    async fn moved(&self, from: &str, to: &str, happens: impl FnOnce()) -> Result<Moved> {
        let client = self.database.client();
        let rows = client.query(SHARDS_OF, &[&from]).await?;
        let shards: Vec<i16> = rows.iter().map(|row| row.get(0)).collect();
        let start = clock::monotonic();
        happens();
        tokio::time::sleep(COMMITTED_WITHIN).await;
        let before = self.counted(&shards).await?;
        let owned_s = self.owned(to, start).await?;
        loop {
            let now = self.counted(&shards).await?;
            if before.iter().all(|(unit, n)| now.get(unit) > Some(n)) {
                let served_s = start.elapsed().as_secs_f64();
                return Ok(Moved { owned_s, served_s });
            }
            if start.elapsed() > MOVED_WITHIN {
                bail!("not every unit is served after {MOVED_WITHIN:?}");
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn counted(&self, shards: &[i16]) -> Result<BTreeMap<String, i64>> {
        let rows = self.database.client().query(COUNTED, &[&shards]).await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }
}
