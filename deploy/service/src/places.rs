//! Places at a door, and who gives one up.
//!
//! A silent connection costs its sender nothing, so it may hold a place only while nobody else wants
//! it. Used for the broker's handshakes and for the connections of the HTTP server.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;

/// After this time the silent give way if others wait for their place.
const YIELD_AFTER: Duration = Duration::from_secs(2);
/// Who waits asks the next holder when the one before has not gone for so long.
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// The places. Clones share them.
#[derive(Debug, Clone)]
pub struct Places {
    free: Arc<Semaphore>,
    /// Whether somebody who was accepted waits for one.
    wanted: Arc<AtomicBool>,
    /// Asks the holder that has had its time longest to give way.
    asked: Arc<Notify>,
    /// See [`YIELD_AFTER`].
    yield_after: Duration,
}

impl Places {
    /// So many, all free.
    #[must_use]
    pub fn new(count: usize) -> Self {
        Self::yielding_after(YIELD_AFTER, count)
    }

    pub(crate) fn yielding_after(yield_after: Duration, count: usize) -> Self {
        Self {
            free: Arc::new(Semaphore::new(count)),
            wanted: Arc::default(),
            asked: Arc::default(),
            yield_after,
        }
    }

    /// Waits for a place. Only the accept loop waits, so one flag is enough. Cancel safe, but for the
    /// flag, which then stays up until the next call.
    pub async fn take(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(place) = self.free.clone().try_acquire_owned() {
            self.wanted.store(false, Ordering::Relaxed);
            return Some(place);
        }
        self.wanted.store(true, Ordering::Relaxed);
        let acquired = self.free.clone().acquire_owned();
        tokio::pin!(acquired);
        let place = loop {
            self.asked.notify_one();
            tokio::select! {
                place = &mut acquired => break place,
                () = sleep(ASK_AGAIN) => {}
            }
        };
        self.wanted.store(false, Ordering::Relaxed);
        place.ok()
    }

    /// Returns when a holder has had its time and somebody waits for a place: to one holder at a
    /// time, the one that has had its time longest.
    pub async fn crowded_out(&self) {
        sleep(self.yield_after).await;
        loop {
            self.asked.notified().await;
            if self.wanted.load(Ordering::Relaxed) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_pending<F: Future>(future: std::pin::Pin<&mut F>) -> bool {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        future.poll(&mut context).is_pending()
    }

    #[tokio::test]
    async fn a_place_is_wanted_only_while_somebody_waits_for_it() {
        let places = Places::new(1);
        let taken = places.take().await;
        assert!(!places.wanted.load(Ordering::Relaxed));
        let mut waiting = Box::pin(places.take());
        assert!(is_pending(waiting.as_mut()));
        assert!(places.wanted.load(Ordering::Relaxed));
        drop(taken);
        assert!(waiting.await.is_some());
        assert!(!places.wanted.load(Ordering::Relaxed));
    }
}
