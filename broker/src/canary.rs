//! The canary: proof that the router lives.
//!
//! Beside the data path. Once a second a message goes through the router and must come back; the
//! time it takes is a metric. A router that is silent for [`SILENCE_MAX`] will not come back, while
//! the listener would go on accepting: the process then ends by abort (exit status 134, SIGABRT) and
//! its service manager starts a new one. Units and centre resend what was under way.

use std::time::{Duration, Instant};

use service::clock::monotonic;
use service::ops::{Condition, Health};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::engine::{Link, Routed, RouterGone};
use crate::metrics::Metrics;

/// Its name and its topic. The dot keeps both apart from every device and every topic of the wire.
pub const CANARY: &str = "verst.canary";

/// The condition on the health page.
pub const CONDITION: &str = "router";

const INTERVAL: Duration = Duration::from_secs(1);
/// Silence after which `/readyz` says so.
const SILENCE_WARN: Duration = Duration::from_secs(3);
/// Silence after which the process ends.
pub const SILENCE_MAX: Duration = Duration::from_secs(10);

/// Sings until the stop.
pub async fn sing(mut link: Link, health: Health, metrics: Metrics, stop: CancellationToken) {
    link.subscribe(&[CANARY]);
    let mut heard_at = monotonic();
    while !stop.is_cancelled() {
        let sent_at = monotonic();
        link.publish(CANARY.into(), b"", false);
        // Neither the sending nor the hearing may outlast the interval.
        match timeout(INTERVAL, echo(&mut link)).await {
            Ok(Ok(())) => {
                heard_at = monotonic();
                metrics.canary_heard(heard_at - sent_at);
                health.set(CONDITION, Condition::Ok);
                let rest = INTERVAL.saturating_sub(heard_at - sent_at);
                if timeout(rest, stop.cancelled()).await.is_ok() {
                    break;
                }
            }
            Ok(Err(error)) => return give_up(&format!("has dropped the canary: {error}")),
            Err(_elapsed) => judge_silence(heard_at, &health),
        }
    }
    link.close().await;
}

/// Waits until a message has come back; one from an earlier round counts as well.
async fn echo(link: &mut Link) -> Result<(), RouterGone> {
    link.flush().await?;
    loop {
        if let Some(Routed::Message(_)) = link.next().await? {
            return Ok(());
        }
    }
}

/// What silence of the router means.
#[derive(Debug, PartialEq, Eq)]
enum Silence {
    /// Nothing yet.
    Short,
    /// `/readyz` says so.
    Long,
    /// It will not come back.
    Final,
}

impl Silence {
    fn of(span: Duration) -> Self {
        match span {
            span if span >= SILENCE_MAX => Self::Final,
            span if span >= SILENCE_WARN => Self::Long,
            _ => Self::Short,
        }
    }
}

fn judge_silence(heard_at: Instant, health: &Health) {
    match Silence::of(monotonic() - heard_at) {
        Silence::Final => give_up("is silent"),
        Silence::Long => health.set(
            CONDITION,
            Condition::NotReady("router does not answer".to_owned()),
        ),
        Silence::Short => {}
    }
}

fn give_up(what: &str) {
    tracing::error!("router {what}; the process ends now, its service manager must restart it");
    std::process::abort();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_router_is_said_so_and_then_given_up() {
        let moment = Duration::from_millis(1);
        for (span, means) in [
            (SILENCE_WARN - moment, Silence::Short),
            (SILENCE_WARN, Silence::Long),
            (SILENCE_MAX - moment, Silence::Long),
            (SILENCE_MAX, Silence::Final),
        ] {
            assert_eq!(Silence::of(span), means, "{span:?}");
        }
    }
}
