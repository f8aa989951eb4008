//! ● Reading: `aggregator/src/commit/load.rs`.

use aggregator::window::finality::Finality;
use aggregator::window::rollup::WindowId;
use aggregator::window::state::{Day, DeviceState, Memory};
use proto::{DeviceId, StreamId};

use super::Database;

const DAY_MS: i64 = 86_400_000;

impl Database {
    /// Brings devices into memory, and enters those that are not known.
    pub(in crate::sim) fn load_devices(
        &mut self,
        memory: &mut Memory,
        devices: &[DeviceId],
        today: i64,
    ) {
        for device in devices {
            let next = i32::try_from(self.tables.devices.len()).unwrap_or(i32::MAX) + 1;
            let key = *self.tables.devices.entry(device.clone()).or_insert(next);
            let status = self.tables.status.get(&key).cloned().unwrap_or_default();
            let of_device = || {
                let all = self.tables.cursors.iter();
                all.filter(move |((of, _), _)| *of == key)
            };
            let begun = of_device().filter(|(_, (_, first_seen))| *first_seen >= today * DAY_MS);
            let rejected = self
                .tables
                .rejected_days
                .get(&key)
                .copied()
                .unwrap_or_default();
            let state = DeviceState {
                key,
                finality: Finality::restored(
                    status.final_to_ms,
                    status.frontier,
                    status.cloned_at_ms,
                ),
                past: status.past,
                today: Day {
                    new_streams: begun.count(),
                    ..rejected.on(today)
                },
                cursors: of_device()
                    .filter(|(_, (cursor, _))| !cursor.is_settled() || cursor.awaits_rows())
                    .map(|((_, stream), (cursor, _))| (*stream, cursor.clone()))
                    .collect(),
                ..DeviceState::default()
            };
            memory.learn_device(device.clone(), state);
        }
    }

    pub(in crate::sim) fn load_cursors(
        &self,
        memory: &mut Memory,
        wanted: &[(DeviceId, StreamId)],
    ) {
        for (device, stream) in wanted {
            let key = memory.device(device).map_or(0, |state| state.key);
            let found = self.tables.cursors.get(&(key, *stream));
            let cursor = found.map(|(cursor, _)| cursor.clone()).unwrap_or_default();
            memory.learn_cursor(device, *stream, cursor);
        }
    }

    pub(in crate::sim) fn load_windows(
        &self,
        memory: &mut Memory,
        wanted: &[(DeviceId, WindowId)],
    ) {
        for (device, id) in wanted {
            let key = memory.device(device).map_or(0, |state| state.key);
            let window = self
                .tables
                .windows
                .get(&(key, *id))
                .cloned()
                .unwrap_or_default();
            memory.learn_window(device, *id, window);
        }
    }

    pub(in crate::sim) fn stream_keys(&mut self, count: usize) -> Vec<i32> {
        let next = || {
            self.tables.stream_key += 1;
            self.tables.stream_key
        };
        std::iter::repeat_with(next).take(count).collect()
    }
}
