//! What the real buffer finds on a disk after a cut, and what it must.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::Range;
use std::path::Path;

use edge_agent::buffer::{Alarm, BufferSettings, ForeignStore};
use proto::{DeviceId, StreamId};

use super::work::{number_of, passage, settings};
use crate::held::{self, HeldError, with_buffer};
use crate::system::DEVICE;

/// A unit that the buffer does not belong to.
const STRANGER: &str = "stranger";

/// Passages that the openings add, to be found by the next; the writer's have smaller numbers.
const NEWCOMERS: u64 = 1_000_000;

/// What was said before a cut, in its order.
#[derive(Debug, Default)]
pub(super) struct Promises {
    stream: Option<String>,
    receipted: u64,
    acknowledged: u64,
    /// Checksums of the summaries that left since the last receipt.
    summaries: BTreeSet<u64>,
}

impl Promises {
    /// Of the lines said.
    pub(super) fn of<'a>(said: impl Iterator<Item = &'a str>) -> Self {
        let mut promises = Self::default();
        for line in said {
            let Some((word, value)) = line.trim().split_once(' ') else {
                continue;
            };
            let number = value.parse().unwrap_or(0);
            match word {
                "stream" => promises.stream = Some(value.to_owned()),
                "acknowledged" => promises.acknowledged = number,
                "sealed" => {
                    promises.summaries.insert(number);
                }
                "receipted" => {
                    promises.receipted = number;
                    promises.summaries.clear();
                }
                _ => {}
            }
        }
        promises
    }

    /// Passages that must be there.
    pub(super) fn passages(&self) -> Range<u64> {
        self.receipted..self.acknowledged
    }

    /// Summaries that must be there.
    pub(super) fn summaries(&self) -> usize {
        self.summaries.len()
    }
}

/// What is in a buffer.
#[derive(Debug, Default)]
struct Found {
    /// By passage: under which number of which stream.
    passages: BTreeMap<u64, Vec<(StreamId, u64)>>,
    summaries: BTreeSet<u64>,
    alarms: Vec<Alarm>,
}

/// Opens the buffer below `root` as often as asked and compares. An empty list: all is well.
pub(super) fn faults(
    root: &Path,
    promises: &Promises,
    opens: u64,
) -> Result<Vec<String>, HeldError> {
    let mut faults = Vec::new();
    for open in 0..opens {
        let newcomer = NEWCOMERS + open;
        let found = look(root, newcomer)?;
        if !found.alarms.is_empty() {
            faults.push(format!(
                "open {open}: the power cut is taken for damage: {:?}",
                found.alarms
            ));
        }
        let missing = promises.passages();
        let missing = missing.filter(|n| !found.passages.contains_key(n));
        let missing: Vec<u64> = missing.collect();
        if let (Some(first), Some(last)) = (missing.first(), missing.last()) {
            let count = missing.len();
            faults.push(format!(
                "open {open}: {count} acknowledged passages are missing, from {first} to {last}"
            ));
        }
        if open == 0 {
            // The receipt that it gives frees them before the next.
            let lost = promises.summaries.difference(&found.summaries).count();
            if lost > 0 {
                faults.push(format!("{lost} summaries that left are missing or changed"));
            }
        } else if !found.passages.contains_key(&(newcomer - 1)) {
            faults.push(format!(
                "open {open}: what the run before accepted is missing"
            ));
        }
        faults.extend(misnumbered(&found, promises));
    }
    Ok(faults)
}

/// Opens the buffer below `root` in the name of another unit, which must find nothing of it, and
/// carries it back. Nothing: all is well.
pub(super) fn visit(root: &Path) -> Result<Option<String>, HeldError> {
    let own = settings(root);
    let strangers = BufferSettings {
        device: DeviceId::new(STRANGER).map_err(|error| HeldError::Other(error.to_string()))?,
        ..own.clone()
    };
    let held = with_buffer(&strangers, held::read)?;
    let aside = own.directory.join("foreign-1");
    let alarm = Alarm::StoreForeign(ForeignStore {
        directory: aside.clone(),
        begun_for: Some(own.device),
    });
    if !held.passages.is_empty() || !held.lost.is_empty() || held.alarms != [alarm] {
        let passages = held.passages.len();
        let alarms = held.alarms;
        return Ok(Some(format!(
            "the store is not known to be of {DEVICE}: {STRANGER} finds {passages} passages, {alarms:?}"
        )));
    }
    let carried = root.join("carried");
    fs::rename(aside, &carried)?;
    fs::remove_dir_all(&own.directory)?;
    fs::rename(carried, own.directory)?;
    Ok(None)
}

/// A passage has one number for ever, and a number one passage: then the centre counts nothing twice,
/// whatever comes back from the dead.
fn misnumbered(found: &Found, promises: &Promises) -> Option<String> {
    let wrong = found
        .passages
        .iter()
        .find(|(passage, places)| match places.as_slice() {
            [(stream, number)] if **passage < NEWCOMERS => {
                *number != **passage + 1
                    || promises
                        .stream
                        .as_ref()
                        .is_some_and(|s| *s != stream.to_string())
            }
            [(stream, _)] => promises
                .stream
                .as_ref()
                .is_some_and(|s| *s == stream.to_string()),
            _ => true,
        });
    wrong.map(|(passage, places)| format!("passage {passage} stands under {places:?}"))
}

fn look(root: &Path, newcomer: u64) -> Result<Found, HeldError> {
    with_buffer(&settings(root), async |buffer| {
        let held = held::read(buffer).await?;
        buffer.append(vec![passage(newcomer)]).await?;
        let mut passages = BTreeMap::<u64, Vec<(StreamId, u64)>>::new();
        for (at, passage) in &held.passages {
            if let Some(number) = number_of(passage) {
                passages.entry(number).or_default().push(*at);
            }
        }
        Ok(Found {
            passages,
            summaries: held.summaries,
            alarms: held.alarms,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receipt_ends_what_was_promised_before_it() {
        let said = [
            "stream a",
            "acknowledged 5",
            "sealed 7",
            "receipted 5",
            "acknowledged 9",
            "sealed 8",
        ];
        let promises = Promises::of(said.into_iter());
        assert_eq!(promises.passages(), 5..9);
        assert_eq!(promises.summaries, BTreeSet::from([8]));
    }
}
