//! A database that is put back in time: what units still hold makes it whole, the rest stands in the
//! ledger.

use std::time::Duration;

use serde_json::Value;
use testbed::feed::{self, Line};
use testbed::recompute::Ledger;
use testbed::system::{Options, System, Tuning};

use crate::support::{HOUR_MS, SETTLED_WITHIN, alone, lines, names};

const UNIT: &str = "back-1";
/// How long a camera goes on trying.
const THROUGH: Duration = Duration::from_secs(60);

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
