//! Half a minute of faults that a seed draws: a short one of the runs that `testbed chaos` makes.

use testbed::chaos::{Order, replay_command, run};
use tokio_util::sync::CancellationToken;

use crate::support::alone;

/// Draws a failover, full disks, a frozen aggregator, wrong clocks and bad links within the time.
const SEED: u64 = 51;
const SECONDS: u64 = 25;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn everything_is_exact_after_faults_that_a_seed_draws() {
    let _alone = alone().await;
    let seed = std::env::var("VERST_TEST_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(SEED);
    let order = Order {
        seed,
        seconds: SECONDS,
        passages_per_s: 20.0,
        keep: None,
    };
    let again = replay_command(&order);
    let outcome = run(&order, CancellationToken::new(), |told| println!("{told}")).await;
    let outcome = outcome.unwrap_or_else(|error| panic!("{error}\nagain: {again}"));
    assert!(outcome.exact(), "{outcome:#?}\nagain: {again}");
    assert!(outcome.faults + outcome.skipped >= 8, "{outcome:#?}");
}
