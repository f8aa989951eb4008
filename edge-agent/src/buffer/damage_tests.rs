//! Claims about what becomes of a damaged store. `testbed damage` draws its damage from seeds; here is
//! one of each kind.

use std::fs;
use std::path::Path;

use proto::CentreId;
use proto::passage::{EventTime, Passage};
use proto::ranges::{Seq, SeqRange, SeqSet};
use proto::receipt::{Centre, StreamReceipt};

use super::engine::Engine;
use super::model::settings;
use super::{Admitted, Alarm, Appended, BufferState, EventKey, QuotaPolicy, StoreHealth};

const NOW_MS: i64 = 1_743_848_130_000;
const PLENTY: u64 = 1 << 30;

fn open(directory: &Path) -> Engine {
    let settings = settings(directory, PLENTY, QuotaPolicy::DropOldest);
    Engine::open(&settings, NOW_MS).unwrap()
}

fn admitted(n: i64, event_id: Option<EventKey>) -> Admitted {
    Admitted {
        passage: Passage {
            event_time: EventTime::from_millis(NOW_MS + n * 1_000),
            ..Passage::default()
        },
        event_id,
    }
}

fn stage(engine: &mut Engine, passages: &[Admitted]) -> Appended {
    let appended = engine.stage(passages, NOW_MS).unwrap().unwrap();
    engine.commit(NOW_MS).unwrap();
    appended
}

fn append(engine: &mut Engine, count: i64) {
    let passages: Vec<Admitted> = (0..count).map(|n| admitted(n, None)).collect();
    stage(engine, &passages);
}

/// Passages of which each has an id of its own, but for every fifth.
fn post(from: i64, to: i64) -> Vec<Admitted> {
    let key = |n: i64| {
        let mut key = [0; 16];
        key[..8].copy_from_slice(
            &n.wrapping_mul(0x9E37_79B9_7F4A_7C15_u64.cast_signed())
                .to_le_bytes(),
        );
        key[8..].copy_from_slice(&n.to_le_bytes());
        EventKey(key)
    };
    let passages = (from..to).map(|n| admitted(n, (n % 5 != 0).then(|| key(n))));
    passages.collect()
}

fn state(engine: &mut Engine) -> BufferState {
    engine.state(StoreHealth::Ok)
}

pub(super) fn numbers(first: u64, last: u64) -> SeqSet {
    let range = SeqRange::new(Seq::new(first).unwrap(), Seq::new(last).unwrap());
    range.unwrap().into()
}

/// A receipt says that these numbers of the first stream are counted and stored.
pub(super) fn settle(engine: &mut Engine, seqs: SeqSet) {
    let receipt = StreamReceipt {
        stream: engine.streams[0].id,
        counted: seqs.clone(),
        stored: seqs,
        lost: SeqSet::new(),
        afresh: false,
    };
    let centre = Centre {
        id: CentreId::from_bytes([1; 16]),
        timeline: 1,
    };
    engine.receipt(centre, &[receipt]);
    engine.commit(NOW_MS).unwrap();
}

/// Makes it look as if the store had killed two processes that opened it: then it is moved aside.
pub(super) fn kill_openings(directory: &Path) {
    fs::write(directory.join("opening"), "2").unwrap();
}

/// Copies sled's files, as they are at this moment.
fn copy_store(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
        }
    }
}

#[test]
fn a_sound_store_alarms_nobody() {
    let place = tempfile::tempdir().unwrap();
    let mut engine = open(place.path());
    append(&mut engine, 300);
    drop(engine);
    let mut engine = open(place.path());
    let state = state(&mut engine);
    assert_eq!((state.alarms, state.losses), (vec![], vec![]));
    assert_eq!(state.streams[0].unsent, numbers(1, 300));
}

#[test]
fn a_store_that_went_back_in_time_states_what_it_lost() {
    let place = tempfile::tempdir().unwrap();
    let before = tempfile::tempdir().unwrap();
    let store = place.path().join("store");
    let mut engine = open(place.path());
    append(&mut engine, 100);
    copy_store(&store, before.path());
    append(&mut engine, 200);
    drop(engine);
    fs::remove_dir_all(&store).unwrap();
    copy_store(before.path(), &store);
    for open_again in [false, true] {
        let mut engine = open(place.path());
        let state = state(&mut engine);
        assert_eq!(state.streams[0].unsent, numbers(1, 100));
        assert_eq!(state.streams[0].accepted_to, 300);
        let lost: SeqSet = state.losses.iter().map(|(_, loss)| loss.range).collect();
        assert_eq!(lost, numbers(101, 300));
        let alarm = Alarm::StoreDamaged {
            salvaged: 0,
            lost: 200,
        };
        assert_eq!(state.alarms.contains(&alarm), !open_again, "once");
    }
}

#[test]
fn a_store_that_does_not_open_is_moved_aside_and_its_passages_keep_their_numbers() {
    for has_witness in [true, false] {
        let place = tempfile::tempdir().unwrap();
        let mut engine = open(place.path());
        append(&mut engine, 300);
        let stream = state(&mut engine).streams[0].id;
        drop(engine);
        kill_openings(place.path());
        if !has_witness {
            fs::remove_file(place.path().join("witness")).unwrap();
        }
        let mut engine = open(place.path());
        append(&mut engine, 10);
        let state = state(&mut engine);
        assert_eq!(state.streams[0].id, stream);
        assert_eq!(state.streams[0].unsent, numbers(1, 300));
        assert_eq!(state.streams[1].unsent, numbers(1, 10));
        let directory = place.path().join("quarantine-1");
        assert!(directory.join("db").exists());
        let alarms = [
            Alarm::StoreQuarantined { directory },
            Alarm::StoreDamaged {
                salvaged: 300,
                lost: 0,
            },
        ];
        assert_eq!(state.alarms, alarms);
    }
}

#[test]
fn a_witness_that_is_older_than_the_store_costs_nothing() {
    let place = tempfile::tempdir().unwrap();
    let witness = place.path().join("witness");
    let mut engine = open(place.path());
    append(&mut engine, 100);
    let older = fs::read(&witness).unwrap();
    append(&mut engine, 50);
    drop(engine);
    fs::write(&witness, &older).unwrap();
    let mut engine = open(place.path());
    assert_eq!(state(&mut engine).alarms, []);
    drop(engine);
    fs::write(&witness, &older).unwrap();
    kill_openings(place.path());
    let mut engine = open(place.path());
    assert_eq!(state(&mut engine).streams[0].unsent, numbers(1, 150));
    assert_eq!(state(&mut engine).losses, []);
}

#[test]
fn a_store_that_is_gone_is_stated_as_lost() {
    let place = tempfile::tempdir().unwrap();
    let mut engine = open(place.path());
    append(&mut engine, 300);
    drop(engine);
    fs::remove_dir_all(place.path().join("store")).unwrap();
    let state = state(&mut open(place.path()));
    let lost: SeqSet = state.losses.iter().map(|(_, loss)| loss.range).collect();
    assert_eq!(lost, numbers(1, 300));
}

#[test]
fn a_post_that_is_tried_again_counts_once_also_when_its_store_was_moved_aside() {
    let place = tempfile::tempdir().unwrap();
    let mut engine = open(place.path());
    for from in (0..300).step_by(30) {
        stage(&mut engine, &post(from, from + 30));
    }
    drop(engine);
    for moved in 1..=2 {
        kill_openings(place.path());
        let mut engine = open(place.path());
        assert!(place.path().join(format!("quarantine-{moved}")).exists());
        let again: Vec<Admitted> = post(0, 300)
            .into_iter()
            .filter(|admitted| admitted.event_id.is_some())
            .collect();
        let appended = stage(&mut engine, &again);
        assert_eq!(
            (appended.accepted, appended.duplicates),
            (0, 240),
            "{moved}"
        );
        let more = stage(&mut engine, &post(300 * moved, 300 * moved + 10));
        assert_eq!((more.accepted, more.duplicates), (10, 0), "{moved}");
    }
}

#[test]
fn ids_are_taken_back_when_the_end_of_the_log_is_lost_although_all_has_a_receipt() {
    let place = tempfile::tempdir().unwrap();
    let before = tempfile::tempdir().unwrap();
    let store = place.path().join("store");
    let mut engine = open(place.path());
    stage(&mut engine, &post(0, 100));
    copy_store(&store, before.path());
    stage(&mut engine, &post(100, 200));
    let whole = fs::read(store.join("db")).unwrap();
    settle(&mut engine, numbers(1, 200));
    drop(engine);
    fs::remove_dir_all(&store).unwrap();
    copy_store(before.path(), &store);
    // The bytes are still there, as in a store that was moved aside before.
    let aside = place.path().join("quarantine-1");
    fs::create_dir(&aside).unwrap();
    fs::write(aside.join("db"), whole).unwrap();
    let appended = stage(&mut open(place.path()), &post(0, 200));
    assert_eq!((appended.accepted, appended.duplicates), (40, 160));
}

#[test]
fn an_id_whose_passage_is_nowhere_is_not_believed() {
    let place = tempfile::tempdir().unwrap();
    let mut engine = open(place.path());
    stage(&mut engine, &post(0, 300));
    drop(engine);
    let file = place.path().join("store/db");
    let mut bytes = fs::read(&file).unwrap();
    let starts: Vec<usize> = (0..bytes.len() - 4)
        .filter(|at| bytes[*at..].starts_with(b"VCH2"))
        .collect();
    assert!(starts.len() >= 5);
    starts.into_iter().for_each(|at| bytes[at + 20] ^= 1);
    fs::write(&file, bytes).unwrap();
    kill_openings(place.path());
    let mut engine = open(place.path());
    let lost: SeqSet = state(&mut engine)
        .losses
        .iter()
        .map(|(_, loss)| loss.range)
        .collect();
    assert_eq!(lost, numbers(1, 300));
    let appended = stage(&mut engine, &post(0, 300));
    assert_eq!((appended.accepted, appended.duplicates), (300, 0));
}
