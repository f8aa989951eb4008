//! Nothing stays behind, not even when the testbed itself is killed.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use testbed::clock;

use crate::support::alone;

const GONE_WITHIN: Duration = Duration::from_secs(60);

/// Working directories of testbeds.
fn directories() -> BTreeSet<PathBuf> {
    let entries = std::fs::read_dir(std::env::temp_dir())
        .expect("readable")
        .flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("verst-"))
        })
        .collect()
}

/// Processes that work in these directories, by their command lines.
fn processes(directories: &BTreeSet<PathBuf>) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").expect("readable").flatten();
    entries
        .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| {
            directories
                .iter()
                .any(|path| line.contains(&*path.to_string_lossy()))
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_testbed_that_is_killed_leaves_neither_process_nor_file() {
    let _alone = alone().await;
    let before = directories();
    let mut testbed = Command::new(env!("CARGO_BIN_EXE_testbed"))
        .args(["demo", "--agents", "1", "--units", "2", "--seconds", "600"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("started");
    let output = BufReader::new(testbed.stdout.take().expect("piped"));
    let is_up = output
        .lines()
        .map_while(Result::ok)
        .any(|line| line.contains("are connected"));
    let ours: BTreeSet<PathBuf> = directories().difference(&before).cloned().collect();
    let running = processes(&ours);
    testbed.kill().expect("killed");
    testbed.wait().expect("ended");
    assert!(is_up, "the demo came up");
    assert_eq!(ours.len(), 2, "database and programs: {ours:?}");
    // Database, broker, aggregator, agent, and the guards of the directories.
    assert!(running.len() >= 4, "{running:?}");
    let gone = clock::wait_until(GONE_WITHIN, || {
        let left = processes(&ours).is_empty() && ours.iter().all(|path| !path.exists());
        left.then_some(())
    });
    assert!(gone.is_some(), "left: {:?}", processes(&ours));
}
