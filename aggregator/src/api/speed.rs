//! `GET /kvfv/{kvfv_id}/avg-speed`.

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use service::clock;
use service::problem::Problem;
use utoipa::IntoParams;

use super::answer::speed::SpeedAnswer;
use super::range::TimeRange;
use super::utc::Utc;
use super::{Api, ProblemDocument, error, instant};
use crate::store::reader::{Interval, ReadError};

/// How far back a question reaches that does not say from when.
const DEFAULT_RANGE_MS: i64 = 24 * 3_600_000;

/// What an answer takes besides its windows, and one window, generously.
const HEAD_BYTES: usize = 1_024;
const WINDOW_BYTES: usize = 328;

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct SpeedQuery {
    /// Beginning, inclusive: RFC 3339 with offset. A window belongs to the range in which it starts.
    /// Default: 24 hours before `to`.
    #[param(value_type = Option<String>, format = DateTime, example = "2025-04-05T10:00:00Z")]
    pub(super) from: Option<String>,
    /// End, exclusive: RFC 3339 with offset. Default: now.
    #[param(value_type = Option<String>, format = DateTime, example = "2025-04-05T10:10:00Z")]
    pub(super) to: Option<String>,
    /// Length of the windows, which are aligned to UTC. Default: 5m.
    #[param(value_type = Option<Interval>, example = "5m")]
    pub(super) interval: Option<String>,
    /// Answer as at this time: RFC 3339 with offset, by the clock of the database, not ahead of it and
    /// not before what is kept. Default: now. With it, `to` defaults to this time.
    #[param(value_type = Option<String>, format = DateTime, example = "2025-04-06T10:00:00Z")]
    pub(super) as_of: Option<String>,
}

impl SpeedQuery {
    pub(super) fn range(&self, now: Utc, windows_max: u32) -> Result<TimeRange, Problem> {
        let to = instant("to", &self.to)?.unwrap_or(now);
        let from = instant("from", &self.from)?
            .unwrap_or_else(|| Utc::from_millis(to.as_millis() - DEFAULT_RANGE_MS));
        let word = self
            .interval
            .as_deref()
            .unwrap_or(Interval::default().word());
        let interval = Interval::from_word(word).ok_or_else(|| {
            error::parameter("interval", format!("{word:?} is none of 5m, 1h, 24h"))
        })?;
        TimeRange::new(from, to, interval, windows_max).map_err(|wrong| error::range(&wrong))
    }
}

/// Average speed of a unit over a range of time, and in each window of it.
///
/// The range is half-open, `[from, to)`, and covers the windows that *start* in it, whole: adjoining
/// ranges share no window and miss none. Averages and percentiles over the range are made of the
/// passages' exact sums and histograms, not of the windows' averages.
///
/// With `as_of` it is the answer of that time, from versions that are kept of windows that were final
/// before they changed. A window that was partial then and has changed since has null for all numbers
/// and the reason `not_kept`; why windows were partial then is not recorded.
#[utoipa::path(
    get,
    path = "/kvfv/{kvfv_id}/avg-speed",
    operation_id = "getAverageSpeed",
    tag = "speed",
    params(("kvfv_id" = String, Path, description = "Name of the unit", example = "KV12345"), SpeedQuery),
    responses(
        (status = 200, description = "The average and its windows", body = SpeedAnswer),
        (status = 400, description = "A name or parameter that cannot be understood", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "The centre has never heard of the unit", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 422, description = "An empty range, more windows than the limit, or a time that is ahead or no longer kept", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "The database is away, busy or slow; see Retry-After", body = ProblemDocument, content_type = "application/problem+json",
            headers(("Retry-After" = u32, description = "Seconds"))),
    )
)]
pub(super) async fn avg_speed(
    State(api): State<Api>,
    device: Result<Path<String>, PathRejection>,
    query: Result<Query<SpeedQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let device = super::device(device)?;
    let Query(query) = query.map_err(|wrong| error::parameter("query", wrong.body_text()))?;
    let as_of = instant("as_of", &query.as_of)?;
    let now = as_of.unwrap_or_else(|| Utc::from_millis(clock::wall_millis()));
    let range = query.range(now, api.windows_max)?;
    let (interval, covered_ms) = (range.interval(), range.covered_ms());
    if let Some(as_of) = as_of {
        let rows = api
            .reader
            .speed_at(&device, interval, covered_ms, as_of.as_millis())
            .await
            .map_err(|wrong| error::read(&wrong))?
            .map_err(|beyond| error::out_of_reach(as_of, beyond))?
            .ok_or_else(|| error::unknown_unit(device.as_str()))?;
        return document(&SpeedAnswer::past(device.as_str(), &range, &rows, as_of));
    }
    let rows = api
        .reader
        .speed(&device, interval, covered_ms)
        .await
        .map_err(|wrong| error::read(&wrong))?
        .ok_or_else(|| error::unknown_unit(device.as_str()))?;
    document(&SpeedAnswer::new(device.as_str(), &range, &rows, now))
}

/// As JSON, into memory of about the right size: growing to it by doubling was a tenth of the work.
fn document(answer: &SpeedAnswer) -> Result<Response, Problem> {
    let mut body = Vec::with_capacity(HEAD_BYTES + WINDOW_BYTES * answer.windows.len());
    serde_json::to_writer(&mut body, answer)
        .map_err(|wrong| error::read(&ReadError::Fault(wrong.to_string())))?;
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(from: Option<&str>, to: Option<&str>, interval: Option<&str>) -> SpeedQuery {
        let owned = |text: Option<&str>| text.map(ToOwned::to_owned);
        SpeedQuery {
            from: owned(from),
            to: owned(to),
            interval: owned(interval),
            as_of: None,
        }
    }

    #[test]
    fn without_parameters_it_is_the_last_24_hours_in_5_minutes() {
        let now = Utc::from_millis(1_743_848_130_123);
        let range = SpeedQuery::default().range(now, 300).unwrap();
        assert_eq!(range.to(), now);
        assert_eq!(
            range.to().as_millis() - range.from().as_millis(),
            DEFAULT_RANGE_MS
        );
        assert_eq!(range.interval(), Interval::FiveMinutes);
        assert_eq!(range.window_count(), 288);
    }

    #[test]
    fn each_fault_has_its_status() {
        let now = Utc::from_millis(1_743_848_130_123);
        let status = |query: SpeedQuery| query.range(now, 100).unwrap_err().status().as_u16();
        assert_eq!(status(query(Some("yesterday"), None, None)), 400);
        assert_eq!(status(query(None, Some("2025-04-05"), None)), 400);
        assert_eq!(status(query(None, None, Some("15m"))), 400);
        assert_eq!(status(query(Some("2999-01-01T00:00:00Z"), None, None)), 422);
        assert_eq!(status(query(None, None, None)), 422);
    }
}
