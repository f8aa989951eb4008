//! `LIMITS.md` and the code agree: each value that it names is the one in force, each test that it
//! names exists, and no limit is missing in it: no constant of the product whose name or type says
//! that it is one, no setting that is a number, and no queue whose length has no name.
//!
//! A line names its value as `` `place` `NAME` = `value` ``: a constant of a crate, or a key of a
//! shipped configuration file, which a test of its own program holds to the defaults.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use testbed::bench::bounds;

const CRATES: [(&str, &str); 6] = [
    ("proto", "proto"),
    ("service", "deploy/service"),
    ("broker", "broker"),
    ("edge-agent", "edge-agent"),
    ("aggregator", "aggregator"),
    ("testbed", "testbed"),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .into()
}

/// The text of all sources below a folder, blanks made single.
fn sources(folder: &Path) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("target") {
            text += &sources(&path);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text += &fs::read_to_string(&path).unwrap();
        }
    }
    text
}

fn single_blanks(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// `section.key` and value of every key in a shipped file, whether it stands there or is shown as a
/// comment.
fn settings(file: &str) -> BTreeMap<String, String> {
    let text = fs::read_to_string(root().join("deploy/config").join(file)).unwrap();
    let mut section = "";
    let mut found = BTreeMap::new();
    for line in text.lines() {
        if let Some(name) = line
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        {
            section = name;
        }
        let line = line.strip_prefix('#').unwrap_or(line).trim();
        if let Some((key, value)) = line.split_once(" = ")
            && key
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte == b'_')
        {
            found.insert(format!("{section}.{key}"), value.trim().to_owned());
        }
    }
    found
}

/// The words in backquotes of a cell.
fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// Place, name, value and last cell of each line that names a value.
fn lines(table: &str) -> Vec<(&str, &str, &str, &str)> {
    let rows = table.lines().filter(|line| line.starts_with("| "));
    rows.filter_map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").collect();
        match *quoted(cells.get(2)?) {
            [place, name, value] => Some((place, name, value, *cells.last()?)),
            _ => None,
        }
    })
    .collect()
}

#[test]
fn every_value_in_the_table_of_limits_is_the_one_in_force() {
    let table = fs::read_to_string(root().join("LIMITS.md")).unwrap();
    let named = lines(&table);
    assert!(named.len() > 100, "only {} lines name a value", named.len());
    let texts: BTreeMap<&str, String> = CRATES
        .iter()
        .map(|(name, folder)| {
            (
                *name,
                single_blanks(&sources(&root().join(folder).join("src"))),
            )
        })
        .collect();
    let mut wrong = Vec::new();
    for (place, name, value, _) in named {
        let right = if place.ends_with(".toml") {
            settings(place)
                .get(name)
                .is_some_and(|found| found == value)
        } else {
            let text = &texts[place];
            let constant = |text: &str| {
                let start = format!("const {name}: ");
                text.match_indices(&start).any(|(at, _)| {
                    let ends = text[at..].split_once(" = ");
                    ends.is_some_and(|(_, rest)| rest.starts_with(&format!("{value};")))
                })
            };
            // A field of the defaults has no constant of its own.
            constant(text) || text.contains(&format!(" {name}: {value},"))
        };
        if !right {
            wrong.push(format!("{place} {name} is not {value}"));
        }
    }
    assert!(wrong.is_empty(), "LIMITS.md is not true: {wrong:#?}");
}

#[test]
fn every_test_in_the_table_of_limits_exists() {
    let table = fs::read_to_string(root().join("LIMITS.md")).unwrap();
    let mut text = String::new();
    for (_, folder) in CRATES {
        text += &sources(&root().join(folder));
    }
    let missing: BTreeSet<&str> = lines(&table)
        .into_iter()
        .flat_map(|(_, _, _, tests)| quoted(tests))
        .filter(|test| !text.contains(&format!("fn {test}(")))
        .collect();
    assert!(missing.is_empty(), "LIMITS.md names no tests: {missing:#?}");
}

/// Constants and settings that look like limits and are none, each group with its reason.
const NONE: [(&str, &str, &[&str]); 26] = [
    (
        "bits of the wire's form",
        "proto",
        &["WIDTH_MAX", "WIRE_VERSION_MIN"],
    ),
    (
        "one less than a row of the table",
        "proto",
        &["LANE_MAX", "CLASS_MAX"],
    ),
    ("a unit of time", "proto", &["BUCKET_MS"]),
    ("a unit of time", "broker", &["DAY"]),
    ("a unit of time", "edge-agent", &["MINUTE_MS", "DAY_MS"]),
    (
        "a unit of time, or its beginning",
        "aggregator",
        &["MINUTE_MS", "HOUR_MS", "DAY_MS", "EPOCH_MS"],
    ),
    (
        "how often something is looked at",
        "service",
        &["ASK_AGAIN"],
    ),
    ("a pause before trying again", "service", &["ACCEPT_PAUSE"]),
    (
        "how often something is looked at",
        "broker",
        &[
            "INTERVAL",
            "LOOK",
            "QUEUE_PAUSE",
            "ROUTER_PAUSE",
            "ACCEPT_PAUSE",
        ],
    ),
    (
        "how often something is looked at or written down",
        "edge-agent",
        &[
            "IDLE",
            "RETRY",
            "MEASURE",
            "LOCK_POLL",
            "FILES_EVERY",
            "SLEEP_MS_MAX",
            "SAMPLE_MS",
            "DAY_SAMPLE_MS",
            "WRITE_EVERY_MS",
            "CENTRE_TIME_EVERY_MS",
            "RECEIPT_LINGER",
        ],
    ),
    (
        "how often something is looked at",
        "aggregator",
        &["EVERY", "AGAIN", "GAUGES", "BACKLOG", "LOOK", "LINGER"],
    ),
    ("the form of MQTT", "broker", &["HEADER_BYTES_MAX"]),
    (
        "room to begin with, not a bound",
        "broker",
        &["READ_BYTES_MIN"],
    ),
    (
        "as far as timers reach",
        "broker",
        &["CERTIFICATE_WAIT_MAX"],
    ),
    ("what clocks may be apart", "broker", &["CLOCK_SLACK"]),
    ("a row under the name of the wire", "broker", &["PROMPT"]),
    (
        "follows from a row of the table",
        "edge-agent",
        &[
            "GROUP_PASSAGES_MAX",
            "REQUESTS_MAX",
            "UNACKNOWLEDGED_MAX",
            "PACKET_BYTES_MAX",
            "PROMPT_SURE_MS",
            "SUMMARIES_AHEAD_MS",
        ],
    ),
    (
        "follows from a row of the table",
        "aggregator",
        &["PACKET_BYTES_MAX"],
    ),
    (
        "a chunk with a good checksum was written by this program",
        "edge-agent",
        &["UNPACKED_BYTES_MAX"],
    ),
    (
        "room to begin with, not a bound",
        "edge-agent",
        &["SLOTS_MIN"],
    ),
    (
        "where work is done, not how much",
        "edge-agent",
        &["INLINE_BODY_BYTES_MAX"],
    ),
    (
        "work of one commit: the rest with the next",
        "edge-agent",
        &["EXPIRED_BLOCKS_MAX"],
    ),
    (
        "over which something is measured",
        "edge-agent",
        &[
            "SPAN_MS",
            "TOLD_AFTER_MS",
            "ROUND_MS_MIN",
            "USED_MS",
            "USUAL_WAIT_S",
        ],
    ),
    (
        "what whoever is refused is told",
        "edge-agent",
        &["RETRY_FULL_S", "RETRY_SOON_S"],
    ),
    (
        "what whoever asks is told",
        "aggregator",
        &[
            "AWAY_RETRY_S",
            "BUSY_RETRY_S",
            "DEFAULT_RANGE_MS",
            "BACKLOG_AFTER_MS",
            "SILENT_AFTER_MS",
            "CLONED_FOR_MS",
        ],
    ),
    (
        "0: as many threads as cores",
        "aggregator.toml",
        &["limits.decode_threads"],
    ),
];

/// The sources of a program without what only its tests are compiled with.
fn product(folder: &Path) -> Vec<String> {
    let mut files = Vec::new();
    let mut only_tests = BTreeSet::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let (text, modules) = without_tests(&fs::read_to_string(&path).unwrap());
                let stem = path.file_stem().unwrap();
                let inside = match stem.to_str().unwrap() {
                    "mod" | "lib" | "main" => path.parent().unwrap().to_owned(),
                    _ => path.with_extension(""),
                };
                only_tests.extend(modules.into_iter().map(|name| inside.join(name)));
                files.push((path, text));
            }
        }
    }
    let shipped = |path: &Path| {
        let whole = path.with_extension("");
        !whole.ancestors().any(|part| only_tests.contains(part))
    };
    let files = files.into_iter().filter(|(path, _)| shipped(path));
    files.map(|(_, text)| text).collect()
}

/// A text without its modules of tests, which end at a brace in the first column, and the names of
/// those that are files.
fn without_tests(text: &str) -> (String, Vec<String>) {
    let (mut kept, mut names) = (String::new(), Vec::new());
    let mut parts = text.split("#[cfg(test)]\n");
    kept += parts.next().unwrap();
    for part in parts {
        let (head, rest) = part.split_once('\n').unwrap();
        match head.rsplit(' ').next().unwrap().strip_suffix(';') {
            Some(name) if head.contains("mod ") => {
                names.push(name.to_owned());
                kept += rest;
            }
            _ if head.contains("mod ") => {
                kept += rest.split_once("\n}\n").map_or("", |(_, after)| after)
            }
            _ => kept += part,
        }
    }
    (kept, names)
}

/// Names and values of the constants of a text that are limits, by name or type.
fn limits_of(text: &str) -> Vec<(String, String)> {
    let text = single_blanks(text);
    let constants = text.split("const ").skip(1).filter_map(|rest| {
        let (name, rest) = rest.split_once(": ")?;
        let (kind, rest) = rest.split_once(" = ")?;
        let (value, _) = rest.split_once(';')?;
        let by_name = ["_MAX", "_MIN", "_MS", "_S"];
        let named = by_name.iter().any(|ending| name.ends_with(ending));
        let upper = name
            .bytes()
            .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_');
        (upper && (named || kind == "Duration")).then(|| (name.to_owned(), value.to_owned()))
    });
    constants.collect()
}

#[test]
fn no_limit_of_the_product_is_missing_in_the_table() {
    let table = fs::read_to_string(root().join("LIMITS.md")).unwrap();
    let known: BTreeSet<(&str, &str, &str)> = lines(&table)
        .into_iter()
        .map(|(place, name, value, _)| (place, name, value))
        .collect();
    let is_none = |place: &str, name: &str| {
        let mut groups = NONE.iter().filter(|(_, of, _)| *of == place);
        groups.any(|(_, _, names)| names.contains(&name))
    };
    let (mut missing, mut needed) = (BTreeSet::new(), BTreeSet::new());
    let mut judge = |place: &'static str, name: String, value: String| {
        if is_none(place, &name) {
            needed.insert((place, name));
        } else if !known.contains(&(place, name.as_str(), value.as_str())) {
            missing.insert(format!("{place} {name} = {value}"));
        }
    };
    let mut all = 0;
    for (place, folder) in CRATES.into_iter().filter(|(place, _)| *place != "testbed") {
        for text in product(&root().join(folder).join("src")) {
            for (name, value) in limits_of(&text) {
                all += 1;
                judge(place, name, value);
            }
        }
    }
    assert!(all > 150, "only {all} constants are limits");
    let wire = fs::read_to_string(root().join("proto/src/limits.rs")).unwrap();
    for line in wire
        .lines()
        .filter_map(|line| line.strip_prefix("pub const "))
    {
        let (name, rest) = line.split_once(": ").unwrap();
        let value = rest.split_once(" = ").unwrap().1.trim_end_matches(';');
        judge("proto", name.to_owned(), value.to_owned());
    }
    let is_number = |value: &str| value.replace('_', "").parse::<f64>().is_ok();
    for file in ["broker.toml", "edge-agent.toml", "aggregator.toml"] {
        let keys = settings(file).into_iter();
        for (key, value) in keys.filter(|(_, value)| is_number(value)) {
            judge(file, key, value);
        }
    }
    assert!(missing.is_empty(), "LIMITS.md lacks {missing:#?}");
    for (_, place, names) in NONE {
        for name in names {
            let stands = needed.contains(&(place, (*name).to_owned()));
            assert!(stands, "{place} {name} is excepted and does not exist");
        }
    }
}

/// What programs take of memory in all follows from their limits, and the benchmarks hold them to it.
#[test]
fn the_memory_of_broker_and_aggregator_is_what_their_limits_add_up_to() {
    let table = fs::read_to_string(root().join("LIMITS.md")).unwrap();
    for (program, mib) in [
        ("broker", bounds::broker_mib(0)),
        ("aggregator", bounds::aggregator_mib()),
    ] {
        let stated = format!("| {program} | {mib:.0} MiB ");
        assert!(table.contains(&stated), "LIMITS.md lacks {stated:?}");
    }
}

/// A queue has a name: a number in the call that makes it could not stand in the table.
#[test]
fn every_queue_of_the_product_has_a_named_length() {
    let mut wrong = Vec::new();
    for (place, folder) in CRATES.into_iter().filter(|(place, _)| *place != "testbed") {
        for text in product(&root().join(folder).join("src")) {
            for call in [
                "mpsc::channel",
                "broadcast::channel",
                "flume::bounded",
                "sync_channel",
            ] {
                for (at, _) in text.match_indices(call) {
                    let after = text[at + call.len()..].split_once('(').unwrap().1;
                    let length = after.split(')').next().unwrap();
                    let number = length.replace('_', "").parse::<u64>();
                    if number.is_ok_and(|number| number > 1) {
                        wrong.push(format!("{place}: {call}({length})"));
                    }
                }
            }
            for call in ["unbounded_channel(", "flume::unbounded("] {
                assert!(!text.contains(call), "{place}: {call}");
            }
        }
    }
    assert!(wrong.is_empty(), "without a name: {wrong:#?}");
}
