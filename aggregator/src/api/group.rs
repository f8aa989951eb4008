//! `GET /avg-speed`: many units together.

use std::collections::BTreeSet;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use proto::device::DeviceId;
use serde::Deserialize;
use service::clock;
use service::problem::Problem;
use utoipa::IntoParams;

use super::answer::group::GroupAnswer;
use super::range::TimeRange;
use super::speed::SpeedQuery;
use super::utc::Utc;
use super::{Api, ProblemDocument, error, instant};
use crate::store::reader::{GroupRows, Interval};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct GroupQuery {
    /// Names of the units, separated by commas, at most 1,000 unless the centre is set up otherwise.
    #[param(example = "KV12345,KV12346")]
    kvfv: String,
    /// Beginning, inclusive: RFC 3339 with offset. A window belongs to the range in which it starts.
    /// Default: 24 hours before `to`.
    #[param(value_type = Option<String>, format = DateTime, example = "2025-04-05T10:00:00Z")]
    from: Option<String>,
    /// End, exclusive: RFC 3339 with offset. Default: now.
    #[param(value_type = Option<String>, format = DateTime, example = "2025-04-05T10:10:00Z")]
    to: Option<String>,
    /// Length of the windows, which are aligned to UTC. Default: 5m.
    #[param(value_type = Option<Interval>, example = "5m")]
    interval: Option<String>,
    /// Answer as at this time: RFC 3339 with offset, by the clock of the database, not ahead of it and
    /// not before what is kept. Default: now. With it, `to` defaults to this time.
    #[param(value_type = Option<String>, format = DateTime, example = "2025-04-06T10:00:00Z")]
    as_of: Option<String>,
}

/// The limits of one question.
#[derive(Debug, Clone, Copy)]
struct Limits {
    units_max: u32,
    windows_max: u32,
    unit_windows_max: u32,
}

impl GroupQuery {
    fn read(self, now: Utc, limits: Limits) -> Result<(Vec<DeviceId>, TimeRange), Problem> {
        let units = units(&self.kvfv)?;
        if units.len() > limits.units_max as usize {
            return Err(error::too_many_units(units.len(), limits.units_max));
        }
        let range = SpeedQuery {
            from: self.from,
            to: self.to,
            interval: self.interval,
            as_of: None,
        }
        .range(now, limits.windows_max)?;
        let windows = range.window_count().unsigned_abs();
        let unit_windows = windows.saturating_mul(units.len() as u64);
        if unit_windows > limits.unit_windows_max.into() {
            return Err(error::too_many_unit_windows(
                units.len(),
                windows,
                limits.unit_windows_max,
            ));
        }
        Ok((units, range))
    }
}

/// The units named, each once, by name.
fn units(names: &str) -> Result<Vec<DeviceId>, Problem> {
    let units: Result<BTreeSet<DeviceId>, _> = names.split(',').map(DeviceId::new).collect();
    Ok(units
        .map_err(|wrong| error::unit_name(&wrong))?
        .into_iter()
        .collect())
}

/// Average speed of many units together over a range of time, and in each window of it.
///
/// Averages and percentiles are made of the exact sums and merged histograms of all units, so every
/// vehicle weighs alike. The answer says which share of the windows that are expected of the units is
/// final, and which units are behind and why; a unit that is behind holds back nobody else's windows.
/// Range and windows are as for a single unit.
///
/// With `as_of` it is the answer of that time, as for a single unit. A window that was partial then at
/// any of the units and has changed there since has null for all numbers; `behind` names the units of
/// which that is so (`not_kept`), and all others with windows that were partial (`unrecorded`).
#[utoipa::path(
    get,
    path = "/avg-speed",
    operation_id = "getAverageSpeedOfUnits",
    tag = "speed",
    params(GroupQuery),
    responses(
        (status = 200, description = "The average and its windows", body = GroupAnswer),
        (status = 400, description = "A name or parameter that cannot be understood", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "The centre has never heard of any of the units", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 422, description = "An empty range, more units or windows than the limit, or a time that is ahead or no longer kept", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "The database is away, busy or slow; see Retry-After", body = ProblemDocument, content_type = "application/problem+json",
            headers(("Retry-After" = u32, description = "Seconds"))),
    )
)]
pub(super) async fn avg_speed(
    State(api): State<Api>,
    query: Result<Query<GroupQuery>, QueryRejection>,
) -> Result<Json<GroupAnswer>, Problem> {
    let Query(query) = query.map_err(|wrong| error::parameter("query", wrong.body_text()))?;
    let as_of = instant("as_of", &query.as_of)?;
    let now = as_of.unwrap_or_else(|| Utc::from_millis(clock::wall_millis()));
    let limits = Limits {
        units_max: api.units_max,
        windows_max: api.windows_max,
        unit_windows_max: api.unit_windows_max,
    };
    let (units, range) = query.read(now, limits)?;
    let (reader, interval, covered_ms) = (&api.reader, range.interval(), range.covered_ms());
    let known = |rows: GroupRows| match rows.units.is_empty() {
        true => Err(error::unknown_units(&units)),
        false => Ok(rows),
    };
    if let Some(as_of) = as_of {
        let rows = reader
            .group_speed_at(&units, interval, covered_ms, as_of.as_millis())
            .await
            .map_err(|wrong| error::read(&wrong))?
            .map_err(|beyond| error::out_of_reach(as_of, beyond))?;
        let past = GroupAnswer::past(&units, &range, &known(rows)?, as_of);
        return Ok(Json(past));
    }
    let rows = reader
        .group_speed(&units, interval, covered_ms)
        .await
        .map_err(|wrong| error::read(&wrong))?;
    Ok(Json(GroupAnswer::new(&units, &range, &known(rows)?, now)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        units_max: 3,
        windows_max: 100,
        unit_windows_max: 72,
    };

    fn read(kvfv: &str, interval: &str) -> Result<(Vec<DeviceId>, TimeRange), Problem> {
        let query = GroupQuery {
            kvfv: kvfv.to_owned(),
            from: None,
            to: None,
            interval: Some(interval.to_owned()),
            as_of: None,
        };
        query.read(Utc::from_millis(1_743_848_130_123), LIMITS)
    }

    #[test]
    fn units_are_asked_for_once_each_by_name() {
        let (units, range) = read("KV2,KV1,KV2", "1h").unwrap();
        let names: Vec<&str> = units.iter().map(DeviceId::as_str).collect();
        assert_eq!(names, ["KV1", "KV2"]);
        assert_eq!(range.window_count(), 24);
    }

    #[test]
    fn each_fault_has_its_status() {
        let status = |kvfv, interval| read(kvfv, interval).unwrap_err().status().as_u16();
        for names in ["", ",", "KV1,", "KV1,,KV2", "KV1, KV2", "KV1;KV2"] {
            assert_eq!(status(names, "1h"), 400, "{names:?}");
        }
        assert_eq!(status("KV1", "15m"), 400);
        assert_eq!(status("KV1,KV2,KV3,KV4", "24h"), 422);
        assert_eq!(status("KV1", "5m"), 422, "windows");
        assert!(read("KV1,KV2,KV3", "1h").is_ok());
        let fewer = Limits {
            unit_windows_max: 71,
            ..LIMITS
        };
        let query = GroupQuery {
            kvfv: "KV1,KV2,KV3".to_owned(),
            from: None,
            to: None,
            interval: Some("1h".to_owned()),
            as_of: None,
        };
        let wrong = query.read(Utc::from_millis(1_743_848_130_123), fewer);
        assert_eq!(wrong.unwrap_err().status().as_u16(), 422, "unit-windows");
    }
}
