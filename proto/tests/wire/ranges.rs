//! The interval set against a naive set of numbers.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proto::ranges::{Seq, SeqRange, SeqSet};

use crate::arbitrary::seq_set;

fn naive(set: &SeqSet) -> BTreeSet<u64> {
    set.iter().map(Seq::get).collect()
}

fn canonical(set: &SeqSet) -> bool {
    set.ranges()
        .windows(2)
        .all(|pair| pair[0].last().get() + 1 < pair[1].first().get())
}

fn range(first: u64, count: u64) -> SeqRange {
    SeqRange::from_count(Seq::new(first).unwrap(), count).unwrap()
}

proptest! {
    #[test]
    fn set_operations_agree_with_a_naive_set(a in seq_set(), b in seq_set()) {
        let (naive_a, naive_b) = (naive(&a), naive(&b));
        let cases = [
            (a.union(&b), &naive_a | &naive_b),
            (a.difference(&b), &naive_a - &naive_b),
            (a.intersection(&b), &naive_a & &naive_b),
        ];
        for (set, expected) in cases {
            prop_assert!(canonical(&set), "{:?}", set);
            prop_assert_eq!(naive(&set), expected);
        }
        prop_assert_eq!(a.is_subset(&b), naive_a.is_subset(&naive_b));
        prop_assert_eq!(a.is_disjoint(&b), naive_a.is_disjoint(&naive_b));
        prop_assert_eq!(a.count(), naive_a.len() as u64);
        prop_assert_eq!(a.last().map(Seq::get), naive_a.last().copied());
        prop_assert_eq!(a.contiguous_to(), (1..).take_while(|n| naive_a.contains(n)).last().unwrap_or(0));
    }

    #[test]
    fn single_ranges_agree_with_a_naive_set(mut set in seq_set(), first in 1_u64..420, count in 1_u64..40, add in any::<bool>()) {
        let mut expected = naive(&set);
        let changed = range(first, count);
        let numbers = first..first + count;
        prop_assert_eq!(set.contains_range(changed), numbers.clone().all(|n| expected.contains(&n)));
        prop_assert_eq!(set.overlaps_range(changed), numbers.clone().any(|n| expected.contains(&n)));
        prop_assert_eq!(set.contains(changed.first()), expected.contains(&first));
        if add {
            set.insert(changed);
            expected.extend(numbers);
        } else {
            set.remove(changed);
            expected.retain(|n| !numbers.contains(n));
        }
        prop_assert!(canonical(&set), "{:?}", set);
        prop_assert_eq!(naive(&set), expected);
    }
}

proptest! {
    #[test]
    fn a_cover_holds_everything_in_few_ranges_and_fills_the_narrowest_gaps(set in seq_set(), most in 1_usize..8) {
        let cover = set.cover(most);
        prop_assert!(set.is_subset(&cover) && canonical(&cover));
        prop_assert_eq!(cover.range_count(), set.range_count().min(most));
        let gap = |pair: &[SeqRange]| pair[1].first().get() - pair[0].last().get();
        let mut gaps: Vec<u64> = set.ranges().windows(2).map(gap).collect();
        gaps.sort_unstable_by(|a, b| b.cmp(a));
        gaps.truncate(most - 1);
        let mut left: Vec<u64> = cover.ranges().windows(2).map(gap).collect();
        left.sort_unstable_by(|a, b| b.cmp(a));
        prop_assert_eq!(left, gaps);
    }
}

proptest! {
    #[test]
    fn an_excerpt_names_first_what_was_asked_about(set in seq_set(), about in seq_set(), most in 1_usize..8) {
        let excerpt = set.excerpt(&about, most);
        prop_assert_eq!(excerpt.range_count(), set.range_count().min(most));
        prop_assert!(excerpt.ranges().iter().all(|range| set.ranges().contains(range)));
        let named: SeqSet = set
            .ranges()
            .iter()
            .filter(|range| about.overlaps_range(**range))
            .take(most)
            .copied()
            .collect();
        prop_assert!(named.is_subset(&excerpt));
    }

    #[test]
    fn the_widest_ranges_are_no_narrower_than_the_others(set in seq_set(), most in 1_usize..8) {
        let widest = set.widest(most);
        prop_assert_eq!(widest.range_count(), set.range_count().min(most));
        let least = widest.ranges().iter().map(|range| range.count()).min();
        for other in set.difference(&widest).ranges() {
            prop_assert!(set.ranges().contains(other));
            prop_assert!(Some(other.count()) <= least);
        }
    }
}

#[test]
fn a_set_up_to_a_number_begins_with_the_first() {
    assert!(SeqSet::up_to(0).is_empty());
    assert_eq!(SeqSet::up_to(7), range(1, 7).into());
    assert_eq!(
        SeqSet::up_to(u64::MAX).last().map(Seq::get),
        Some(proto::limits::SEQ_MAX)
    );
}

#[test]
fn the_ends_of_the_numbers_do_not_overflow() {
    let last = Seq::new(proto::limits::SEQ_MAX).unwrap();
    let mut set: SeqSet = SeqRange::new(last, last).unwrap().into();
    set.insert(SeqRange::new(Seq::FIRST, Seq::FIRST).unwrap());
    assert_eq!(set.range_count(), 2);
    set.remove(SeqRange::new(Seq::FIRST, last).unwrap());
    assert!(set.is_empty());
    assert!(SeqRange::from_count(last, 2).is_err());
    assert!(SeqRange::from_count(Seq::FIRST, 0).is_err());
    assert!(Seq::new(0).is_err());
    assert!(Seq::new(u64::MAX).is_err());
}

#[test]
fn a_set_in_another_form_is_refused() {
    let refused = |wire: &Vec<(u64, u64)>| {
        let bytes = postcard::to_stdvec(wire).unwrap();
        postcard::from_bytes::<SeqSet>(&bytes).is_err()
    };
    assert!(!refused(&vec![(1, 0), (2, 5)]));
    assert!(refused(&vec![(1, 0), (1, 5)]), "touching ranges");
    assert!(refused(&vec![(0, 0)]), "number 0");
    assert!(refused(&vec![(1, u64::MAX)]), "beyond the last number");
    assert!(refused(&vec![(u64::MAX, 0)]), "beyond the last number");
    let ranges = |count: usize| vec![(2, 0); count];
    assert!(!refused(&ranges(64)));
    assert!(refused(&ranges(65)), "more ranges than allowed");
}
