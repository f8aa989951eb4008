//! From the configuration to the machine's pace and the owner's rules.

use crate::config::UplinkConfig;
use crate::uplink::allowance::Rules;
use crate::uplink::backoff::{Backoff, Millis};
use crate::uplink::exchange::Pace;

/// The least wait between two attempts to connect, and between two probes.
const FIRST_WAIT_MS: Millis = 1_000;

/// The longest wait between two probes of a closed intake, and between two sendings of a message.
const LONGEST_WAIT_MS: Millis = 300_000;

/// Within which a reopened intake is entered.
const OPEN_JITTER_MS: Millis = 10_000;

/// The pace that the configuration asks for.
#[must_use]
pub fn pace(config: &UplinkConfig) -> Pace {
    let longest = |base: Millis| LONGEST_WAIT_MS.max(base);
    let resend_ms = config.resend_min_s * 1_000;
    Pace {
        batch_passages: u64::from(config.batch_passages),
        event_wait_ms: config.event_wait_ms,
        heartbeat_ms: config.heartbeat_s * 1_000,
        reconnect: Backoff {
            base_ms: FIRST_WAIT_MS,
            cap_ms: config.reconnect_max_s * 1_000,
        },
        probe: Backoff {
            base_ms: FIRST_WAIT_MS,
            cap_ms: LONGEST_WAIT_MS,
        },
        resend: Backoff {
            base_ms: resend_ms,
            cap_ms: longest(resend_ms),
        },
        open_jitter_ms: OPEN_JITTER_MS,
        summary_after_ms: config.summary_after_s * 1_000,
        backlog_share_percent: u64::from(config.backlog_share),
        rate_bytes_per_s_max: config.rate_kbit_s_max.map(|kbit| u64::from(kbit) * 125),
    }
}

/// The owner's rules for the link.
#[must_use]
pub fn rules(config: &UplinkConfig) -> Rules {
    Rules {
        backlog_hours: config.backlog_hours.clone(),
        offset: config.utc_offset,
        daily_bytes_max: config.daily_mb_max.map(|mb| u64::from(mb) * 1_000_000),
        reserve_percent: u64::from(config.daily_reserve),
    }
}
