//! ● What the API says, and how it follows from what the database holds.
//!
//! Of a time in the past the same is said as was said then. Where that is not known, there are no
//! numbers.

pub mod group;
pub mod ledger;
pub mod reason;
pub mod speed;
pub mod unit;
pub mod window;

use serde::Serialize;
use utoipa::ToSchema;

/// How settled a statistic is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// The unit has said that all passages of this time are counted.
    Final,
    /// Changed after it was final, by passages that came later still.
    Revised,
    /// Passages may still be on their way.
    Partial,
}

impl State {
    fn of(revised: bool, settled: bool) -> Self {
        match (revised, settled) {
            (true, _) => Self::Revised,
            (false, true) => Self::Final,
            (false, false) => Self::Partial,
        }
    }
}
