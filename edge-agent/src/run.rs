//! `edge-agent run`: everything wired, started, and stopped in order.
//!
//! ```text
//! POST ─► ingest ─► buffer (thread) ◄─► uplink ─► broker        status socket, ops pages
//! ```
//! The stop: not ready → no new requests, running ones are answered → link closed → buffer's last
//! commit → end, all within [`GRACE`]. SIGKILL at any moment is as correct, only less polite.

mod settings;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use proto::EventTime;
use service::exit;
use service::ops::{Condition, Health};
use service::serve::{HttpListener, Limits, ListenError};
use service::tasks::{StuckTasks, TaskFailure, TaskSet};
use service::tls::TimeFloor;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::buffer::{Buffer, BufferState, OpenError, OwnerThread, StoreHealth};
use crate::clock::{Clock, Monotonic, wall};
use crate::config::Config;
use crate::guard::{Token, TokenError};
use crate::ingest::admit::Rules;
use crate::ingest::http::Door;
use crate::ingest::plates;
use crate::metrics;
use crate::status::rates::Flow;
use crate::status::report::Subject;
use crate::status::server::{self, Sources};
use crate::uplink::driver::{self, Parts};
use crate::uplink::meter::Meter;
use crate::uplink::mqtt::Address;
use crate::uplink::tls::{Credentials, CredentialsError};
use crate::uplink::view::UplinkView;
use settings::{door_settings, plate_policy, settings};

/// From the stop until what still runs is left behind.
pub const GRACE: Duration = Duration::from_secs(10);

/// Connections to the operator's pages; further ones wait.
const OPS_CONNECTIONS_MAX: usize = 16;

/// Threads for everything but the store, which has its own.
const WORKERS: usize = 2;

/// Conditions on the health board.
const STORE: &str = "store";
const INTAKE: &str = "intake";

/// Why the agent did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The log cannot begin.
    #[error(transparent)]
    Logging(#[from] service::logging::LoggingError),
    /// The unit's certificate cannot be used.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// There is no place for passages.
    #[error(transparent)]
    Buffer(#[from] OpenError),
    /// The size of the file system is unknown, so there is no default quota.
    #[error("cannot measure the file system of {}: {problem}; set buffer.quota_bytes", path.display())]
    FileSystem {
        /// Which folder.
        path: std::path::PathBuf,
        /// Why.
        problem: std::io::Error,
    },
    /// The token at the door cannot be used.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The key for number plates cannot be used.
    #[error(transparent)]
    PlateKey(#[from] plates::PlateKeyError),
    /// A place to listen is taken.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The system gives no random bits.
    #[error("the system gives no random bits: {0}")]
    Random(#[from] getrandom::Error),
    /// The runtime cannot be made.
    #[error("cannot start: {0}")]
    Runtime(#[from] std::io::Error),
    /// A part failed, and the agent stopped in order.
    #[error("stopped because of {0}")]
    Task(TaskFailure),
    /// The stop took too long.
    #[error(transparent)]
    Stuck(#[from] StuckTasks),
}

impl RunError {
    /// The exit status: a restart mends neither a wrong certificate nor a store that is too new.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Logging(_)
            | Self::Credentials(_)
            | Self::Token(_)
            | Self::PlateKey(_)
            | Self::Buffer(OpenError::Newer { .. } | OpenError::Older { .. }) => exit::CONFIG,
            _ => exit::FAILURE,
        }
    }
}

/// Runs until SIGTERM or SIGINT, with the settings that were read from `file`.
///
/// # Errors
/// What kept the agent from starting, or ended it.
pub fn run(config: Config, file: &Path) -> Result<(), RunError> {
    service::logging::init(config.log.format, &config.log.directives())?;
    service::private_file::keep_new_files_private();
    let clock = Monotonic::start();
    let time = Clock::new(clock);
    let credentials = Credentials::new(&config.device.id, &config.uplink, TimeFloor::new());
    let (identity, _) = credentials.load()?;
    let not_after = EventTime::from_millis(identity.not_after.as_millisecond());
    tracing::info!(
        device = %config.device.id,
        version = env!("CARGO_PKG_VERSION"),
        certificate_until = %identity.not_after,
        "starting"
    );
    let plates = plate_policy(&config.plates)?;
    let read = |path: &Option<PathBuf>| path.as_deref().map(Token::read).transpose();
    let (token, ops_token) = (
        read(&config.ingest.token_file)?,
        read(&config.ops.token_file)?,
    );
    let (buffer, owner) = Buffer::open(&settings(&identity.name, &config.buffer)?)?;
    if let Some(at) = buffer.state().borrow().centre_time
        && credentials.raise_floor(at, not_after)
    {
        time.not_before(at);
    }
    let rules = Rules {
        device: config.device.id.clone(),
        plates,
        future_ms_max: i64::from(config.ingest.ahead_s) * 1_000,
    };
    let door = Door::new(
        buffer.clone(),
        rules,
        time.clone(),
        door_settings(&config.ingest),
    );
    let parts = Opened {
        clock,
        time,
        credentials,
        not_after,
        buffer,
        owner,
        door,
        token,
        ops_token,
    };
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(WORKERS).enable_all().build()?;
    let ended = runtime.block_on(async {
        service::hangup::check_config(file, |file| crate::config::load(file).map(drop));
        serve(config, parts).await
    });
    // Whatever is left was named above; the process must not wait for it.
    runtime.shutdown_background();
    ended
}

/// What was opened before anything is served.
struct Opened {
    clock: Monotonic,
    time: Clock,
    credentials: Credentials,
    not_after: EventTime,
    buffer: Buffer,
    owner: OwnerThread,
    door: Door,
    token: Option<Token>,
    ops_token: Option<Token>,
}

async fn serve(config: Config, opened: Opened) -> Result<(), RunError> {
    let Opened {
        clock,
        time,
        credentials,
        not_after,
        buffer,
        owner,
        door,
        token,
        ops_token,
    } = opened;
    let health = Health::new();
    health.set(STORE, Condition::NotReady("starting".to_owned()));
    health.set(INTAKE, Condition::NotReady("starting".to_owned()));
    let tasks = TaskSet::new(service::shutdown::signals());
    let stop = tasks.token().clone();
    let commits = owner.commit_seconds();
    tasks.spawn_blocking_thread("buffer", move || owner.run());

    let (to_view, view) = watch::channel(UplinkView::new(wall(), Some(not_after)));
    let (to_flow, flow) = watch::channel(Flow::default());
    let counters = door.counters();
    let published = metrics::Published {
        buffer: buffer.state(),
        uplink: view.clone(),
        flow: flow.clone(),
        door: Arc::clone(&counters),
    };
    let (registry, metrics) = metrics::register(published, commits);
    let sources = Sources {
        subject: Arc::new(Subject {
            device: config.device.id.to_string(),
            brokers: config.uplink.brokers().map(ToOwned::to_owned).collect(),
            started_at: wall(),
        }),
        buffer: buffer.state(),
        uplink: view.clone(),
        door: Arc::clone(&counters),
        flow: flow.clone(),
    };

    let status = server::bind(&config.status.socket).await?;
    let ops = HttpListener::bind(&config.ops.listen).await?;
    let entrance = HttpListener::bind(&config.ingest.listen).await?;
    tasks.spawn("status", server::serve(status, sources, stop.clone()));
    tasks.spawn(
        "rates",
        server::sample(buffer.state(), view, to_flow, clock, stop.clone()),
    );
    let pages = service::ops::router(Arc::new(registry), health.clone());
    let pages = guarded(ops_token, pages);
    let few = Limits {
        connections_max: OPS_CONNECTIONS_MAX,
        ..Limits::default()
    };
    tasks.spawn("ops", service::serve::http(ops, pages, stop.clone(), few));
    tasks.spawn(
        "health",
        watch_store(buffer.state(), health.clone(), stop.clone()),
    );
    let limits = Limits {
        connections_max: config.ingest.connections_max,
        body_bytes_max: config.ingest.body_bytes_max,
        ..Limits::default()
    };
    let router = door.router();
    let router = guarded(token, router);
    tasks.spawn(
        "ingest",
        service::serve::http(entrance, router, stop.clone(), limits),
    );
    health.set(INTAKE, Condition::Ok);

    let addresses: Vec<Address> = config
        .uplink
        .addresses()
        .map(|(host, port)| Address {
            host: host.to_owned(),
            port,
            device: config.device.id.clone(),
        })
        .collect();
    // A configuration that was checked names at least one.
    if !addresses.is_empty() {
        let receipt_seconds = metrics.receipt_seconds;
        let parts = Parts {
            buffer,
            addresses,
            credentials,
            clock,
            time,
            view: to_view,
            receipt_seconds,
            door: counters,
            flow,
            meter: Meter::open(driver::rules(&config.uplink), &config.buffer.directory),
        };
        let seed = getrandom::u64()?;
        tasks.spawn(
            "uplink",
            driver::run(parts, config.uplink, seed, tasks.clone()),
        );
    }
    service::systemd::ready("passages are taken");

    stop.cancelled().await;
    service::systemd::stopping("answering running requests, writing what is left");
    health.set(INTAKE, Condition::NotReady("stopping".to_owned()));
    ended(&tasks, GRACE).await?;
    tracing::info!("stopped");
    Ok(())
}

/// Waits for what still runs after the stop, but no longer than `grace`.
async fn ended(tasks: &TaskSet, grace: Duration) -> Result<(), RunError> {
    let joined = tasks.join(grace).await;
    if let Some(cause) = tasks.cause() {
        return Err(RunError::Task(cause));
    }
    Ok(joined?)
}

fn guarded(token: Option<Token>, router: axum::Router) -> axum::Router {
    match token {
        Some(token) => token.guard(router),
        None => router,
    }
}

/// Shows the store's condition. A store that failed ends the run: the next one starts a new stream
/// and finds what is really on the disk.
async fn watch_store(
    mut state: watch::Receiver<Arc<BufferState>>,
    health: Health,
    stop: CancellationToken,
) -> Result<(), String> {
    loop {
        let now = state.borrow_and_update().health.clone();
        match now {
            StoreHealth::Ok => health.set(STORE, Condition::Ok),
            StoreHealth::NoSpace => {
                health.set(STORE, Condition::NotReady("the disk is full".to_owned()));
            }
            StoreHealth::Failed(why) => {
                health.set(STORE, Condition::Dead(why.to_string()));
                return Err(format!("the store failed: {why}"));
            }
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            changed = state.changed() => if changed.is_err() { return Ok(()) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_does_not_end_within_the_grace_is_left_behind_and_named() {
        let tasks = TaskSet::new(CancellationToken::new());
        tasks.spawn("uplink", async {});
        assert!(ended(&tasks, GRACE).await.is_ok());
        tasks.spawn("ingest", std::future::pending::<()>());
        let end = ended(&tasks, Duration::ZERO).await;
        let Err(RunError::Stuck(stuck)) = end else {
            panic!("{end:?}")
        };
        assert_eq!(stuck.names, ["ingest"]);
    }

    #[test]
    fn running_requests_are_cut_before_the_agent_is() {
        assert!(Limits::default().grace < GRACE);
    }
}
