//! Claims about what becomes of a damaged store. `testbed damage` draws its damage from seeds; here is
//! one of each kind.

use std::fs;
use std::path::Path;

use proto::passage::{EventTime, Passage};
use proto::ranges::{Seq, SeqRange, SeqSet};

use super::engine::Engine;
use super::model::settings;
use super::{Admitted, Alarm, BufferState, QuotaPolicy, StoreHealth};

const NOW_MS: i64 = 1_743_848_130_000;
const PLENTY: u64 = 1 << 30;

fn open(directory: &Path) -> Engine {
    let settings = settings(directory, PLENTY, QuotaPolicy::DropOldest);
    Engine::open(&settings, NOW_MS).unwrap()
}

fn append(engine: &mut Engine, count: i64) {
    let passages: Vec<Admitted> = (0..count)
        .map(|n| Admitted {
            passage: Passage {
                event_time: EventTime::from_millis(NOW_MS + n * 1_000),
                ..Passage::default()
            },
            event_id: None,
        })
        .collect();
    engine.stage(&passages, NOW_MS).unwrap().unwrap();
    engine.commit(NOW_MS).unwrap();
}

fn state(engine: &mut Engine) -> BufferState {
    engine.state(StoreHealth::Ok)
}

fn numbers(first: u64, last: u64) -> SeqSet {
    let range = SeqRange::new(Seq::new(first).unwrap(), Seq::new(last).unwrap());
    range.unwrap().into()
}

/// Makes it look as if the store had killed two processes that opened it: then it is moved aside.
fn kill_openings(directory: &Path) {
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
