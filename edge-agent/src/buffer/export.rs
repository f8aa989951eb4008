//! Passages taken out of a store that lies on the disk: one that was moved aside, damaged or another
//! unit's, one whose disk was carried elsewhere, or that of an agent that runs.
//!
//! The bytes of all files of a store are looked through for chunks (`salvage.rs`). sled is never
//! opened, nothing is written, and no lock is taken.
//!
//! Invariants
//! 1. A passage of which one whole chunk lies anywhere in the files comes out, under its stream and
//!    its number. That says nothing of whether it was sent, counted or deleted: the log keeps what was,
//!    until it is written over.
//! 2. It comes out once, however many chunks hold it, up to [`SEEN_RANGES_MAX`].
//! 3. Memory has a bound: the ranges of the numbers that came out, and one buffer of a megabyte.
//!
//! What comes out is not *offered* by that: nothing brings it back into the system, so it can neither be
//! counted nor stand in the way of a summary. What is to be counted goes the way of its own unit.

mod disk;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use proto::passage::{EventTime, Passage};
use proto::ranges::{Seq, SeqRange, SeqSet};
use proto::{DeviceId, StreamId};

use self::disk::Patient;
use super::chunk;
use super::keys::ChunkKey;
use super::opening::{directory_bytes, places};
use super::salvage::{self, Found};

/// Ranges of numbers that are remembered, over all streams: 4 MiB, or some 40 MiB where each were a
/// stream of its own. What would make one more comes out all the same, again with each chunk that
/// holds it, and is counted as [`Tally::unremembered`].
pub const SEEN_RANGES_MAX: usize = 262_144;

/// Why nothing, or no more, comes out.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// There is no store.
    #[error(
        "{} is no store: it has neither a file db nor a directory store; name a quarantine-N or foreign-N of the buffer's directory (`edge-agent export --config FILE` lists them)",
        path.display()
    )]
    NoStore {
        /// What was named.
        path: PathBuf,
    },
    /// The file system refuses.
    #[error("cannot read {}: {source}{}", path.display(), advice(source))]
    Read {
        /// Which file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Whoever takes the passages can take no more.
    #[error(transparent)]
    Taker(io::Error),
}

fn advice(error: &io::Error) -> &'static str {
    if error.kind() == io::ErrorKind::PermissionDenied {
        "; run this as the account of the agent, or as root"
    } else {
        ""
    }
}

/// A store on the disk, and the files that it consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreFiles {
    /// Where it is.
    pub place: PathBuf,
    /// Whose passages it holds, where that can be read.
    pub device: Option<DeviceId>,
    /// All of its files, with their lengths when they were listed.
    files: Vec<(PathBuf, u64)>,
}

impl StoreFiles {
    /// Bytes of all files together.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|(_, bytes)| bytes).sum()
    }
}

/// What was moved aside in a buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MovedAside {
    /// Where it is.
    pub place: PathBuf,
    /// Whose passages it holds, where that can be read.
    pub device: Option<DeviceId>,
    /// Bytes of all its files together.
    pub bytes: u64,
}

/// The stores at a place: a store, the directory of a buffer (which `foreign-N` is) with those of its
/// damaged ones, or a single file of one.
///
/// # Errors
/// There is none, or it may not be read.
pub fn stores_at(path: &Path) -> Result<Vec<StoreFiles>, ExportError> {
    let fault = |source| ExportError::Read {
        path: path.to_owned(),
        source,
    };
    let metadata = path.metadata().map_err(fault)?;
    if metadata.is_file() {
        return Ok(vec![StoreFiles {
            place: path.to_owned(),
            device: None,
            files: vec![(path.to_owned(), metadata.len())],
        }]);
    }
    let stores = if places::is_store(path) {
        vec![path.to_owned()]
    } else {
        places::stores_of(path).map_err(fault)?
    };
    if stores.is_empty() {
        return Err(ExportError::NoStore {
            path: path.to_owned(),
        });
    }
    let whose = places::device_at(path).map_err(fault)?;
    let stores = stores.into_iter().map(|place| {
        let files = places::files_below(&place).map_err(|source| ExportError::Read {
            path: place.clone(),
            source,
        })?;
        Ok(StoreFiles {
            place,
            device: whose.clone(),
            files,
        })
    });
    stores.collect()
}

/// What was moved aside in the directory of a buffer.
///
/// # Errors
/// The directory cannot be read.
pub fn moved_aside(buffer: &Path) -> Result<Vec<MovedAside>, ExportError> {
    let fault = |source| ExportError::Read {
        path: buffer.to_owned(),
        source,
    };
    let found = places::moved_aside(buffer).map_err(fault)?.into_iter();
    let aside = found.map(|place| {
        Ok(MovedAside {
            device: places::device_at(&place).map_err(fault)?,
            bytes: directory_bytes(&place),
            place,
        })
    });
    aside.collect()
}

/// A passage that came out, with the name that the whole system knows it by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exported<'a> {
    /// Whose it is, where that is known.
    pub device: Option<&'a DeviceId>,
    /// The run that accepted it.
    pub stream: StreamId,
    /// Its number there.
    pub seq: Seq,
    /// The passage.
    pub passage: Passage,
}

/// What came out of one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamTally {
    /// The numbers.
    pub seqs: SeqSet,
    /// The least event time.
    pub from: EventTime,
    /// The greatest.
    pub to: EventTime,
}

/// What came out altogether.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Passages that came out.
    pub passages: u64,
    /// Stream by stream.
    pub streams: BTreeMap<StreamId, StreamTally>,
    /// Bytes looked through.
    pub bytes: u64,
    /// Bytes among them that the disk did not give.
    pub unread_bytes: u64,
    /// Places that begin like a chunk and hold none: damaged, or written over in part. Their
    /// passages may lie elsewhere whole.
    pub broken: u64,
    /// Passages that may have come out more than once; see [`SEEN_RANGES_MAX`].
    pub unremembered: u64,
}

/// Takes passages out of stores, each once.
#[derive(Debug)]
pub struct Exporter {
    tally: Tally,
    /// Of all streams together.
    ranges: usize,
    ranges_max: usize,
}

impl Default for Exporter {
    fn default() -> Self {
        Self {
            tally: Tally::default(),
            ranges: 0,
            ranges_max: SEEN_RANGES_MAX,
        }
    }
}

impl Exporter {
    /// What came out.
    #[must_use]
    pub fn into_tally(self) -> Tally {
        self.tally
    }

    /// Looks a store through and gives each passage that did not come out before to `take`; `look` is
    /// told of the bytes as they are read.
    ///
    /// # Errors
    /// A file may not be opened, or `take` fails. Places that the disk does not give are passed over.
    pub fn look_through(
        &mut self,
        store: &StoreFiles,
        take: &mut impl FnMut(Exported<'_>) -> io::Result<()>,
        look: &mut impl FnMut(u64),
    ) -> Result<(), ExportError> {
        for (path, _) in &store.files {
            let fault = |source| ExportError::Read {
                path: path.clone(),
                source,
            };
            let file = match File::open(path) {
                // Snapshots of an agent that runs come and go.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other.map_err(fault)?,
            };
            let end = file.metadata().map_err(fault)?.len();
            let read_at = |bytes: &mut [u8], at| file.read_at(bytes, at);
            let mut bytes = Patient::new(read_at, &mut *look, end);
            let mut taken = Ok(());
            let device = store.device.as_ref();
            let read = salvage::values_in(&mut bytes, |found| {
                taken = self.take(&found, device, take);
                if taken.is_err() {
                    return ControlFlow::Break(());
                }
                ControlFlow::Continue(())
            });
            self.tally.bytes += bytes.at;
            self.tally.unread_bytes += bytes.unread_bytes;
            taken.map_err(ExportError::Taker)?;
            read.map_err(fault)?;
        }
        Ok(())
    }

    fn take(
        &mut self,
        found: &Found<'_>,
        device: Option<&DeviceId>,
        take: &mut impl FnMut(Exported<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        let (key, value) = match found {
            Found::Chunk(key, value) => (key, value),
            Found::Ids(..) => return Ok(()),
            Found::Broken => {
                self.tally.broken += 1;
                return Ok(());
            }
        };
        let known = self.tally.streams.get(&key.stream);
        let seen = known.map(|stream| &stream.seqs);
        if seen.is_some_and(|seen| seen.contains_range(key.range)) {
            return Ok(());
        }
        let Ok(batch) = chunk::decode(key, value) else {
            self.tally.broken += 1;
            return Ok(());
        };
        let mut new = 0;
        for (seq, passage) in SeqSet::from(key.range).iter().zip(batch.iter()) {
            if seen.is_some_and(|seen| seen.contains(seq)) {
                continue;
            }
            new += 1;
            take(Exported {
                device,
                stream: key.stream,
                seq,
                passage,
            })?;
        }
        self.tally.passages += new;
        if !self.remember(key) {
            self.tally.unremembered += new;
        }
        Ok(())
    }

    /// Notes the numbers of a chunk as taken out; false where that would be a range too many.
    fn remember(&mut self, key: &ChunkKey) -> bool {
        let (from, to) = (key.event_min, key.event_max);
        let known = self.tally.streams.get(&key.stream);
        if self.ranges >= self.ranges_max && !known.is_some_and(|s| touches(&s.seqs, key.range)) {
            return false;
        }
        let stream = self.tally.streams.entry(key.stream).or_insert(StreamTally {
            seqs: SeqSet::new(),
            from,
            to,
        });
        self.ranges -= stream.seqs.range_count();
        stream.seqs.insert(key.range);
        self.ranges += stream.seqs.range_count();
        stream.from = stream.from.min(from);
        stream.to = stream.to.max(to);
        true
    }
}

/// Whether a range would melt into one of the set.
fn touches(seqs: &SeqSet, range: SeqRange) -> bool {
    let before = Seq::new(range.first().get() - 1).unwrap_or(range.first());
    let after = range.last().next().unwrap_or(range.last());
    SeqRange::new(before, after).is_some_and(|wide| seqs.overlaps_range(wide))
}
