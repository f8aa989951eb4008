//! What must hold after every operation: each number is exactly where the ledger says it is.

use super::*;

impl World {
    /// A new life of the centre may have counted nothing: only what is summed here is raw only.
    pub(super) fn check_doubt(&self) {
        for stream in &self.engine.as_ref().unwrap().streams {
            let mut losses = stream.losses.iter();
            assert!(losses.all(|loss| {
                loss.scope == LossScope::All || SeqSet::from(loss.range).is_subset(stream.summed())
            }));
        }
    }

    /// A stream is forgotten only when the centre has settled every number of it.
    pub(super) fn check_forgotten(&mut self, state: &BufferState) {
        for (id, accepted) in &self.accepted {
            if state.streams.iter().any(|view| view.id.as_bytes() == id) {
                continue;
            }
            let cursor = self.cursors.get(id).cloned().unwrap_or_default();
            let settled = cursor.stored.union(&cursor.lost);
            assert!(
                self.timeline > 1 || settled.count() == accepted.len() as u64,
                "forgotten before it was settled: {cursor:?}"
            );
            self.forgotten.insert(*id);
        }
    }

    /// Per stream: 1 to `accepted_to` = held or settled or declared, every held passage is as it
    /// was accepted, and every delta is what its passages add up to.
    pub(super) fn check(&mut self) {
        let state = self.state();
        self.check_forgotten(&state);
        let engine = self.engine.as_ref().unwrap();
        let mut bytes: u64 = engine
            .aside
            .iter()
            .map(|(_, bytes)| u64::from(*bytes))
            .sum();
        for (view, stream) in state.streams.iter().zip(&engine.streams) {
            let accepted = &self.accepted[view.id.as_bytes()];
            assert_eq!(view.accepted_to, accepted.len() as u64);
            let declared: SeqSet = stream.losses.iter().map(|loss| loss.range).collect();
            let stated: u64 = stream.losses.iter().map(|loss| loss.range.count()).sum();
            assert_eq!(declared.count(), stated, "a number is in one loss");
            assert!(declared.is_disjoint(&view.held), "lost and held");
            assert!(view.again.is_subset(&view.unsent) && view.again.is_disjoint(&view.lost));
            let all = SeqRange::from_count(Seq::FIRST, view.accepted_to)
                .map(SeqSet::from)
                .unwrap();
            let settled = view.stored.union(&view.lost);
            let mut kept = view.held.union(&settled).union(&declared);
            // A forgotten stream that comes back with what was aside leaves the rest to the centre,
            // which has settled it.
            if self.forgotten.contains(view.id.as_bytes())
                && let Some(cursor) = self.cursors.get(view.id.as_bytes())
            {
                kept = kept.union(&cursor.stored).union(&cursor.lost);
            }
            // After a promotion the centre may have forgotten what was deleted in good faith.
            if self.timeline == 1 {
                assert_eq!(all.difference(&kept), SeqSet::new(), "vanished: {stream:?}");
            }
            assert_eq!(view.unsent, view.held.difference(&settled));
            assert!(view.stored.is_subset(&view.counted) && view.counted.is_disjoint(&view.lost));
            for chunk in &stream.chunks {
                bytes += u64::from(chunk.bytes);
                let batch = engine.passages(view.id, chunk).unwrap();
                let first = usize::try_from(chunk.range.first().get()).unwrap();
                let expected = &accepted[first - 1..first - 1 + batch.len()];
                assert!(
                    batch.iter().eq(expected.iter().cloned()),
                    "chunk {}",
                    chunk.range
                );
            }
            let mut summarised = SeqSet::new();
            for meta in &stream.entries {
                bytes += u64::from(meta.bytes);
                let entry = engine.entry(view.id, meta.number).unwrap().unwrap().entry;
                assert_eq!(entry.seqs, meta.seqs);
                assert!(entry.seqs.is_disjoint(&summarised), "summed twice");
                summarised = summarised.union(&entry.seqs);
                let batch: PassageBatch = entry
                    .seqs
                    .iter()
                    .map(|seq| accepted[usize::try_from(seq.get()).unwrap() - 1].clone())
                    .collect();
                let wild = entry.seqs.iter().map(|seq| {
                    let number = usize::try_from(seq.get()).unwrap();
                    is_wild(accepted[number - 1].event_time)
                });
                let wild: BTreeSet<bool> = wild.collect();
                assert_eq!(wild.len(), 1, "the good go with the wild: {:?}", entry.seqs);
                let mut deltas = fold(&batch, |_| true);
                deltas.sort_by_key(|delta| delta.bucket);
                assert_eq!(entry.deltas, deltas, "windows stay exact");
            }
            assert_eq!(stream.summed(), &summarised);
            for loss in stream.losses.iter() {
                if loss.scope == LossScope::All {
                    let is_summed = summarised.overlaps_range(loss.range);
                    assert!(!is_summed, "lost altogether, but summed");
                    continue;
                }
                // A restart forgets what was not yet written: that the centre is in a new life, and
                // what it had counted. It says both again before anything is declared.
                let cursor = self.cursors.get(view.id.as_bytes());
                let told = self.told.get(view.id.as_bytes());
                let known = [cursor.map(|cursor| &cursor.counted), told];
                let known = known
                    .into_iter()
                    .flatten()
                    .fold(summarised.union(&view.counted), |all, some| all.union(some));
                let is_known = known.contains_range(loss.range);
                assert!(is_known, "raw only, but in no window");
            }
        }
        assert_eq!(bytes, state.held_bytes);
    }
}
