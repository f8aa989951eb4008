//! The operator's pages: `/metrics`, `/healthz`, `/readyz`.
//!
//! `healthz` says whether a restart would help (503 when any condition is dead), `readyz` whether
//! work should be sent here (200 only when every condition is ok).

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use serde::Serialize;

use crate::problem::Problem;

/// The content type of the OpenMetrics text format, version 1.0.0.
pub const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// How one part of the program fares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", content = "reason", rename_all = "snake_case")]
pub enum Condition {
    /// It works.
    Ok,
    /// It cannot serve now and heals by itself or from outside; the reason is shown.
    NotReady(String),
    /// It will not heal: the process must be restarted; the reason is shown.
    Dead(String),
}

/// Conditions by the name of the part.
pub type Board = BTreeMap<&'static str, Condition>;

/// What both pages answer when not all is well.
const UNAVAILABLE: StatusCode = StatusCode::SERVICE_UNAVAILABLE;

/// The board of conditions. Clones show and change the same board.
///
/// A program with an empty board is alive but not ready: set every condition to `NotReady` before
/// serving, and to `Ok` as it comes up.
#[derive(Debug, Clone, Default)]
pub struct Health {
    conditions: Arc<RwLock<Board>>,
}

impl Health {
    /// An empty board.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// States the condition of the part `name`. A change of state is logged.
    pub fn set(&self, name: &'static str, condition: Condition) {
        let mut board = self
            .conditions
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let before = board.insert(name, condition.clone());
        drop(board);
        if before.as_ref() == Some(&condition) {
            return;
        }
        match condition {
            Condition::Ok => tracing::info!(condition = name, "ok"),
            Condition::NotReady(reason) => tracing::warn!(condition = name, reason, "not ready"),
            Condition::Dead(reason) => tracing::error!(condition = name, reason, "dead"),
        }
    }

    /// All conditions by name.
    #[must_use]
    pub fn conditions(&self) -> Board {
        self.conditions
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Whether nothing is dead.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        alive(&self.conditions())
    }

    /// Whether there are conditions and all of them are ok.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        ready(&self.conditions())
    }
}

fn alive(board: &Board) -> bool {
    !board
        .values()
        .any(|condition| matches!(condition, Condition::Dead(_)))
}

fn ready(board: &Board) -> bool {
    !board.is_empty() && board.values().all(|condition| *condition == Condition::Ok)
}

/// `GET /metrics`, `/healthz` and `/readyz`, to be merged into a program's router.
pub fn router(registry: Arc<Registry>, health: Health) -> Router {
    let pages = Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz));
    pages
        .with_state(health)
        .route("/metrics", get(metrics).with_state(registry))
}

async fn metrics(State(registry): State<Arc<Registry>>) -> Response {
    let mut text = String::new();
    match encode(&mut text, &registry) {
        Ok(()) => ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Err(error) => Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "metrics-unavailable",
            "Metrics cannot be shown",
        )
        .detail(error.to_string())
        .into_response(),
    }
}

async fn healthz(State(health): State<Health>) -> Response {
    let board = health.conditions();
    if alive(&board) {
        page(StatusCode::OK, "alive", &board)
    } else {
        page(UNAVAILABLE, "dead", &board)
    }
}

async fn readyz(State(health): State<Health>) -> Response {
    let board = health.conditions();
    if ready(&board) {
        page(StatusCode::OK, "ready", &board)
    } else {
        page(UNAVAILABLE, "not_ready", &board)
    }
}

fn page(code: StatusCode, status: &str, board: &Board) -> Response {
    let body = serde_json::json!({ "status": status, "conditions": board });
    (
        code,
        [(header::CACHE_CONTROL, "no-store")],
        axum::Json(body),
    )
        .into_response()
}
#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;

    use super::*;
    use crate::serve::testing::get;

    fn pages(health: &Health) -> Router {
        let mut registry = Registry::default();
        let accepted = Counter::<u64>::default();
        accepted.inc_by(7);
        registry.register(
            "verst_agent_passages_accepted",
            "Passages accepted",
            accepted,
        );
        router(Arc::new(registry), health.clone())
    }

    #[tokio::test]
    async fn metrics_are_openmetrics_text_with_its_content_type_and_end() {
        let answer = get(pages(&Health::new()), "/metrics").await;
        assert_eq!(answer.status, 200);
        assert!(
            answer
                .head
                .contains(&format!("content-type: {OPENMETRICS}")),
            "{}",
            answer.head
        );
        assert!(
            answer
                .body
                .contains("verst_agent_passages_accepted_total 7\n"),
            "{}",
            answer.body
        );
        assert!(answer.body.ends_with("# EOF\n"), "{}", answer.body);
    }

    #[tokio::test]
    async fn health_and_readiness_follow_the_board() {
        let ok = |name| (name, Condition::Ok);
        let late = |name| (name, Condition::NotReady("no broker".to_owned()));
        let dead = |name| (name, Condition::Dead("disk gone".to_owned()));
        let table = [
            (vec![], 200, 503),
            (vec![ok("store"), ok("uplink")], 200, 200),
            (vec![ok("store"), late("uplink")], 200, 503),
            (vec![dead("store"), ok("uplink")], 503, 503),
            (vec![dead("store"), ok("store")], 200, 200),
        ];
        for (conditions, healthz, readyz) in table {
            let health = Health::new();
            conditions
                .iter()
                .for_each(|(name, condition)| health.set(name, condition.clone()));
            assert_eq!(
                get(pages(&health), "/healthz").await.status,
                healthz,
                "{conditions:?}"
            );
            assert_eq!(
                get(pages(&health), "/readyz").await.status,
                readyz,
                "{conditions:?}"
            );
        }
    }

    #[tokio::test]
    async fn the_page_names_each_condition_and_its_reason() {
        let health = Health::new();
        health.set("uplink", Condition::NotReady("no broker".to_owned()));
        health.set("store", Condition::Ok);
        let answer = get(pages(&health), "/readyz").await;
        let expected = serde_json::json!({
            "status": "not_ready",
            "conditions": {
                "store": { "state": "ok" },
                "uplink": { "state": "not_ready", "reason": "no broker" },
            },
        });
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&answer.body).unwrap(),
            expected
        );
    }
}
