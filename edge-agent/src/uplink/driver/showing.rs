//! What the driver shows of the uplink.

use std::time::Duration;

use super::Driver;
use crate::clock::wall;
use crate::uplink::exchange::LinkState;
use crate::uplink::view::LinkPhase;

impl Driver {
    pub(super) fn show(&mut self) {
        for answer_ms in self.courier.take_answer_times() {
            self.receipt_seconds
                .observe(Duration::from_millis(answer_ms).as_secs_f64());
        }
        let machine = self.courier.machine();
        let heard = machine.last_receipt();
        if self.last_receipt.map(|(at, _)| at) != heard {
            self.last_receipt = heard.map(|at| (at, wall()));
        }
        let (phase, reason) = match (machine.link(), machine.why_shut()) {
            (LinkState::Down { .. }, _) => (LinkPhase::Down, self.trouble.clone()),
            (LinkState::Connecting, _) => (LinkPhase::Connecting, self.trouble.clone()),
            (LinkState::Up, Some(why)) => (LinkPhase::Waiting, Some(why.words().to_owned())),
            (LinkState::Up, None) => (LinkPhase::Up, None),
        };
        let flight = machine.flight();
        let mut view = self.view.borrow().clone();
        if phase.is_connected() != view.phase.is_connected() || phase.is_up() != view.phase.is_up()
        {
            view.since = wall();
        }
        view.phase = phase;
        view.broker = self.route.at();
        view.reason = reason;
        view.last_receipt = self.last_receipt.map(|(_, at)| at);
        view.in_flight_messages = flight.len();
        view.in_flight_passages = flight
            .iter()
            .map(|(_, message)| message.range.count())
            .sum();
        view.in_flight_bytes = flight.bytes_sent(None);
        view.receipt_time_ms = flight.receipt_time_ms();
        let rate = machine.rate();
        view.bytes_per_s = rate.bytes_per_s();
        view.round_trip_ms = rate.round_trip_ms();
        view.held = self.judged.why;
        view.held_until = self.judged.why.and(self.judged.until);
        (view.day_bytes, view.day_bytes_max) = self.meter.day(self.time.read().now);
        view.tally = machine.tally();
        self.view.send_if_modified(|shown| {
            let changed = *shown != view;
            *shown = view;
            changed
        });
    }
}
