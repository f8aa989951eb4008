//! `GET /` for people, `GET /openapi.json` for programs.

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use utoipa::OpenApi;

use super::{Api, ProblemDocument, devices, group, ledger, speed};

/// The description of the API.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Verst",
        description = "Exact traffic statistics of roadside camera units. All times are UTC unless \
                       they name an offset, all speeds km/h. Errors are problem documents \
                       (RFC 9457).",
    ),
    paths(
        speed::avg_speed,
        group::avg_speed,
        devices::list,
        devices::show,
        ledger::ledger
    ),
    components(schemas(ProblemDocument)),
    tags(
        (name = "speed", description = "Speeds over time"),
        (name = "units", description = "The units themselves"),
    ),
)]
struct Description;

/// The description as JSON, made once.
pub(super) fn description() -> String {
    serde_json::to_string_pretty(&Description::openapi())
        .unwrap_or_else(|error| unreachable!("the description is plain data: {error}"))
}

pub(super) async fn openapi(State(api): State<Api>) -> Response {
    let kind = [(header::CONTENT_TYPE, "application/json")];
    (kind, api.description.to_string()).into_response()
}

pub(super) async fn index() -> &'static str {
    concat!(
        "Verst ",
        env!("CARGO_PKG_VERSION"),
        ": exact traffic statistics of roadside camera units.\n\n\
         GET /kvfv                          the units, a page at a time (limit, after)\n\
         GET /kvfv/{kvfv_id}                one unit\n\
         GET /kvfv/{kvfv_id}/avg-speed      its speeds (from, to, interval=5m|1h|24h)\n\
         GET /kvfv/{kvfv_id}/ledger         what became of all that it accepted (from, to)\n\
         GET /avg-speed?kvfv=KV1,KV2        speeds of many units together (likewise)\n\
         GET /openapi.json                  all of it for programs\n\n\
         Example: /kvfv/KV12345/avg-speed?from=2025-04-05T10:00:00Z&to=2025-04-05T11:00:00Z\n"
    )
}
