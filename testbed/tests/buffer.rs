//! The agent's buffer under what a roadside cabinet brings: cuts of the power, kill -9, damage, a full
//! disk, a full quota. The commands `testbed powercut`, `testbed damage` and `testbed kills` make as
//! many of them as one likes; here are short shares.

use std::collections::BTreeSet;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use edge_agent::buffer::QuotaPolicy;
use jiff::Timestamp;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use testbed::held::{self, with_buffer};
use testbed::powercut::blocks;
use testbed::system::{Alone, DEVICE, PostError, Tuning};
use testbed::workdir::WorkDir;
use testbed::{clock, damage, kills};

const MIB: u32 = 1024 * 1024;

fn testbed(arguments: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_testbed");
    let output = Command::new(program).args(arguments).output();
    output.expect("the testbed starts")
}

fn said(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!(
        "{}{}",
        String::from_utf8_lossy(out),
        String::from_utf8_lossy(err)
    )
}

fn powercut(level: &str, cuts: &str) {
    let sound = testbed(&["powercut", "--level", level, "--cuts", cuts]);
    assert!(sound.status.success(), "{}", said(&sound));
    let planted = ["powercut", "--level", level, "--cuts", cuts, "--opens", "1"];
    let planted = testbed(&[&planted[..], &["--without-syncs", "--json"]].concat());
    let report: serde_json::Value =
        serde_json::from_slice(&planted.stdout).unwrap_or_else(|_| panic!("{}", said(&planted)));
    let failed = report["failed"].as_u64().expect("a number");
    let cuts: u64 = cuts.parse().expect("a number");
    assert!(
        failed > cuts / 2,
        "without fdatasync only {failed} of {cuts} cuts lost"
    );
}

#[test]
fn acknowledged_passages_survive_power_cuts_of_a_real_ext4_and_not_without_the_syncs() {
    match blocks::missing() {
        None => powercut("blocks", "25"),
        Some(missing) => println!("skipped, the cuts at the level of files go on: {missing}"),
    }
}

#[test]
fn acknowledged_passages_survive_power_cuts_and_not_without_the_syncs() {
    powercut("files", "25");
}

#[test]
fn a_damaged_store_opens_keeps_what_can_be_read_and_states_the_rest() {
    let report = damage::run(1, 40).expect("the harness works");
    assert_eq!(report.failed, 0, "{:#?}", report.faults);
    assert!(report.lost > 0 && report.moved_aside > 0, "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_is_there_after_every_kill() {
    service::tls::install_crypto_provider();
    let report = kills::run(1, 10).await.expect("the harness works");
    assert_eq!((report.missing, report.twice), (0, 0), "{report:?}");
    assert!(report.accepted > 10, "{report:?}");
}

fn line(number: i64) -> String {
    let at = Timestamp::from_millisecond(clock::unix_ms() - 3_600_000 + number);
    let at = at.expect("a time");
    format!(r#"{{"kvfv_id":"{DEVICE}","timestamp":"{at}","vehicle_speed":50.5,"note":"{number}"}}"#)
}

/// A passage with free text that does not compress.
fn bulky(number: i64) -> String {
    let mut random = ChaCha8Rng::seed_from_u64(number.unsigned_abs());
    let text: String = (0..900)
        .map(|_| char::from(random.random_range(b'A'..=b'Z')))
        .collect();
    line(number).replace("\"note\":\"", &format!("\"note\":\"{text}"))
}

/// Posts until the agent refuses. How many passages it took, and what it says.
async fn post_until_refused(alone: &Alone) -> (u64, u16, serde_json::Value) {
    let mut accepted = 0;
    for post in 0..2_000_i64 {
        let lines: Vec<String> = (post * 500..(post + 1) * 500).map(bulky).collect();
        match alone.agent.camera().post(&lines).await {
            Ok(answer) => accepted += answer.accepted,
            Err(PostError::Refused { status, body }) => {
                let problem = serde_json::from_str(&body).expect("a problem document");
                return (accepted, status.as_u16(), problem);
            }
            Err(error) => panic!("{error}"),
        }
    }
    panic!("never refused");
}

fn held_passages(alone: &Alone) -> u64 {
    let settings = held::settings(
        alone.buffer(),
        u64::from(512 * MIB),
        QuotaPolicy::DropOldest,
    );
    let held = with_buffer(&settings, held::read).expect("it opens");
    held.passages.len() as u64
}

/// A small file system in memory, taken down with its directory.
struct Small(WorkDir);

impl Small {
    /// None where this account may not.
    fn mount(mib: u32) -> Option<Self> {
        let directory = WorkDir::new("small").expect("a directory");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "verst-small"]);
        let mounted = mount
            .arg(directory.path())
            .status()
            .is_ok_and(|status| status.success());
        mounted.then_some(Self(directory))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let status = Command::new("umount")
            .arg("--lazy")
            .arg(self.0.path())
            .status();
        assert!(status.is_ok_and(|status| status.success()), "stays mounted");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_with_503_until_there_is_room_and_loses_nothing() {
    service::tls::install_crypto_provider();
    let Some(small) = Small::mount(48) else {
        println!("skipped: no small file system can be mounted by this account");
        return;
    };
    let tuning = Tuning {
        buffer_quota_bytes: 400 * MIB,
        ..Tuning::default()
    };
    // Once the agent's own floor stops it, once the file system does.
    for floor in ["16777216", "1048576"] {
        let place = small.path().join(floor);
        let change = |text: String| {
            text.replace(
                "free_floor_bytes = 16777216",
                &format!("free_floor_bytes = {floor}"),
            )
        };
        let make = || Alone::make(&tuning, Some(place.as_path()), change);
        let mut alone = tokio::task::block_in_place(make).expect("an agent");
        alone.start().await.expect("ready");
        let ballast = small.path().join("ballast");
        if floor == "1048576" {
            // Nothing is left for the agent's next write, whatever it has measured.
            let bytes = vec![1_u8; 64 * 1024];
            let file = std::fs::File::create(&ballast).expect("made");
            let mut at = 0;
            while file.write_at(&bytes, at).is_ok_and(|count| count > 0) {
                at += bytes.len() as u64;
            }
        }
        let (mut accepted, status, problem) = post_until_refused(&alone).await;
        assert_eq!(status, 503, "{problem}");
        assert_eq!(
            problem["path"],
            alone.buffer().display().to_string(),
            "{problem}"
        );
        assert_eq!(
            problem["floor_bytes"].as_u64(),
            floor.parse().ok(),
            "{problem}"
        );
        assert!(problem["free_bytes"].as_u64().is_some(), "{problem}");
        assert!(
            problem["detail"]
                .as_str()
                .is_some_and(|text| text.contains("make room")),
            "{problem}"
        );
        // Room comes back, and with it the intake, without a restart.
        if ballast.exists() {
            std::fs::remove_file(&ballast).expect("removed");
        } else {
            let mut remount = Command::new("mount");
            remount.args(["-o", "remount,size=160m"]).arg(small.path());
            assert!(remount.status().is_ok_and(|status| status.success()));
        }
        let more = [line(-1)];
        let answer = alone
            .agent
            .camera()
            .post_through(&more, Duration::from_secs(60))
            .await;
        accepted += answer.expect("room is back").accepted;
        assert!(alone.stop().is_some_and(|status| status.success()));
        assert_eq!(
            tokio::task::block_in_place(|| held_passages(&alone)),
            accepted
        );
        std::fs::remove_dir_all(&place).expect("removed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_quota_drops_the_oldest_raw_or_refuses_with_429_as_it_is_told() {
    service::tls::install_crypto_provider();
    let tuning = Tuning {
        buffer_quota_bytes: MIB,
        ..Tuning::default()
    };
    let refuse = |text: String| text.replace("[buffer]", "[buffer]\npolicy = \"refuse_new\"");
    let mut alone =
        tokio::task::block_in_place(|| Alone::make(&tuning, None, refuse)).expect("an agent");
    alone.start().await.expect("ready");
    let (accepted, status, problem) = post_until_refused(&alone).await;
    assert_eq!(
        (status, problem["limit_bytes"].as_u64()),
        (429, Some(u64::from(MIB))),
        "{problem}"
    );
    assert!(alone.stop().is_some_and(|status| status.success()));
    assert_eq!(
        tokio::task::block_in_place(|| held_passages(&alone)),
        accepted
    );

    let mut alone =
        tokio::task::block_in_place(|| Alone::make(&tuning, None, |text| text)).expect("an agent");
    alone.start().await.expect("ready");
    let mut accepted = 0;
    for post in 0..12_i64 {
        let lines: Vec<String> = (post * 500..(post + 1) * 500).map(bulky).collect();
        let answer = alone
            .agent
            .camera()
            .post(&lines)
            .await
            .expect("drop_oldest accepts");
        accepted += answer.accepted;
    }
    let lost = metric(
        &alone.page("metrics").await.expect("a page"),
        r#"passages_lost_total{reason="quota"}"#,
    );
    let status = alone.agent.status().expect("it answers").to_string();
    assert!(lost > 0, "{status}");
    assert!(alone.stop().is_some_and(|status| status.success()));
    let settings = held::settings(alone.buffer(), MIB.into(), QuotaPolicy::DropOldest);
    let held =
        tokio::task::block_in_place(|| with_buffer(&settings, held::read)).expect("it opens");
    assert!(
        !held.summaries.is_empty(),
        "the window deltas of what was dropped wait to be sent"
    );
    let stated: u64 = held.lost.values().map(proto::SeqSet::count).sum();
    assert_eq!(
        held.passages.len() as u64 + stated,
        accepted,
        "held and stated as lost"
    );
}

fn metric(page: &str, name: &str) -> u64 {
    let line = page
        .lines()
        .find_map(|line| line.strip_prefix(&format!("verst_agent_{name}")));
    line.and_then(|value| value.trim().parse().ok())
        .unwrap_or_else(|| panic!("no {name} in {page}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_on_a_damaged_store_starts_says_so_and_takes_passages() {
    service::tls::install_crypto_provider();
    let tuning = Tuning::default();
    let mut alone =
        tokio::task::block_in_place(|| Alone::make(&tuning, None, |text| text)).expect("an agent");
    alone.start().await.expect("ready");
    for post in 0..40_i64 {
        let lines: Vec<String> = (post * 100..(post + 1) * 100).map(line).collect();
        alone.agent.camera().post(&lines).await.expect("accepted");
    }
    tokio::task::block_in_place(|| alone.agent.server.kill());
    let mode = std::fs::metadata(alone.buffer())
        .expect("there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o700, "passages are nobody else's to read");
    let store = alone.buffer().join("store/db");
    let file = std::fs::File::options()
        .write(true)
        .open(&store)
        .expect("there");
    let quarter = file.metadata().expect("there").len() / 4;
    let zeroes = vec![0; usize::try_from(2 * quarter).expect("it is small")];
    file.write_all_at(&zeroes, quarter).expect("written");
    alone.start().await.expect("it starts");
    alone
        .agent
        .camera()
        .post(&[line(4_000)])
        .await
        .expect("it takes passages");
    let page = alone.page("metrics").await.expect("a page");
    let lost = metric(&page, r#"passages_lost_total{reason="corrupt"}"#);
    assert!(metric(&page, "alarms") > 0, "{page}");
    let status = alone.agent.status().expect("it answers").to_string();
    assert!(status.contains("damaged"), "{status}");
    assert!(alone.stop().is_some_and(|status| status.success()));
    let settings = held::settings(
        alone.buffer(),
        u64::from(512 * MIB),
        QuotaPolicy::DropOldest,
    );
    let held =
        tokio::task::block_in_place(|| with_buffer(&settings, held::read)).expect("it opens");
    let stated: u64 = held.lost.values().map(proto::SeqSet::count).sum();
    assert_eq!(stated, lost);
    let numbers: BTreeSet<(String, u64)> = held
        .passages
        .keys()
        .map(|(stream, number)| (stream.to_string(), *number))
        .collect();
    assert_eq!(
        numbers.len() as u64 + stated,
        4_001,
        "every passage is there or stated as lost"
    );
}
