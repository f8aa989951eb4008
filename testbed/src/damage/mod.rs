//! Damaged stores: flipped, zeroed and foreign bytes, files cut short and deleted.
//!
//! A few real stores are made, each with another history; every case damages a copy of one and opens
//! it. The buffer must open, take new passages, hand out what can be read under the number that it was
//! given, and state the rest as lost; and it must do so again at the next opening.
//!
//! Where the witness was damaged together with the store nobody knows what is missing at the unit; the
//! centre does (it knows how many were accepted). Such passages are counted, and are no fault.

mod specimen;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use edge_agent::buffer::Alarm;
use proto::StreamId;
use proto::ranges::{Seq, SeqSet};
use rand::{Rng as _, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use crate::clock;
use crate::held::{self, Held, HeldError, with_buffer};
use crate::powercut::work::passage;
use specimen::{HISTORIES, Specimen, copy, settings, specimen};

/// Within which a damaged store has to be open.
pub const OPEN_WITHIN: Duration = Duration::from_secs(10);

/// Passages that one flipped byte can cost: a chunk.
const CHUNK_PASSAGES: u64 = 64;

/// Passages that a case posts after the damage; the specimens' have smaller numbers.
const NEWCOMERS: u64 = 1_000_000;

/// What came of it.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Cases.
    pub cases: u64,
    /// Cases in which something was wrong.
    pub failed: u64,
    /// Passages without a receipt in the damaged stores.
    pub passages: u64,
    /// Of these, handed out afterwards.
    pub kept: u64,
    /// Of these, stated as lost.
    pub lost: u64,
    /// Of these, neither, for the witness was damaged as well: the centre finds them.
    pub unstated: u64,
    /// Stores that were moved aside.
    pub moved_aside: u64,
    /// The longest that an opening took.
    pub slowest_open_ms: u64,
    /// Openings that took longer than [`OPEN_WITHIN`].
    pub too_slow: u64,
    /// The first things that were wrong, each with the seed of its case.
    pub faults: Vec<String>,
    /// What was done, where there is one case.
    pub harm: Option<String>,
}

/// What was done to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Harm {
    Flip { bytes: u64 },
    Zero,
    Garbage,
    CutShort,
    Delete,
}

/// Damages copies of stores, one for each seed from `first_seed` on.
///
/// # Errors
/// The harness cannot work here; what is wrong with the buffer stands in the report.
pub fn run(first_seed: u64, cases: u64) -> Result<Report, HeldError> {
    let specimens: Vec<Specimen> = HISTORIES
        .into_iter()
        .map(specimen)
        .collect::<Result<_, _>>()?;
    let mut report = Report {
        cases,
        ..Report::default()
    };
    for seed in first_seed..first_seed + cases {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let specimen = &specimens[random.random_range(0..specimens.len())];
        let faults = case(specimen, &mut random, &mut report)
            .unwrap_or_else(|error| vec![error.to_string()]);
        if !faults.is_empty() {
            report.failed += 1;
            crate::held::list(&mut report.faults, seed, faults);
        }
    }
    Ok(report)
}

fn case(
    specimen: &Specimen,
    random: &mut ChaCha8Rng,
    report: &mut Report,
) -> Result<Vec<String>, HeldError> {
    let home = tempfile::tempdir()?;
    copy(specimen.home.path(), home.path())?;
    let mut files = files_below(home.path())?;
    let mut harms = Vec::new();
    for _ in 0..random.random_range(1..=3) {
        let Some(file) = files.get(random.random_range(0..files.len())).cloned() else {
            break;
        };
        let harm = damage(&file, random)?;
        if harm == Harm::Delete {
            files.retain(|known| *known != file);
        }
        let name = file.strip_prefix(home.path()).unwrap_or(&file);
        harms.push((name.display().to_string(), harm));
        if files.is_empty() {
            break;
        }
    }
    if report.cases == 1 {
        report.harm = Some(format!("{harms:?}"));
    }
    let mut faults = Vec::new();
    report.passages += specimen.promised.len() as u64;
    for open in 0..2 {
        let newcomer = NEWCOMERS + open;
        let began = clock::monotonic();
        let mut opened_ms = 0;
        let held = with_buffer(
            &settings(home.path(), specimen.quota_bytes),
            async |buffer| {
                opened_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
                buffer.append(vec![passage(newcomer)]).await?;
                held::read(buffer).await
            },
        )?;
        report.slowest_open_ms = report.slowest_open_ms.max(opened_ms);
        report.too_slow += u64::from(u128::from(opened_ms) > OPEN_WITHIN.as_millis());
        let is_there = |number: u64| {
            held.passages
                .values()
                .any(|held| *held == passage(number).passage)
        };
        if !(NEWCOMERS..=newcomer).all(is_there) {
            faults.push(format!("open {open}: a new passage is missing"));
        }
        let outcome = judge(specimen, &held, &harms);
        faults.extend(
            outcome
                .faults
                .into_iter()
                .map(|fault| format!("open {open}: {fault}")),
        );
        if open == 0 {
            report.kept += outcome.kept;
            report.lost += outcome.lost;
            report.unstated += outcome.unstated;
            let is_aside = |alarm: &&Alarm| matches!(alarm, Alarm::StoreQuarantined { .. });
            report.moved_aside += held.alarms.iter().filter(is_aside).count() as u64;
            if outcome.lost > 0 && held.alarms.is_empty() {
                faults.push("passages are lost and nobody is alarmed".to_owned());
            }
        }
    }
    if !faults.is_empty() {
        faults.insert(0, format!("{harms:?}"));
    }
    Ok(faults)
}

#[derive(Default)]
struct Outcome {
    kept: u64,
    lost: u64,
    unstated: u64,
    faults: Vec<String>,
}

fn judge(specimen: &Specimen, held: &Held, harms: &[(String, Harm)]) -> Outcome {
    let mut outcome = Outcome::default();
    for ((stream, number), promised) in &specimen.promised {
        let seq = Seq::new(*number).ok();
        let is_in = |sets: &BTreeMap<StreamId, SeqSet>| {
            let set = sets.get(stream);
            set.zip(seq).is_some_and(|(set, seq)| set.contains(seq))
        };
        match held.passages.get(&(*stream, *number)) {
            Some(found) if found == promised => outcome.kept += 1,
            Some(_) => outcome.faults.push(format!(
                "number {number} of {stream} is another passage now"
            )),
            None if is_in(&held.lost) => outcome.lost += 1,
            None => outcome.unstated += 1,
        }
    }
    let witness_is_sound = harms.iter().all(|(name, _)| !name.ends_with("witness"));
    if outcome.unstated > 0 && witness_is_sound {
        let count = outcome.unstated;
        outcome.faults.push(format!(
            "{count} passages are neither there nor stated as lost"
        ));
    }
    let flipped: Option<u64> = harms
        .iter()
        .map(|(name, harm)| match harm {
            _ if !name.ends_with("store/db") => Some(0),
            Harm::Flip { bytes } => Some(*bytes),
            _ => None,
        })
        .sum();
    let gone = outcome.lost + outcome.unstated;
    let too_many = flipped.filter(|bytes| witness_is_sound && gone > bytes * CHUNK_PASSAGES);
    if let Some(most) = too_many {
        outcome
            .faults
            .push(format!("{gone} passages are gone for {most} flipped bytes"));
    }
    outcome
}

/// Harms a file.
fn damage(path: &Path, random: &mut ChaCha8Rng) -> Result<Harm, HeldError> {
    let length = fs::metadata(path)?.len();
    let at = |random: &mut ChaCha8Rng| random.random_range(0..length.max(1));
    let harm = match random.random_range(0..10) {
        0..5 => Harm::Flip {
            bytes: random.random_range(1..=16),
        },
        5 => Harm::Zero,
        6 => Harm::Garbage,
        7 | 8 => Harm::CutShort,
        _ => Harm::Delete,
    };
    match harm {
        Harm::Delete => fs::remove_file(path)?,
        Harm::CutShort => File::options()
            .write(true)
            .open(path)?
            .set_len(at(random))?,
        Harm::Flip { bytes } if length > 0 => {
            let file = File::options().read(true).write(true).open(path)?;
            for _ in 0..bytes {
                let (place, mut byte) = (at(random), [0]);
                file.read_exact_at(&mut byte, place)?;
                byte[0] ^= random.random_range(1..=255_u8);
                file.write_all_at(&byte, place)?;
            }
        }
        Harm::Zero | Harm::Garbage if length > 0 => {
            let from = at(random);
            let count = random.random_range(1..=length - from);
            let mut bytes = vec![0; usize::try_from(count).unwrap_or(0)];
            if harm == Harm::Garbage {
                random.fill_bytes(&mut bytes);
            }
            File::options()
                .write(true)
                .open(path)?
                .write_all_at(&bytes, from)?;
        }
        _ => {}
    }
    Ok(harm)
}

/// Files below a directory, sled's main file three times: it is what there is most of.
fn files_below(directory: &Path) -> Result<Vec<PathBuf>, HeldError> {
    let mut files = Vec::new();
    let mut folders = vec![directory.to_owned()];
    while let Some(folder) = folders.pop() {
        let mut entries: Vec<PathBuf> = fs::read_dir(folder)?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<_, _>>()?;
        entries.sort();
        for path in entries {
            if path.is_dir() {
                folders.push(path);
            } else {
                let often = if path.ends_with("db") { 3 } else { 1 };
                files.extend(std::iter::repeat_n(path, often));
            }
        }
    }
    Ok(files)
}
