//! Simulated units: the real protocol over real mutual TLS, thousands in one process.
//!
//! In the place of `edge-agent` on a passage's path, for what a fleet of real agents would cost too
//! much to show: load, scale, long runs. The way through this module: [`traffic`] (vehicles) →
//! [`mod@unit`] (batches, window, receipts) → [`mqtt`] (packets) → `link` (socket). What is left out is
//! the disk: a simulated unit forgets everything with its process.
//!
//! Whoever must recompute windows hands in a [`Recorder`]: it sees every passage before any frame
//! holds it.
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! use testbed::fleet::{Fleet, FleetOptions, names};
//!
//! let broker = "127.0.0.1:8883".parse()?;
//! let units = names("sim", 1_000)?;
//! let options = FleetOptions::new(units, 11.6, broker, "localhost", "/tmp/pki".as_ref());
//! let fleet = Fleet::start(options)?;
//! fleet.connected(Duration::from_secs(60)).await?;
//! fleet.drain(Duration::from_secs(60)).await?;
//! assert_eq!(fleet.posted(), fleet.receipted());
//! fleet.stop().await?;
//! # Ok(()) }
//! ```

pub mod counters;
mod link;
pub mod mqtt;
mod options;
pub mod traffic;
pub mod unit;
mod wire;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use proto::device::DeviceIdError;
use proto::{DeviceId, EventTime, PassageBatch, SeqRange, StreamId};
use rustls_pki_types::ServerName;
use service::tasks::{StuckTasks, TaskSet};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock;
use counters::Counters;
use link::{Member, Orders, Shared};
pub use options::{Credentials, FleetOptions, Uplink};
use traffic::Traffic;
use unit::Unit;

/// Handshakes that a fleet has in progress at one time.
const HANDSHAKES_MAX: usize = 32;
/// How long units may take to say goodbye.
const STOP_WITHIN: Duration = Duration::from_secs(10);
/// How often a wait looks at the counters.
const LOOK: Duration = Duration::from_millis(20);

/// A batch of a unit as it was cut, before any frame held it. Its passages were posted at their
/// event times.
#[derive(Debug, Clone, Copy)]
pub struct Posted<'a> {
    /// Whose.
    pub device: &'a DeviceId,
    /// In which stream.
    pub stream: StreamId,
    /// With which numbers.
    pub range: SeqRange,
    /// The passages in the order of their numbers, plates as the unit keeps them.
    pub passages: &'a PassageBatch,
}

/// Sees everything that is posted. Called on the units' tasks: must not block for long.
pub type Recorder = Arc<dyn Fn(Posted<'_>) + Send + Sync>;

/// `{prefix}-0001` and so on.
///
/// # Errors
/// When the prefix has characters that a device's name cannot have.
pub fn names(prefix: &str, count: usize) -> Result<Vec<DeviceId>, DeviceIdError> {
    (1..=count)
        .map(|number| DeviceId::new(&format!("{prefix}-{number:04}")))
        .collect()
}

/// A fleet that cannot do what it is asked.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// The broker's name is no name.
    #[error("server name {0:?} is neither a DNS name nor an address")]
    ServerName(String),
    /// Not all units connected.
    #[error("{connected} of {units} units connected within {} s", within.as_secs())]
    NotConnected {
        /// How many did.
        connected: u64,
        /// How many there are.
        units: u64,
        /// How long was waited.
        within: Duration,
    },
    /// Not everything posted was receipted.
    #[error(
        "{receipted} receipted and {refused} refused of {posted} posted passages within {} s",
        within.as_secs()
    )]
    NotDrained {
        /// Accepted by units.
        posted: u64,
        /// With a receipt.
        receipted: u64,
        /// Refused for ever.
        refused: u64,
        /// How long was waited.
        within: Duration,
    },
    /// A unit cannot use its certificate.
    #[error("fleet stopped: {0}")]
    Failed(String),
    /// Units that do not end.
    #[error(transparent)]
    Stuck(#[from] StuckTasks),
}

/// Running units; stops them when dropped.
pub struct Fleet {
    units: u64,
    counters: Arc<Counters>,
    orders: watch::Sender<Orders>,
    tasks: TaskSet,
    stop: CancellationToken,
}

impl Fleet {
    /// Starts units that post live traffic from now on. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When the server's name is no name.
    pub fn start(options: FleetOptions) -> Result<Self, FleetError> {
        let clock = Clock::now();
        let start = EventTime::from_millis(clock.now_ms());
        let units: Vec<(DeviceId, Unit)> = options
            .units
            .iter()
            .enumerate()
            .map(|(number, device)| {
                let habits = options.habits(number);
                let traffic = Traffic::new(options.road, habits.seed, start);
                (device.clone(), Unit::live(new_stream(), habits, traffic))
            })
            .collect();
        let open = Orders {
            offer: true,
            road_open: true,
        };
        Self::start_units(units, &options.uplink, options.recorder, clock, open)
    }

    /// Starts units whose batches were made beforehand. They connect at once and offer nothing
    /// before [`Self::offer`] lets them.
    ///
    /// # Errors
    /// When the server's name is no name.
    pub fn start_prepared(
        units: Vec<(DeviceId, Unit)>,
        uplink: &Uplink,
    ) -> Result<Self, FleetError> {
        let hold = Orders {
            offer: false,
            road_open: true,
        };
        Self::start_units(units, uplink, None, Clock::now(), hold)
    }

    fn start_units(
        units: Vec<(DeviceId, Unit)>,
        uplink: &Uplink,
        recorder: Option<Recorder>,
        clock: Clock,
        orders: Orders,
    ) -> Result<Self, FleetError> {
        let server_name = ServerName::try_from(uplink.server_name.clone())
            .map_err(|_| FleetError::ServerName(uplink.server_name.clone()))?;
        let stop = CancellationToken::new();
        let tasks = TaskSet::new(stop.clone());
        let counters = Arc::new(Counters::default());
        let (orders, heard_orders) = watch::channel(orders);
        let shared = Arc::new(Shared {
            clock,
            broker: uplink.broker,
            server_name,
            counters: counters.clone(),
            connecting: Semaphore::new(HANDSHAKES_MAX),
            recorder,
            stop: stop.clone(),
        });
        let count = units.len() as u64;
        for (device, unit) in units {
            let credentials = Credentials::in_dir(&uplink.pki_dir, &device);
            let member = Member {
                device,
                credentials,
                unit,
                orders: heard_orders.clone(),
            };
            tasks.spawn("unit", link::run(member, shared.clone()));
        }
        Ok(Self {
            units: count,
            counters,
            orders,
            tasks,
            stop,
        })
    }

    /// Everything that is counted.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Passages accepted by all units so far.
    #[must_use]
    pub fn posted(&self) -> u64 {
        self.counters.posted.load(Ordering::Relaxed)
    }

    /// Passages for which a receipt came.
    #[must_use]
    pub fn receipted(&self) -> u64 {
        self.counters.receipted.load(Ordering::Relaxed)
    }

    /// Lets units offer batches, or holds what was not offered yet.
    pub fn offer(&self, offer: bool) {
        self.orders.send_modify(|orders| orders.offer = offer);
    }

    /// Waits until every unit is connected and subscribed.
    ///
    /// # Errors
    /// When some are not within the limit, or the fleet has failed.
    pub async fn connected(&self, within: Duration) -> Result<(), FleetError> {
        let connected = || self.counters.connected.load(Ordering::Relaxed);
        if self.wait(within, || connected() == self.units).await? {
            return Ok(());
        }
        Err(FleetError::NotConnected {
            connected: connected(),
            units: self.units,
            within,
        })
    }

    /// Closes all roads and waits until everything posted has its receipt, or was refused for ever.
    /// The units stay connected.
    ///
    /// # Errors
    /// When something is still on its way at the limit, or the fleet has failed.
    pub async fn drain(&self, within: Duration) -> Result<(), FleetError> {
        self.orders.send_modify(|orders| orders.road_open = false);
        let refused = || self.counters.refused.load(Ordering::Relaxed);
        let drained = || {
            self.counters.closed_roads.load(Ordering::Acquire) == self.units
                && self.receipted() + refused() == self.posted()
        };
        if self.wait(within, drained).await? {
            return Ok(());
        }
        let (posted, receipted, refused) = (self.posted(), self.receipted(), refused());
        Err(FleetError::NotDrained {
            posted,
            receipted,
            refused,
            within,
        })
    }

    /// Disconnects all units. What has no receipt is forgotten; [`Self::drain`] first where it
    /// matters.
    ///
    /// # Errors
    /// When units do not end, or the fleet had failed before.
    pub async fn stop(&self) -> Result<(), FleetError> {
        self.stop.cancel();
        self.tasks.join(STOP_WITHIN).await?;
        self.failure()
    }

    async fn wait(
        &self,
        within: Duration,
        condition: impl Fn() -> bool,
    ) -> Result<bool, FleetError> {
        let deadline = Instant::now() + within;
        loop {
            self.failure()?;
            if condition() {
                return Ok(true);
            }
            if Instant::now() >= deadline {
                return Ok(false);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn failure(&self) -> Result<(), FleetError> {
        let cause = self.tasks.cause();
        cause.map_or(Ok(()), |failure| {
            Err(FleetError::Failed(failure.to_string()))
        })
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl fmt::Debug for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fleet")
            .field("units", &self.units)
            .finish_non_exhaustive()
    }
}

/// 128 random bits, as for a run of an agent.
#[must_use]
pub fn new_stream() -> StreamId {
    StreamId::from_bytes(rand::random())
}

/// The units' clock: the wall time at the start of the fleet plus monotonic time since, so that it
/// never goes back.
#[derive(Debug, Clone, Copy)]
struct Clock {
    wall_ms: i64,
    start: std::time::Instant,
}

/// Farther than any run lasts.
const FAR: Duration = Duration::from_secs(30 * 24 * 3_600);

impl Clock {
    fn now() -> Self {
        Self {
            wall_ms: clock::unix_ms(),
            start: clock::monotonic(),
        }
    }

    fn now_ms(&self) -> i64 {
        let since = i64::try_from(self.start.elapsed().as_millis()).unwrap_or(i64::MAX);
        self.wall_ms.saturating_add(since)
    }

    /// When the clock will show this time.
    fn instant(&self, at_ms: i64) -> Instant {
        let from_start = u64::try_from(at_ms.saturating_sub(self.wall_ms)).unwrap_or(0);
        Instant::from_std(self.start + Duration::from_millis(from_start).min(FAR))
    }
}
