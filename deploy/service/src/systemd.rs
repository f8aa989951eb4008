//! Tells systemd how far the program is (`Type=notify`). Without systemd nothing happens.

use sd_notify::NotifyState;

/// The program serves: units ordered after it may start.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The orderly stop has begun.
pub fn stopping(status: &str) {
    tell(&[NotifyState::Stopping, NotifyState::Status(status)]);
}

/// A sign of life, for a unit with `WatchdogSec=`. Send it only while the program's own check of
/// itself passes, at less than half of the interval that [`watchdog_interval`] gives.
pub fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// How long systemd waits for [`alive`] before it kills the program; none without a watchdog.
#[must_use]
pub fn watchdog_interval() -> Option<std::time::Duration> {
    sd_notify::watchdog_enabled()
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot notify systemd; a Type=notify unit will time out");
    }
}
