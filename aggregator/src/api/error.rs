//! Everything that the API can refuse or fail with, as RFC 9457 problem documents.

use axum::http::StatusCode;
use proto::device::{DeviceId, DeviceIdError};
use service::problem::Problem;

use super::range::RangeError;
use super::utc::Utc;
use crate::store::reader::{OutOfReach, ReadError};

/// When to come back after the database was away.
const AWAY_RETRY_S: u32 = 5;
/// When to come back after it was only busy.
const BUSY_RETRY_S: u32 = 1;

/// A parameter that cannot be understood.
pub(super) fn parameter(name: &str, problem: impl Into<String>) -> Problem {
    Problem::new(
        StatusCode::BAD_REQUEST,
        "invalid-parameter",
        "Invalid parameter",
    )
    .detail(format!("{name}: {}", problem.into()))
    .with("parameter", name)
}

/// A name that no unit can have.
pub(super) fn unit_name(error: &DeviceIdError) -> Problem {
    parameter("kvfv_id", error.to_string())
}

/// A unit that the centre does not know.
pub(super) fn unknown_unit(kvfv_id: &str) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "unknown-unit", "Unknown unit")
        .detail(format!(
            "the centre has never heard of a unit {kvfv_id:?}; GET /kvfv lists them"
        ))
        .with("kvfv_id", kvfv_id)
}

/// Units of which the centre knows none.
pub(super) fn unknown_units(units: &[DeviceId]) -> Problem {
    let names: Vec<&str> = units.iter().map(DeviceId::as_str).collect();
    Problem::new(StatusCode::NOT_FOUND, "unknown-unit", "Unknown unit")
        .detail(format!(
            "the centre has never heard of any of the {} units; GET /kvfv lists them",
            names.len()
        ))
        .with("kvfv", names)
}

/// More streams than one answer may hold.
pub(super) fn too_many_streams(streams_max: u32) -> Problem {
    let status = StatusCode::UNPROCESSABLE_ENTITY;
    Problem::new(status, "too-many-streams", "Too many streams")
        .detail(format!(
            "more than {streams_max} streams of the unit were heard of in the range, the limit is \
             {streams_max}; ask for less time"
        ))
        .with("limit", streams_max)
}

/// More units than one question may name.
pub(super) fn too_many_units(units: usize, units_max: u32) -> Problem {
    let status = StatusCode::UNPROCESSABLE_ENTITY;
    Problem::new(status, "too-many-units", "Too many units")
        .detail(format!(
            "the question names {units} units, the limit is {units_max}; ask for fewer at a time"
        ))
        .with("units", units)
        .with("limit", units_max)
}

/// More windows of units than one answer may be made of.
pub(super) fn too_many_unit_windows(units: usize, windows: u64, unit_windows_max: u32) -> Problem {
    let unit_windows = windows.saturating_mul(units as u64);
    let status = StatusCode::UNPROCESSABLE_ENTITY;
    Problem::new(status, "range-too-long", "Range too long")
        .detail(format!(
            "{windows} windows of each of {units} units are {unit_windows}, the limit is \
             {unit_windows_max}; ask for fewer units, for less at a time or for longer windows"
        ))
        .with("units", units)
        .with("windows", windows)
        .with("limit", unit_windows_max)
}

/// No such page.
pub(super) fn no_such_page(path: &str) -> Problem {
    let shown: String = path.chars().take(200).collect();
    Problem::new(StatusCode::NOT_FOUND, "no-such-page", "No such page").detail(format!(
        "there is nothing at {shown:?}; GET / lists what there is"
    ))
}

/// Any attempt to change something.
pub(super) fn method(method: &str) -> Problem {
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method-not-allowed",
        "Method not allowed",
    )
    .detail(format!(
        "{method} is not allowed here; the API only reads: use GET or HEAD"
    ))
}

/// A range that is well written and cannot be answered.
pub(super) fn range(error: &RangeError) -> Problem {
    let status = StatusCode::UNPROCESSABLE_ENTITY;
    match error {
        RangeError::Empty { from, to } => Problem::new(status, "empty-range", "Empty range")
            .with("from", from.to_string())
            .with("to", to.to_string()),
        RangeError::TooLong {
            windows,
            windows_max,
            ..
        } => Problem::new(status, "range-too-long", "Range too long")
            .with("windows", *windows)
            .with("limit", *windows_max),
    }
    .detail(error.to_string())
}

/// A time of which nothing can be said.
pub(super) fn out_of_reach(as_of: Utc, error: OutOfReach) -> Problem {
    let (slug, title, limit, next) = match error {
        OutOfReach::Future { now_ms } => {
            let next = "ask for a time that has passed";
            ("as-of-ahead", "Time ahead", now_ms, next)
        }
        OutOfReach::Forgotten { kept_from_ms } => {
            let next = "versions are kept from there on ([store] history_days)";
            ("as-of-forgotten", "Time no longer kept", kept_from_ms, next)
        }
    };
    let limit = Utc::from_millis(limit).to_string();
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, slug, title)
        .detail(format!(
            "as_of {as_of}: {error}, the limit is {limit}; {next}"
        ))
        .with("limit", limit)
}

/// The database did not answer.
pub(super) fn read(error: &ReadError) -> Problem {
    let unavailable = |slug, title| Problem::new(StatusCode::SERVICE_UNAVAILABLE, slug, title);
    match error {
        ReadError::Away(_) => {
            // The condition of the database is logged where it changes, not by every request.
            tracing::debug!(%error, "cannot answer");
            unavailable("database-away", "Database away")
                .detail("the database cannot be reached; units keep their data, come back later")
                .retry_after_s(AWAY_RETRY_S)
        }
        ReadError::Busy => unavailable("overloaded", "Overloaded")
            .detail(format!("{error}; come back later"))
            .retry_after_s(BUSY_RETRY_S),
        ReadError::TimedOut => unavailable("database-slow", "Database slow")
            .detail(format!(
                "{error}; ask for less at a time, or come back later"
            ))
            .retry_after_s(AWAY_RETRY_S),
        ReadError::Fault(_) => {
            tracing::error!(%error, "cannot answer");
            Problem::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                "Internal error",
            )
            .detail("the answer could not be made; the centre's log says why")
        }
    }
}
