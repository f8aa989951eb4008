//! ● What lies where: accepted = counted + lost + held, and counted = stored + lost rows + held, over
//! all stores of a unit.
//!
//! A unit has one store, and another where a copy of it runs. One that is put back to an earlier image
//! takes with it what was accepted since: that is `gone`, as far as no copy has it. Of what is gone,
//! whatever the centre has heard of must end in the ledger.

use std::collections::BTreeMap;

use proto::loss::Loss;
use proto::{SeqSet, StreamId};

use super::{Oracle, show};

/// Numbers, stream by stream.
type Numbers = BTreeMap<StreamId, SeqSet>;

static NONE: SeqSet = SeqSet::new();

/// What lies at one place.
#[derive(Debug, Clone, Default)]
struct Store {
    held: Numbers,
    losses: Vec<(StreamId, Loss)>,
}

/// All stores.
#[derive(Debug, Default)]
pub(super) struct Stores {
    /// By unit and place.
    present: BTreeMap<(usize, usize), Store>,
    /// The image that was taken of each, and what had been accepted there by then.
    images: BTreeMap<(usize, usize), (Store, Numbers)>,
    /// What was accepted, and lies nowhere any more since a store was put back.
    gone: Numbers,
}

impl Stores {
    pub(super) fn gone(&self, stream: StreamId) -> &SeqSet {
        self.gone.get(&stream).unwrap_or(&NONE)
    }

    fn of(&self, unit: usize) -> impl Iterator<Item = &Store> {
        let all = self.present.range((unit, 0)..(unit + 1, 0));
        all.map(|(_, store)| store)
    }
}

impl Oracle {
    /// accepted = counted + lost + held, for a unit of which this lies at one of its places.
    pub(in crate::sim) fn identity(
        &mut self,
        unit: usize,
        place: usize,
        held: Numbers,
        losses: &[(StreamId, Loss)],
    ) {
        let store = self.stores.present.entry((unit, place)).or_default();
        store.held = held;
        if store.losses != losses {
            store.losses = losses.to_vec();
        }
        let mut missing = None;
        for (stream, accepted) in &self.streams {
            if accepted.unit != unit {
                continue;
            }
            let gone = self.stores.gone(*stream);
            let mut left = accepted.all.difference(gone);
            let mut rows = SeqSet::new();
            if let Some(cursor) = self.expected.cursors.get(stream) {
                left = left.difference(&cursor.counted).difference(&cursor.lost);
                rows = cursor.awaited().difference(gone);
            }
            for store in self.stores.of(unit) {
                let held = store.held.get(stream).unwrap_or(&NONE);
                left = left.difference(held);
                rows = rows.difference(held);
                for (_, loss) in store.losses.iter().filter(|(of, _)| of == stream) {
                    left.remove(loss.range);
                    rows.remove(loss.range);
                }
            }
            if !left.is_empty() {
                missing = Some(format!(
                    "unit {unit} accepted {} of {stream}, which is neither counted nor lost nor held",
                    show(&left)
                ));
            }
            if !rows.is_empty() {
                missing = Some(format!(
                    "the raw rows of {} of {stream} are neither stored nor lost nor held",
                    show(&rows)
                ));
            }
        }
        missing.into_iter().for_each(|missing| self.fail(missing));
    }

    /// The power went at a place where this is durable. What was written by the last commit, and not
    /// shown to anybody, is not known here until it starts again; so what was there before counts as
    /// held as well.
    pub(in crate::sim) fn cut(&mut self, unit: usize, place: usize, held: Numbers) {
        let store = self.stores.present.entry((unit, place)).or_default();
        for (stream, held) in held {
            let known = store.held.entry(stream).or_default();
            *known = known.union(&held);
        }
    }

    /// An image is taken of the store at a place, which holds this.
    pub(in crate::sim) fn image_taken(&mut self, unit: usize, place: usize, held: Numbers) {
        let present = self.stores.present.get(&(unit, place));
        let losses = present.map_or_else(Vec::new, |store| store.losses.clone());
        let here = self.streams.iter().filter(|(_, of)| of.place == place);
        let accepted = here.map(|(stream, of)| (*stream, of.all.clone())).collect();
        let image = (Store { held, losses }, accepted);
        self.stores.images.insert((unit, place), image);
    }

    /// That image is put back. Nobody there knows the ids of what came after, so it may be posted again.
    pub(in crate::sim) fn put_back(&mut self, unit: usize, place: usize) {
        self.tally.put_back += 1;
        let stores = &mut self.stores;
        let (store, accepted) = stores.images[&(unit, place)].clone();
        stores.present.insert((unit, place), store);
        for (stream, of) in self.streams.iter().filter(|(_, of)| of.place == place) {
            let before = accepted.get(stream).unwrap_or(&NONE);
            let mut after = of.all.difference(before);
            for seq in after.iter() {
                self.times.remove(&(unit, of.facts[&seq.get()].event_ms));
            }
            for store in stores.of(unit) {
                after = after.difference(store.held.get(stream).unwrap_or(&NONE));
            }
            let gone = stores.gone.entry(*stream).or_default();
            *gone = gone.union(&after);
        }
    }

    /// Of what a store took with it when it was put back, what the centre has heard of and nobody
    /// explains.
    ///
    /// While a unit is called cloned no word of what it holds is believed.
    pub(in crate::sim) fn unexplained(&self, now_ms: i64) -> Option<String> {
        self.stores.gone.iter().find_map(|(stream, gone)| {
            if self.is_called_cloned(self.streams.get(stream)?.unit, now_ms) {
                return None;
            }
            let cursor = self.expected.cursors.get(stream)?;
            let to_come = cursor.open().union(&cursor.awaited()).intersection(gone);
            (!to_come.is_empty()).then(|| format!("nobody explains {} of {stream}", show(&to_come)))
        })
    }
}
