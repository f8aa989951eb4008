//! Committed state in memory: what the database holds, as far as it is known here.
//!
//! A plan reads it and never changes it; a known COMMIT installs what the plan has written. It
//! belongs to the fencing tokens under which it was loaded and is thrown away with them.
//!
//! An entry with revision 0 is knowledge, too: the database has no such row.

use std::collections::HashMap;

use proto::device::{DeviceId, StreamId};
use proto::limits::STREAMS_MAX;
use proto::passage::EventTime;
use proto::topic::Shard;
use proto::window::SpeedStats;

use super::dedup::Cursor;
use super::finality::Finality;
use super::past::Past;
use super::rollup::WindowId;

/// The absolute value of one window.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Window {
    /// What it holds.
    pub stats: SpeedStats,
    /// How many times the database has written it; 0 when it is not there.
    pub rev: i32,
    /// Whether it was changed after it was final.
    pub revised: bool,
}

/// Counts of one day (UTC) of receipt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Day {
    /// Days since 1970.
    pub day: i64,
    /// Streams that began.
    pub new_streams: usize,
    /// Passages that no window took.
    pub rejected: i64,
    /// Those of them that are kept whole.
    pub rejected_kept: i64,
}

impl Day {
    /// These counts if they are of `day`, otherwise those of a fresh day.
    #[must_use]
    pub fn on(self, day: i64) -> Self {
        if self.day == day {
            self
        } else {
            Self {
                day,
                ..Self::default()
            }
        }
    }
}

/// What is known of one device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceState {
    /// Its number in all tables.
    pub key: i32,
    /// Cursors: all that are not settled, those whose raw rows are to come, and others as they were
    /// needed.
    pub cursors: HashMap<StreamId, Cursor>,
    /// Windows, and the flush that touched each last.
    pub windows: HashMap<WindowId, (Window, u64)>,
    /// How far it is complete.
    pub finality: Finality,
    /// What no longer changes by itself.
    pub past: Past,
    /// Today's counts.
    pub today: Day,
}

/// What a plan has changed of one device, installed after its COMMIT.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceChange {
    /// The device's number in all tables.
    pub key: i32,
    /// Cursors in their new form.
    pub cursors: HashMap<StreamId, Cursor>,
    /// Windows in their new form.
    pub windows: HashMap<WindowId, Window>,
    /// The new finality.
    pub finality: Finality,
    /// The new past.
    pub past: Past,
    /// Whether the database should be told of finality and past.
    pub status_changed: bool,
    /// How the device stood before.
    pub before: Before,
    /// Whether this flush found the identity cloned.
    pub clone_alarm: bool,
    /// The new counts.
    pub today: Day,
    /// Whether the database should be told of its rejected passages.
    pub rejected_changed: bool,
    /// Passages that leave the side table.
    pub taken: Vec<TakenRow>,
}

/// What the plan of a change has found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Before {
    /// How far the device was final.
    pub final_to_ms: Option<i64>,
    /// When two streams of it had last advanced by turns.
    pub cloned_at_ms: Option<i64>,
    /// How often its past had changed.
    pub past_changes: i64,
}

/// Names a passage of the side table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TakenRow {
    /// Key of the stream.
    pub stream_key: i32,
    /// Its number.
    pub seq: u64,
    /// When it happened.
    pub event_time: EventTime,
    /// Whether a summary has brought it into the windows before.
    pub counted: bool,
}

impl DeviceChange {
    /// Whether the version that a window overwrites is one that answers may have called final: that
    /// one is kept.
    #[must_use]
    pub fn keeps_version_before(&self, id: WindowId, window: &Window) -> bool {
        window.rev > 1 && self.before.final_to_ms.is_some_and(|to| id.end_ms() <= to)
    }
}

/// Everything that is known.
#[derive(Debug, Default)]
pub struct Memory {
    devices: HashMap<DeviceId, DeviceState>,
    windows: usize,
    flush: u64,
}

/// Settled cursors that a device keeps in memory; more are forgotten and read again when needed.
const SETTLED_CURSORS_KEPT: usize = 8;

/// The same of those whose raw rows are to come: as many as a unit speaks of at a time. What it no
/// longer speaks of is booked by its next word; of more than these, when they are read again.
pub const AWAITING_CURSORS_KEPT: usize = STREAMS_MAX;

impl Memory {
    /// Nothing known.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What is known of a device.
    #[must_use]
    pub fn device(&self, device: &DeviceId) -> Option<&DeviceState> {
        self.devices.get(device)
    }

    /// How many devices are known.
    #[must_use]
    pub fn device_count(&self) -> usize {
        self.devices.len()
    }

    /// How many windows are known.
    #[must_use]
    pub const fn window_count(&self) -> usize {
        self.windows
    }

    /// Takes a device over from the database.
    pub fn learn_device(&mut self, device: DeviceId, state: DeviceState) {
        self.windows += state.windows.len();
        if let Some(before) = self.devices.insert(device, state) {
            self.windows -= before.windows.len();
        }
    }

    /// Takes a cursor over from the database.
    pub fn learn_cursor(&mut self, device: &DeviceId, stream: StreamId, cursor: Cursor) {
        if let Some(state) = self.devices.get_mut(device) {
            state.cursors.insert(stream, cursor);
        }
    }

    /// Takes a window over from the database.
    pub fn learn_window(&mut self, device: &DeviceId, id: WindowId, window: Window) {
        let flush = self.flush;
        if let Some(state) = self.devices.get_mut(device)
            && state.windows.insert(id, (window, flush)).is_none()
        {
            self.windows += 1;
        }
    }

    /// Takes over what a committed plan has changed.
    pub fn install(&mut self, changes: HashMap<DeviceId, DeviceChange>) {
        self.flush += 1;
        let flush = self.flush;
        for (device, change) in changes {
            let Some(state) = self.devices.get_mut(&device) else {
                continue;
            };
            state.finality = change.finality;
            state.past = change.past;
            state.today = change.today;
            state.cursors.extend(change.cursors);
            let before = state.windows.len();
            let windows = change
                .windows
                .into_iter()
                .map(|(id, window)| (id, (window, flush)));
            state.windows.extend(windows);
            self.windows += state.windows.len() - before;
            // Streams that the database does not know: a unit may name any number of them.
            state.cursors.retain(|_, cursor| cursor.rev > 0);
            forget_settled(&mut state.cursors);
        }
    }

    /// Forgets windows until at most `most` are left, those first that were untouched longest.
    pub fn shrink_to(&mut self, most: usize) {
        if self.windows <= most {
            return;
        }
        let mut touched: Vec<u64> = self
            .devices
            .values()
            .flat_map(|state| state.windows.values().map(|(_, flush)| *flush))
            .collect();
        // A quarter more goes at once, so that the next flushes find room.
        let excess = touched.len() - most + most / 4;
        let place = excess.min(touched.len()) - 1;
        let (_, &mut oldest, _) = touched.select_nth_unstable(place);
        for state in self.devices.values_mut() {
            state.windows.retain(|_, (_, flush)| *flush > oldest);
        }
        self.windows = self.devices.values().map(|state| state.windows.len()).sum();
    }

    /// Forgets the devices of all shards but these.
    pub fn keep_shards(&mut self, keep: impl Fn(Shard) -> bool) {
        self.devices.retain(|device, _| keep(Shard::of(device)));
        self.windows = self.devices.values().map(|state| state.windows.len()).sum();
    }
}

fn forget_settled(cursors: &mut HashMap<StreamId, Cursor>) {
    for (awaiting, kept) in [(false, SETTLED_CURSORS_KEPT), (true, AWAITING_CURSORS_KEPT)] {
        let settled = |cursor: &Cursor| cursor.is_settled() && cursor.awaits_rows() == awaiting;
        let all = cursors.values().filter(|cursor| settled(cursor));
        let mut keys: Vec<i32> = all.map(|cursor| cursor.stream_key).collect();
        if let Some(forgotten) = keys.len().checked_sub(kept).filter(|more| *more > 0) {
            keys.sort_unstable();
            let newest = keys[forgotten];
            cursors.retain(|_, cursor| !settled(cursor) || cursor.stream_key >= newest);
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::ranges::{Seq, SeqRange, SeqSet};
    use proto::window::BUCKET_MS;

    use super::super::rollup::Length;
    use super::*;

    fn window(n: i64) -> WindowId {
        WindowId {
            length: Length::Minutes5,
            start_ms: n * BUCKET_MS,
        }
    }

    #[test]
    fn the_windows_untouched_longest_are_forgotten_first() {
        let device = DeviceId::new("KV1").unwrap();
        let mut memory = Memory::new();
        memory.learn_device(device.clone(), DeviceState::default());
        for n in 0..100 {
            let windows = HashMap::from([(window(n), Window::default())]);
            let change = DeviceChange {
                windows,
                ..DeviceChange::default()
            };
            memory.install(HashMap::from([(device.clone(), change)]));
        }
        memory.shrink_to(80);
        let state = memory.device(&device).unwrap();
        assert_eq!(memory.window_count(), state.windows.len());
        assert_eq!(memory.window_count(), 60);
        assert!(state.windows.contains_key(&window(99)));
        assert!(!state.windows.contains_key(&window(0)));
        memory.shrink_to(80);
        assert_eq!(memory.window_count(), 60);
    }

    #[test]
    fn streams_that_were_only_named_take_no_memory() {
        let device = DeviceId::new("KV1").unwrap();
        let mut memory = Memory::new();
        memory.learn_device(device.clone(), DeviceState::default());
        let known = Cursor {
            stream_key: 1,
            rev: 1,
            ..Cursor::default()
        };
        memory.learn_cursor(&device, StreamId::from_bytes([255; 16]), known);
        for n in 0..100_u8 {
            let stream = StreamId::from_bytes([n; 16]);
            memory.learn_cursor(&device, stream, Cursor::default());
        }
        memory.install(HashMap::from([(device.clone(), DeviceChange::default())]));
        assert_eq!(memory.device(&device).unwrap().cursors.len(), 1);
    }

    #[test]
    fn settled_cursors_are_forgotten_but_never_open_ones() {
        let mut cursors = HashMap::new();
        for n in 0..210_u8 {
            let seqs = SeqSet::from(SeqRange::from_count(Seq::FIRST, 1).unwrap());
            let cursor = match n % 3 {
                0 => Cursor::default().count(&seqs, true).unwrap(),
                1 => Cursor::default().count(&seqs, false).unwrap(),
                _ => Cursor {
                    accepted_to: 1,
                    ..Cursor::default()
                },
            };
            let stream_key = i32::from(n);
            let cursor = Cursor {
                stream_key,
                ..cursor
            };
            cursors.insert(StreamId::from_bytes([n; 16]), cursor);
        }
        forget_settled(&mut cursors);
        let kept = |least: i32, which: fn(&Cursor) -> bool| {
            let kept = cursors.values().filter(|cursor| which(cursor));
            let keys: Vec<i32> = kept.map(|cursor| cursor.stream_key).collect();
            assert!(keys.iter().all(|key| *key >= least), "{keys:?}");
            keys.len()
        };
        assert_eq!(kept(0, |cursor| !cursor.is_settled()), 70);
        let awaits = |cursor: &Cursor| cursor.is_settled() && cursor.awaits_rows();
        assert_eq!(kept(3 * (70 - 64), awaits), 64);
        let settled = |cursor: &Cursor| cursor.is_settled() && !cursor.awaits_rows();
        assert_eq!(kept(3 * (70 - 8), settled), 8);
    }
}
