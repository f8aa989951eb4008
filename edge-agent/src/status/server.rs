//! The socket behind `edge-agent status`: HTTP with one page, `GET /v1/status`.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use service::serve::{Endpoint, HttpListener, Limits, ListenError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::rates::{Rates, SAMPLE_MS};
use super::report::{Flow, Report, Subject};
use crate::buffer::BufferState;
use crate::clock::{Monotonic, wall};
use crate::ingest::http::DoorCounters;
use crate::uplink::view::UplinkView;

/// The page of the report.
pub const PATH: &str = "/v1/status";

/// Connections at a time; further ones wait.
const CONNECTIONS_MAX: usize = 8;

/// Where a report's parts come from. Clones share the rates.
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
    /// The counters of the last minute, written by [`sample`] alone.
    pub rates: Arc<Mutex<Rates>>,
}

impl Sources {
    /// The report as of now.
    #[must_use]
    pub fn report(&self) -> Report {
        let (in_per_s, out_per_s) = self
            .rates
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .per_second();
        let (buffer, uplink) = (self.buffer.borrow().clone(), self.uplink.borrow().clone());
        let rejected = self.door.rejected.load(Ordering::Relaxed);
        Report::new(
            &self.subject,
            wall(),
            &buffer,
            &uplink,
            Flow {
                rejected,
                in_per_s,
                out_per_s,
            },
        )
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

/// Feeds the rates until the stop.
pub async fn sample(sources: Sources, clock: Monotonic, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(Duration::from_millis(SAMPLE_MS));
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let accepted = sources.buffer.borrow().counters.accepted;
        let receipted = sources.uplink.borrow().tally.passages_answered;
        let mut rates = sources.rates.lock().unwrap_or_else(PoisonError::into_inner);
        rates.sample(clock.now(), accepted, receipted);
    }
}

async fn report(State(sources): State<Sources>) -> Json<Report> {
    Json(sources.report())
}
