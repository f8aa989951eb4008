//! The REST API against the recomputation, and what it says to wrong questions.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;
use testbed::clock;
use testbed::feed::{self, Pace};
use testbed::recompute::{Fact, Interval, Ledger, Stats};
use testbed::system::{Options, System};

use crate::support::{HOUR_MS, SETTLED_WITHIN, alone, lines, names};

const UNITS: [&str; 2] = ["rest-1", "rest-2"];

fn time(ms: i64) -> String {
    Timestamp::from_millisecond(ms).expect("a time").to_string()
}

/// km/h with two digits as whole 0.01 km/h.
#[expect(clippy::cast_possible_truncation, reason = "a speed")]
fn centi(value: &Value) -> Option<i64> {
    value.as_f64().map(|kmh| (kmh * 100.0).round() as i64)
}

async fn ask(system: &System, path: &str) -> (u16, String, Value) {
    let response = system
        .http()
        .get(system.api(path))
        .send()
        .await
        .expect("an answer");
    let status = response.status().as_u16();
    let kind = response
        .headers()
        .get("content-type")
        .map(|value| value.to_str().expect("text"));
    let kind = kind.unwrap_or_default().to_owned();
    (status, kind, response.json().await.expect("JSON"))
}

fn assert_speeds(answer: &Value, stats: &Stats, what: &str) {
    let percentile = |percent| stats.percentile_ckmh(percent).map(i64::from);
    let expected = [
        ("avg_speed", stats.mean_ckmh()),
        ("space_mean_speed", stats.harmonic_mean_ckmh()),
        ("p50", percentile(50)),
        ("p85", percentile(85)),
    ];
    for (field, value) in expected {
        assert_eq!(centi(&answer[field]), value, "{field} of {what}: {answer}");
    }
    assert_eq!(
        answer["vehicles"].as_i64(),
        Some(stats.n),
        "{what}: {answer}"
    );
}

/// The answer of a page for one length, whole and window by window.
async fn check(system: &System, facts: &[Fact], page: &str, interval: Interval, now_ms: i64) {
    let from_ms = (now_ms - 8 * HOUR_MS).div_euclid(interval.ms()) * interval.ms();
    let to_ms = (now_ms + HOUR_MS).div_euclid(interval.ms()) * interval.ms() + interval.ms();
    let name = interval.name();
    let (from, to) = (time(from_ms), time(to_ms));
    let path = format!("{page}from={from}&to={to}&interval={name}");
    let (status, _, answer) = ask(system, &path).await;
    assert_eq!(status, 200, "{answer}");
    let mut whole = Stats::default();
    let mut windows: BTreeMap<i64, Stats> = BTreeMap::new();
    for fact in facts {
        whole.add(fact);
        let start_ms = fact.event_ms.div_euclid(interval.ms()) * interval.ms();
        windows.entry(start_ms).or_default().add(fact);
    }
    assert_speeds(&answer, &whole, "the whole range");
    let listed = answer["windows"].as_array().expect("windows");
    let counted = listed
        .iter()
        .filter(|window| window["vehicles"].as_i64() != Some(0));
    assert_eq!(counted.clone().count(), windows.len(), "{answer}");
    for (window, (start_ms, stats)) in counted.zip(&windows) {
        assert_eq!(window["start"], Value::from(time(*start_ms)));
        assert_eq!(window["end"], Value::from(time(start_ms + interval.ms())));
        assert_speeds(window, stats, &time(*start_ms));
        assert!(window["revision"].as_i64() > Some(0), "{window}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn answers_equal_the_recomputation_and_wrong_questions_get_problem_documents() {
    let _alone = alone().await;
    let system = System::start(Options {
        agents: names(&UNITS),
        ..Options::default()
    })
    .await
    .expect("a running system");
    let now_ms = clock::unix_ms();
    let mut ledger = Ledger::new();
    let mut posted = BTreeMap::new();
    for (seed, unit) in (20..).zip(UNITS) {
        let lines = lines(unit, 3_000, 6 * HOUR_MS, seed);
        let camera = system.agents[unit].camera();
        ledger.merge(
            feed::post(unit, &lines, camera, Pace::FULL)
                .await
                .expect("accepted"),
        );
        let facts: Vec<Fact> = lines.into_iter().map(|line| line.fact).collect();
        posted.insert(unit, facts);
    }
    system
        .settled(ledger.passages(), SETTLED_WITHIN)
        .await
        .expect("all counted and stored");
    for (unit, facts) in &posted {
        for interval in Interval::ALL {
            let page = format!("kvfv/{unit}/avg-speed?");
            check(&system, facts, &page, interval, now_ms).await;
        }
    }
    let all: Vec<Fact> = posted.values().flatten().cloned().collect();
    let page = format!("avg-speed?kvfv={}&", UNITS.join(","));
    for interval in Interval::ALL {
        check(&system, &all, &page, interval, now_ms).await;
    }
    let (status, _, units) = ask(&system, "kvfv").await;
    assert_eq!(status, 200);
    UNITS
        .iter()
        .for_each(|unit| assert!(units.to_string().contains(unit), "{units}"));
    assert_eq!(ask(&system, "kvfv/rest-1").await.0, 200);
    assert_eq!(ask(&system, "openapi.json").await.0, 200);

    let (from, to) = (time(now_ms - HOUR_MS), time(now_ms));
    let long_ago = time(now_ms - 30 * 365 * 24 * HOUR_MS);
    let questions = [
        (
            404,
            format!("kvfv/nobody/avg-speed?from={from}&to={to}&interval=5m"),
        ),
        (404, "kvfv/nobody".to_owned()),
        (404, "no/such/page".to_owned()),
        (
            400,
            format!("kvfv/rest-1/avg-speed?from=yesterday&to={to}&interval=5m"),
        ),
        (
            400,
            format!("kvfv/rest-1/avg-speed?from=2025-04-05T10:00:00&to={to}&interval=5m"),
        ),
        (
            400,
            format!("kvfv/rest-1/avg-speed?from={from}&to={to}&interval=7m"),
        ),
        (
            422,
            format!("kvfv/rest-1/avg-speed?from={long_ago}&to={to}&interval=5m"),
        ),
        (
            422,
            format!("kvfv/rest-1/avg-speed?from={to}&to={from}&interval=5m"),
        ),
    ];
    for (expected, path) in questions {
        let (status, kind, problem) = ask(&system, &path).await;
        assert_eq!(status, expected, "{path}: {problem}");
        assert_eq!(kind, "application/problem+json", "{path}");
        assert_eq!(
            problem["status"].as_u64(),
            Some(u64::from(expected)),
            "{problem}"
        );
        let type_uri = problem["type"].as_str().expect("a type");
        assert!(
            type_uri.starts_with("https://verst.example/problems/"),
            "{problem}"
        );
        assert!(problem["title"].is_string(), "{problem}");
    }
    let verdict = system.judge(&ledger).await.expect("compared");
    assert!(verdict.exact(), "{verdict}");
    system.stop().expect("an orderly end");
}
