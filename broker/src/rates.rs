//! A token bucket that may go into debt.
//!
//! One for the messages and one for the bytes of each unit's connection. What was read is always
//! taken, and the reading pauses until the debt is paid: a unit that sends too fast is slowed by
//! TCP and loses nothing.
//!
//! Pure: the time is handed in.

use std::time::{Duration, Instant};

/// Tokens that come back at a constant rate, up to a limit.
#[derive(Debug, Clone)]
pub struct Bucket {
    rate_per_s: f64,
    burst: f64,
    tokens: f64,
    at: Instant,
}

impl Bucket {
    /// A full bucket. `rate_per_s` must be above 0.
    #[must_use]
    pub fn new(rate_per_s: f64, burst: f64, now: Instant) -> Self {
        Self {
            rate_per_s,
            burst,
            tokens: burst,
            at: now,
        }
    }

    /// Takes `cost` tokens, into debt if need be.
    pub fn take(&mut self, cost: f64, now: Instant) {
        self.refill(now);
        self.tokens -= cost;
    }

    /// Takes `cost` tokens if they are there.
    #[must_use]
    pub fn try_take(&mut self, cost: f64, now: Instant) -> bool {
        self.refill(now);
        let enough = self.tokens >= cost;
        if enough {
            self.tokens -= cost;
        }
        enough
    }

    /// How long until the debt is paid; none when there is no debt.
    #[must_use]
    pub fn debt(&self) -> Option<Duration> {
        (self.tokens < 0.0).then(|| Duration::from_secs_f64(-self.tokens / self.rate_per_s))
    }

    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + passed * self.rate_per_s).min(self.burst);
        self.at = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "an origin for invented times")]
    fn a_burst_passes_and_the_rest_waits_for_the_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(10.0, 20.0, start);
        bucket.take(20.0, start);
        assert_eq!(bucket.debt(), None);
        bucket.take(5.0, start);
        assert_eq!(bucket.debt(), Some(Duration::from_millis(500)));
        bucket.take(0.0, start + Duration::from_millis(500));
        assert_eq!(bucket.debt(), None);
        assert!(!bucket.try_take(1.0, start + Duration::from_millis(500)));
        assert!(bucket.try_take(20.0, start + Duration::from_mins(1)));
        assert!(
            !bucket.try_take(1.0, start + Duration::from_mins(1)),
            "the burst is a ceiling"
        );
    }
}
