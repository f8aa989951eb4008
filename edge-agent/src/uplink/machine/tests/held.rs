//! The model of the buffer: what becomes of the passages of one stream.

use super::*;

/// One stream of the buffer.
#[derive(Debug, Clone, Default)]
pub(super) struct Held {
    pub(super) accepted_to: u64,
    pub(super) counted: SeqSet,
    pub(super) stored: SeqSet,
    pub(super) lost: SeqSet,
    pub(super) offered: SeqSet,
    /// Refused for ever.
    pub(super) aside: SeqSet,
    /// Refused by which build.
    pub(super) refused: BTreeMap<Arc<str>, SeqSet>,
    pub(super) again: SeqSet,
    /// Dropped in favour of sums, which wait in `entries` or were counted or given up.
    pub(super) summarised: SeqSet,
    /// What the sums that wait for a receipt stand for, dropped or not.
    pub(super) entries: Vec<SeqSet>,
    /// Lost together with their sums.
    pub(super) gone: SeqSet,
}

impl Held {
    pub(super) fn all(&self) -> SeqSet {
        let range = SeqRange::from_count(Seq::FIRST, self.accepted_to);
        range.map(SeqSet::from).unwrap_or_default()
    }

    pub(super) fn unsent(&self) -> SeqSet {
        self.all()
            .difference(&self.stored)
            .difference(&self.lost)
            .difference(&self.aside)
            .difference(&self.summarised)
    }

    pub(super) fn settled(&self) -> SeqSet {
        self.stored.union(&self.lost)
    }

    pub(super) fn summed(&self) -> SeqSet {
        let ranges = self.entries.iter().flat_map(|seqs| seqs.ranges());
        ranges.copied().collect()
    }

    pub(super) fn declared(&self) -> SeqSet {
        self.aside.union(&self.summarised)
    }

    pub(super) fn waits(&self) -> bool {
        let settled = self.settled();
        !self.unsent().is_empty() || !self.declared().is_subset(&settled)
    }

    pub(super) fn losses(&self) -> Vec<Loss> {
        let all = self.aside.union(&self.gone).difference(&self.counted);
        let raw_only = self.declared().difference(&all);
        let loss = |scope| {
            move |range: &SeqRange| Loss {
                range: *range,
                scope,
                reason: LossReason::Refused,
                event_min: None,
                event_max: None,
            }
        };
        let settled = self.settled();
        let (all, raw_only) = (all.difference(&settled), raw_only.difference(&settled));
        let all = all.ranges().iter().map(loss(LossScope::All));
        all.chain(raw_only.ranges().iter().map(loss(LossScope::RawOnly)))
            .collect()
    }

    pub(super) fn take_over(&mut self, receipt: &StreamReceipt) {
        self.counted = self.counted.union(&receipt.counted);
        self.stored = self.stored.union(&receipt.stored);
        let lost = receipt.lost.difference(&self.again);
        self.lost = self.lost.union(&lost).difference(&self.counted);
        self.again = self.again.difference(&self.counted);
        let decided = self.counted.union(&self.lost);
        self.entries.retain(|seqs| !seqs.is_subset(&decided));
    }

    pub(super) fn refuse(&mut self, range: SeqRange, build: Option<Arc<str>>) {
        self.aside.insert(range);
        self.again.remove(range);
        if let Some(build) = build {
            self.refused.entry(build).or_default().insert(range);
        }
    }

    pub(super) fn offer_again(&mut self, build: &Arc<str>) {
        let refused = self.refused.get(build).cloned().unwrap_or_default();
        let back = self.aside.difference(&refused);
        self.aside = self.aside.difference(&back);
        self.lost = self.lost.difference(&back);
        self.again = self.again.union(&back.difference(&self.counted));
    }

    pub(super) fn give_up(&mut self, seqs: &SeqSet, counted: &SeqSet) {
        let is_named = |entry: &SeqSet| entry.is_subset(seqs) && !entry.is_subset(counted);
        let named: SeqSet = self
            .entries
            .extract_if(.., |entry| is_named(entry))
            .flat_map(|entry| entry.ranges().to_vec())
            .collect();
        // What is held is sent raw from here on.
        self.offered = self.offered.union(&named);
        let lost = named.intersection(&self.declared()).difference(counted);
        self.gone = self.gone.union(&lost.difference(&self.settled()));
    }

    pub(super) fn reborn(&mut self) {
        self.counted = SeqSet::new();
        (self.stored, self.lost) = (SeqSet::new(), SeqSet::new());
        let summed = self.entries.iter().flat_map(|seqs| seqs.ranges()).copied();
        self.gone = self.summarised.difference(&summed.collect());
    }

    pub(super) fn summarise(&mut self, count: u64) {
        let free = self.unsent().difference(&self.offered);
        let Some(run) = free.ranges().first() else {
            return;
        };
        let count = count.min(run.count());
        let seqs = SeqSet::from(SeqRange::from_count(run.first(), count).unwrap());
        self.summarised = self.summarised.union(&seqs);
        let news = seqs.difference(&self.summed()).difference(&self.counted);
        if !news.is_empty() {
            self.entries.push(news);
        }
    }

    /// Folds what no message may have contained, some at a time.
    pub(super) fn fold(&mut self, to: u64) -> Folded {
        let free = self
            .unsent()
            .difference(&self.offered)
            .difference(&self.counted)
            .difference(&self.summed())
            .difference(&self.again);
        let first = |limit: u64| {
            SeqRange::from_count(Seq::FIRST, limit).map_or_else(|_| SeqSet::new(), SeqSet::from)
        };
        let mut seqs = free.intersection(&first(to));
        let more = seqs.count() > FOLD_PASSAGES;
        if more {
            let next = seqs.iter().nth(usize::try_from(FOLD_PASSAGES).unwrap());
            let next = next.unwrap().get();
            seqs = seqs.intersection(&first(next - 1));
        }
        let passages = seqs.count();
        if passages > 0 {
            self.entries.push(seqs);
        }
        Folded { passages, more }
    }
}
