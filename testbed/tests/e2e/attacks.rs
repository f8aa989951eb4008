//! A seeded share of every attack. `testbed attack` runs all of it.

use testbed::attack::{Scale, run};

use crate::support::alone;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_seeded_share_of_every_attack_is_withstood_and_counted() {
    let _alone = alone().await;
    let report = Box::pin(run(&Scale::small(1))).await.expect("withstood");
    // Times are for the command line: they depend on the machine.
    let judged = report.figures.iter().filter(|figure| figure.unit != "s");
    let failed: Vec<_> = judged.filter(|figure| !figure.met).collect();
    assert!(failed.is_empty(), "{failed:#?}\n{}", report.table());
}
