//! What the model of the buffer does when it comes to it.

use super::*;

impl World {
    pub(super) fn buffer_works(&mut self) {
        for (centre, receipts) in std::mem::take(&mut self.told) {
            let Some(pinned) = self.buffer_centre else {
                panic!("the model is pinned")
            };
            if centre.id != pinned.id || centre.timeline < pinned.timeline {
                continue;
            }
            if centre.timeline > pinned.timeline {
                self.buffer_centre = Some(centre);
                self.streams.iter_mut().for_each(|(_, held)| held.reborn());
            }
            for receipt in receipts {
                let known = self
                    .streams
                    .iter_mut()
                    .find(|(id, _)| *id == receipt.stream);
                let Some((_, held)) = known else { continue };
                held.take_over(&receipt);
            }
        }
        for (stream, range, build) in std::mem::take(&mut self.to_refuse) {
            if let Some(held) = self.held(stream) {
                held.refuse(range, build);
            }
        }
        for build in std::mem::take(&mut self.shown_builds) {
            let streams = self.streams.iter_mut();
            streams.for_each(|(_, held)| held.offer_again(&build));
        }
        for (stream, seqs, counted) in std::mem::take(&mut self.to_give_up) {
            if let Some(held) = self.held(stream) {
                held.give_up(&seqs, &counted);
            }
            self.feed(Input::SummaryGivenUp);
        }
        for (stream, entries_max) in std::mem::take(&mut self.to_summarise) {
            self.read_summary(stream, entries_max);
        }
        for (backlog, if_late) in std::mem::take(&mut self.to_fold) {
            let wanted = self.late || !if_late;
            let held = self.held(backlog.stream).filter(|_| wanted);
            let folded = held.map_or_else(Folded::default, |held| held.fold(backlog.to));
            // The driver shows the buffer first.
            self.feed(Input::Buffer(self.state()));
            self.feed(Input::Folded(folded));
        }
    }

    pub(super) fn held(&mut self, stream: StreamId) -> Option<&mut Held> {
        let known = self.streams.iter_mut().find(|(id, _)| *id == stream);
        known.map(|(_, held)| held)
    }

    pub(super) fn read_summary(&mut self, stream: StreamId, entries_max: usize) {
        let entries = self.held(stream).map(|held| held.entries.clone());
        let mut entries = entries.unwrap_or_default();
        entries.truncate(entries_max);
        let input = if entries.is_empty() {
            Input::SummaryAbsent(stream)
        } else if self.full || !self.linked {
            Input::SummaryNotSent
        } else {
            self.up.push(Frame::Summary(stream, entries.clone()));
            self.said();
            let ranges = entries.iter().flat_map(|seqs| seqs.ranges()).copied();
            Input::SummarySent {
                stream,
                claimed: claimed(&entries),
                seqs: ranges.collect(),
                entries: entries.len(),
            }
        };
        self.feed(input);
    }

    /// The buffer answers with as much as its own limit allows.
    pub(super) fn answer_read(
        &mut self,
        (id, stream, range): (MessageId, StreamId, SeqRange),
        part: u64,
    ) {
        let held = self
            .streams
            .iter()
            .find(|(known, _)| *known == stream)
            .map(|(_, held)| held);
        let is_gone = |held: &Held| {
            held.declared()
                .union(&held.summed())
                .contains(range.first())
        };
        let Some(held) = held.filter(|held| !is_gone(held)) else {
            return self.feed(Input::Absent { id });
        };
        let read = SeqRange::from_count(range.first(), part.min(range.count())).unwrap();
        let open = SeqSet::from(read).difference(&held.declared().union(&held.summed()));
        let read = open.ranges()[0];
        if let Some(held) = self.held(stream) {
            held.offered.insert(read);
        }
        self.framed.insert(id, (stream, read));
        let bytes = bytes_of(read);
        self.feed(Input::Loaded {
            id,
            range: read,
            bytes,
        });
    }
}
