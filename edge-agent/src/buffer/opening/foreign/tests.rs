use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::*;
use crate::buffer::opening::{LoadError, Opened};

/// What the buffer of KV1 holds, in the order in which it is moved aside.
const BELONGINGS: [&str; 5] = [
    "witness",
    "opening",
    "quarantine-1",
    "quarantine-2",
    "store",
];

fn device(name: &str) -> DeviceId {
    DeviceId::new(name).unwrap()
}

/// Stands in for sled: makes a store where there is none.
fn load(store: &Path) -> Result<bool, LoadError> {
    let is_new = !store.join("db").exists();
    fs::create_dir_all(store).unwrap();
    fs::write(store.join("db"), "passages").unwrap();
    Ok(is_new)
}

/// Opens the buffer; says whether its store is new.
fn open(directory: &Path, name: &str) -> Result<Opened<bool>, OpenError> {
    Home::enter(directory, &device(name))?.open(Duration::from_secs(60), 1 << 20, load)
}

/// A buffer of KV1 with everything that it can hold.
fn buffer() -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    for name in BELONGINGS {
        let path = place.path().join(name);
        if name == "opening" {
            // Two starts died: a third agent would not try to open the store.
            fs::write(path, "2").unwrap();
        } else if name == "witness" {
            fs::write(path, name).unwrap();
        } else {
            fs::create_dir(&path).unwrap();
            fs::write(path.join("db"), name).unwrap();
            fs::write(path.join(NAME), line(&device("KV1"))).unwrap();
        }
    }
    place
}

/// Every file below a directory, with what is in it.
fn files(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![directory.to_owned()];
    while let Some(at) = open.pop() {
        for entry in fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(directory).unwrap().to_owned();
                found.insert(name, fs::read(path).unwrap());
            }
        }
    }
    found
}

fn of_kv1(directory: PathBuf) -> ForeignStore {
    ForeignStore {
        directory,
        begun_for: Some(device("KV1")),
    }
}

#[test]
fn a_store_has_its_name_when_it_is_handed_over_and_stays_with_its_device() {
    let place = tempfile::tempdir().unwrap();
    for is_new in [true, false] {
        let opened = open(place.path(), "KV1").unwrap();
        assert_eq!((opened.loaded, opened.foreign), (is_new, vec![]));
        let name = read(&place.path().join(STORE)).unwrap();
        assert_eq!(name, Some(device("KV1")));
    }
}

#[test]
fn a_store_that_has_no_name_takes_that_of_the_first_agent_that_opens_it() {
    let place = tempfile::tempdir().unwrap();
    load(&place.path().join(STORE)).unwrap();
    // A start that died while it wrote the name.
    fs::write(place.path().join(STORE).join(NAME_NEW), "KV").unwrap();
    assert!(!open(place.path(), "KV1").unwrap().loaded);
    let opened = open(place.path(), "KV2").unwrap();
    assert!(opened.loaded);
    assert_eq!(opened.foreign, [of_kv1(place.path().join("foreign-1"))]);
}

#[test]
fn wherever_the_power_goes_all_of_another_device_is_aside_after_the_next_start() {
    let whole = files(buffer().path());
    for moved in 0..=BELONGINGS.len() {
        let place = buffer();
        let half = place.path().join(FOREIGN_NEW);
        fs::create_dir(&half).unwrap();
        for name in &BELONGINGS[..moved] {
            fs::rename(place.path().join(name), half.join(name)).unwrap();
        }
        for is_new in [true, false] {
            let opened = open(place.path(), "KV2").unwrap();
            let aside = place.path().join("foreign-1");
            assert_eq!(files(&aside), whole, "{moved} moved");
            assert_eq!((opened.loaded, opened.moved_aside), (is_new, false));
            assert_eq!(opened.quarantined, Vec::<PathBuf>::new());
            assert_eq!(opened.foreign, [of_kv1(aside)]);
            assert!(!place.path().join("witness").exists());
        }
    }
}

#[test]
fn a_buffer_whose_store_is_gone_or_begins_anew_belongs_to_whom_it_was_moved_aside_for() {
    for is_empty in [true, false] {
        let place = buffer();
        let store = place.path().join(STORE);
        fs::remove_dir_all(&store).unwrap();
        if is_empty {
            fs::create_dir(&store).unwrap();
        }
        let opened = open(place.path(), "KV2").unwrap();
        assert_eq!(opened.quarantined, Vec::<PathBuf>::new());
        assert_eq!(opened.foreign, [of_kv1(place.path().join("foreign-1"))]);
    }
}

#[test]
fn the_next_store_of_another_device_gets_a_place_of_its_own() {
    let place = buffer();
    drop(open(place.path(), "KV2").unwrap());
    let opened = open(place.path(), "KV3").unwrap();
    let devices = opened
        .foreign
        .iter()
        .map(|foreign| foreign.begun_for.clone());
    assert!(devices.eq([Some(device("KV1")), Some(device("KV2"))]));
}

#[test]
fn what_was_moved_aside_is_a_buffer_of_its_device() {
    let place = buffer();
    drop(open(place.path(), "KV2").unwrap());
    let aside = place.path().join("foreign-1");
    fs::remove_file(aside.join("opening")).unwrap();
    let opened = open(&aside, "KV1").unwrap();
    assert!(!opened.loaded);
    assert_eq!((opened.quarantined.len(), opened.foreign), (2, vec![]));
}

#[test]
fn a_store_that_is_rebuilt_keeps_its_name_wherever_the_power_goes() {
    let place = tempfile::tempdir().unwrap();
    let opened = open(place.path(), "KV1").unwrap();
    load(&opened.home.store_new()).unwrap();
    opened.home.replace_store().unwrap();
    drop(opened);
    assert!(!open(place.path(), "KV1").unwrap().loaded);
    let store = place.path().join(STORE);
    fs::rename(&store, place.path().join("store.old")).unwrap();
    let opened = open(place.path(), "KV2").unwrap();
    assert!(opened.loaded);
    assert_eq!(opened.foreign, [of_kv1(place.path().join("foreign-1"))]);
}

#[test]
fn a_name_that_is_damaged_is_none_and_is_written_again() {
    let sound = line(&device("KV1"));
    assert_eq!(parse(&sound), Some(device("KV1")));
    for place in 0..sound.len() {
        let mut damaged = sound.clone().into_bytes();
        damaged[place] ^= 1;
        let damaged = String::from_utf8(damaged).unwrap();
        assert_eq!(parse(&damaged), None, "{damaged:?}");
        assert_eq!(parse(&sound[..place]), None, "cut at {place}");
    }
    let place = buffer();
    fs::remove_file(place.path().join("opening")).unwrap();
    let name = place.path().join(STORE).join(NAME);
    fs::write(&name, [0xff; 9]).unwrap();
    assert!(!open(place.path(), "KV1").unwrap().loaded);
    assert_eq!(fs::read_to_string(&name).unwrap(), sound);
}

#[test]
fn a_store_of_another_device_that_cannot_be_moved_aside_is_left_alone() {
    let place = buffer();
    let whole = files(place.path());
    let in_the_way = place.path().join(FOREIGN_NEW);
    fs::write(&in_the_way, "").unwrap();
    let refusal = open(place.path(), "KV2").unwrap_err().to_string();
    let store = place.path().join(STORE);
    let begun = format!(
        "store {} was begun for KV1, this unit is KV2",
        store.display()
    );
    assert!(refusal.starts_with(&begun), "{refusal}");
    fs::remove_file(in_the_way).unwrap();
    fs::remove_file(place.path().join("lock")).unwrap();
    assert_eq!(files(place.path()), whole);
}
