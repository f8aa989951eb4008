//! What the disk alone can do, measured beside what is built on it.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Duration;

use crate::clock;

/// The file of the probe; as large as a program would write ahead before it begins anew.
const FILE_BYTES: usize = 8 * 1_024 * 1_024;

/// Writes and `fdatasync`s per second in this directory, each write this long: the rate at which a
/// program that syncs once per request could answer.
///
/// Writes go one after the other into a file that is there in full, so that no sync has to wait for
/// the file system's journal: the best that a store can do. Blocks for about `span`.
///
/// # Errors
/// As the file system.
pub fn sync_rate(directory: &Path, write_bytes: usize, span: Duration) -> io::Result<f64> {
    let path = directory.join("sync-rate.probe");
    let mut file = File::create(&path)?;
    file.write_all(&vec![0; FILE_BYTES])?;
    file.sync_all()?;
    let block = vec![0x5a; write_bytes];
    let mut at = FILE_BYTES;
    let start = clock::monotonic();
    let mut syncs = 0_u32;
    while start.elapsed() < span {
        if at + write_bytes > FILE_BYTES {
            file.seek(SeekFrom::Start(0))?;
            at = 0;
        }
        file.write_all(&block)?;
        at += write_bytes;
        file.sync_data()?;
        syncs += 1;
    }
    let rate = f64::from(syncs) / start.elapsed().as_secs_f64();
    drop(file);
    std::fs::remove_file(path)?;
    Ok(rate)
}
