//! ● What happened, line by line. The same seed writes the same bytes.

use std::fmt::{Arguments, Write as _};

use super::queue::Millis;

/// The lines of a run, where somebody wants them.
#[derive(Debug, Default)]
pub(super) struct Trace {
    text: Option<String>,
}

impl Trace {
    pub(super) fn new(wanted: bool) -> Self {
        Self {
            text: wanted.then(String::new),
        }
    }

    pub(super) fn line(&mut self, now: Millis, line: Arguments<'_>) {
        if let Some(text) = &mut self.text {
            // Writing to a String cannot fail.
            writeln!(text, "{:>6}.{:03} {line}", now / 1_000, now % 1_000).ok();
        }
    }

    pub(super) fn into_text(self) -> String {
        self.text.unwrap_or_default()
    }
}
