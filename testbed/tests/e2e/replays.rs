//! Recorded and generated files through the whole system.

use std::path::Path;

use testbed::feed::{self, Feed};
use testbed::replay::{self, Order};
use testbed::synthetic::Synthetic;

use crate::support::{HOUR_MS, alone};

/// 2023-11-06T05:00:00Z: years old, like the recorded file.
const LONG_AGO_MS: i64 = 1_699_246_800_000;

/// So thin that a batch spans more windows than one flush changes.
fn generated() -> Feed {
    let lines = (1..=4_u64).flat_map(|unit| {
        let synthetic = Synthetic {
            device: format!("gen-{unit}"),
            passages: 5_000,
            start_ms: LONG_AGO_MS + HOUR_MS,
            passages_per_s: 0.02,
            seed: unit,
            event_ids: false,
        };
        synthetic.lines()
    });
    feed::sort(lines).expect("generated lines are events")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_generated_file_with_every_oddity_is_exact() {
    let _alone = alone().await;
    let feed = generated();
    let passages: usize = feed.values().map(Vec::len).sum();
    let report = replay::replay(&feed, None, None).await.expect("replayed");
    println!("{report:?}");
    assert!(report.exact(), "{report:?}");
    assert_eq!(report.accepted, passages as u64);
    assert_eq!((report.units, report.lost, report.rejected), (4, 0, 0));
    assert!(report.windows_compared > 1_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_recorded_file_equals_windows_that_others_computed() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data");
    let order = Order {
        file: data.join("passages-dvrpc.ndjson.gz"),
        expect: Some(data.join("expected-5m-dvrpc.csv")),
        speedup: None,
    };
    if !order.file.exists() {
        println!("skipped: {} is not on this machine", order.file.display());
        return;
    }
    let _alone = alone().await;
    let report = replay::run(&order).await.expect("replayed");
    println!("{report:?}");
    assert!(report.exact(), "{report:?}");
    assert_eq!((report.units, report.accepted), (4, 144_928));
    assert!(report.expected_compared > 5_000);
}
