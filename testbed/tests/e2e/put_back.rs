//! A database that is put back in time: what units still hold makes it whole, the rest stands in the
//! ledger.

use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use testbed::feed::{self, Line};
use testbed::recompute::Ledger;
use testbed::system::{Options, READY_WITHIN, System, Tuning};

use crate::support::{HOUR_MS, SETTLED_WITHIN, alone, lines, names};

const UNIT: &str = "back-1";
/// How long a camera goes on trying.
const THROUGH: Duration = Duration::from_secs(60);
/// Until something is said that is looked for.
const SAID_WITHIN: Duration = Duration::from_secs(60);

/// Posts one after the other, so that the n-th line of all is the n-th passage of the stream.
async fn post(system: &System, lines: &[Line]) {
    let camera = system.agents[UNIT].camera();
    for portion in lines.chunks(500) {
        let texts: Vec<String> = portion.iter().map(|line| line.text.clone()).collect();
        feed::accept(UNIT, &texts, camera, THROUGH)
            .await
            .expect("accepted");
    }
}

/// Passages of about 1 KiB each: a field of noise goes with them.
fn bulky(passages: usize, seed: u64) -> Vec<Line> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let bulky = lines(UNIT, passages, 3 * HOUR_MS, seed)
        .into_iter()
        .map(|line| {
            let mut event: Value = serde_json::from_str(&line.text).expect("generated");
            let noise: [u64; 100] = std::array::from_fn(|_| random.random());
            let noise: String = noise.iter().map(|word| format!("{word:016x}")).collect();
            event["noise"] = noise.into();
            event.to_string()
        });
    let feed = feed::sort(bulky).expect("events");
    feed.into_values().next().expect("one unit")
}

fn ledger(lines: &[Line]) -> Ledger {
    let mut ledger = Ledger::new();
    lines
        .iter()
        .for_each(|line| ledger.add(UNIT, line.fact.clone()));
    ledger
}

async fn settled(system: &System, passages: usize) {
    system
        .settled(passages as u64, SETTLED_WITHIN)
        .await
        .expect("all counted, or known to be lost");
}

async fn books(system: &System) -> Value {
    let url = system.api(&format!("kvfv/{UNIT}/ledger"));
    let answer = system.http().get(url).send().await.expect("an answer");
    answer.json().await.expect("JSON")
}

/// Until the page of the aggregator that says whether it is ready holds the words, or is good.
async fn readiness(system: &System, words: Option<&str>) {
    let deadline = tokio::time::Instant::now() + SAID_WITHIN;
    loop {
        let answer = system.http().get(system.aggregator.page("readyz")).send();
        let answer = answer.await.expect("an answer");
        let good = answer.status().is_success();
        let text = answer.text().await.expect("text");
        match words {
            None if good => return,
            Some(words) if !good && text.contains(words) => return,
            _ => {}
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "expected {words:?}, it says: {text}"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn tuning() -> Tuning {
    Tuning {
        heartbeat_s: 1,
        ..Tuning::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_database_restored_from_a_backup_is_made_whole_by_what_units_still_hold() {
    let _alone = alone().await;
    let mut system = System::start(Options {
        agents: names(&[UNIT]),
        tuning: tuning(),
        ..Options::default()
    })
    .await
    .expect("a running system");
    let all = lines(UNIT, 6_000, 3 * HOUR_MS, 71);
    post(&system, &all[..2_000]).await;
    settled(&system, 2_000).await;
    let backup = tokio::task::block_in_place(|| system.cluster.backup()).expect("a backup");
    post(&system, &all[2_000..4_000]).await;
    settled(&system, 4_000).await;

    // Same system identifier, same timeline: nothing in the database says that it was put back.
    tokio::task::block_in_place(|| system.cluster.restore(backup)).expect("restored");
    post(&system, &all[4_000..]).await;
    settled(&system, all.len()).await;
    let verdict = system.judge(&ledger(&all)).await.expect("compared");
    assert!(verdict.exact(), "{verdict}");
    assert_eq!(verdict.totals.lost, 0, "{verdict}");
    let books = books(&system).await;
    assert_eq!(books["explained"], true, "{books}");
    system.stop().expect("an orderly end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_promoted_replica_that_lagged_books_as_lost_exactly_what_nobody_holds_any_more() {
    let _alone = alone().await;
    let mut system = System::start(Options {
        agents: names(&[UNIT]),
        tuning: Tuning {
            // The least that is allowed: receipted copies make room for new passages.
            buffer_quota_bytes: 1024 * 1024,
            flush_interval_ms: 100,
            ..tuning()
        },
        ..Options::default()
    })
    .await
    .expect("a running system");
    let all = bulky(2_700, 72);
    let (before, rest) = all.split_at(300);
    let (between, after) = rest.split_at(2_100);
    post(&system, before).await;
    settled(&system, before.len()).await;

    let mut standby = tokio::task::block_in_place(|| system.cluster.standby()).expect("a standby");
    readiness(&system, Some("asynchronous")).await;
    tokio::task::block_in_place(|| standby.stop());
    readiness(&system, None).await;

    // In portions, so that never so much waits that a passage without a receipt must make room.
    for (done, portion) in (1..).zip(between.chunks(300)) {
        post(&system, portion).await;
        settled(&system, before.len() + done * 300).await;
    }
    tokio::task::block_in_place(|| system.cluster.promote(standby)).expect("promoted");
    system
        .aggregator
        .ready(READY_WITHIN)
        .await
        .expect("ready again");
    // First what is held, which nearly fills the quota: all of it waits for a receipt again.
    settled(&system, before.len() + between.len()).await;
    post(&system, after).await;
    settled(&system, all.len()).await;

    let books = books(&system).await;
    let lost = &books["total"]["lost_by_reason"]["centre_lost"];
    assert_eq!(&books["total"]["lost"], lost, "{books}");
    assert!(
        lost.as_u64() > Some(0),
        "some copies had to make room: {books}"
    );
    assert_eq!(books["explained"], true, "{books}");
    let numbers: Vec<(usize, usize)> = books["losses"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|loss| {
            assert_eq!(loss["reason"], "centre_lost", "{books}");
            let number = |name: &str| loss[name].as_u64().expect("a number");
            let number = |name| usize::try_from(number(name)).expect("a number");
            (number("first"), number("last"))
        })
        .collect();
    let is_lost = |place: usize| {
        let mut ranges = numbers.iter();
        ranges.any(|(first, last)| (*first..=*last).contains(&(place + 1)))
    };
    let kept: Vec<Line> = (0..all.len())
        .filter(|place| !is_lost(*place))
        .map(|place| all[place].clone())
        .collect();
    let verdict = system.judge(&ledger(&kept)).await.expect("compared");
    assert!(verdict.exact(), "{verdict}");
    let lost = u64::try_from(all.len() - kept.len()).expect("fits");
    assert_eq!(verdict.totals.lost, lost, "{verdict}");
    system.stop().expect("an orderly end");
}
