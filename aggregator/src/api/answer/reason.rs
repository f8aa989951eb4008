//! ● Why windows are partial.
//!
//! Each reason explains a stretch of event time, and a partial window names those whose stretch it
//! reaches into: a backlog from ten to eleven says nothing of a window at three. Reasons are told
//! once in an answer; windows refer to them by kind, of which a unit has one each.
//!
//! Invariants: every partial window has a reason; a final one has none.

use std::ops::Range;

use proto::window::BUCKET_MS;
use serde::ser::SerializeSeq as _;
use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use super::super::utc::Utc;
use crate::store::reader::Standing;

/// What waits for a receipt is a backlog when the oldest of it was that old: less is traffic on its
/// way.
const BACKLOG_AFTER_MS: i64 = 60_000;

/// Why windows are partial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Reason {
    /// The window is not over, or its unit has not said yet that all of it is counted: the camera
    /// may still deliver.
    Open,
    /// Two units speak under the name: nothing turns final until a day after the last turn.
    Cloned,
    /// The unit has never said anything of itself.
    NeverHeard,
    /// The unit is not heard of.
    UnitOffline {
        /// When its last heartbeat arrived.
        #[schema(value_type = String, format = DateTime, example = "2025-04-05T04:15:30Z")]
        since: Utc,
    },
    /// Passages of that time waited at the unit for a receipt at its last heartbeat.
    Backlog {
        /// How many, of all times.
        #[schema(example = 260_000)]
        passages: i64,
        /// The oldest event time among them; null when the unit did not say.
        #[schema(value_type = Option<String>, format = DateTime, example = "2025-04-05T04:15:29Z")]
        oldest: Option<Utc>,
        /// The newest event time among them; null when the unit did not say.
        #[schema(value_type = Option<String>, format = DateTime, example = "2025-04-05T10:15:29Z")]
        newest: Option<Utc>,
    },
}

impl Reason {
    /// Its kind.
    #[must_use]
    pub const fn kind(&self) -> ReasonKind {
        match self {
            Self::Open => ReasonKind::Open,
            Self::Cloned => ReasonKind::Cloned,
            Self::NeverHeard => ReasonKind::NeverHeard,
            Self::UnitOffline { .. } => ReasonKind::UnitOffline,
            Self::Backlog { .. } => ReasonKind::Backlog,
        }
    }
}

/// Names a reason of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReasonKind {
    /// The window is not over, or the camera may still deliver.
    Open,
    /// Two units speak under the name.
    Cloned,
    /// The unit has never said anything of itself.
    NeverHeard,
    /// The unit is not heard of.
    UnitOffline,
    /// Passages of that time wait at the unit.
    Backlog,
}

impl ReasonKind {
    /// All of them, as they are told.
    pub const ALL: [Self; 5] = [
        Self::Open,
        Self::Cloned,
        Self::NeverHeard,
        Self::UnitOffline,
        Self::Backlog,
    ];
}

/// Some kinds of reasons, in no more than a byte: an answer has one of these for each window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReasonKinds(u8);

impl ReasonKinds {
    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0 == 0
    }

    /// Whether this kind is among them.
    #[must_use]
    pub const fn contains(self, kind: ReasonKind) -> bool {
        self.0 & (1 << kind as u8) != 0
    }

    /// With those of another window.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    fn when(self, kind: ReasonKind, holds: bool) -> Self {
        Self(self.0 | (u8::from(holds) << kind as u8))
    }

    fn iter(self) -> impl Iterator<Item = ReasonKind> {
        ReasonKind::ALL
            .into_iter()
            .filter(move |kind| self.contains(*kind))
    }
}

impl Serialize for ReasonKinds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut seq = serializer.serialize_seq(Some(self.0.count_ones() as usize))?;
        for kind in self.iter() {
            seq.serialize_element(&kind)?;
        }
        seq.end()
    }
}

/// What explains the partial windows of one unit at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reasons {
    final_to_ms: i64,
    /// Windows that end later may still be filled by the camera.
    open_from_ms: i64,
    /// Of all times.
    always: Option<Reason>,
    silent_since_ms: Option<i64>,
    backlog: Option<(Reason, i64, i64)>,
}

impl Reasons {
    /// What is known at `now_ms` of a unit that stands so.
    #[must_use]
    pub fn of(standing: &Standing, now_ms: i64) -> Self {
        let always = if standing.is_cloned(now_ms) {
            Some(Reason::Cloned)
        } else {
            standing.is_unheard().then_some(Reason::NeverHeard)
        };
        Self {
            final_to_ms: standing.final_to_ms.unwrap_or(i64::MIN),
            open_from_ms: open_from_ms(standing, now_ms),
            always,
            silent_since_ms: standing.silent_since_ms(now_ms),
            backlog: backlog(standing),
        }
    }

    /// Kinds of the reasons for which the window is partial; none for a final one.
    #[must_use]
    pub fn of_window(&self, window_ms: &Range<i64>) -> ReasonKinds {
        let end = window_ms.end;
        if end <= self.final_to_ms {
            return ReasonKinds::default();
        }
        let mut kinds = ReasonKinds::default().when(ReasonKind::Open, end > self.open_from_ms);
        if let Some(reason) = self.always {
            return kinds.when(reason.kind(), true);
        }
        // Offline, it can neither have sent what happened since, nor settle what it would have
        // settled by now.
        let offline = |since| end > since || end <= self.open_from_ms;
        let waits = |(_, oldest, newest)| end > oldest && window_ms.start <= newest;
        kinds = kinds
            .when(
                ReasonKind::UnitOffline,
                self.silent_since_ms.is_some_and(offline),
            )
            .when(ReasonKind::Backlog, self.backlog.is_some_and(waits));
        kinds.when(ReasonKind::Open, kinds.is_empty())
    }

    /// The reasons of these kinds, in full.
    #[must_use]
    pub fn list(&self, kinds: ReasonKinds) -> Vec<Reason> {
        let silent = self.silent_since_ms.map(|since| Reason::UnitOffline {
            since: Utc::from_millis(since),
        });
        let backlog = self.backlog.map(|(reason, ..)| reason);
        [Some(Reason::Open), self.always, silent, backlog]
            .into_iter()
            .flatten()
            .filter(|reason| kinds.contains(reason.kind()))
            .collect()
    }
}

/// Where the unit's statement would stand by now if it held nothing: its largest camera delay before
/// its clock. That delay shows in a statement that no backlog held back; otherwise only what has not
/// ended is known to be open.
fn open_from_ms(standing: &Standing, now_ms: i64) -> i64 {
    let Some((frontier, heard)) = standing.frontier_ms.zip(standing.heartbeat_ms) else {
        return now_ms;
    };
    // The database learns of a statement when it moves `final_to`, by whole windows.
    let held_back = standing.backlog_passages != Some(0)
        && standing
            .backlog_oldest_ms
            .is_none_or(|oldest| oldest - oldest.rem_euclid(BUCKET_MS) <= frontier);
    if held_back {
        now_ms
    } else {
        now_ms.min(frontier.saturating_add(now_ms.saturating_sub(heard)))
    }
}

/// The backlog with its oldest and newest event time.
fn backlog(standing: &Standing) -> Option<(Reason, i64, i64)> {
    let heard = standing.heartbeat_ms?;
    let passages = standing.backlog_passages.filter(|passages| *passages > 0)?;
    let (oldest, newest) = (standing.backlog_oldest_ms, standing.backlog_newest_ms);
    let reason = Reason::Backlog {
        passages,
        oldest: oldest.map(Utc::from_millis),
        newest: newest.map(Utc::from_millis),
    };
    let (oldest, newest) = (oldest.unwrap_or(i64::MIN), newest.unwrap_or(heard));
    (heard.saturating_sub(oldest) > BACKLOG_AFTER_MS).then_some((reason, oldest, newest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINUTE: i64 = 60_000;
    const HOUR: i64 = 60 * MINUTE;
    /// 15:02 of some day.
    const NOW: i64 = 20_000 * 24 * HOUR + 15 * HOUR + 2 * MINUTE;

    /// A time of that day.
    fn at(hour: i64, minute: i64) -> i64 {
        20_000 * 24 * HOUR + hour * HOUR + minute * MINUTE
    }

    /// Online, nothing waits, cameras deliver within the hour.
    fn well() -> Standing {
        Standing {
            first_seen_ms: 0,
            final_to_ms: Some(at(14, 0)),
            frontier_ms: Some(at(14, 1)),
            heartbeat_ms: Some(at(15, 1)),
            cloned_ms: None,
            backlog_passages: Some(0),
            backlog_oldest_ms: None,
            backlog_newest_ms: None,
        }
    }

    /// Offline since nine, when nothing waited.
    fn offline() -> Standing {
        Standing {
            final_to_ms: Some(at(8, 0)),
            frontier_ms: Some(at(8, 0)),
            heartbeat_ms: Some(at(9, 0)),
            ..well()
        }
    }

    /// Back, with passages from ten on, of which the newest are of eleven.
    fn catching_up() -> Standing {
        Standing {
            final_to_ms: Some(at(10, 0)),
            frontier_ms: Some(at(10, 3)),
            backlog_passages: Some(40_000),
            backlog_oldest_ms: Some(at(10, 3)),
            backlog_newest_ms: Some(at(11, 0)),
            ..well()
        }
    }

    fn kinds(standing: &Standing, hour: i64, minute: i64) -> Vec<ReasonKind> {
        let start = at(hour, minute);
        let window = start..start + 5 * MINUTE;
        Reasons::of(standing, NOW)
            .of_window(&window)
            .iter()
            .collect()
    }

    #[test]
    fn each_partial_window_names_the_reasons_of_its_time() {
        use ReasonKind::{Backlog, Cloned, NeverHeard, Open, UnitOffline};
        let cloned = Standing {
            cloned_ms: Some(NOW - 23 * HOUR),
            ..offline()
        };
        let no_longer_cloned = Standing {
            cloned_ms: Some(NOW - 24 * HOUR),
            ..well()
        };
        let nobody = Standing::default();
        let only_passages = Standing {
            heartbeat_ms: None,
            backlog_passages: None,
            ..well()
        };
        let on_its_way = Standing {
            backlog_passages: Some(12),
            backlog_oldest_ms: Some(at(15, 0) + 30_000),
            ..well()
        };
        let offline_with_a_backlog = Standing {
            backlog_passages: Some(500),
            backlog_oldest_ms: Some(at(8, 30)),
            ..offline()
        };
        let of_unknown_age = Standing {
            backlog_oldest_ms: None,
            backlog_newest_ms: None,
            ..catching_up()
        };
        type Case = (&'static str, Standing, (i64, i64), &'static [ReasonKind]);
        let table: [Case; 24] = [
            ("settled", well(), (13, 55), &[]),
            ("the camera may be late", well(), (14, 0), &[Open]),
            ("ended just now", well(), (14, 55), &[Open]),
            ("not over", well(), (15, 0), &[Open]),
            ("settled before the silence", offline(), (7, 55), &[]),
            ("would be settled by now", offline(), (8, 0), &[UnitOffline]),
            ("in the silence", offline(), (12, 0), &[UnitOffline]),
            (
                "in the silence, not over",
                offline(),
                (15, 0),
                &[Open, UnitOffline],
            ),
            (
                "begins before the silence",
                offline(),
                (8, 55),
                &[UnitOffline],
            ),
            ("before the backlog", catching_up(), (9, 55), &[]),
            (
                "the oldest of the backlog",
                catching_up(),
                (10, 0),
                &[Backlog],
            ),
            (
                "the newest of the backlog",
                catching_up(),
                (11, 0),
                &[Backlog],
            ),
            ("after the backlog", catching_up(), (14, 0), &[Open]),
            ("after the heartbeat", catching_up(), (15, 5), &[Open]),
            ("on its way is no backlog", on_its_way, (15, 0), &[Open]),
            ("of unknown age", of_unknown_age, (10, 0), &[Backlog]),
            (
                "up to the heartbeat",
                of_unknown_age,
                (15, 0),
                &[Open, Backlog],
            ),
            (
                "offline with a backlog",
                offline_with_a_backlog,
                (8, 30),
                &[UnitOffline, Backlog],
            ),
            (
                "offline, before the backlog",
                offline_with_a_backlog,
                (8, 0),
                &[UnitOffline],
            ),
            ("cloned hides the rest", cloned, (12, 0), &[Cloned]),
            ("cloned and not over", cloned, (15, 0), &[Open, Cloned]),
            ("cloned a day ago", no_longer_cloned, (14, 0), &[Open]),
            ("never heard", nobody, (12, 0), &[NeverHeard]),
            ("never a heartbeat", only_passages, (14, 30), &[Open]),
        ];
        for (name, standing, (hour, minute), expected) in table {
            assert_eq!(kinds(&standing, hour, minute), expected, "{name}");
        }
    }

    #[test]
    fn within_the_usual_delay_of_the_camera_silence_explains_only_its_own_time() {
        // A day of delay, heard of two hours ago.
        let standing = Standing {
            final_to_ms: Some(at(13, 0) - 24 * HOUR),
            frontier_ms: Some(at(13, 2) - 24 * HOUR),
            heartbeat_ms: Some(at(13, 2)),
            ..well()
        };
        let kinds = |hour, minute| kinds(&standing, hour, minute);
        assert_eq!(kinds(12, 0), [ReasonKind::Open]);
        assert_eq!(kinds(14, 0), [ReasonKind::Open, ReasonKind::UnitOffline]);
        assert_eq!(kinds(14 - 24, 0), [ReasonKind::UnitOffline]);
    }

    #[test]
    fn reasons_are_told_in_full_once() {
        let standing = Standing {
            backlog_passages: Some(500),
            backlog_oldest_ms: Some(at(8, 30)),
            ..offline()
        };
        let reasons = Reasons::of(&standing, NOW);
        let all = reasons
            .of_window(&(at(8, 30)..at(8, 35)))
            .and(reasons.of_window(&(at(15, 0)..at(15, 5))));
        let told = serde_json::to_value(reasons.list(all)).unwrap();
        let expected = serde_json::json!([
            {"kind": "open"},
            {"kind": "unit_offline", "since": Utc::from_millis(at(9, 0)).to_string()},
            {"kind": "backlog", "passages": 500, "oldest": Utc::from_millis(at(8, 30)).to_string(), "newest": null},
        ]);
        assert_eq!(told, expected);
        let named = serde_json::to_value(all).unwrap();
        assert_eq!(
            named,
            serde_json::json!(["open", "unit_offline", "backlog"])
        );
        assert_eq!(reasons.list(ReasonKinds::default()), []);
    }

    fn instant() -> impl Strategy<Value = Option<i64>> {
        prop::option::of(NOW - 48 * HOUR..NOW + HOUR)
    }

    proptest! {
        #[test]
        fn a_window_has_a_reason_just_when_it_is_partial(
            times in prop::array::uniform6(instant()),
            passages in prop::option::of(0i64..3),
            start in -600i64..10,
        ) {
            let [final_to_ms, frontier_ms, heartbeat_ms, cloned_ms, oldest, newest] = times;
            let standing = Standing {
                first_seen_ms: 0,
                final_to_ms,
                frontier_ms,
                heartbeat_ms,
                cloned_ms,
                backlog_passages: passages,
                backlog_oldest_ms: oldest,
                backlog_newest_ms: newest,
            };
            let start = NOW - NOW.rem_euclid(BUCKET_MS) + start * BUCKET_MS;
            let window = start..start + BUCKET_MS;
            let reasons = Reasons::of(&standing, NOW);
            let kinds = reasons.of_window(&window);
            prop_assert_eq!(kinds.is_empty(), standing.is_final(window.end));
            // Whatever a window names is told.
            let told = reasons.list(kinds);
            prop_assert!(kinds.iter().eq(told.iter().map(Reason::kind)));
        }
    }
}
