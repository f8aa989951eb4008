//! Two brokers, known to every unit and served by both of two aggregators; each is killed in turn.

use std::collections::BTreeMap;
use std::time::Duration;

use testbed::system::{CENTRE, Options, READY_WITHIN, Rig, SECOND_CENTRE, STOPPED_WITHIN, System};

use crate::cameras::Cameras;
use crate::support::{alone, names, settled};

const UNITS: [&str; 4] = ["two-1", "two-2", "two-3", "two-4"];
/// Reconnecting takes seconds at most; the rest is for a busy machine.
const WITHIN: Duration = Duration::from_secs(90);
/// Passages of each unit that are receipted over a broker before the next thing happens.
const STRETCH: u64 = 80;

/// The place of a broker in the units' list.
const FIRST: u64 = 1;
const SECOND: u64 = 2;

const COUNTED: &str = "SELECT device, sum(counted)::int8 FROM v_ledger GROUP BY device";

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn with_two_brokers_either_may_be_killed_and_traffic_goes_on_through_the_other() {
    let _alone = alone().await;
    let mut system = System::start(Options {
        agents: names(&UNITS),
        rig: Rig {
            second_broker: true,
            ..Rig::default()
        },
        ..Options::default()
    })
    .await
    .expect("a running system");
    let (mut other, _) = system.second_aggregator().expect("prepared");
    other.start().expect("started");
    for name in [CENTRE, SECOND_CENTRE] {
        let owned = system.owns(name, 32, WITHIN).await;
        owned.expect("half of the shards");
    }
    let cameras = Cameras::of(&system, &UNITS, 40);
    let events = async {
        flows(&system, &cameras).await;
        system.broker.kill();
        use_broker(&system, &UNITS, SECOND).await;
        flows(&system, &cameras).await;

        system.broker.start().expect("started again");
        let ready = system.broker.ready(READY_WITHIN).await;
        ready.expect("ready again");
        // A link is kept while it carries; who begins anew begins with the first.
        let (anew, kept) = UNITS.split_at(2);
        for unit in anew {
            let agent = system.agents.get_mut(*unit).expect("running");
            agent.server.kill();
            agent.server.start().expect("started again");
        }
        use_broker(&system, anew, FIRST).await;
        use_broker(&system, kept, SECOND).await;
        flows(&system, &cameras).await;

        second_broker(&mut system).kill();
        use_broker(&system, &UNITS, FIRST).await;
        flows(&system, &cameras).await;
        second_broker(&mut system).start().expect("started again");
        let ready = second_broker(&mut system).ready(READY_WITHIN).await;
        ready.expect("ready again");

        system.broker.kill();
        use_broker(&system, &UNITS, SECOND).await;
        flows(&system, &cameras).await;
        system.broker.start().expect("started again");
    };
    cameras.during(events).await;
    let ledger = cameras.ledger();
    let verdict = settled(&system, &ledger).await;
    assert!(verdict.exact(), "{verdict}");
    let (counted, lost) = (verdict.totals.counted, verdict.totals.lost);
    assert_eq!((counted, lost), (ledger.passages(), 0), "{verdict}");
    let stopped = tokio::task::block_in_place(|| other.stop(STOPPED_WITHIN));
    assert!(stopped.expect("in time").success(), "an orderly stop");
    system.stop().expect("an orderly end");
}

fn second_broker(system: &mut System) -> &mut testbed::system::Server {
    let second = system.second_broker.as_mut();
    &mut second.expect("the rig has one").server
}

/// A number in what an agent says of itself; none while it does not answer.
fn said(system: &System, unit: &str, what: &str) -> Option<u64> {
    let status = system.agents[unit].status().ok()?;
    status.pointer(what)?.as_u64()
}

/// Waits until the link of each of these agents stands, and leads to that broker.
async fn use_broker(system: &System, units: &[&str], place: u64) {
    let look = async || {
        let elsewhere = |unit: &&&str| {
            let status = system.agents[**unit].status().unwrap_or_default();
            let link = &status["link"];
            link["state"] != "up" || link["broker_place"] != place
        };
        let behind = units.iter().find(elsewhere);
        Ok(behind.map(|unit| format!("{unit} is not at broker {place}")))
    };
    let moved = system.until("the agents", WITHIN, look).await;
    moved.expect("all units at that broker");
}

/// Waits until everything that was accepted by now is counted, and each unit has heard of more.
async fn flows(system: &System, cameras: &Cameras<'_>) {
    let receipted = |unit: &str| said(system, unit, "/passages/receipted");
    let before = UNITS.map(|unit| receipted(unit).unwrap_or(0));
    let accepted = cameras.accepted();
    let look = async || {
        let heard = UNITS.into_iter().zip(before);
        let deaf =
            |(unit, before): &(&str, u64)| receipted(unit).is_none_or(|now| now < before + STRETCH);
        let deaf = heard.filter(deaf).map(|(unit, _)| unit).next();
        if let Some(unit) = deaf {
            return Ok(Some(format!("{unit} waits for receipts")));
        }
        let database = system.database().await?;
        let counted: BTreeMap<String, i64> = (database.client().query(COUNTED, &[]).await?)
            .iter()
            .map(|row| (row.get(0), row.get(1)))
            .collect();
        let counted = |unit: &str| counted.get(unit).map_or(0, |n| n.unsigned_abs());
        let mut behind = accepted.iter().filter(|(unit, n)| counted(unit) < **n);
        Ok(behind
            .next()
            .map(|(unit, n)| format!("{} of {n} passages of {unit} are counted", counted(unit))))
    };
    let counted = system.until("the centre", WITHIN, look).await;
    counted.expect("traffic goes on");
}
