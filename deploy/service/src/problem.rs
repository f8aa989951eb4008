//! Errors over HTTP as RFC 9457 problem documents.
//!
//! The type URI is a documented name (`README.md` lists them), not a page to fetch.

use std::fmt;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value};

/// Under this every problem type is named.
pub const TYPE_BASE: &str = "https://verst.example/problems/";

/// A problem document. Build it, return it from a handler.
///
/// ```
/// use axum::http::StatusCode;
/// use service::problem::Problem;
/// let problem = Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", "Body too large")
///     .detail("body has 9 MiB, the limit is 8 MiB; send fewer passages at once")
///     .with("limit_bytes", 8_388_608);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    status: StatusCode,
    slug: &'static str,
    title: &'static str,
    detail: Option<String>,
    members: Map<String, Value>,
    retry_after_s: Option<u32>,
}

impl Problem {
    /// A problem of the type `slug`, whose short title never varies.
    #[must_use]
    pub fn new(status: StatusCode, slug: &'static str, title: &'static str) -> Self {
        Self {
            status,
            slug,
            title,
            detail: None,
            members: Map::new(),
            retry_after_s: None,
        }
    }

    /// What happened this time: object, value, limit, next step.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// A further member of the document, for programs. The standard members cannot be replaced.
    #[must_use]
    pub fn with(mut self, member: &str, value: impl Into<Value>) -> Self {
        self.members.insert(member.to_owned(), value.into());
        self
    }

    /// When to come back, as the `Retry-After` header; for 429 and 503.
    #[must_use]
    pub fn retry_after_s(mut self, seconds: u32) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    /// The HTTP status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The document.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut document = self.members.clone();
        document.insert(
            "type".to_owned(),
            format!("{TYPE_BASE}{}", self.slug).into(),
        );
        document.insert("title".to_owned(), self.title.into());
        document.insert("status".to_owned(), self.status.as_u16().into());
        match &self.detail {
            Some(detail) => document.insert("detail".to_owned(), detail.as_str().into()),
            None => document.remove("detail"),
        };
        Value::Object(document)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status.as_u16(), self.title)?;
        self.detail
            .as_ref()
            .map_or(Ok(()), |detail| write!(f, ": {detail}"))
    }
}

impl std::error::Error for Problem {}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let kind = [(header::CONTENT_TYPE, "application/problem+json")];
        let mut response = (self.status, kind, self.to_json().to_string()).into_response();
        if let Some(seconds) = self.retry_after_s {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem() -> Problem {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "store-full", "Store full")
    }

    #[tokio::test]
    async fn the_response_is_a_problem_document() {
        let problem = problem()
            .detail("no space")
            .with("free_bytes", 0)
            .retry_after_s(5);
        let response = problem.into_response();
        assert_eq!(response.status(), 503);
        assert_eq!(
            response.headers()["content-type"],
            "application/problem+json"
        );
        assert_eq!(response.headers()["retry-after"], "5");
        let body = axum::body::to_bytes(response.into_body(), 4096)
            .await
            .unwrap();
        let expected = serde_json::json!({
            "type": "https://verst.example/problems/store-full",
            "title": "Store full",
            "status": 503,
            "detail": "no space",
            "free_bytes": 0,
        });
        assert_eq!(serde_json::from_slice::<Value>(&body).unwrap(), expected);
    }

    #[test]
    fn members_cannot_replace_the_standard_ones() {
        let document = problem()
            .with("status", 200)
            .with("detail", "all is well")
            .to_json();
        assert_eq!(document["status"], 503);
        assert_eq!(document.get("detail"), None);
    }

    #[test]
    fn as_an_error_it_says_status_title_and_detail() {
        assert_eq!(
            problem().detail("no space").to_string(),
            "503 Store full: no space"
        );
    }
}
