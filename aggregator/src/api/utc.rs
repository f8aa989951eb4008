//! ● Instants as the API speaks them: RFC 3339 in, UTC with `Z` out, whole milliseconds.

use std::fmt;

use jiff::Timestamp;
use serde::{Serialize, Serializer};

/// Milliseconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Utc(i64);

/// A text that is not an instant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not an RFC 3339 time with offset, such as 2025-04-05T10:15:00Z or \
     2025-04-05T13:15:00+03:00"
)]
pub struct UtcError(String);

/// How much of a wrong text an error repeats.
const SHOWN_CHARS_MAX: usize = 64;

impl Utc {
    /// From milliseconds since 1970.
    #[must_use]
    pub const fn from_millis(ms: i64) -> Self {
        Self(ms)
    }

    /// Milliseconds since 1970.
    #[must_use]
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// Reads RFC 3339 with an offset. A finer fraction is rounded up, so that "not before" keeps its
    /// meaning for instants of whole milliseconds.
    ///
    /// A `+` that a client forgot to escape in a URL arrives as a space; before the offset it is
    /// taken for what it was.
    ///
    /// # Errors
    /// For every other text, local times without offset among them.
    pub fn parse(text: &str) -> Result<Self, UtcError> {
        let wrong = || UtcError(text.chars().take(SHOWN_CHARS_MAX).collect());
        let bytes = text.as_bytes();
        // The date and the time of day in their fixed places, then only fraction and offset: jiff
        // alone reads all of ISO 8601 and time zone names as well.
        let separators = [(4, b'-'), (7, b'-'), (13, b':'), (16, b':')];
        let has_form = bytes.len() >= "2025-04-05T10:15:00Z".len()
            && separators
                .iter()
                .all(|(place, mark)| bytes[*place] == *mark)
            && matches!(bytes[10], b'T' | b't' | b' ')
            && bytes[19..]
                .iter()
                .all(|byte| b"0123456789.:+-Zz ".contains(byte));
        if !has_form {
            return Err(wrong());
        }
        let sign = bytes.len() - "+03:00".len();
        let instant = if sign >= 19 && bytes[sign] == b' ' {
            let (time, offset) = text.split_at(sign);
            format!("{time}+{}", offset.trim_start()).parse::<Timestamp>()
        } else {
            text.parse::<Timestamp>()
        };
        let instant = instant.map_err(|_| wrong())?;
        let (ms, finer_ns) = (
            instant.as_millisecond(),
            instant.subsec_nanosecond() % 1_000_000,
        );
        Ok(Self(if finer_ns > 0 { ms + 1 } else { ms }))
    }
}

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Timestamp::from_millisecond(self.0) {
            Ok(instant) => instant.fmt(f),
            Err(_) => write!(f, "{} ms", self.0),
        }
    }
}

impl Serialize for Utc {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_instant_in_any_offset_is_one_value() {
        for text in [
            "2025-04-05T10:15:30Z",
            "2025-04-05t10:15:30z",
            "2025-04-05 10:15:30Z",
            "2025-04-05T13:15:30+03:00",
            "2025-04-05T13:15:30 03:00",
            "2025-04-05T04:45:30-05:30",
            "2025-04-05T10:15:30.000Z",
            "2025-04-05T10:15:29.9990001Z",
        ] {
            assert_eq!(
                Utc::parse(text).unwrap().to_string(),
                "2025-04-05T10:15:30Z",
                "{text}"
            );
        }
    }

    #[test]
    fn a_finer_fraction_is_rounded_up() {
        let before_1970 = Utc::parse("1969-12-31T23:59:59.9985Z").unwrap();
        assert_eq!(before_1970.as_millis(), -1);
        assert_eq!(
            Utc::parse("1970-01-01T00:00:00.0000001Z")
                .unwrap()
                .as_millis(),
            1
        );
        assert_eq!(
            Utc::parse("1970-01-01T00:00:00.001Z").unwrap().as_millis(),
            1
        );
    }

    #[test]
    fn what_is_not_rfc_3339_with_an_offset_is_refused() {
        for text in [
            "",
            "now",
            "1743848130",
            "2025-04-05",
            "2025-04-05T10:15:30",
            "2025-04-05T10:15Z",
            "20250405T101530Z",
            "2025-04-05T10:15:30+03:00[Europe/Moscow]",
            "2025-13-05T10:15:30Z",
            "2025-02-29T10:15:30Z",
            "2025-04-05T25:15:30Z",
            "2025-04-05T10:15:30Z' OR '1'='1",
            "2025-04-05T10:15:30é",
            "+002025-04-05T10:15:30Z",
        ] {
            assert!(Utc::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_error_repeats_only_the_beginning_of_a_long_text() {
        let error = Utc::parse(&"x".repeat(10_000)).unwrap_err().to_string();
        assert!(error.len() < 250, "{error}");
    }
}
