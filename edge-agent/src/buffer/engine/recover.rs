//! After damage: what the witness says must be here and is not, found again or booked as lost.
//!
//! Chunks are looked for in the store's own file, in what its end held before it was opened, and in
//! every store that was moved aside. What is found keeps its stream and its number, so that nothing is
//! counted twice; what is not found is lost with the reason `corrupt`, of which the centre books what
//! it has not counted.
//!
//! Invariant: the witness is not written anew before all that was found is durable, so that a start
//! that dies in the middle of this is taken up by the next.

mod ids;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::path::PathBuf;

use proto::limits::RANGES_MAX;
use proto::loss::LossReason;
use proto::ranges::{Seq, SeqRange, SeqSet};
use proto::{PassageBatch, StreamId};

use self::ids::FoundIds;
use super::{Engine, logical_bytes};
use crate::buffer::Counters;
use crate::buffer::chunk;
use crate::buffer::keys::{self, ChunkKey};
use crate::buffer::medium::StoreError;
use crate::buffer::records::{Marks, to_bytes};
use crate::buffer::salvage::{self, Found};
use crate::buffer::stream::{ChunkMeta, Stream};
use crate::buffer::witness::{Statement, StreamStatement};

/// Chunks that are made durable together.
const CHUNKS_A_COMMIT: usize = 256;

/// What the opening left to do.
#[derive(Debug, Default)]
pub(super) struct Recovery {
    /// What the witness said before.
    pub(super) said: Option<Statement>,
    /// Whether a store was just moved aside.
    pub(super) moved_aside: bool,
    /// The last segments of the store as they were before it was opened.
    pub(super) newest: Vec<Vec<u8>>,
    /// Main files to look through.
    pub(super) files: Vec<PathBuf>,
}

/// Numbers that are looked for.
#[derive(Debug)]
struct Missing {
    /// Those that the witness states.
    stated: BTreeMap<StreamId, SeqSet>,
    /// Where a store was moved aside, also what the witness does not know: it may be older.
    unstated: Option<Unstated>,
    /// Event ids that were found meanwhile.
    ids: FoundIds,
}

#[derive(Debug)]
enum Unstated {
    /// Numbers above these, of these streams.
    Above(BTreeMap<StreamId, u64>),
    /// There is no witness.
    All,
}

impl Engine {
    /// Makes good what damage did to the store, as far as that can be.
    pub(super) fn recover(&mut self, recovery: &Recovery) -> Result<(), StoreError> {
        let said = recovery.said.as_ref();
        let is_behind = said.is_some_and(|said| self.generation < said.generation);
        let stated = said.map(|said| self.missing(said));
        let above = said.map(|said| {
            let ends = said.streams.iter();
            Unstated::Above(ends.map(|stream| (stream.id, stream.accepted_to)).collect())
        });
        let mut missing = Missing {
            stated: stated.unwrap_or_default(),
            unstated: recovery.moved_aside.then(|| above.unwrap_or(Unstated::All)),
            ids: FoundIds::default(),
        };
        if missing.stated.is_empty() && missing.unstated.is_none() && !is_behind {
            return Ok(());
        }
        let before = self.counters.lost[Counters::place(LossReason::Corrupt)];
        for segment in &recovery.newest {
            self.take_back(segment.as_slice(), &mut missing)?;
        }
        for path in &recovery.files {
            match File::open(path) {
                Ok(file) => self.take_back(file, &mut missing)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    tracing::error!(path = %path.display(), %error, "cannot look for passages")
                }
            }
        }
        self.streams.iter_mut().for_each(Stream::refresh);
        let known = self.known_passages(said, &missing.stated);
        self.take_back_ids(missing.ids, &known)?;
        for (id, seqs) in missing.stated {
            self.lose_unfound(id, &seqs);
        }
        let lost = self.counters.lost[Counters::place(LossReason::Corrupt)] - before;
        let salvaged = self.counters.salvaged;
        if lost == 0 && salvaged == 0 {
            return Ok(());
        }
        self.damage = Some((salvaged, lost));
        tracing::error!(
            salvaged,
            lost,
            "store was damaged: passages were taken back from its bytes, or are lost"
        );
        Ok(())
    }

    /// What was open when the witness wrote, and is neither here nor settled.
    fn missing(&mut self, said: &Statement) -> BTreeMap<StreamId, SeqSet> {
        let is_behind = self.generation < said.generation;
        self.generation = self.generation.max(said.generation);
        if is_behind && self.centre.is_none() && said.centre.is_some() {
            self.centre = said.centre;
            self.changes.put(keys::FACT_CENTRE, to_bytes(&said.centre));
        }
        let mut missing = BTreeMap::new();
        for stated in &said.streams {
            let known = self.streams.iter_mut().find(|known| known.id == stated.id);
            let absent = match known {
                Some(stream) => {
                    if is_behind {
                        stream.believe(stated);
                    }
                    stated.open.difference(&stream.accounted())
                }
                // All of it was settled and released since the witness wrote.
                None if !is_behind => continue,
                None => stated.open.clone(),
            };
            if absent.is_empty() {
                continue;
            }
            self.stream_of(stated);
            missing.insert(stated.id, absent);
        }
        missing
    }

    fn stream_of(&mut self, stated: &StreamStatement) {
        if self.streams.iter().any(|stream| stream.id == stated.id) {
            return;
        }
        let marks = Marks {
            run: stated.run,
            accepted_to: stated.accepted_to,
            offered: stated.offered.clone(),
            ..Marks::default()
        };
        let mut stream = Stream::new(stated.id, marks);
        stream.marks_changed = true;
        self.streams.push(stream);
        self.streams.sort_by_key(|stream| stream.marks.run);
    }

    /// Puts back what is missing and found in the bytes.
    fn take_back(&mut self, source: impl Read, missing: &mut Missing) -> Result<(), StoreError> {
        let mut failed = Ok(());
        let mut taken = 0;
        let read = salvage::values_in(source, |found| {
            match found {
                Found::Chunk(key, value) => {
                    let wanted = self.wanted(missing, &key);
                    if !wanted.is_empty() {
                        taken += self.put_back(&key, value, &wanted);
                    }
                }
                Found::Ids(number, block) => missing.ids.add(number, block),
                Found::Broken => {}
            }
            if taken >= CHUNKS_A_COMMIT {
                taken = 0;
                failed = self.store.commit(std::mem::take(&mut self.changes));
            }
            if failed.is_err() {
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        });
        if let Err(error) = read {
            tracing::error!(%error, "cannot read all of a damaged store");
        }
        failed
    }

    /// Numbers of a chunk that was found which are looked for; they are not any more.
    fn wanted(&mut self, missing: &mut Missing, key: &ChunkKey) -> SeqSet {
        let mut wanted = SeqSet::new();
        if let Some(stated) = missing.stated.get_mut(&key.stream) {
            wanted = stated.intersection(&key.range.into());
            *stated = stated.difference(&wanted);
        }
        let above = match &missing.unstated {
            None => return wanted,
            Some(Unstated::All) => 0,
            Some(Unstated::Above(ends)) => match ends.get(&key.stream) {
                Some(end) => *end,
                None => return wanted,
            },
        };
        let from =
            Seq::new(above + 1).map_or(key.range.first(), |from| from.max(key.range.first()));
        let Some(unstated) = SeqRange::new(from, key.range.last()) else {
            return wanted;
        };
        let known = self.streams.iter().find(|stream| stream.id == key.stream);
        let accounted = known.map(Stream::accounted).unwrap_or_default();
        let unstated = SeqSet::from(unstated).difference(&accounted);
        if !unstated.is_empty() {
            self.stream_of(&StreamStatement {
                id: key.stream,
                run: 0,
                accepted_to: 0,
                offered: SeqSet::new(),
                open: SeqSet::new(),
            });
        }
        wanted.union(&unstated)
    }

    /// Puts numbers of a chunk back into their stream. Returns how many chunks that made.
    fn put_back(&mut self, key: &ChunkKey, value: &[u8], wanted: &SeqSet) -> usize {
        let Ok(batch) = chunk::decode(key, value) else {
            return 0;
        };
        let known = self
            .streams
            .iter_mut()
            .find(|stream| stream.id == key.stream);
        let Some(stream) = known else { return 0 };
        for range in wanted.ranges() {
            let skip = usize::try_from(range.first().get() - key.range.first().get());
            let count = usize::try_from(range.count()).unwrap_or(usize::MAX);
            let part: PassageBatch = batch.iter().skip(skip.unwrap_or(0)).take(count).collect();
            let Some((event_min, event_max)) = part.event_span() else {
                continue;
            };
            let key = ChunkKey {
                range: *range,
                event_min,
                event_max,
                ..*key
            };
            let value = chunk::encode(&key, &part);
            let bytes = logical_bytes(value.len());
            self.changes.put(&key.encode(), value);
            self.held_bytes += u64::from(bytes);
            self.counters.salvaged += range.count();
            stream.put_back(ChunkMeta {
                range: *range,
                event_min,
                event_max,
                bytes,
            });
        }
        wanted.range_count()
    }

    fn lose_unfound(&mut self, id: StreamId, seqs: &SeqSet) {
        let Some(stream) = self.streams.iter_mut().find(|stream| stream.id == id) else {
            return;
        };
        for range in seqs.ranges() {
            tracing::error!(stream = %id, %range, "passages are lost with the damaged part of the store");
            stream.declare_unread(*range, LossReason::Corrupt);
        }
        self.counters.lost[Counters::place(LossReason::Corrupt)] += seqs.count();
    }

    /// What the witness is to say.
    pub(super) fn statement(&self) -> Statement {
        let streams = self.streams.iter().map(|stream| StreamStatement {
            id: stream.id,
            run: stream.marks.run,
            accepted_to: stream.marks.accepted_to,
            offered: stream.marks.offered.clone(),
            open: stream.open().widest(RANGES_MAX),
        });
        Statement {
            generation: self.generation,
            centre: self.centre,
            streams: streams.collect(),
        }
    }
}
