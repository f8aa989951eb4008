//! The program as a story: schema, pages, lease, decoders, owner, broker; and the stop in order:
//! not ready, nothing more in, what is at hand committed and receipted, disconnected, leases given
//! back.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use prometheus_client::registry::Registry;
use proto::topic::Shard;
use service::clock::{monotonic, wall_millis};
use service::descriptors::make_room_for;
use service::ops::{Condition, Health};
use service::serve::{Endpoint, HttpListener, Limits, ListenError, http};
use service::tasks::{StuckTasks, TaskSet};
use tokio::runtime::Builder;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::api;
use crate::api::metrics::ApiMetrics;
use crate::api::serve::{ServeError, serve};
use crate::backoff::Backoff;
use crate::commit::lease::{Holdings, InUse, Instance, LeaseKeeper, RAISES_MAX};
use crate::commit::owner::Owner;
use crate::config::{Config, DatabaseConfig};
use crate::intake::admit::{Door, DoorLimits, QUEUE_FRAMES_MAX};
use crate::intake::lane;
use crate::intake::mqtt::{Downlink, Gate, Link, MqttError, Receiver, own_name};
use crate::intake::presence::Presence;
use crate::intake::reach;
use crate::intake::workers::{self, QUEUE_CHUNKS_MAX};
use crate::metrics::Metrics;
use crate::store::connect::{ConnectionError, Target, TargetError};
use crate::store::reader::Reader;
use crate::store::retention;
use crate::store::schema::{self, Migrated, SchemaError};
use crate::store::standby;
use crate::window::lateness::summaries_age_max_ms;

/// From the stop until tasks that still run are given up.
const GRACE: Duration = Duration::from_secs(30);

/// From one look at the gauges to the next.
const GAUGES: Duration = Duration::from_secs(1);

/// From one look at what the units hold to the next: they say it about twice a minute.
const BACKLOG: Duration = Duration::from_secs(15);

/// Whether the broker is connected, as `/readyz` shows it.
const BROKER: &str = "broker";

/// Why the aggregator could not run, or did not stop in order.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The database's settings.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The schema.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// The broker's settings.
    #[error(transparent)]
    Mqtt(#[from] MqttError),
    /// A port.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The API cannot begin.
    #[error(transparent)]
    Api(#[from] ServeError),
    /// No randomness.
    #[error("the system has no randomness: {0}")]
    Random(#[from] getrandom::Error),
    /// A task failed.
    #[error(transparent)]
    Task(#[from] service::tasks::TaskFailure),
    /// A task did not end.
    #[error(transparent)]
    Stuck(#[from] StuckTasks),
}

/// Applies the migrations that are missing.
///
/// # Errors
/// When the database cannot be reached or does not fit.
pub async fn migrate(settings: &DatabaseConfig) -> Result<Migrated, RunError> {
    let tasks = TaskSet::new(CancellationToken::new());
    let target = Target::new(settings)?;
    let mut client = target
        .connect("verst-migrate", &tasks)
        .await
        .map_err(SchemaError::from)?;
    Ok(schema::migrate(&mut client, settings.timescale).await?)
}

/// Runs until `stop`. Calls `ready` with the bound addresses (API, operator's pages) once both listen.
///
/// # Errors
/// When it cannot start, a task fails, or something does not end within the grace.
pub async fn run(
    config: Config,
    stop: CancellationToken,
    ready: impl FnOnce(Option<SocketAddr>, Option<SocketAddr>),
) -> Result<(), RunError> {
    let tasks = TaskSet::new(stop.clone());
    let health = Health::new();
    for name in [crate::commit::owner::CONDITION, BROKER] {
        health.set(name, Condition::NotReady("starting".to_owned()));
    }
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let api_metrics = ApiMetrics::register(registry.sub_registry_with_prefix("verst_aggregator"));
    let target = Target::new(&config.database)?;
    let instance = Instance::new(own_name(&config.mqtt)?.as_str())?;

    make_room_for(config.api.connections_max + config.database.pool_size);
    let limits = Limits {
        connections_max: config.api.connections_max,
        ..Limits::default()
    };
    let ops_listener = HttpListener::bind(&Endpoint::Tcp(config.ops.listen)).await?;
    let ops_address = ops_listener.local_addr();
    // The pages outlive the stop: a load balancer must see that we are not ready.
    let pages_stop = CancellationToken::new();
    let reader = |connections, cache_bytes_max| {
        let pool = target.pool(connections)?;
        Ok::<_, TargetError>(Reader::new(pool, cache_bytes_max))
    };
    let answers = reader(config.database.pool_size, config.api.cache_bytes_max)?;
    let questions = api::router(answers, &config.api, api_metrics);
    let stop_pages = pages_stop.clone();
    let api_address = serve(config.api.listen, questions, limits, &tasks, stop_pages).await?;
    let pages = service::ops::router(Arc::new(registry), health.clone());
    tasks.spawn(
        "ops",
        http(ops_listener, pages, pages_stop.clone(), Limits::default()),
    );
    ready(api_address, ops_address);

    if schema_ready(&config.database, &target, &health, &tasks, &stop).await? {
        let program = Program {
            config: &config,
            target: &target,
            reader: reader(1, 0)?,
            health: &health,
            metrics: &metrics,
            tasks: &tasks,
            stop: &stop,
        };
        centre(program, instance).await;
    }
    pages_stop.cancel();
    tasks.join(GRACE).await?;
    tasks.cause().map_or(Ok(()), |failure| Err(failure.into()))
}

/// Waits for the database, then brings its schema up to date or checks it. False: stopped meanwhile.
async fn schema_ready(
    settings: &DatabaseConfig,
    target: &Target,
    health: &Health,
    tasks: &TaskSet,
    stop: &CancellationToken,
) -> Result<bool, SchemaError> {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
    loop {
        let done = async {
            let mut client = target.connect("verst-migrate", tasks).await?;
            if settings.migrate {
                let migrated = schema::migrate(&mut client, settings.timescale).await?;
                let storage = migrated.storage.word();
                tracing::info!(applied = ?migrated.applied, storage, "schema is up to date");
                Ok(())
            } else {
                schema::check(&mut client).await.map(drop)
            }
        };
        match done.await {
            Ok(()) => return Ok(true),
            Err(SchemaError::Database(error)) if error.code().is_none() || error.is_closed() => {
                is_away(health, &error.into());
            }
            Err(SchemaError::Silent(error)) => is_away(health, &error),
            Err(SchemaError::Database(error)) if is_starting(&error) => {}
            Err(error) => return Err(error),
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(false),
            () = tokio::time::sleep(backoff.delay()) => {}
        }
    }
}

fn is_away(health: &Health, error: &ConnectionError) {
    let reason = format!("cannot reach the database: {error}");
    health.set(crate::commit::owner::CONDITION, Condition::NotReady(reason));
}

/// 57P03: "the database system is starting up".
fn is_starting(error: &tokio_postgres::Error) -> bool {
    error.code() == Some(&tokio_postgres::error::SqlState::CANNOT_CONNECT_NOW)
}

/// What everything between broker and database needs.
struct Program<'a> {
    config: &'a Config,
    target: &'a Target,
    reader: Reader,
    health: &'a Health,
    metrics: &'a Metrics,
    tasks: &'a TaskSet,
    stop: &'a CancellationToken,
}

/// Everything between broker and database, from start to stop.
async fn centre(program: Program<'_>, instance: Instance) {
    let Program {
        config,
        target,
        reader,
        health,
        metrics,
        tasks,
        stop,
    } = program;
    let (holdings_in, holdings) = watch::channel(Holdings::default());
    let (gate_in, gate) = watch::channel(Gate::Closed("starting".to_owned()));
    let (renewed_in, renewed) = watch::channel(monotonic());
    let (in_use_in, in_use) = watch::channel(InUse::new());
    let (relinks_in, relinks) = watch::channel(0);
    let (brokers_in, brokers) = watch::channel(0);
    let (links_in, links): (Vec<_>, Vec<_>) = config
        .mqtt
        .addresses()
        .map(|_| watch::channel(Link::Down))
        .unzip();
    let (raises_in, raises) = mpsc::channel(RAISES_MAX);
    let (frames_in, frames) = lane::channels(QUEUE_FRAMES_MAX);
    let (messages_in, messages) = lane::channels(QUEUE_CHUNKS_MAX);
    let (linger_in, linger) = flume::bounded(0);

    let lease_stop = CancellationToken::new();
    let keeper = LeaseKeeper {
        target: target.clone(),
        instance: instance.clone(),
        settings: config.lease.clone(),
        holdings: holdings_in,
        renewed: renewed_in,
        raises,
        in_use,
        brokers,
        wall_millis,
        metrics: metrics.clone(),
        tasks: tasks.clone(),
    };
    tasks.spawn("lease", keeper.run(lease_stop.clone()));

    let threads = match config.limits.decode_threads {
        0 => {
            let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
            (cores - 1).max(1)
        }
        threads => threads,
    };
    workers::start(
        tasks,
        threads,
        config.raw.enabled,
        &frames,
        &messages_in,
        &linger,
        metrics,
    );
    drop((frames, messages_in, linger));

    let link_stop = CancellationToken::new();
    let bytes: Arc<AtomicUsize> = Arc::default();
    for (address, link) in config.mqtt.addresses().zip(links_in) {
        let door = Door::new(DoorLimits {
            bytes_max: config.limits.intake_bytes_max,
            device_frames_max: config.limits.device_frames_max,
            devices_max: config.limits.devices_max,
        });
        let receiver = Receiver {
            address: address.to_owned(),
            settings: config.mqtt.clone(),
            door: door.counting(bytes.clone()),
            frames: frames_in.clone(),
            holdings: holdings.clone(),
            gate: gate.clone(),
            link,
            relinks: relinks_in.clone(),
            metrics: metrics.clone(),
        };
        tasks.spawn("broker", receiver.run(link_stop.clone()));
    }
    drop((frames_in, relinks_in));
    for link in &links {
        let presence = Presence {
            holdings: holdings.clone(),
            lease: config.lease.ttl(),
            renewed: renewed.clone(),
            gate: gate.clone(),
            link: link.clone(),
            summaries_age_max_ms: summaries_age_max_ms(config.windows.horizon_ms()),
        };
        tasks.spawn("presence", presence.run(stop.clone()));
    }
    let reach = reach::count(links.clone(), brokers_in, config.lease.ttl());
    tasks.spawn("reach", until(link_stop.clone(), reach));
    let gauges = Gauges {
        bytes,
        links: links.clone(),
        holdings: holdings.clone(),
        renewed: renewed.clone(),
        health: health.clone(),
        metrics: metrics.clone(),
    };
    tasks.spawn("gauges", until(link_stop.clone(), gauges.run()));
    let backlog = backlog(reader, holdings.clone(), metrics.clone());
    tasks.spawn("backlog", until(link_stop.clone(), backlog));
    let retention = retention::run(
        target.clone(),
        config.raw.clone(),
        config.store.clone(),
        config.windows.horizon_days,
        tasks.clone(),
        metrics.clone(),
        stop.clone(),
    );
    tasks.spawn("retention", retention);
    if !config.database.accept_async_standby {
        let unknown = Condition::NotReady("not looked for standbys yet".to_owned());
        health.set(standby::CONDITION, unknown);
        let watch = standby::run(target.clone(), tasks.clone(), health.clone(), stop.clone());
        tasks.spawn("standby", watch);
    }

    let owner = Owner {
        windows: config.windows.clone(),
        raw: config.raw.enabled,
        limits: config.limits.clone(),
        target: target.clone(),
        instance,
        tasks: tasks.clone(),
        holdings,
        lease: config.lease.ttl(),
        renewed,
        raises: raises_in,
        in_use: in_use_in,
        relinks,
        messages,
        downlink: Downlink::new(links, metrics.clone()),
        gate: gate_in,
        health: health.clone(),
        metrics: metrics.clone(),
    };
    alone(tasks, owner, stop.clone()).await;
    // Receipts of the last flush leave while the leases are given back.
    drop(linger_in);
    lease_stop.cancel();
    link_stop.cancel();
}

/// Runs the owner to its end, on a thread that does nothing else: between two statements the database
/// would wait for whatever else is read or sent meanwhile.
async fn alone(tasks: &TaskSet, owner: Owner, stop: CancellationToken) {
    let (ended_in, ended) = oneshot::channel();
    tasks.spawn_blocking_thread("owner", move || {
        let runtime = Builder::new_current_thread().enable_all().build();
        runtime.map(|runtime| {
            runtime.block_on(owner.run(stop));
            // Nobody waits any more only when the program ends.
            ended_in.send(()).ok();
        })
    });
    // An owner that could not begin has failed, and that stops the program.
    ended.await.ok();
}

/// Shows what changes by itself.
struct Gauges {
    bytes: Arc<AtomicUsize>,
    links: Vec<watch::Receiver<Link>>,
    holdings: watch::Receiver<Holdings>,
    renewed: watch::Receiver<Instant>,
    health: Health,
    metrics: Metrics,
}

impl Gauges {
    async fn run(self) {
        let mut ticks = tokio::time::interval(GAUGES);
        loop {
            ticks.tick().await;
            let on_their_way = self.bytes.load(Ordering::Relaxed);
            self.metrics
                .intake_bytes
                .set(i64::try_from(on_their_way).unwrap_or(i64::MAX));
            let age = self.renewed.borrow().elapsed();
            self.metrics.lease_age_seconds.set(age.as_secs_f64());
            self.health.set(BROKER, self.condition());
        }
    }

    fn condition(&self) -> Condition {
        let connected = |link: &&watch::Receiver<Link>| !matches!(*link.borrow(), Link::Down);
        if self.links.iter().any(|link| connected(&link)) {
            Condition::Ok
        } else {
            let holdings = self.holdings.borrow();
            let why = match holdings.clocks {
                _ if holdings.takes_part => "not connected to any broker",
                Some(_) => "standby: the clock is wrong",
                None => "standby: the broker is another's of this name",
            };
            Condition::NotReady(why.to_owned())
        }
    }
}

/// Shows what the units of the owned shards hold. While the database is away the gauges stand still.
async fn backlog(reader: Reader, holdings: watch::Receiver<Holdings>, metrics: Metrics) {
    let mut ticks = tokio::time::interval(BACKLOG);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let owned: Vec<Shard> = holdings.borrow().tokens.keys().copied().collect();
        match reader.backlog(&owned).await {
            Ok(rows) => metrics.backlog(&rows),
            Err(error) => tracing::debug!(%error, "cannot look what the units hold"),
        }
        match reader.unexplained(&owned).await {
            Ok(passages) => {
                metrics.unexplained_passages.set(passages);
            }
            Err(error) => tracing::debug!(%error, "cannot look into the ledger"),
        }
    }
}

async fn until(stop: CancellationToken, work: impl Future<Output = ()>) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = work => {}
    }
}
