//! A small file system that can be filled to the last byte: a tmpfs of its own.
//!
//! Needs the right to mount, so root. It is gone with its value; when this process is killed, the
//! guard of the working directory in which it lies ([`crate::workdir`]) unmounts it.

use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::io::Errno;

use crate::process::{Launch, RunError};
use crate::workdir::WorkDir;

/// What takes up the room.
const FILLER: &str = "filler";
/// Files grow and shrink while the disk is being filled; after so many rounds it is full.
const ROUNDS: usize = 32;

/// No such disk.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// Not allowed, or no tmpfs.
    #[error("small disks need the right to mount: {0}")]
    Mount(#[from] RunError),
    /// A file.
    #[error("small disk: {0}")]
    Io(#[from] io::Error),
}

/// Mounted until dropped.
#[derive(Debug)]
pub struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// Whether this process may mount; tries it.
    ///
    /// # Errors
    /// Why not.
    pub fn probe() -> Result<(), DiskError> {
        let home = WorkDir::new("disk")?;
        Self::mount(&home.path().join("probe"), 1 << 20, None).map(drop)
    }

    /// Of so many bytes, at a path that is made for it, belonging to this user and group.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn mount(path: &Path, bytes: u64, owner: Option<(u32, u32)>) -> Result<Self, DiskError> {
        std::fs::create_dir_all(path)?;
        let (user, group) = owner.unwrap_or_else(|| {
            let id = rustix::process::geteuid().as_raw();
            (id, rustix::process::getegid().as_raw())
        });
        let options = format!("size={bytes},mode=0700,uid={user},gid={group}");
        Launch::new("mount", "mount", "/dev/null")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(path)
            .run()?;
        let path = path.to_owned();
        Ok(Self { path })
    }

    /// Takes all room that is left.
    ///
    /// # Errors
    /// Anything but that the disk is full.
    pub fn fill(&self) -> io::Result<()> {
        let filler = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path.join(FILLER))?;
        for _ in 0..ROUNDS {
            let free = self.free_bytes()?;
            if free == 0 {
                break;
            }
            let taken = filler.metadata()?.len();
            match fallocate(&filler, FallocateFlags::empty(), taken, free) {
                // Somebody was quicker: what is left now?
                Ok(()) | Err(Errno::NOSPC) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Gives the room back.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub fn clear(&self) -> io::Result<()> {
        match std::fs::remove_file(self.path.join(FILLER)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Bytes that nobody has taken.
    ///
    /// # Errors
    /// It is not mounted any more.
    pub fn free_bytes(&self) -> io::Result<u64> {
        let state = statvfs(&self.path)?;
        Ok(state.f_bavail * state.f_frsize)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process that has just been killed may still hold a file of it.
        let unmount = Launch::new("umount", "umount", "/dev/null").arg("-l");
        if let Err(error) = unmount.arg(&self.path).run() {
            tracing::warn!(path = %self.path.display(), %error, "left to the guard of its directory");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_full_disk_takes_no_byte_until_it_is_cleared_and_is_gone_in_the_end() {
        let home = WorkDir::new("disk-test").expect("a directory");
        let path = home.path().join("small");
        let disk = match SmallDisk::mount(&path, 1 << 20, None) {
            Ok(disk) => disk,
            Err(error) => return println!("skipped: {error}"),
        };
        let mut file = std::fs::File::create(path.join("victim")).expect("room");
        disk.fill().expect("filled");
        let refused = file.write_all(&[1; 8_192]).expect_err("full");
        assert_eq!(refused.kind(), io::ErrorKind::StorageFull);
        disk.clear().expect("cleared");
        file.write_all(&[1; 8_192]).expect("room again");
        drop((file, disk));
        let mounts = std::fs::read_to_string("/proc/mounts").expect("readable");
        assert!(!mounts.contains(&*path.to_string_lossy()), "{mounts}");
    }
}
