//! How much may be on its way over the link, learned from the broker's acknowledgements. Pure.
//!
//! A PUBACK proves nothing about delivery. But the gate sends it when a message has crossed the
//! link, so it measures the link: how many bytes a second get through, and how long the way takes
//! while nothing queues. What was handed over and is not acknowledged stands in front of the next
//! live passage, therefore the backlog keeps it within the window
//!
//! ```text
//! bytes = rate × (round trip + SLACK_MS) + one message      one message = rate × MESSAGE_MS
//! ```
//! More than rate × round trip fills the link; the rest is what a live passage finds in its way (all
//! of the window, in the moment after the link ran empty). As long as the link is not full, the
//! measured rate is window / round trip, and so the next window is larger than this one; once it is
//! full, rate and window stay. The law is BBR's (Cardwell et al., ACM Queue 2016); the standing queue
//! of `SLACK_MS` takes the place of its probing for more.
//!
//! Invariants
//! 1. Bytes handed over = bytes acknowledged + bytes on their way; marks are kept of these alone.
//! 2. The window is at most twice what was used lately: an estimate from a better time, or one that
//!    a burst of acknowledgements made, is not believed before it is tried (RFC 7661).
//! 3. The round trip is the shortest since a small frame last found the link empty. When that is
//!    `PROBE_EVERY_MS` ago, the backlog waits until what is on its way has arrived and one small
//!    frame was sent, so that a route that became shorter is noticed. One that became longer
//!    shrinks window and messages until they find the link empty by themselves. Acknowledgements of
//!    live traffic alone never lengthen it: the gate sends them together with the next receipt
//!    ([`PROMPT_BYTES`]).

use std::collections::VecDeque;

use proto::limits::{IN_FLIGHT_BYTES_MAX, PROMPT_BYTES, PROMPT_MS};

use super::backoff::Millis;

/// What the backlog may queue beyond a full link: covers jitter and the way through the buffer.
const SLACK_MS: Millis = 300;

/// Link time of one message of the backlog.
const MESSAGE_MS: Millis = 250;

/// Bytes of one message before the rate is known.
const MESSAGE_BYTES_FIRST: usize = 4 * 1024;

/// The least: below, headers outweigh what they carry.
const MESSAGE_BYTES_MIN: usize = 512;

/// The most: several messages share the bytes that may lack a receipt.
const MESSAGE_BYTES_MAX: usize = IN_FLIGHT_BYTES_MAX / 8;

/// On the way before the rate is known.
const WINDOW_BYTES_FIRST: usize = 2 * MESSAGE_BYTES_FIRST;

/// A larger frame takes so much of a slow link's time by itself that it does not tell the way's.
const SMALL_BYTES: usize = 1_024;

/// What MQTT, TLS, TCP and IP add to a frame.
pub const FRAMING_BYTES: usize = 120;

/// The least time over which a rate is taken: shorter bursts measure the scheduler.
const ROUND_MS_MIN: Millis = 100;

/// Over this long, and up to twice as long, it is remembered how much was on its way.
const USED_MS: Millis = 5_000;

/// How long a shortest round trip is believed while the link never was empty.
const PROBE_EVERY_MS: Millis = 120_000;

/// For so long after a large frame acknowledgements surely come at once: that time, less what the
/// way of the large one may have taken longer.
const PROMPT_SURE_MS: Millis = PROMPT_MS - 2_000;

/// Whose bytes they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Passages that go first.
    Live,
    /// Passages that fill the link.
    Backlog,
    /// Heartbeats, summaries, losses.
    Note,
}

/// A frame on its way.
#[derive(Debug, Clone, Copy)]
struct Mark {
    /// Bytes handed over up to its end.
    end: u64,
    bytes: usize,
    at: Millis,
    kind: Kind,
    /// It is small and found the link empty.
    alone: bool,
}

/// A stretch over which the rate is taken: from an acknowledgement until all has arrived that was
/// on its way then.
#[derive(Debug, Clone, Copy)]
struct Round {
    from: Millis,
    acked_before: u64,
    ends_with: u64,
    /// The link was not full all the time, so that it may carry more than was seen.
    starved: bool,
}

/// Waiting for an empty link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Probe {
    None,
    /// Until this much is acknowledged.
    Holding(u64),
    /// It is empty but for what cannot wait; the next small frame measures. One that is not small ends
    /// the wait unmeasured if it is the heartbeat that was asked for.
    Ready,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Rate {
    handed: u64,
    acked: u64,
    marks: VecDeque<Mark>,
    bytes_per_s: Option<u64>,
    round_trip_ms: Option<Millis>,
    /// When the round trip was last confirmed.
    confirmed_at: Millis,
    probe: Probe,
    /// Until when an acknowledgement tells the way.
    prompt_until: Millis,
    /// That time is over.
    calm: bool,
    round: Option<Round>,
    /// The most that was on its way: lately, and in the span before, and since when lately is.
    used: (usize, usize, Millis),
}

impl Default for Rate {
    fn default() -> Self {
        Self {
            handed: 0,
            acked: 0,
            marks: VecDeque::new(),
            bytes_per_s: None,
            round_trip_ms: None,
            confirmed_at: 0,
            probe: Probe::None,
            prompt_until: PROMPT_SURE_MS,
            calm: false,
            round: None,
            used: (0, 0, 0),
        }
    }
}

impl Rate {
    /// A frame of so many bytes goes to the link.
    pub fn hand(&mut self, now: Millis, kind: Kind, frame_bytes: usize) {
        let bytes = frame_bytes + FRAMING_BYTES;
        if frame_bytes >= PROMPT_BYTES {
            self.prompt_until = now + PROMPT_SURE_MS;
            self.calm = false;
        }
        let (probes, small) = (self.probe == Probe::Ready, bytes <= SMALL_BYTES);
        let alone = (probes || self.unacked() == 0) && small && now < self.prompt_until;
        if probes && (small || kind == Kind::Note) {
            self.probe = Probe::None;
            self.confirmed_at = now;
        }
        if self.unacked() == 0 {
            self.round = None;
        }
        self.handed += bytes as u64;
        self.marks.push_back(Mark {
            end: self.handed,
            bytes,
            at: now,
            kind,
            alone,
        });
        let (lately, _, since) = self.used;
        if now >= since + USED_MS {
            let before = if now < since + 2 * USED_MS { lately } else { 0 };
            self.used = (0, before, now);
        }
        self.used.0 = self.used.0.max(self.unacked());
    }

    /// The link had no room for the frame that was handed over last.
    pub fn take_back(&mut self, frame_bytes: usize) {
        let bytes = frame_bytes + FRAMING_BYTES;
        let place = self.marks.iter().rposition(|mark| mark.bytes == bytes);
        if let Some(gone) = place.and_then(|place| self.marks.remove(place)) {
            self.handed -= gone.bytes as u64;
            if let Probe::Holding(end) = &mut self.probe {
                *end = self.handed.min(*end);
            }
            let behind = self.marks.iter_mut().skip(place.unwrap_or(0));
            behind.for_each(|mark| mark.end -= gone.bytes as u64);
        }
    }

    /// The broker acknowledged a frame of so many bytes.
    pub fn acknowledge(&mut self, now: Millis, frame_bytes: usize) {
        let full = self.unacked() + self.message_bytes() >= self.window_bytes();
        self.acked = (self.acked + (frame_bytes + FRAMING_BYTES) as u64).min(self.handed);
        while self
            .marks
            .front()
            .is_some_and(|mark| mark.end <= self.acked)
        {
            if let Some(mark) = self.marks.pop_front() {
                self.time(now, mark);
            }
        }
        if let Probe::Holding(end) = self.probe
            && end <= self.acked
        {
            self.probe = Probe::Ready;
        }
        if let Some(round) = &mut self.round {
            round.starved |= !full;
            let round = *round;
            if self.acked < round.ends_with || now < round.from + ROUND_MS_MIN {
                return;
            }
            self.measure(now, round);
        }
        self.round = (self.unacked() > 0).then_some(Round {
            from: now,
            acked_before: self.acked,
            ends_with: self.handed,
            starved: false,
        });
    }

    fn time(&mut self, now: Millis, mark: Mark) {
        let took_ms = now.saturating_sub(mark.at);
        if mark.alone || self.round_trip_ms.is_none_or(|least| took_ms <= least) {
            self.round_trip_ms = Some(took_ms);
            self.confirmed_at = now;
        }
        // It took its bytes no longer than it took itself. Of a small one that says little, and
        // nothing about a link that was not measured yet.
        let at_least = mark.bytes as u64 * 1_000 / took_ms.max(1);
        let first = MESSAGE_BYTES_FIRST as u64 * 1_000 / MESSAGE_MS;
        if at_least > self.bytes_per_s.unwrap_or(first) {
            self.bytes_per_s = Some(at_least);
        }
    }

    fn measure(&mut self, now: Millis, round: Round) {
        let seen = (self.acked - round.acked_before) * 1_000 / (now - round.from).max(1);
        self.bytes_per_s = Some(match self.bytes_per_s {
            Some(known) if known < seen => seen,
            Some(known) if round.starved => known,
            Some(known) => u64::midpoint(known, seen),
            None => seen,
        });
    }

    /// Time passed: the link is let run empty when its round trip has not been seen for long.
    pub fn tick(&mut self, now: Millis) {
        self.calm = now >= self.prompt_until;
        if self.probe == Probe::None
            && self.unacked() > 0
            && now >= self.confirmed_at + PROBE_EVERY_MS
        {
            self.probe = Probe::Holding(self.handed);
        }
    }

    /// A new connection: nothing is on its way, and the link may be another one.
    pub fn connected(&mut self, now: Millis) {
        *self = Self {
            confirmed_at: now,
            prompt_until: now + PROMPT_SURE_MS,
            ..Self::default()
        };
    }

    /// Bytes handed over and not acknowledged.
    #[must_use]
    pub fn unacked(&self) -> usize {
        usize::try_from(self.handed - self.acked).unwrap_or(usize::MAX)
    }

    fn unacked_of(&self, kind: Kind) -> usize {
        let of_kind = self.marks.iter().filter(|mark| mark.kind == kind);
        of_kind.map(|mark| mark.bytes).sum()
    }

    /// Bytes that fill the link, and little more.
    #[must_use]
    pub fn window_bytes(&self) -> usize {
        let (Some(rate), Some(round_trip_ms)) = (self.bytes_per_s, self.round_trip_ms) else {
            return WINDOW_BYTES_FIRST;
        };
        let filled = rate.saturating_mul(round_trip_ms + SLACK_MS) / 1_000;
        let filled = usize::try_from(filled).unwrap_or(usize::MAX);
        let tried = (2 * self.used.0.max(self.used.1)).max(WINDOW_BYTES_FIRST);
        filled.saturating_add(self.message_bytes()).min(tried)
    }

    /// Whether a frame of the backlog may join those on their way.
    #[must_use]
    pub fn has_room(&self, frame_bytes: usize) -> bool {
        let bytes = frame_bytes + FRAMING_BYTES;
        let window = self.window_bytes();
        // One that is larger than the window, made in a better time, goes when only thin live
        // traffic is on its way, which may never end; and one goes when acknowledgements may wait, for
        // then they do not tell what is on its way.
        let thin = self.unacked() <= window / 2 || self.calm;
        let only_thin = thin && self.unacked_of(Kind::Backlog) == 0;
        (only_thin || self.unacked() + bytes <= window) && self.probe == Probe::None
    }

    /// Whether the backlog waits for a small frame that measures the round trip.
    #[must_use]
    pub fn wants_small_frame(&self) -> bool {
        self.probe == Probe::Ready
    }

    /// Whether a live frame may. It does not wait for the backlog, only for its like.
    #[must_use]
    pub fn has_room_for_live(&self, frame_bytes: usize) -> bool {
        let (live, bytes) = (self.unacked_of(Kind::Live), frame_bytes + FRAMING_BYTES);
        live == 0 || live + bytes <= self.window_bytes()
    }

    /// What a message of the backlog should weigh.
    #[must_use]
    pub fn message_bytes(&self) -> usize {
        let Some(rate) = self.bytes_per_s else {
            return MESSAGE_BYTES_FIRST;
        };
        let bytes = usize::try_from(rate.saturating_mul(MESSAGE_MS) / 1_000).unwrap_or(usize::MAX);
        bytes.clamp(MESSAGE_BYTES_MIN, MESSAGE_BYTES_MAX)
    }

    /// Bytes a second that get through; none before they were measured.
    #[must_use]
    pub const fn bytes_per_s(&self) -> Option<u64> {
        self.bytes_per_s
    }

    /// From handing a frame over to its acknowledgement while nothing queues.
    #[must_use]
    pub const fn round_trip_ms(&self) -> Option<Millis> {
        self.round_trip_ms
    }
}

#[cfg(test)]
mod tests;
