//! Window deltas that take the place of dropped raw passages, or go ahead of held ones, grown entry by
//! entry.
//!
//! An entry grows until it would no longer fit a value of the store, would have more windows than the
//! centre changes at once, or a window of it would hold more passages than the wire allows; then the
//! next one begins. Windows far apart part it: only wild times share an entry, with each other. Once
//! offered it is sealed.
//!
//! Pure.

use std::collections::BTreeMap;

use proto::PassageBatch;
use proto::limits::{RANGES_MAX, SUMMARY_ENTRY_WINDOWS_MAX, WINDOW_PASSAGES_MAX};
use proto::passage::EventTime;
use proto::ranges::{Seq, SeqRange, SeqSet};
use proto::summary::SummaryEntry;
use proto::window::{Bucket, WindowDelta, fold};

use super::chunk::VALUE_BYTES_MAX;
use super::records::to_bytes;

/// From the beginning of the first window of an entry to the end of the last, unless its times are wild:
/// the centre takes or refuses an entry as a whole, and one passage of another year must not cost the
/// others their windows.
const ENTRY_SPAN_MS_MAX: i64 = 2 * 86_400_000;

/// Entries that one is split into for its times; the passages of all further times share the last.
const ENTRY_PARTS_MAX: usize = 4;

/// The sums of those passages of a batch whose numbers `seqs` contains: one entry, or several where
/// wild event times and speeds make one too large or too long.
pub(super) fn entries_of(first: Seq, batch: &PassageBatch, seqs: SeqSet) -> Vec<SummaryEntry> {
    let entries = halved(first, batch, seqs).into_iter();
    entries
        .flat_map(|entry| {
            if span_ms(event_span(&entry)) <= ENTRY_SPAN_MS_MAX {
                return vec![entry];
            }
            let parts = by_time(first, batch, &entry).into_iter();
            parts.flat_map(|seqs| halved(first, batch, seqs)).collect()
        })
        .collect()
}

/// Entries of consecutive numbers, each small enough.
fn halved(first: Seq, batch: &PassageBatch, seqs: SeqSet) -> Vec<SummaryEntry> {
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
        .flat_map(|seqs| halved(first, batch, seqs))
        .collect()
}

/// The numbers of an entry that is too long, parted where their windows are far from each other.
fn by_time(first: Seq, batch: &PassageBatch, entry: &SummaryEntry) -> Vec<SeqSet> {
    // Where each part begins, and how many passages it has.
    let mut parts: Vec<(Bucket, u64)> = Vec::new();
    for delta in &entry.deltas {
        let begun = parts.last().map(|(bucket, _)| bucket.start());
        let span = begun.map(|start| span_ms((start, delta.bucket.end())));
        if span.is_none_or(|span| span > ENTRY_SPAN_MS_MAX) {
            parts.push((delta.bucket, 0));
        }
        if let Some((_, passages)) = parts.last_mut() {
            *passages += u64::from(delta.stats.n);
        }
    }
    let mut largest: Vec<usize> = (0..parts.len()).collect();
    largest.sort_by_key(|part| std::cmp::Reverse(parts[*part].1));
    let own = &largest[..parts.len().min(ENTRY_PARTS_MAX - 1)];
    let mut of_part: BTreeMap<usize, SeqSet> = BTreeMap::new();
    for seq in entry.seqs.iter() {
        let place = usize::try_from(seq.get() - first.get()).unwrap_or(usize::MAX);
        let bucket = Bucket::of(batch.event_time(place));
        let part = parts.partition_point(|(begin, _)| *begin <= bucket);
        let part = own.iter().find(|own| **own + 1 == part);
        let numbers = of_part
            .entry(part.map_or(usize::MAX, |own| *own))
            .or_default();
        SeqRange::new(seq, seq)
            .into_iter()
            .for_each(|range| numbers.insert(range));
    }
    of_part.into_values().collect()
}

const fn span_ms((first, last): (EventTime, EventTime)) -> i64 {
    last.as_millis() - first.as_millis()
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

/// Both entries as one, if that is still an entry that can be stored and sent, and not longer than
/// either may be; those that are too long already may be still longer.
pub(super) fn joined(entry: &SummaryEntry, more: &SummaryEntry) -> Option<SummaryEntry> {
    let spans = [entry, more].map(event_span);
    let hull = (spans[0].0.min(spans[1].0), spans[0].1.max(spans[1].1));
    let is_long = |span| span_ms(span) > ENTRY_SPAN_MS_MAX;
    if is_long(hull) && !spans.into_iter().all(is_long) {
        return None;
    }
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
    (small && fits(&joined)).then_some(joined)
}

fn fits(entry: &SummaryEntry) -> bool {
    entry.deltas.len() <= SUMMARY_ENTRY_WINDOWS_MAX
        && entry.seqs.range_count() <= RANGES_MAX
        && stored_bytes(entry) <= VALUE_BYTES_MAX
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

    const DAY_MS: i64 = 86_400_000;

    fn at(times_ms: &[i64]) -> PassageBatch {
        let passage = |ms: &i64| Passage {
            event_time: EventTime::from_millis(*ms),
            ..Passage::default()
        };
        times_ms.iter().map(passage).collect()
    }

    #[test]
    fn a_passage_of_another_time_gets_an_entry_of_its_own() {
        let now_ms = 20_000 * DAY_MS;
        let mut times_ms: Vec<_> = (0..64).map(|n| now_ms + n * 1_000).collect();
        times_ms[20] = 0;
        times_ms[40] = 10_000 * DAY_MS;
        let entries = entries_of(Seq::FIRST, &at(&times_ms), seqs(1, 64));
        let numbers: Vec<_> = entries.iter().map(|entry| entry.seqs.count()).collect();
        assert_eq!(numbers, [1, 1, 62]);
        assert!(entries[0].seqs == seqs(21, 1) && entries[1].seqs == seqs(41, 1));
        assert_eq!(joined(&entries[0], &entries[2]), None);
        assert_eq!(joined(&entries[1], &entries[2]), None);
        assert_eq!(Summary { entries }.check(), Ok(()));
    }

    #[test]
    fn wild_times_make_a_few_entries_only_and_join_each_other() {
        let now_ms = 20_000 * DAY_MS;
        let mut times_ms: Vec<_> = (0..64).map(|n| now_ms + n * 1_000).collect();
        for wild in 0..20 {
            times_ms[wild * 3] = i64::try_from(wild).unwrap() * 100 * DAY_MS;
        }
        let entries = entries_of(Seq::FIRST, &at(&times_ms), seqs(1, 64));
        assert_eq!(entries.len(), ENTRY_PARTS_MAX);
        let good: Vec<_> = entries
            .iter()
            .filter(|e| e.deltas[0].bucket.start().as_millis() >= now_ms)
            .collect();
        assert!(matches!(good[..], [entry] if entry.seqs.count() == 44));
        let mixed = entries
            .iter()
            .max_by_key(|entry| entry.deltas.len())
            .unwrap();
        assert_eq!(mixed.deltas.len(), 20 - (ENTRY_PARTS_MAX - 2));
        assert_eq!(
            Summary {
                entries: entries.clone()
            }
            .check(),
            Ok(())
        );
        let later = entries_of(Seq::new(65).unwrap(), &at(&times_ms), seqs(65, 64));
        let wild = later.iter().max_by_key(|entry| entry.deltas.len()).unwrap();
        assert!(joined(mixed, wild).is_some());
        assert_eq!(joined(mixed, good[0]), None);
    }

    #[test]
    fn two_times_that_alternate_are_split_into_entries_that_fit() {
        let times_ms: Vec<_> = (0..1_024).map(|n| n % 2 * 20_000 * DAY_MS + n).collect();
        let entries = entries_of(Seq::FIRST, &at(&times_ms), seqs(1, 1_024));
        assert!(
            entries
                .iter()
                .all(|entry| entry.seqs.range_count() <= RANGES_MAX)
        );
        assert!(entries.iter().all(|entry| entry.deltas.len() == 1));
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
