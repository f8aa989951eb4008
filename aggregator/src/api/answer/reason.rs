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
    /// Of the past: the window was partial then, why is not recorded.
    Unrecorded,
    /// Of the past: the window was partial then and has changed since; what it held is not kept.
    NotKept,
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
            Self::Unrecorded => ReasonKind::Unrecorded,
            Self::NotKept => ReasonKind::NotKept,
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
    /// It was partial then, why is not recorded.
    Unrecorded,
    /// It was partial then and has changed since; what it held is not kept.
    NotKept,
}

impl ReasonKind {
    /// All of them, as they are told.
    pub const ALL: [Self; 7] = [
        Self::Open,
        Self::Cloned,
        Self::NeverHeard,
        Self::UnitOffline,
        Self::Backlog,
        Self::Unrecorded,
        Self::NotKept,
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

    /// One bit for each.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Whether this kind is among them.
    #[must_use]
    pub const fn contains(self, kind: ReasonKind) -> bool {
        self.0 & (1 << kind as u8) != 0
    }

    /// Of a window that is not kept.
    #[must_use]
    pub fn not_kept() -> Self {
        Self::default().when(ReasonKind::NotKept, true)
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

    /// What is known of a unit that was final so far at a time in the past: what else it had said
    /// by then is not recorded.
    #[must_use]
    pub fn past(final_to_ms: Option<i64>) -> Self {
        Self {
            final_to_ms: final_to_ms.unwrap_or(i64::MIN),
            open_from_ms: i64::MAX,
            always: Some(Reason::Unrecorded),
            silent_since_ms: None,
            backlog: None,
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
        [
            Some(Reason::Open),
            self.always,
            silent,
            backlog,
            Some(Reason::NotKept),
        ]
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
mod tests;
