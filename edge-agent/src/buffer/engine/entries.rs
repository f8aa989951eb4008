//! Window deltas in the place of dropped raw passages, or ahead of held ones: grown, sealed, handed
//! out, given up.
//!
//! Invariants: an entry never changes once it is sealed, and it is sealed durably before it leaves; a
//! number is in at most one entry; raw passages of an entry are not handed out before it is gone.

use proto::StreamId;
use proto::loss::LossReason;
use proto::ranges::SeqSet;
use proto::summary::SummaryEntry;

use super::{Engine, staged_or_stored};
use crate::buffer::medium::StoreError;
use crate::buffer::records::{StoredEntry, from_bytes, to_bytes};
use crate::buffer::stream::EntryMeta;
use crate::buffer::{PendingSummary, keys, summaries};

/// The last entries of a stream that grow: those of times far apart, which may come by turns.
const OPEN_ENTRIES_MAX: usize = 4;

impl Engine {
    /// Adds to one of the last entries of the stream, or begins the next one.
    pub(super) fn add_entry(
        &mut self,
        place: usize,
        entry: SummaryEntry,
    ) -> Result<(), StoreError> {
        let id = self.streams[place].id;
        let entries = self.streams[place].entries.iter().enumerate();
        let open = entries.rev().take(OPEN_ENTRIES_MAX);
        let open: Vec<_> = open
            .take_while(|(_, meta)| !meta.sealed)
            .map(|(at, meta)| (at, meta.number))
            .collect();
        let mut grown = None;
        for (at, number) in open {
            let open = self.open_entry(id, number)?;
            if let Some(joined) = open.and_then(|open| summaries::joined(&open, &entry)) {
                grown = Some((at, number, joined));
                break;
            }
        }
        let last = self.streams[place].entries.back();
        let next = last.map_or(0, |last| last.number + 1);
        let (at, number, entry) = match grown {
            Some((at, number, entry)) => (Some(at), number, entry),
            None => (None, next, entry),
        };
        let key = keys::summary(id, number);
        let value = to_bytes(&StoredEntry {
            sealed: false,
            entry: entry.clone(),
        });
        let bytes = u32::try_from(key.len() + value.len()).unwrap_or(u32::MAX);
        self.changes.put(&key, value);
        let (event_min, event_max) = summaries::event_span(&entry);
        let seqs = entry.seqs.clone();
        let meta = EntryMeta {
            number,
            sealed: false,
            seqs,
            event_min,
            event_max,
            bytes,
        };
        if let Some(before) = self.streams[place].put_entry(meta, at) {
            self.held_bytes -= u64::from(before.bytes);
        }
        self.held_bytes += u64::from(bytes);
        self.open_entry = Some((id, number, entry));
        Ok(())
    }

    fn open_entry(&self, id: StreamId, number: u32) -> Result<Option<SummaryEntry>, StoreError> {
        match &self.open_entry {
            Some((stream, open, entry)) if (*stream, *open) == (id, number) => {
                Ok(Some(entry.clone()))
            }
            _ => Ok(self.entry(id, number)?.map(|stored| stored.entry)),
        }
    }

    /// The summary entry with a number, as stored.
    pub(in crate::buffer) fn entry(
        &self,
        stream: StreamId,
        number: u32,
    ) -> Result<Option<StoredEntry>, StoreError> {
        let value = self.value(&keys::summary(stream, number))?;
        Ok(value.and_then(|value| from_bytes(&value).ok()))
    }

    /// The oldest pending entries of a stream, sealed. Returns whether a commit must come first.
    pub(in crate::buffer) fn seal(
        &mut self,
        id: StreamId,
        entries_max: usize,
    ) -> Result<(Vec<PendingSummary>, bool), StoreError> {
        let Some(stream) = self.streams.iter_mut().find(|stream| stream.id == id) else {
            return Ok((Vec::new(), false));
        };
        let mut pending = Vec::new();
        for meta in stream.entries.iter_mut().take(entries_max) {
            let key = keys::summary(id, meta.number);
            let value = staged_or_stored(&self.changes, self.store.as_ref(), &key)?;
            let Some(Ok(stored)) = value.as_deref().map(from_bytes::<StoredEntry>) else {
                continue;
            };
            if !meta.sealed {
                meta.sealed = true;
                stream.leave_staged = true;
                self.open_entry = None;
                let entry = StoredEntry {
                    sealed: true,
                    entry: stored.entry.clone(),
                };
                self.changes.put(&key, to_bytes(&entry));
            }
            pending.push(PendingSummary {
                stream: id,
                entry: stored.entry,
            });
        }
        Ok((pending, stream.leave_staged))
    }

    /// The last resort: deltas go, too, and those of their passages that are gone are lost altogether.
    /// Not the sealed ones: they may be on their way, and would be counted after they were called lost.
    pub(super) fn drop_entries(&mut self, goal: u64) {
        for place in 0..self.streams.len() {
            while self.held_bytes > goal {
                let entries = &mut self.streams[place].entries;
                let unsealed = entries.iter().position(|entry| !entry.sealed);
                let Some(entry) = unsealed.and_then(|at| entries.remove(at)) else {
                    break;
                };
                self.lose_entry(place, &entry, &SeqSet::new(), LossReason::Quota);
            }
        }
    }

    /// Drops the entries that stand for no other numbers than these: the centre does not take them.
    /// What they were made of is sent as it is; where that is gone, it is lost. Those that are
    /// `counted` all the same wait for their receipt. Returns how many passages are lost to the
    /// windows.
    pub(in crate::buffer) fn refuse_summary(
        &mut self,
        id: StreamId,
        seqs: &SeqSet,
        counted: &SeqSet,
    ) -> u64 {
        let Some(place) = self.streams.iter().position(|stream| stream.id == id) else {
            return 0;
        };
        let stream = &mut self.streams[place];
        let (refused, kept): (Vec<_>, Vec<_>) = stream.entries.drain(..).partition(|entry| {
            entry.sealed && entry.seqs.is_subset(seqs) && !entry.seqs.is_subset(counted)
        });
        stream.entries = kept.into();
        refused
            .iter()
            .map(|entry| self.lose_entry(place, entry, counted, LossReason::Refused))
            .sum()
    }

    fn lose_entry(
        &mut self,
        place: usize,
        entry: &EntryMeta,
        counted: &SeqSet,
        reason: LossReason,
    ) -> u64 {
        let stream = &mut self.streams[place];
        // Its passages were counted as lost when their raw form went.
        let gone = stream.lose_summary(entry, counted, reason);
        // The others are raw from here on: what a summary may have contained is not folded again.
        entry.seqs.ranges().iter().for_each(|r| stream.offer(*r));
        stream.refresh();
        self.open_entry = None;
        self.held_bytes -= u64::from(entry.bytes);
        self.changes.delete(&keys::summary(stream.id, entry.number));
        gone.count()
    }
}
