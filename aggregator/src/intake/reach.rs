//! How many brokers this aggregator reaches, as the others are told.
//!
//! A broker that comes counts at once. One that goes counts on for the length of a lease, so that a
//! broker's restart, after which each aggregator comes back at another moment, moves no shard.

use std::time::{Duration, Instant};

use futures_util::future::select_all;
use service::clock::monotonic;
use tokio::sync::watch;

use super::mqtt::Link;

/// Counts until it is dropped, or nobody reports any more. `grace` is how long a broker that went
/// counts on.
pub async fn count(
    mut links: Vec<watch::Receiver<Link>>,
    brokers: watch::Sender<u16>,
    grace: Duration,
) {
    let mut reach = Reach::new(links.len(), grace);
    loop {
        let up: Vec<bool> = links
            .iter_mut()
            .map(|link| !matches!(*link.borrow_and_update(), Link::Down))
            .collect();
        let (reached, changes_in) = reach.look(monotonic(), &up);
        brokers.send_if_modified(|told| std::mem::replace(told, reached) != reached);
        let changes = links.iter_mut().map(|link| Box::pin(link.changed()));
        tokio::select! {
            (changed, _, _) = select_all(changes) => if changed.is_err() { return },
            () = tokio::time::sleep(changes_in.unwrap_or(grace)) => {}
        }
    }
}

/// What [`count`] remembers. Pure.
struct Reach {
    grace: Duration,
    /// When each broker was seen connected last.
    seen: Vec<Option<Instant>>,
}

impl Reach {
    fn new(brokers: usize, grace: Duration) -> Self {
        let seen = vec![None; brokers];
        Self { grace, seen }
    }

    /// How many count now, and when that changes by itself.
    fn look(&mut self, now: Instant, up: &[bool]) -> (u16, Option<Duration>) {
        let mut reached = 0;
        let mut changes_in = None;
        for (seen, up) in self.seen.iter_mut().zip(up) {
            if *up {
                *seen = Some(now);
                reached += 1;
                continue;
            }
            let left = seen.and_then(|seen| self.grace.checked_sub(now.duration_since(seen)));
            if let Some(left) = left.filter(|left| !left.is_zero()) {
                reached += 1;
                changes_in = changes_in.min(Some(left)).or(Some(left));
            }
        }
        (reached, changes_in)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_that_goes_counts_on_for_the_grace_and_one_that_comes_counts_at_once() {
        let second = Duration::from_secs(1);
        let mut reach = Reach::new(2, 10 * second);
        let start = monotonic();
        let mut look = |at: u32, up: [bool; 2]| reach.look(start + at * second, &up);
        assert_eq!(look(0, [false, false]), (0, None));
        assert_eq!(look(1, [true, false]), (1, None));
        assert_eq!(look(5, [true, true]), (2, None));
        assert_eq!(look(6, [false, true]), (2, Some(9 * second)), "seen at 5");
        assert_eq!(look(7, [false, false]), (2, Some(8 * second)));
        assert_eq!(look(15, [false, false]), (1, Some(second)), "seen at 6");
        assert_eq!(look(16, [true, false]), (1, None));
    }
}
