//! From the document to the typed struct, collecting every complaint of serde on the way. Pure.
//!
//! serde stops at the first error. So each error is noted, and what caused it replaced by a
//! stand-in that the type accepts, or taken out, until the rest reads or nothing helps any more.

use serde::de::DeserializeOwned;
use serde_path_to_error::Segment;
use toml::Value;

use super::document::{Document, Step};
use super::faults::{Fault, LocatedFault};

/// Errors of serde looked at before giving up: far more than a person mends at once.
const ATTEMPTS_MAX: usize = 256;

/// Keys that end like this hold secrets: their values are never quoted.
const SECRET_ENDINGS: [&str; 8] = [
    "password",
    "secret",
    "token",
    "key_hex",
    "passphrase",
    "credentials",
    "dsn",
    "private_key",
];

/// The settings, read from the document as far as stand-ins for what is at fault allow.
///
/// None when a fault has no stand-in; then checks that need the whole struct could not run.
pub(super) fn read<T: DeserializeOwned>(
    document: &mut Document,
    faults: &mut Vec<LocatedFault>,
) -> Option<T> {
    let mut blamed = Vec::new();
    for _ in 0..ATTEMPTS_MAX {
        let complaint = match attempt::<T>(document) {
            Ok(settings) => return Some(settings),
            Err(complaint) => complaint,
        };
        let Complaint { path, message } = complaint;
        if document.reread_as_text(&path) {
            match attempt::<T>(document) {
                Err(again) if again.path == path => {}
                _ => continue,
            }
        }
        if !within(&blamed, &path) {
            faults.push(describe(document, &path, &message));
        }
        if !mend::<T>(document, &path, &message) {
            return None;
        }
        blamed.push(path);
    }
    None
}

/// What serde says about the entry at `path`.
#[derive(Debug, PartialEq)]
struct Complaint {
    path: Vec<Step>,
    message: String,
}

fn attempt<T: DeserializeOwned>(document: &Document) -> Result<T, Complaint> {
    serde_path_to_error::deserialize(document.to_value()).map_err(|error| {
        let path = error.path().iter().filter_map(|segment| match segment {
            Segment::Map { key } => Some(Step::Key(key.clone())),
            Segment::Seq { index } => Some(Step::Index(*index)),
            Segment::Enum { .. } | Segment::Unknown => None,
        });
        let mut path: Vec<_> = path.collect();
        let message = error.inner().message().trim().to_owned();
        path.extend(missing_field(&message).map(Step::Key));
        Complaint { path, message }
    })
}

/// The name in serde's text for a field that is not there.
fn missing_field(message: &str) -> Option<String> {
    let name = message.strip_prefix("missing field `")?;
    Some(name.split('`').next()?.to_owned())
}

fn within(blamed: &[Vec<Step>], path: &[Step]) -> bool {
    blamed.iter().any(|earlier| path.starts_with(earlier))
}

/// Makes the entry at `path` acceptable: no entry at all where it is not needed, or the first
/// stand-in that moves serde's complaint elsewhere, or no table around it.
fn mend<T: DeserializeOwned>(document: &mut Document, path: &[Step], message: &str) -> bool {
    // An empty table in the place of a missing one moves the complaint inwards, to be mended next.
    let moved =
        |document: &Document| attempt::<T>(document).map_or_else(|c| c.path != path, |_| true);
    let mut without = document.clone();
    if without.remove(path) && moved(&without) {
        *document = without;
        return true;
    }
    for value in stand_ins(message) {
        let mut candidate = document.clone();
        if candidate.stand_in(path, value) && moved(&candidate) {
            *document = candidate;
            return true;
        }
    }
    leave_out_around::<T>(document, path)
}

/// Takes out the nearest table around `path` that the type can do without.
fn leave_out_around<T: DeserializeOwned>(document: &mut Document, path: &[Step]) -> bool {
    (1..path.len()).rev().map(|end| &path[..end]).any(|around| {
        let mut without = document.clone();
        let moved = |document: &Document| {
            attempt::<T>(document).map_or_else(|c| !c.path.starts_with(around), |_| true)
        };
        let gone = without.remove(around) && moved(&without);
        if gone {
            *document = without;
        }
        gone
    })
}

/// One value of each kind that settings are made of, those that the message names first.
fn stand_ins(message: &str) -> Vec<Value> {
    // `unknown variant x, expected one of `a`, `b``: the quoted names after "expected".
    let expected = message
        .split_once("expected")
        .map_or("", |(_, names)| names);
    let named = expected
        .split('`')
        .skip(1)
        .step_by(2)
        .map(|name| Value::String(name.to_owned()));
    let text = [
        "",
        "x",
        "/x",
        "127.0.0.1:1",
        "127.0.0.1",
        "unix:/x",
        "http://x",
        "1s",
        "00",
    ];
    let text = text.into_iter().map(|text| Value::String(text.to_owned()));
    let other = [
        Value::Integer(1),
        Value::Float(1.0),
        Value::Boolean(false),
        Value::Array(Vec::new()),
        Value::Table(toml::Table::new()),
    ];
    named.chain(text).chain(other).collect()
}

fn describe(document: &Document, path: &[Step], message: &str) -> LocatedFault {
    let key = dotted(path);
    let missing = message.starts_with("missing field");
    let origin = document.origin_around(path);
    let problem = if missing {
        "is missing and has no default".to_owned()
    } else if let Some(allowed) = message.strip_prefix("unknown field ") {
        let allowed = allowed
            .split_once(", ")
            .map_or("no such setting", |(_, allowed)| allowed);
        format!("no such setting here: {allowed}")
    } else if is_secret(path) {
        "its value is of the wrong kind or form (not shown)".to_owned()
    } else {
        match document.scalar(path) {
            Some(value) if !message.contains(value.trim_matches('"')) => {
                format!("{message}, found {value}")
            }
            _ => message.to_owned(),
        }
    };
    LocatedFault {
        origin,
        fault: Fault { key, problem },
    }
}

fn is_secret(path: &[Step]) -> bool {
    path.iter().any(|step| match step {
        Step::Key(key) => {
            let key = key.to_lowercase();
            SECRET_ENDINGS.iter().any(|ending| key.ends_with(ending))
        }
        Step::Index(_) => false,
    })
}

fn dotted(path: &[Step]) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            Step::Key(key) if text.is_empty() => text.push_str(key),
            Step::Key(key) => {
                text.push('.');
                text.push_str(key);
            }
            Step::Index(index) => text.push_str(&format!("[{index}]")),
        }
    }
    text
}
