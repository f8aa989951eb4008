//! What the centre counts, refuses and says, and what becomes of its words.

use super::*;

impl World {
    pub(super) fn deliver(&mut self, stream: usize, store: bool, book: bool) {
        let Some(id) = self.stream(stream) else {
            return;
        };
        let state = self.state();
        let known = state.streams.iter().find(|known| known.id == id).unwrap();
        let offerable = known.unsent.difference(&known.summed);
        let first = offerable
            .ranges()
            .first()
            .map_or(Seq::FIRST, |range| range.first());
        // The uplink asks for two messages in one turn.
        let second = Seq::new(first.get() + LIMIT.passages as u64).unwrap();
        let mut runs = Vec::new();
        let mut waiting = vec![first, second];
        while !waiting.is_empty() {
            let passages = LIMIT.passages;
            let (later, now): (Vec<_>, Vec<_>) = waiting
                .into_iter()
                .partition(|first| self.engine().reserve(id, *first, passages));
            waiting = later;
            runs.extend(now.into_iter().filter_map(|first| self.read(id, first)));
            if !waiting.is_empty() {
                self.engine().commit(NOW_MS).unwrap();
            }
        }
        let cursor = self.cursors.entry(*id.as_bytes()).or_default();
        for range in runs {
            cursor.counted.insert(range);
            if store {
                cursor.stored.insert(range);
            }
        }
        if book {
            for (_, loss) in state.losses.iter().filter(|(stream, _)| *stream == id) {
                let range = SeqSet::from(loss.range);
                match loss.scope {
                    LossScope::All => {
                        cursor.lost = cursor.lost.union(&range.difference(&cursor.counted));
                    }
                    LossScope::RawOnly => {
                        let known = range.intersection(&cursor.counted);
                        cursor.stored = cursor.stored.union(&known);
                    }
                }
            }
        }
        cursor.lost = cursor.lost.difference(&cursor.counted);
        self.receipt(vec![id]);
    }

    /// Reads what needs no commit before, and returns its numbers.
    fn read(&mut self, id: StreamId, first: Seq) -> Option<SeqRange> {
        let run = self.engine().read(id, first, LIMIT).unwrap().unwrap()?;
        let range = SeqRange::from_count(run.first, run.batch.len() as u64).unwrap();
        let marks = self.engine().store.get(&keys::stream(id)).unwrap();
        let offered = marks.map_or_else(SeqSet::new, |marks| {
            from_bytes::<Marks>(&marks).unwrap().offered
        });
        assert!(
            offered.contains_range(range),
            "{range} is handed out, durable is that {offered:?} may be"
        );
        let view = self.view(id);
        assert!(range.last().get() <= view.accepted_to);
        assert!(
            view.summed.is_disjoint(&range.into()),
            "handed out before the receipt of its summary"
        );
        for (place, passage) in run.batch.iter().enumerate() {
            let number = usize::try_from(run.first.get()).unwrap() + place;
            assert_eq!(
                passage,
                self.accepted[id.as_bytes()][number - 1],
                "number {number}"
            );
        }
        Some(range)
    }

    pub(super) fn receipt(&mut self, streams: Vec<StreamId>) -> CentreVerdict {
        let receipts: Vec<_> = streams
            .into_iter()
            .map(|stream| {
                let cursor = self
                    .cursors
                    .get(stream.as_bytes())
                    .cloned()
                    .unwrap_or_default();
                let Cursor {
                    counted,
                    stored,
                    lost,
                } = cursor;
                StreamReceipt {
                    stream,
                    counted,
                    stored,
                    lost,
                    afresh: false,
                }
            })
            .collect();
        let speaker = centre(self.timeline);
        self.engine().receipt(speaker, &receipts)
    }

    pub(super) fn refuse(&mut self, stream: usize, passages: u64, build: u8) {
        let Some(id) = self.stream(stream) else {
            return;
        };
        let state = self.state();
        let known = state.streams.iter().find(|known| known.id == id).unwrap();
        let Some(first) = known.unsent.ranges().last() else {
            return;
        };
        let range = SeqRange::from_count(first.first(), passages).unwrap();
        let refused = known.held.intersection(&range.into());
        let taken = self.engine().refuse(id, range, Some(&name(build))).unwrap();
        assert_eq!(taken, refused.count());
        self.engine().commit(NOW_MS).unwrap();
        let by_build = self.refused.entry((build, *id.as_bytes())).or_default();
        *by_build = by_build.union(&refused);
    }

    /// Afterwards nothing is aside but what this build has refused.
    pub(super) fn show_build(&mut self, build: u8) {
        while self.engine().offer_again(&name(build)).unwrap() > 0 {
            self.engine().commit(NOW_MS).unwrap();
            self.check();
        }
        for (key, _) in self.engine.as_ref().unwrap().aside.clone() {
            let refused = self.refused.get(&(build, *key.stream.as_bytes()));
            let is_refused = refused.is_some_and(|refused| refused.contains_range(key.range));
            assert!(is_refused, "{} was not offered to build {build}", key.range);
        }
    }

    pub(super) fn summaries(&mut self, stream: usize, fate: Fate) {
        let Some(id) = self.stream(stream) else {
            return;
        };
        let (pending, sealed_now) = self.engine().seal(id, 8).unwrap();
        let twice = self.engine().seal(id, 8).unwrap();
        assert!(
            !sealed_now || twice.1,
            "handed out before the seal is durable"
        );
        assert_eq!(twice.0, pending);
        self.engine().commit(NOW_MS).unwrap();
        let (again, sealed_now) = self.engine().seal(id, 8).unwrap();
        assert_eq!(
            (&again, sealed_now),
            (&pending, false),
            "sealed bytes never change"
        );
        let cursor = self.cursors.entry(*id.as_bytes()).or_default();
        match fate {
            Fate::Silence => return,
            Fate::Counted => {
                for summary in pending {
                    // The centre applies an entry that is disjoint from what it counted, if it takes
                    // summaries for all of its windows.
                    let mut windows = summary.entry.deltas.iter();
                    if windows.any(|delta| is_wild(delta.bucket.start())) {
                        let (engine, seqs) = (self.engine.as_mut().unwrap(), &summary.entry.seqs);
                        engine.refuse_summary(id, seqs, &cursor.counted);
                        engine.commit(NOW_MS).unwrap();
                    } else if cursor.counted.is_disjoint(&summary.entry.seqs) {
                        cursor.counted = cursor.counted.union(&summary.entry.seqs);
                    }
                }
            }
            Fate::Refused(numbers) => {
                let Some(PendingSummary { entry, .. }) = pending.first() else {
                    return;
                };
                let first = entry.seqs.iter().take(usize::try_from(numbers).unwrap());
                first.for_each(|seq| cursor.counted.insert(SeqRange::new(seq, seq).unwrap()));
                let counted = cursor.counted.clone();
                let open = entry.seqs.difference(&counted);
                let view = self.state();
                let view = view.streams.iter().find(|known| known.id == id).unwrap();
                let news = open.difference(&view.lost).difference(&view.counted);
                // What is held is sent raw.
                let news = news.difference(&view.held);
                let lost = self.engine().refuse_summary(id, &entry.seqs, &counted);
                assert_eq!(lost, news.count());
                let twice = self.engine().refuse_summary(id, &entry.seqs, &counted);
                assert_eq!(twice, 0, "a repeated refusal means nothing");
                self.engine().commit(NOW_MS).unwrap();
                let engine = self.engine.as_ref().unwrap();
                let stream = engine.streams.iter().find(|known| known.id == id).unwrap();
                let waits = stream.entries.iter().any(|meta| meta.seqs == entry.seqs);
                assert_eq!(
                    waits,
                    open.is_empty(),
                    "what is counted waits for its receipt"
                );
            }
        }
        let cursor = self.cursors.entry(*id.as_bytes()).or_default();
        cursor.lost = cursor.lost.difference(&cursor.counted);
        self.receipt(vec![id]);
    }
}
