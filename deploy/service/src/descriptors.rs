//! How many files and sockets this process may have open at a time.
//!
//! Shells and old service managers begin with 1,024, below the connections that the programs promise
//! to hold. The soft limit is the program's own to raise, up to the hard one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What a program needs besides its connections: logs, certificates, database, the runtime's own.
const BESIDES: u64 = 256;

/// Raises the soft limit so far that `connections` and the rest of the program fit, and warns when
/// the hard limit does not allow it: then `accept` will wait for descriptors at the limit.
pub fn make_room_for(connections: usize) {
    let needed = u64::try_from(connections)
        .unwrap_or(u64::MAX)
        .saturating_add(BESIDES);
    let limit = getrlimit(Resource::Nofile);
    let Some(wanted) = raised(limit, needed) else {
        return;
    };
    let maximum = wanted.current.unwrap_or(u64::MAX);
    if let Err(error) = setrlimit(Resource::Nofile, wanted) {
        tracing::warn!(%error, needed, "cannot raise the limit of open files");
    } else if maximum < needed {
        tracing::warn!(
            maximum,
            needed,
            "fewer files may be open than the connections of the settings need: raise the hard limit \
             (LimitNOFILE of systemd, ulimit -Hn), or lower the settings"
        );
    }
}

/// The limit to set; none when it is high enough already. Pure.
fn raised(now: Rlimit, needed: u64) -> Option<Rlimit> {
    let enough = now.current.is_none_or(|current| current >= needed);
    (!enough).then(|| Rlimit {
        current: Some(now.maximum.map_or(needed, |maximum| maximum.min(needed))),
        maximum: now.maximum,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_is_raised_as_far_as_needed_and_allowed() {
        let limit = |current, maximum| Rlimit { current, maximum };
        let cases = [
            (limit(Some(1_024), Some(20_000)), 10_256, Some(10_256)),
            (limit(Some(1_024), Some(4_096)), 10_256, Some(4_096)),
            (limit(Some(1_024), None), 10_256, Some(10_256)),
            (limit(Some(20_000), Some(20_000)), 10_256, None),
            (limit(None, None), 10_256, None),
        ];
        for (now, needed, expected) in cases {
            let to_set = raised(now, needed);
            assert_eq!(
                to_set.map(|limit| limit.current),
                expected.map(Some),
                "{now:?}"
            );
            assert!(to_set.is_none_or(|limit| limit.maximum == now.maximum));
        }
    }

    #[test]
    fn this_process_may_have_more_open_after_asking() {
        let hard = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
        let least = Rlimit {
            current: Some(512.min(hard)),
            maximum: getrlimit(Resource::Nofile).maximum,
        };
        setrlimit(Resource::Nofile, least).unwrap();
        make_room_for(500);
        let now = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        assert_eq!(now, 756.min(hard));
    }
}
