//! What a unit declares as lost, so that nothing vanishes silently.

use serde::{Deserialize, Serialize};

use crate::limits::LOSSES_MAX;
use crate::passage::EventTime;
use crate::ranges::SeqRange;

/// The body of a `Loss` frame: losses of the header's stream, repeated until a receipt lists them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Losses {
    /// At least one, at most [`LOSSES_MAX`].
    pub losses: Vec<Loss>,
}

/// A lost range with its reason, its count and its span of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// Which numbers.
    pub range: SeqRange,
    /// What is lost of them.
    pub scope: LossScope,
    /// Why.
    pub reason: LossReason,
    /// The least event time of the lost passages, where it is known.
    pub event_min: Option<EventTime>,
    /// The greatest event time of the lost passages, where it is known.
    pub event_max: Option<EventTime>,
}

/// What is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum LossScope {
    /// The passages are in no window and in no table.
    All,
    /// The windows have them; only the raw rows are lost.
    RawOnly,
}

impl LossScope {
    /// The word for it in the ledger and in answers.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::RawOnly => "raw_only",
        }
    }
}

/// Why a range was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum LossReason {
    /// The buffer was full and its policy drops the oldest.
    Quota,
    /// The buffer's medium returned something else than was written.
    Corrupt,
    /// The centre refused it for ever.
    Refused,
    /// An operator took it out.
    Operator,
}

impl LossReason {
    /// The word for it in the ledger and in answers.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Quota => "quota",
            Self::Corrupt => "corrupt",
            Self::Refused => "refused",
            Self::Operator => "operator",
        }
    }
}

/// A declaration that says nothing or too much.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("loss message lists {0} losses, allowed are 1 to {LOSSES_MAX}")]
pub struct LossesError(usize);

impl Losses {
    /// Whether its size is allowed.
    ///
    /// # Errors
    /// When it is empty or too long.
    pub fn check(&self) -> Result<(), LossesError> {
        let count = self.losses.len();
        if count == 0 || count > LOSSES_MAX {
            Err(LossesError(count))
        } else {
            Ok(())
        }
    }
}
