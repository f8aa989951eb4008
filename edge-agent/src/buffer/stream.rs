//! One stream in memory: its marks, where its chunks are, and what follows from both.
//!
//! Invariants: chunks are in ascending order and disjoint; `held` is the union of their ranges;
//! `unsent` is `held` without what receipts settled.
//!
//! Pure.

use std::collections::VecDeque;
use std::sync::Arc;

use proto::StreamId;
use proto::loss::{Loss, LossReason, LossScope};
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

    /// Adds an entry, in the place of the last one if that was extended.
    pub(super) fn put_entry(&mut self, entry: EntryMeta, extends: bool) -> Option<EntryMeta> {
        let before = extends.then(|| self.entries.pop_back()).flatten();
        self.summed = self.summed.union(&entry.seqs);
        lower(&mut self.oldest_uncounted, entry.event_min);
        self.entries.push_back(entry);
        self.view = None;
        before
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

    /// A chunk that was set aside comes back into line: its loss is taken back.
    pub(super) fn offer_again(&mut self, chunk: ChunkMeta) {
        let seqs = SeqSet::from(chunk.range);
        self.marks.accepted_to = self.marks.accepted_to.max(chunk.range.last().get());
        self.marks.lost = self.marks.lost.difference(&seqs);
        self.marks_changed = true;
        self.losses.remove(&seqs);
        self.again = self.again.union(&seqs.difference(&self.marks.counted));
        self.again_changed = true;
        let at = self.place_of(chunk.range.first());
        self.replace(at..at, [chunk]);
        self.refresh();
    }

    /// The loss of a chunk that is aside is stated once more.
    pub(super) fn lose_again(&mut self, chunk: &ChunkMeta) {
        self.marks.accepted_to = self.marks.accepted_to.max(chunk.range.last().get());
        self.marks.forget_receipts(&chunk.range.into());
        self.marks_changed = true;
        self.losses.remove(&chunk.range.into());
        self.declare(chunk, chunk.range, LossReason::Refused, false);
        self.refresh();
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

    /// Books numbers as lost that leave the disk without being settled: raw only where the windows
    /// have them or will have them by `summarised`, or by an entry that waits for its receipt.
    pub(super) fn declare(
        &mut self,
        chunk: &ChunkMeta,
        within: SeqRange,
        reason: LossReason,
        summarised: bool,
    ) {
        let Some(within) = chunk.range.intersection(within) else {
            return;
        };
        let span = Some((chunk.event_min, chunk.event_max));
        self.declare_within(within, span, reason, summarised);
    }

    /// Books numbers as lost of which not even the times are known.
    pub(super) fn declare_unread(&mut self, range: SeqRange, reason: LossReason) {
        self.declare_within(range, None, reason, false);
    }

    fn declare_within(
        &mut self,
        within: SeqRange,
        span: Option<(EventTime, EventTime)>,
        reason: LossReason,
        summarised: bool,
    ) {
        self.view = None;
        let within = SeqSet::from(within);
        if !self.again.is_disjoint(&within) {
            self.again = self.again.difference(&within);
            self.again_changed = true;
        }
        let gone = within.difference(&self.marks.settled());
        let raw_only = if summarised {
            gone.clone()
        } else {
            gone.intersection(&self.marks.counted.union(&self.summed))
        };
        let all = gone.difference(&raw_only);
        for (set, scope) in [(&raw_only, LossScope::RawOnly), (&all, LossScope::All)] {
            for range in set.ranges() {
                let loss = Loss {
                    range: *range,
                    scope,
                    reason,
                    event_min: span.map(|(least, _)| least),
                    event_max: span.map(|(_, greatest)| greatest),
                };
                let (marks, held) = (&self.marks, &self.held);
                let dropped = self.losses.add(loss, || {
                    marks.settled().difference(held).difference(&within)
                });
                unstated(self.id, dropped);
            }
        }
    }

    /// Books numbers as lost altogether of which only the raw rows were: their summary is gone. The
    /// windows have what the centre `counted`, and will have what is held still. Returns the numbers.
    pub(super) fn lose_summary(
        &mut self,
        entry: &EntryMeta,
        counted: &SeqSet,
        reason: LossReason,
    ) -> SeqSet {
        let known = self.marks.counted.union(&self.marks.lost).union(counted);
        let gone = entry.seqs.difference(&known).difference(&self.held);
        let span = (entry.event_min, entry.event_max);
        let (marks, held) = (&self.marks, &self.held);
        let mute = || marks.settled().difference(held).difference(&gone);
        let dropped = self.losses.deepen(&gone, reason, span, mute);
        self.view = None;
        unstated(self.id, dropped);
        gone
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

fn unstated(stream: StreamId, dropped: Option<Loss>) {
    if let Some(Loss { range, reason, .. }) = dropped {
        let reason = reason.word();
        tracing::error!(%stream, %range, reason, "too many losses to state; the centre will find these passages vanished");
    }
}

fn lower(least: &mut Option<EventTime>, time: EventTime) {
    *least = Some(least.map_or(time, |before| before.min(time)));
}

fn raise(greatest: &mut Option<EventTime>, time: EventTime) {
    *greatest = Some(greatest.map_or(time, |before| before.max(time)));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: u64, last: u64) -> SeqRange {
        SeqRange::new(Seq::new(first).unwrap(), Seq::new(last).unwrap()).unwrap()
    }

    fn chunk(first: u64, last: u64) -> ChunkMeta {
        ChunkMeta {
            range: range(first, last),
            event_min: EventTime::from_millis(i64::try_from(first).unwrap()),
            event_max: EventTime::from_millis(i64::try_from(last).unwrap()),
            bytes: 100,
        }
    }

    fn stream() -> Stream {
        let mut stream = Stream::new(StreamId::from_bytes([1; 16]), Marks::default());
        stream.marks.accepted_to = 30;
        [chunk(1, 10), chunk(11, 20), chunk(21, 30)]
            .into_iter()
            .for_each(|c| stream.push(c));
        stream
    }

    fn receipt(counted: &[SeqRange], stored: &[SeqRange], lost: &[SeqRange]) -> StreamReceipt {
        let set = |ranges: &[SeqRange]| ranges.iter().copied().collect();
        StreamReceipt {
            stream: StreamId::from_bytes([1; 16]),
            counted: set(counted),
            stored: set(stored),
            lost: set(lost),
            afresh: false,
        }
    }

    #[test]
    fn what_is_stored_is_no_longer_unsent_and_what_is_only_counted_still_is() {
        let mut stream = stream();
        stream.receipt(&receipt(&[range(1, 20)], &[range(1, 10)], &[]));
        assert_eq!(stream.unsent(), &SeqSet::from(range(11, 30)));
        assert_eq!(stream.unsent_bytes, 200);
        assert_eq!(stream.oldest_unsent(), Some(EventTime::from_millis(11)));
        assert_eq!(
            stream.newest_unsent(),
            stream.chunks.back().map(|c| c.event_max)
        );
        assert_eq!(stream.oldest_uncounted(), Some(EventTime::from_millis(21)));
    }

    #[test]
    fn a_later_timeline_makes_everything_held_unsent_again() {
        let mut stream = stream();
        stream.receipt(&receipt(&[range(1, 30)], &[range(1, 30)], &[]));
        assert!(stream.is_settled());
        stream.pop_front();
        stream.forget_receipts();
        assert_eq!(stream.unsent(), &SeqSet::from(range(11, 30)));
    }

    fn losses(stream: &Stream) -> Vec<(SeqRange, LossScope)> {
        let losses = stream.losses.iter();
        losses.map(|loss| (loss.range, loss.scope)).collect()
    }

    #[test]
    fn what_is_stored_is_not_declared_and_neighbours_become_one() {
        let mut stream = stream();
        stream.receipt(&receipt(&[range(5, 12)], &[range(5, 7)], &[]));
        stream.declare(&chunk(1, 10), range(1, 10), LossReason::Quota, true);
        stream.declare(&chunk(11, 20), range(11, 20), LossReason::Quota, true);
        let raw_only = [
            (range(1, 4), LossScope::RawOnly),
            (range(8, 20), LossScope::RawOnly),
        ];
        assert_eq!(losses(&stream), raw_only);
    }

    #[test]
    fn without_a_summary_only_counted_numbers_are_lost_raw_only() {
        let mut stream = stream();
        stream.receipt(&receipt(&[range(1, 4)], &[], &[]));
        stream.declare(&chunk(1, 10), range(1, 10), LossReason::Corrupt, false);
        let kinds = [
            (range(1, 4), LossScope::RawOnly),
            (range(5, 10), LossScope::All),
        ];
        assert_eq!(losses(&stream), kinds);
    }

    #[test]
    fn what_is_offered_again_is_lost_no_more_until_it_is_refused_anew() {
        let mut stream = stream();
        stream.declare(&chunk(1, 10), range(1, 10), LossReason::Refused, false);
        stream.pop_front();
        let booked = receipt(&[], &[], &[range(1, 10)]);
        stream.receipt(&booked);
        assert!(stream.losses.is_empty());
        stream.offer_again(chunk(1, 10));
        stream.receipt(&booked);
        assert_eq!(stream.unsent(), &SeqSet::from(range(1, 30)));
        assert_eq!(
            stream.oldest_uncounted(),
            Some(EventTime::from_millis(11)),
            "it holds no window back"
        );
        stream.receipt(&receipt(&[range(1, 4)], &[range(1, 4)], &[range(5, 10)]));
        assert_eq!(stream.again(), &SeqSet::from(range(5, 10)));
        stream.declare(&chunk(5, 10), range(5, 10), LossReason::Refused, false);
        assert_eq!(losses(&stream), [(range(5, 10), LossScope::All)]);
        stream.receipt(&receipt(&[range(1, 5)], &[range(1, 5)], &[range(6, 10)]));
        assert!(stream.losses.is_empty() && stream.again().is_empty());
    }

    #[test]
    fn a_receipt_frees_what_it_books() {
        let mut stream = stream();
        stream.declare(&chunk(1, 10), range(1, 10), LossReason::Corrupt, false);
        stream.declare(&chunk(11, 20), range(11, 20), LossReason::Quota, true);
        stream.receipt(&receipt(&[range(4, 20)], &[], &[range(1, 3)]));
        // 4 to 10 were declared as lost altogether, but had been counted: their raw rows are lost.
        let kept = [
            (range(4, 10), LossScope::RawOnly),
            (range(11, 20), LossScope::RawOnly),
        ];
        assert_eq!(losses(&stream), kept);
        stream.receipt(&receipt(&[range(4, 20)], &[range(4, 20)], &[range(1, 3)]));
        assert!(stream.losses.is_empty());
    }
}
