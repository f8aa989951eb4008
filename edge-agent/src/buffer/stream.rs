//! One stream in memory: its marks, where its chunks are, and what follows from both.
//!
//! Invariants: chunks are in ascending order and disjoint; `held` is the union of their ranges;
//! `unsent` is `held` without what receipts settled.
//!
//! [`losing`] says what of it is lost.
//!
//! Pure.

mod losing;

use std::collections::VecDeque;
use std::sync::Arc;

use proto::StreamId;
use proto::passage::EventTime;
use proto::ranges::{Seq, SeqRange, SeqSet};
use proto::receipt::StreamReceipt;

use super::StreamState;
use super::keys::ChunkKey;
use super::losses::Losses;
use super::records::Marks;
use super::witness::StreamStatement;

/// A chunk without its passages: 32 bytes, for each of which the disk holds up to 64 passages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ChunkMeta {
    pub(super) range: SeqRange,
    pub(super) event_min: EventTime,
    pub(super) event_max: EventTime,
    /// Logical bytes: key and value.
    pub(super) bytes: u32,
}

impl ChunkMeta {
    pub(super) fn key(&self, stream: StreamId) -> ChunkKey {
        ChunkKey {
            stream,
            range: self.range,
            event_min: self.event_min,
            event_max: self.event_max,
        }
    }
}

/// A pending summary entry without its deltas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EntryMeta {
    pub(super) number: u32,
    pub(super) sealed: bool,
    pub(super) seqs: SeqSet,
    /// The least event time that it may stand for.
    pub(super) event_min: EventTime,
    /// The greatest event time that it may stand for.
    pub(super) event_max: EventTime,
    pub(super) bytes: u32,
}

#[derive(Debug, Clone)]
pub(super) struct Stream {
    pub(super) id: StreamId,
    pub(super) marks: Marks,
    /// The marks differ from those on the disk.
    pub(super) marks_changed: bool,
    /// An offered mark or a seal is not durable yet: nothing leaves before.
    pub(super) leave_staged: bool,
    pub(super) chunks: VecDeque<ChunkMeta>,
    pub(super) losses: Losses,
    pub(super) entries: VecDeque<EntryMeta>,
    /// Numbers that were refused, and booked as lost perhaps, and that are offered again: what
    /// receipts say of their loss is not believed until they are counted or refused anew.
    again: SeqSet,
    again_changed: bool,
    held: SeqSet,
    unsent: SeqSet,
    /// Numbers whose window deltas wait for a receipt.
    summed: SeqSet,
    /// Logical bytes of all chunks.
    pub(super) bytes: u64,
    /// Logical bytes of the chunks that are not settled.
    pub(super) unsent_bytes: u64,
    oldest_unsent: Option<EventTime>,
    newest_unsent: Option<EventTime>,
    oldest_uncounted: Option<EventTime>,
    /// The published form, until something changes.
    view: Option<Arc<StreamState>>,
}

impl Stream {
    pub(super) fn new(id: StreamId, marks: Marks) -> Self {
        Self {
            id,
            marks,
            marks_changed: false,
            leave_staged: false,
            chunks: VecDeque::new(),
            losses: Losses::default(),
            entries: VecDeque::new(),
            again: SeqSet::new(),
            again_changed: false,
            held: SeqSet::new(),
            unsent: SeqSet::new(),
            summed: SeqSet::new(),
            bytes: 0,
            unsent_bytes: 0,
            oldest_unsent: None,
            newest_unsent: None,
            oldest_uncounted: None,
            view: None,
        }
    }

    /// Nothing of it is left to send, to say, or to keep.
    pub(super) fn is_empty(&self) -> bool {
        self.chunks.is_empty() && self.losses.is_empty() && self.entries.is_empty()
    }

    /// Nothing of it is left to send or to say.
    pub(super) fn is_settled(&self) -> bool {
        self.unsent.is_empty() && self.losses.is_empty() && self.entries.is_empty()
    }

    pub(super) fn held(&self) -> &SeqSet {
        &self.held
    }

    pub(super) fn unsent(&self) -> &SeqSet {
        &self.unsent
    }

    /// Numbers whose window deltas wait for a receipt, whether their raw form is here or not.
    pub(super) fn summed(&self) -> &SeqSet {
        &self.summed
    }

    /// The last number up to which raw passages may be handed out from a number on: where a summary
    /// that waits for its receipt stands for the next one. None where it stands for this one.
    pub(super) fn offerable_to(&self, first: Seq) -> Option<u64> {
        let ranges = self.summed.ranges();
        let next = ranges.get(ranges.partition_point(|range| range.last() < first));
        match next {
            Some(next) if next.first() <= first => None,
            Some(next) => Some(next.first().get() - 1),
            None => Some(u64::MAX),
        }
    }

    /// Numbers of the backlog, up to one of them, whose window deltas may go ahead of them: none that
    /// a message may have contained, for it may be counted already.
    pub(super) fn summable(&self, to: u64) -> SeqSet {
        let Ok(to) = SeqRange::from_count(Seq::FIRST, to) else {
            return SeqSet::new();
        };
        self.unsent
            .intersection(&to.into())
            .difference(&self.marks.offered)
            .difference(&self.marks.counted)
            .difference(&self.summed)
            .difference(&self.again)
    }

    /// Adds an entry, or puts it in the place of the one that it extends.
    pub(super) fn put_entry(&mut self, entry: EntryMeta, at: Option<usize>) -> Option<EntryMeta> {
        self.summed = self.summed.union(&entry.seqs);
        lower(&mut self.oldest_uncounted, entry.event_min);
        self.view = None;
        if let Some(before) = at.and_then(|at| self.entries.get_mut(at)) {
            return Some(std::mem::replace(before, entry));
        }
        self.entries.push_back(entry);
        None
    }

    pub(super) fn oldest_unsent(&self) -> Option<EventTime> {
        self.oldest_unsent
    }

    pub(super) fn newest_unsent(&self) -> Option<EventTime> {
        self.newest_unsent
    }

    pub(super) fn oldest_uncounted(&self) -> Option<EventTime> {
        self.oldest_uncounted
    }

    /// See [`Stream::again`].
    pub(super) fn again(&self) -> &SeqSet {
        &self.again
    }

    /// What the disk says is offered again.
    pub(super) fn load_again(&mut self, again: SeqSet) {
        self.again = again;
    }

    /// What the disk is to say is offered again, if that changed.
    pub(super) fn take_again(&mut self) -> Option<&SeqSet> {
        std::mem::take(&mut self.again_changed).then_some(&self.again)
    }

    /// Whether memory is ahead of the disk.
    pub(super) fn is_changed(&self) -> bool {
        self.marks_changed || self.again_changed || self.losses.is_changed()
    }

    /// A chunk that the disk holds already; [`Stream::refresh`] after the last.
    pub(super) fn load(&mut self, chunk: ChunkMeta) {
        self.marks.accepted_to = self.marks.accepted_to.max(chunk.range.last().get());
        self.held.insert(chunk.range);
        self.bytes += u64::from(chunk.bytes);
        self.chunks.push_back(chunk);
    }

    /// A chunk of new passages.
    pub(super) fn push(&mut self, chunk: ChunkMeta) {
        self.held.insert(chunk.range);
        self.unsent.insert(chunk.range);
        self.bytes += u64::from(chunk.bytes);
        self.unsent_bytes += u64::from(chunk.bytes);
        lower(&mut self.oldest_unsent, chunk.event_min);
        raise(&mut self.newest_unsent, chunk.event_max);
        lower(&mut self.oldest_uncounted, chunk.event_min);
        self.chunks.push_back(chunk);
        self.view = None;
    }

    /// A chunk that damage had taken; [`Stream::refresh`] after the last.
    pub(super) fn put_back(&mut self, chunk: ChunkMeta) {
        self.marks.accepted_to = self.marks.accepted_to.max(chunk.range.last().get());
        self.marks_changed = true;
        let at = self.place_of(chunk.range.first());
        self.replace(at..at, [chunk]);
    }

    /// Takes over marks that a store lost which is older than they are.
    pub(super) fn believe(&mut self, stated: &StreamStatement) {
        self.marks.accepted_to = self.marks.accepted_to.max(stated.accepted_to);
        for range in stated.offered.ranges() {
            self.marks.offer(*range);
        }
        self.marks_changed = true;
    }

    /// Numbers of which it is known what became of them.
    pub(super) fn accounted(&self) -> SeqSet {
        let stated = self.losses.iter().map(|loss| loss.range);
        let stated: SeqSet = stated.collect();
        let settled = self.marks.settled();
        self.held.union(&self.summed).union(&stated).union(&settled)
    }

    /// Numbers that are to be sent, raw or as a summary, or stated as lost.
    pub(super) fn open(&self) -> SeqSet {
        let stated = self.losses.iter().map(|loss| loss.range);
        let stated: SeqSet = stated.collect();
        self.unsent.union(&self.summed).union(&stated)
    }

    /// The place of the first chunk that ends at or after the number.
    pub(super) fn place_of(&self, seq: Seq) -> usize {
        self.chunks
            .partition_point(|chunk| chunk.range.last() < seq)
    }

    /// Exchanges the chunks at some places for others that hold some of the same numbers;
    /// [`Stream::refresh`] after the last, unless the numbers are all the same.
    pub(super) fn replace(
        &mut self,
        places: std::ops::Range<usize>,
        by: impl IntoIterator<Item = ChunkMeta>,
    ) {
        let at = places.start;
        for _ in places {
            // Costs the distance to the nearer end, and those at an end are the usual ones.
            if let Some(gone) = self.chunks.remove(at) {
                self.held.remove(gone.range);
                self.bytes -= u64::from(gone.bytes);
            }
        }
        for (step, chunk) in by.into_iter().enumerate() {
            self.held.insert(chunk.range);
            self.bytes += u64::from(chunk.bytes);
            self.chunks.insert(at + step, chunk);
        }
        self.view = None;
    }

    /// Takes the oldest chunk out.
    pub(super) fn pop_front(&mut self) -> Option<ChunkMeta> {
        let chunk = self.chunks.pop_front()?;
        self.held.remove(chunk.range);
        self.bytes -= u64::from(chunk.bytes);
        self.view = None;
        Some(chunk)
    }

    /// Derives everything again from chunks and marks.
    pub(super) fn refresh(&mut self) {
        let settled = self.marks.settled();
        let gone = self
            .marks
            .counted
            .union(&self.marks.lost)
            .union(&self.again);
        self.unsent = self.held.difference(&settled);
        let summed = self.entries.iter().flat_map(|entry| entry.seqs.ranges());
        self.summed = summed.copied().collect();
        self.unsent_bytes = 0;
        self.oldest_unsent = None;
        self.newest_unsent = None;
        self.oldest_uncounted = None;
        for chunk in &self.chunks {
            if !settled.contains_range(chunk.range) {
                self.unsent_bytes += u64::from(chunk.bytes);
                lower(&mut self.oldest_unsent, chunk.event_min);
                raise(&mut self.newest_unsent, chunk.event_max);
            }
            if !gone.contains_range(chunk.range) {
                lower(&mut self.oldest_uncounted, chunk.event_min);
            }
        }
        for entry in &self.entries {
            lower(&mut self.oldest_uncounted, entry.event_min);
        }
        self.view = None;
    }

    /// Numbers without a receipt that a frame may have contained.
    pub(super) fn pending_offers(&self) -> u64 {
        self.marks.pending_offers().count()
    }

    pub(super) fn offer(&mut self, range: SeqRange) {
        if !self.marks.offered.contains_range(range) {
            self.marks.offer(range);
            self.marks_changed = true;
            self.leave_staged = true;
            self.view = None;
        }
    }

    /// Takes over what the centre committed. Returns the summaries that it frees.
    pub(super) fn receipt(&mut self, receipt: &StreamReceipt) -> Vec<EntryMeta> {
        if receipt.afresh {
            self.forget_receipts();
        }
        if !self.marks.take_over(receipt, &self.again) {
            return Vec::new();
        }
        self.marks_changed = true;
        if !self.again.is_disjoint(&self.marks.counted) {
            self.again = self.again.difference(&self.marks.counted);
            self.again_changed = true;
        }
        self.losses.settle(&self.marks);
        let known = self.marks.counted.union(&self.marks.lost);
        let (freed, waiting): (Vec<_>, Vec<_>) = self
            .entries
            .drain(..)
            .partition(|entry| entry.seqs.is_subset(&known));
        self.entries = waiting.into();
        self.refresh();
        freed
    }

    /// Forgets what receipts said of the numbers of which anything is left here, so that they are
    /// offered again. Of the others it stays known that they were released.
    pub(super) fn forget_receipts(&mut self) {
        self.marks.forget_receipts(&self.kept());
        self.marks_changed = true;
        let entries = self.entries.iter().flat_map(|entry| entry.seqs.ranges());
        self.losses.doubt(&entries.copied().collect());
        self.refresh();
    }

    /// Numbers of which anything is left here: passages, sums, or losses without a receipt.
    fn kept(&self) -> SeqSet {
        let mut kept = self.held.union(&self.summed);
        self.losses.iter().for_each(|loss| kept.insert(loss.range));
        kept
    }

    /// The form that others see.
    pub(super) fn view(&mut self, current: bool) -> Arc<StreamState> {
        if let Some(view) = self.view.as_ref().filter(|view| view.current == current) {
            return Arc::clone(view);
        }
        let view = Arc::new(StreamState {
            id: self.id,
            current,
            accepted_to: self.marks.accepted_to,
            offered: self.marks.offered.clone(),
            held: self.held.clone(),
            kept: self.kept(),
            unsent: self.unsent.clone(),
            summed: self.summed.intersection(&self.unsent),
            counted: self.marks.counted.clone(),
            stored: self.marks.stored.clone(),
            lost: self.marks.lost.clone(),
            again: self.again.clone(),
            oldest_unsent: self.oldest_unsent,
        });
        self.view = Some(Arc::clone(&view));
        view
    }
}

fn lower(least: &mut Option<EventTime>, time: EventTime) {
    *least = Some(least.map_or(time, |before| before.min(time)));
}

fn raise(greatest: &mut Option<EventTime>, time: EventTime) {
    *greatest = Some(greatest.map_or(time, |before| before.max(time)));
}

#[cfg(test)]
mod tests;
