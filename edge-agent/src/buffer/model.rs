//! The engine against a naive model: any order of appends, reads, receipts, refusals, summaries, full
//! quotas and restarts leaves every number exactly where the ledger says it is.

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
use proto::{PassageBatch, StreamId};

use super::engine::Engine;
use super::{
    Admitted, AppendError, BufferSettings, BufferState, CentreVerdict, EventKey, FoldScope,
    PendingSummary, QuotaPolicy, ReadLimit, StoreHealth,
};

const NOW_MS: i64 = 1_743_848_130_000;
const LIMIT: ReadLimit = ReadLimit {
    passages: 150,
    bytes: 8_192,
};

pub(super) fn settings(directory: &Path, quota_bytes: u64, policy: QuotaPolicy) -> BufferSettings {
    BufferSettings {
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

/// With little reserved ahead, so that a few passages are enough to have some that were never offered.
fn open(settings: &BufferSettings) -> Engine {
    let mut engine = Engine::open(settings, NOW_MS).unwrap();
    engine.offered_ahead_max = 200;
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
        let passage = Passage {
            event_time: EventTime::from_millis(NOW_MS + i64::try_from(n).unwrap() * 900 - late),
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

    fn deliver(&mut self, stream: usize, store: bool, book: bool) {
        let Some(id) = self.stream(stream) else {
            return;
        };
        let state = self.state();
        let known = state.streams.iter().find(|known| known.id == id).unwrap();
        let offerable = known.unsent.difference(&known.summed);
        let first = offerable
            .ranges()
            .first()
            .map_or(Seq::FIRST, |range| range.first());
        if self.engine().reserve(id, first, LIMIT.passages) {
            self.engine().commit(NOW_MS).unwrap();
        }
        let run = self.engine().read(id, first, LIMIT).unwrap().unwrap();
        let cursor = self.cursors.entry(*id.as_bytes()).or_default();
        if let Some(run) = run {
            let range = SeqRange::from_count(run.first, run.batch.len() as u64).unwrap();
            let now = self.engine.as_mut().unwrap().state(StoreHealth::Ok);
            let stream = now.streams.iter().find(|known| known.id == id).unwrap();
            assert!(
                stream.offered.contains_range(range),
                "handed out without being offered"
            );
            assert!(range.last().get() <= stream.accepted_to);
            assert!(
                stream.summed.is_disjoint(&range.into()),
                "handed out before the receipt of its summary"
            );
            for (place, passage) in run.batch.iter().enumerate() {
                let number = usize::try_from(run.first.get()).unwrap() + place;
                assert_eq!(
                    passage,
                    self.accepted[id.as_bytes()][number - 1],
                    "number {number}"
                );
            }
            cursor.counted.insert(range);
            if store {
                cursor.stored.insert(range);
            }
        }
        if book {
            for (_, loss) in state.losses.iter().filter(|(stream, _)| *stream == id) {
                let range = SeqSet::from(loss.range);
                match loss.scope {
                    LossScope::All => {
                        cursor.lost = cursor.lost.union(&range.difference(&cursor.counted));
                    }
                    LossScope::RawOnly => {
                        let known = range.intersection(&cursor.counted);
                        cursor.stored = cursor.stored.union(&known);
                    }
                }
            }
        }
        cursor.lost = cursor.lost.difference(&cursor.counted);
        self.receipt(vec![id]);
    }

    fn receipt(&mut self, streams: Vec<StreamId>) -> CentreVerdict {
        let receipts: Vec<_> = streams
            .into_iter()
            .map(|stream| {
                let cursor = self
                    .cursors
                    .get(stream.as_bytes())
                    .cloned()
                    .unwrap_or_default();
                let Cursor {
                    counted,
                    stored,
                    lost,
                } = cursor;
                StreamReceipt {
                    stream,
                    counted,
                    stored,
                    lost,
                    afresh: false,
                }
            })
            .collect();
        let speaker = centre(self.timeline);
        self.engine().receipt(speaker, &receipts)
    }

    fn refuse(&mut self, stream: usize, passages: u64, build: u8) {
        let Some(id) = self.stream(stream) else {
            return;
        };
        let state = self.state();
        let known = state.streams.iter().find(|known| known.id == id).unwrap();
        let Some(first) = known.unsent.ranges().last() else {
            return;
        };
        let range = SeqRange::from_count(first.first(), passages).unwrap();
        let refused = known.held.intersection(&range.into());
        let taken = self.engine().refuse(id, range, Some(&name(build))).unwrap();
        assert_eq!(taken, refused.count());
        self.engine().commit(NOW_MS).unwrap();
        let by_build = self.refused.entry((build, *id.as_bytes())).or_default();
        *by_build = by_build.union(&refused);
    }

    /// Afterwards nothing is aside but what this build has refused.
    fn show_build(&mut self, build: u8) {
        while self.engine().offer_again(&name(build)).unwrap() > 0 {
            self.engine().commit(NOW_MS).unwrap();
            self.check();
        }
        for (key, _) in self.engine.as_ref().unwrap().aside.clone() {
            let refused = self.refused.get(&(build, *key.stream.as_bytes()));
            let is_refused = refused.is_some_and(|refused| refused.contains_range(key.range));
            assert!(is_refused, "{} was not offered to build {build}", key.range);
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

    fn summaries(&mut self, stream: usize, fate: Fate) {
        let Some(id) = self.stream(stream) else {
            return;
        };
        let (pending, _) = self.engine().seal(id, 8).unwrap();
        self.engine().commit(NOW_MS).unwrap();
        let (again, sealed_now) = self.engine().seal(id, 8).unwrap();
        assert_eq!(
            (&again, sealed_now),
            (&pending, false),
            "sealed bytes never change"
        );
        let cursor = self.cursors.entry(*id.as_bytes()).or_default();
        match fate {
            Fate::Silence => return,
            Fate::Counted => {
                for summary in pending {
                    // The centre applies an entry that is disjoint from what it counted.
                    if cursor.counted.is_disjoint(&summary.entry.seqs) {
                        cursor.counted = cursor.counted.union(&summary.entry.seqs);
                    }
                }
            }
            Fate::Refused(numbers) => {
                let Some(PendingSummary { entry, .. }) = pending.first() else {
                    return;
                };
                let first = entry.seqs.iter().take(usize::try_from(numbers).unwrap());
                first.for_each(|seq| cursor.counted.insert(SeqRange::new(seq, seq).unwrap()));
                let counted = cursor.counted.clone();
                let open = entry.seqs.difference(&counted);
                let view = self.state();
                let view = view.streams.iter().find(|known| known.id == id).unwrap();
                let news = open.difference(&view.lost).difference(&view.counted);
                // What is held is sent raw.
                let news = news.difference(&view.held);
                let lost = self.engine().refuse_summary(id, &entry.seqs, &counted);
                assert_eq!(lost, news.count());
                let twice = self.engine().refuse_summary(id, &entry.seqs, &counted);
                assert_eq!(twice, 0, "a repeated refusal means nothing");
                self.engine().commit(NOW_MS).unwrap();
                let engine = self.engine.as_ref().unwrap();
                let stream = engine.streams.iter().find(|known| known.id == id).unwrap();
                let waits = stream.entries.iter().any(|meta| meta.seqs == entry.seqs);
                assert_eq!(
                    waits,
                    open.is_empty(),
                    "what is counted waits for its receipt"
                );
            }
        }
        let cursor = self.cursors.entry(*id.as_bytes()).or_default();
        cursor.lost = cursor.lost.difference(&cursor.counted);
        self.receipt(vec![id]);
    }

    /// A new life of the centre may have counted nothing: only what is summed here is raw only.
    fn check_doubt(&self) {
        for stream in &self.engine.as_ref().unwrap().streams {
            let mut losses = stream.losses.iter();
            assert!(losses.all(|loss| {
                loss.scope == LossScope::All || SeqSet::from(loss.range).is_subset(stream.summed())
            }));
        }
    }

    /// A stream is forgotten only when the centre has settled every number of it.
    fn check_forgotten(&mut self, state: &BufferState) {
        for (id, accepted) in &self.accepted {
            if state.streams.iter().any(|view| view.id.as_bytes() == id) {
                continue;
            }
            let cursor = self.cursors.get(id).cloned().unwrap_or_default();
            let settled = cursor.stored.union(&cursor.lost);
            assert!(
                self.timeline > 1 || settled.count() == accepted.len() as u64,
                "forgotten before it was settled: {cursor:?}"
            );
            self.forgotten.insert(*id);
        }
    }

    /// Per stream: 1 to `accepted_to` = held or settled or declared, every held passage is as it
    /// was accepted, and every delta is what its passages add up to.
    fn check(&mut self) {
        let state = self.state();
        self.check_forgotten(&state);
        let engine = self.engine.as_ref().unwrap();
        let mut bytes: u64 = engine
            .aside
            .iter()
            .map(|(_, bytes)| u64::from(*bytes))
            .sum();
        for (view, stream) in state.streams.iter().zip(&engine.streams) {
            let accepted = &self.accepted[view.id.as_bytes()];
            assert_eq!(view.accepted_to, accepted.len() as u64);
            let declared: SeqSet = stream.losses.iter().map(|loss| loss.range).collect();
            let stated: u64 = stream.losses.iter().map(|loss| loss.range.count()).sum();
            assert_eq!(declared.count(), stated, "a number is in one loss");
            assert!(declared.is_disjoint(&view.held), "lost and held");
            assert!(view.again.is_subset(&view.unsent) && view.again.is_disjoint(&view.lost));
            let all = SeqRange::from_count(Seq::FIRST, view.accepted_to)
                .map(SeqSet::from)
                .unwrap();
            let settled = view.stored.union(&view.lost);
            let mut kept = view.held.union(&settled).union(&declared);
            // A forgotten stream that comes back with what was aside leaves the rest to the centre,
            // which has settled it.
            if self.forgotten.contains(view.id.as_bytes())
                && let Some(cursor) = self.cursors.get(view.id.as_bytes())
            {
                kept = kept.union(&cursor.stored).union(&cursor.lost);
            }
            // After a promotion the centre may have forgotten what was deleted in good faith.
            if self.timeline == 1 {
                assert_eq!(all.difference(&kept), SeqSet::new(), "vanished: {stream:?}");
            }
            assert_eq!(view.unsent, view.held.difference(&settled));
            assert!(view.stored.is_subset(&view.counted) && view.counted.is_disjoint(&view.lost));
            for chunk in &stream.chunks {
                bytes += u64::from(chunk.bytes);
                let batch = engine.passages(view.id, chunk).unwrap();
                let first = usize::try_from(chunk.range.first().get()).unwrap();
                let expected = &accepted[first - 1..first - 1 + batch.len()];
                assert!(
                    batch.iter().eq(expected.iter().cloned()),
                    "chunk {}",
                    chunk.range
                );
            }
            let mut summarised = SeqSet::new();
            for meta in &stream.entries {
                bytes += u64::from(meta.bytes);
                let entry = engine.entry(view.id, meta.number).unwrap().unwrap().entry;
                assert_eq!(entry.seqs, meta.seqs);
                assert!(entry.seqs.is_disjoint(&summarised), "summed twice");
                summarised = summarised.union(&entry.seqs);
                let batch: PassageBatch = entry
                    .seqs
                    .iter()
                    .map(|seq| accepted[usize::try_from(seq.get()).unwrap() - 1].clone())
                    .collect();
                let mut deltas = fold(&batch, |_| true);
                deltas.sort_by_key(|delta| delta.bucket);
                assert_eq!(entry.deltas, deltas, "windows stay exact");
            }
            assert_eq!(stream.summed(), &summarised);
            for loss in stream.losses.iter() {
                if loss.scope == LossScope::All {
                    let is_summed = summarised.overlaps_range(loss.range);
                    assert!(!is_summed, "lost altogether, but summed");
                    continue;
                }
                // A restart forgets what was not yet written: that the centre is in a new life, and
                // what it had counted. It says both again before anything is declared.
                let cursor = self.cursors.get(view.id.as_bytes());
                let told = self.told.get(view.id.as_bytes());
                let known = [cursor.map(|cursor| &cursor.counted), told];
                let known = known
                    .into_iter()
                    .flatten()
                    .fold(summarised.union(&view.counted), |all, some| all.union(some));
                let is_known = known.contains_range(loss.range);
                assert!(is_known, "raw only, but in no window");
            }
        }
        assert_eq!(bytes, state.held_bytes);
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
