//! Which message is read next, and which leaves next. Pure.
//!
//! Each lane has the gate's window of messages for itself; all of them share the bytes that may lack
//! a receipt ([`Flight`](crate::uplink::flight::Flight)) and the link's window
//! ([`Rate`](crate::uplink::rate::Rate)). Live goes first, except where the backlog is owed its
//! share. Little is read ahead of the link, so that messages have the size that the link asks for
//! now.

use proto::SeqRange;
use proto::limits::IN_FLIGHT_BATCHES_MAX;

use super::Machine;
use crate::uplink::allowance::Allowed;
use crate::uplink::backoff::Millis;
use crate::uplink::exchange::Command;
use crate::uplink::flight::{MESSAGES_MAX, MessageId, Phase};
use crate::uplink::lanes::{Lane, Queue};
use crate::uplink::notes::Hold;
use crate::uplink::rate::{FRAMING_BYTES, Kind};

/// Messages of a lane that are being read, or framed and waiting for the link.
const READ_AHEAD_MAX: usize = 2;

/// In the order of their turn, and how many messages each may have without a receipt.
const LANES: [(Lane, usize); 3] = [
    (Lane::Live, IN_FLIGHT_BATCHES_MAX),
    (Lane::Backlog, IN_FLIGHT_BATCHES_MAX - 1),
    (Lane::Suspect, 1),
];

/// A frame that waits for the link.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    id: MessageId,
    lane: Lane,
    bytes: usize,
    probe: bool,
}

const fn kind(lane: Lane) -> Kind {
    match lane {
        Lane::Live => Kind::Live,
        Lane::Backlog | Lane::Suspect => Kind::Backlog,
    }
}

impl Machine {
    /// Reads what the windows have room for.
    pub(super) fn start(&mut self, now: Millis) {
        for (lane, places) in LANES {
            while self.may_start(now, lane) {
                let next = self.due(now, Some(lane));
                let Some(id) = next.or_else(|| self.take_next(now, lane, places)) else {
                    break;
                };
                self.read(id);
            }
        }
    }

    fn may_start(&self, now: Millis, lane: Lane) -> bool {
        let active = match lane {
            Lane::Live => self.flight.active(Some(Lane::Live)),
            Lane::Backlog | Lane::Suspect => {
                let past = [Lane::Backlog, Lane::Suspect].map(Some);
                past.into_iter().map(|lane| self.flight.active(lane)).sum()
            }
        };
        let of_lane = self.flight.iter().filter(|(_, m)| m.lane == lane);
        let ahead = of_lane
            .filter(|(_, m)| matches!(m.phase, Phase::Reading | Phase::Ready { .. }))
            .count();
        self.allowed.lets(lane) && active < self.gate.window(now) && ahead < READ_AHEAD_MAX
    }

    /// Through a shut gate: one message, the oldest; without one, a note.
    pub(super) fn probe(&mut self, now: Millis) {
        if !self.gate.may_probe(now) || self.allowed == Allowed::Nothing {
            return;
        }
        let fresh = |machine: &mut Self| {
            let lets = machine.allowed;
            let mut lanes = LANES.into_iter().filter(move |(lane, _)| lets.lets(*lane));
            lanes.find_map(|(lane, places)| machine.take_next(now, lane, places))
        };
        if let Some(id) = self.due(now, None).or_else(|| fresh(self)) {
            if let Some(message) = self.flight.get_mut(id) {
                message.probe = true;
            }
            self.read(id);
        } else if self.room
            && let Some(note) = self.notes.next(now)
        {
            self.note(now, note);
        } else {
            return;
        }
        self.gate.probed(now, &mut self.jitter);
    }

    /// What was sent before and is to be sent again, oldest first.
    fn due(&self, now: Millis, lane: Option<Lane>) -> Option<MessageId> {
        let paused = |stream| {
            let queue = self.queues.iter().find(|queue| queue.stream == stream);
            queue.is_none_or(|queue| now < queue.paused_until)
        };
        let held = self.hold(now) == Hold::All;
        let waits = |lane| held && lane == Lane::Backlog;
        let mut due = self.flight.iter().filter(|(_, message)| {
            message.phase == Phase::Due && lane.is_none_or(|lane| message.lane == lane)
        });
        let leaves = |lane| self.allowed.lets(lane) && !waits(lane);
        due.find(|(_, message)| leaves(message.lane) && !paused(message.stream))
            .map(|(id, _)| id)
    }

    fn take_next(&mut self, now: Millis, lane: Lane, places: usize) -> Option<MessageId> {
        let of_lane = self.flight.iter().filter(|(_, m)| m.lane == lane);
        let full = of_lane.count() >= places || self.flight.len() >= MESSAGES_MAX;
        if full || !self.flight_has_room(now, lane, 0) {
            return None;
        }
        let (place, range) = self.next_run(now, lane)?;
        let queue = &mut self.queues[place];
        queue.take(lane, range);
        Some(self.flight.add(queue.stream, range, lane))
    }

    /// The next run of a lane, and the place of its queue. Of the backlog first what the windows lack.
    fn next_run(&self, now: Millis, lane: Lane) -> Option<(usize, SeqRange)> {
        let (wait, most) = (self.pace.event_wait_ms, self.passages_max());
        let find = |next: &dyn Fn(&Queue) -> Option<SeqRange>| {
            let mut queues = self.queues.iter().enumerate();
            queues.find_map(|(place, queue)| Some((place, next(queue)?)))
        };
        if lane != Lane::Backlog {
            return find(&|queue| queue.next(now, lane, wait, most));
        }
        let hold = self.hold(now);
        let of = |counted: bool| find(&|queue| queue.next_backlog(now, counted, most));
        let uncounted = if hold == Hold::All { None } else { of(false) };
        uncounted.or_else(|| {
            if hold == Hold::Nothing {
                of(true)
            } else {
                None
            }
        })
    }

    /// Passages that make a message of the size that the link asks for.
    pub(super) fn passages_max(&self) -> u64 {
        let link = self.rate.message_bytes();
        let bytes = self
            .allowed_rate
            .message_bytes()
            .map_or(link, |cap| cap.min(link));
        let passages = 16 * (bytes as u64) / self.bytes_per_passage_16ths;
        passages.clamp(1, self.pace.batch_passages)
    }

    /// Whether the other lanes have something to send or on its way.
    fn rivals(&self, now: Millis, lane: Lane) -> bool {
        let other = if lane == Lane::Live {
            Lane::Backlog
        } else {
            Lane::Live
        };
        let (wait, most) = (self.pace.event_wait_ms, self.passages_max());
        let waits = || {
            let mut queues = self.queues.iter();
            queues.any(|queue| queue.next(now, other, wait, most).is_some())
        };
        self.allowed.lets(other) && (self.flight.active(Some(other)) > 0 || waits())
    }

    fn read(&mut self, id: MessageId) {
        if let Some(message) = self.flight.get_mut(id) {
            message.phase = Phase::Reading;
            let (stream, range) = (message.stream, message.range);
            self.commands.push_back(Command::Read { id, stream, range });
        }
    }

    /// Hands framed messages to the link. Within a lane the oldest goes first, and one for which
    /// there is no room holds back those behind it.
    pub(super) fn publish(&mut self, now: Millis) {
        let open = self.gate.window(now) > 0;
        let mut waiting = self.waiting();
        if let Some(past) = waiting.iter().position(|m| m.lane != Lane::Live)
            && self.share.owes(waiting[past].bytes)
        {
            waiting[..=past].rotate_right(1);
        }
        let mut blocked = Vec::new();
        for message in waiting {
            if !open && !message.probe {
                self.put_off(message.id);
                continue;
            }
            if !self.room || !self.flight.has_room(message.bytes) {
                return;
            }
            if blocked.contains(&kind(message.lane)) {
                continue;
            }
            let fits = self.flight_has_room(now, message.lane, message.bytes)
                && self.link_has_room(message)
                && self.allowed.lets(message.lane);
            if !fits {
                blocked.push(kind(message.lane));
            } else if self
                .allowed_rate
                .lets(now, kind(message.lane), message.bytes)
            {
                self.send(now, message);
            } else {
                return;
            }
        }
    }

    /// Live before the rest, each in the order of their making.
    fn waiting(&self) -> Vec<Waiting> {
        let ready = self.flight.iter().filter_map(|(id, message)| {
            let Phase::Ready { bytes } = message.phase else {
                return None;
            };
            let (lane, probe) = (message.lane, message.probe);
            Some(Waiting {
                id,
                lane,
                bytes,
                probe,
            })
        });
        let mut waiting: Vec<_> = ready.collect();
        waiting.sort_by_key(|message| message.lane != Lane::Live);
        waiting
    }

    fn flight_has_room(&self, now: Millis, lane: Lane, bytes: usize) -> bool {
        let most = self.share.of_flight(lane);
        self.flight.lane_has_room(lane, bytes, most) || !self.rivals(now, lane)
    }

    fn link_has_room(&self, message: Waiting) -> bool {
        match kind(message.lane) {
            Kind::Backlog => self.rate.has_room(message.bytes) || self.share.owes(message.bytes),
            Kind::Live | Kind::Note => self.rate.has_room_for_live(message.bytes),
        }
    }

    fn send(&mut self, now: Millis, message: Waiting) {
        let (lane, bytes) = (message.lane, message.bytes);
        let rivals = self.rivals(now, lane);
        self.share.sent(lane, bytes + FRAMING_BYTES, rivals);
        self.rate.hand(now, kind(lane), bytes);
        self.allowed_rate.spend(now, bytes);
        self.flight.sent(message.id, now, &mut self.jitter);
        if let Some(message) = self.flight.get_mut(message.id) {
            self.tally.messages_sent += 1;
            self.tally.messages_resent += u64::from(message.sendings > 1);
            self.tally.passages_sent += message.range.count();
        }
        self.commands.push_back(Command::Publish(message.id));
    }

    /// The gate shut while this was being framed: it is framed anew when it may leave.
    fn put_off(&mut self, id: MessageId) {
        if let Some(message) = self.flight.get_mut(id) {
            message.phase = Phase::Due;
            self.commands.push_back(Command::Forget(id));
        }
    }
}
