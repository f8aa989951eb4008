//! The door: who comes, who may stay, one connection per name.
//!
//! First in the data path; after it a connection is served by [`crate::connection`]. Each newcomer
//! has a task of its own from the accept on, so that one that says nothing holds up nobody, and a
//! deadline for everything up to its CONNECT.
//!
//! Bounds: handshakes in progress and connections are limited; when handshakes are full further
//! connections wait in the kernel's queue, and those that make no progress give way.

mod arrival;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use proto::DeviceId;
use service::clock::{monotonic, wall_millis};
use service::places::Places;
use service::tasks::TaskSet;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::server::TlsStream;

use self::arrival::{Arrived, Failure};
use crate::config::Limits;
use crate::connection::{Connection, End, Pace};
use crate::engine::Engine;
use crate::identity::{Identity, Role};
use crate::metrics::{Closed, HandshakeFailure, Kind, Metrics};
use crate::names::{Claim, ClaimError, Ending, Names};
use crate::packet::{self, ConnectCode};
use crate::rates::Bucket;
use crate::session::{ConnectRefusal, Session, SessionLimits};
use crate::socket::say_last;
use crate::tls::Certificates;

/// Connections that the kernel holds until they are accepted.
const BACKLOG: u32 = 4_096;
/// How long to leave `accept` alone after it failed for want of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a refusal may take to be written.
const REFUSAL_PATIENCE: Duration = Duration::from_secs(2);
/// Warnings about clients, per second and at once; the counters miss none.
const WARNINGS_PER_S: f64 = 2.0;
const WARNINGS_BURST: f64 = 20.0;
/// The longest time that a certificate's end is waited for: timers do not reach much further.
const CERTIFICATE_WAIT_MAX: Duration = Duration::from_hours(24 * 365);

/// What all connections share. Clones are the same.
#[derive(Clone)]
pub struct Gate {
    /// The rules of the door.
    pub limits: Arc<Limits>,
    /// Certificates in force.
    pub certificates: watch::Receiver<Arc<Certificates>>,
    /// The router.
    pub engine: Engine,
    /// Who is connected.
    pub names: Names,
    /// Counters.
    pub metrics: Metrics,
    /// Where connections are spawned; its token is the stop.
    pub tasks: TaskSet,
    warnings: Arc<Mutex<Bucket>>,
}

/// Opens the listening socket.
///
/// # Errors
/// When the address cannot be had.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

impl Gate {
    /// A door with nobody in it.
    #[must_use]
    pub fn new(
        limits: Limits,
        certificates: watch::Receiver<Arc<Certificates>>,
        engine: Engine,
        names: Names,
        metrics: Metrics,
        tasks: TaskSet,
    ) -> Self {
        let warnings = Arc::new(Mutex::new(warnings(monotonic())));
        Self {
            limits: Arc::new(limits),
            certificates,
            engine,
            names,
            metrics,
            tasks,
            warnings,
        }
    }

    /// Accepts connections until the stop.
    pub async fn run(self, listener: TcpListener) {
        let stop = self.tasks.token().clone();
        let places = Places::new(self.limits.handshakes);
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let (stream, from) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            self.metrics.accepted.inc();
            let place = tokio::select! {
                () = stop.cancelled() => return,
                place = places.take() => place,
            };
            let Some(place) = place else { return };
            let newcomer = self.clone().newcomer(stream, from, place, places.clone());
            self.tasks.spawn("connection", newcomer);
        }
    }

    async fn newcomer(
        self,
        stream: TcpStream,
        from: SocketAddr,
        place: OwnedSemaphorePermit,
        places: Places,
    ) {
        // Each part is given back when it is over: a handshake takes several times the memory of a
        // connection, and most connections are idle most of the time.
        match Box::pin(self.handshake(stream, place, places)).await {
            Ok(arrived) => {
                if let Some(guest) = Box::pin(self.welcome(arrived, from)).await {
                    self.serve(guest).await;
                }
            }
            Err(failure) => {
                self.metrics.handshake_failed(failure.reason);
                if self.may_warn() {
                    let (reason, detail) = (failure.reason.label(), failure.detail);
                    tracing::warn!(%from, reason, detail, "connection ended before its CONNECT");
                }
            }
        }
    }

    /// Everything up to a CONNECT, for as long as it may take.
    async fn handshake(
        &self,
        stream: TcpStream,
        place: OwnedSemaphorePermit,
        places: Places,
    ) -> Result<Arrived, Failure> {
        let open = self.metrics.handshake();
        let deadline = self.limits.connect_timeout();
        let arrived = tokio::select! {
            arrived = timeout(deadline, self.arrive(stream)) => {
                arrived.unwrap_or(Err(Failure::plain(HandshakeFailure::Timeout)))
            }
            () = places.crowded_out() => Err(Failure::plain(HandshakeFailure::Crowded)),
            () = self.tasks.token().cancelled() => Err(Failure::plain(HandshakeFailure::Stop)),
        };
        drop((place, open));
        arrived
    }

    /// From a judged CONNECT to its CONNACK; none when it was refused.
    async fn welcome(&self, arrived: Arrived, from: SocketAddr) -> Option<Guest> {
        let Arrived {
            stream,
            inbox,
            identity,
            verdict,
        } = arrived;
        let keep_alive = match verdict {
            Ok(keep_alive) => keep_alive,
            Err(refusal) => {
                self.turn_away(stream, &identity, from, refusal).await;
                return None;
            }
        };
        let ending = Ending::default();
        let claim = tokio::select! {
            claim = self.names.claim(&identity, &ending) => claim,
            () = self.tasks.token().cancelled() => {
                self.metrics.connect_refused("stop");
                self.refuse(stream, ConnectCode::Unavailable).await;
                return None;
            }
        };
        let claim = match claim {
            Ok(claim) => claim,
            Err(error) => {
                self.no_room(stream, &identity, from, error).await;
                return None;
            }
        };
        if claim.took_over {
            self.metrics.takeovers.inc();
        }
        // A list that came while this one was shaking hands has not seen it among the living.
        if self.certificates.borrow().is_revoked(&identity.certificate) {
            ending.ask(Closed::Revoked);
        }
        let link = match self.engine.link(identity.name.as_str()).await {
            Ok(link) => link,
            Err(error) => {
                tracing::error!(name = %identity.name, %error, "no link to the router");
                self.metrics.connect_refused("router");
                self.refuse(stream, ConnectCode::Unavailable).await;
                return None;
            }
        };
        let limits = SessionLimits {
            subscriptions_max: self.limits.subscriptions,
            topics_max: self.limits.names,
            window: self.limits.unacknowledged,
        };
        let mut outbox = BytesMut::new();
        packet::put_connack(&mut outbox, ConnectCode::Accepted);
        self.metrics.sent.packet(Kind::Connect);
        self.metrics.opened.inc();
        self.metrics.open.inc();
        tracing::debug!(name = %identity.name, role = %identity.role, "connected");
        let connection = Connection {
            stream,
            inbox,
            outbox,
            session: Session::new(&identity, limits),
            link,
            pace: self.pace(&identity, keep_alive),
            ending: ending.clone(),
            metrics: self.metrics.clone(),
        };
        Some(Guest {
            name: identity.name,
            ending,
            claim,
            stay: connection.serve().boxed(),
        })
    }

    /// From the CONNACK to the end of the connection.
    async fn serve(self, guest: Guest) {
        let Guest {
            name,
            ending,
            claim,
            mut stay,
        } = guest;
        let (reason, violation) = tokio::select! {
            end = &mut stay => end,
            // At the stop every connection ends by itself, in good order.
            () = self.tasks.token().cancelled() => {
                ending.ask(Closed::Stop);
                stay.await
            }
        };
        // The link is closed: the next of this name may come.
        drop(claim);
        self.metrics.open.dec();
        self.metrics.closed(reason);
        if let Some(violation) = violation {
            self.metrics.violation(violation.label());
            if self.may_warn() {
                tracing::warn!(%name, %violation, "client closed for a violation");
            }
        } else {
            tracing::debug!(%name, reason = reason.label(), "closed");
        }
    }

    fn pace(&self, identity: &Identity, keep_alive: Duration) -> Pace {
        let now = monotonic();
        let left_ms = identity
            .not_after_s
            .saturating_mul(1_000)
            .saturating_sub(wall_millis());
        let left = Duration::from_millis(u64::try_from(left_ms).unwrap_or_default());
        let bucket = |rate: u32| Bucket::new(f64::from(rate), f64::from(rate), now);
        let rates = || {
            (
                bucket(self.limits.messages_per_s),
                bucket(self.limits.bytes_per_s),
            )
        };
        Pace {
            idle: keep_alive.mul_f64(1.5),
            write_timeout: self.limits.write_timeout(),
            certificate_end: now + left.min(CERTIFICATE_WAIT_MAX),
            rates: (identity.role != Role::Centre).then(rates),
        }
    }

    async fn turn_away(
        &self,
        stream: TlsStream<TcpStream>,
        identity: &Identity,
        from: SocketAddr,
        refusal: ConnectRefusal,
    ) {
        self.metrics.connect_refused(refusal.label());
        if self.may_warn() {
            tracing::warn!(name = %identity.name, %from, %refusal, "CONNECT refused");
        }
        self.refuse(stream, refusal.code()).await;
    }

    async fn no_room(
        &self,
        stream: TlsStream<TcpStream>,
        identity: &Identity,
        from: SocketAddr,
        error: ClaimError,
    ) {
        self.metrics.connect_refused(error.label());
        if self.may_warn() {
            tracing::warn!(name = %identity.name, %from, %error, "CONNECT refused");
        }
        self.refuse(stream, ConnectCode::Unavailable).await;
    }

    async fn refuse(&self, mut stream: TlsStream<TcpStream>, code: ConnectCode) {
        let mut answer = BytesMut::new();
        packet::put_connack(&mut answer, code);
        self.metrics.sent.packet(Kind::Connect);
        say_last(&mut stream, &answer, REFUSAL_PATIENCE).await;
    }

    fn may_warn(&self) -> bool {
        let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        warnings.try_take(1.0, monotonic())
    }
}

fn warnings(now: Instant) -> Bucket {
    Bucket::new(WARNINGS_PER_S, WARNINGS_BURST, now)
}

/// A client that was let in.
struct Guest {
    name: DeviceId,
    /// How to ask it to leave.
    ending: Ending,
    /// Its name is its own until this is dropped.
    claim: Claim,
    /// Serves it to its end.
    stay: BoxFuture<'static, End>,
}

#[cfg(test)]
mod tests;
