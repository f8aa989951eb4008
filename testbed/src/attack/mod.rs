//! Attacks on a running system: the real broker, the real centre, real TLS, and a fleet of honest
//! units that must not notice.
//!
//! Everything that is sent is drawn from a seed. Each part says what it sent and what became of it;
//! at the end the gate's counters must balance, and every window of the honest units must be what
//! they posted, to the digit. The targets are addresses of this machine that this process has made
//! itself; every part is bounded in count and time.
//!
//! Figures of time depend on the machine; all have targets.

mod client;
mod counted;
mod flood;
mod gate;
mod lies;
mod packets;
mod rest;
mod secrets;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use proto::{DeviceId, StreamId};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use tokio::sync::watch;

use crate::bench::Report;
use crate::bench::bounds;
use crate::bench::figure::{Figure, Target};
use crate::bench::procfs;
use crate::fleet::{Fleet, FleetOptions, Posted, names};
use crate::pki::BROKER_HOST;
use crate::recompute::{Fact, Ledger, database as tables};
use crate::system::{Options, System, Tuning};

/// Units in the hands of the attacker.
const STOLEN: usize = 64;
/// Until everybody is connected, and everything is receipted at the end.
const WITHIN: Duration = Duration::from_secs(180);
/// Connections that the gate takes by default.
const CONNECTIONS: usize = 10_000;
const MIB: f64 = 1024.0 * 1024.0;
/// In passages of the attacker: what nobody may find in a log or on a page.
const PLATE: &str = "С4711ЕТ99";

/// How much is sent.
#[derive(Debug, Clone)]
pub struct Scale {
    /// Of everything that is drawn.
    pub seed: u64,
    /// Honest units, each with 12 passages a second.
    pub units: usize,
    /// Fuzzed packets at the gate.
    pub packets: u64,
    /// Connections that never finish their handshake.
    pub slow: usize,
    /// Idle connections with a certificate, until the gate is full; 0 leaves this part out.
    pub idle: usize,
    /// Connections of one stolen name that displace each other.
    pub takeovers: usize,
    /// Streams that one unit names.
    pub streams: u64,
    /// Fuzzed requests to the REST API.
    pub requests: u64,
    /// Connections to the REST API, silent or deaf.
    pub api_connections: usize,
    /// One phase of the flood; none leaves it out.
    pub phase: Option<Duration>,
    /// From one flush of the centre to the next.
    pub flush_interval_ms: u32,
    /// What the programs log: all of it is searched for secrets.
    pub log_level: &'static str,
}

impl Scale {
    /// The figures that are reported.
    #[must_use]
    pub const fn full(seed: u64) -> Self {
        Self {
            seed,
            units: 100,
            packets: 1_000_000,
            slow: 2_000,
            idle: 10_000,
            takeovers: 500,
            streams: 1_000_000,
            requests: 20_000,
            api_connections: 10_000,
            phase: Some(Duration::from_secs(60)),
            flush_interval_ms: 1_000,
            log_level: "warn",
        }
    }

    /// A share of it that takes half a minute.
    #[must_use]
    pub const fn small(seed: u64) -> Self {
        Self {
            seed,
            units: 4,
            packets: 4_000,
            slow: 20,
            idle: 0,
            takeovers: 12,
            streams: 4_000,
            requests: 300,
            api_connections: 40,
            phase: None,
            flush_interval_ms: 200,
            log_level: "debug",
        }
    }
}

/// The attacked system with its honest units.
struct Scene {
    system: System,
    fleet: Fleet,
    ledger: Arc<Mutex<Ledger>>,
    /// The stream of some honest unit.
    stream: watch::Receiver<Option<StreamId>>,
    stolen: Vec<DeviceId>,
    idle: Vec<DeviceId>,
    scale: Scale,
}

impl Scene {
    async fn set(scale: &Scale) -> Result<Self> {
        service::descriptors::make_room_for(scale.idle.max(scale.api_connections) + 2_000);
        let honest = names("sim", scale.units)?;
        let stolen = names("mallory", STOLEN)?;
        let idle = names("idle", scale.idle)?;
        let units = honest.iter().chain(&stolen).chain(&idle);
        let options = Options {
            units: units.map(ToString::to_string).collect(),
            tuning: Tuning {
                flush_interval_ms: scale.flush_interval_ms,
                log_level: scale.log_level,
                ..Tuning::default()
            },
            ..Options::default()
        };
        let system = System::start(options).await?;
        let ledger = Arc::new(Mutex::new(Ledger::of_windows()));
        let book = ledger.clone();
        let (tell, stream) = watch::channel(None);
        let mut options = FleetOptions::new(
            honest,
            12.0,
            system.broker_address(),
            BROKER_HOST,
            system.pki.directory(),
        );
        options.recorder = Some(Arc::new(move |posted: Posted<'_>| {
            tell.send_replace(Some(posted.stream));
            let mut ledger = book.lock().unwrap_or_else(PoisonError::into_inner);
            for passage in posted.passages.iter() {
                ledger.add(posted.device.as_str(), Fact::from(&passage));
            }
        }));
        let fleet = Fleet::start(options)?;
        fleet.connected(WITHIN).await?;
        Ok(Self {
            system,
            fleet,
            ledger,
            stream,
            stolen,
            idle,
            scale: scale.clone(),
        })
    }

    /// Randomness of one part, the same whatever ran before.
    fn dice(&self, part: u64) -> ChaCha8Rng {
        ChaCha8Rng::seed_from_u64(self.scale.seed.wrapping_mul(1_000).wrapping_add(part))
    }

    /// The stream of some honest unit, once one has posted.
    async fn a_stream(&self) -> Result<StreamId> {
        let mut stream = self.stream.clone();
        let known = stream.wait_for(Option::is_some).await?;
        known.context("no honest unit has posted")
    }

    /// Peaks of resident memory of broker and aggregator, in MiB.
    fn peaks(&self) -> Result<(f64, f64)> {
        let of = |id: Option<u32>| {
            let bytes = procfs::peak_resident_bytes(id.context("a program has ended")?)?;
            Ok::<_, anyhow::Error>(to_f64(bytes) / MIB)
        };
        let (broker, aggregator) = (&self.system.broker, &self.system.aggregator);
        Ok((of(broker.id())?, of(aggregator.id())?))
    }

    /// Every honest unit's windows, and the gate's books.
    async fn judge(mut self) -> Result<Vec<Figure>> {
        for server in [&mut self.system.broker, &mut self.system.aggregator] {
            ensure!(
                server.exit_status().is_none(),
                "{} has ended: {}",
                server.name(),
                server.log_tail()
            );
        }
        let (broker, aggregator) = self.peaks()?;
        self.fleet.drain(WITHIN).await?;
        let (posted, receipted) = (self.fleet.posted(), self.fleet.receipted());
        let connections = self.fleet.counters().connections.load(Ordering::Relaxed);
        let refused = self.fleet.counters().refused.load(Ordering::Relaxed);
        self.fleet.stop().await?;
        let database = self.system.database().await?;
        let (mut found, _) = tables::windows(database.client()).await?;
        let strangers: Vec<&DeviceId> = self.stolen.iter().chain(&self.idle).collect();
        found.retain(|key, _| !strangers.iter().any(|name| name.as_str() == key.device));
        let wrong = {
            let ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
            let findings = ledger.compare_windows(&found);
            ensure!(findings.exact(), "windows of honest units: {findings}");
            findings.wrong
        };
        let unbalanced = counted::unbalanced(&self.system).await?;
        let none = Target::AtMost(0.0);
        let figures = vec![
            Figure::new("honest.passages", to_f64(posted), "passages", Target::Any),
            Figure::new(
                "honest.unreceipted",
                to_f64(posted - receipted),
                "passages",
                none,
            ),
            // A machine that stands still for a minute costs connections, too.
            count(
                "honest.connected_again",
                connections.saturating_sub(self.scale.units as u64),
                "times",
            ),
            Figure::new("honest.refused", to_f64(refused), "passages", none),
            Figure::new("honest.windows_wrong", to_f64(wrong), "windows", none),
            Figure::new("gate.uncounted", unbalanced, "connections", none),
            memory(
                "broker.peak_memory",
                broker,
                bounds::broker_mib(CONNECTIONS),
            ),
            memory(
                "aggregator.peak_memory",
                aggregator,
                bounds::aggregator_mib(),
            ),
        ];
        self.system.stop()?;
        Ok(figures)
    }
}

/// Runs all attacks, one after the other, on one system.
///
/// # Errors
/// The system does not come up, ends, or does not behave as it must.
pub async fn run(scale: &Scale) -> Result<Report> {
    progress("starting the system, and issuing certificates");
    let scene = Box::pin(Scene::set(scale)).await?;
    let mut figures = Vec::new();
    progress("fuzzed packets at the gate");
    figures.extend(Box::pin(gate::packets(&scene)).await?);
    progress("what a certificate does not allow");
    figures.extend(Box::pin(gate::forbidden(&scene)).await?);
    progress("slow handshakes, takeovers, a revoked certificate");
    figures.extend(Box::pin(gate::slow(&scene)).await?);
    figures.extend(Box::pin(gate::takeovers(&scene)).await?);
    progress("lies to the centre");
    figures.extend(Box::pin(lies::run(&scene)).await?);
    progress("a burst");
    figures.extend(Box::pin(flood::burst(&scene)).await?);
    progress("the rest api");
    figures.extend(Box::pin(rest::run(&scene)).await?);
    if let Some(phase) = scene.scale.phase {
        progress("floods");
        figures.extend(Box::pin(flood::run(&scene, phase)).await?);
    }
    figures.extend(Box::pin(gate::revoked(&scene)).await?);
    if scene.scale.idle > 0 {
        progress("idle connections");
        figures.extend(Box::pin(gate::idle(&scene)).await?);
    }
    progress("searching for secrets");
    figures.extend(secrets::run(&scene).await?);
    progress("comparing every window of the honest units");
    figures.extend(Box::pin(scene.judge()).await?);
    Ok(Report::new(figures))
}

fn memory(name: &'static str, mib: f64, most: f64) -> Figure {
    Figure::new(name, mib, "MiB", Target::AtMost(most))
}

/// A figure without a target.
fn count(name: &'static str, value: u64, unit: &'static str) -> Figure {
    Figure::new(name, to_f64(value), unit, Target::Any)
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
fn to_f64(count: u64) -> f64 {
    count as f64
}

/// What goes on, for whoever waits.
#[expect(clippy::print_stderr, reason = "part of the command line")]
fn progress(text: &str) {
    eprintln!("attack: {text}");
}
