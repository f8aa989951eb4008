//! How the store fares, and what is done about it: a full disk heals, a file that is too large is made
//! anew, everything else needs a restart.

use std::sync::Arc;

use super::{Moment, Owner};
use crate::buffer::StoreHealth;
use crate::buffer::engine::{Engine, why};
use crate::buffer::medium::StoreError;

impl Owner {
    /// From here on nothing is answered with success. A full disk heals, everything else needs a
    /// restart of the agent.
    pub(super) fn fail(&mut self, error: &StoreError) {
        tracing::error!(%error, "store failed; passages are refused");
        self.health = match error {
            StoreError::NoSpace => StoreHealth::NoSpace,
            StoreError::Denied(_) | StoreError::Broken(_) => StoreHealth::Failed(why(error)),
        };
        if let Some(engine) = &mut self.engine {
            engine.measure_disk();
        }
        self.publish_health();
        self.waiting.clear();
    }

    /// Opens the store again, as a new run, once there is space.
    pub(super) fn retry(&mut self, at: Moment) {
        self.measured = at.monotonic;
        let opened = match self.engine.take() {
            Some(mut engine) => {
                engine.measure_disk();
                if engine.disk.free_bytes == 0 || engine.is_below_floor() {
                    self.engine = Some(engine);
                    return;
                }
                engine.restart(at.wall_ms)
            }
            None => Engine::open(&self.settings, at.wall_ms),
        };
        match opened {
            Ok(engine) => {
                tracing::info!("store is open again");
                self.health = StoreHealth::Ok;
                self.resume(engine);
            }
            // Opening needs some space as well; the next try may have it.
            Err(error) => tracing::warn!(%error, "store does not open again yet"),
        }
    }

    /// Goes on with a store that was opened again.
    pub(super) fn resume(&mut self, mut engine: Engine) {
        // They count from the start of the agent; what failed was never published.
        engine.counters.add(&self.state.borrow().counters);
        self.engine = Some(engine);
        self.publish();
    }

    /// What is done when there is nothing to do.
    pub(super) fn tidy(&mut self, now_ms: i64) {
        let Some(mut engine) = self.engine.take() else {
            return;
        };
        engine.measure_disk();
        if !engine.is_oversized() {
            self.engine = Some(engine);
            return self.publish();
        }
        let before_bytes = engine.disk.used_bytes;
        match engine.rebuild(now_ms) {
            Ok(engine) => {
                let after_bytes = engine.disk.used_bytes;
                tracing::info!(
                    before_bytes,
                    after_bytes,
                    "store was rebuilt, for its file was large"
                );
                self.resume(engine);
            }
            Err(error) => {
                tracing::error!(%error, "store could not be rebuilt; passages are refused");
                self.health = StoreHealth::Failed(error.to_string().into());
                self.publish_health();
            }
        }
    }

    pub(super) fn publish(&mut self) {
        if let Some(engine) = &mut self.engine {
            self.state
                .send_replace(Arc::new(engine.state(self.health.clone())));
        }
    }

    /// What is in memory may be ahead of the disk: only the health changes.
    pub(super) fn publish_health(&mut self) {
        let health = self.health.clone();
        self.state.send_modify(|state| {
            let state = Arc::make_mut(state);
            state.health = health;
        });
    }
}
