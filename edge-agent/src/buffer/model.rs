//! The engine against a naive model: any order of appends, reads, receipts, refusals, summaries, full
//! quotas and restarts leaves every number exactly where the ledger says it is.

mod centre;
mod checks;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;
use proto::device::CentreId;
use proto::loss::LossScope;
use proto::passage::{EventTime, Passage, Speed};
use proto::ranges::{Seq, SeqRange, SeqSet};
use proto::receipt::{Centre, StreamReceipt};
use proto::window::fold;
use proto::{DeviceId, PassageBatch, StreamId};

use super::engine::Engine;
use super::records::{Marks, from_bytes};
use super::{
    Admitted, AppendError, BufferSettings, BufferState, CentreVerdict, EventKey, FoldScope,
    PendingSummary, QuotaPolicy, ReadLimit, StoreHealth, keys,
};

const NOW_MS: i64 = 1_743_848_130_000;
const YEAR_2000_MS: i64 = 946_684_800_000;
const LIMIT: ReadLimit = ReadLimit {
    passages: 75,
    bytes: 8_192,
};

pub(crate) fn settings(directory: &Path, quota_bytes: u64, policy: QuotaPolicy) -> BufferSettings {
    BufferSettings {
        device: DeviceId::new("KV1").unwrap(),
        directory: directory.to_owned(),
        quota_bytes,
        free_floor_bytes: 0,
        policy,
        linger: Duration::ZERO,
        open_timeout: Duration::from_secs(60),
    }
}

fn centre(timeline: u32) -> Centre {
    Centre {
        id: CentreId::from_bytes([9; 16]),
        timeline,
    }
}

/// With little reserved ahead, so that a few passages are enough to have some that were never offered;
/// a reservation is two messages long.
fn open(settings: &BufferSettings) -> Engine {
    let mut engine = Engine::open(settings, NOW_MS).unwrap();
    engine.offered_ahead_max = 4 * LIMIT.passages as u64;
    engine.offers_ahead = true;
    engine
}

#[derive(Debug, Clone)]
enum Operation {
    /// So many new passages, the last ones of the append before again.
    Append {
        new: usize,
        again: usize,
        ids: bool,
    },
    /// The centre gets a batch and counts it; it may keep the raw rows, and books losses.
    Deliver {
        stream: usize,
        store: bool,
        book: bool,
    },
    /// A build of the centre refuses what it would get next.
    Refuse {
        stream: usize,
        passages: u64,
        build: u8,
    },
    /// A build of the centre shows itself, perhaps a new one.
    Build(u8),
    /// Whether passages leave as they come.
    Flow(bool),
    /// What was never offered is folded, up to so many from the last; with strict limits to their
    /// windows perhaps.
    Fold {
        stream: usize,
        young: u64,
        strict: bool,
    },
    /// Summaries are offered.
    Summaries {
        stream: usize,
        fate: Fate,
    },
    /// A standby without the last commits is promoted.
    Promote,
    Reopen,
}

/// What becomes of a summary.
#[derive(Debug, Clone, Copy)]
enum Fate {
    /// It, or its receipt, is lost.
    Silence,
    Counted,
    /// The centre has counted the first so many of its numbers otherwise, and takes it in no form.
    Refused(u64),
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        Just(Fate::Silence),
        Just(Fate::Counted),
        (0..300_u64).prop_map(Fate::Refused),
    ]
}

fn operation() -> impl Strategy<Value = Operation> {
    let deliver = (0..4_usize, any::<bool>(), any::<bool>());
    prop_oneof![
        6 => (1..260_usize, 0..20_usize, any::<bool>())
            .prop_map(|(new, again, ids)| Operation::Append { new, again, ids }),
        3 => (1..4_usize, Just(0), any::<bool>())
            .prop_map(|(new, again, ids)| Operation::Append { new, again, ids }),
        6 => deliver.prop_map(|(stream, store, book)| Operation::Deliver { stream, store, book }),
        2 => (0..4_usize, 1..200_u64, 1..4_u8).prop_map(|(stream, passages, build)| {
            Operation::Refuse { stream, passages, build }
        }),
        1 => (1..4_u8).prop_map(Operation::Build),
        2 => any::<bool>().prop_map(Operation::Flow),
        4 => (0..4_usize, 0..200_u64, prop::bool::weighted(0.2))
            .prop_map(|(stream, young, strict)| Operation::Fold { stream, young, strict }),
        4 => (0..4_usize, fate()).prop_map(|(stream, fate)| Operation::Summaries { stream, fate }),
        1 => Just(Operation::Promote),
        2 => Just(Operation::Reopen),
    ]
}

/// What the centre knows of one stream.
#[derive(Debug, Clone, Default)]
struct Cursor {
    counted: SeqSet,
    stored: SeqSet,
    lost: SeqSet,
}

struct World {
    settings: BufferSettings,
    engine: Option<Engine>,
    /// Every passage ever accepted, by stream and number.
    accepted: BTreeMap<[u8; 16], Vec<Passage>>,
    known_ids: BTreeSet<[u8; 16]>,
    last_append: Vec<Admitted>,
    made: u64,
    timeline: u32,
    cursors: BTreeMap<[u8; 16], Cursor>,
    /// What any life of the centre had counted, by stream.
    told: BTreeMap<[u8; 16], SeqSet>,
    /// Streams that were left out once, for the centre had settled all of them.
    forgotten: BTreeSet<[u8; 16]>,
    /// What each build of the centre refused, by stream.
    refused: BTreeMap<(u8, [u8; 16]), SeqSet>,
}

/// Whether it lies where the centre takes no summaries.
fn is_wild(at: EventTime) -> bool {
    at.as_millis() < NOW_MS - 58 * 86_400_000
}

fn name(build: u8) -> String {
    format!("build {build}")
}

impl World {
    fn new(directory: &Path, quota_bytes: u64, policy: QuotaPolicy) -> Self {
        let settings = settings(directory, quota_bytes, policy);
        Self {
            engine: Some(open(&settings)),
            settings,
            accepted: BTreeMap::new(),
            known_ids: BTreeSet::new(),
            last_append: Vec::new(),
            made: 0,
            timeline: 1,
            cursors: BTreeMap::new(),
            told: BTreeMap::new(),
            forgotten: BTreeSet::new(),
            refused: BTreeMap::new(),
        }
    }

    fn engine(&mut self) -> &mut Engine {
        self.engine.as_mut().unwrap()
    }

    fn state(&mut self) -> BufferState {
        self.engine().state(StoreHealth::Ok)
    }

    fn stream(&mut self, place: usize) -> Option<StreamId> {
        let streams = self.state().streams;
        (!streams.is_empty()).then(|| streams[place % streams.len()].id)
    }

    fn passage(&mut self, ids: bool) -> Admitted {
        self.made += 1;
        let n = self.made;
        // Mostly in order, some hours late.
        let late = if n.is_multiple_of(29) { 7_200_000 } else { 0 };
        let passed_ms = i64::try_from(n).unwrap() * 900;
        // Sometimes the camera's clock begins anew.
        let event_ms = match n {
            _ if n.is_multiple_of(61) => passed_ms,
            _ if n.is_multiple_of(89) => YEAR_2000_MS + passed_ms,
            _ => NOW_MS + passed_ms - late,
        };
        let passage = Passage {
            event_time: EventTime::from_millis(event_ms),
            speed: Speed::from_centi_kmh(u16::try_from(n * 31 % 20_000).unwrap()),
            extra: n
                .is_multiple_of(50)
                .then(|| format!(r#"{{"n":{n}}}"#).into()),
            ..Passage::default()
        };
        let id = ids.then(|| {
            let mut id = [0; 16];
            id[..8].copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
            EventKey(id)
        });
        Admitted {
            passage,
            event_id: id,
        }
    }

    fn apply(&mut self, operation: &Operation) {
        match operation {
            Operation::Append { new, again, ids } => self.append(*new, *again, *ids),
            Operation::Deliver {
                stream,
                store,
                book,
            } => self.deliver(*stream, *store, *book),
            Operation::Refuse {
                stream,
                passages,
                build,
            } => self.refuse(*stream, *passages, *build),
            Operation::Build(build) => self.show_build(*build),
            Operation::Flow(on) => self.engine().offers_ahead = *on,
            Operation::Fold {
                stream,
                young,
                strict,
            } => self.fold(*stream, *young, *strict),
            Operation::Summaries { stream, fate } => self.summaries(*stream, *fate),
            Operation::Promote => {
                self.timeline += 1;
                for (id, cursor) in std::mem::take(&mut self.cursors) {
                    let told = self.told.entry(id).or_default();
                    *told = told.union(&cursor.counted);
                }
                let verdict = self.receipt(Vec::new());
                assert!(matches!(
                    verdict,
                    CentreVerdict::NewTimeline | CentreVerdict::Pinned
                ));
                self.check_doubt();
            }
            Operation::Reopen => {
                self.engine = None;
                self.engine = Some(open(&self.settings));
                assert_eq!(self.state().alarms.len(), usize::from(self.has_aside()));
            }
        }
        self.check();
    }

    fn has_aside(&mut self) -> bool {
        !self.engine().aside.is_empty()
    }

    fn append(&mut self, new: usize, again: usize, ids: bool) {
        let from = self.last_append.len().saturating_sub(again);
        let mut passages: Vec<_> = self.last_append[from..].to_vec();
        passages.extend((0..new).map(|_| self.passage(ids)));
        let is_new = |admitted: &&Admitted| {
            admitted
                .event_id
                .is_none_or(|id| !self.known_ids.contains(&id.0))
        };
        let expected: Vec<_> = passages.iter().filter(is_new).cloned().collect();
        let staged = self.engine().stage(&passages, NOW_MS).unwrap();
        self.engine().commit(NOW_MS).unwrap();
        match staged {
            Ok(appended) => {
                assert_eq!(appended.accepted as usize, expected.len());
                assert_eq!(
                    appended.duplicates as usize,
                    passages.len() - expected.len()
                );
                let stream = self
                    .state()
                    .streams
                    .last()
                    .map(|stream| *stream.id.as_bytes());
                for admitted in expected {
                    self.known_ids.extend(admitted.event_id.map(|id| id.0));
                    self.accepted
                        .entry(stream.unwrap())
                        .or_default()
                        .push(admitted.passage);
                }
                self.last_append = passages;
            }
            Err(refusal) => {
                assert!(matches!(refusal, AppendError::Full { .. }), "{refusal}");
                assert!(self.engine().held_bytes >= self.settings.quota_bytes);
            }
        }
    }

    fn view(&mut self, id: StreamId) -> std::sync::Arc<super::StreamState> {
        let mut streams = self.state().streams.into_iter();
        streams.find(|known| known.id == id).unwrap()
    }

    fn fold(&mut self, stream: usize, young: u64, strict: bool) {
        let Some(id) = self.stream(stream) else {
            return;
        };
        let before = self.view(id);
        let hour_ms = if strict { 3_600_000 } else { NOW_MS };
        let scope = FoldScope {
            to: before.accepted_to.saturating_sub(young),
            if_before: None,
            windows_from: EventTime::from_millis(NOW_MS - hour_ms),
            windows_to: EventTime::from_millis(NOW_MS * 2),
        };
        let mut passages = 0;
        loop {
            let folded = self.engine().fold(id, &scope).unwrap();
            passages += folded.passages;
            if !folded.more {
                break;
            }
        }
        let after = self.view(id);
        let news = after.summed.difference(&before.summed);
        assert_eq!(news.count(), passages);
        assert!(news.last().is_none_or(|last| last.get() <= scope.to));
        assert!(
            news.is_disjoint(&before.offered),
            "it may be counted already"
        );
        assert!(news.is_disjoint(&before.counted), "it is counted already");
        if !strict {
            let open = before.unsent.difference(&before.again);
            let open = open.difference(&before.offered).difference(&before.counted);
            let left = open.difference(&after.summed);
            let is_young = left
                .ranges()
                .first()
                .is_none_or(|run| run.first().get() > scope.to);
            assert!(
                is_young || after.summed.range_count() > 8,
                "{left:?} was left out"
            );
        }
        self.engine().commit(NOW_MS).unwrap();
    }
}

fn run(quota_bytes: u64, policy: QuotaPolicy, operations: &[Operation]) {
    let place = tempfile::tempdir().unwrap();
    let mut world = World::new(place.path(), quota_bytes, policy);
    for operation in operations {
        world.apply(operation);
    }
    world.apply(&Operation::Reopen);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn nothing_vanishes_with_room_to_spare(
        operations in prop::collection::vec(operation(), 1..40),
    ) {
        run(1 << 30, QuotaPolicy::DropOldest, &operations);
    }

    #[test]
    fn nothing_vanishes_while_the_oldest_is_dropped(
        operations in prop::collection::vec(operation(), 1..40),
    ) {
        run(24 * 1024, QuotaPolicy::DropOldest, &operations);
    }

    #[test]
    fn nothing_vanishes_while_the_new_is_refused(
        operations in prop::collection::vec(operation(), 1..40),
    ) {
        run(12 * 1024, QuotaPolicy::RefuseNew, &operations);
    }
}

#[test]
fn what_one_build_refused_and_another_took_again_is_where_the_ledger_says() {
    let append = |new, ids| Operation::Append { new, again: 0, ids };
    let refuse = |passages, build| Operation::Refuse {
        stream: 0,
        passages,
        build,
    };
    let deliver = Operation::Deliver {
        stream: 0,
        store: false,
        book: true,
    };
    let operations = [
        append(33, false),
        Operation::Reopen,
        refuse(1, 1),
        refuse(32, 2),
        append(1, false),
        deliver,
        append(2, true),
        Operation::Build(1),
    ];
    run(1 << 30, QuotaPolicy::DropOldest, &operations);
}
