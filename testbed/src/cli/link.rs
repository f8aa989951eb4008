//! `testbed link`.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;
use service::exit;
use testbed::link::{Link, Plan, Shape};

use super::say;

/// A bad link to try a unit on: a TCP proxy that is slow, far and lossy, both ways. Prints the
/// address to connect to. Ctrl-C ends it.
#[derive(Debug, Args)]
pub(crate) struct BadLink {
    /// Where it leads, such as the broker.
    #[arg(value_name = "ADDRESS:PORT")]
    to: SocketAddr,
    /// Rate in kbit/s, headers of IP and TCP included; default: as fast as it goes.
    #[arg(long, value_name = "RATE", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    kbit: Option<u32>,
    /// Round trip in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=60_000))]
    rtt_ms: u64,
    /// Jitter each way in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=60_000))]
    jitter_ms: u64,
    /// Lost segments in per cent.
    #[arg(long, value_name = "PERCENT", default_value_t = 0.0, value_parser = percent)]
    loss: f64,
    /// Of jitter and losses.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn percent(text: &str) -> Result<f64, String> {
    let percent: f64 = text.parse().map_err(|error| format!("{error}"))?;
    if (0.0..=90.0).contains(&percent) {
        Ok(percent)
    } else {
        Err("not within 0 to 90".into())
    }
}

impl BadLink {
    pub(crate) async fn run(self) -> anyhow::Result<u8> {
        let shape = Shape {
            rate_bytes_per_s: self.kbit.map(|kbit| kbit.saturating_mul(125)),
            delay: Duration::from_millis(self.rtt_ms) / 2,
            jitter: Duration::from_millis(self.jitter_ms),
            loss: self.loss / 100.0,
            ..Shape::FREE
        };
        let link = Link::start(self.to, Plan::both(shape), self.seed)?;
        say(&link.address().to_string());
        service::shutdown::signals().cancelled().await;
        Ok(exit::OK)
    }
}
