//! What others see of the engine, as of the last commit.

use proto::heartbeat::Backlog;
use proto::limits::LOSSES_MAX;

use super::Engine;
use crate::buffer::stream::Stream;
use crate::buffer::{Alarm, BufferState, StoreHealth};

impl Engine {
    /// What others see.
    pub(in crate::buffer) fn state(&mut self, health: StoreHealth) -> BufferState {
        let last = self.streams.len().wrapping_sub(1);
        let has_current = self.has_current;
        let views = self
            .streams
            .iter_mut()
            .enumerate()
            .map(|(place, stream)| stream.view(has_current && place == last))
            .collect();
        // Each stream its share: one whose losses the centre does not take hides those of no other.
        let lossy = self.streams.iter().filter(|s| !s.losses.is_empty());
        let share = (LOSSES_MAX / lossy.count().max(1)).max(1);
        let losses = self
            .streams
            .iter()
            .flat_map(|stream| {
                let of_stream = stream.losses.iter().take(share);
                of_stream.map(|loss| (stream.id, *loss))
            })
            .take(LOSSES_MAX)
            .collect();
        let summarised = self
            .streams
            .iter()
            .flat_map(|s| &s.entries)
            .map(|entry| entry.seqs.count())
            .sum();
        BufferState {
            streams: views,
            unsent: Backlog {
                passages: self
                    .streams
                    .iter()
                    .map(|stream| stream.unsent().count())
                    .sum(),
                bytes: self.streams.iter().map(|stream| stream.unsent_bytes).sum(),
                oldest: self.streams.iter().filter_map(Stream::oldest_unsent).min(),
                newest: self.streams.iter().filter_map(Stream::newest_unsent).max(),
                drain_per_min: None,
            },
            oldest_uncounted: self
                .streams
                .iter()
                .filter_map(Stream::oldest_uncounted)
                .min(),
            losses,
            summarised,
            disk: self.disk,
            held_bytes: self.held_bytes,
            run: self.run,
            health,
            centre: self.centre,
            centre_time: self.centre_time,
            counters: self.counters,
            alarms: self.alarms(),
        }
    }

    fn alarms(&self) -> Vec<Alarm> {
        let aside = self.quarantined.iter().cloned();
        let stores = aside.map(|directory| Alarm::StoreQuarantined { directory });
        let aside = self.foreign_stores.iter().cloned();
        let foreign_stores = aside.map(Alarm::StoreForeign);
        let damage = self.damage;
        let damage = damage.map(|(salvaged, lost)| Alarm::StoreDamaged { salvaged, lost });
        let passages = self.aside.iter().map(|(key, _)| key.range.count()).sum();
        let passages = (passages > 0).then_some(Alarm::PassagesQuarantined { passages });
        let foreign = self.foreign.map(|centre| Alarm::ForeignCentre { centre });
        stores
            .chain(foreign_stores)
            .chain(damage)
            .chain(passages)
            .chain(foreign)
            .collect()
    }
}
