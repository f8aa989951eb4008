//! The one place where the testbed reads a clock or waits for time to pass.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How often a condition of the outside world is looked at when it cannot announce itself.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// Monotonic time, for deadlines and durations.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the clock shell")]
pub fn monotonic() -> Instant {
    Instant::now()
}

/// Wall clock, milliseconds since 1970 UTC: the event time of generated passages.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the clock shell")]
pub fn unix_ms() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Lets the calling thread rest until then, to within the kernel's own timer.
#[expect(clippy::disallowed_methods, reason = "this is the clock shell")]
pub fn rest_until(moment: Instant) {
    std::thread::sleep(moment.saturating_duration_since(monotonic()));
}

/// Looks again and again until `look` has an answer; `None` when `limit` has passed without one.
///
/// For what has no event to wait for: a file that another program writes, a port that it opens.
/// Blocks the calling thread.
#[expect(clippy::disallowed_methods, reason = "this is the clock shell")]
pub fn wait_until<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = monotonic() + limit;
    loop {
        if let Some(answer) = look() {
            return Some(answer);
        }
        if monotonic() >= deadline {
            return None;
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
}
