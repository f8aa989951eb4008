//! ● A unit's disk: what a power cut leaves of it is decided here.
//!
//! A commit of the buffer is written and synced by one call, as on a real disk by sled's flush and
//! `fdatasync`; the power may go before it, or after it and before anybody hears of it. What was
//! written and not synced is gone after a cut.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use edge_agent::buffer::{Changes, Medium, StoreError, passages_of};
use proto::{PassageBatch, Seq, SeqRange, SeqSet, StreamId};

/// Tables of the store whose keys say which passages lie under them: chunks, and chunks set aside
/// (`edge-agent/src/buffer/keys.rs`).
const CHUNK_TABLES: [u8; 2] = [1, 6];

/// What the next commit meets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Fate {
    #[default]
    Done,
    /// The power goes before anything is written.
    CutBefore,
    /// The power goes when all of it is durable.
    CutAfter,
}

/// What lies on a disk.
pub(super) type Image = BTreeMap<Vec<u8>, Vec<u8>>;

/// Shared by the buffer that writes it and the world that cuts its power.
#[derive(Debug, Clone, Default)]
pub(super) struct Disk(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    image: Image,
    /// What stood under each key that was written since the last sync, oldest first.
    unsynced: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    /// The planted bug: nothing is ever synced.
    never_syncs: bool,
    fate: Fate,
    cut: bool,
    /// Nothing can be written: no space.
    full: bool,
    /// Chunks written since somebody asked.
    news: Vec<(StreamId, Seq, PassageBatch)>,
}

impl Disk {
    pub(super) fn new(never_syncs: bool) -> Self {
        let disk = Self::default();
        disk.with(|inner| inner.never_syncs = never_syncs);
        disk
    }

    fn with<T>(&self, work: impl FnOnce(&mut Inner) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What the next commit meets.
    pub(super) fn foretell(&self, fate: Fate) {
        self.with(|inner| inner.fate = fate);
    }

    /// There is no space left on it, or some again.
    pub(super) fn fill(&self, full: bool) {
        self.with(|inner| inner.full = full);
    }

    pub(super) fn is_full(&self) -> bool {
        self.with(|inner| inner.full)
    }

    /// Whether the power went during a commit.
    pub(super) fn is_cut(&self) -> bool {
        self.with(|inner| inner.cut)
    }

    /// The power goes, or is back: what was not synced is gone.
    pub(super) fn cut(&self) {
        self.with(|inner| {
            while let Some((key, before)) = inner.unsynced.pop() {
                match before {
                    Some(value) => inner.image.insert(key, value),
                    None => inner.image.remove(&key),
                };
            }
            (inner.cut, inner.fate) = (false, Fate::Done);
        });
    }

    /// All that is durable on it.
    pub(super) fn image(&self) -> Image {
        self.with(|inner| inner.image.clone())
    }

    /// Puts an image onto it, in the place of what is there.
    pub(super) fn lay(&self, image: Image) {
        self.with(|inner| {
            inner.unsynced.clear();
            inner.image = image;
        });
    }

    /// Bytes of all keys and values.
    pub(super) fn bytes(&self) -> u64 {
        self.with(|inner| {
            let entries = inner.image.iter();
            entries
                .map(|(key, value)| (key.len() + value.len()) as u64)
                .sum()
        })
    }

    /// The chunks written since the last call, with what they hold.
    pub(super) fn take_news(&self) -> Vec<(StreamId, Seq, PassageBatch)> {
        self.with(|inner| std::mem::take(&mut inner.news))
    }

    /// The numbers whose passages lie on it, set aside or not.
    pub(super) fn held(&self) -> BTreeMap<StreamId, SeqSet> {
        self.with(|inner| {
            let mut held: BTreeMap<StreamId, SeqSet> = BTreeMap::new();
            for table in CHUNK_TABLES {
                let keys = inner.image.range(vec![table]..vec![table + 1]);
                for (stream, range) in keys.filter_map(|(key, _)| numbers(key)) {
                    held.entry(stream).or_default().insert(range);
                }
            }
            held
        })
    }
}

/// `table:1 stream:16 first:8 count-1:1 …`
fn numbers(key: &[u8]) -> Option<(StreamId, SeqRange)> {
    let stream = StreamId::from_bytes(key.get(1..17)?.try_into().ok()?);
    let first = u64::from_be_bytes(key.get(17..25)?.try_into().ok()?);
    let count = u64::from(*key.get(25)?) + 1;
    let range = SeqRange::from_count(Seq::new(first).ok()?, count).ok()?;
    Some((stream, range))
}

impl Medium for Disk {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.with(|inner| inner.image.get(key).cloned()))
    }

    fn after(&self, key: &[u8]) -> Result<Option<(Vec<u8>, Vec<u8>)>, StoreError> {
        let behind = (
            std::ops::Bound::Excluded(key.to_vec()),
            std::ops::Bound::Unbounded,
        );
        Ok(self.with(|inner| {
            let next = inner.image.range(behind).next();
            next.map(|(key, value)| (key.clone(), value.clone()))
        }))
    }

    fn commit(&self, changes: Changes) -> Result<(), StoreError> {
        self.with(|inner| {
            let fate = std::mem::take(&mut inner.fate);
            let power_cut = || Err(StoreError::Broken("the power is cut".to_owned()));
            if fate == Fate::CutBefore {
                inner.cut = true;
                return power_cut();
            }
            if inner.full {
                return Err(StoreError::NoSpace);
            }
            // Changes come in no order; what depends on it must not depend on chance.
            let ordered: BTreeMap<_, _> = changes.into_iter().collect();
            for (key, value) in ordered {
                if let Some(value) = &value
                    && let Some(news) = passages_of(&key, value)
                {
                    inner.news.push(news);
                }
                let before = match value {
                    Some(value) => inner.image.insert(key.clone(), value),
                    None => inner.image.remove(&key),
                };
                inner.unsynced.push((key, before));
            }
            if !inner.never_syncs {
                inner.unsynced.clear();
            }
            if fate == Fate::CutAfter {
                inner.cut = true;
                return power_cut();
            }
            Ok(())
        })
    }

    fn check(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn file_bytes(&self) -> u64 {
        0
    }

    fn free_bytes(&self) -> u64 {
        if self.is_full() { 0 } else { u64::MAX }
    }
}
