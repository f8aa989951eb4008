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
        let mut books = tables::books(database.client()).await?;
        let posted = ledger.passages();
        if books.accepted < posted {
            let accepted = books.accepted;
            books.wrong.push(format!(
                "{posted} passages were posted, the books know of {accepted}"
            ));
        }
        Ok(Verdict {
            windows,
            rows,
            totals,
            books,
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
    /// What became of everything that units accepted.
    pub books: tables::Books,
}

impl Verdict {
    /// Every window and every raw row is as posted, and the books of every stream add up.
    #[must_use]
    pub fn exact(&self) -> bool {
        self.windows.exact()
            && self.rows.as_ref().is_none_or(Findings::exact)
            && self.books.wrong.is_empty()
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
        writeln!(f, "totals: {:?}", self.totals)?;
        let books = &self.books;
        write!(
            f,
            "books: {} streams, {} accepted = {} counted + {} lost + {} held",
            books.streams, books.accepted, books.counted, books.lost, books.held
        )?;
        let mut wrong = books.wrong.iter();
        wrong.try_for_each(|line| write!(f, "\n  wrong: {line}"))
    }
}
