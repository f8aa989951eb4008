//! The door: accept, TLS, CONNECT, one connection per name.
//!
//! First in the data path; after it a connection is served by [`crate::connection`]. Each newcomer
//! has a task of its own from the accept on, so that one that says nothing holds up nobody, and a
//! deadline for everything up to its CONNECT.
//!
//! Bounds: handshakes in progress and connections are limited; when handshakes are full further
//! connections wait in the kernel's queue, and those that make no progress give way.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use service::clock::{monotonic, wall_millis};
use service::places::Places;
use service::tasks::TaskSet;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::config::Limits;
use crate::connection::{Connection, Pace};
use crate::engine::Engine;
use crate::identity::{Identity, Role};
use crate::metrics::{Closed, HandshakeFailure, Kind, Metrics};
use crate::names::{Claim, ClaimError, Ending, Names};
use crate::packet::{self, ConnectCode, Packet, PacketError};
use crate::rates::Bucket;
use crate::session::{ConnectRefusal, Session, SessionLimits, admit};
use crate::tls::Certificates;

/// Connections that the kernel holds until they are accepted.
const BACKLOG: u32 = 4_096;
/// How long to leave `accept` alone after it failed for want of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a refusal may take to be written.
const REFUSAL_PATIENCE: Duration = Duration::from_secs(2);
/// The first byte of a CONNECT.
const CONNECT: u8 = 0x10;
/// The first packet, at most: CONNECT with a name of 64 bytes has 78.
const CONNECT_BYTES_MAX: usize = 1_024;
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
        let warnings = Bucket::new(WARNINGS_PER_S, WARNINGS_BURST, monotonic());
        let warnings = Arc::new(Mutex::new(warnings));
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
        let open = self.metrics.handshake();
        let deadline = self.limits.connect_timeout();
        let stop = self.tasks.token();
        let arrived = tokio::select! {
            arrived = timeout(deadline, self.arrive(stream)) => {
                arrived.unwrap_or(Err(Failure::plain(HandshakeFailure::Timeout)))
            }
            () = places.crowded_out() => Err(Failure::plain(HandshakeFailure::Crowded)),
            () = stop.cancelled() => Err(Failure::plain(HandshakeFailure::Stop)),
        };
        drop((place, open));
        match arrived {
            Ok(arrived) => self.welcome(arrived, from).await,
            Err(failure) => {
                self.metrics.handshake_failed(failure.reason);
                if self.may_warn() {
                    let (reason, detail) = (failure.reason.label(), failure.detail);
                    tracing::warn!(%from, reason, detail, "connection ended before its CONNECT");
                }
            }
        }
    }

    /// TLS, certificate, and the first packet.
    async fn arrive(&self, stream: TcpStream) -> Result<Arrived, Failure> {
        // Without it small packets wait for the acknowledgement of those before them.
        stream
            .set_nodelay(true)
            .map_err(|error| Failure::new(HandshakeFailure::Lost, &error))?;
        let server = self.certificates.borrow().server.clone();
        let mut stream = TlsAcceptor::from(server)
            .accept(stream)
            .await
            .map_err(|error| Failure::new(HandshakeFailure::Tls, &error))?;
        let certificate = stream
            .get_ref()
            .1
            .peer_certificates()
            .and_then(<[_]>::first);
        let certificate = certificate.ok_or(Failure::plain(HandshakeFailure::Identity))?;
        let identity = Identity::of(certificate)
            .map_err(|error| Failure::new(HandshakeFailure::Identity, &error))?;
        let mut inbox = BytesMut::with_capacity(CONNECT_BYTES_MAX);
        let frame = loop {
            if inbox.first().is_some_and(|first| *first != CONNECT) {
                let detail = "the first packet is not CONNECT".to_owned();
                return Err(Failure {
                    reason: HandshakeFailure::Packet,
                    detail,
                });
            }
            let found = packet::frame(&inbox, CONNECT_BYTES_MAX);
            match found.map_err(|error| Failure::new(HandshakeFailure::Packet, &error))? {
                Some(frame) => break frame,
                None => match stream.read_buf(&mut inbox).await {
                    Ok(0) => return Err(Failure::plain(HandshakeFailure::Lost)),
                    Ok(_) => {}
                    Err(error) => return Err(Failure::new(HandshakeFailure::Lost, &error)),
                },
            }
        };
        let first = inbox.split_to(frame.len);
        let verdict = match frame.read(&first) {
            Ok(Packet::Connect(connect)) => admit(&connect, &identity),
            Ok(_) => {
                let detail = "the first packet is not CONNECT".to_owned();
                return Err(Failure {
                    reason: HandshakeFailure::Packet,
                    detail,
                });
            }
            Err(error @ PacketError::Protocol) => {
                self.metrics.received.packet(Kind::Connect);
                self.refuse(stream, ConnectCode::Protocol).await;
                return Err(Failure::new(HandshakeFailure::Packet, &error));
            }
            Err(error) => return Err(Failure::new(HandshakeFailure::Packet, &error)),
        };
        self.metrics.received.packet(Kind::Connect);
        Ok(Arrived {
            stream,
            inbox,
            identity,
            verdict,
        })
    }

    /// From a judged CONNECT to the end of the connection.
    async fn welcome(self, arrived: Arrived, from: SocketAddr) {
        let Arrived {
            stream,
            inbox,
            identity,
            verdict,
        } = arrived;
        let keep_alive = match verdict {
            Ok(keep_alive) => keep_alive,
            Err(refusal) => return self.turn_away(stream, &identity, from, refusal).await,
        };
        let ending = Ending::default();
        let stop = self.tasks.token().clone();
        let claim = tokio::select! {
            claim = self.names.claim(&identity, &ending) => claim,
            () = stop.cancelled() => {
                self.metrics.connect_refused("stop");
                return self.refuse(stream, ConnectCode::Unavailable).await;
            }
        };
        let claim = match claim {
            Ok(claim) => claim,
            Err(error) => return self.no_room(stream, &identity, from, error).await,
        };
        if claim.took_over {
            self.metrics.takeovers.inc();
        }
        // A list that came while this one was shaking hands has not seen it among the living.
        if self.certificates.borrow().is_revoked(&identity.certificate) {
            ending.ask(Closed::Revoked);
        }
        // At the stop every connection ends by itself, in good order.
        let asking = async {
            stop.cancelled().await;
            ending.ask(Closed::Stop);
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = self.serve(stream, inbox, &identity, keep_alive, &ending, claim) => {}
            () = asking => {}
        }
    }

    async fn serve(
        &self,
        stream: TlsStream<TcpStream>,
        inbox: BytesMut,
        identity: &Identity,
        keep_alive: Duration,
        ending: &Ending,
        claim: Claim,
    ) {
        let link = match self.engine.link(identity.name.as_str()).await {
            Ok(link) => link,
            Err(error) => {
                tracing::error!(name = %identity.name, %error, "no link to the router");
                self.metrics.connect_refused("router");
                return self.refuse(stream, ConnectCode::Unavailable).await;
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
            session: Session::new(identity, limits),
            link,
            pace: self.pace(identity, keep_alive),
            ending: ending.clone(),
            metrics: self.metrics.clone(),
        };
        let (reason, violation) = Box::pin(connection.serve()).await;
        // The link is closed: the next of this name may come.
        drop(claim);
        self.metrics.open.dec();
        self.metrics.closed(reason);
        if let Some(violation) = violation {
            self.metrics.violation(violation.label());
            if self.may_warn() {
                tracing::warn!(name = %identity.name, %violation, "client closed for a violation");
            }
        } else {
            tracing::debug!(name = %identity.name, reason = reason.label(), "closed");
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
        let told = async {
            stream.write_all(&answer).await?;
            stream.shutdown().await
        };
        // A client that does not wait for its refusal misses nothing.
        drop(timeout(REFUSAL_PATIENCE, told).await);
    }

    fn may_warn(&self) -> bool {
        let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        warnings.try_take(1.0, monotonic())
    }
}

/// A client whose first packet was a CONNECT.
struct Arrived {
    stream: TlsStream<TcpStream>,
    /// What came after the CONNECT.
    inbox: BytesMut,
    identity: Identity,
    verdict: Result<Duration, ConnectRefusal>,
}

/// A client that did not come so far.
struct Failure {
    reason: HandshakeFailure,
    detail: String,
}

impl Failure {
    fn plain(reason: HandshakeFailure) -> Self {
        Self {
            reason,
            detail: String::new(),
        }
    }

    fn new(reason: HandshakeFailure, error: &dyn std::error::Error) -> Self {
        Self {
            reason,
            detail: error.to_string(),
        }
    }
}
