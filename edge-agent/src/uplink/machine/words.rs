//! What the centre says, and whether its word counts: receipts and beacons.

use std::sync::Arc;

use proto::receipt::{Beacon, Centre, Receipt};

use super::Machine;
use crate::uplink::backoff::Millis;
use crate::uplink::centre::Voice;
use crate::uplink::exchange::Command;
use crate::uplink::flight::Phase;
use crate::uplink::gate::Change;

impl Machine {
    pub(super) fn receipt(&mut self, now: Millis, receipt: Receipt) {
        if !self.hear(receipt.centre) {
            return;
        }
        // One without streams only corrects.
        let is_answer = !receipt.streams.is_empty();
        if is_answer {
            self.tally.receipts += 1;
            self.last_receipt = Some(now);
        }
        let was_corrected = std::mem::replace(&mut self.is_corrected, receipt.correction.is_some());
        if was_corrected || self.is_corrected {
            self.commands
                .push_back(Command::Corrected(receipt.correction));
        }
        let mut answered = 0;
        for stream in &receipt.streams {
            answered += usize::from(self.notes.settle(stream));
            let Some(queue) = self.queues.iter_mut().find(|q| q.stream == stream.stream) else {
                continue;
            };
            queue.settle(stream);
            let settled = self
                .flight
                .settle(now, stream.stream, |range| queue.is_settled(range));
            if !settled.is_empty() {
                queue.pauses = 0;
                queue.paused_until = 0;
                queue.batch_passages = (queue.batch_passages * 2).min(self.pace.batch_passages);
            }
            answered += settled.len();
            for (id, message) in settled {
                self.tally.messages_answered += 1;
                self.tally.passages_answered += message.range.count();
                if matches!(message.phase, Phase::Ready { .. }) {
                    self.commands.push_back(Command::Forget(id));
                }
            }
        }
        if answered > 0 || (is_answer && self.gate.why_shut().is_some()) {
            self.gate.answered(now);
        }
        self.commands
            .push_back(Command::Receipt(receipt.centre, receipt.streams));
    }

    /// Whether the word of this centre counts.
    pub(super) fn hear(&mut self, centre: Centre) -> bool {
        match self.allegiance.hear(centre) {
            Voice::Ours => true,
            Voice::Reborn => {
                self.lose_all();
                for queue in &mut self.queues {
                    queue.unsettle();
                    queue.refresh(self.flight.ranges_of(queue.stream));
                }
                true
            }
            Voice::Past => {
                self.tally.foreign += 1;
                false
            }
            Voice::Foreign => {
                self.tally.foreign += 1;
                // The buffer raises the alarm; it ignores what it is told.
                self.commands
                    .push_back(Command::Receipt(centre, Vec::new()));
                false
            }
        }
    }

    pub(super) fn beacon(&mut self, now: Millis, beacon: &Beacon) {
        let known = self.allegiance.known();
        if !self.hear(beacon.centre) || self.gate.is_outdated(beacon) {
            return;
        }
        let build: Arc<str> = beacon.build.as_str().into();
        self.build = Some(Arc::clone(&build));
        self.summaries_age_max_ms = Some(beacon.summaries_age_max_ms);
        self.commands.push_back(Command::CentreTime(beacon.sent_at));
        self.commands.push_back(Command::OfferAgain(build));
        if known != self.allegiance.known() {
            self.commands
                .push_back(Command::Receipt(beacon.centre, Vec::new()));
        }
        if self.gate.beacon(now, beacon, &mut self.jitter) == Change::Resend {
            self.lose_all();
        }
    }
}
