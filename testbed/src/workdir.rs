//! A temporary directory that vanishes with this process, even when the process is killed.
//!
//! A destructor does not run after SIGKILL. So a guard, a small shell process, holds the reading end
//! of a pipe: when this process ends in whatever way, the pipe closes and the guard unmounts what is
//! mounted in the directory and removes it. It tries for a few seconds, because processes that die
//! together with us may still be writing.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const GUARD: &str = r#"
cat >/dev/null
i=0
while [ -e "$1" ] && [ "$i" -lt 100 ]; do
    awk -v home="$1/" 'index($2, home) == 1 { print $2 }' /proc/mounts | while read -r mounted; do
        umount -l "$mounted"
    done
    rm -rf -- "$1" && exit
    i=$((i + 1))
    sleep 0.1
done
"#;

/// A directory under `$TMPDIR`, removed when this value is dropped or the process ends.
#[derive(Debug)]
pub struct WorkDir {
    path: PathBuf,
    guard: Child,
}

impl WorkDir {
    /// Makes the directory; its name begins with `verst-` and `what`.
    ///
    /// # Errors
    /// The directory or the guard process cannot be made.
    pub fn new(what: &str) -> io::Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix(&format!("verst-{what}-"))
            .tempdir()?;
        // Others may pass through, since the database runs under another account than root.
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755))?;
        let guard = Command::new("sh")
            .args(["-c", GUARD, "verst-guard"])
            .arg(directory.path())
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Out of the reach of a Ctrl-C in the terminal, which ends this process first.
            .process_group(0)
            .spawn()?;
        Ok(Self {
            path: directory.keep(),
            guard,
        })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        if let Err(error) = self.guard.wait() {
            tracing::warn!(path = %self.path.display(), %error, "directory may be left behind");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_directory_is_gone_with_its_content() {
        let directory = WorkDir::new("test").expect("a directory");
        let path = directory.path().to_owned();
        std::fs::create_dir(path.join("inner")).expect("writable");
        std::fs::write(path.join("inner/file"), b"content").expect("writable");
        drop(directory);
        assert!(!path.exists(), "{} is still there", path.display());
    }
}
