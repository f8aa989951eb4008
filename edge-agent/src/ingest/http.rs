//! `POST /v1/passages`: one JSON object, a JSON array, or NDJSON.
//!
//! 200 comes after the fsync that covers the accepted passages. Some items may be refused all the
//! same; the answer lists the first [`ERRORS_SHOWN_MAX`]. When every item is refused it is a 422. A
//! body is held in memory as a whole; the sum over all requests is bounded, beyond it comes 503.

mod problems;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::Serialize;
use service::clock::wall_millis;
use service::problem::Problem;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};

use self::problems::{RETRY_SOON_S, not_json, nothing_accepted, problem_of};
use super::admit::{ItemError, Judge, Rules};
use super::split::{self, SplitError};
use crate::buffer::{Admitted, Appended, Buffer};
use crate::clock::Clock;

/// Errors that one answer lists; `rejected` counts all.
pub const ERRORS_SHOWN_MAX: usize = 100;

/// What a small request counts for: its connection and buffers, not its body.
const REQUEST_BYTES_MIN: usize = 1_024;

/// Bodies above this are judged on a thread for blocking work: that takes milliseconds.
const INLINE_BODY_BYTES_MAX: usize = 256 * 1_024;

/// What the door allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IngestSettings {
    /// Bytes of a request's body.
    pub body_bytes_max: usize,
    /// Items of a request; at most [`crate::buffer::APPEND_PASSAGES_MAX`].
    pub items_max: usize,
    /// Bytes of the bodies of all requests in flight.
    pub in_flight_bytes_max: usize,
}

impl Default for IngestSettings {
    /// 8 MiB and 10,000 items a request, 16 MiB in flight.
    fn default() -> Self {
        Self {
            body_bytes_max: 8 * 1_024 * 1_024,
            items_max: 10_000,
            in_flight_bytes_max: 16 * 1_024 * 1_024,
        }
    }
}

/// What went through the door since the start: `items` = `accepted` + `duplicates` + `rejected` +
/// `refused`.
#[derive(Debug, Default)]
pub struct DoorCounters {
    /// Requests of any outcome.
    pub requests: AtomicU64,
    /// Items of the requests that were read to their end.
    pub items: AtomicU64,
    /// Items that are durable.
    pub accepted: AtomicU64,
    /// Items that were durable before.
    pub duplicates: AtomicU64,
    /// Items with a fault of their own.
    pub rejected: AtomicU64,
    /// Good items that the buffer did not take.
    pub refused: AtomicU64,
    /// When the last request with an accepted item was answered, ms since 1970; 0 before the first.
    pub last_post_ms: AtomicI64,
}

/// The door. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Door {
    buffer: Buffer,
    rules: Arc<Rules>,
    clock: Clock,
    settings: IngestSettings,
    /// A permit per byte in flight.
    in_flight: Arc<Semaphore>,
    counters: Arc<DoorCounters>,
}

/// The answer to a request of which something is durable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Verdict {
    accepted: u32,
    duplicates: u32,
    rejected: usize,
    errors: Vec<ItemError>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Media {
    Json,
    Ndjson,
}

/// A request's items, judged.
#[derive(Debug, Default)]
struct Judged {
    admitted: Vec<Admitted>,
    rejected: usize,
    errors: Vec<ItemError>,
}

impl Door {
    /// In front of a buffer, judging by this clock.
    #[must_use]
    pub fn new(buffer: Buffer, rules: Rules, clock: Clock, settings: IngestSettings) -> Self {
        Self {
            buffer,
            rules: Arc::new(rules),
            clock,
            settings,
            in_flight: Arc::new(Semaphore::new(settings.in_flight_bytes_max)),
            counters: Arc::default(),
        }
    }

    /// What went through it.
    #[must_use]
    pub fn counters(&self) -> Arc<DoorCounters> {
        Arc::clone(&self.counters)
    }

    /// `POST /v1/passages`.
    pub fn router(self) -> Router {
        // The limit is kept here, where the answer can name it.
        Router::new()
            .route("/v1/passages", post(take))
            .layer(DefaultBodyLimit::disable())
            .with_state(self)
    }

    async fn post(&self, request: Request) -> Result<Verdict, Problem> {
        let media = media_of(request.headers())?;
        let announced = self.announced_bytes(request.headers())?;
        let _permit = self.enter(announced.unwrap_or(self.settings.body_bytes_max))?;
        let body = self.read(request.into_body()).await?;
        let judged = self.judge(body, media).await?;
        let items = judged.admitted.len() + judged.rejected;
        count(&self.counters.items, items);
        count(&self.counters.rejected, judged.rejected);
        if judged.admitted.is_empty() && judged.rejected > 0 {
            return Err(nothing_accepted(judged));
        }
        let good = judged.admitted.len();
        let appended = if good == 0 {
            Appended {
                accepted: 0,
                duplicates: 0,
            }
        } else {
            self.buffer.append(judged.admitted).await.map_err(|error| {
                count(&self.counters.refused, good);
                problem_of(&error)
            })?
        };
        self.counters
            .accepted
            .fetch_add(appended.accepted.into(), Ordering::Relaxed);
        self.counters
            .duplicates
            .fetch_add(appended.duplicates.into(), Ordering::Relaxed);
        // The latest is the last, whatever a clock that has been set since had shown.
        self.counters
            .last_post_ms
            .store(wall_millis(), Ordering::Relaxed);
        Ok(Verdict {
            accepted: appended.accepted,
            duplicates: appended.duplicates,
            rejected: judged.rejected,
            errors: judged.errors,
        })
    }

    fn announced_bytes(&self, headers: &HeaderMap) -> Result<Option<usize>, Problem> {
        let length = headers
            .get(header::CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok());
        let length = length.and_then(|text| text.parse().ok());
        match length {
            Some(bytes) if bytes > self.settings.body_bytes_max => Err(self.too_large(Some(bytes))),
            other => Ok(other),
        }
    }

    /// Room for the body of one request.
    fn enter(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Problem> {
        let bytes = bytes.clamp(REQUEST_BYTES_MIN, self.settings.in_flight_bytes_max);
        let permits = u32::try_from(bytes).unwrap_or(u32::MAX);
        Arc::clone(&self.in_flight)
            .try_acquire_many_owned(permits)
            .map_err(|_: TryAcquireError| {
                let limit = self.settings.in_flight_bytes_max;
                Problem::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", "Overloaded")
                    .detail(format!(
                        "requests in flight take up the limit of {limit} bytes; try again"
                    ))
                    .with("limit_bytes", limit)
                    .retry_after_s(RETRY_SOON_S)
            })
    }

    async fn read(&self, body: Body) -> Result<Bytes, Problem> {
        match Limited::new(body, self.settings.body_bytes_max)
            .collect()
            .await
        {
            Ok(body) => Ok(body.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => Err(self.too_large(None)),
            Err(error) => Err(Problem::new(
                StatusCode::BAD_REQUEST,
                "body-unreadable",
                "Body unreadable",
            )
            .detail(format!("body did not arrive: {error}"))),
        }
    }

    fn too_large(&self, bytes: Option<usize>) -> Problem {
        let limit = self.settings.body_bytes_max;
        let size = bytes.map_or_else(|| "more bytes".to_owned(), |bytes| format!("{bytes} bytes"));
        Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body-too-large",
            "Body too large",
        )
        .detail(format!(
            "body has {size}, the limit is {limit} bytes; send fewer at once"
        ))
        .with("limit_bytes", limit)
    }

    async fn judge(&self, body: Bytes, media: Media) -> Result<Judged, Problem> {
        let rules = Arc::clone(&self.rules);
        let items_max = self.settings.items_max;
        let now_ms = self.clock.read().present_ms(self.rules.future_ms_max);
        if body.len() <= INLINE_BODY_BYTES_MAX {
            return judge_body(&body, media, items_max, &rules, now_ms);
        }
        tokio::task::spawn_blocking(move || judge_body(&body, media, items_max, &rules, now_ms))
            .await
            .unwrap_or_else(|_| {
                Err(
                    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", "Stopping")
                        .detail("the agent stops")
                        .retry_after_s(RETRY_SOON_S),
                )
            })
    }
}

async fn take(State(door): State<Door>, request: Request) -> Response {
    door.counters.requests.fetch_add(1, Ordering::Relaxed);
    match door.post(request).await {
        Ok(verdict) => axum::Json(verdict).into_response(),
        Err(problem) => problem.into_response(),
    }
}

fn media_of(headers: &HeaderMap) -> Result<Media, Problem> {
    let named = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let essence = named.map(|text| text.split(';').next().unwrap_or_default().trim());
    match essence {
        Some(essence) if essence.eq_ignore_ascii_case("application/json") => Ok(Media::Json),
        Some(essence) if essence.eq_ignore_ascii_case("application/x-ndjson") => Ok(Media::Ndjson),
        other => Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "media-type",
            "Unsupported media type",
        )
        .detail(format!(
            "content-type is {}, allowed are application/json and application/x-ndjson",
            other.map_or_else(|| "missing".to_owned(), |text| format!("{text:?}")),
        ))),
    }
}

fn judge_body(
    body: &[u8],
    media: Media,
    items_max: usize,
    rules: &Rules,
    now_ms: i64,
) -> Result<Judged, Problem> {
    let text = std::str::from_utf8(body).map_err(|error| {
        not_json(format!(
            "body is not UTF-8 from byte {} on",
            error.valid_up_to()
        ))
    })?;
    let items = match media {
        Media::Json => split::json(text, items_max),
        Media::Ndjson => split::lines(text, items_max),
    };
    let items = items.map_err(|error| match error {
        SplitError::TooMany(limit) => Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too-many-items",
            "Too many items",
        )
        .detail(format!(
            "body has more than {limit} items; send fewer at once"
        ))
        .with("limit_items", limit),
        other => not_json(other.to_string()),
    })?;
    let mut judge = Judge::new(rules, now_ms);
    let mut judged = Judged {
        admitted: Vec::with_capacity(items.len()),
        ..Judged::default()
    };
    for (index, item) in items.into_iter().enumerate() {
        match judge.admit(index, item) {
            Ok(admitted) => judged.admitted.push(admitted),
            Err(error) => {
                judged.rejected += 1;
                if judged.errors.len() < ERRORS_SHOWN_MAX {
                    judged.errors.push(error);
                }
            }
        }
    }
    Ok(judged)
}

fn count(counter: &AtomicU64, more: usize) {
    counter.fetch_add(more as u64, Ordering::Relaxed);
}

#[cfg(test)]
mod tests;
