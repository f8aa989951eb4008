//! A backlog of hours: its windows are exact before its passages have arrived.

use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use testbed::feed::{self, Pace};
use testbed::recompute::Ledger;
use testbed::system::{Options, READY_WITHIN, STOPPED_WITHIN, System};

use crate::support::{HOUR_MS, SETTLED_WITHIN, alone, lines, names, seed};

const UNIT: &str = "offline-1";
const PASSAGES: usize = 40_000;
/// At two passages a second they fill five and a half hours.
const AGE_MS: i64 = 6 * HOUR_MS;
/// How often each of agent and aggregator is killed.
const KILLS: usize = 6;

/// A system whose agent has never had a link and holds hours of passages.
async fn offline_for_hours(seed: u64) -> (System, Ledger) {
    let mut system = System::start(Options {
        agents: names(&[UNIT]),
        ..Options::default()
    })
    .await
    .expect("a running system");
    let agent = system.agents.get_mut(UNIT).expect("running");
    agent.server.kill();
    let ended = tokio::task::block_in_place(|| system.broker.stop(STOPPED_WITHIN));
    assert!(
        ended.is_some_and(|status| status.success()),
        "broker: {ended:?}"
    );
    agent.server.start().expect("started again");
    let of_hours = lines(UNIT, PASSAGES, AGE_MS, seed);
    let texts: Vec<String> = of_hours.iter().take(1).map(|l| l.text.clone()).collect();
    // The first one waits until the door is open.
    feed::accept(UNIT, &texts, agent.camera(), READY_WITHIN)
        .await
        .expect("accepted");
    let ledger = feed::post(UNIT, &of_hours, agent.camera(), Pace::FULL)
        .await
        .expect("accepted");
    (system, ledger)
}

async fn back_and_settled(system: &mut System, ledger: &Ledger) {
    system.broker.start().expect("started again");
    system
        .settled(ledger.passages(), SETTLED_WITHIN)
        .await
        .expect("all counted and stored");
    judge(system, ledger).await;
}

async fn judge(system: &System, ledger: &Ledger) {
    let verdict = system.judge(ledger).await.expect("compared");
    assert!(verdict.exact(), "{verdict}");
    assert_eq!(
        (verdict.totals.lost, verdict.totals.rejected),
        (0, 0),
        "{verdict}"
    );
    assert_eq!(verdict.totals.counted, ledger.passages(), "{verdict}");
    assert_eq!(verdict.totals.stored, ledger.passages(), "{verdict}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn after_hours_offline_every_window_is_exact_before_the_first_raw_row_arrives() {
    let _alone = alone().await;
    let (mut system, ledger) = offline_for_hours(11).await;
    back_and_settled(&mut system, &ledger).await;
    let database = system.database().await.expect("it answers");
    // Which transaction wrote the last version of each window, and which the raw rows.
    let sql = "SELECT (SELECT max(xmin::text::int8) FROM speed_stats_5m),
                      (SELECT min(xmin::text::int8) FROM passage),
                      (SELECT count(*) FROM speed_stats_5m)";
    let row = database.client().query_one(sql, &[]).await.expect("rows");
    let (windows, raw, count): (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
    assert!(count >= 60, "{count} windows");
    assert!(
        windows < raw,
        "windows were complete in transaction {windows}, raw rows began in {raw}"
    );
    system.stop().expect("an orderly end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn summaries_and_their_passages_stay_exact_while_agent_and_centre_are_killed() {
    let _alone = alone().await;
    let seed = seed();
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let (mut system, ledger) = offline_for_hours(seed).await;
    system.broker.start().expect("started again");
    for kill in 0..2 * KILLS {
        tokio::time::sleep(Duration::from_millis(random.random_range(20..1_500))).await;
        let server = if kill % 2 == 0 {
            &mut system.agents.get_mut(UNIT).expect("running").server
        } else {
            &mut system.aggregator
        };
        server.kill();
        tokio::time::sleep(Duration::from_millis(random.random_range(0..500))).await;
        server.start().expect("started again");
    }
    system
        .settled(ledger.passages(), SETTLED_WITHIN)
        .await
        .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    judge(&system, &ledger).await;
    system.stop().expect("an orderly end");
}
