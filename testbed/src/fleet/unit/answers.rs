//! What a unit makes of what the centre says: receipts, refusals, beacons.

use proto::limits::IN_FLIGHT_BATCHES_MAX;
use proto::receipt::{Beacon, Intake, Receipt, Refusal, RefusalClass};

use super::{Link, Owner, Unit};

/// When the intake opens again, units come back spread over this time.
pub(super) const REOPEN_JITTER_MS: i64 = 10_000;
/// First wait after a refusal; doubles with each further one.
pub(super) const REFUSED_MS_MIN: i64 = 1_000;
const REFUSED_MS_MAX: i64 = 60_000;

impl Unit {
    pub(super) fn hear_receipt(&mut self, now_ms: i64, receipt: &Receipt) {
        if self
            .centre
            .is_some_and(|pinned| pinned.id != receipt.centre.id)
        {
            return;
        }
        self.centre = Some(receipt.centre);
        let mine = receipt
            .streams
            .iter()
            .filter(|entry| entry.stream == self.stream);
        for entry in mine {
            self.released = entry.stored.union(&entry.lost);
        }
        let mut settled = false;
        let mut place = 0;
        while place < self.in_flight.len() {
            if !self
                .released
                .contains_range(self.in_flight[place].batch.range)
            {
                place += 1;
                continue;
            }
            settled = true;
            if let Some(sent) = self.forget(place) {
                self.counts.receipted += sent.batch.range.count();
                let took_ms = (now_ms - sent.offered_ms).max(0);
                // TCP's smoothing (RFC 6298): an eighth of each new sample.
                self.receipt_time_ms += (took_ms - self.receipt_time_ms) / 8;
                self.receipt_times
                    .extend(sent.batch.posted_ms.iter().map(|ms| now_ms - ms));
            }
        }
        // What was taken back and then receipted after all need not go again.
        let released = &self.released;
        let receipted = &mut self.counts.receipted;
        self.outbox.retain(|batch| {
            let done = batch.offers > 0 && released.contains_range(batch.range);
            *receipted += if done { batch.range.count() } else { 0 };
            !done
        });
        if settled {
            self.refused_in_a_row = 0;
            self.window = (self.window * 2).min(IN_FLIGHT_BATCHES_MAX);
        }
    }

    pub(super) fn hear_refusal(&mut self, now_ms: i64, refusal: &Refusal) {
        self.counts.refusals += 1;
        if refusal.stream != self.stream {
            return;
        }
        let place = self
            .in_flight
            .iter()
            .position(|sent| refusal.range.is_some_and(|range| range == sent.batch.range));
        let Some(sent) = place.and_then(|place| self.forget(place)) else {
            return;
        };
        match refusal.class {
            RefusalClass::Never => self.counts.refused += sent.batch.range.count(),
            // There is no other form than raw to offer it in: again, later.
            RefusalClass::Later | RefusalClass::Reshape => {
                let at = self
                    .outbox
                    .partition_point(|batch| batch.range < sent.batch.range);
                self.outbox.insert(at, sent.batch);
                let doubled = REFUSED_MS_MIN << self.refused_in_a_row.min(6);
                let wait = self.jitter_below(doubled.min(REFUSED_MS_MAX));
                self.refused_in_a_row += 1;
                self.quiet_until_ms = now_ms + wait;
            }
        }
    }

    pub(super) fn hear_beacon(&mut self, now_ms: i64, beacon: &Beacon) {
        let Link::Up(before) = self.link else { return };
        let pinned = *self.centre.get_or_insert(beacon.centre);
        if pinned.id != beacon.centre.id {
            return;
        }
        let owner = Owner {
            token: beacon.token,
            intake: beacon.intake,
        };
        if before.is_some_and(|before| before.token > owner.token) {
            return;
        }
        self.link = Link::Up(Some(owner));
        let opened = owner.intake == Intake::Open
            && before.is_some_and(|before| before.intake == Intake::Closed);
        if opened {
            self.window = 1;
            self.quiet_until_ms = now_ms + self.jitter_below(REOPEN_JITTER_MS);
        }
        // Whoever had what is in flight is gone, or dropped it while its intake was closed.
        if opened || before.is_none_or(|before| before.token != owner.token) {
            self.take_back_all();
        }
    }
}
