//! What processes cost, from `/proc`: CPU time and resident memory.

use std::fs;
use std::io;
use std::time::Duration;

/// CPU time that one process has used, and that of its children that have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Usage {
    own_ticks: u64,
    ended_children_ticks: u64,
}

/// CPU time of one process so far.
///
/// # Errors
/// When there is no such process.
pub fn cpu_time(pid: u32) -> io::Result<Duration> {
    Ok(to_duration(stat(pid)?.1.own_ticks))
}

/// CPU time so far of a process and all below it, those that have ended included.
///
/// # Errors
/// When there is no such process.
pub fn tree_cpu_time(root: u32) -> io::Result<Duration> {
    let root_usage = stat(root)?.1;
    let mut ticks = root_usage.own_ticks + root_usage.ended_children_ticks;
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // One that ends between the listing and the look is counted by its parent next time.
        if let Ok((parent, usage)) = stat(pid)
            && parent == root
        {
            ticks += usage.own_ticks + usage.ended_children_ticks;
        }
    }
    Ok(to_duration(ticks))
}

/// Forgets the greatest resident memory of a process, so that it begins anew from what it is now.
///
/// # Errors
/// When there is no such process, or it is another user's.
pub fn reset_peak_resident(pid: u32) -> io::Result<()> {
    // proc_pid_clear_refs(5): "Reset the peak resident set size".
    fs::write(format!("/proc/{pid}/clear_refs"), "5")
}

/// The greatest resident memory of a process since its start or the last reset, in bytes; the
/// kernel's own high-water mark, so that no moment is missed.
///
/// # Errors
/// When there is no such process.
pub fn peak_resident_bytes(pid: u32) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    parse_kib(&status, "VmHWM:")
        .map(|kib| kib * 1_024)
        .ok_or_else(|| malformed("status"))
}

/// The resident memory of a process now, in bytes.
///
/// # Errors
/// When there is no such process.
pub fn resident_bytes(pid: u32) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    parse_kib(&status, "VmRSS:")
        .map(|kib| kib * 1_024)
        .ok_or_else(|| malformed("status"))
}

fn parse_kib(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

fn stat(pid: u32) -> io::Result<(u32, Usage)> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat"))?).ok_or_else(|| malformed("stat"))
}

/// Parent and usage, from a line as proc_pid_stat(5) describes it. The name in parentheses may
/// contain anything, so fields are counted from its end.
fn parse_stat(line: &str) -> Option<(u32, Usage)> {
    let (_, fields) = line.rsplit_once(") ")?;
    let fields: Vec<&str> = fields.split(' ').collect();
    // The first of these is the third of the manual page.
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let usage = Usage {
        own_ticks: field(14)? + field(15)?,
        ended_children_ticks: field(16)? + field(17)?,
    };
    Some((u32::try_from(field(4)?).ok()?, usage))
}

fn to_duration(ticks: u64) -> Duration {
    let per_s = rustix::param::clock_ticks_per_second();
    Duration::from_nanos(ticks.saturating_mul(1_000_000_000 / per_s.max(1)))
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("/proc/PID/{what} is malformed"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let line = "42 (a) b (c)) S 7 1 1 0 -1 4194560 1 2 3 4 100 20 30 4 20 0 1 0 5 6 7";
        let usage = Usage {
            own_ticks: 120,
            ended_children_ticks: 34,
        };
        assert_eq!(parse_stat(line), Some((7, usage)));
        assert_eq!(parse_stat("42 (a) S 7"), None);
    }

    #[test]
    fn the_peak_is_read_in_bytes() {
        assert_eq!(
            parse_kib("Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t 1 kB\n", "VmHWM:"),
            Some(2_048)
        );
        assert_eq!(parse_kib("Name:\tx\n", "VmHWM:"), None);
    }

    #[test]
    fn this_process_has_memory_and_a_tree_costs_no_less_than_its_root() {
        let own = std::process::id();
        assert!(peak_resident_bytes(own).unwrap() > 100_000);
        let root = cpu_time(own).unwrap();
        assert!(tree_cpu_time(own).unwrap() >= root);
        assert!(cpu_time(u32::MAX).is_err());
    }
}
