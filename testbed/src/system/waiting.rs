//! Waiting for what the system does by itself, with a limit.

use std::time::Duration;

use super::{System, SystemError};
use crate::recompute::database as tables;

/// How often is looked.
const LOOK: Duration = Duration::from_millis(100);

impl System {
    /// Waits until every accepted passage is counted (or rejected, or booked as lost) and every
    /// counted one is stored.
    ///
    /// # Errors
    /// They are not within the limit; the text holds what is there and the logs' last lines.
    pub async fn settled(&self, wanted: u64, within: Duration) -> Result<(), SystemError> {
        let deadline = tokio::time::Instant::now() + within;
        loop {
            let database = self.database().await?;
            let found = tables::totals(database.client()).await?;
            let decided = found.counted + found.rejected + found.lost;
            if decided >= wanted && found.stored >= found.counted {
                return Ok(());
            }
            if tokio::time::Instant::now() >= deadline {
                let logs = self.log_tails();
                return Err(SystemError::NotSettled {
                    wanted,
                    found,
                    within,
                    logs,
                });
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until `look` has nothing more to say about what is not yet so.
    ///
    /// # Errors
    /// It still has after the limit, or cannot look.
    pub async fn until(
        &self,
        name: &str,
        within: Duration,
        look: impl AsyncFn() -> Result<Option<String>, SystemError>,
    ) -> Result<(), SystemError> {
        let deadline = tokio::time::Instant::now() + within;
        while let Some(answer) = look().await? {
            if tokio::time::Instant::now() >= deadline {
                return Err(SystemError::NotReady {
                    name: name.to_owned(),
                    within,
                    answer,
                    log: self.log_tails(),
                });
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }
}
