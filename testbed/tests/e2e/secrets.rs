//! What must not come to light, and what others may not touch: the real programs, at their most
//! talkative, with every secret that they have, also where something is wrong with it. The secrets of
//! broker and centre are searched for by [`crate::attacks`], beside the attacks.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use testbed::clock;
use testbed::process::{Launch, Process};
use testbed::programs::Programs;
use testbed::system::{Alone, DEVICE, Tuning};
use testbed::workdir::WorkDir;

const TOKEN: &str = "token-that-nobody-may-see-4711";
const PLATE_KEY: &str = "plate-key-that-nobody-may-see-0815-4712";
/// In a URL where only an address belongs.
const PASSWORD: &str = "hunter2-of-the-broker";
/// In what a unit takes, and in what it refuses.
const PLATES: [&str; 2] = ["А123ВС77", "M456OP99"];
/// The shortest line of a key that says something.
const KEY_LINE_BYTES_MIN: usize = 20;

/// Runs a program under a umask that protects nothing.
fn unprotected(name: &str, program: PathBuf, log: &Path) -> Launch {
    let shell = Launch::new(name, "sh", log);
    shell
        .args(["-c", "umask 000; exec \"$0\" \"$@\""])
        .arg(program)
}

fn mode(path: &Path) -> u32 {
    let metadata = fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    metadata.permissions().mode() & 0o777
}

/// Everything below a folder, and the folder.
fn below(folder: &Path) -> Vec<PathBuf> {
    let mut found = vec![folder.to_owned()];
    for entry in fs::read_dir(folder).expect("there") {
        let path = entry.expect("there").path();
        if path.is_dir() {
            found.extend(below(&path));
        } else {
            found.push(path);
        }
    }
    found
}

/// Token, key of plates, plates, and what the private keys of a folder say.
fn secrets(keys: &Path) -> Vec<String> {
    let mut secrets = [TOKEN, PLATE_KEY, PASSWORD].map(ToOwned::to_owned).to_vec();
    secrets.extend(PLATES.map(ToOwned::to_owned));
    for path in below(keys) {
        if path.extension().is_some_and(|extension| extension == "key") {
            let text = fs::read_to_string(path).expect("a key");
            let lines = text.lines().filter(|line| !line.starts_with('-'));
            // The first line is that of the algorithm, the same for all keys.
            let lines = lines
                .skip(1)
                .filter(|line| line.len() >= KEY_LINE_BYTES_MIN);
            secrets.extend(lines.map(ToOwned::to_owned));
        }
    }
    assert!(secrets.len() > 8, "keys are searched for, too");
    secrets
}

fn item(plate: &str, event_id: &str) -> String {
    let time = Timestamp::from_millisecond(clock::unix_ms()).expect("a time");
    format!(
        r#"{{"kvfv_id":"{DEVICE}","timestamp":"{time}","vehicle_speed":61.5,"plate_number":"{plate}","event_id":"{event_id}"}}"#
    )
}

/// Posts with this token; the status.
async fn post(alone: &Alone, token: Option<&str>, body: String) -> u16 {
    let client = reqwest::Client::builder()
        .no_proxy()
        .build()
        .expect("a client");
    let mut request = client.post(alone.agent.camera().url()).body(body);
    request = request.header("content-type", "application/x-ndjson");
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    request.send().await.expect("an answer").status().as_u16()
}

/// All that a unit's agent says while it runs, is asked, and is posted good and bad things.
async fn said_at_work(alone: &mut Alone) -> String {
    alone.start().await.expect("ready");
    let wrong = format!("{TOKEN}x");
    for token in [None, Some("x"), Some(wrong.as_str())] {
        assert_eq!(post(alone, token, item(PLATES[0], "a")).await, 401);
    }
    let [good, bad] = PLATES;
    for (body, status) in [
        (item(good, "a"), 200),
        (item(good, "a"), 200),
        (item(&format!("{bad}\\u0007"), "b"), 422),
        (format!("{{\"plate_number\":\"{bad}\""), 422),
        (format!("[{bad}"), 422),
        (
            format!(
                "{}\n{}",
                item(good, "c"),
                item(bad, "d").replace("61.5", "9e9")
            ),
            200,
        ),
    ] {
        let shown = body.clone();
        assert_eq!(post(alone, Some(TOKEN), body).await, status, "{shown}");
    }
    let mut said = alone.agent.status().expect("it answers").to_string();
    for page in ["metrics", "readyz", "healthz"] {
        said += &alone.page(page).await.expect("a page");
    }
    assert!(alone.stop().is_some_and(|status| status.success()));
    said + &alone.agent.server.log_text()
}

/// What it says to settings that are wrong in this and that; `home` has its token and its key.
fn complaints(alone: &Alone, home: &Path) -> Vec<String> {
    let program = Programs::find().expect("built").agent();
    let sound = fs::read_to_string(alone.agent.config()).expect("there");
    let short = home.join("short");
    fs::write(&short, &TOKEN[..10]).expect("written");
    let (token, key) = (home.join("token"), home.join("plates.key"));
    let quoted = |path: &Path| format!("\"{}\"", path.display());
    let pki = alone.directory().join("pki");
    let certificate = pki.join(format!("{DEVICE}.pem"));
    let private = pki.join(format!("{DEVICE}.key"));
    let login = format!("broker = \"mqtts://kv1:{PASSWORD}@localhost:x");
    let door = format!("listen = \"http://kv1:{PASSWORD}@127.0.0.1:");
    let changes = [
        (quoted(&token), quoted(&short)),
        (quoted(&key), quoted(&short)),
        // A folder cannot be read as a file, whoever asks.
        (quoted(&token), quoted(home)),
        (quoted(&key), quoted(home)),
        (quoted(&private), quoted(home)),
        (quoted(&private), quoted(&key)),
        (quoted(&private), quoted(&pki.join("ca.key"))),
        (quoted(&certificate), quoted(&private)),
        (quoted(&pki.join("ca.pem")), quoted(&key)),
        ("broker = \"localhost:".to_owned(), login.clone()),
        ("broker = \"localhost:".to_owned(), format!("{login}\n")),
        ("listen = \"127.0.0.1:".to_owned(), door),
    ];
    let mut said = Vec::new();
    for (right, wrong) in changes {
        assert!(sound.contains(&right), "{right} is in {sound}");
        let file = home.join("spoilt.toml");
        fs::write(&file, sound.replacen(&right, &wrong, 1)).expect("written");
        for command in [&["config", "check"][..], &["run"]] {
            let launch = Launch::new("edge-agent", &program, "/dev/null");
            let output = launch.args(command).arg("--config").arg(&file).output();
            let output = output.expect("it starts");
            let checked = command.len() == 2;
            assert!(
                checked || !output.status.success(),
                "{wrong} is a reason not to run"
            );
            let text = [output.stdout, output.stderr].concat();
            said.push(String::from_utf8_lossy(&text).into_owned());
        }
    }
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_shows_no_secret_at_its_most_talkative_nor_when_something_is_wrong() {
    service::tls::install_crypto_provider();
    let tuning = Tuning {
        log_level: "trace",
        ..Tuning::default()
    };
    let keys = WorkDir::new("secrets").expect("a directory");
    let (token, key) = (keys.path().join("token"), keys.path().join("plates.key"));
    service::private_file::write(&token, TOKEN.as_bytes()).expect("written");
    service::private_file::write(&key, PLATE_KEY.as_bytes()).expect("written");
    let change = |text: String| {
        let (token, key) = (token.display(), key.display());
        text.replace("policy = \"keep\"", &format!("key_file = \"{key}\""))
            .replace("[ingest]", &format!("[ingest]\ntoken_file = \"{token}\""))
    };
    let mut alone = Alone::make(&tuning, None, change).expect("an agent");
    let secrets = secrets(&alone.directory().join("pki"));
    let mut said = vec![said_at_work(&mut alone).await];
    let store_talks = said[0].contains("applying batch");
    assert!(!store_talks, "the store writes down what it holds");
    said.extend(tokio::task::block_in_place(|| {
        complaints(&alone, keys.path())
    }));
    for text in said {
        for secret in &secrets {
            let at = text.find(secret);
            let around = at.map(|at| text[..at].lines().last().unwrap_or_default());
            assert!(at.is_none(), "a secret is shown after {around:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_agent_writes_is_its_owners_alone_whatever_the_umask() {
    service::tls::install_crypto_provider();
    let alone = Alone::make(&Tuning::default(), None, |text| text).expect("an agent");
    // As a service manager or an operator may have made it.
    fs::create_dir(alone.buffer()).expect("made");
    fs::set_permissions(alone.buffer(), fs::Permissions::from_mode(0o755)).expect("set");
    let agent = Programs::find().expect("built").agent();
    let launch = unprotected("edge-agent", agent, &alone.directory().join("log"));
    let launch = launch.args(["run", "--config"]).arg(alone.agent.config());
    let mut process: Process = launch.start().expect("started");
    let deadline = tokio::time::Instant::now() + crate::support::SETTLED_WITHIN;
    let lines = [item(PLATES[0], "a")];
    while alone.agent.camera().post(&lines).await.is_err() {
        assert!(process.exit_status().is_none(), "{}", process.log_tail());
        assert!(
            tokio::time::Instant::now() < deadline,
            "{}",
            process.log_tail()
        );
        tokio::task::yield_now().await;
    }
    let files = below(alone.buffer());
    assert!(files.len() > 4, "{files:?}");
    for path in &files[1..] {
        let mode = mode(path);
        assert_eq!(mode & 0o077, 0, "{} has mode {mode:o}", path.display());
    }
    let socket = alone.directory().join(format!("{DEVICE}.sock"));
    assert_eq!(
        mode(&socket),
        0o660,
        "owner and group may ask for the status"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_may_change_what_an_authority_writes_whatever_the_umask() {
    let home = WorkDir::new("authority").expect("a directory");
    let broker = Programs::find().expect("built").broker();
    let (authority, units) = (home.path().join("new/pki"), home.path().join("units"));
    let pki = |arguments: &[&str]| {
        let launch = unprotected("broker pki", broker.clone(), Path::new("/dev/null"));
        launch
            .arg("pki")
            .args(arguments)
            .arg("--dir")
            .arg(&authority)
    };
    let out = units.display().to_string();
    for arguments in [
        &["init"][..],
        &["issue", "--role", "unit", "--out", &out, "KV1"],
        &["issue", "--role", "unit", "--renew", "--out", &out, "KV1"],
        &["revoke", "KV1"],
    ] {
        let said = tokio::task::block_in_place(|| pki(arguments).run());
        said.unwrap_or_else(|error| panic!("{arguments:?}: {error}"));
    }
    let (mut keys, mut others) = (0, 0);
    for path in [below(&authority), below(&units)].concat() {
        let mode = mode(&path);
        if path.extension().is_some_and(|extension| extension == "key") {
            keys += 1;
            assert_eq!(mode, 0o600, "{}", path.display());
        } else {
            others += 1;
            assert_eq!(mode & 0o022, 0, "{} has mode {mode:o}", path.display());
        }
    }
    assert_eq!((keys, others > 5), (2, true));
}
