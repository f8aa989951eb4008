//! What a unit saw while its link was away: posted to a real agent as a camera would, with the
//! event times of then, and booked in the ledger that the database is compared with.

use std::net::SocketAddr;

use anyhow::Result;
use proto::EventTime;

use crate::bench::events::{self, PATH};
use crate::bench::http::{self, Connection};
use crate::fleet::traffic::{Road, Traffic};
use crate::recompute::{Fact, Ledger};

/// Passages in one post.
const POST_PASSAGES: u64 = 2_500;

/// Traffic of one unit in a span of event time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Backlog {
    /// The first passage is not before.
    pub(super) from_ms: i64,
    /// The last passage is before.
    pub(super) to_ms: i64,
    /// Passages; the flow follows from them and the span. A random flow may fall a little short.
    pub(super) passages: u64,
    /// Of the traffic.
    pub(super) seed: u64,
}

impl Backlog {
    /// Posts it, and returns how many passages were accepted.
    ///
    /// # Errors
    /// The agent does not take all of them.
    pub(super) async fn post(
        &self,
        device: &str,
        door: SocketAddr,
        ledger: &mut Ledger,
    ) -> Result<u64> {
        let span_s = (self.to_ms - self.from_ms) as f64 / 1_000.0;
        let per_s = self.passages as f64 / span_s;
        let start = EventTime::from_millis(self.from_ms);
        let mut traffic = Traffic::new(Road::motorway(per_s), self.seed, start);
        let mut connection = Connection::open(door).await?;
        let mut posted = 0;
        while posted < self.passages {
            let mut lines = Vec::with_capacity(usize::try_from(POST_PASSAGES)?);
            while (lines.len() as u64) < POST_PASSAGES.min(self.passages - posted)
                && traffic.next_at().as_millis() < self.to_ms
            {
                let passage = traffic.next_passage();
                lines.push(events::event(device, &passage));
                ledger.add(device, Fact::from(&passage));
            }
            if lines.is_empty() {
                break;
            }
            let request = http::post(PATH, "application/x-ndjson", lines.join("\n").as_bytes());
            events::post(&mut connection, &request, lines.len()).await?;
            posted += lines.len() as u64;
        }
        Ok(posted)
    }
}
