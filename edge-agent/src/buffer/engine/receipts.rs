//! What the centre committed, and what that frees.

use proto::limits::STREAMS_MAX;
use proto::passage::EventTime;
use proto::receipt::{Centre, StreamReceipt};

use super::Engine;
use crate::buffer::CentreVerdict;
use crate::buffer::keys;
use crate::buffer::records::to_bytes;
use crate::buffer::stream::Stream;

/// How far the centre's time goes on before it is written down again.
const CENTRE_TIME_EVERY_MS: i64 = 3_600_000;

impl Engine {
    /// Takes over what the centre committed.
    pub(in crate::buffer) fn receipt(
        &mut self,
        centre: Centre,
        receipts: &[StreamReceipt],
    ) -> CentreVerdict {
        let verdict = match self.centre {
            None => CentreVerdict::Pinned,
            Some(pinned) if pinned == centre => CentreVerdict::Known,
            Some(pinned) if pinned.id == centre.id && pinned.timeline < centre.timeline => {
                self.streams.iter_mut().for_each(Stream::forget_receipts);
                self.state_aside_again();
                CentreVerdict::NewTimeline
            }
            Some(_) => {
                self.foreign = Some(centre);
                return CentreVerdict::Foreign(centre);
            }
        };
        if verdict != CentreVerdict::Known {
            self.centre = Some(centre);
            self.changes.put(keys::FACT_CENTRE, to_bytes(&centre));
        }
        for receipt in receipts {
            let Some(stream) = self
                .streams
                .iter_mut()
                .find(|known| known.id == receipt.stream)
            else {
                continue;
            };
            for entry in stream.receipt(receipt) {
                self.held_bytes -= u64::from(entry.bytes);
                self.changes.delete(&keys::summary(stream.id, entry.number));
            }
        }
        self.forget_streams();
        verdict
    }

    /// Takes over the time that the centre stated. It is written down along with the next commit, at
    /// most once an hour: to know an hour less after a restart harms no certificate.
    pub(in crate::buffer) fn centre_time(&mut self, at: EventTime) {
        let due_ms = self
            .centre_time
            .map(|before| before.as_millis().saturating_add(CENTRE_TIME_EVERY_MS));
        if due_ms.is_none_or(|due_ms| due_ms <= at.as_millis()) {
            self.centre_time = Some(at);
            self.changes.put(keys::FACT_CENTRE_TIME, to_bytes(&at));
        }
    }

    /// Forgets streams of earlier runs of which nothing is left. With too many streams, the sent
    /// copies of the oldest go, too.
    pub(super) fn forget_streams(&mut self) {
        // What is deleted with a stream comes after what is written of it.
        self.write_streams();
        let mut surplus = self.streams.len().saturating_sub(STREAMS_MAX);
        let current = self
            .has_current
            .then(|| self.streams.last().map(|stream| stream.id))
            .flatten();
        self.streams.retain_mut(|stream| {
            if Some(stream.id) == current {
                return true;
            }
            if surplus > 0 && stream.is_settled() {
                surplus -= 1;
                while let Some(chunk) = stream.pop_front() {
                    self.counters.released += chunk.range.count();
                    self.held_bytes -= u64::from(chunk.bytes);
                    self.changes.delete(&chunk.key(stream.id).encode());
                }
            }
            if stream.is_empty() {
                self.changes.delete(&keys::stream(stream.id));
            }
            !stream.is_empty()
        });
        self.forget_refusals();
    }
}
