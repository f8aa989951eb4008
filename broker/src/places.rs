//! Places for handshakes, and who gives one up.
//!
//! At the door, before anybody is known: a silent connection costs its sender nothing, so it may
//! hold a place only while nobody else wants it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;

/// After this time a handshake gives way if others wait for its place.
const YIELD_AFTER: Duration = Duration::from_secs(2);
/// How often a slow handshake looks whether others wait.
const YIELD_LOOK: Duration = Duration::from_millis(250);

/// The places for handshakes. Clones share them.
#[derive(Clone)]
pub(crate) struct Places {
    free: Arc<Semaphore>,
    /// Whether somebody who was accepted waits for one.
    wanted: Arc<AtomicBool>,
}

impl Places {
    pub(crate) fn new(count: usize) -> Self {
        Self {
            free: Arc::new(Semaphore::new(count)),
            wanted: Arc::default(),
        }
    }

    /// Waits for a place. Only the accept loop waits, so one flag is enough.
    pub(crate) async fn take(&self) -> Option<OwnedSemaphorePermit> {
        self.wanted.store(true, Ordering::Relaxed);
        let place = self.free.clone().acquire_owned().await;
        self.wanted.store(false, Ordering::Relaxed);
        place.ok()
    }

    /// Returns when a handshake has had its time and somebody waits for its place.
    pub(crate) async fn crowded_out(&self) {
        sleep(YIELD_AFTER).await;
        while !self.wanted.load(Ordering::Relaxed) {
            sleep(YIELD_LOOK).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_place_is_wanted_only_while_somebody_waits_for_it() {
        let places = Places::new(1);
        let taken = places.take().await;
        assert!(!places.wanted.load(Ordering::Relaxed));
        let mut waiting = Box::pin(places.take());
        assert!(waiting.as_mut().now_or_never().is_none());
        assert!(places.wanted.load(Ordering::Relaxed));
        drop(taken);
        assert!(waiting.await.is_some());
        assert!(!places.wanted.load(Ordering::Relaxed));
    }
}
