//! `LIMITS.md` and the code agree: each value that it names is the one in force, each test that it
//! names exists, and no limit of the wire, of the broker or of its settings is missing in it.
//!
//! A line names its value as `` `place` `NAME` = `value` ``: a constant of a crate, or a key of a
//! shipped configuration file, which a test of its own program holds to the defaults.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

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
        .filter(|(_, _, _, tests)| !tests.contains("testbed "))
        .flat_map(|(_, _, _, tests)| quoted(tests))
        .filter(|test| !text.contains(&format!("fn {test}(")))
        .collect();
    assert!(missing.is_empty(), "LIMITS.md names no tests: {missing:#?}");
}

#[test]
fn no_limit_of_the_wire_and_of_the_broker_is_missing_in_the_table() {
    let table = fs::read_to_string(root().join("LIMITS.md")).unwrap();
    let known: BTreeSet<(&str, &str)> = lines(&table)
        .into_iter()
        .map(|(place, name, _, _)| (place, name))
        .collect();
    let wire = fs::read_to_string(root().join("proto/src/limits.rs")).unwrap();
    let constants = wire.lines().filter_map(|line| {
        let name = line.strip_prefix("pub const ")?.split(':').next()?;
        Some(("proto", name.to_owned()))
    });
    let is_number = |value: &str| value.replace('_', "").parse::<f64>().is_ok();
    let keys = settings("broker.toml");
    let keys = keys.iter().filter(|(_, value)| is_number(value));
    let keys = keys.map(|(key, _)| ("broker.toml", key.clone()));
    let missing: Vec<_> = constants
        .chain(keys)
        .filter(|(place, name)| !known.contains(&(*place, name.as_str())))
        .collect();
    assert!(missing.is_empty(), "LIMITS.md lacks {missing:#?}");
}
