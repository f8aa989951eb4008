//! The comparison of everything that the database holds with what was posted.

use super::{System, SystemError};
use crate::recompute::{Findings, Ledger, database as tables};

impl System {
    /// Compares every window and every raw row with the ledger.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn judge(&self, ledger: &Ledger) -> Result<Verdict, SystemError> {
        let database = self.database().await?;
        let (found, percentiles) = tables::windows(database.client()).await?;
        let mut windows = ledger.compare_windows(&found);
        // A wrong percentile is a wrong window.
        windows.wrong += percentiles.wrong;
        windows.quoted.extend(percentiles.quoted);
        let rows = if ledger.keeps_rows() {
            ledger.compare_rows(&tables::rows(database.client()).await?)
        } else {
            None
        };
        let totals = tables::totals(database.client()).await?;
        Ok(Verdict {
            windows,
            rows,
            totals,
        })
    }
}

/// What a comparison of the whole database with the ledger found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Windows of all lengths, with their percentiles.
    pub windows: Findings,
    /// Raw rows; none where the ledger keeps windows alone.
    pub rows: Option<Findings>,
    /// What the tables hold in total.
    pub totals: tables::Totals,
}

impl Verdict {
    /// Every window and every raw row is as posted.
    #[must_use]
    pub fn exact(&self) -> bool {
        self.windows.exact() && self.rows.as_ref().is_none_or(Findings::exact)
    }

    /// Raw rows that differ.
    #[must_use]
    pub fn rows_wrong(&self) -> u64 {
        self.rows.as_ref().map_or(0, |rows| rows.wrong)
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "windows: {}", self.windows)?;
        if let Some(rows) = &self.rows {
            writeln!(f, "raw rows: {rows}")?;
        }
        write!(f, "totals: {:?}", self.totals)
    }
}
