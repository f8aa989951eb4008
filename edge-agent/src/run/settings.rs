//! From the configuration to what the parts are made of.

use std::path::Path;

use proto::DeviceId;

use super::RunError;
use crate::buffer::BufferSettings;
use crate::config::{BufferConfig, IngestConfig, PlatePolicy, PlatesConfig};
use crate::ingest::http::IngestSettings;
use crate::ingest::plates;

/// Of the file system, the part that passages may take by default…
const DEFAULT_QUOTA_SHARE: u64 = 6;

/// …and the most that it is: weeks of passages. Every chunk costs memory as well, and more wear of
/// flash is for an operator to decide.
const DEFAULT_QUOTA_BYTES_MAX: u64 = 2 * 1024 * 1024 * 1024;

pub(super) fn plate_policy(config: &PlatesConfig) -> Result<plates::PlatePolicy, RunError> {
    let key = config.key_file.as_deref();
    let key = key
        .map(|path| plates::PlateKey::read(path, config.rotation))
        .transpose()?;
    Ok(match (config.policy, key) {
        (Some(PlatePolicy::Keep), _) => plates::PlatePolicy::Kept,
        (Some(PlatePolicy::Hash) | None, Some(key)) => plates::PlatePolicy::Hashed(key),
        (Some(PlatePolicy::Drop), _) => plates::PlatePolicy::Dropped,
        (Some(PlatePolicy::Hash) | None, None) => {
            tracing::warn!("number plates are dropped: neither plates.policy nor a key is set");
            plates::PlatePolicy::Dropped
        }
    })
}

pub(super) fn door_settings(config: &IngestConfig) -> IngestSettings {
    let settings = IngestSettings::default();
    let body_bytes_max = config.body_bytes_max;
    let in_flight_bytes_max = settings.in_flight_bytes_max.max(2 * body_bytes_max);
    IngestSettings {
        body_bytes_max,
        in_flight_bytes_max,
        ..settings
    }
}

pub(super) fn settings(
    device: &DeviceId,
    config: &BufferConfig,
) -> Result<BufferSettings, RunError> {
    Ok(BufferSettings {
        device: device.clone(),
        directory: config.directory.clone(),
        quota_bytes: config
            .quota_bytes
            .map_or_else(|| default_quota(&config.directory), Ok)?,
        free_floor_bytes: config.free_floor_bytes,
        policy: config.policy,
        linger: config.linger(),
        open_timeout: config.open_timeout(),
    })
}

/// A share of the file system on which the folder lies or will lie.
fn default_quota(folder: &Path) -> Result<u64, RunError> {
    let there = folder
        .ancestors()
        .find(|part| part.exists())
        .unwrap_or(folder);
    let measured = rustix::fs::statvfs(there).map_err(|problem| RunError::FileSystem {
        path: folder.to_owned(),
        problem: problem.into(),
    })?;
    Ok(default_share(
        measured.f_blocks.saturating_mul(measured.f_frsize),
    ))
}

/// Of a file system of so many bytes.
fn default_share(bytes: u64) -> u64 {
    (bytes / DEFAULT_QUOTA_SHARE).min(DEFAULT_QUOTA_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_quota_is_a_sixth_of_the_disk_and_two_gibibytes_at_most() {
        const GIB: u64 = 1024 * 1024 * 1024;
        for (disk, quota) in [
            (0, 0),
            (6 * GIB, GIB),
            (12 * GIB, 2 * GIB),
            (99 * GIB, 2 * GIB),
        ] {
            assert_eq!(default_share(disk), quota);
        }
    }
}
