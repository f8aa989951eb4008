//! Window deltas that take the place of dropped raw passages, or go ahead of held ones, grown entry by
//! entry.
//!
//! An entry grows until it would no longer fit a value of the store, would have more windows than the
//! centre changes at once, or a window of it would hold more passages than the wire allows; then the
//! next one begins. Once offered it is sealed.
//!
//! Pure.

use std::collections::BTreeMap;

use proto::PassageBatch;
use proto::limits::{RANGES_MAX, SUMMARY_ENTRY_WINDOWS_MAX, WINDOW_PASSAGES_MAX};
use proto::passage::EventTime;
use proto::ranges::{Seq, SeqRange, SeqSet};
use proto::summary::SummaryEntry;
use proto::window::{WindowDelta, fold};

use super::chunk::VALUE_BYTES_MAX;
use super::records::to_bytes;

/// The sums of those passages of a batch whose numbers `seqs` contains: one entry, or several where
/// wild event times and speeds make one too large.
pub(super) fn entries_of(first: Seq, batch: &PassageBatch, seqs: SeqSet) -> Vec<SummaryEntry> {
    let Some(entry) = summarise(first, batch, seqs) else {
        return Vec::new();
    };
    let (Some(low), Some(high)) = (entry.seqs.ranges().first(), entry.seqs.last()) else {
        return Vec::new();
    };
    let low = low.first();
    if low == high || fits(&entry) {
        return vec![entry];
    }
    let middle = low.get() + (high.get() - low.get()) / 2;
    let halves = [(low.get(), middle), (middle + 1, high.get())];
    let part = |(from, to): (u64, u64)| {
        let range = SeqRange::from_count(Seq::new(from).ok()?, to - from + 1).ok()?;
        Some(entry.seqs.intersection(&range.into()))
    };
    halves
        .into_iter()
        .filter_map(part)
        .flat_map(|seqs| entries_of(first, batch, seqs))
        .collect()
}

fn summarise(first: Seq, batch: &PassageBatch, seqs: SeqSet) -> Option<SummaryEntry> {
    if seqs.is_empty() {
        return None;
    }
    let deltas = fold(batch, |place| {
        Seq::new(first.get() + place as u64).is_ok_and(|seq| seqs.contains(seq))
    });
    Some(SummaryEntry { seqs, deltas })
}

/// Both entries as one, if that is still an entry that can be stored and sent.
pub(super) fn joined(entry: &SummaryEntry, more: &SummaryEntry) -> Option<SummaryEntry> {
    let seqs = entry.seqs.union(&more.seqs);
    let mut windows: BTreeMap<_, _> = entry
        .deltas
        .iter()
        .map(|delta| (delta.bucket, delta.stats.clone()))
        .collect();
    for delta in &more.deltas {
        windows.entry(delta.bucket).or_default().merge(&delta.stats);
    }
    let small = windows.values().all(|stats| stats.n <= WINDOW_PASSAGES_MAX);
    let deltas = windows
        .into_iter()
        .map(|(bucket, stats)| WindowDelta { bucket, stats })
        .collect();
    let joined = SummaryEntry { seqs, deltas };
    (small && joined.seqs.range_count() <= RANGES_MAX && fits(&joined)).then_some(joined)
}

fn fits(entry: &SummaryEntry) -> bool {
    entry.deltas.len() <= SUMMARY_ENTRY_WINDOWS_MAX && stored_bytes(entry) <= VALUE_BYTES_MAX
}

/// The least and the greatest event time that an entry may stand for: the ends of its windows.
pub(super) fn event_span(entry: &SummaryEntry) -> (EventTime, EventTime) {
    let first = entry
        .deltas
        .first()
        .map_or(EventTime::default(), |delta| delta.bucket.start());
    let last = entry
        .deltas
        .last()
        .map_or(first, |delta| delta.bucket.end());
    (first, last)
}

fn stored_bytes(entry: &SummaryEntry) -> usize {
    // The layout of a `StoredEntry`, without a copy.
    to_bytes(&(true, entry)).len()
}

#[cfg(test)]
mod tests {
    use proto::passage::Passage;
    use proto::summary::Summary;
    use proto::{Speed, window::BUCKET_MS};

    use super::*;

    fn batch(count: i64, step_ms: i64) -> PassageBatch {
        (0..count)
            .map(|n| Passage {
                event_time: EventTime::from_millis(n * step_ms),
                speed: Speed::from_centi_kmh(u16::try_from(n * 37 % 20_000).unwrap()),
                ..Passage::default()
            })
            .collect()
    }

    fn seqs(first: u64, count: u64) -> SeqSet {
        SeqRange::from_count(Seq::new(first).unwrap(), count)
            .unwrap()
            .into()
    }

    #[test]
    fn joined_entries_are_what_one_entry_of_all_would_be() {
        let all = batch(60, BUCKET_MS / 20);
        let one = summarise(Seq::FIRST, &all, seqs(1, 60)).unwrap();
        let first: PassageBatch = all.iter().take(30).collect();
        let rest: PassageBatch = all.iter().skip(30).collect();
        let two = joined(
            &summarise(Seq::FIRST, &first, seqs(1, 30)).unwrap(),
            &summarise(Seq::new(31).unwrap(), &rest, seqs(31, 30)).unwrap(),
        );
        assert_eq!(two, Some(one.clone()));
        assert_eq!(Summary { entries: vec![one] }.check(), Ok(()));
    }

    #[test]
    fn only_the_wanted_numbers_are_summed() {
        let mut some = seqs(1, 10);
        some.remove(SeqRange::from_count(Seq::new(3).unwrap(), 4).unwrap());
        let entry = summarise(Seq::FIRST, &batch(10, 1), some).unwrap();
        assert_eq!(entry.deltas[0].stats.n, 6);
        assert_eq!(summarise(Seq::FIRST, &batch(10, 1), SeqSet::new()), None);
    }

    #[test]
    fn wild_passages_are_split_into_entries_that_fit() {
        let wild: PassageBatch = (0..64)
            .map(|n| Passage {
                event_time: EventTime::from_millis(n / 2 * BUCKET_MS),
                speed: Speed::from_centi_kmh(if n % 2 == 0 { 0 } else { 40_000 }),
                ..Passage::default()
            })
            .collect();
        let entries = entries_of(Seq::FIRST, &wild, seqs(1, 64));
        assert!(entries.len() > 1);
        assert!(
            entries
                .iter()
                .all(|entry| stored_bytes(entry) <= VALUE_BYTES_MAX)
        );
        assert_eq!(Summary { entries }.check(), Ok(()));
    }

    #[test]
    fn an_entry_stops_growing_before_its_value_is_too_large() {
        let wide = |hour: i64| {
            let batch: PassageBatch = (0..64)
                .map(|n| Passage {
                    event_time: EventTime::from_millis(hour * 3_600_000 + n * BUCKET_MS / 3),
                    speed: Speed::from_centi_kmh(u16::try_from(n * 600).unwrap()),
                    ..Passage::default()
                })
                .collect();
            let first = u64::try_from(hour).unwrap() * 64 + 1;
            summarise(Seq::new(first).unwrap(), &batch, seqs(first, 64)).unwrap()
        };
        let mut entry = wide(0);
        let grown = (1..1_000).take_while(|hour| match joined(&entry, &wide(*hour)) {
            Some(more) => {
                entry = more;
                true
            }
            None => false,
        });
        assert!(grown.count() < 999);
        assert!(stored_bytes(&entry) <= VALUE_BYTES_MAX);
    }
}
