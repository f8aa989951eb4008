//! Waiting between attempts: exponential, capped, with full jitter, so that many who failed together
//! do not come back together.

use std::time::Duration;

/// The delays of one series of attempts.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    cap: Duration,
    attempts: u32,
}

impl Backoff {
    /// The first delay is at most `first`, each further one at most twice that, none above `cap`.
    #[must_use]
    pub const fn new(first: Duration, cap: Duration) -> Self {
        Self {
            first,
            cap,
            attempts: 0,
        }
    }

    /// An attempt succeeded: the series begins anew.
    pub const fn reset(&mut self) {
        self.attempts = 0;
    }

    /// An attempt failed: how long to wait, drawn by the system's random source.
    pub fn delay(&mut self) -> Duration {
        // Without randomness the fleet of aggregators is at most a handful: the cap will do.
        self.delay_at(getrandom::u32().unwrap_or(u32::MAX))
    }

    fn delay_at(&mut self, random: u32) -> Duration {
        let doubled = 2_u32.saturating_pow(self.attempts.min(16));
        self.attempts = self.attempts.saturating_add(1);
        let most = self.first.saturating_mul(doubled).min(self.cap);
        most.mul_f64(f64::from(random) / f64::from(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_cap_and_begin_anew() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        let delays: Vec<u128> = (0..6)
            .map(|_| backoff.delay_at(u32::MAX).as_millis())
            .collect();
        assert_eq!(delays, [100, 200, 400, 800, 1_000, 1_000]);
        backoff.reset();
        assert_eq!(backoff.delay_at(0), Duration::ZERO);
        assert_eq!(backoff.delay_at(u32::MAX).as_millis(), 200);
    }
}
