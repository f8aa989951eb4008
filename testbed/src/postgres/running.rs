//! What a running server says of itself: its status file, and the kernel's list of processes.

use std::path::Path;

/// `postmaster.pid`: line 1 the process, line 8 `ready` (of a replica: `standby`) once connections are
/// taken.
pub(super) fn is_ready(status_file: &Path, id: u32) -> bool {
    let text = std::fs::read_to_string(status_file).unwrap_or_default();
    let mut lines = text.lines();
    let ours = lines
        .next()
        .is_some_and(|line| line.trim() == id.to_string());
    ours && lines
        .nth(6)
        .is_some_and(|line| ["ready", "standby"].contains(&line.trim()))
}

/// `postmaster.pid`: line 7 holds key and number of the System V segment.
pub(super) fn shared_segment(status_file: &Path) -> Option<String> {
    let text = std::fs::read_to_string(status_file).ok()?;
    Some(text.lines().nth(6)?.split_whitespace().nth(1)?.to_owned())
}

/// The processes whose parent is `parent`.
pub(super) fn children_of(parent: u32) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc")
        .ok()
        .into_iter()
        .flatten()
        .flatten();
    entries
        .filter_map(|entry| {
            let id: u32 = entry.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            // "id (name) state parent …", and the name may hold anything.
            let after_name = stat.rsplit_once(')')?.1;
            let its_parent: u32 = after_name.split_whitespace().nth(1)?.parse().ok()?;
            (its_parent == parent).then_some(id)
        })
        .collect()
}
