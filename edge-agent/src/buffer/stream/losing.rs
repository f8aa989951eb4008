//! What of a stream is stated as lost, and what of that comes back into line.
//!
//! Only what is not settled is stated; what a summary stands for loses its raw rows only.

use proto::StreamId;
use proto::loss::{Loss, LossReason, LossScope};
use proto::passage::EventTime;
use proto::ranges::{SeqRange, SeqSet};

use super::{ChunkMeta, EntryMeta, Stream};

impl Stream {
    /// A chunk that was set aside comes back into line: its loss is taken back.
    pub(in crate::buffer) fn offer_again(&mut self, chunk: ChunkMeta) {
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
    pub(in crate::buffer) fn lose_again(&mut self, chunk: &ChunkMeta) {
        self.marks.accepted_to = self.marks.accepted_to.max(chunk.range.last().get());
        self.marks.forget_receipts(&chunk.range.into());
        self.marks_changed = true;
        self.losses.remove(&chunk.range.into());
        self.declare(chunk, chunk.range, LossReason::Refused, false);
        self.refresh();
    }

    /// Books numbers as lost that leave the disk without being settled: raw only where the windows
    /// have them or will have them by `summarised`, or by an entry that waits for its receipt.
    pub(in crate::buffer) fn declare(
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
    pub(in crate::buffer) fn declare_unread(&mut self, range: SeqRange, reason: LossReason) {
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
    pub(in crate::buffer) fn lose_summary(
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
}

fn unstated(stream: StreamId, dropped: Option<Loss>) {
    if let Some(Loss { range, reason, .. }) = dropped {
        let reason = reason.word();
        tracing::error!(%stream, %range, reason, "too many losses to state; the centre will find these passages vanished");
    }
}
