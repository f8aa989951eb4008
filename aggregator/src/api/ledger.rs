//! `GET /kvfv/{kvfv_id}/ledger`.

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use serde::Deserialize;
use service::clock;
use service::problem::Problem;
use utoipa::IntoParams;

use super::answer::ledger::LedgerAnswer;
use super::range::RangeError;
use super::utc::Utc;
use super::{Api, ProblemDocument, error, instant};

/// Streams in one answer: as many as a unit may begin in a day.
const STREAMS_MAX: u32 = 1_000;

/// Losses that one answer lists.
const LOSSES_MAX: u32 = 1_000;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct LedgerQuery {
    /// Only streams that were heard of at this time or later: RFC 3339 with offset. Default: all.
    #[param(value_type = Option<String>, format = DateTime, example = "2025-04-05T00:00:00Z")]
    from: Option<String>,
    /// Only streams that were first heard of before this time: RFC 3339 with offset. Default: now.
    #[param(value_type = Option<String>, format = DateTime, example = "2025-04-06T00:00:00Z")]
    to: Option<String>,
}

impl LedgerQuery {
    fn read(&self, now: Utc) -> Result<(Utc, Utc), Problem> {
        let to = instant("to", &self.to)?.unwrap_or(now);
        let from = instant("from", &self.from)?.unwrap_or(Utc::from_millis(0));
        if from >= to {
            return Err(error::range(&RangeError::Empty { from, to }));
        }
        Ok((from, to))
    }
}

/// The books of a unit: what became of every passage that it accepted.
///
/// A stream is what one run of the unit's agent accepted. Its books are those of its whole life,
/// whatever the range; the range chooses streams by when the centre heard of them. What was reported
/// lost and arrived after all is lost no more.
#[utoipa::path(
    get,
    path = "/kvfv/{kvfv_id}/ledger",
    operation_id = "getLedger",
    tag = "units",
    params(("kvfv_id" = String, Path, description = "Name of the unit", example = "KV12345"), LedgerQuery),
    responses(
        (status = 200, description = "The books, and the losses", body = LedgerAnswer),
        (status = 400, description = "A name or parameter that cannot be understood", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "The centre has never heard of the unit", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 422, description = "An empty range, or more streams than the limit", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "The database is away, busy or slow; see Retry-After", body = ProblemDocument, content_type = "application/problem+json",
            headers(("Retry-After" = u32, description = "Seconds"))),
    )
)]
pub(super) async fn ledger(
    State(api): State<Api>,
    device: Result<Path<String>, PathRejection>,
    query: Result<Query<LedgerQuery>, QueryRejection>,
) -> Result<Json<LedgerAnswer>, Problem> {
    let device = super::device(device)?;
    let Query(query) = query.map_err(|wrong| error::parameter("query", wrong.body_text()))?;
    let (from, to) = query.read(Utc::from_millis(clock::wall_millis()))?;
    let time_ms = from.as_millis()..to.as_millis();
    let read = |wrong| error::read(&wrong);
    // One more than allowed, by which more is noticed.
    let rows = api
        .reader
        .ledger(&device, time_ms, STREAMS_MAX + 1, LOSSES_MAX + 1)
        .await
        .map_err(read)?;
    if rows.streams.is_empty() && api.reader.device(&device).await.map_err(read)?.is_none() {
        return Err(error::unknown_unit(device.as_str()));
    }
    if rows.streams.len() > STREAMS_MAX as usize {
        return Err(error::too_many_streams(STREAMS_MAX));
    }
    let answer = LedgerAnswer::new(device.into(), from, to, rows, LOSSES_MAX);
    Ok(Json(answer))
}
