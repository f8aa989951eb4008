//! The losses of one stream that no receipt has listed yet.
//!
//! Invariants: losses are disjoint; neighbours of one kind are one loss; there are at most
//! [`LOSSES_MAX`] of them. At the limit the two of one kind with the least between them become one,
//! as long as everything between is settled and gone from the disk (the centre books of a range only
//! what is not counted). Where that is nowhere so, the least loss is not stated, and the centre
//! books it as `vanished`: the caller logs it.
//!
//! Pure.

use std::collections::{BTreeMap, BTreeSet};

use proto::loss::{Loss, LossReason, LossScope};
use proto::passage::EventTime;
use proto::ranges::{Seq, SeqRange, SeqSet};

use super::records::Marks;

/// Losses of one stream that are kept until a receipt lists them: 64 KiB of memory.
pub(super) const LOSSES_MAX: usize = 1_024;

/// See the module.
#[derive(Debug, Clone, Default)]
pub(super) struct Losses {
    losses: BTreeMap<Seq, Loss>,
    /// First numbers whose loss differs from what the disk says of them.
    changed: BTreeSet<Seq>,
}

impl Losses {
    pub(super) fn is_empty(&self) -> bool {
        self.losses.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Loss> {
        self.losses.values()
    }

    /// A loss that the disk holds already.
    pub(super) fn load(&mut self, loss: Loss) {
        self.losses.insert(loss.range.first(), loss);
    }

    /// Whether the disk has another word.
    pub(super) fn is_changed(&self) -> bool {
        !self.changed.is_empty()
    }

    /// What the disk is to say under which first number; none: nothing.
    pub(super) fn take_changes(&mut self) -> impl Iterator<Item = (Seq, Option<Loss>)> {
        let losses = &self.losses;
        std::mem::take(&mut self.changed)
            .into_iter()
            .map(|first| (first, losses.get(&first).copied()))
    }

    /// Adds a loss of numbers that none covers yet. `mute` says which numbers no loss could be
    /// wrong about; it is asked at the limit only.
    ///
    /// Returns the loss that found no place.
    pub(super) fn add(&mut self, loss: Loss, mute: impl FnOnce() -> SeqSet) -> Option<Loss> {
        let first = loss.range.first();
        let before = self.losses.range(..first).next_back();
        let before = before.map(|(_, before)| *before);
        let mut loss = before
            .filter(|before| before.range.last().next() == Some(first))
            .and_then(|before| self.join(before, loss))
            .unwrap_or(loss);
        let after = loss.range.last().next();
        let after = after.and_then(|next| self.losses.get(&next).copied());
        loss = after
            .and_then(|after| self.join(loss, after))
            .unwrap_or(loss);
        self.put(loss);
        if self.losses.len() > LOSSES_MAX {
            self.shrink(&mute())
        } else {
            None
        }
    }

    /// Takes numbers out of all losses.
    pub(super) fn remove(&mut self, seqs: &SeqSet) {
        let touched = self
            .losses
            .values()
            .filter(|l| seqs.overlaps_range(l.range));
        for loss in touched.copied().collect::<Vec<_>>() {
            self.take(loss);
            let rest = SeqSet::from(loss.range).difference(seqs);
            parts(&loss, &rest, loss.scope).for_each(|part| self.put(part));
        }
    }

    /// Of these numbers the windows are lost as well.
    pub(super) fn deepen(
        &mut self,
        seqs: &SeqSet,
        reason: LossReason,
        (event_min, event_max): (EventTime, EventTime),
        mute: impl Fn() -> SeqSet,
    ) -> Option<Loss> {
        self.remove(seqs);
        let added = seqs.ranges().iter().map(|range| Loss {
            range: *range,
            scope: LossScope::All,
            reason,
            event_min: Some(event_min),
            event_max: Some(event_max),
        });
        added.fold(None, |lost, loss| self.add(loss, &mute).or(lost))
    }

    /// Takes over what the centre has booked. Of numbers declared as lost altogether that it counted
    /// before all the same, the raw rows are lost still.
    pub(super) fn settle(&mut self, marks: &Marks) {
        let settled = marks.settled();
        for loss in self.losses.values().copied().collect::<Vec<_>>() {
            let open = SeqSet::from(loss.range).difference(&settled);
            let raw_only = match loss.scope {
                LossScope::All => open.intersection(&marks.counted),
                LossScope::RawOnly => open.clone(),
            };
            let all = open.difference(&raw_only);
            let rest: Vec<_> = parts(&loss, &all, LossScope::All)
                .chain(parts(&loss, &raw_only, LossScope::RawOnly))
                .collect();
            if rest != [loss] {
                self.take(loss);
                rest.into_iter().for_each(|part| self.put(part));
            }
        }
    }

    /// The centre may have forgotten everything: of what is not `summed` here, nobody knows any more
    /// that the windows have it. What they have all the same is booked as raw only.
    pub(super) fn doubt(&mut self, summed: &SeqSet) {
        let raw_only = |loss: &&Loss| loss.scope == LossScope::RawOnly;
        for loss in self
            .losses
            .values()
            .filter(raw_only)
            .copied()
            .collect::<Vec<_>>()
        {
            let range = SeqSet::from(loss.range);
            let unknown = range.difference(summed);
            let known = range.intersection(summed);
            self.take(loss);
            parts(&loss, &known, LossScope::RawOnly).for_each(|part| self.put(part));
            parts(&loss, &unknown, LossScope::All).for_each(|part| self.put(part));
        }
    }

    fn put(&mut self, loss: Loss) {
        self.changed.insert(loss.range.first());
        self.losses.insert(loss.range.first(), loss);
    }

    fn take(&mut self, loss: Loss) {
        self.changed.insert(loss.range.first());
        self.losses.remove(&loss.range.first());
    }

    /// Both as one that covers what is between them, if they are of one kind.
    fn join(&mut self, one: Loss, other: Loss) -> Option<Loss> {
        if (one.scope, one.reason) != (other.scope, other.reason) {
            return None;
        }
        let range = SeqRange::new(one.range.first(), other.range.last())?;
        self.take(one);
        self.take(other);
        Some(Loss {
            range,
            event_min: one.event_min.min(other.event_min),
            event_max: one.event_max.max(other.event_max),
            ..one
        })
    }

    fn shrink(&mut self, mute: &SeqSet) -> Option<Loss> {
        let neighbours = self.losses.values().zip(self.losses.values().skip(1));
        let near = neighbours
            .filter(|(one, other)| (one.scope, one.reason) == (other.scope, other.reason))
            .filter_map(|(one, other)| {
                let first = one.range.last().next()?;
                let last = Seq::new(other.range.first().get() - 1).ok()?;
                let gap = SeqRange::new(first, last)?;
                mute.contains_range(gap)
                    .then_some((gap.count(), *one, *other))
            });
        let nearest = near.min_by_key(|(gap, ..)| *gap);
        if let Some(joined) = nearest.and_then(|(_, one, other)| self.join(one, other)) {
            self.put(joined);
            return None;
        }
        let least = self.losses.values().min_by_key(|loss| loss.range.count());
        let least = *least?;
        self.take(least);
        Some(least)
    }
}

fn parts(loss: &Loss, of: &SeqSet, scope: LossScope) -> impl Iterator<Item = Loss> {
    let loss = *loss;
    let ranges = of.ranges().to_vec();
    ranges.into_iter().map(move |range| Loss {
        range,
        scope,
        ..loss
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: u64, last: u64) -> SeqRange {
        SeqRange::new(Seq::new(first).unwrap(), Seq::new(last).unwrap()).unwrap()
    }

    fn loss(first: u64, last: u64, scope: LossScope) -> Loss {
        let time = |n: u64| Some(EventTime::from_millis(i64::try_from(n).unwrap()));
        Loss {
            range: range(first, last),
            scope,
            reason: LossReason::Quota,
            event_min: time(first),
            event_max: time(last),
        }
    }

    fn shown(losses: &Losses) -> Vec<(SeqRange, LossScope)> {
        losses.iter().map(|loss| (loss.range, loss.scope)).collect()
    }

    /// What the disk would hold.
    fn written(losses: &mut Losses, disk: &mut BTreeMap<Seq, Loss>) {
        for (first, loss) in losses.take_changes() {
            match loss {
                Some(loss) => disk.insert(first, loss),
                None => disk.remove(&first),
            };
        }
        assert!(disk.values().eq(losses.iter()));
    }

    #[test]
    fn neighbours_of_one_kind_become_one_from_either_side() {
        let (mut losses, mut disk) = (Losses::default(), BTreeMap::new());
        for (first, last) in [(1, 5), (11, 20), (6, 10)] {
            losses.add(loss(first, last, LossScope::All), SeqSet::new);
            written(&mut losses, &mut disk);
        }
        losses.add(loss(21, 30, LossScope::RawOnly), SeqSet::new);
        written(&mut losses, &mut disk);
        let kinds = [
            (range(1, 20), LossScope::All),
            (range(21, 30), LossScope::RawOnly),
        ];
        assert_eq!(shown(&losses), kinds);
        let first = losses.iter().next().unwrap();
        assert_eq!(first.event_max, Some(EventTime::from_millis(20)));
    }

    #[test]
    fn a_loss_that_deepens_in_part_stays_whole_on_the_disk() {
        let (mut losses, mut disk) = (Losses::default(), BTreeMap::new());
        losses.add(loss(1, 100, LossScope::RawOnly), SeqSet::new);
        written(&mut losses, &mut disk);
        let span = (EventTime::from_millis(0), EventTime::from_millis(9));
        losses.deepen(&range(1, 40).into(), LossReason::Refused, span, SeqSet::new);
        written(&mut losses, &mut disk);
        let kinds = [
            (range(1, 40), LossScope::All),
            (range(41, 100), LossScope::RawOnly),
        ];
        assert_eq!(shown(&losses), kinds);
    }

    #[test]
    fn at_the_limit_losses_join_across_what_is_settled_and_never_across_what_is_held() {
        let mut losses = Losses::default();
        let mute = || SeqSet::from(range(1_002, 1_010));
        for n in 0..LOSSES_MAX as u64 {
            let loss = loss(1 + n * 10, 1 + n * 10, LossScope::All);
            assert_eq!(losses.add(loss, mute), None);
        }
        let more = loss(100_001, 100_050, LossScope::All);
        assert_eq!(losses.add(more, mute), None);
        assert!(shown(&losses).contains(&(range(1_001, 1_011), LossScope::All)));
        assert_eq!(losses.iter().count(), LOSSES_MAX);
        let dropped = losses.add(loss(200_001, 200_050, LossScope::All), SeqSet::new);
        assert_eq!(dropped.map(|loss| loss.range.count()), Some(1));
        assert_eq!(losses.iter().count(), LOSSES_MAX);
    }
}
