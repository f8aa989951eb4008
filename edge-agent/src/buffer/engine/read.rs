//! Reading passages that leave for the centre, each durably marked as offered before.

use proto::loss::LossReason;
use proto::ranges::{Seq, SeqRange};
use proto::{PassageBatch, StreamId};

use super::{ChunkFault, Engine};
use crate::buffer::chunk::{self, ChunkError};
use crate::buffer::medium::StoreError;
use crate::buffer::stream::ChunkMeta;
use crate::buffer::{ReadError, ReadLimit, StoredRun};

impl Engine {
    /// The passages of a chunk, checked.
    pub(in crate::buffer) fn passages(
        &self,
        stream: StreamId,
        chunk: &ChunkMeta,
    ) -> Result<PassageBatch, ChunkFault> {
        let key = chunk.key(stream);
        let value = self.value(&key.encode()).map_err(ChunkFault::Store)?;
        let damaged = |error: ChunkError| ChunkFault::Damaged(error.to_string());
        let value = value.ok_or_else(|| damaged(ChunkError::Missing))?;
        chunk::decode(&key, &value).map_err(damaged)
    }

    /// Marks numbers as offered before they are read. Returns whether a commit must come first: also
    /// where the mark is staged already, for somebody who waits for it.
    pub(in crate::buffer) fn reserve(
        &mut self,
        stream: StreamId,
        first: Seq,
        passages: usize,
    ) -> bool {
        let Some(stream) = self.streams.iter_mut().find(|known| known.id == stream) else {
            return false;
        };
        let Some(chunk) = stream.chunks.get(stream.place_of(first)) else {
            return false;
        };
        let first = first.max(chunk.range.first());
        let Some(end) = stream.offerable_to(first) else {
            return false;
        };
        let end = end.min(stream.marks.accepted_to);
        let to = |count: u64| {
            let last = (first.get() + count.max(1) - 1).min(end);
            Seq::new(last)
                .ok()
                .and_then(|last| SeqRange::new(first, last))
        };
        let wanted = to(passages as u64);
        if wanted.is_none_or(|wanted| stream.marks.offered.contains_range(wanted)) {
            return stream.leave_staged;
        }
        if let Some(ahead) = to((passages as u64).max(self.offered_ahead_max / 2)) {
            stream.offer(ahead);
        }
        true
    }

    /// Reads passages that are reserved; none for which a summary stands that waits for its receipt.
    pub(in crate::buffer) fn read(
        &mut self,
        id: StreamId,
        first: Seq,
        limit: ReadLimit,
    ) -> Result<Result<Option<StoredRun>, ReadError>, StoreError> {
        let Some(at) = self.streams.iter().position(|stream| stream.id == id) else {
            return Ok(Ok(None));
        };
        let mut run: Option<StoredRun> = None;
        let mut bytes = 0;
        let start = self.streams[at].place_of(first);
        let begins = self.streams[at].chunks.get(start);
        let first = begins.map_or(first, |chunk| first.max(chunk.range.first()));
        let Some(end) = self.streams[at].offerable_to(first) else {
            return Ok(Ok(None));
        };
        let passages = usize::try_from(end - first.get()).unwrap_or(usize::MAX);
        let passages_max = limit.passages.clamp(1, passages.saturating_add(1));
        for place in start..self.streams[at].chunks.len() {
            let chunk = self.streams[at].chunks[place];
            let taken = run.as_ref().map_or(0, |run| run.batch.len());
            let next = run
                .as_ref()
                .map_or(first.get(), |run| run.first.get() + taken as u64);
            let is_gap = run.is_some() && chunk.range.first().get() != next;
            let is_full =
                taken >= passages_max || (taken > 0 && bytes + chunk.bytes as usize > limit.bytes);
            if is_gap || is_full {
                break;
            }
            let batch = match self.passages(id, &chunk) {
                Ok(batch) => batch,
                Err(ChunkFault::Store(error)) => return Err(error),
                // What came before is handed out first; the damage is met again by the next read.
                Err(ChunkFault::Damaged(_)) if run.is_some() => break,
                Err(ChunkFault::Damaged(problem)) => {
                    tracing::error!(stream = %id, range = %chunk.range, problem, "damaged passages are moved aside");
                    self.take_out(id, chunk.range, LossReason::Corrupt)?;
                    return Ok(Err(ReadError::Corrupt {
                        range: chunk.range,
                        problem,
                    }));
                }
            };
            bytes += chunk.bytes as usize;
            let skip = usize::try_from(first.get().saturating_sub(chunk.range.first().get()))
                .unwrap_or(usize::MAX);
            let run = run.get_or_insert_with(|| StoredRun {
                first: first.max(chunk.range.first()),
                batch: PassageBatch::new(),
            });
            let room = passages_max - taken;
            if skip == 0 && batch.len() <= room {
                run.batch.extend(&batch);
            } else {
                batch
                    .iter()
                    .skip(skip)
                    .take(room)
                    .for_each(|passage| run.batch.push(&passage));
            }
        }
        Ok(Ok(run))
    }
}
