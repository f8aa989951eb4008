//! Which messages, and how much of them, the next flush takes. Pure.
//!
//! A device changes at most [`FLUSH_WINDOWS_MAX`] 5-minute windows in one flush, so that a backlog of
//! one device does not hold up the others. A message that touches more is taken up to there; the rest
//! of it, and what the device has sent after it, waits for the next flush. The first message of a
//! device always gets on, so every message comes to its end.

use std::collections::{BTreeSet, HashMap, HashSet};

use proto::device::DeviceId;
use proto::limits::SUMMARY_ENTRY_WINDOWS_MAX;
use proto::window::Bucket;

use crate::intake::decode::{Body, Message, Passages};
use crate::window::dedup::Novelty;
use crate::window::lateness::Horizon;
use crate::window::rollup::{Length, WindowId};
use crate::window::state::Memory;

/// 5-minute windows that one device may change in one flush.
pub const FLUSH_WINDOWS_MAX: usize = SUMMARY_ENTRY_WINDOWS_MAX;

/// A message that the flush takes, from where earlier flushes have left it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Its place in the list.
    pub message: usize,
    /// Up to which of its passages, or of its summary's entries; none: to the end.
    pub until: Option<usize>,
}

/// A message that waits, wholly or in part, for the next flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeftOver {
    /// Its place in the list.
    pub message: usize,
    /// How much of it is decided when this flush is committed.
    pub decided: usize,
}

/// What the flush takes.
#[derive(Debug, Default)]
pub struct Selection {
    /// Messages in their order.
    pub parts: Vec<Part>,
    /// What waits, in its order.
    pub left_over: Vec<LeftOver>,
    /// Windows that the plan will need and that are not in memory.
    pub windows: Vec<(DeviceId, WindowId)>,
}

/// Chooses among the messages at these places. Their cursors must be in memory.
#[must_use]
pub fn select(
    memory: &Memory,
    messages: &[Message],
    places: &[usize],
    horizon: &Horizon,
) -> Selection {
    let mut selection = Selection::default();
    let mut devices: HashMap<&DeviceId, Budget> = HashMap::new();
    for place in places {
        let message = &messages[*place];
        let device = &message.sender().device;
        let budget = devices.entry(device).or_default();
        let (place, decided) = (*place, message.decided);
        let all = message.parts();
        let until = if budget.spent {
            decided
        } else {
            budget.take(memory, message, horizon)
        };
        if until == all {
            selection.parts.push(Part {
                message: place,
                until: None,
            });
            continue;
        }
        budget.spent = true;
        if until > decided {
            selection.parts.push(Part {
                message: place,
                until: Some(until),
            });
        }
        selection.left_over.push(LeftOver {
            message: place,
            decided: until,
        });
    }
    for (device, budget) in devices {
        let known = memory.device(device).map(|state| &state.windows);
        let wanted: HashSet<WindowId> = budget
            .buckets
            .iter()
            .flat_map(|bucket| Length::ALL.map(|length| WindowId::over(length, *bucket)))
            .filter(|id| known.is_none_or(|known| !known.contains_key(id)))
            .collect();
        selection
            .windows
            .extend(wanted.into_iter().map(|id| (device.clone(), id)));
    }
    selection
}

/// The windows that a device changes in this flush.
#[derive(Debug, Default)]
struct Budget {
    buckets: BTreeSet<Bucket>,
    spent: bool,
}

impl Budget {
    /// Up to where the message fits.
    fn take(&mut self, memory: &Memory, message: &Message, horizon: &Horizon) -> usize {
        let (decided, all) = (message.decided, message.parts());
        match &message.body {
            Body::Passages(passages) => {
                let cursor = memory
                    .device(&message.sender().device)
                    .and_then(|state| state.cursors.get(&message.header.stream));
                let novelty = cursor.map(|cursor| cursor.novelty(passages.range));
                // Neither changes a window.
                if matches!(novelty, Some(Novelty::Settled | Novelty::Counted)) {
                    return all;
                }
                self.take_passages(passages, decided, horizon)
            }
            Body::Summary(summary) => {
                let fit = summary.entries.iter().skip(decided).take_while(|entry| {
                    let buckets = entry.deltas.iter().map(|delta| delta.bucket);
                    // An entry that fits no flush is taken to be refused.
                    entry.deltas.len() > FLUSH_WINDOWS_MAX || self.fits(buckets)
                });
                decided + fit.count()
            }
            Body::Losses(_) | Body::Heartbeat(_) | Body::Refused(_) => all,
        }
    }

    fn take_passages(&mut self, passages: &Passages, decided: usize, horizon: &Horizon) -> usize {
        let buckets = passages.deltas.iter().map(|delta| delta.bucket);
        if decided == 0 && self.fits(buckets.filter(|bucket| horizon.touches(*bucket))) {
            return passages.places();
        }
        let batch = passages.batch();
        let fit = (decided..batch.len()).take_while(|place| {
            let bucket = Bucket::of(batch.event_time(*place));
            !horizon.touches(bucket) || self.fits(std::iter::once(bucket))
        });
        decided + fit.count()
    }

    /// Adds the windows if there is room for all of them.
    fn fits(&mut self, buckets: impl Iterator<Item = Bucket> + Clone) -> bool {
        let new = buckets
            .clone()
            .filter(|bucket| !self.buckets.contains(bucket))
            .count();
        let fits = self.buckets.len() + new <= FLUSH_WINDOWS_MAX;
        if fits {
            self.buckets.extend(buckets);
        }
        fits
    }
}
