//! Verst's broker: a gate of our own in front of rumqttd's Router, in one process.
//!
//! A packet's way: [`gate`] (accept, TLS, CONNECT) → [`connection`] (bytes in and out) → [`packet`]
//! (is it MQTT?) → [`session`] with [`acl`] (may this client?) → [`inlet`] →
//! [`engine`] (the router) → the
//! subscriber's `connection`. Beside it: [`names`] (one connection per name), [`tls`] (certificates,
//! renewed while running), [`puback`] (when acknowledgements leave),
//! [`beacons`] (whose are kept), [`canary`] (does the router live?), and [`pki`] for the command line.
//!
//! The broker holds nothing that cannot be sent again: a PUBACK is flow control, never a proof of
//! delivery. It may be killed at any moment.

pub mod acl;
pub mod beacons;
pub mod canary;
pub mod config;
pub mod connection;
pub mod engine;
pub mod gate;
pub mod identity;
pub mod inlet;
pub mod metrics;
pub mod names;
pub mod packet;
pub mod pki;
pub mod puback;
pub mod rates;
pub mod session;
pub mod socket;
pub mod tls;
pub mod window;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use prometheus_client::registry::Registry;
use service::ops::{Condition, Health};
use service::serve::{HttpListener, ListenError};
use service::tasks::{StuckTasks, TaskFailure, TaskSet};
use service::tls::TlsError;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::engine::{Engine, RouterGone};
use crate::gate::Gate;
use crate::metrics::Metrics;
use crate::names::Names;
use crate::tls::Certificates;

/// The condition of the listener on the health page.
const LISTENER: &str = "listener";

/// A broker that did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The MQTT address.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The operator's pages.
    #[error(transparent)]
    Ops(#[from] ListenError),
    /// The router.
    #[error(transparent)]
    Router(#[from] RouterGone),
}

/// A running broker.
pub struct Broker {
    /// Where clients connect; with port 0 in the settings, the port that the kernel chose.
    pub address: SocketAddr,
    /// Where the operator's pages are, unless on a unix socket.
    pub ops_address: Option<SocketAddr>,
    /// Ask for certificates and revocation lists to be loaded anew at once.
    pub reload: Arc<Notify>,
    /// What `/healthz` and `/readyz` show.
    pub health: Health,
    tasks: TaskSet,
    grace: std::time::Duration,
}

impl Broker {
    /// Starts everything and returns when clients can connect. Cancelling `stop` begins the orderly
    /// end; [`Broker::join`] waits for it. The crypto provider must be installed
    /// ([`service::tls::install_crypto_provider`]).
    ///
    /// # Errors
    /// When a file cannot be used or an address cannot be had.
    pub async fn start(config: Config, stop: CancellationToken) -> Result<Self, StartError> {
        let mut registry = Registry::default();
        let metrics = Metrics::new(&mut registry);
        let health = Health::new();
        health.set(LISTENER, Condition::NotReady("starting".to_owned()));
        health.set(
            canary::CONDITION,
            Condition::NotReady("starting".to_owned()),
        );
        let certificates = Certificates::load(&config.listen)?;
        metrics.certificate_end_s.set(certificates.end_s);
        let address = config.listen.address;
        let listener = gate::listen(address).and_then(|bound| Ok((bound.local_addr()?, bound)));
        let (address, listener) =
            listener.map_err(|source| StartError::Listen { address, source })?;
        let pages = HttpListener::bind(&config.ops.address).await?;
        let ops_address = pages.local_addr();

        service::descriptors::make_room_for(config.limits.connections + config.limits.handshakes);
        let tasks = TaskSet::new(stop.clone());
        let engine = Engine::start(&config.router, config.limits.connections);
        tasks.spawn("inlet", engine.clone().carry(stop.clone()));
        let bird = engine.link(canary::CANARY).await?;
        let singing = canary::sing(bird, health.clone(), metrics.clone(), stop.clone());
        tasks.spawn("canary", singing);
        let names = Names::new(config.limits.connections, config.limits.names);
        let (renew, certificates) = watch::channel(Arc::new(certificates));
        let reload = Arc::new(Notify::new());
        let fresh = tls::keep_fresh(
            config.listen,
            renew,
            names.clone(),
            metrics.clone(),
            reload.clone(),
            stop.clone(),
        );
        tasks.spawn("certificates", fresh);
        let router = service::ops::router(Arc::new(registry), health.clone());
        let serving = service::serve::http(pages, router, stop, service::serve::Limits::default());
        tasks.spawn("ops", serving);
        let grace = config.limits.grace();
        let gate = Gate::new(
            config.limits,
            certificates,
            engine,
            names,
            metrics,
            tasks.clone(),
        );
        tasks.spawn("gate", gate.run(listener));
        health.set(LISTENER, Condition::Ok);
        tracing::info!(%address, "listening for mqtt over tls");
        Ok(Self {
            address,
            ops_address,
            reload,
            health,
            tasks,
            grace,
        })
    }

    /// Why the broker stopped by itself, if it did.
    #[must_use]
    pub fn cause(&self) -> Option<TaskFailure> {
        self.tasks.cause()
    }

    /// Waits for the stop, then for the connections to end in order, within the grace.
    ///
    /// # Errors
    /// Names what did not end in time.
    pub async fn join(self) -> Result<(), StuckTasks> {
        self.tasks.token().cancelled().await;
        self.health
            .set(LISTENER, Condition::NotReady("stopping".to_owned()));
        self.tasks.join(self.grace).await
    }
}
