//! The REST API: questions over HTTP, answered from the database's views.
//!
//! A question's way: `speed`, `group` or `devices` reads its parameters (pure: [`range`], [`utc`]) → the
//! [`Reader`] asks one statement → [`answer`] (pure) makes the document. Errors of every kind are
//! problem documents (`error`).
//!
//! Invariants: nothing is written; what is remembered between requests is used only when the database
//! says that it still holds, so every aggregator answers alike; an answer is of one snapshot of the
//! database.

pub mod answer;
mod devices;
mod error;
mod group;
mod ledger;
pub mod metrics;
mod page;
pub mod range;
pub mod serve;
mod speed;
pub mod utc;

use std::sync::Arc;

use axum::Router;
use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::http::{HeaderValue, Method, Uri, header};
use axum::middleware::{from_fn_with_state, map_response};
use axum::response::Response;
use axum::routing::get;
use proto::device::DeviceId;
use serde::Serialize;
use service::problem::Problem;
use tower_http::cors::{AllowOrigin, CorsLayer};
use utoipa::ToSchema;

use self::metrics::ApiMetrics;
use self::utc::Utc;
use crate::config::ApiConfig;
use crate::store::reader::Reader;

/// How long an answer may be used again: windows change once a second at most.
const CACHE_CONTROL: HeaderValue = HeaderValue::from_static("max-age=1");

/// A problem may be gone at once.
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// A problem document (RFC 9457). Some problems have further members, such as `parameter` or `limit`.
#[derive(Debug, Serialize, ToSchema)]
struct ProblemDocument {
    /// Names the kind of problem; not a page to fetch.
    #[serde(rename = "type")]
    #[schema(example = "https://verst.example/problems/range-too-long")]
    kind: String,
    /// The kind in words.
    #[schema(example = "Range too long")]
    title: String,
    /// The HTTP status.
    #[schema(example = 422)]
    status: u16,
    /// What happened this time, with value, limit and next step.
    #[schema(
        example = "the range has 105120 windows of 5m, the limit is 10000; ask for less at a time or for longer windows"
    )]
    detail: Option<String>,
}

/// What every handler needs.
#[derive(Clone)]
struct Api {
    reader: Reader,
    units_max: u32,
    windows_max: u32,
    unit_windows_max: u32,
    description: Arc<str>,
}

/// The API, to be merged into the program's router. It brings the pages for what does not exist.
pub fn router(reader: Reader, config: &ApiConfig, metrics: ApiMetrics) -> Router {
    let api = Api {
        reader,
        units_max: config.units_max,
        windows_max: config.windows_max,
        unit_windows_max: config.unit_windows_max,
        description: page::description().into(),
    };
    let questions = Router::new()
        .route("/avg-speed", get(group::avg_speed))
        .route("/kvfv", get(devices::list))
        .route("/kvfv/{kvfv_id}", get(devices::show))
        .route("/kvfv/{kvfv_id}/avg-speed", get(speed::avg_speed))
        .route("/kvfv/{kvfv_id}/ledger", get(ledger::ledger))
        .layer(map_response(cacheable));
    Router::new()
        .merge(questions)
        .route("/", get(page::index))
        .route("/openapi.json", get(page::openapi))
        .method_not_allowed_fallback(other_method)
        .fallback(no_such_page)
        .layer(cors(&config.allow_origins))
        .layer(from_fn_with_state(metrics, metrics::observe))
        .with_state(api)
}

/// Which web pages may read the API in a browser. Answers OPTIONS, preflights among them.
fn cors(origins: &[String]) -> CorsLayer {
    let listed = origins
        .iter()
        .filter_map(|origin| HeaderValue::from_str(origin).ok());
    let allowed = if origins.iter().any(|origin| origin == "*") {
        AllowOrigin::any()
    } else {
        AllowOrigin::list(listed)
    };
    CorsLayer::new()
        .allow_origin(allowed)
        .allow_methods([Method::GET, Method::HEAD])
}

async fn cacheable(mut response: Response) -> Response {
    let value = if response.status().is_success() {
        CACHE_CONTROL
    } else {
        NO_STORE
    };
    response.headers_mut().insert(header::CACHE_CONTROL, value);
    response
}

/// What is neither GET nor HEAD; OPTIONS is answered by [`cors`]. The router adds `Allow`.
async fn other_method(method: Method) -> Problem {
    error::method(method.as_str())
}

async fn no_such_page(uri: Uri) -> Problem {
    error::no_such_page(uri.path())
}

/// The unit that a path names.
fn device(path: Result<Path<String>, PathRejection>) -> Result<DeviceId, Problem> {
    let Path(name) = path.map_err(|wrong| error::parameter("kvfv_id", wrong.body_text()))?;
    DeviceId::new(&name).map_err(|wrong| error::unit_name(&wrong))
}

/// The time that a parameter gives, if there is one.
fn instant(name: &str, text: &Option<String>) -> Result<Option<Utc>, Problem> {
    let parsed = text.as_deref().map(Utc::parse).transpose();
    parsed.map_err(|wrong| error::parameter(name, wrong.to_string()))
}
