use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::*;
use crate::serve::Endpoint;

#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Settings {
    name: String,
    #[serde(default)]
    listen: Vec<Listen>,
    uplink: Uplink,
    #[serde(default)]
    store: Store,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Listen {
    endpoint: Endpoint,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Uplink {
    broker: String,
    port: u16,
    #[serde(default)]
    password: Option<String>,
    #[serde(default)]
    mode: Mode,
}

#[derive(Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
enum Mode {
    #[default]
    Mqtt,
    HttpsOnly,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
struct Store {
    path: PathBuf,
    quota_bytes: u64,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            path: "/var/lib/verst".into(),
            quota_bytes: 1 << 30,
        }
    }
}

impl Validate for Settings {
    fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        if self.uplink.port < 1_024 {
            let problem = format!("port {} is below 1024", self.uplink.port);
            faults.push(Fault::new("uplink.port", problem));
        }
        if self.store.quota_bytes < 1_000 {
            let problem = format!("{} bytes are fewer than 1000", self.store.quota_bytes);
            faults.push(Fault::new("store.quota_bytes", problem));
        }
        if self.name.is_empty() {
            faults.push(Fault::new("name", "is empty"));
        }
        for (index, listen) in self.listen.iter().enumerate() {
            if !listen.endpoint.is_local() {
                let key = format!("listen[{index}].endpoint");
                faults.push(Fault::new(key, format!("{} is not local", listen.endpoint)));
            }
        }
        faults
    }
}

const SOUND: &str = "\
name = 'KV1'

[uplink]
broker = 'centre.example'
port = 8883
";

fn check(text: &str, environment: &[(&str, &str)]) -> Result<Settings, ConfigFaults> {
    let environment = environment
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    parse(Path::new("agent.toml"), text, "VERST_AGENT", environment)
}

fn faults(text: &str, environment: &[(&str, &str)]) -> Vec<String> {
    let found = check(text, environment).unwrap_err().to_string();
    found.lines().map(str::to_owned).collect()
}

#[test]
fn a_sound_file_gives_its_settings_and_defaults() {
    let settings = check(SOUND, &[]).unwrap();
    assert_eq!(settings.uplink.port, 8_883);
    assert_eq!(settings.uplink.mode, Mode::Mqtt);
    assert_eq!(settings.store, Store::default());
}

#[test]
fn five_faults_of_five_kinds_name_five_lines() {
    let text = "\
name = 7
colour = 'red'

[uplink]
broker = 'centre.example'
port = 70000
mode = 'pigeon'

[store]
quota_bytes = 10
";
    assert_eq!(
        faults(text, &[]),
        [
            "agent.toml:1: name: invalid type: integer `7`, expected a string",
            "agent.toml:2: colour: no such setting here: expected one of `name`, `listen`, `uplink`, `store`",
            "agent.toml:6: uplink.port: invalid value: integer `70000`, expected u16",
            "agent.toml:7: uplink.mode: unknown variant `pigeon`, expected `mqtt` or `https_only`",
            "agent.toml:10: store.quota_bytes: 10 bytes are fewer than 1000",
        ]
    );
}

#[test]
fn missing_settings_are_all_named_at_their_table() {
    let text = "[store]\nquota_bytes = 5\n\n[uplink]\n";
    assert_eq!(
        faults(text, &[]),
        [
            "agent.toml: name: is missing and has no default",
            "agent.toml:2: store.quota_bytes: 5 bytes are fewer than 1000",
            "agent.toml:4: uplink.broker: is missing and has no default",
            "agent.toml:4: uplink.port: is missing and has no default",
        ]
    );
}

#[test]
fn a_missing_table_is_one_fault_and_hides_no_other() {
    assert_eq!(
        faults("name = ''\n", &[]),
        [
            "agent.toml: uplink: is missing and has no default",
            "agent.toml:1: name: is empty"
        ]
    );
}

#[test]
fn list_entries_keep_their_numbers_and_lines() {
    let text = format!(
        "{SOUND}
[[listen]]
endpoint = 'nowhere'
[[listen]]
endpoint = '0.0.0.0:80'
[[listen]]
endpoint = 5
"
    );
    assert_eq!(
        faults(&text, &[]),
        [
            "agent.toml:8: listen[0].endpoint: \"nowhere\" is no place to listen: use an address \
             like 127.0.0.1:8080 or unix:/path/to.sock",
            "agent.toml:10: listen[1].endpoint: 0.0.0.0:80 is not local",
            "agent.toml:12: listen[2].endpoint: invalid type: integer `5`, expected a string",
        ]
    );
}

#[test]
fn every_syntax_error_is_named_and_what_is_readable_is_checked() {
    let text = "name = 'KV1\n[uplink]\nbroker = \nport = 80\n";
    let found = faults(text, &[]);
    assert!(
        found[0].starts_with("agent.toml:1: not valid TOML: "),
        "{found:#?}"
    );
    assert!(
        found
            .iter()
            .any(|f| f.starts_with("agent.toml:3: not valid TOML: ")),
        "{found:#?}"
    );
    assert!(
        found
            .iter()
            .any(|f| f.contains("uplink.port: port 80 is below 1024")),
        "{found:#?}"
    );
}

#[test]
fn the_environment_overrides_the_file() {
    let settings = check(
        SOUND,
        &[
            ("VERST_AGENT__UPLINK__PORT", "9000"),
            ("VERST_AGENT__UPLINK__BROKER", "other.example"),
            ("VERST_AGENT__STORE__QUOTA_BYTES", "5000"),
            ("VERST_AGENT__LISTEN", "[{ endpoint = '127.0.0.1:80' }]"),
            ("VERST_AGENT_LOG", "ignored"),
            ("VERST_AGENTS__NAME", "ignored"),
        ],
    );
    let settings = settings.unwrap();
    assert_eq!(
        (settings.uplink.port, settings.uplink.broker.as_str()),
        (9_000, "other.example")
    );
    assert_eq!(settings.store.quota_bytes, 5_000);
    assert_eq!(settings.listen.len(), 1);
}

#[test]
fn an_override_that_looks_like_a_number_may_be_meant_as_text() {
    let settings = check(SOUND, &[("VERST_AGENT__NAME", "12345")]).unwrap();
    assert_eq!(settings.name, "12345");
}

#[test]
fn an_override_is_one_value_whatever_it_contains() {
    let text = "'a'\n[store]\nquota_bytes = 5000";
    let settings = check(SOUND, &[("VERST_AGENT__NAME", text)]).unwrap();
    assert_eq!(settings.name, text);
    assert_eq!(settings.store, Store::default());
}

#[test]
fn faults_of_overrides_name_the_variable() {
    let environment = [
        ("VERST_AGENT__UPLINK__PORT", "many"),
        ("VERST_AGENT__STORE__QUOTA_BYTES", "1"),
        ("VERST_AGENT__COLOUR", "red"),
        ("VERST_AGENT____NAME", "x"),
    ];
    assert_eq!(
        faults(SOUND, &environment),
        [
            "VERST_AGENT__COLOUR: colour: no such setting here: expected one of `name`, `listen`, `uplink`, `store`",
            "VERST_AGENT__STORE__QUOTA_BYTES: store.quota_bytes: 1 bytes are fewer than 1000",
            "VERST_AGENT__UPLINK__PORT: uplink.port: invalid type: string \"many\", expected u16",
            "VERST_AGENT____NAME: names no setting: write VERST_AGENT__TABLE__KEY",
        ]
    );
}

#[test]
fn the_value_of_a_secret_is_never_shown() {
    let text = format!("{SOUND}password = 31337\n");
    let found = faults(&text, &[]);
    assert_eq!(
        found,
        ["agent.toml:6: uplink.password: its value is of the wrong kind or form (not shown)"]
    );
    let found = faults(SOUND, &[("VERST_AGENT__UPLINK__PASSWORD__X", "31337")]);
    assert_eq!(found.len(), 1);
    assert!(!found[0].contains("31337"), "{found:?}");
}

#[test]
fn a_missing_file_names_its_path_and_the_next_step() {
    let path = Path::new("/nonexistent/agent.toml");
    let fault = load::<Settings>(path, "VERST_TEST_NOWHERE")
        .unwrap_err()
        .to_string();
    assert!(
        fault.starts_with("/nonexistent/agent.toml: cannot be read: "),
        "{fault}"
    );
    assert!(
        fault.ends_with("create it, or name another file with --config"),
        "{fault}"
    );
}

#[test]
fn a_file_on_disk_is_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.toml");
    std::fs::write(&path, SOUND).unwrap();
    assert_eq!(
        load::<Settings>(&path, "VERST_TEST_NOWHERE").unwrap(),
        check(SOUND, &[]).unwrap()
    );
}

#[test]
fn programs_can_ask_a_fault_for_its_parts() {
    let all = check("name = 1\n", &[("VERST_AGENT__UPLINK", "2")]).unwrap_err();
    assert_eq!(all.path(), Path::new("agent.toml"));
    assert_eq!(all.faults()[0].line(), Some(1));
    assert_eq!(all.faults()[0].key(), "name");
    assert_eq!(all.faults()[1].variable(), Some("VERST_AGENT__UPLINK"));
}

#[test]
fn a_name_of_too_many_levels_is_a_fault() {
    let name = |levels: usize| format!("VERST_AGENT{}", "__X".repeat(levels));
    let said = |levels| faults(SOUND, &[(&name(levels), "1")]).join("\n");
    assert!(said(16).contains("no such setting"), "{}", said(16));
    assert!(said(17).contains("names no setting"), "{}", said(17));
}

#[test]
fn more_faults_than_are_looked_for_end_the_search() {
    let text: String = (0..400).map(|n| format!("unknown_{n} = 1\n")).collect();
    let found = faults(&format!("{text}{SOUND}"), &[]);
    assert_eq!(found.len(), 256);
}
