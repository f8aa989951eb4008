//! A cap on what the unit sends, where the owner of the link asks for one: a token bucket. Pure.
//!
//! A second's worth may be saved up. Live passages leave as soon as anything is left and may
//! overdraw by their own message; the backlog leaves only when all of its message is there, so
//! that it never makes live wait for more than that. What cannot wait, heartbeats and summaries,
//! is spent in advance.

use super::backoff::Millis;
use super::rate::{FRAMING_BYTES, Kind};

/// Link time of one message of the backlog under the cap.
const MESSAGE_MS: u64 = 250;

/// The least that such a message weighs.
const MESSAGE_BYTES_MIN: usize = 512;

/// See the module.
#[derive(Debug, Clone, Copy)]
pub struct Cap {
    /// None: no cap.
    bytes_per_s: Option<u64>,
    /// In thousandths of a byte at the time `at`; below 0 while overdrawn.
    level: i64,
    at: Millis,
    /// Since the last refusal: when there is enough.
    enough_at: Option<Millis>,
}

impl Cap {
    /// A full bucket.
    #[must_use]
    pub fn new(bytes_per_s: Option<u64>) -> Self {
        let mut cap = Self {
            bytes_per_s,
            level: 0,
            at: 0,
            enough_at: None,
        };
        cap.level = cap.level_max();
        cap
    }

    fn per_ms(&self) -> i64 {
        let rate = self.bytes_per_s.unwrap_or(0);
        i64::try_from(rate).unwrap_or(i64::MAX / 10_000)
    }

    fn level_max(&self) -> i64 {
        self.per_ms() * 1_000
    }

    fn level(&self, now: Millis) -> i64 {
        let passed = i64::try_from(now.saturating_sub(self.at)).unwrap_or(i64::MAX);
        let gained = passed.saturating_mul(self.per_ms());
        self.level.saturating_add(gained).min(self.level_max())
    }

    fn price(frame_bytes: usize) -> i64 {
        i64::try_from((frame_bytes + FRAMING_BYTES) * 1_000).unwrap_or(i64::MAX)
    }

    /// Whether a frame of so many bytes may leave now.
    pub fn lets(&mut self, now: Millis, kind: Kind, frame_bytes: usize) -> bool {
        if self.bytes_per_s.is_none() {
            return true;
        }
        let needed = match kind {
            Kind::Live | Kind::Note => 1,
            Kind::Backlog => Self::price(frame_bytes).min(self.level_max()),
        };
        let missing = needed - self.level(now);
        self.enough_at = u64::try_from(missing)
            .ok()
            .filter(|missing| *missing > 0)
            .map(|missing| now + missing.div_ceil(self.per_ms().max(1).unsigned_abs()));
        self.enough_at.is_none()
    }

    /// That frame leaves.
    pub fn spend(&mut self, now: Millis, frame_bytes: usize) {
        if self.bytes_per_s.is_some() {
            self.level = self.level(now).saturating_sub(Self::price(frame_bytes));
            self.at = now;
        }
    }

    /// The link had no room for the frame that was spent last.
    pub fn take_back(&mut self, frame_bytes: usize) {
        if self.bytes_per_s.is_some() {
            self.level = self.level.saturating_add(Self::price(frame_bytes));
        }
    }

    /// When a frame may leave that may not now.
    #[must_use]
    pub fn timeout(&self, now: Millis) -> Option<Millis> {
        self.enough_at.filter(|at| *at > now)
    }

    /// What a message of the backlog should weigh at most, under a cap.
    #[must_use]
    pub fn message_bytes(&self) -> Option<usize> {
        let rate = self.bytes_per_s?;
        let bytes = usize::try_from(rate * MESSAGE_MS / 1_000).unwrap_or(usize::MAX);
        Some(bytes.max(MESSAGE_BYTES_MIN))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cap_holds_over_any_minute_and_is_used_up() {
        let mut cap = Cap::new(Some(8_000));
        let (mut now, mut sent) = (0, 0);
        while now < 60_000 {
            if cap.lets(now, Kind::Backlog, 1_880) {
                cap.spend(now, 1_880);
                sent += 2_000;
            } else {
                now = cap.timeout(now).unwrap();
            }
        }
        assert!((480_000..=480_000 + 8_000).contains(&sent), "{sent}");
    }

    #[test]
    fn live_waits_for_one_message_of_the_backlog_at_most() {
        let mut cap = Cap::new(Some(1_000));
        cap.spend(0, 880);
        assert!(!cap.lets(0, Kind::Live, 100));
        assert_eq!(cap.timeout(0), Some(1));
        assert!(cap.lets(1, Kind::Live, 10_000) && !cap.lets(1, Kind::Backlog, 400));
        assert_eq!(cap.timeout(1), Some(520));
    }

    #[test]
    fn a_frame_larger_than_the_bucket_leaves_when_it_is_full() {
        let mut cap = Cap::new(Some(1_000));
        assert!(cap.lets(0, Kind::Backlog, 100_000));
        cap.spend(0, 100_000);
        assert!(!cap.lets(99_000, Kind::Live, 10));
    }

    #[test]
    fn messages_under_a_cap_are_a_quarter_of_a_second_of_it_and_not_too_small() {
        for (bytes_per_s, bytes) in [(1, 512), (2_048, 512), (64_000, 16_000)] {
            let cap = Cap::new(Some(bytes_per_s));
            assert_eq!(cap.message_bytes(), Some(bytes), "{bytes_per_s} B/s");
        }
    }

    #[test]
    fn without_a_cap_nothing_waits() {
        let mut cap = Cap::new(None);
        cap.spend(0, 1 << 40);
        assert!(cap.lets(0, Kind::Backlog, 1 << 40) && cap.timeout(0).is_none());
    }
}
