//! ● Everything that was posted, and the comparison with what the database says.

use std::collections::BTreeMap;
use std::fmt;

use super::event::Fact;
use super::stats::{Interval, Stats, WindowKey};

/// Differences quoted in full; all are counted.
const QUOTED_MAX: usize = 20;

/// All windows of all devices.
pub type Windows = BTreeMap<WindowKey, Stats>;

/// All raw rows by device, in order, equal ones as often as they stand there.
pub type Rows = BTreeMap<String, Vec<Fact>>;

/// What was posted and accepted.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    devices: BTreeMap<String, Posted>,
    without_rows: bool,
}

/// What one device posted.
#[derive(Debug, Clone, Default)]
struct Posted {
    passages: u64,
    windows: BTreeMap<(Interval, i64), Stats>,
    rows: Vec<Fact>,
}

impl Ledger {
    /// Nothing posted yet. Keeps every passage, to compare raw rows.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Nothing posted yet. Keeps the windows alone, so that its size does not grow with the traffic.
    #[must_use]
    pub fn of_windows() -> Self {
        Self {
            without_rows: true,
            ..Self::default()
        }
    }

    /// One more vehicle.
    pub fn add(&mut self, device: &str, fact: Fact) {
        if !self.devices.contains_key(device) {
            self.devices.insert(device.to_owned(), Posted::default());
        }
        let Some(posted) = self.devices.get_mut(device) else {
            return;
        };
        posted.passages += 1;
        for interval in Interval::ALL {
            let start_ms = fact.event_ms - fact.event_ms.rem_euclid(interval.ms());
            posted
                .windows
                .entry((interval, start_ms))
                .or_default()
                .add(&fact);
        }
        if !self.without_rows {
            posted.rows.push(fact);
        }
    }

    /// All that another ledger holds, which keeps every passage.
    ///
    /// # Panics
    /// When the other one keeps windows alone.
    pub fn merge(&mut self, other: Self) {
        assert!(
            other.keeps_rows(),
            "a ledger of windows alone cannot be taken apart"
        );
        for (device, posted) in other.devices {
            posted
                .rows
                .into_iter()
                .for_each(|fact| self.add(&device, fact));
        }
    }

    /// All that another ledger holds of devices that are not in this one.
    ///
    /// # Panics
    /// When a device is in both.
    pub fn absorb(&mut self, other: Self) {
        for (device, posted) in other.devices {
            let before = self.devices.insert(device, posted);
            assert!(before.is_none(), "a device is in both ledgers");
        }
    }

    /// Whether raw rows can be compared with it.
    #[must_use]
    pub const fn keeps_rows(&self) -> bool {
        !self.without_rows
    }

    /// Vehicles in it.
    #[must_use]
    pub fn passages(&self) -> u64 {
        self.devices.values().map(|posted| posted.passages).sum()
    }

    /// Vehicles of one device.
    #[must_use]
    pub fn passages_of(&self, device: &str) -> u64 {
        self.devices.get(device).map_or(0, |posted| posted.passages)
    }

    /// The windows that follow from it.
    #[must_use]
    pub fn windows(&self) -> Windows {
        let all = self.devices.iter().flat_map(|(device, posted)| {
            posted.windows.iter().map(|(&(interval, start_ms), stats)| {
                (
                    WindowKey {
                        device: device.clone(),
                        interval,
                        start_ms,
                    },
                    stats.clone(),
                )
            })
        });
        all.collect()
    }

    /// Compares windows that the database holds with those that follow from the ledger.
    #[must_use]
    pub fn compare_windows(&self, found: &Windows) -> Findings {
        compare(&self.windows(), found)
    }

    /// Compares raw rows that the database holds with the passages of the ledger, as multisets;
    /// none where the ledger keeps windows alone.
    #[must_use]
    pub fn compare_rows(&self, found: &Rows) -> Option<Findings> {
        if self.without_rows {
            return None;
        }
        let none = Vec::new();
        let mut findings = Findings::default();
        let mut devices: Vec<&String> = self.devices.keys().chain(found.keys()).collect();
        devices.sort_unstable();
        devices.dedup();
        for device in devices {
            let posted = self
                .devices
                .get(device)
                .map_or(&none, |posted| &posted.rows);
            let posted: Vec<&Fact> = posted.iter().collect();
            let stored: Vec<&Fact> = found.get(device).unwrap_or(&none).iter().collect();
            compare_all(device, posted, stored, &mut findings);
        }
        Some(findings)
    }
}

/// Compares windows that the database holds with those that it must hold.
#[must_use]
pub fn compare(expected: &Windows, found: &Windows) -> Findings {
    let mut findings = Findings::default();
    for (key, stats) in expected {
        findings.compared += 1;
        match found.get(key) {
            Some(other) if other == stats => {}
            Some(other) => findings.wrong(|| format!("{key}: {}", difference(stats, other))),
            None => findings.wrong(|| format!("{key}: missing, {} passages posted", stats.n)),
        }
    }
    for (key, stats) in found.iter().filter(|(key, _)| !expected.contains_key(key)) {
        findings.compared += 1;
        findings.wrong(|| format!("{key}: holds {} passages, none were posted", stats.n));
    }
    findings
}

/// Compares two lists as multisets: what was posted and is missing, what is there and was never
/// posted.
pub fn compare_all<T: Ord + fmt::Debug>(
    what: &str,
    mut posted: Vec<T>,
    mut stored: Vec<T>,
    findings: &mut Findings,
) {
    posted.sort_unstable();
    stored.sort_unstable();
    let (mut left, mut right) = (posted.iter().peekable(), stored.iter().peekable());
    loop {
        let order = match (left.peek(), right.peek()) {
            (Some(posted), Some(stored)) => posted.cmp(stored),
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (None, None) => return,
        };
        findings.compared += 1;
        let missing = if order.is_le() { left.next() } else { None };
        let surplus = if order.is_ge() { right.next() } else { None };
        match (missing, surplus) {
            (Some(one), None) => findings.wrong(|| format!("{what}: not stored: {one:?}")),
            (None, Some(one)) => findings.wrong(|| format!("{what}: never posted: {one:?}")),
            _ => {}
        }
    }
}

/// The fields in which two windows differ.
fn difference(posted: &Stats, found: &Stats) -> String {
    let fields = |stats: &Stats| {
        [
            ("n", stats.n),
            ("n_speed", stats.n_speed),
            ("n_moving", stats.n_moving),
            ("violations", stats.violations),
            ("sum_ckmh", stats.sum_ckmh),
            ("sumsq_ckmh2", stats.sumsq_ckmh2),
            ("pace_sum_ms_per_km", stats.pace_sum_ms_per_km),
            ("min_ckmh", stats.min_ckmh.map_or(-1, i64::from)),
            ("max_ckmh", stats.max_ckmh.map_or(-1, i64::from)),
        ]
    };
    let mut parts: Vec<String> = fields(posted)
        .into_iter()
        .zip(fields(found))
        .filter(|(posted, found)| posted != found)
        .map(|((name, posted), (_, found))| format!("{name} {found} instead of {posted}"))
        .collect();
    let maps = [
        ("histogram", posted.histogram == found.histogram),
        ("classes", posted.classes == found.classes),
        ("lanes", posted.lanes == found.lanes),
    ];
    let unequal = maps.into_iter().filter(|(_, equal)| !equal);
    parts.extend(unequal.map(|(name, _)| format!("{name} differ")));
    parts.join(", ")
}

/// What a comparison found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// Windows or rows looked at.
    pub compared: u64,
    /// Of them, those that are missing, surplus, or different.
    pub wrong: u64,
    /// The first of those, in words.
    pub quoted: Vec<String>,
}

impl Findings {
    /// Books a difference.
    pub fn wrong(&mut self, text: impl FnOnce() -> String) {
        self.wrong += 1;
        if self.quoted.len() < QUOTED_MAX {
            self.quoted.push(text());
        }
    }

    /// Adds what another comparison found.
    pub fn merge(&mut self, other: Self) {
        self.compared += other.compared;
        self.wrong += other.wrong;
        self.quoted.extend(other.quoted);
        self.quoted.truncate(QUOTED_MAX);
    }

    /// Something was compared and all of it is equal.
    #[must_use]
    pub const fn exact(&self) -> bool {
        self.wrong == 0 && self.compared > 0
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} wrong", self.wrong, self.compared)?;
        self.quoted
            .iter()
            .try_for_each(|text| write!(f, "\n    {text}"))
    }
}

impl fmt::Display for WindowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let start = jiff::Timestamp::from_millisecond(self.start_ms).unwrap_or_default();
        write!(f, "{} {} {start}", self.device, self.interval.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recompute::event::Event;

    fn fact(time: &str, speed: f64) -> Fact {
        let line = format!(
            r#"{{"kvfv_id":"a","timestamp":"2025-04-05T{time}Z","vehicle_speed":{speed}}}"#
        );
        Event::parse(&line)
            .expect("an event")
            .fact()
            .expect("facts")
    }

    fn ledger(facts: &[Fact]) -> Ledger {
        let mut ledger = Ledger::new();
        facts.iter().for_each(|fact| ledger.add("a", fact.clone()));
        ledger
    }

    #[test]
    fn a_passage_falls_into_one_window_of_each_length() {
        let windows = ledger(&[fact("10:04:59.999", 80.0), fact("10:05:00", 90.0)]).windows();
        let sizes: Vec<(&str, i64)> = windows
            .iter()
            .map(|(key, stats)| (key.interval.name(), stats.n))
            .collect();
        assert_eq!(sizes, [("5m", 1), ("5m", 1), ("1h", 2), ("24h", 2)]);
    }

    #[test]
    fn equal_windows_are_exact_and_every_kind_of_difference_is_found() {
        let posted = ledger(&[fact("10:00:00", 80.0), fact("11:00:00", 90.0)]);
        assert!(posted.compare_windows(&posted.windows()).exact());
        let other = ledger(&[fact("10:00:00", 80.01), fact("12:00:00", 90.0)]);
        let findings = posted.compare_windows(&other.windows());
        // 10:00 differs, 11:00 is missing, 12:00 is surplus, each for 5 m and 1 h, and the day differs.
        assert_eq!((findings.compared, findings.wrong), (7, 7), "{findings}");
        assert!(
            !ledger(&[]).compare_windows(&Windows::new()).exact(),
            "nothing was compared"
        );
    }

    #[test]
    fn a_vehicle_stored_twice_or_not_at_all_is_found_among_equal_ones() {
        let twin = fact("10:00:00", 80.0);
        let posted = ledger(&[twin.clone(), twin.clone(), fact("10:00:01", 70.0)]);
        let rows = |facts: &[Fact]| Rows::from([("a".to_owned(), facts.to_vec())]);
        let all = [fact("10:00:01", 70.0), twin.clone(), twin.clone()];
        let wrong = |found: &Rows| posted.compare_rows(found).map(|findings| findings.wrong);
        assert!(
            posted
                .compare_rows(&rows(&all))
                .is_some_and(|findings| findings.exact())
        );
        assert_eq!(wrong(&rows(&all[..2])), Some(1));
        let twice = [&all[..], &[twin]].concat();
        assert_eq!(wrong(&rows(&twice)), Some(1));
        assert_eq!(wrong(&Rows::new()), Some(3));
        assert_eq!(Ledger::of_windows().compare_rows(&Rows::new()), None);
    }
}
