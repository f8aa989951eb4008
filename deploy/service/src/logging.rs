//! Logs to standard error: text for people and the journal, JSON lines for collectors.
//!
//! Levels: ERROR = data lost or an operator must act; WARN = degraded, heals by itself; INFO = a
//! change of state. No line per passage.

use std::io::IsTerminal;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One readable line, coloured on a terminal.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// A name that is no [`LogFormat`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("log format {0:?} is unknown: use text or json")]
pub struct UnknownLogFormat(String);

impl FromStr for LogFormat {
    type Err = UnknownLogFormat;

    fn from_str(name: &str) -> Result<Self, UnknownLogFormat> {
        match name {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(UnknownLogFormat(other.to_owned())),
        }
    }
}

/// Logging that could not begin.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The level is not understood.
    #[error(
        "log level {level:?} is not understood ({problem}): use error, warn, info, debug, trace, \
         or directives such as info,broker::gate=debug"
    )]
    Level {
        /// What was asked for.
        level: String,
        /// What is wrong with it.
        problem: String,
    },
    /// [`init`] was called before.
    #[error("logging is already set up in this process")]
    Twice,
}

/// Says whether [`init`] will accept `level`, for `Validate` implementations.
///
/// # Errors
/// [`LoggingError::Level`].
pub fn check_level(level: &str) -> Result<(), LoggingError> {
    filter(level).map(|_| ())
}

/// Starts logging to standard error for the whole process.
///
/// `level`: `error` to `trace`, or directives per module (`info,rumqttd=warn`).
///
/// # Errors
/// When the level is not understood, or on a second call.
pub fn init(format: LogFormat, level: &str) -> Result<(), LoggingError> {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter(level)?)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let begun = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    begun.map_err(|_| LoggingError::Twice)
}

fn filter(level: &str) -> Result<EnvFilter, LoggingError> {
    let refuse = |problem: String| LoggingError::Level {
        level: level.to_owned(),
        problem,
    };
    if level.trim().is_empty() {
        return Err(refuse("it is empty".to_owned()));
    }
    // A lone word that is no level would be taken for a module's name, and silence everything.
    if !level.contains(['=', ',', '['])
        && tracing::level_filters::LevelFilter::from_str(level).is_err()
    {
        return Err(refuse("no such level".to_owned()));
    }
    EnvFilter::builder()
        .parse(level)
        .map_err(|error| refuse(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_directives_are_understood() {
        for level in [
            "error",
            "WARN",
            "info",
            "debug",
            "trace",
            "off",
            "info,broker::gate=debug",
        ] {
            assert!(check_level(level).is_ok(), "{level}");
        }
    }

    #[test]
    fn a_misspelt_level_is_a_fault_and_not_silence() {
        for level in ["", " ", "verbose", "info,broker=loud"] {
            let fault = check_level(level).unwrap_err().to_string();
            assert!(
                fault.contains("use error, warn, info"),
                "{level:?}: {fault}"
            );
        }
    }

    #[test]
    fn formats_are_named_text_and_json() {
        assert_eq!("text".parse(), Ok(LogFormat::Text));
        assert_eq!("json".parse(), Ok(LogFormat::Json));
        let fault = "xml".parse::<LogFormat>().unwrap_err().to_string();
        assert_eq!(fault, "log format \"xml\" is unknown: use text or json");
    }
}
