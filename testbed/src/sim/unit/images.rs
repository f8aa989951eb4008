//! ● Images of a unit's store: one that is put back, and a copy of the unit that begins with one.

use proto::StreamId;

use super::super::disk::Image;
use super::super::scenario::Bug;
use super::super::stage::{Stage, UnitEvent};
use super::Unit;

/// A store as it was at some time.
#[derive(Debug, Clone)]
pub(in crate::sim) struct Backup {
    image: Image,
    begun: u64,
}

impl Unit {
    /// What is durable of its store.
    pub(in crate::sim) fn backup(&self) -> Backup {
        Backup {
            image: self.disk.image(),
            begun: self.begun,
        }
    }

    fn lay(&mut self, backup: Backup) {
        self.disk.lay(backup.image);
        self.begun = backup.begun;
    }

    /// Begins with a copy of another's store.
    pub(in crate::sim) fn start_as_copy(&mut self, stage: &mut Stage, backup: Backup) {
        stage.say(format_args!("{}: a copy of it begins", self.name));
        stage.oracle.copied(self.identity);
        self.lay(backup);
        self.start(stage);
    }

    /// Somebody switches it off, or on again.
    pub(in crate::sim) fn switch(&mut self, stage: &mut Stage, on: bool) {
        if self.off != on {
            return;
        }
        stage.say(format_args!("{}: switched on: {on}", self.name));
        self.off = !on;
        if on {
            self.later(stage, 100, UnitEvent::Start);
        } else {
            self.crash(stage);
        }
    }

    /// An image of the store is taken, or the one that was taken is put back; it may be kept, and be
    /// put back again.
    pub(in crate::sim) fn put_back(&mut self, stage: &mut Stage) {
        if self.running.is_none() {
            return;
        }
        let Some(backup) = self.taken.clone() else {
            self.taken = Some(self.backup());
            let held = self.disk.held();
            stage.oracle.image_taken(self.identity, self.place, held);
            return stage.say(format_args!("{}: an image is taken", self.name));
        };
        self.crash(stage);
        self.lay(backup);
        stage.say(format_args!("{}: the image is put back", self.name));
        stage.oracle.put_back(self.identity, self.place);
        if stage.dice.percent(50) {
            self.taken = None;
        }
    }

    /// What the next run calls its stream.
    pub(super) fn next_stream(&mut self, stage: &mut Stage) -> StreamId {
        let drawn = stage.dice.name();
        if self.bug != Some(Bug::StreamFromStore) {
            return StreamId::from_bytes(drawn);
        }
        self.begun += 1;
        let of_unit = u128::from(self.begun) << 64 | self.identity as u128;
        StreamId::from_bytes(of_unit.to_be_bytes())
    }
}
