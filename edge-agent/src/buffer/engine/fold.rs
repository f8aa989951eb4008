//! Folding the backlog of an outage into window deltas that travel ahead of it.
//!
//! Passages are read where they lie and folded some thousands at a time, so that neither memory nor
//! the time for which the owner thread is busy grows with the outage. Nothing is kept up to date while
//! passages come in: reading 260,000 of them back takes less than writing their sums again and again
//! would cost the flash.
//!
//! Invariant: what a message may have contained is not folded, for it may be counted already.

use proto::limits::RANGES_MAX;
use proto::loss::LossReason;
use proto::passage::EventTime;
use proto::ranges::{Seq, SeqRange, SeqSet};
use proto::summary::SummaryEntry;
use proto::window::Bucket;
use proto::{PassageBatch, StreamId};

use super::{ChunkFault, Engine};
use crate::buffer::medium::StoreError;
use crate::buffer::records::{StoredEntry, to_bytes};
use crate::buffer::stream::{ChunkMeta, Stream};
use crate::buffer::{FoldScope, Folded, QuotaPolicy, summaries};

/// Passages that are folded with one commit.
const FOLD_PASSAGES_MAX: u64 = 65_536;

/// Chunks that are folded as one batch.
const BATCH_CHUNKS_MAX: usize = 16;

/// Ranges of what is folded or counted from which on the rest stays raw: each would be one of the
/// [`RANGES_MAX`] that a receipt carries of a stream.
const FOLD_RANGES_MAX: usize = RANGES_MAX / 2;

/// Under `refuse_new` nothing goes to make room for the deltas of a backlog. They may take this part of
/// the quota beyond it, which hours of traffic need a tenth of.
const BEYOND_QUOTA_PART: u64 = 16;

impl Engine {
    /// Folds the oldest passages of a stream for which no deltas stand yet, and that no message may
    /// have contained.
    pub(in crate::buffer) fn fold(
        &mut self,
        id: StreamId,
        scope: &FoldScope,
    ) -> Result<Folded, StoreError> {
        let Some(place) = self.streams.iter().position(|stream| stream.id == id) else {
            return Ok(Folded::default());
        };
        let accepted_to = self.streams[place].marks.accepted_to;
        let to = scope.to.min(self.durable_to(place)).min(accepted_to);
        let mut open = self.streams[place].summable(to);
        if !is_late(&self.streams[place], &open, scope) {
            return Ok(Folded::default());
        }
        let held_max = self.held_max();
        let mut folded = Folded::default();
        while let Some(run) = next_run(&self.streams[place], &open, scope) {
            let Some(range) = hull(&run) else { break };
            let wanted = open.intersection(&range.into());
            if folded.passages + wanted.count() > FOLD_PASSAGES_MAX {
                folded.more = true;
                break;
            }
            let stream = &self.streams[place];
            let known = stream.summed().union(&stream.marks.counted);
            if known.union(&wanted).range_count() > FOLD_RANGES_MAX {
                break;
            }
            // What was passed over stays raw.
            let done = SeqRange::new(Seq::FIRST, range.last());
            done.into_iter().for_each(|done| open.remove(done));
            let Some(batch) = self.batch_of(id, &run)? else {
                continue;
            };
            for entry in summaries::entries_of(range.first(), &batch, wanted) {
                if held_max.is_some_and(|max| self.held_bytes + stored_bytes(&entry) > max) {
                    return Ok(folded);
                }
                folded.passages += entry.seqs.count();
                self.add_entry(place, entry)?;
            }
        }
        Ok(folded)
    }

    /// Up to which bytes deltas may be added, where nothing is dropped for them. Copies of what was sent
    /// make room with the commit.
    fn held_max(&self) -> Option<u64> {
        match self.settings.policy {
            QuotaPolicy::DropOldest => None,
            QuotaPolicy::RefuseNew => {
                let quota = self.quota_bytes();
                Some(quota + quota / BEYOND_QUOTA_PART + self.evictable().0)
            }
        }
    }

    /// The passages of neighbouring chunks; none when one is damaged, which is moved aside.
    fn batch_of(
        &mut self,
        id: StreamId,
        chunks: &[ChunkMeta],
    ) -> Result<Option<PassageBatch>, StoreError> {
        let mut all = PassageBatch::new();
        for chunk in chunks {
            match self.passages(id, chunk) {
                Ok(batch) => all.extend(&batch),
                Err(ChunkFault::Store(error)) => return Err(error),
                Err(ChunkFault::Damaged(problem)) => {
                    tracing::error!(stream = %id, range = %chunk.range, problem, "damaged passages are moved aside");
                    self.take_out(id, chunk.range, LossReason::Corrupt)?;
                    return Ok(None);
                }
            }
        }
        Ok(Some(all))
    }
}

/// What an entry takes by itself: joined to another it takes less.
fn stored_bytes(entry: &SummaryEntry) -> u64 {
    let entry = StoredEntry {
        sealed: false,
        entry: entry.clone(),
    };
    to_bytes(&entry).len() as u64
}

/// Whether the oldest of these numbers happened long enough ago.
fn is_late(stream: &Stream, open: &SeqSet, scope: &FoldScope) -> bool {
    let Some(before) = scope.if_before else {
        return !open.is_empty();
    };
    let mut chunks = stream.chunks.iter();
    chunks.any(|chunk| chunk.event_min < before && open.overlaps_range(chunk.range))
}

/// The first chunks, one behind the other, that hold some of these numbers and whose windows take
/// summaries.
fn next_run(stream: &Stream, open: &SeqSet, scope: &FoldScope) -> Option<Vec<ChunkMeta>> {
    let start = stream.place_of(open.ranges().first()?.first());
    let fits = |chunk: &ChunkMeta| {
        open.overlaps_range(chunk.range) && takes_summaries(chunk.event_min, chunk.event_max, scope)
    };
    let mut chunks = stream
        .chunks
        .range(start..)
        .skip_while(|chunk| !fits(chunk));
    let mut run = vec![*chunks.next()?];
    for chunk in chunks.take(BATCH_CHUNKS_MAX - 1) {
        let follows = run.last().and_then(|last| last.range.last().next());
        if follows != Some(chunk.range.first()) || !fits(chunk) {
            break;
        }
        run.push(*chunk);
    }
    Some(run)
}

fn hull(run: &[ChunkMeta]) -> Option<SeqRange> {
    SeqRange::new(run.first()?.range.first(), run.last()?.range.last())
}

fn takes_summaries(event_min: EventTime, event_max: EventTime, scope: &FoldScope) -> bool {
    Bucket::of(event_min).start() >= scope.windows_from
        && Bucket::of(event_max).end() <= scope.windows_to
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::records::Marks;

    #[test]
    fn so_many_chunks_are_read_at_once_and_the_next_behind_them() {
        let scope = FoldScope {
            to: u64::MAX,
            if_before: None,
            windows_from: EventTime::from_millis(0),
            windows_to: EventTime::from_millis(i64::MAX),
        };
        let mut stream = Stream::new(StreamId::from_bytes([1; 16]), Marks::default());
        let chunk = |n: u64| SeqRange::from_count(Seq::new(1 + n * 64).unwrap(), 64).unwrap();
        for n in 0..40 {
            stream.push(ChunkMeta {
                range: chunk(n),
                event_min: EventTime::from_millis(0),
                event_max: EventTime::from_millis(0),
                bytes: 1,
            });
        }
        let mut open: SeqSet = (0..40).map(chunk).collect();
        let mut runs = Vec::new();
        while let Some(run) = next_run(&stream, &open, &scope) {
            open.remove(hull(&run).unwrap());
            runs.push(run.len());
        }
        assert_eq!(runs, [BATCH_CHUNKS_MAX, BATCH_CHUNKS_MAX, 8]);
    }
}
