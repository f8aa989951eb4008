//! Event ids that damage took, found again: a post that is tried again counts once all the same.
//!
//! Only ids of passages that are here, or of which it is known what became of them, are believed. What
//! is left of a commit that never became durable holds ids of passages that nobody has: to call them
//! duplicates would lose them.

use std::collections::{BTreeMap, BTreeSet};

use proto::StreamId;
use proto::ranges::{Seq, SeqRange, SeqSet};

use super::CHUNKS_A_COMMIT;
use crate::buffer::engine::Engine;
use crate::buffer::id_block::IdBlock;
use crate::buffer::ids::{BLOCK_IDS, EventIds, IDS_MAX, KEEP_MS};
use crate::buffer::keys;
use crate::buffer::medium::StoreError;
use crate::buffer::witness::Statement;

/// Blocks that are remembered, at most.
const BLOCKS_MAX: usize = IDS_MAX / BLOCK_IDS;

/// Blocks that were found in the bytes, by their numbers.
#[derive(Debug, Default)]
pub(super) struct FoundIds(BTreeMap<u32, IdBlock>);

impl FoundIds {
    /// A block is written anew with each id: the longest is the last.
    pub(super) fn add(&mut self, number: u32, block: IdBlock) {
        let known = self.0.entry(number).or_default();
        if known.ids().len() < block.ids().len() {
            *known = block;
        }
        if self.0.len() > BLOCKS_MAX {
            self.0.pop_first();
        }
    }
}

impl Engine {
    /// Passages that are here or settled, by what the witness said and what was not found of it.
    pub(super) fn known_passages(
        &self,
        said: Option<&Statement>,
        not_found: &BTreeMap<StreamId, SeqSet>,
    ) -> BTreeMap<StreamId, SeqSet> {
        let mut known: BTreeMap<StreamId, SeqSet> = BTreeMap::new();
        for stream in said.into_iter().flat_map(|said| &said.streams) {
            let accepted = SeqRange::from_count(Seq::FIRST, stream.accepted_to);
            let accepted = accepted.map(SeqSet::from).unwrap_or_default();
            known.insert(stream.id, accepted);
        }
        for stream in &self.streams {
            let known = known.entry(stream.id).or_default();
            *known = known.union(&stream.accounted());
        }
        for (id, seqs) in not_found {
            if let Some(known) = known.get_mut(id) {
                *known = known.difference(seqs);
            }
        }
        known
    }

    /// Remembers the ids that were found of these passages, beside those that the store has.
    pub(super) fn take_back_ids(
        &mut self,
        found: FoundIds,
        known: &BTreeMap<StreamId, SeqSet>,
    ) -> Result<(), StoreError> {
        let mut blocks = BTreeMap::new();
        for number in self.ids.numbers() {
            let block = self.id_block(number)?;
            if !block.ids().is_empty() {
                blocks.insert(number, block.clone());
            }
        }
        let mut changed = BTreeSet::new();
        let mut taken_back = 0_usize;
        for (number, block) in found.0 {
            let ours: &mut IdBlock = blocks.entry(number).or_default();
            for (id, (stream, seq)) in block.entries() {
                let seq = Seq::new(seq).ok();
                let seq =
                    seq.filter(|seq| known.get(&stream).is_some_and(|set| set.contains(*seq)));
                if let Some(seq) = seq.filter(|_| !ours.ids().contains(&id)) {
                    ours.push(id, (stream, seq.get()));
                    ours.newest_ms = ours.newest_ms.max(block.newest_ms);
                    changed.insert(number);
                    taken_back += 1;
                }
            }
        }
        if taken_back == 0 {
            return Ok(());
        }
        tracing::warn!(
            ids = taken_back,
            "event ids were taken back from the bytes of the store"
        );
        let newest_ms = blocks.values().map(|block| block.newest_ms).max();
        let expired_ms = newest_ms.unwrap_or_default().saturating_sub(KEEP_MS);
        self.ids = EventIds::new();
        let mut staged = 0;
        for (number, block) in blocks {
            let key = keys::event_ids(number);
            if block.ids().is_empty() || block.newest_ms < expired_ms {
                self.changes.delete(&key);
                continue;
            }
            if changed.contains(&number) {
                self.changes.put(&key, block.encode(number));
                staged += 1;
            }
            self.ids.load(number, block);
            if staged >= CHUNKS_A_COMMIT {
                staged = 0;
                self.store.commit(std::mem::take(&mut self.changes))?;
            }
        }
        self.id_blocks.clear();
        Ok(())
    }
}
