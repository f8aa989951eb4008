//! Hours late, after the windows were written.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use testbed::clock;
use testbed::feed::{self, Line, Pace};
use testbed::recompute::Ledger;
use testbed::system::{Options, System};

use crate::support::{HOUR_MS, SETTLED_WITHIN, alone, lines, names};

const UNIT: &str = "late-1";
/// Older than the agent's largest camera delay of 24 hours, so that windows turn final.
const AGE_MS: i64 = 30 * HOUR_MS;
/// The unit states its frontier with every heartbeat.
const FINAL_WITHIN: Duration = Duration::from_secs(90);
const LOOK: Duration = Duration::from_millis(250);

/// The question about the time of the test, of the unit and of a group of which it is all.
fn questions() -> [String; 2] {
    let now_ms = clock::unix_ms();
    let at = |ms: i64| jiff::Timestamp::from_millisecond(ms - ms % 300_000).expect("a time");
    let (from, to) = (at(now_ms - AGE_MS - HOUR_MS), at(now_ms - 25 * HOUR_MS));
    let range = format!("from={from}&to={to}&interval=5m");
    [
        format!("kvfv/{UNIT}/avg-speed?{range}"),
        format!("avg-speed?kvfv={UNIT}&{range}"),
    ]
}

async fn ask(system: &System, path: &str) -> Value {
    let response = system
        .http()
        .get(system.api(path))
        .send()
        .await
        .expect("an answer");
    assert!(response.status().is_success(), "{response:?}");
    response.json().await.expect("JSON")
}

/// State, revision and vehicles of each window that counted something, by its start.
fn windows(answer: &Value) -> BTreeMap<String, (String, i64, i64)> {
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let number = |value: &Value| value.as_i64().expect("a number");
    let windows = answer["windows"].as_array().expect("windows").iter();
    windows
        .filter(|window| number(&window["vehicles"]) > 0)
        .map(|window| {
            let seen = (
                text(&window["state"]),
                number(&window["revision"]),
                number(&window["vehicles"]),
            );
            (text(&window["start"]), seen)
        })
        .collect()
}

async fn post(system: &System, ledger: &mut Ledger, lines: &[Line]) {
    let camera = system.agents[UNIT].camera();
    ledger.merge(
        feed::post(UNIT, lines, camera, Pace::FULL)
            .await
            .expect("accepted"),
    );
    system
        .settled(ledger.passages(), SETTLED_WITHIN)
        .await
        .expect("all counted and stored");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn passages_five_hours_late_correct_windows_that_were_final_and_say_so() {
    let _alone = alone().await;
    let system = System::start(Options {
        agents: names(&[UNIT]),
        ..Options::default()
    })
    .await
    .expect("a running system");
    let mut ledger = Ledger::new();
    // Half an hour of traffic, of which every fifth passage stays behind in the camera.
    let all = lines(UNIT, 3_600, AGE_MS, 9);
    let is_late = |place: &usize| place % 5 == 4;
    let on_time: Vec<Line> = (0..all.len())
        .filter(|place| !is_late(place))
        .map(|place| all[place].clone())
        .collect();
    let late: Vec<Line> = (0..all.len())
        .filter(is_late)
        .map(|place| all[place].clone())
        .collect();
    post(&system, &mut ledger, &on_time).await;
    // Something of five hours later, so that the unit is known to have gone on.
    let five_hours_later = lines(UNIT, 500, AGE_MS - 5 * HOUR_MS, 10);
    post(&system, &mut ledger, &five_hours_later).await;

    let deadline = tokio::time::Instant::now() + FINAL_WITHIN;
    let [question, of_group] = questions();
    let then = loop {
        let seen = ask(&system, &question).await;
        if seen["state"] != "partial" {
            break seen;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "never final: {seen:?}"
        );
        tokio::time::sleep(LOOK).await;
    };
    let group_then = ask(&system, &of_group).await;
    let then_ms = clock::unix_ms();
    post(&system, &mut ledger, &late).await;
    let now = ask(&system, &question).await;
    let (before, after) = (windows(&then), windows(&now));
    let mut corrected = 0;
    for (start, (state, revision, vehicles)) in &after {
        let (state_before, revision_before, vehicles_before) = &before[start];
        if vehicles == vehicles_before {
            assert_eq!(
                (state, revision),
                (state_before, revision_before),
                "{start}"
            );
        } else {
            assert!(
                vehicles > vehicles_before && revision > revision_before,
                "{start}"
            );
            assert_eq!(state, "revised", "{start}");
            corrected += 1;
        }
    }
    assert_eq!(before.len(), after.len());
    assert!(
        corrected >= 5,
        "half an hour of windows is corrected: {after:?}"
    );
    let as_of = jiff::Timestamp::from_millisecond(then_ms).expect("a time");
    for (question, then) in [(question, then), (of_group, group_then)] {
        let mut past = ask(&system, &format!("{question}&as_of={as_of}")).await;
        assert_eq!(past["as_of"], as_of.to_string());
        past.as_object_mut().expect("an object").remove("as_of");
        assert_eq!(past, then, "the past is answered as it was");
    }
    let verdict = system.judge(&ledger).await.expect("compared");
    assert!(verdict.exact(), "{verdict}");
    system.stop().expect("an orderly end");
}
