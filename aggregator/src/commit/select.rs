//! Which messages, and how much of them, the next flush takes. Pure.
//!
//! A device changes at most [`FLUSH_WINDOWS_MAX`] 5-minute windows in one flush, so that a backlog of
//! one device does not hold up the others. A message that touches more is taken up to there; the rest
//! of it, and what the device has sent after it, waits for the next flush. The first message of a
//! device always gets on, so every message comes to its end.

use std::collections::{BTreeSet, HashMap, HashSet};

use proto::device::DeviceId;
use proto::window::Bucket;

use crate::intake::decode::{Body, Message, Passages};
use crate::window::dedup::Novelty;
use crate::window::lateness::Horizon;
use crate::window::rollup::{Length, WindowId};
use crate::window::state::Memory;

/// 5-minute windows that one device may change in one flush.
pub const FLUSH_WINDOWS_MAX: usize = 64;

/// A message that the flush takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Its place in the list.
    pub message: usize,
    /// How many of its passages, or of its summary entries; none: all.
    pub first: Option<usize>,
}

/// What the flush takes.
#[derive(Debug, Default)]
pub struct Selection {
    /// Messages in their order.
    pub parts: Vec<Part>,
    /// Places of messages that wait, wholly or in part, for the next flush.
    pub left_over: Vec<usize>,
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
        let place = *place;
        let device = &message.sender().device;
        let budget = devices.entry(device).or_default();
        let taken = if budget.spent {
            Taken::Nothing
        } else {
            budget.take(memory, message, horizon)
        };
        let part = |first| Part {
            message: place,
            first,
        };
        match taken {
            Taken::All => selection.parts.push(part(None)),
            Taken::First(first) => {
                selection.parts.push(part(Some(first)));
                selection.left_over.push(place);
            }
            Taken::Nothing => selection.left_over.push(place),
        }
        budget.spent |= taken != Taken::All;
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taken {
    All,
    First(usize),
    Nothing,
}

/// The windows that a device changes in this flush.
#[derive(Debug, Default)]
struct Budget {
    buckets: BTreeSet<Bucket>,
    spent: bool,
}

impl Budget {
    fn take(&mut self, memory: &Memory, message: &Message, horizon: &Horizon) -> Taken {
        match &message.body {
            Body::Passages(passages) => {
                let cursor = memory
                    .device(&message.sender().device)
                    .and_then(|state| state.cursors.get(&message.header.stream));
                if cursor.is_some_and(|c| c.novelty(passages.range) == Novelty::Settled) {
                    return Taken::All;
                }
                self.take_passages(passages, horizon)
            }
            Body::Summary(summary) => {
                let fit = summary.entries.iter().take_while(|entry| {
                    let buckets = entry.deltas.iter().map(|delta| delta.bucket);
                    // An entry that fits no flush is taken when it is the first: it is refused.
                    let hopeless = entry.deltas.len() > FLUSH_WINDOWS_MAX;
                    if hopeless {
                        self.buckets.is_empty()
                    } else {
                        self.fits(buckets)
                    }
                });
                let (fit, all) = (fit.count(), summary.entries.len());
                taken(fit, all)
            }
            Body::Losses(_) | Body::Heartbeat(_) | Body::Refused(_) => Taken::All,
        }
    }

    fn take_passages(&mut self, passages: &Passages, horizon: &Horizon) -> Taken {
        let buckets = passages.deltas.iter().map(|delta| delta.bucket);
        if self.fits(buckets.filter(|bucket| horizon.touches(*bucket))) {
            return Taken::All;
        }
        let batch = passages.batch();
        let fit = (0..batch.len()).take_while(|place| {
            let bucket = Bucket::of(batch.event_time(*place));
            !horizon.touches(bucket) || self.fits(std::iter::once(bucket))
        });
        taken(fit.count(), batch.len())
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

fn taken(fit: usize, all: usize) -> Taken {
    if fit == all {
        Taken::All
    } else if fit == 0 {
        Taken::Nothing
    } else {
        Taken::First(fit)
    }
}
