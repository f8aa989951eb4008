//! Nothing stays behind, not even when the testbed itself is killed.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
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

/// File systems that are mounted in these directories.
fn mounts(directories: &BTreeSet<PathBuf>) -> Vec<String> {
    let mounts = std::fs::read_to_string("/proc/mounts").expect("readable");
    let is_ours = |line: &&str| {
        directories
            .iter()
            .any(|path| line.contains(&*path.to_string_lossy()))
    };
    mounts
        .lines()
        .filter(is_ours)
        .map(ToOwned::to_owned)
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_that_is_interrupted_or_killed_leaves_neither_process_nor_file_nor_mount() {
    let _alone = alone().await;
    for signal in [Signal::INT, Signal::KILL] {
        // A place of its own, which the database's account may pass through.
        let home = tempfile::tempdir().expect("a directory");
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(home.path(), open).expect("its owner");
        let mut testbed = Command::new(env!("CARGO_BIN_EXE_testbed"))
            .args(["chaos", "--seed", "1", "--seconds", "600"])
            .env("TMPDIR", home.path())
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("started");
        let mut said = BufReader::new(testbed.stderr.take().expect("piped")).lines();
        let is_up = said
            .by_ref()
            .map_while(Result::ok)
            .any(|line| line.contains(" s  "));
        assert!(is_up, "faults have begun");
        let ours = BTreeSet::from([home.path().to_owned()]);
        assert!(!processes(&ours).is_empty());
        let is_empty = || std::fs::read_dir(home.path()).is_ok_and(|mut all| all.next().is_none());
        let id = i32::try_from(testbed.id()).ok().and_then(Pid::from_raw);
        kill_process(id.expect("running"), signal).expect("sent");
        said.by_ref().for_each(drop);
        testbed.wait().expect("ended");
        let gone = clock::wait_until(GONE_WITHIN, || {
            let nothing = processes(&ours).is_empty() && mounts(&ours).is_empty();
            (nothing && is_empty()).then_some(())
        });
        let left = (processes(&ours), mounts(&ours));
        assert!(gone.is_some(), "after {signal:?}: {left:?}");
    }
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
