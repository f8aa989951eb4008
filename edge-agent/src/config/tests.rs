use super::*;

const SHIPPED: &str = include_str!("../../../deploy/config/edge-agent.toml");

fn parse(text: &str) -> Result<Config, String> {
    let parsed = service::config::parse(Path::new("a.toml"), text, ENV_PREFIX, []);
    parsed.map_err(|faults| faults.to_string())
}

fn faulty(section: &str, lines: &str) -> String {
    let needed = [
        ("device", "id = \"KV1\"\n"),
        ("buffer", "directory = \"/b\"\n"),
        (
            "uplink",
            "broker = \"b:1\"\nca = \"/a\"\ncertificate = \"/c\"\nkey = \"/k\"\n",
        ),
    ];
    let mut text: String = needed
        .iter()
        .map(|(name, keys)| {
            let more = if *name == section { lines } else { "" };
            format!("[{name}]\n{keys}{more}\n")
        })
        .collect();
    if !needed.iter().any(|(name, _)| *name == section) {
        text.push_str(&format!("[{section}]\n{lines}\n"));
    }
    parse(&text).map_or_else(|faults| faults, |_| String::new())
}

#[test]
fn the_shipped_file_states_every_default() {
    let shipped = parse(SHIPPED).unwrap();
    let commented = SHIPPED
        .replace("\n# ", "\n#! ")
        .replace("\n#", "\n")
        .replace("\n! ", "\n# ");
    let spelled_out = parse(&commented).unwrap();
    let show = |config: &Config| {
        let mut config = config.clone();
        // Without a default: shown as examples.
        config.ingest.token_file = None;
        config.ops.token_file = None;
        config.plates = PlatesConfig::default();
        config.buffer.quota_bytes = None;
        config.uplink.further_brokers = Vec::new();
        config.uplink.server_name = None;
        config.uplink.rate_kbit_s_max = None;
        config.uplink.daily_mb_max = None;
        config.uplink.backlog_hours = Vec::new();
        format!("{config:#?}")
    };
    assert_eq!(show(&shipped), show(&spelled_out));
}

#[test]
fn what_other_machines_can_reach_needs_consent_and_a_token() {
    let open = "listen = \"0.0.0.0:8480\"\n";
    for section in ["ingest", "ops"] {
        let faults = faulty(section, open);
        let consent = format!("{section}.allow_remote = true");
        let token = format!("{section}.token_file: missing");
        assert!(faults.contains(&consent), "{faults}");
        assert!(faults.contains(&token), "{faults}");
        let consent = "allow_remote = true\ntoken_file = \"/t\"\n";
        assert_eq!(faulty(section, &format!("{open}{consent}")), "");
        assert_eq!(faulty(section, "listen = \"unix:/run/x.sock\"\n"), "");
    }
}

#[test]
fn values_beyond_their_range_are_faults_of_their_key() {
    for (section, line, fault) in [
        ("device", "colour = 1", "device.colour"),
        (
            "uplink",
            "batch_passages = 0",
            "uplink.batch_passages: 0 is outside 1 to 4096",
        ),
        ("uplink", "event_wait_ms = 60001", "uplink.event_wait_ms"),
        ("uplink", "server_name = \"a b\"", "uplink.server_name"),
        (
            "uplink",
            "further_brokers = [\"c:2\", \"c\"]",
            "a.toml:12: uplink.further_brokers[1]: \"c\" is not host:port",
        ),
        (
            "uplink",
            "further_brokers = [\"c:2\", \"b:1\"]",
            "uplink.further_brokers[1]: \"b:1\" stands here twice",
        ),
        (
            "uplink",
            "further_brokers = [\"c:1\", \"c:2\", \"c:3\", \"c:4\", \"c:5\", \"c:6\", \"c:7\", \"c:8\"]",
            "uplink.further_brokers: 8 brokers are more than 7",
        ),
        (
            "uplink",
            "backlog_hours = [\"22:00-06:00\", \"7-8\"]",
            "a.toml:12: uplink.backlog_hours[1]: ",
        ),
        (
            "uplink",
            "utc_offset = \"MSK\"",
            "\"MSK\" is not an offset from UTC",
        ),
        (
            "uplink",
            "daily_mb_max = 0",
            "a.toml:12: uplink.daily_mb_max: 0 is outside 1 to 10000000",
        ),
        ("uplink", "backlog_share = 91", "uplink.backlog_share"),
        ("uplink", "rate_kbit_s_max = 7", "uplink.rate_kbit_s_max"),
        ("uplink", "daily_reserve = 101", "uplink.daily_reserve"),
        ("buffer", "quota_bytes = 1", "buffer.quota_bytes"),
        (
            "plates",
            "policy = \"hash\"",
            "plates.policy: hash needs plates.key_file",
        ),
        (
            "status",
            "socket = \"x\"",
            "status.socket: x is not an absolute path",
        ),
        ("log", "level = \"loud=loud\"", "log.level"),
    ] {
        let faults = faulty(section, line);
        assert!(faults.contains(fault), "{line}: {faults}");
    }
}

#[test]
fn all_faults_are_named_with_their_lines() {
    let text = "[device]\nid = \"a/b\"\n[buffer]\ndirectory = \"b\"\n[uplink]\nbroker = \"b\"\n\
                ca = \"/a\"\ncertificate = \"/c\"\nkey = \"/k\"\n";
    let faults = parse(text).unwrap_err();
    for fault in [
        "a.toml:2: device.id",
        "a.toml:4: buffer.directory",
        "a.toml:6: uplink.broker",
    ] {
        assert!(faults.contains(fault), "{faults}");
    }
}
