//! What the camera is told when nothing of its request was accepted.

use axum::http::StatusCode;
use service::problem::Problem;

use super::Judged;
use crate::buffer::AppendError;

/// When to come back after the buffer was full; the uplink frees it in its own time.
const RETRY_FULL_S: u32 = 30;

/// When to come back after a moment of overload.
pub(super) const RETRY_SOON_S: u32 = 1;

pub(super) fn not_json(detail: String) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "not-json", "Not JSON").detail(detail)
}

pub(super) fn nothing_accepted(judged: Judged) -> Problem {
    let first = judged
        .errors
        .first()
        .map(ToString::to_string)
        .unwrap_or_default();
    Problem::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        "nothing-accepted",
        "Nothing accepted",
    )
    .detail(format!(
        "all {} items were rejected; {first}",
        judged.rejected
    ))
    .with("accepted", 0)
    .with("duplicates", 0)
    .with("rejected", judged.rejected)
    .with(
        "errors",
        serde_json::to_value(judged.errors).unwrap_or_default(),
    )
}

pub(super) fn problem_of(error: &AppendError) -> Problem {
    let unavailable = StatusCode::SERVICE_UNAVAILABLE;
    let problem = match error {
        AppendError::Full {
            held_bytes,
            quota_bytes,
        } => Problem::new(StatusCode::TOO_MANY_REQUESTS, "buffer-full", "Buffer full")
            .with("held_bytes", *held_bytes)
            .with("limit_bytes", *quota_bytes)
            .retry_after_s(RETRY_FULL_S),
        AppendError::NoSpace {
            path,
            free_bytes,
            floor_bytes,
        } => Problem::new(unavailable, "disk-full", "Disk full")
            .with("path", path.display().to_string())
            .with("free_bytes", *free_bytes)
            .with("floor_bytes", *floor_bytes)
            .retry_after_s(RETRY_FULL_S),
        AppendError::Failed(_) => {
            Problem::new(unavailable, "store-failed", "Store failed").retry_after_s(RETRY_FULL_S)
        }
        AppendError::Overloaded => {
            Problem::new(unavailable, "overloaded", "Overloaded").retry_after_s(RETRY_SOON_S)
        }
        AppendError::TooMany(_) => Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too-many-items",
            "Too many items",
        ),
    };
    problem.detail(error.to_string())
}
