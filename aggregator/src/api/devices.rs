//! `GET /kvfv` and `GET /kvfv/{kvfv_id}`.

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use proto::device::DeviceId;
use serde::Deserialize;
use service::clock;
use service::problem::Problem;
use utoipa::IntoParams;

use super::answer::unit::{Unit, UnitPage};
use super::utc::Utc;
use super::{Api, ProblemDocument, error};

/// Units on a page when the question does not say.
const PAGE_UNITS: u32 = 100;
/// Units on a page at most.
const PAGE_UNITS_MAX: u32 = 1_000;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PageQuery {
    /// Units on the page, 1 to 1,000. Default: 100.
    #[param(value_type = Option<u32>, minimum = 1, maximum = 1000, example = 100)]
    limit: Option<String>,
    /// Units after this name: the `next` of the page before.
    #[param(example = "KV12345")]
    after: Option<String>,
}

/// The units that the centre knows, by name, a page at a time.
#[utoipa::path(
    get,
    path = "/kvfv",
    operation_id = "listUnits",
    tag = "units",
    params(PageQuery),
    responses(
        (status = 200, description = "A page of units", body = UnitPage),
        (status = 400, description = "A parameter that cannot be understood", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "The database is away, busy or slow; see Retry-After", body = ProblemDocument, content_type = "application/problem+json",
            headers(("Retry-After" = u32, description = "Seconds"))),
    )
)]
pub(super) async fn list(
    State(api): State<Api>,
    query: Result<Query<PageQuery>, QueryRejection>,
) -> Result<Json<UnitPage>, Problem> {
    let Query(query) = query.map_err(|wrong| error::parameter("query", wrong.body_text()))?;
    let limit = match query.limit.as_deref() {
        None => PAGE_UNITS,
        Some(text) => text
            .parse()
            .ok()
            .filter(|limit| (1..=PAGE_UNITS_MAX).contains(limit))
            .ok_or_else(|| {
                let shown: String = text.chars().take(20).collect();
                error::parameter(
                    "limit",
                    format!("{shown:?} is not within 1 to {PAGE_UNITS_MAX}"),
                )
            })?,
    };
    let after = match query.after {
        None => String::new(),
        Some(name) => DeviceId::new(&name)
            .map_err(|wrong| error::parameter("after", wrong.to_string()))?
            .into(),
    };
    // One more than asked for, by which the last page is known.
    let rows = api
        .reader
        .devices(&after, limit + 1)
        .await
        .map_err(|wrong| error::read(&wrong))?;
    let now = Utc::from_millis(clock::wall_millis());
    let mut units: Vec<Unit> = rows.into_iter().map(|row| Unit::new(row, now)).collect();
    let page = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = units.len() > page;
    units.truncate(page);
    let next = units
        .last()
        .filter(|_| more)
        .map(|unit| unit.kvfv_id.clone());
    Ok(Json(UnitPage { units, next }))
}

/// One unit: when it was heard of, how far its windows are final, what waits at it.
#[utoipa::path(
    get,
    path = "/kvfv/{kvfv_id}",
    operation_id = "getUnit",
    tag = "units",
    params(("kvfv_id" = String, Path, description = "Name of the unit", example = "KV12345")),
    responses(
        (status = 200, description = "The unit", body = Unit),
        (status = 400, description = "A name that no unit can have", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "The centre has never heard of the unit", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "The database is away, busy or slow; see Retry-After", body = ProblemDocument, content_type = "application/problem+json",
            headers(("Retry-After" = u32, description = "Seconds"))),
    )
)]
pub(super) async fn show(
    State(api): State<Api>,
    device: Result<Path<String>, PathRejection>,
) -> Result<Json<Unit>, Problem> {
    let device = super::device(device)?;
    let row = api
        .reader
        .device(&device)
        .await
        .map_err(|wrong| error::read(&wrong))?
        .ok_or_else(|| error::unknown_unit(device.as_str()))?;
    Ok(Json(Unit::new(row, Utc::from_millis(clock::wall_millis()))))
}
