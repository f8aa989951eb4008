//! The socket behind `edge-agent status`: HTTP with one page, `GET /v1/status`.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use service::serve::{Endpoint, HttpListener, Limits, ListenError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::rates::{Flow, Rates, SAMPLE_MS};
use super::report::{Report, Subject};
use crate::buffer::BufferState;
use crate::clock::{Monotonic, wall};
use crate::ingest::http::DoorCounters;
use crate::uplink::view::UplinkView;

/// The page of the report.
pub const PATH: &str = "/v1/status";

/// Connections at a time; further ones wait.
const CONNECTIONS_MAX: usize = 8;

/// Where a report's parts come from.
#[derive(Debug, Clone)]
pub struct Sources {
    /// What does not change.
    pub subject: Arc<Subject>,
    /// The buffer.
    pub buffer: watch::Receiver<Arc<BufferState>>,
    /// The uplink.
    pub uplink: watch::Receiver<UplinkView>,
    /// The door.
    pub door: Arc<DoorCounters>,
    /// How fast passages come and go, by [`sample`].
    pub flow: watch::Receiver<Flow>,
}

impl Sources {
    /// The report as of now.
    #[must_use]
    pub fn report(&self) -> Report {
        let (buffer, uplink) = (self.buffer.borrow().clone(), self.uplink.borrow().clone());
        let rejected = self.door.rejected.load(Ordering::Relaxed);
        let flow = *self.flow.borrow();
        Report::new(&self.subject, wall(), &buffer, &uplink, flow, rejected)
    }
}

/// Binds the socket, making its folder if there is none.
///
/// # Errors
/// When another agent answers there, or the system refuses.
pub async fn bind(socket: &Path) -> Result<HttpListener, ListenError> {
    let endpoint = Endpoint::Unix(socket.to_owned());
    if let Some(folder) = socket.parent() {
        let made = std::fs::create_dir_all(folder);
        made.map_err(|source| ListenError::Io {
            endpoint: endpoint.clone(),
            source,
        })?;
    }
    HttpListener::bind(&endpoint).await
}

/// Answers until the stop.
pub async fn serve(listener: HttpListener, sources: Sources, stop: CancellationToken) {
    let router = Router::new().route(PATH, get(report)).with_state(sources);
    let limits = Limits {
        connections_max: CONNECTIONS_MAX,
        grace: Duration::from_secs(1),
        ..Limits::default()
    };
    service::serve::http(listener, router, stop, limits).await;
}

/// Takes samples and shows the rates until the stop.
pub async fn sample(
    buffer: watch::Receiver<Arc<BufferState>>,
    uplink: watch::Receiver<UplinkView>,
    flow: watch::Sender<Flow>,
    clock: Monotonic,
    stop: CancellationToken,
) {
    let mut rates = Rates::default();
    let mut ticks = tokio::time::interval(Duration::from_millis(SAMPLE_MS));
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let accepted = buffer.borrow().counters.accepted;
        let receipted = uplink.borrow().tally.passages_answered;
        rates.sample(clock.now(), accepted, receipted);
        flow.send_replace(rates.flow());
    }
}

async fn report(State(sources): State<Sources>) -> Json<Report> {
    Json(sources.report())
}
