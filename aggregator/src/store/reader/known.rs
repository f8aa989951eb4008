//! ● Windows as they were read, and what the API said of them.
//!
//! A window in memory is shared by all answers that hold it. Its text in them is made once for each
//! way in which it stands: for a day of a unit that took as long as everything else in its answer.

use std::sync::{Arc, PoisonError, RwLock};

use proto::passage::Speed;
use serde_json::value::RawValue;

use super::{Sums, Totals};

/// One window of the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WindowRow {
    /// Its first instant, ms since 1970.
    pub start_ms: i64,
    /// Its sums.
    pub sums: Sums,
    /// The median speed.
    pub p50: Option<Speed>,
    /// The speed that 85 % do not exceed.
    pub p85: Option<Speed>,
    /// Changed after it was final.
    pub revised: bool,
    /// How many times it was written.
    pub revision: i32,
}

/// A window, with what was said of it last.
#[derive(Debug)]
pub struct KnownWindow {
    /// The window.
    pub row: WindowRow,
    said: RwLock<Option<(Manner, Arc<RawValue>)>>,
}

/// What a text depends on besides the window, in as many bits as whoever makes it needs.
pub type Manner = u16;

impl KnownWindow {
    /// Of which nothing was said yet.
    #[must_use]
    pub fn new(row: WindowRow) -> Arc<Self> {
        let said = RwLock::default();
        Arc::new(Self { row, said })
    }

    /// What was said of it in this manner, or is said now. It must follow from both alone.
    ///
    /// # Errors
    /// Those of `say`.
    pub fn said<E>(
        &self,
        manner: Manner,
        say: impl FnOnce(&WindowRow) -> Result<Box<RawValue>, E>,
    ) -> Result<Arc<RawValue>, E> {
        {
            let said = self.said.read().unwrap_or_else(PoisonError::into_inner);
            if let Some((of, text)) = &*said
                && *of == manner
            {
                return Ok(Arc::clone(text));
            }
        }
        let text: Arc<RawValue> = say(&self.row)?.into();
        let mut said = self.said.write().unwrap_or_else(PoisonError::into_inner);
        *said = Some((manner, Arc::clone(&text)));
        Ok(text)
    }
}

impl PartialEq for KnownWindow {
    fn eq(&self, other: &Self) -> bool {
        self.row == other.row
    }
}

impl Eq for KnownWindow {}

/// Windows by ascending start, with their totals.
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    pub(super) windows: Vec<Arc<KnownWindow>>,
    pub(super) totals: Totals,
}

impl Known {
    /// Adds a window that starts after all others.
    pub(super) fn add(&mut self, window: Arc<KnownWindow>, totals: &Totals) {
        self.windows.push(window);
        self.totals.merge(totals);
    }
}
