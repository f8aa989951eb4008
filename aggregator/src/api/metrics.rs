//! What the API says of itself on `/metrics`.

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use service::clock;

/// Requests by what was asked and how it went. Clones count together.
#[derive(Debug, Clone)]
pub struct ApiMetrics {
    requests: Family<Labels, Counter>,
    seconds: Family<Page, Histogram>,
}

/// One page and one outcome; few of both, whatever is asked.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    page: String,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Page {
    page: String,
}

impl ApiMetrics {
    /// Registers `api_requests` (by page and status) and `api_seconds` (by page, from 0.5 ms to 8 s)
    /// under the prefix of `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let histogram = || Histogram::new(exponential_buckets(0.000_5, 2.0, 15));
        let metrics = Self {
            requests: Family::default(),
            seconds: Family::new_with_constructor(histogram),
        };
        let (requests, seconds) = (metrics.requests.clone(), metrics.seconds.clone());
        registry.register(
            "api_requests",
            "Requests to the API, by page and status",
            requests,
        );
        let help = "From a request's head to its answer, by page";
        registry.register_with_unit("api", help, Unit::Seconds, seconds);
        metrics
    }
}

/// Counts one request. What matches no page is counted as one page, so that nobody can make up more.
pub(super) async fn observe(
    State(metrics): State<ApiMetrics>,
    request: Request,
    next: Next,
) -> Response {
    let page = match request.extensions().get::<MatchedPath>() {
        Some(path) => path.as_str().to_owned(),
        None => "other".to_owned(),
    };
    let start = clock::monotonic();
    let response = next.run(request).await;
    let seconds = start.elapsed().as_secs_f64();
    let status = response.status().as_u16();
    metrics
        .seconds
        .get_or_create(&Page { page: page.clone() })
        .observe(seconds);
    metrics
        .requests
        .get_or_create(&Labels { page, status })
        .inc();
    response
}
