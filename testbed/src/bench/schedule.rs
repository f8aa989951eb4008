//! Requests on an open schedule: each has its moment, whether or not the one before was answered,
//! and its time runs from that moment. A slow answer thus shows in all that had to wait behind it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use hdrhistogram::Histogram;
use service::tasks::TaskSet;
use tokio_util::sync::CancellationToken;

use super::http::Waiting;
use super::stage::to_f64;
use crate::clock;

/// Connections that share the schedule by turns.
const CONNECTIONS: u32 = 16;
/// Times up to this are told apart, in microseconds.
const TIME_US_MAX: u64 = 60_000_000;
/// The first requests are warm-up: caches, connections, plans.
const WARM_UP: Duration = Duration::from_secs(2);
/// How long after its end the last answers may take.
const GRACE: Duration = Duration::from_secs(30);

/// Times from the scheduled moment to the end of the answer.
#[derive(Debug)]
pub struct Times(Histogram<u64>);

impl Times {
    /// For times up to a minute.
    ///
    /// # Errors
    /// Never; the bounds are fixed.
    pub fn new() -> Result<Self> {
        Ok(Self(Histogram::new_with_bounds(1, TIME_US_MAX, 3)?))
    }

    /// Takes one time.
    pub fn record(&mut self, time: Duration) {
        let us = u64::try_from(time.as_micros()).unwrap_or(TIME_US_MAX);
        self.0.saturating_record(us.max(1));
    }

    /// Takes all times of another.
    ///
    /// # Errors
    /// Never; the bounds are the same.
    pub fn add(&mut self, other: &Self) -> Result<()> {
        Ok(self.0.add(&other.0)?)
    }

    /// The time that this share did not exceed, in milliseconds.
    #[must_use]
    pub fn quantile_ms(&self, share: f64) -> f64 {
        to_f64(self.0.value_at_quantile(share)) / 1_000.0
    }

    /// How many.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.len()
    }
}

/// Sends `requests` one after the other, from the beginning again after the last, `per_s` a second
/// for `span`. Each connection has a thread of its own, which the kernel wakes at the moment: timers
/// of whole milliseconds, or simulated units on the same thread, would be measured as well.
///
/// # Errors
/// A connection fails, or an answer is not 200.
pub async fn run(
    to: SocketAddr,
    requests: Vec<Vec<u8>>,
    per_s: u32,
    span: Duration,
) -> Result<Times> {
    let turns = Turns {
        to,
        requests: Arc::new(requests),
        gap: Duration::from_secs(1) / per_s,
        start: clock::monotonic() + Duration::from_millis(100),
        span,
    };
    let tasks = TaskSet::new(CancellationToken::new());
    let (sender, times) = sync_channel(CONNECTIONS as usize);
    for turn in 0..CONNECTIONS {
        let (turns, sender) = (turns.clone(), sender.clone());
        tasks.spawn_blocking_thread("schedule", move || -> Result<()> {
            sender.send(turns.take(turn)?)?;
            Ok(())
        });
    }
    drop(sender);
    tasks.join(span + GRACE).await?;
    if let Some(failure) = tasks.cause() {
        anyhow::bail!(failure);
    }
    let mut all = Times::new()?;
    for part in times.try_iter() {
        all.add(&part)?;
    }
    ensure!(all.count() > 0, "the schedule is shorter than its warm-up");
    Ok(all)
}

#[derive(Clone)]
struct Turns {
    to: SocketAddr,
    requests: Arc<Vec<Vec<u8>>>,
    gap: Duration,
    start: Instant,
    span: Duration,
}

impl Turns {
    /// The requests of one connection: this turn, and every one after as many as there are
    /// connections.
    fn take(&self, turn: u32) -> Result<Times> {
        let mut connection = Waiting::open(self.to)?;
        let mut times = Times::new()?;
        let moments = (turn..)
            .step_by(CONNECTIONS as usize)
            .map(|number| (number, self.gap * number))
            .take_while(|(_, moment)| *moment < self.span);
        for (number, moment) in moments {
            let at = self.start + moment;
            clock::rest_until(at);
            let request = &self.requests[number as usize % self.requests.len()];
            let status = connection.ask(request)?;
            ensure!(status == 200, "answered {status}");
            if moment >= WARM_UP {
                times.record(clock::monotonic() - at);
            }
        }
        Ok(times)
    }
}
