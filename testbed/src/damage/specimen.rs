//! ○ The stores that are damaged: real ones, each with another history.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use edge_agent::buffer::{BufferSettings, QuotaPolicy};
use proto::StreamId;
use proto::passage::Passage;
use proto::ranges::{Seq, SeqRange, SeqSet};

use crate::held::{self, CENTRE, HeldError, receipt, with_buffer};
use crate::powercut::work::{ANY, passage};

const QUOTA_BYTES: u64 = 64 * 1024 * 1024;

/// Small enough that sent copies are deleted and their space is used again.
const SMALL_QUOTA_BYTES: u64 = 200 * 1024;

/// A store that will be damaged, and what was answered with success.
pub(super) struct Specimen {
    pub(super) home: tempfile::TempDir,
    pub(super) quota_bytes: u64,
    /// By stream and number; those that receipts called stored are not among them.
    pub(super) promised: BTreeMap<(StreamId, u64), Passage>,
}

/// How a specimen came to be.
#[derive(Clone, Copy)]
pub(super) struct History {
    runs: usize,
    commits: usize,
    commit_passages: u64,
    quota_bytes: u64,
    folds: bool,
    receipts: bool,
    /// Copied while it was open, as after kill -9.
    killed: bool,
}

pub(super) const HISTORIES: [History; 6] = {
    let plain = History {
        runs: 1,
        commits: 40,
        commit_passages: 50,
        quota_bytes: QUOTA_BYTES,
        folds: false,
        receipts: false,
        killed: true,
    };
    [
        History {
            killed: false,
            ..plain
        },
        plain,
        History {
            runs: 3,
            receipts: true,
            ..plain
        },
        History {
            folds: true,
            receipts: true,
            ..plain
        },
        History {
            commits: 150,
            commit_passages: 400,
            ..plain
        },
        History {
            commits: 300,
            commit_passages: 70,
            quota_bytes: SMALL_QUOTA_BYTES,
            receipts: true,
            ..plain
        },
    ]
};

/// Of the buffer below `home`.
pub(super) fn settings(home: &Path, quota_bytes: u64) -> BufferSettings {
    held::settings(&home.join("buffer"), quota_bytes, QuotaPolicy::DropOldest)
}

/// Makes a store.
pub(super) fn specimen(history: History) -> Result<Specimen, HeldError> {
    let (home, grown) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let mut promised = BTreeMap::new();
    let mut sent = 0_u64;
    for run in 0..history.runs {
        with_buffer(
            &settings(grown.path(), history.quota_bytes),
            async |buffer| {
                for commit in 0..history.commits {
                    let count = 1 + (commit as u64 * 37) % history.commit_passages;
                    let numbers = sent..sent + count;
                    buffer
                        .append(numbers.clone().map(passage).collect())
                        .await?;
                    let state = buffer.state().borrow().clone();
                    let Some(stream) = state.streams.last() else {
                        continue;
                    };
                    let first = stream.accepted_to - count + 1;
                    for (place, number) in numbers.enumerate() {
                        let at = (stream.id, first + place as u64);
                        promised.insert(at, passage(number).passage);
                    }
                    sent += count;
                    if history.folds && commit % 9 == 4 {
                        buffer.fold(stream.id, ANY).await?;
                        buffer.pending_summaries(stream.id, usize::MAX).await?;
                    }
                    if history.receipts && commit % 7 == 3 {
                        let range = SeqRange::from_count(Seq::FIRST, stream.accepted_to);
                        let all = range.map(SeqSet::from).unwrap_or_default();
                        let receipt = receipt(stream.id, all.clone(), all);
                        buffer.receipt(CENTRE, vec![receipt]).await?;
                        promised.retain(|(id, _), _| *id != stream.id);
                    }
                }
                if history.killed && run + 1 == history.runs {
                    copy(grown.path(), home.path())?;
                }
                Ok(())
            },
        )?;
    }
    if !history.killed {
        copy(grown.path(), home.path())?;
    }
    Ok(Specimen {
        home,
        quota_bytes: history.quota_bytes,
        promised,
    })
}

/// Copies what is below a directory.
pub(super) fn copy(from: &Path, to: &Path) -> Result<(), HeldError> {
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        let target = to.join(path.file_name().unwrap_or_default());
        if path.is_dir() {
            fs::create_dir(&target)?;
            copy(&path, &target)?;
        } else {
            fs::copy(&path, &target)?;
        }
    }
    Ok(())
}
