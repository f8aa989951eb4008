//! Who may publish and subscribe where: a table of exact topics for each role.
//!
//! | role | publishes | subscribes |
//! | --- | --- | --- |
//! | unit | its own `verst/1/{shard}/{name}/up` | its own `…/down`, and the beacon of its shard |
//! | centre | every device's `…/down`, the beacons (these also retained) | `verst/1/{shard}/+/up` of each shard |
//! | reader | nothing | the beacons |
//!
//! Nothing else exists: no other wildcard, no `$share`, no `$SYS`. The shard is always computed
//! from the name in the certificate. A reader sees which owner serves which shard, never data.
//!
//! Invariants: the filters of all connections together are at most one per certificate plus 128,
//! and each topic matches at most one filter that a role may have; the router's memory grows with
//! these and with nothing else.
//!
//! Pure.

use proto::{DeviceId, Shard, topic};

use crate::identity::{Identity, Role};

/// What one identity may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rights {
    /// A camera unit.
    Unit {
        /// The one topic it publishes to.
        up: String,
        /// The one topic of its own that it hears.
        down: String,
        /// The beacon of its shard.
        beacon: String,
    },
    /// The centre.
    Centre,
    /// Somebody who watches.
    Reader,
}

/// Why a publish is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Not this topic.
    #[error("the role may not publish to this topic")]
    Topic,
    /// This topic, but not retained.
    #[error("only the centre may retain, and only beacons")]
    Retain,
}

impl Rights {
    /// The rights of an identity.
    #[must_use]
    pub fn of(identity: &Identity) -> Self {
        match identity.role {
            Role::Unit => Self::Unit {
                up: topic::up(&identity.name),
                down: topic::down(&identity.name),
                beacon: topic::beacon(Shard::of(&identity.name)),
            },
            Role::Centre => Self::Centre,
            Role::Reader => Self::Reader,
        }
    }

    /// Whether a publish may pass.
    ///
    /// # Errors
    /// When the topic is not the role's, or retained where it must not be.
    pub fn publish(&self, name: &str, retain: bool) -> Result<(), Denied> {
        let may_retain = match self {
            Self::Unit { up, .. } if name == up => false,
            Self::Centre => match topic::Topic::parse(name) {
                Some(topic::Topic::Down(_)) => false,
                Some(topic::Topic::Beacon(_)) => true,
                Some(topic::Topic::Up(_)) | None => return Err(Denied::Topic),
            },
            Self::Unit { .. } | Self::Reader => return Err(Denied::Topic),
        };
        if retain && !may_retain {
            Err(Denied::Retain)
        } else {
            Ok(())
        }
    }

    /// Whether a filter may be subscribed to.
    #[must_use]
    pub fn subscribe(&self, filter: &str) -> bool {
        match self {
            Self::Unit { down, beacon, .. } => filter == down || filter == beacon,
            Self::Centre => shard_in(filter, "/+/up").is_some(),
            Self::Reader => shard_in(filter, "/beacon").is_some(),
        }
    }
}

/// The one filter under which a message on `topic` can have been asked for.
///
/// `None` for a topic that is not Verst's.
#[must_use]
pub fn filter_of(name: &str) -> Option<String> {
    Some(match topic::Topic::parse(name)? {
        topic::Topic::Up(device) => topic::up_filter(Shard::of(&device)),
        topic::Topic::Down(_) | topic::Topic::Beacon(_) => name.to_owned(),
    })
}

/// The filters that exist before anybody subscribes.
pub fn standing_filters() -> impl Iterator<Item = String> {
    Shard::all().flat_map(|shard| [topic::up_filter(shard), topic::beacon(shard)])
}

/// The device whose down topic this is.
#[must_use]
pub fn device_down(name: &str) -> Option<DeviceId> {
    match topic::Topic::parse(name)? {
        topic::Topic::Down(device) => Some(device),
        topic::Topic::Up(_) | topic::Topic::Beacon(_) => None,
    }
}

/// The shard of `verst/1/{shard}{suffix}`, in exactly the one spelling that `proto` writes.
fn shard_in(filter: &str, suffix: &str) -> Option<Shard> {
    let digits = filter.strip_prefix("verst/1/")?.strip_suffix(suffix)?;
    let shard = Shard::new(u8::from_str_radix(digits, 16).ok()?)?;
    (shard.to_string() == digits).then_some(shard)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rights(role: Role) -> Rights {
        Rights::of(&Identity::for_test("KV12345", role))
    }

    fn own(way: fn(&DeviceId) -> String) -> String {
        way(&DeviceId::new("KV12345").unwrap())
    }

    fn other(way: fn(&DeviceId) -> String) -> String {
        way(&DeviceId::new("KV54321").unwrap())
    }

    fn own_beacon() -> String {
        topic::beacon(Shard::of(&DeviceId::new("KV12345").unwrap()))
    }

    fn foreign_beacon() -> String {
        let own = Shard::of(&DeviceId::new("KV12345").unwrap());
        topic::beacon(Shard::new((own.get() + 1) % Shard::COUNT).unwrap())
    }

    #[test]
    fn publishing_follows_the_table() {
        use Denied::{Retain, Topic};
        use Role::{Centre, Reader, Unit};
        let table: &[(Role, &str, bool, Result<(), Denied>)] = &[
            (Unit, &own(topic::up), false, Ok(())),
            (Unit, &own(topic::up), true, Err(Retain)),
            (Unit, &own(topic::down), false, Err(Topic)),
            (Unit, &own_beacon(), true, Err(Topic)),
            (Unit, &other(topic::up), false, Err(Topic)),
            (Unit, &format!("{}/x", own(topic::up)), false, Err(Topic)),
            (Centre, &own(topic::down), false, Ok(())),
            (Centre, &own(topic::down), true, Err(Retain)),
            (Centre, &own_beacon(), true, Ok(())),
            (Centre, &own_beacon(), false, Ok(())),
            (Centre, &own(topic::up), false, Err(Topic)),
            (Centre, "verst/1/00/no such device/down", false, Err(Topic)),
            (Centre, "verst/1/40/beacon", true, Err(Topic)),
            (Reader, &own(topic::up), false, Err(Topic)),
            (Reader, &own(topic::down), false, Err(Topic)),
            (Reader, &own_beacon(), false, Err(Topic)),
        ];
        for (role, name, retain, expected) in table {
            assert_eq!(
                rights(*role).publish(name, *retain),
                *expected,
                "{role:?} {name} {retain}"
            );
        }
        for name in [
            "",
            "$SYS/x",
            "é/x",
            "$share/g/x",
            "verst/1",
            "a",
            "verst.canary",
        ] {
            for role in [Unit, Centre, Reader] {
                assert_eq!(
                    rights(role).publish(name, false),
                    Err(Topic),
                    "{role:?} {name}"
                );
            }
        }
    }

    #[test]
    fn subscribing_follows_the_table() {
        use Role::{Centre, Reader, Unit};
        let table: &[(Role, &str, bool)] = &[
            (Unit, &own(topic::down), true),
            (Unit, &own_beacon(), true),
            (Unit, &foreign_beacon(), false),
            (Unit, &own(topic::up), false),
            (Unit, &other(topic::down), false),
            (Unit, "verst/1/+/+/down", false),
            (Centre, "verst/1/00/+/up", true),
            (Centre, "verst/1/3f/+/up", true),
            (Centre, "verst/1/3F/+/up", false),
            (Centre, "verst/1/40/+/up", false),
            (Centre, "verst/1/0/+/up", false),
            (Centre, "verst/1/+0/+/up", false),
            (Centre, "verst/1/+/+/up", false),
            (Centre, "verst/1/00/+/down", false),
            (Centre, "verst/1/00/beacon", false),
            (Centre, &own(topic::up), false),
            (Reader, "verst/1/00/beacon", true),
            (Reader, "verst/1/+/beacon", false),
            (Reader, "verst/1/00/+/up", false),
            (Reader, &own(topic::down), false),
        ];
        for (role, filter, expected) in table {
            assert_eq!(
                rights(*role).subscribe(filter),
                *expected,
                "{role:?} {filter}"
            );
        }
        for filter in [
            "",
            "#",
            "+",
            "+/#",
            "$SYS/#",
            "$share/g/verst/1/00/+/up",
            "verst/1/#",
            "é",
        ] {
            for role in [Unit, Centre, Reader] {
                assert!(!rights(role).subscribe(filter), "{role:?} {filter}");
            }
        }
    }

    #[test]
    fn each_standing_filter_is_somebodys_and_128_in_all() {
        let filters: Vec<_> = standing_filters().collect();
        assert_eq!(filters.len(), 128);
        for filter in filters {
            assert!(
                rights(Role::Centre).subscribe(&filter) || rights(Role::Reader).subscribe(&filter)
            );
        }
    }

    #[test]
    fn a_topic_has_one_filter() {
        let shard = Shard::of(&DeviceId::new("KV12345").unwrap());
        assert_eq!(filter_of(&own(topic::up)), Some(topic::up_filter(shard)));
        assert_eq!(filter_of(&own(topic::down)), Some(own(topic::down)));
        assert_eq!(filter_of("verst.canary"), None);
        assert_eq!(
            device_down(&own(topic::down)),
            DeviceId::new("KV12345").ok()
        );
        assert_eq!(device_down(&own(topic::up)), None);
    }
}
