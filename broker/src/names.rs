//! Who is connected: one connection per name.
//!
//! After CONNECT was judged, before the router hears of a connection. A second connection of a name
//! closes the first one and begins when the router has dropped it: the router itself would mix the
//! two up.
//!
//! Invariants: at most one claim per name at a time; at most `connections_max` claims; names ever
//! seen are bounded, because each unit's name leaves a filter in the router for as long as it runs.
//! At these limits a newcomer is refused, nobody who is connected suffers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use proto::DeviceId;
use tokio_util::sync::CancellationToken;

use crate::identity::{CertificateId, Identity};
use crate::metrics::Closed;
use crate::rates::Bucket;

/// Takeovers of one name that are free, before the rate below holds.
const TAKEOVER_BURST: f64 = 5.0;
/// Takeovers of one name per second: one in ten seconds. Two devices with one identity that take
/// turns are thereby slowed down; the later of them is refused.
const TAKEOVER_RATE_PER_S: f64 = 0.1;

/// Tells a connection to end, and why. Clones tell the same one; the first reason stands.
#[derive(Debug, Clone, Default)]
pub struct Ending {
    asked: CancellationToken,
    reason: Arc<OnceLock<Closed>>,
}

impl Ending {
    /// Asks for the end.
    pub fn ask(&self, reason: Closed) {
        // A second reason changes nothing: the connection is ending already.
        self.reason.set(reason).ok();
        self.asked.cancel();
    }

    /// Waits until somebody asks. Cancel safe.
    pub async fn asked(&self) -> Closed {
        self.asked.cancelled().await;
        *self
            .reason
            .get()
            .expect("the reason is set before the token is cancelled")
    }
}

/// Why a name was not given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// The broker is full.
    #[error("{0} connections are open, the limit")]
    Connections(usize),
    /// Too many names since the start.
    #[error("{0} different names have connected since the start, the limit")]
    Names(usize),
    /// Two devices fight for one name, or one flaps.
    #[error("connections of this name displace each other too often")]
    Takeovers,
}

impl ClaimError {
    /// The label in metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Connections(_) => "connections_full",
            Self::Names(_) => "names_full",
            Self::Takeovers => "takeovers",
        }
    }
}

/// All names. Clones are the same.
#[derive(Debug, Clone)]
pub struct Names {
    shared: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    seen: HashMap<DeviceId, Seen>,
    live: usize,
    connections_max: usize,
    names_max: usize,
}

#[derive(Debug)]
struct Seen {
    takeovers: Option<Bucket>,
    live: Option<Live>,
}

#[derive(Debug)]
struct Live {
    certificate: CertificateId,
    ending: Ending,
    gone: CancellationToken,
}

/// A name held by a connection; dropped when the router has let go of it.
#[derive(Debug)]
pub struct Claim {
    names: Names,
    name: DeviceId,
    /// Whether another connection was displaced for it.
    pub took_over: bool,
}

impl Names {
    /// Nobody yet.
    #[must_use]
    pub fn new(connections_max: usize, names_max: usize) -> Self {
        let state = State {
            seen: HashMap::new(),
            live: 0,
            connections_max,
            names_max,
        };
        Self {
            shared: Arc::new(Mutex::new(state)),
        }
    }

    /// Claims the identity's name; a connection that holds it is told to end, and waited for.
    ///
    /// # Errors
    /// At the limits. Cancel safe: a displaced connection stays displaced.
    pub async fn claim(&self, identity: &Identity, ending: &Ending) -> Result<Claim, ClaimError> {
        let mut took_over = false;
        loop {
            let gone = match self.try_claim(identity, ending, took_over)? {
                None => {
                    let (names, name) = (self.clone(), identity.name.clone());
                    return Ok(Claim {
                        names,
                        name,
                        took_over,
                    });
                }
                Some(gone) => gone,
            };
            took_over = true;
            gone.cancelled().await;
        }
    }

    /// None when the name is ours now, otherwise what to wait for.
    fn try_claim(
        &self,
        identity: &Identity,
        ending: &Ending,
        charged: bool,
    ) -> Result<Option<CancellationToken>, ClaimError> {
        let mut state = self.state();
        let full = state.live >= state.connections_max;
        let (connections_max, names_max) = (state.connections_max, state.names_max);
        if !state.seen.contains_key(&identity.name) && state.seen.len() >= names_max {
            return Err(ClaimError::Names(names_max));
        }
        let seen = state
            .seen
            .entry(identity.name.clone())
            .or_insert_with(|| Seen {
                takeovers: None,
                live: None,
            });
        if let Some(live) = &seen.live {
            let now = service::clock::monotonic();
            let takeovers = seen.takeovers.get_or_insert_with(|| takeovers(now));
            if !charged && !takeovers.try_take(1.0, now) {
                return Err(ClaimError::Takeovers);
            }
            live.ending.ask(Closed::TakenOver);
            return Ok(Some(live.gone.clone()));
        }
        if full {
            return Err(ClaimError::Connections(connections_max));
        }
        seen.live = Some(Live {
            certificate: identity.certificate.clone(),
            ending: ending.clone(),
            gone: CancellationToken::new(),
        });
        state.live += 1;
        Ok(None)
    }

    /// Tells every connection whose certificate `is_revoked` to end; returns how many.
    pub fn end_revoked(&self, is_revoked: impl Fn(&CertificateId) -> bool) -> usize {
        let state = self.state();
        let live = state.seen.values().filter_map(|seen| seen.live.as_ref());
        live.filter(|live| is_revoked(&live.certificate))
            .map(|live| live.ending.ask(Closed::Revoked))
            .count()
    }

    fn release(&self, name: &DeviceId) {
        let mut state = self.state();
        if let Some(live) = state.seen.get_mut(name).and_then(|seen| seen.live.take()) {
            state.live -= 1;
            live.gone.cancel();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change under this lock is whole before anything in it can panic.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn takeovers(now: Instant) -> Bucket {
    Bucket::new(TAKEOVER_RATE_PER_S, TAKEOVER_BURST, now)
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.names.release(&self.name);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::identity::Role;

    fn unit(name: &str) -> Identity {
        Identity::for_test(name, Role::Unit)
    }

    #[tokio::test]
    async fn a_second_connection_waits_for_the_end_of_the_first() {
        let names = Names::new(10, 10);
        let first = Ending::default();
        let claim = names.claim(&unit("A"), &first).await.unwrap();
        assert!(!claim.took_over);
        let (second, same) = (Ending::default(), unit("A"));
        let (taken, ()) = tokio::join!(names.claim(&same, &second), async {
            assert_eq!(first.asked().await, Closed::TakenOver);
            drop(claim);
        });
        assert!(taken.unwrap().took_over);
    }

    #[tokio::test]
    async fn takeovers_of_a_name_are_rate_limited_and_others_are_not_affected() {
        let names = Names::new(10, 10);
        let mut held = names.claim(&unit("A"), &Ending::default()).await.unwrap();
        for _ in 0..5 {
            let ending = Ending::default();
            let next = unit("A");
            let (taken, ()) = tokio::join!(names.claim(&next, &ending), async { drop(held) });
            held = taken.unwrap();
        }
        let refused = names.claim(&unit("A"), &Ending::default()).await;
        assert_eq!(refused.unwrap_err(), ClaimError::Takeovers);
        assert!(names.claim(&unit("B"), &Ending::default()).await.is_ok());
    }

    #[test]
    fn after_a_burst_of_takeovers_there_is_one_in_ten_seconds() {
        let start = service::clock::monotonic();
        let mut bucket = takeovers(start);
        assert!((0..5).all(|_| bucket.try_take(1.0, start)));
        for (second, may) in [(0, false), (9, false), (11, true), (19, false), (21, true)] {
            let taken = bucket.try_take(1.0, start + Duration::from_secs(second));
            assert_eq!(taken, may, "after {second} s");
        }
    }

    #[tokio::test]
    async fn limits_refuse_the_newcomer() {
        let names = Names::new(1, 2);
        let held = names.claim(&unit("A"), &Ending::default()).await.unwrap();
        let full = names.claim(&unit("B"), &Ending::default()).await;
        assert_eq!(full.unwrap_err(), ClaimError::Connections(1));
        drop(held);
        drop(names.claim(&unit("B"), &Ending::default()).await.unwrap());
        let third = names.claim(&unit("C"), &Ending::default()).await;
        assert_eq!(third.unwrap_err(), ClaimError::Names(2));
    }

    #[tokio::test]
    async fn only_the_revoked_certificate_is_told_to_end() {
        let names = Names::new(10, 10);
        let (bad, good) = (Ending::default(), Ending::default());
        let _bad = names.claim(&unit("A"), &bad).await.unwrap();
        let _good = names.claim(&unit("B"), &good).await.unwrap();
        assert_eq!(
            names.end_revoked(|certificate| certificate.serial == b"A"),
            1
        );
        assert_eq!(bad.asked().await, Closed::Revoked);
        assert!(!good.asked.is_cancelled());
    }
}
