//! How a run begins: the store is opened, or taken as it was handed over, what damage did is made good,
//! and the number of the run is made durable.

use std::collections::BTreeMap;

use proto::StreamId;
use proto::heartbeat::Disk;

use super::rebuild::REBUILD_FILE_BYTES_MIN;
use super::recover::Recovery;
use super::{Engine, FILE_BYTES_PER_HELD, Staging};
use crate::buffer::keys;
use crate::buffer::loading::Loaded;
use crate::buffer::medium::{Changes, StoreError};
use crate::buffer::opening::{Home, directory_bytes};
use crate::buffer::records::{FORMAT, to_bytes};
use crate::buffer::salvage;
use crate::buffer::store::main_file;
use crate::buffer::stream::Stream;
use crate::buffer::witness::Witness;
use crate::buffer::{BufferSettings, Counters, HandedOver, OFFERED_AHEAD_MAX, OpenError};

impl Engine {
    /// Opens the store and begins a new run in it, durably.
    pub(in crate::buffer) fn open(
        settings: &BufferSettings,
        now_ms: i64,
    ) -> Result<Self, OpenError> {
        let home = Home::enter(&settings.directory, &settings.device)?;
        Self::open_in(home, settings.clone(), now_ms)
    }

    pub(super) fn open_in(
        home: Home,
        settings: BufferSettings,
        now_ms: i64,
    ) -> Result<Self, OpenError> {
        let (witness, said) =
            Witness::open(&settings.directory).map_err(|source| OpenError::Directory {
                path: settings.directory.clone(),
                source,
            })?;
        // Before the store is opened, which may wipe them.
        let newest = salvage::newest_segments(&main_file(&home.store()));
        let aside_bytes_max = settings.quota_bytes / 2 * FILE_BYTES_PER_HELD;
        let opened = home.open(settings.open_timeout, aside_bytes_max, Loaded::read)?;
        let stores = std::iter::once(opened.home.store()).chain(opened.quarantined.clone());
        let recovery = Recovery {
            said,
            moved_aside: opened.moved_aside,
            newest,
            files: stores.map(|store| main_file(&store)).collect(),
        };
        let home = Some(opened.home);
        let mut engine = Self::begin(settings, home, opened.loaded, draw_stream()?, now_ms);
        let foreign = opened.foreign.iter().map(|foreign| &foreign.directory);
        let aside = opened.quarantined.iter().chain(foreign);
        engine.stores_aside_bytes = aside.map(|store| directory_bytes(store)).sum();
        engine.quarantined = opened.quarantined;
        engine.foreign_stores = opened.foreign;
        let recovered = engine.recover(&recovery);
        recovered.map_err(|error| engine.not_begun(&error))?;
        engine.witness = Some(witness);
        engine.start(now_ms)
    }

    pub(super) fn not_begun(&self, error: &StoreError) -> OpenError {
        OpenError::Store {
            path: self.settings.directory.clone(),
            problem: error.to_string(),
        }
    }

    /// Begins a new run in a medium that is open already.
    pub(in crate::buffer) fn over(
        settings: &BufferSettings,
        handed: HandedOver,
        now_ms: i64,
    ) -> Result<Self, OpenError> {
        let HandedOver {
            medium,
            stream,
            offered_ahead_max,
        } = handed;
        let loaded = Loaded::of(medium).map_err(|error| OpenError::Store {
            path: settings.directory.clone(),
            problem: error.to_string(),
        })?;
        let mut engine = Self::begin(settings.clone(), None, loaded, stream, now_ms);
        engine.offered_ahead_max = offered_ahead_max;
        engine.start(now_ms)
    }

    /// The same again, under the next name.
    pub(super) fn over_again(self, now_ms: i64) -> Result<Self, OpenError> {
        let next = u128::from_be_bytes(*self.next_id.as_bytes()).wrapping_add(1);
        let handed = HandedOver {
            medium: self.store,
            stream: StreamId::from_bytes(next.to_be_bytes()),
            offered_ahead_max: self.offered_ahead_max,
        };
        Self::over(&self.settings, handed, now_ms)
    }

    /// Closes the store and opens it again as a new run: what to do after a full disk.
    pub(in crate::buffer) fn restart(mut self, now_ms: i64) -> Result<Self, OpenError> {
        let Some(home) = self.home.take() else {
            return self.over_again(now_ms);
        };
        let Self {
            settings, store, ..
        } = self;
        drop(store);
        Self::open_in(home, settings, now_ms)
    }

    pub(super) fn begin(
        settings: BufferSettings,
        home: Option<Home>,
        loaded: Loaded,
        next_id: StreamId,
        now_ms: i64,
    ) -> Self {
        let Loaded {
            store,
            streams,
            ids,
            generation,
            run,
            centre,
            centre_time,
            aside,
            refusals,
        } = loaded;
        let held = |stream: &Stream| {
            let entries: u64 = stream
                .entries
                .iter()
                .map(|entry| u64::from(entry.bytes))
                .sum();
            let chunks: u64 = stream
                .chunks
                .iter()
                .map(|chunk| u64::from(chunk.bytes))
                .sum();
            entries + chunks
        };
        let aside_bytes: u64 = aside.iter().map(|(_, bytes)| u64::from(*bytes)).sum();
        Self {
            held_bytes: streams.iter().map(held).sum::<u64>() + aside_bytes,
            home,
            store,
            witness: None,
            generation,
            streams,
            has_current: false,
            offered_ahead_max: OFFERED_AHEAD_MAX,
            offers_ahead: false,
            rebuild_file_bytes_min: REBUILD_FILE_BYTES_MIN,
            durable_to: 0,
            open_entry: None,
            next_id,
            run: next_run(run, now_ms),
            changes: Changes::default(),
            staging: Staging::default(),
            ids,
            ids_changed: false,
            id_blocks: BTreeMap::new(),
            centre,
            foreign: None,
            centre_time,
            aside,
            refusals,
            quarantined: Vec::new(),
            foreign_stores: Vec::new(),
            stores_aside_bytes: 0,
            damage: None,
            counters: Counters::default(),
            disk: Disk::default(),
            settings,
        }
    }

    /// Makes the beginning of the run durable.
    pub(super) fn start(mut self, now_ms: i64) -> Result<Self, OpenError> {
        self.changes.put(keys::FACT_FORMAT, to_bytes(&FORMAT));
        self.changes.put(keys::FACT_RUN, to_bytes(&self.run));
        self.forget_streams();
        self.measure_disk();
        let began = self.commit(now_ms);
        began.map_err(|error| self.not_begun(&error))?;
        Ok(self)
    }
}

/// The name of a stream that no other run ever had.
fn draw_stream() -> Result<StreamId, OpenError> {
    let mut id = [0; 16];
    getrandom::fill(&mut id)?;
    Ok(StreamId::from_bytes(id))
}

/// Rises with every start, also when the store before was lost: then by the clock.
fn next_run(before: u32, now_ms: i64) -> u32 {
    let clock_s = u32::try_from(now_ms / 1_000).unwrap_or(0);
    before.saturating_add(1).max(clock_s)
}
