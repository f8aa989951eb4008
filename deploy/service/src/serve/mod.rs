//! An HTTP/1.1 server over TCP, TLS or a unix socket, bounded in every direction.
//!
//! At the limit: with all connections taken, further ones wait in the kernel's queue, and those that
//! have had two seconds give way: at once when they never asked anything, otherwise after the answer
//! to the request at hand, which then has ten seconds more. A head that does not arrive in time closes the connection, also between two
//! requests; a body that does not arrive in time or is too large fails its request; a peer that does
//! not read its answer is cut. At the stop no new connection is taken, running
//! requests are answered, and after the grace what still runs is cut.

mod body;
mod listener;
mod patience;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::DefaultBodyLimit;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use body::BodyTimeout;
pub use listener::{Endpoint, EndpointError, HttpListener, ListenError};

use crate::places::Places;
use crate::tls::{PeerIdentity, peer_identity};
use listener::Accepted;
use patience::Patient;

/// Bytes of a request's head; hyper refuses a larger one with 431.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Header lines of a request.
const HEADERS_MAX: usize = 64;
/// What a request at hand may still take while others wait for the connection's place.
const CROWDED_GRACE: Duration = Duration::from_secs(10);
/// How long to leave `accept` alone after it failed for want of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What one server allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time.
    pub connections_max: usize,
    /// From the accept, or the end of the answer before, to the end of a request's head; for TLS
    /// also the whole handshake.
    pub header_timeout: Duration,
    /// From the end of a request's head to the end of its body.
    pub body_timeout: Duration,
    /// Bytes of a request's body as the extractors read it; a route may set its own with
    /// [`DefaultBodyLimit`].
    pub body_bytes_max: usize,
    /// How long a peer may leave its answer unread; reading 4 KiB/s is enough to be waited for.
    pub write_timeout: Duration,
    /// From the stop until running requests are cut; less than the program itself has.
    pub grace: Duration,
}

impl Default for Limits {
    /// 512 connections, 15 s for a head, 30 s for a body of at most 8 MiB, 30 s for an unread
    /// answer, 8 s of grace.
    fn default() -> Self {
        Self {
            connections_max: 512,
            header_timeout: Duration::from_secs(15),
            body_timeout: Duration::from_secs(30),
            body_bytes_max: 8 * 1024 * 1024,
            write_timeout: Duration::from_secs(30),
            grace: Duration::from_secs(8),
        }
    }
}

/// Serves `router` until `shutdown` is cancelled and its connections have ended or were cut.
///
/// Over TLS each request carries the client's [`PeerIdentity`] as an extension. Dropping the future
/// cuts everything.
pub async fn http(
    mut listener: HttpListener,
    router: Router,
    shutdown: CancellationToken,
    limits: Limits,
) {
    let place = listener.to_string();
    tracing::info!(listen = place, "serving http");
    let places = Places::new(limits.connections_max);
    let served = Served {
        router: router.layer(DefaultBodyLimit::max(limits.body_bytes_max)),
        shutdown: shutdown.clone(),
        places: places.clone(),
        crowded_grace: CROWDED_GRACE,
        limits,
    };
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(listen = place, %error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // While somebody waits here, silent connections give way.
        let permit = tokio::select! {
            () = shutdown.cancelled() => break,
            permit = places.take() => permit,
        };
        let Some(permit) = permit else { break };
        connections.spawn(served.clone().connection(stream, permit));
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(limits.grace, drained).await.is_err() {
        tracing::warn!(
            listen = place,
            connections = connections.len(),
            "cut after the grace"
        );
        connections.shutdown().await;
    }
}

/// What every connection of one server shares.
#[derive(Clone)]
struct Served {
    router: Router,
    shutdown: CancellationToken,
    places: Places,
    /// See [`CROWDED_GRACE`].
    crowded_grace: Duration,
    limits: Limits,
}

impl Served {
    async fn connection(self, stream: Accepted, permit: OwnedSemaphorePermit) {
        match stream {
            Accepted::Tcp(stream) => self.requests(stream, None).await,
            Accepted::Unix(stream) => self.requests(stream, None).await,
            Accepted::Tls(stream, config) => self.tls(stream, config).await,
        }
        drop(permit);
    }

    async fn tls(self, stream: TcpStream, config: Arc<ServerConfig>) {
        let handshake = tokio_rustls::TlsAcceptor::from(config).accept(stream);
        let handshake = tokio::time::timeout(self.limits.header_timeout, handshake);
        let handshake = tokio::select! {
            handshake = handshake => handshake,
            () = self.places.crowded_out() => return tracing::debug!("tls handshake gave way"),
        };
        let stream = match handshake {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return tracing::debug!(%error, "tls handshake failed"),
            Err(_) => return tracing::debug!("tls handshake took too long"),
        };
        let certificate = stream
            .get_ref()
            .1
            .peer_certificates()
            .and_then(<[_]>::first);
        let peer = match certificate.map(|der| peer_identity(der)).transpose() {
            Ok(peer) => peer,
            Err(error) => return tracing::warn!(%error, "client certificate without identity"),
        };
        self.requests(stream, peer).await;
    }

    async fn requests<S>(self, stream: S, peer: Option<PeerIdentity>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let io = TokioIo::new(Patient::new(stream, self.limits.write_timeout));
        let routes = TowerToHyperService::new(self.router);
        let body_timeout = self.limits.body_timeout;
        let asked = Arc::new(AtomicBool::new(false));
        let asks = asked.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            asks.store(true, Ordering::Relaxed);
            let mut request = request.map(|incoming| body::timed(incoming, body_timeout));
            if let Some(peer) = &peer {
                request.extensions_mut().insert(peer.clone());
            }
            answer(&routes, request)
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.header_timeout)
            .max_headers(HEADERS_MAX)
            .max_header_size(HEAD_BYTES_MAX)
            .serve_connection(io, service);
        tokio::pin!(connection);
        let grace = tokio::select! {
            ended = connection.as_mut() => return report(ended),
            // The whole server cuts what is left after its own grace.
            () = self.shutdown.cancelled() => Duration::MAX,
            () = self.places.crowded_out() => self.crowded_grace,
        };
        if grace == self.crowded_grace && !asked.load(Ordering::Relaxed) {
            return tracing::debug!("a connection that asked nothing gave way");
        }
        connection.as_mut().graceful_shutdown();
        match tokio::time::timeout(grace, connection).await {
            Ok(ended) => report(ended),
            Err(_) => tracing::debug!("a connection gave way before its answer was read"),
        }
    }
}

fn report(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "http connection ended early");
    }
}

fn answer(
    routes: &TowerToHyperService<Router>,
    request: Request<Body>,
) -> impl Future<Output = Result<axum::response::Response, Infallible>> + use<> {
    routes.call(request)
}

#[cfg(test)]
mod limit_tests;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
