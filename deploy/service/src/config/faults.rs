//! Faults of a configuration, and how they are shown.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Something wrong with one setting, as a [`super::Validate`] finds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The dotted key: `uplink.broker`.
    pub key: String,
    /// What is wrong: value, limit, next step. Must not quote a secret.
    pub problem: String,
}

impl Fault {
    /// A fault of `key`.
    #[must_use]
    pub fn new(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            problem: problem.into(),
        }
    }
}

/// Where a setting was made.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Origin {
    /// Nowhere: it has its default.
    Default,
    /// On this line of the file, counted from 1.
    Line(usize),
    /// In this environment variable.
    Variable(String),
}

/// A fault and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocatedFault {
    pub(super) origin: Origin,
    pub(super) fault: Fault,
}

impl LocatedFault {
    /// The line in the file, counted from 1; none for a default or an environment variable.
    #[must_use]
    pub fn line(&self) -> Option<usize> {
        match self.origin {
            Origin::Line(line) => Some(line),
            Origin::Default | Origin::Variable(_) => None,
        }
    }

    /// The environment variable that made the setting.
    #[must_use]
    pub fn variable(&self) -> Option<&str> {
        match &self.origin {
            Origin::Variable(name) => Some(name),
            Origin::Default | Origin::Line(_) => None,
        }
    }

    /// The dotted key; empty when the text could not be read that far.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.fault.key
    }

    /// What is wrong.
    #[must_use]
    pub fn problem(&self) -> &str {
        &self.fault.problem
    }
}

/// All faults of a configuration, in the order of the file; never empty.
///
/// Shown one a line: `file:line: key: problem`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFaults {
    path: PathBuf,
    faults: Vec<LocatedFault>,
}

impl ConfigFaults {
    pub(super) fn new(path: &Path, mut faults: Vec<LocatedFault>) -> Self {
        for located in &mut faults {
            located.fault.problem = without_logins(&located.fault.problem);
        }
        faults.sort_by(|a, b| a.origin.cmp(&b.origin));
        faults.dedup();
        Self {
            path: path.to_owned(),
            faults,
        }
    }

    pub(super) fn unreadable(path: &Path, error: &io::Error) -> Self {
        let next = match error.kind() {
            io::ErrorKind::NotFound => "create it, or name another file with --config",
            io::ErrorKind::PermissionDenied => "let the program's account read it",
            io::ErrorKind::InvalidData => "save it as UTF-8 text",
            _ => "check the path",
        };
        let problem = format!("cannot be read: {error}; {next}");
        Self::new(
            path,
            vec![LocatedFault {
                origin: Origin::Default,
                fault: Fault::new("", problem),
            }],
        )
    }

    /// The faults.
    #[must_use]
    pub fn faults(&self) -> &[LocatedFault] {
        &self.faults
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The text without what may be a name and a password in it: all of a quoted value up to its last
/// `@`. A URL with a login is easily written where only an address belongs.
fn without_logins(problem: &str) -> String {
    let mut shown = String::with_capacity(problem.len());
    let mut rest = problem;
    while let Some(at) = rest.find('@') {
        let start = quotes(&rest[..at]).last().map_or(0, |place| place + 1);
        let end = quotes(&rest[at..])
            .next()
            .map_or(rest.len(), |place| at + place);
        let last = rest[..end].rfind('@').unwrap_or(at);
        shown.push_str(&rest[..start]);
        shown.push_str("[not shown]");
        shown.push_str(&rest[last..end]);
        rest = &rest[end..];
    }
    shown.push_str(rest);
    shown
}

/// Where quoted values begin and end; a quote within one is escaped.
fn quotes(text: &str) -> impl Iterator<Item = usize> {
    let quotes = text.match_indices('"').map(|(place, _)| place);
    quotes.filter(|place| !text[..*place].ends_with('\\'))
}

impl fmt::Display for ConfigFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.path.display();
        for (index, LocatedFault { origin, fault }) in self.faults.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            match origin {
                Origin::Line(line) => write!(f, "{file}:{line}: ")?,
                Origin::Variable(name) => write!(f, "{name}: ")?,
                Origin::Default => write!(f, "{file}: ")?,
            }
            if !fault.key.is_empty() {
                write!(f, "{}: ", fault.key)?;
            }
            f.write_str(&fault.problem)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigFaults {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_in_a_quoted_value_is_not_shown() {
        for (problem, shown) in [
            ("\"db:x\" is not host:port", "\"db:x\" is not host:port"),
            (
                r#""kv1:mel\"lon@a@db:x" is not host:port, "kv1:mellon@b" neither"#,
                r#""[not shown]@db:x" is not host:port, "[not shown]@b" neither"#,
            ),
            ("expected x, found kv1:mellon@db", "[not shown]@db"),
        ] {
            assert_eq!(without_logins(problem), shown, "{problem}");
        }
    }
}
