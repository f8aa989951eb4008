//! Orderly restarts in mid-traffic, under a simulated fleet beside the real agents.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use proto::DeviceId;
use testbed::feed::{self, Pace};
use testbed::fleet::{Fleet, FleetOptions, Posted};
use testbed::pki::BROKER_HOST;
use testbed::recompute::{Fact, Ledger};
use testbed::system::{Options, READY_WITHIN, STOPPED_WITHIN, System};

use crate::support::{HOUR_MS, SETTLED_WITHIN, alone, lines, names, settled};

const SIMULATED: usize = 20;
const RATE: f64 = 10.0;
/// Traffic before, between and after the restarts.
const STRETCH: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_restart_of_the_broker_in_mid_traffic_loses_and_doubles_nothing() {
    let _alone = alone().await;
    let units: Vec<DeviceId> = testbed::fleet::names("sim", SIMULATED).expect("names");
    let mut system = System::start(Options {
        agents: names(&["real-1"]),
        units: units.iter().map(ToString::to_string).collect(),
        ..Options::default()
    })
    .await
    .expect("a running system");
    let ledger = Arc::new(Mutex::new(Ledger::new()));
    let recorded = ledger.clone();
    let broker = system.broker_address();
    let fleet = Fleet::start(FleetOptions {
        recorder: Some(Arc::new(move |posted: Posted<'_>| {
            let mut ledger = recorded.lock().expect("no panic");
            for place in 0..posted.passages.len() {
                let fact = Fact::from(&posted.passages.passage(place));
                ledger.add(posted.device.as_str(), fact);
            }
        })),
        ..FleetOptions::new(units, RATE, broker, BROKER_HOST, system.pki.directory())
    })
    .expect("a fleet");
    fleet.connected(READY_WITHIN).await.expect("all connected");

    let camera = system.agents["real-1"].camera().clone();
    let of_agent = lines("real-1", 6_000, HOUR_MS, 3);
    let pace = Pace {
        speedup: Some(300.0),
        ..Pace::FULL
    };
    let posting = feed::post("real-1", &of_agent, &camera, pace);
    let restarting = async {
        for _ in 0..2 {
            tokio::time::sleep(STRETCH).await;
            let ended = tokio::task::block_in_place(|| system.broker.stop(STOPPED_WITHIN));
            assert!(
                ended.is_some_and(|status| status.success()),
                "broker: {ended:?}"
            );
            system.broker.start().expect("started again");
            system
                .broker
                .ready(READY_WITHIN)
                .await
                .expect("ready again");
        }
        tokio::time::sleep(STRETCH).await;
    };
    let (posted, ()) = tokio::join!(posting, restarting);
    fleet.drain(SETTLED_WITHIN).await.expect("all receipted");
    fleet.stop().await.expect("ended");
    let mut ledger = std::mem::take(&mut *ledger.lock().expect("no panic"));
    ledger.merge(posted.expect("accepted"));
    let verdict = settled(&system, &ledger).await;
    assert!(verdict.exact(), "{verdict}");
    system.stop().expect("an orderly end");
}
