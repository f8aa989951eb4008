//! What is refused and what fails, and that it is said in problem documents.

use aggregator::config::ApiConfig;
use reqwest::Method;
use testbed::postgres::{Cluster, Options};

use crate::centre::{Answer, Centre};
use crate::traffic::{MIDNIGHT_MS, passage, store, unit};

#[track_caller]
fn is_problem(answer: &Answer, status: u16, slug: &str) {
    assert_eq!(answer.status, status, "{}", answer.text);
    assert_eq!(
        answer.header("content-type"),
        Some("application/problem+json")
    );
    let document = answer.json();
    assert_eq!(
        document["type"],
        format!("https://verst.example/problems/{slug}")
    );
    assert_eq!(document["status"], status);
    assert!(
        document["title"]
            .as_str()
            .is_some_and(|title| !title.is_empty())
    );
    assert!(
        document["detail"]
            .as_str()
            .is_some_and(|detail| !detail.is_empty())
    );
}

#[tokio::test]
async fn every_wrong_question_is_answered_with_its_problem() {
    let centre = Centre::start().await;
    unit(&centre.database, "KV1").await;
    let long = "x".repeat(65);
    let named = |units: usize| {
        (0..units)
            .map(|n| format!("U{n}"))
            .collect::<Vec<_>>()
            .join(",")
    };
    let (many, some) = (named(1_001), named(200));
    let cases = [
        (
            "/kvfv/KV1/avg-speed?from=yesterday",
            400,
            "invalid-parameter",
        ),
        (
            "/kvfv/KV1/avg-speed?from=2025-04-05T10:00:00",
            400,
            "invalid-parameter",
        ),
        (
            "/kvfv/KV1/avg-speed?to=2025-04-31T10:00:00Z",
            400,
            "invalid-parameter",
        ),
        ("/kvfv/KV1/avg-speed?interval=15m", 400, "invalid-parameter"),
        ("/kvfv/KV1/avg-speed?intervall=5m", 400, "invalid-parameter"),
        (
            "/kvfv/KV1/avg-speed?interval=5m&interval=1h",
            400,
            "invalid-parameter",
        ),
        ("/kvfv/KV1/avg-speed?from=%FF", 400, "invalid-parameter"),
        ("/kvfv/%FF/avg-speed", 400, "invalid-parameter"),
        ("/kvfv/K%20V/avg-speed", 400, "invalid-parameter"),
        (&format!("/kvfv/{long}"), 400, "invalid-parameter"),
        ("/kvfv?limit=0", 400, "invalid-parameter"),
        ("/kvfv?limit=1001", 400, "invalid-parameter"),
        ("/kvfv?limit=ten", 400, "invalid-parameter"),
        ("/kvfv?after=a%2Fb", 400, "invalid-parameter"),
        ("/kvfv/KV2", 404, "unknown-unit"),
        ("/kvfv/KV2/avg-speed", 404, "unknown-unit"),
        ("/kvfv/kv1/avg-speed", 404, "unknown-unit"),
        ("/kvfv/KV1/speed", 404, "no-such-page"),
        ("/nothing", 404, "no-such-page"),
        (
            "/kvfv/KV1/avg-speed?from=2025-04-05T10:00:00Z&to=2025-04-05T10:00:00Z",
            422,
            "empty-range",
        ),
        (
            "/kvfv/KV1/avg-speed?from=2025-04-05T10:00:01Z&to=2025-04-05T10:00:00Z",
            422,
            "empty-range",
        ),
        (
            "/kvfv/KV1/avg-speed?from=2024-04-05T10:00:00Z&to=2025-04-05T10:00:00Z",
            422,
            "range-too-long",
        ),
        (
            "/kvfv/KV1/avg-speed?from=0000-01-01T00:00:00Z&interval=24h",
            422,
            "range-too-long",
        ),
        ("/avg-speed", 400, "invalid-parameter"),
        ("/avg-speed?kvfv=", 400, "invalid-parameter"),
        ("/avg-speed?kvfv=KV1,,KV2", 400, "invalid-parameter"),
        ("/avg-speed?kvfv=KV1&kvfv=KV2", 400, "invalid-parameter"),
        ("/avg-speed?kvfv=KV1&interval=15m", 400, "invalid-parameter"),
        (&format!("/avg-speed?kvfv={many}"), 422, "too-many-units"),
        (
            &format!("/avg-speed?kvfv={some}&from=2025-04-01T00:00:00Z&to=2025-04-03T00:00:00Z"),
            422,
            "range-too-long",
        ),
        ("/avg-speed?kvfv=KV2,KV3", 404, "unknown-unit"),
    ];
    for (path, status, slug) in cases {
        is_problem(&centre.get(path).await, status, slug);
    }
    let long = centre.get(cases[21].0).await.json();
    assert_eq!(
        (&long["limit"], &long["windows"]),
        (&10_000.into(), &105_120.into())
    );
    let limit = "/kvfv/KV1/avg-speed?from=2025-01-01T00:00:00Z&to=2025-02-04T17:20:00Z";
    assert_eq!(
        centre.get(limit).await.json()["windows"]
            .as_array()
            .unwrap()
            .len(),
        10_000
    );
    let over = "/kvfv/KV1/avg-speed?from=2025-01-01T00:00:00Z&to=2025-02-04T17:20:00.001Z";
    is_problem(&centre.get(over).await, 422, "range-too-long");
    let ends = "/kvfv/KV1/avg-speed?from=9999-12-30T20:00:00Z&to=9999-12-30T21:00:00Z";
    assert_eq!(centre.get(ends).await.status, 200);
    let begins = "/kvfv/KV1/avg-speed?from=0000-01-01T00:00:00Z&to=0000-01-01T01:00:00Z";
    assert_eq!(centre.get(begins).await.status, 200);
}

#[tokio::test]
async fn text_from_outside_never_becomes_sql() {
    let centre = Centre::start().await;
    unit(&centre.database, "KV1").await;
    store(
        &centre.database,
        "KV1",
        &[passage(MIDNIGHT_MS, Some(5_000))],
    )
    .await;
    let attempts = [
        "' OR '1'='1",
        "KV1'; DROP TABLE device; --",
        "KV1\" OR 1=1",
        "$1",
        "\\'",
        "%00",
    ];
    for attempt in attempts {
        let escaped: String = attempt.bytes().map(|byte| format!("%{byte:02X}")).collect();
        for path in [
            format!("/kvfv/{escaped}"),
            format!("/kvfv/{escaped}/avg-speed"),
            format!("/kvfv/KV1/avg-speed?from={escaped}"),
            format!("/kvfv/KV1/avg-speed?interval={escaped}"),
            format!("/avg-speed?kvfv=KV1,{escaped}"),
            format!("/kvfv?after={escaped}"),
            format!("/kvfv?limit={escaped}"),
        ] {
            is_problem(&centre.get(&path).await, 400, "invalid-parameter");
        }
    }
    assert_eq!(
        centre
            .value("SELECT count(*) FROM v_speed_5m")
            .await
            .as_deref(),
        Some("1")
    );
}

#[tokio::test]
async fn the_api_only_reads() {
    let centre = Centre::start().await;
    unit(&centre.database, "KV1").await;
    for method in [Method::POST, Method::PUT, Method::DELETE, Method::PATCH] {
        let answer = centre.ask(method, "/kvfv/KV1", &[]).await;
        is_problem(&answer, 405, "method-not-allowed");
        assert_eq!(answer.header("allow"), Some("GET,HEAD"));
    }
    let head = centre.ask(Method::HEAD, "/kvfv/KV1", &[]).await;
    assert_eq!((head.status, head.text.as_str()), (200, ""));
    let options = centre.ask(Method::OPTIONS, "/kvfv/KV1", &[]).await;
    assert_eq!(
        (options.status, options.header("allow")),
        (200, Some("GET,HEAD"))
    );
    assert_eq!(centre.get("/").await.status, 200);
}

#[tokio::test]
async fn requests_are_counted_by_page_and_status() {
    let centre = Centre::start().await;
    unit(&centre.database, "KV1").await;
    for path in ["/kvfv/KV1", "/kvfv/KV2", "/kvfv/KV3", "/a", "/b"] {
        centre.get(path).await;
    }
    let metrics = centre.get("/metrics").await.text;
    for line in [
        "api_requests_total{page=\"/kvfv/{kvfv_id}\",status=\"200\"} 1",
        "api_requests_total{page=\"/kvfv/{kvfv_id}\",status=\"404\"} 2",
        "api_requests_total{page=\"other\",status=\"404\"} 2",
        "api_seconds_count{page=\"/kvfv/{kvfv_id}\"} 3",
    ] {
        assert!(
            metrics.lines().any(|shown| shown == line),
            "{line} is not in {metrics}"
        );
    }
}

#[tokio::test]
async fn only_listed_origins_may_read_in_a_browser() {
    let url = Cluster::shared().fresh_database().unwrap();
    let dash = "https://dash.example";
    let config = ApiConfig {
        allow_origins: vec![dash.to_owned()],
        ..ApiConfig::default()
    };
    let centre = Centre::over(url, &config).await;
    let allowed = async |method: Method, origin: &str| {
        let headers = [("origin", origin), ("access-control-request-method", "GET")];
        let answer = centre.ask(method, "/kvfv", &headers).await;
        assert_eq!(answer.status, 200);
        answer
            .header("access-control-allow-origin")
            .map(ToOwned::to_owned)
    };
    for method in [Method::GET, Method::OPTIONS] {
        assert_eq!(allowed(method.clone(), dash).await.as_deref(), Some(dash));
        assert_eq!(allowed(method, "https://evil.example").await, None);
    }
}

#[tokio::test]
async fn a_database_that_is_away_is_said_so_and_found_again() {
    let mut cluster = Cluster::start(Options::fast()).unwrap();
    let url = cluster.fresh_database().unwrap();
    let centre = Centre::over(url, &ApiConfig::default()).await;
    unit(&centre.database, "KV1").await;
    assert_eq!(centre.get("/kvfv/KV1").await.status, 200);
    cluster.stop_immediate();
    for path in [
        "/kvfv",
        "/kvfv/KV1",
        "/kvfv/KV1/avg-speed",
        "/avg-speed?kvfv=KV1",
    ] {
        let answer = centre.get(path).await;
        is_problem(&answer, 503, "database-away");
        assert_eq!(answer.header("retry-after"), Some("5"));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
    }
    cluster.restart().unwrap();
    assert_eq!(centre.get("/kvfv/KV1").await.status, 200);
}

#[tokio::test]
async fn a_restart_between_two_questions_is_not_noticed() {
    let mut cluster = Cluster::start(Options::fast()).unwrap();
    let url = cluster.fresh_database().unwrap();
    let centre = Centre::over(url, &ApiConfig::default()).await;
    unit(&centre.database, "KV1").await;
    assert_eq!(centre.get("/kvfv/KV1/avg-speed").await.status, 200);
    cluster.stop_immediate();
    cluster.restart().unwrap();
    assert_eq!(centre.get("/kvfv/KV1/avg-speed").await.status, 200);
}

#[tokio::test]
async fn a_slow_statement_is_ended_and_a_full_pool_is_said_so() {
    let centre = Centre::start().await;
    unit(&centre.database, "KV1").await;
    let lock = "BEGIN; LOCK TABLE speed_stats_24h IN ACCESS EXCLUSIVE MODE";
    centre.database.batch_execute(lock).await.unwrap();
    // Two connections wait for the lock until the statement's limit, the third request for them.
    let ask = || centre.get("/kvfv/KV1/avg-speed");
    let (one, two, three) = tokio::join!(ask(), ask(), ask());
    let mut answers = [one, two, three];
    answers.sort_by_key(|answer| answer.header("retry-after").map(ToOwned::to_owned));
    let [busy, slow, slow_too] = &answers;
    is_problem(busy, 503, "overloaded");
    assert_eq!(busy.header("retry-after"), Some("1"));
    for answer in [slow, slow_too] {
        is_problem(answer, 503, "database-slow");
        assert_eq!(answer.header("retry-after"), Some("5"));
    }
    centre.database.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(centre.get("/kvfv/KV1/avg-speed").await.status, 200);
}
