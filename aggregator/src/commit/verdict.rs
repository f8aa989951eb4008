//! What to do next after the database failed. Pure.
//!
//! PostgreSQL documentation, appendix A, "PostgreSQL Error Codes".

use tokio_postgres::error::SqlState;

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// The outcome may be unknown: raise the token, reconnect, load again, then go on.
    Reconnect,
    /// Rolled back for a reason that passes: plan again at once.
    Again,
    /// Some value cannot be stored: find the message and refuse it, commit the rest.
    Bisect,
    /// Nothing can be stored until an operator or time has helped: close intake, try again later.
    Close,
}

/// Sorts an error by its SQLSTATE; none means that the connection itself failed.
#[must_use]
pub fn next(code: Option<&SqlState>) -> Next {
    let Some(code) = code.map(SqlState::code) else {
        return Next::Reconnect;
    };
    match code {
        // Deadlock, serialization failure, lock not available in time.
        "40001" | "40P01" | "55P03" => Next::Again,
        // Shutdown, crash, dropped database, idle timeouts, statement cancelled.
        _ if code.starts_with("57P") || code.starts_with("08") || code.starts_with("25P") => {
            Next::Reconnect
        }
        "57014" | "40003" => Next::Reconnect,
        // A server in recovery or a standby.
        "25006" => Next::Reconnect,
        _ if code.starts_with("22") || code.starts_with("23") => Next::Bisect,
        // Disk full, out of memory, too many connections; missing tables, columns, rights; the rest.
        _ => Next::Close,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_has_its_next_step() {
        for (code, expected) in [
            ("40001", Next::Again),
            ("40P01", Next::Again),
            ("55P03", Next::Again),
            ("57P01", Next::Reconnect),
            ("57P02", Next::Reconnect),
            ("57P03", Next::Reconnect),
            ("08006", Next::Reconnect),
            ("25P03", Next::Reconnect),
            ("57014", Next::Reconnect),
            ("22P05", Next::Bisect),
            ("22003", Next::Bisect),
            ("23514", Next::Bisect),
            ("53100", Next::Close),
            ("53300", Next::Close),
            ("42P01", Next::Close),
            ("42703", Next::Close),
            ("42501", Next::Close),
            ("XX000", Next::Close),
        ] {
            assert_eq!(next(Some(&SqlState::from_code(code))), expected, "{code}");
        }
        assert_eq!(next(None), Next::Reconnect);
    }
}
