//! Reading a store from its first key to its last: what the engine keeps in memory comes from here.
//!
//! Passages are not read, only where they are; a chunk's checksum is looked at when it is read.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;

use proto::StreamId;
use proto::loss::Loss;
use proto::passage::EventTime;
use proto::receipt::Centre;
use serde::de::DeserializeOwned;

use super::id_block::IdBlock;
use super::ids::EventIds;
use super::keys::{self, ChunkKey, Key};
use super::medium::Medium;
use super::opening::LoadError;
use super::records::{FORMAT, Marks, Refusals, StoredEntry, from_bytes};
use super::store::Store;
use super::stream::{ChunkMeta, EntryMeta, Stream};
use super::summaries;

/// A store and what stands in it.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) store: Box<dyn Medium>,
    /// In the order of their runs.
    pub(super) streams: Vec<Stream>,
    pub(super) ids: EventIds,
    /// How many commits there were.
    pub(super) generation: u64,
    /// The run before this one; 0 in a new store.
    pub(super) run: u32,
    pub(super) centre: Option<Centre>,
    /// The latest time that the centre stated, as far as it was written down.
    pub(super) centre_time: Option<EventTime>,
    /// Chunks that were set aside, with their logical bytes.
    pub(super) aside: VecDeque<(ChunkKey, u32)>,
    /// By stream.
    pub(super) refusals: BTreeMap<StreamId, Refusals>,
}

impl Loaded {
    /// Opens the store and reads it.
    pub(super) fn read(directory: &Path) -> Result<Self, LoadError> {
        Self::of(Box::new(Store::open(directory)?))
    }

    /// Reads what stands in an open medium.
    pub(super) fn of(store: Box<dyn Medium>) -> Result<Self, LoadError> {
        // Before anything else: what another agent wrote is not to be judged by this one.
        if let Some(format) =
            fact::<u32>(store.as_ref(), keys::FACT_FORMAT)?.filter(|found| *found != FORMAT)
        {
            return Err(LoadError::Format(format));
        }
        let generation = fact(store.as_ref(), keys::GENERATION)?.unwrap_or(0);
        let run = fact(store.as_ref(), keys::FACT_RUN)?.unwrap_or(0);
        let centre = fact(store.as_ref(), keys::FACT_CENTRE)?;
        let centre_time = fact(store.as_ref(), keys::FACT_CENTRE_TIME)?;
        let mut reader = Reader::default();
        let mut at = Vec::new();
        while let Some((key, value)) = store.after(&at)? {
            reader.take(&key, &value)?;
            at = key;
        }
        let mut streams: Vec<_> = reader.streams.into_values().collect();
        streams.sort_by_key(|stream| stream.marks.run);
        streams.iter_mut().for_each(Stream::refresh);
        Ok(Self {
            store,
            streams,
            ids: reader.ids,
            generation,
            run,
            centre,
            centre_time,
            aside: reader.aside,
            refusals: reader.refusals,
        })
    }
}

struct Reader {
    streams: BTreeMap<[u8; 16], Stream>,
    ids: EventIds,
    aside: VecDeque<(ChunkKey, u32)>,
    refusals: BTreeMap<StreamId, Refusals>,
}

impl Default for Reader {
    fn default() -> Self {
        Self {
            streams: BTreeMap::new(),
            ids: EventIds::new(),
            aside: VecDeque::new(),
            refusals: BTreeMap::new(),
        }
    }
}

impl Reader {
    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), LoadError> {
        let bytes = u32::try_from(key.len() + value.len()).unwrap_or(u32::MAX);
        let known = Key::decode(key)
            .ok_or_else(|| LoadError::Record(hex(key), "no key of this format".to_owned()))?;
        match known {
            Key::Fact | Key::Generation => {}
            Key::Chunk(ChunkKey {
                stream,
                range,
                event_min,
                event_max,
            }) => {
                self.stream(stream).load(ChunkMeta {
                    range,
                    event_min,
                    event_max,
                    bytes,
                });
            }
            Key::Stream(id) => {
                let marks: Marks = record(key, value)?;
                let stream = self.stream(id);
                let accepted_to = stream.marks.accepted_to.max(marks.accepted_to);
                stream.marks = Marks {
                    accepted_to,
                    ..marks
                };
            }
            Key::Loss(id, _) => {
                let loss: Loss = record(key, value)?;
                self.stream(id).losses.load(loss);
            }
            Key::Summary(id, number) => {
                let StoredEntry { sealed, entry } = record(key, value)?;
                let (event_min, event_max) = summaries::event_span(&entry);
                let seqs = entry.seqs;
                self.stream(id).entries.push_back(EntryMeta {
                    number,
                    sealed,
                    seqs,
                    event_min,
                    event_max,
                    bytes,
                });
            }
            Key::EventIds(number) => {
                let block = IdBlock::decode(number, value).ok_or_else(|| {
                    LoadError::Record(hex(key), "no block of event ids".to_owned())
                })?;
                self.ids.load(number, block);
            }
            Key::Aside(chunk) => self.aside.push_back((chunk, bytes)),
            Key::Again(id) => {
                let again = record(key, value)?;
                self.stream(id).load_again(again);
            }
            Key::Refusals(id) => {
                self.refusals.insert(id, record(key, value)?);
            }
        }
        Ok(())
    }

    fn stream(&mut self, id: StreamId) -> &mut Stream {
        self.streams
            .entry(*id.as_bytes())
            .or_insert_with(|| Stream::new(id, Marks::default()))
    }
}

fn fact<T: DeserializeOwned>(store: &dyn Medium, key: &[u8]) -> Result<Option<T>, LoadError> {
    store.get(key)?.map(|value| record(key, &value)).transpose()
}

fn record<T: DeserializeOwned>(key: &[u8], value: &[u8]) -> Result<T, LoadError> {
    from_bytes(value).map_err(|error| LoadError::Record(hex(key), error.to_string()))
}

fn hex(key: &[u8]) -> String {
    key.iter().map(|byte| format!("{byte:02x}")).collect()
}
