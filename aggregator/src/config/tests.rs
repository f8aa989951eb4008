use std::path::Path;

use service::config::{ConfigFaults, parse};

use super::*;

const SHIPPED: &str = include_str!("../../../deploy/config/aggregator.toml");

fn read(text: &str) -> Result<Config, ConfigFaults> {
    parse(Path::new("aggregator.toml"), text, ENV_PREFIX, [])
}

#[test]
fn the_shipped_file_is_sound_and_states_the_defaults() {
    let shipped = read(SHIPPED).unwrap();
    let sparse = format!(
        "[mqtt]\naddress = \"localhost:8883\"\nca = \"{}\"\ncertificate = \"{}\"\nkey = \"{}\"\n\
         [database]\nurl = \"host=/run/postgresql user=verst dbname=verst\"\n",
        shipped.mqtt.ca.display(),
        shipped.mqtt.certificate.display(),
        shipped.mqtt.key.display(),
    );
    let defaults = read(&sparse).unwrap();
    assert_eq!(format!("{shipped:?}"), format!("{defaults:?}"));
}

#[test]
fn all_faults_are_named_with_their_lines() {
    let text = SHIPPED
        .replace("horizon_days = 60", "horizon_days = 100")
        .replace("renew_ms = 1_000", "renew_ms = 9_000")
        .replace("localhost:8883", "localhost");
    let faults = read(&text).unwrap_err();
    let keys: Vec<&str> = faults.faults().iter().map(|fault| fault.key()).collect();
    assert_eq!(
        keys,
        ["mqtt.address", "raw.retention_days", "lease.renew_ms"]
    );
    assert!(
        faults.faults().iter().all(|fault| fault.line().is_some()),
        "{faults}"
    );
}

#[test]
fn more_brokers_than_an_aggregator_serves_are_a_fault() {
    let faults = |further: u16| {
        let mut config = read(SHIPPED).unwrap();
        config.mqtt.further_addresses = (1..=further).map(|n| format!("b:{n}")).collect();
        service::config::Validate::faults(&config)
    };
    assert_eq!(faults(7), []);
    assert_eq!(faults(8)[0].key, "mqtt.further_addresses");
}

#[test]
fn the_password_is_not_shown() {
    let text = SHIPPED.replace("host=/run/postgresql user", "password=hunter2 user");
    assert!(!format!("{:?}", read(&text).unwrap()).contains("hunter2"));
}
