//! ● One unit of many: which of its windows are expected, and whether it is behind.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::super::super::utc::Utc;
use super::super::reason::{ReasonKind, ReasonKinds, Reasons};
use super::UnitBehind;
use crate::store::reader::{GroupRows, GroupUnit, Interval};

/// A unit, and from when on its windows are expected.
pub(super) struct Member<'a> {
    pub(super) unit: &'a GroupUnit,
    pub(super) known_from_ms: i64,
    /// Starts of its windows from before that.
    pub(super) early_ms: BTreeSet<i64>,
}

impl Member<'_> {
    pub(super) fn is_expected(&self, start_ms: i64, now_ms: i64) -> bool {
        (self.known_from_ms <= start_ms && start_ms < now_ms) || self.early_ms.contains(&start_ms)
    }
}

pub(super) fn starts(covered: &Range<i64>, interval: Interval) -> impl Iterator<Item = i64> {
    let step = usize::try_from(interval.length_ms()).unwrap_or(usize::MAX);
    covered.clone().step_by(step)
}

pub(super) fn members(rows: &GroupRows, interval: Interval) -> Vec<Member<'_>> {
    let mut early: BTreeMap<&str, BTreeSet<i64>> = BTreeMap::new();
    for window in &rows.early {
        early
            .entry(&window.device)
            .or_default()
            .insert(window.start_ms);
    }
    rows.units
        .iter()
        .map(|unit| Member {
            unit,
            known_from_ms: interval.floor(unit.standing.first_seen_ms),
            early_ms: early.remove(unit.device.as_str()).unwrap_or_default(),
        })
        .collect()
}

/// The unit, if its partial windows have more of a reason than that they are open.
pub(super) fn behind(
    member: &Member<'_>,
    covered: &Range<i64>,
    interval: Interval,
    now_ms: i64,
    reasons: &Reasons,
) -> Option<UnitBehind> {
    let kinds = starts(covered, interval)
        .filter(|start| member.is_expected(*start, now_ms))
        .map(|start| reasons.of_window(&(start..start + interval.length_ms())))
        .fold(ReasonKinds::default(), ReasonKinds::and);
    let kinds = if member.unit.lacks_windows {
        kinds.and(ReasonKinds::not_kept())
    } else {
        kinds
    };
    let more = ReasonKind::ALL
        .into_iter()
        .any(|kind| kind != ReasonKind::Open && kinds.contains(kind));
    more.then(|| UnitBehind {
        kvfv_id: member.unit.device.clone(),
        final_to: member.unit.standing.final_to_ms.map(Utc::from_millis),
        reasons: reasons.list(kinds),
    })
}
