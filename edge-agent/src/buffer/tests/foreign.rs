//! A store that was begun for another device.

use std::fs;

use super::*;
use crate::buffer::{BufferState, ForeignStore, StoreHealth};

fn of(device: &str, directory: &Path) -> BufferSettings {
    BufferSettings {
        device: DeviceId::new(device).unwrap(),
        ..plain(directory)
    }
}

fn with_ids(from: u64, count: u8) -> Vec<Admitted> {
    (0..count)
        .map(|id| admitted(from + u64::from(id), Some(id)))
        .collect()
}

fn open(device: &str, directory: &Path) -> Engine {
    Engine::open(&of(device, directory), NOW_MS).unwrap()
}

fn append(engine: &mut Engine, passages: &[Admitted]) -> Appended {
    let appended = engine.stage(passages, NOW_MS).unwrap().unwrap();
    engine.commit(NOW_MS).unwrap();
    appended
}

fn state(engine: &mut Engine) -> BufferState {
    engine.state(StoreHealth::Ok)
}

/// The buffer of KV1 holds 100 passages, then it is KV2's.
fn taken_over() -> (tempfile::TempDir, SeqSet) {
    let place = tempfile::tempdir().unwrap();
    let mut engine = open("KV1", place.path());
    append(&mut engine, &with_ids(0, 100));
    let unsent = state(&mut engine).streams[0].unsent.clone();
    (place, unsent)
}

#[test]
fn a_store_of_another_device_is_neither_sent_nor_deleted_and_swallows_nothing() {
    let (place, unsent) = taken_over();
    let aside = place.path().join("foreign-1");
    let alarms = [Alarm::StoreForeign(ForeignStore {
        directory: aside.clone(),
        begun_for: Some(DeviceId::new("KV1").unwrap()),
    })];
    for before in 0..2 {
        let mut engine = open("KV2", place.path());
        assert_eq!(state(&mut engine).streams.len(), before);
        assert_eq!(state(&mut engine).losses, []);
        assert_eq!(state(&mut engine).alarms, alarms);
        // The camera of KV2 gives its passages the same ids.
        let appended = append(&mut engine, &with_ids(500, 50));
        let duplicates = if before == 0 { 0 } else { 50 };
        assert_eq!(appended.duplicates, duplicates);
    }
    let mut engine = open("KV1", &aside);
    let state = state(&mut engine);
    assert_eq!(state.streams[0].unsent, unsent);
    assert_eq!((state.losses, state.alarms), (vec![], vec![]));
    let appended = append(&mut engine, &with_ids(0, 100));
    assert_eq!((appended.accepted, appended.duplicates), (0, 100));
}

#[test]
fn what_is_taken_back_after_damage_is_never_of_another_device() {
    for has_witness in [true, false] {
        let (place, _) = taken_over();
        let mut engine = open("KV2", place.path());
        append(&mut engine, &many(0, 30));
        let stream = engine.streams[0].id;
        drop(engine);
        fs::write(place.path().join("opening"), "2").unwrap();
        if !has_witness {
            fs::remove_file(place.path().join("witness")).unwrap();
        }
        let state = state(&mut open("KV2", place.path()));
        let streams = state.streams.iter().map(|stream| stream.id);
        assert!(streams.eq([stream]));
        assert_eq!(state.streams[0].unsent, range(1, 30).into());
        assert_eq!(state.alarms.len(), 3, "{:?}", state.alarms);
    }
}

#[test]
fn a_damaged_store_of_another_device_is_not_taken_back_either() {
    let (place, _) = taken_over();
    fs::write(place.path().join("opening"), "2").unwrap();
    drop(open("KV1", place.path()));
    let state = state(&mut open("KV2", place.path()));
    assert_eq!((state.streams, state.losses), (vec![], vec![]));
    assert!(place.path().join("foreign-1/quarantine-1/db").exists());
}

#[test]
fn a_store_of_another_device_takes_its_part_of_the_quota_and_no_more_than_half() {
    let (place, _) = taken_over();
    let quota = |engine: Engine| engine.quota_bytes();
    let before = quota(open("KV2", place.path()));
    assert!(before < PLENTY && before > PLENTY / 2, "{before}");
    let file = fs::File::create(place.path().join("foreign-1/store/more")).unwrap();
    file.set_len(100 * PLENTY).unwrap();
    assert_eq!(quota(open("KV2", place.path())), PLENTY / 2);
}
