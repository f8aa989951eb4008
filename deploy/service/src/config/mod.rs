//! Configuration: one TOML file, overridden by the environment, all faults named at once.
//!
//! The way of a setting: file → `document` (a tree that remembers lines) → environment overrides →
//! typed struct (serde, `deny_unknown_fields`) → [`Validate`]. What serde refuses is noted, taken out
//! of the tree and the rest tried again, so that one run shows every fault.
//!
//! Invariants: a fault names `file:line` or the environment variable it comes from; the value of a
//! secret key never appears in one; nothing is returned unless everything is sound.

mod document;
mod faults;
mod typed;

use std::path::Path;

use serde::de::DeserializeOwned;

pub use faults::{ConfigFaults, Fault, LocatedFault};

use document::Document;

/// Checks beyond the types: ranges, and settings that must agree with each other.
pub trait Validate {
    /// Everything that is wrong, each with the dotted key it is about (`uplink.broker`,
    /// `listen[1].port`). Empty when sound.
    fn faults(&self) -> Vec<Fault>;
}

/// Reads the file, applies overrides from the process's environment, and checks everything.
///
/// `env_prefix` is, say, `VERST_AGENT`; then `VERST_AGENT__UPLINK__BROKER=…` overrides
/// `uplink.broker`. Its value is read as TOML, otherwise as text.
///
/// # Errors
/// All faults found.
pub fn load<T: DeserializeOwned + Validate>(
    path: &Path,
    env_prefix: &str,
) -> Result<T, ConfigFaults> {
    let text =
        std::fs::read_to_string(path).map_err(|error| ConfigFaults::unreadable(path, &error))?;
    let environment = std::env::vars_os().filter_map(|(name, value)| {
        Some((
            name.into_string().ok()?,
            value.to_string_lossy().into_owned(),
        ))
    });
    parse(path, &text, env_prefix, environment)
}

/// The same over a text and an environment at hand; `path` is only named in faults.
///
/// # Errors
/// All faults found.
pub fn parse<T: DeserializeOwned + Validate>(
    path: &Path,
    text: &str,
    env_prefix: &str,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<T, ConfigFaults> {
    let (mut document, mut faults) = Document::parse(text);
    document.override_from(env_prefix, environment, &mut faults);
    let settings = typed::read::<T>(&mut document, &mut faults);
    if let Some(settings) = settings {
        let found = settings.faults();
        if faults.is_empty() && found.is_empty() {
            return Ok(settings);
        }
        let real = found
            .into_iter()
            .filter(|fault| !document.is_stand_in(&fault.key));
        faults.extend(real.map(|fault| document.locate(fault)));
    }
    Err(ConfigFaults::new(path, faults))
}

#[cfg(test)]
mod tests;
