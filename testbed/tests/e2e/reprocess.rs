//! Passages beyond the horizon, folded in by an operator while everything runs.

use std::path::PathBuf;
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use testbed::feed::{self, Line, Pace};
use testbed::process::Launch;
use testbed::programs::Programs;
use testbed::recompute::Ledger;
use testbed::system::{CENTRE, Camera, Options, System, Tuning};

use crate::support::{HOUR_MS, SETTLED_WITHIN, alone, lines, names, seed, settled};

const UNIT: &str = "reprocess-1";
const MINUTE_MS: i64 = HOUR_MS / 60;
const HORIZON_DAYS: u32 = 3;
const HORIZON_MS: i64 = HORIZON_DAYS as i64 * 24 * HOUR_MS;
/// Two a second: 42 minutes, all of them beyond the horizon.
const TOO_OLD: usize = 5_000;
/// Ten minutes, just inside the horizon: in the same hours and days as those beyond it.
const LIVE: usize = 1_200;
const PORTION: usize = 20;
/// Runs that are killed in the middle.
const KILLS: usize = 12;
const RUN_WITHIN: Duration = Duration::from_secs(60);

fn reprocess(system: &System, log: &str) -> (Launch, PathBuf) {
    let programs = Programs::find().expect("built");
    let config = system.directory().join(format!("{CENTRE}.toml"));
    let log = system.directory().join(log);
    let launch = Launch::new("reprocess", programs.aggregator(), &log)
        .args(["reprocess", "--device", UNIT, "--json", "--config"])
        .arg(config);
    (launch, log)
}

/// A run to its end, and its report.
async fn run(system: &System, log: &str, option: &[&str]) -> Value {
    let (launch, log) = reprocess(system, log);
    let mut process = launch.args(option).start().expect("started");
    let waiting = tokio::task::spawn_blocking(move || {
        let ended = process.wait(RUN_WITHIN);
        assert!(
            ended.is_some_and(|status| status.success()),
            "{}",
            process.log_tail()
        );
    });
    waiting.await.expect("it ended well");
    let text = std::fs::read_to_string(log).expect("a report");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// A camera that goes on meanwhile.
async fn trickle(lines: &[Line], camera: &Camera) -> Ledger {
    let mut ledger = Ledger::new();
    for portion in lines.chunks(PORTION) {
        let accepted = feed::post(UNIT, portion, camera, Pace::FULL).await;
        ledger.merge(accepted.expect("accepted"));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    ledger
}

/// Starts runs and kills them, each after a little longer than nothing.
async fn kill_runs(system: &System, random: &mut ChaCha8Rng) {
    for _ in 0..KILLS {
        let (launch, _) = reprocess(system, "killed.log");
        let mut process = launch.start().expect("started");
        tokio::time::sleep(Duration::from_millis(random.random_range(5..150))).await;
        tokio::task::block_in_place(|| process.kill());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_folded_in_under_load_is_counted_once_whoever_is_killed() {
    let _alone = alone().await;
    let seed = seed();
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let system = System::start(Options {
        agents: names(&[UNIT]),
        tuning: Tuning {
            horizon_days: HORIZON_DAYS,
            flush_interval_ms: 50,
            ..Tuning::default()
        },
        ..Options::default()
    })
    .await
    .expect("a running system");
    let camera = system.agents[UNIT].camera().clone();
    let too_old = lines(UNIT, TOO_OLD, HORIZON_MS + HOUR_MS, seed);
    let posted = feed::post(UNIT, &too_old, &camera, Pace::FULL).await;
    let mut ledger = posted.expect("accepted");
    let too_old = ledger.passages();
    system
        .settled(too_old, SETTLED_WITHIN)
        .await
        .expect("all rejected");

    let dry = run(&system, "dry.json", &["--dry-run"]).await;
    assert_eq!(dry["counted"], too_old, "{dry}");
    let live = lines(UNIT, LIVE, HORIZON_MS - 15 * MINUTE_MS, seed ^ 1);
    let (live, ()) = tokio::join!(trickle(&live, &camera), kill_runs(&system, &mut random));
    ledger.merge(live);
    let (report, again) = tokio::join!(
        run(&system, "first.json", &[]),
        run(&system, "second.json", &[])
    );
    let verdict = settled(&system, &ledger).await;
    assert!(verdict.exact(), "seed {seed}: {verdict}\n{report}\n{again}");
    let rest = run(&system, "rest.json", &[]).await;
    assert_eq!(
        (&rest["counted"], &rest["left"]),
        (&0.into(), &serde_json::json!({}))
    );
    system.stop().expect("an orderly end");
}
