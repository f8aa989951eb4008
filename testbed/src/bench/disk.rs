//! What the disk alone can do, measured beside what is built on it.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use crate::clock;

/// Appends and `fdatasync`s per second in this directory, each append this long: the rate at which
/// a program that syncs once per request could answer.
///
/// Blocks for about `span`.
///
/// # Errors
/// As the file system.
pub fn sync_rate(directory: &Path, append_bytes: usize, span: Duration) -> io::Result<f64> {
    let path = directory.join("sync-rate.probe");
    let mut file = File::create(&path)?;
    let block = vec![0x5a; append_bytes];
    let start = clock::monotonic();
    let mut syncs = 0_u32;
    while start.elapsed() < span {
        file.write_all(&block)?;
        file.sync_data()?;
        syncs += 1;
    }
    let rate = f64::from(syncs) / start.elapsed().as_secs_f64();
    drop(file);
    std::fs::remove_file(path)?;
    Ok(rate)
}
