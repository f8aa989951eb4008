use super::*;

const LEAST: &str = "[listen]\ncertificate = 'c'\nkey = 'k'\nclient_ca = 'a'\n";

fn parse(text: &str) -> Result<Config, ConfigFaults> {
    service::config::parse(Path::new("broker.toml"), text, ENVIRONMENT_PREFIX, [])
}

fn faults(text: &str) -> String {
    faults_of(text).unwrap()
}

fn faults_of(text: &str) -> Option<String> {
    parse(text).err().map(|faults| faults.to_string())
}

#[test]
fn three_files_are_all_that_must_be_said() {
    let config = parse(LEAST).unwrap();
    let listen = ListenSettings::new(Path::new("c"), Path::new("k"), Path::new("a"));
    assert_eq!(config.listen, listen);
    assert_eq!(config.limits, Limits::default());
}

#[test]
fn the_example_shows_every_key_with_its_default() {
    let text = include_str!("../../../deploy/config/broker.toml");
    let config = parse(text).unwrap();
    assert_eq!(config.limits, Limits::default());
    assert_eq!(config.router, RouterSettings::default());
    assert_eq!(config.ops, OpsSettings::default());
    assert_eq!(config.log, LogSettings::default());
    assert_eq!(config.listen.address, default_address());
    assert_eq!(config.listen.reload_interval_s, default_reload_interval_s());
    let shown: Vec<_> = text
        .lines()
        .filter_map(|line| line.split_once(" = "))
        .collect();
    let known = serde_json::to_value(&config).unwrap();
    for key in known
        .as_object()
        .unwrap()
        .values()
        .flat_map(|part| part.as_object().unwrap().keys())
    {
        assert!(
            shown.iter().any(|(name, _)| name == key),
            "{key} is missing in the example"
        );
    }
}

#[test]
fn a_ring_that_a_shard_would_overrun_is_a_fault_that_names_the_way_out() {
    let fault = faults(&format!("{LEAST}[router]\ndevices_per_shard = 26\n"));
    assert!(
        fault.contains("broker.toml:6: router.devices_per_shard"),
        "{fault}"
    );
    assert!(
        fault.contains("raise router.segment_bytes to 532480 or more"),
        "{fault}"
    );
    let raised = format!("{LEAST}[router]\ndevices_per_shard = 26\nsegment_bytes = 532480\n");
    assert!(parse(&raised).is_ok());
}

#[test]
fn a_rate_by_which_one_unit_would_overrun_the_ring_is_a_fault() {
    let with = |bytes: u32| faults_of(&format!("{LEAST}[limits]\nbytes_per_s = {bytes}\n"));
    assert_eq!(with(2_097_152), None);
    let fault = with(2_097_153).unwrap();
    assert!(
        fault.contains("broker.toml:6: limits.bytes_per_s"),
        "{fault}"
    );
}

#[test]
fn every_fault_is_named_at_once() {
    let fault = faults(&format!(
        "{LEAST}[limits]\nhandshakes = 0\nbytes_per_s = 10\nspeed = 1\n[log]\nlevel = 'loud'\n"
    ));
    for key in [
        "limits.handshakes",
        "limits.bytes_per_s",
        "limits.speed",
        "log.level",
    ] {
        assert!(fault.contains(key), "{key} is missing in {fault}");
    }
}

#[test]
fn rumqttd_is_silent_unless_it_is_spoken_of() {
    let log = |level: &str| LogSettings {
        level: level.to_owned(),
        ..LogSettings::default()
    };
    assert_eq!(log("info").directives(), "info,rumqttd=off");
    assert_eq!(log("info,rumqttd=warn").directives(), "info,rumqttd=warn");
}
