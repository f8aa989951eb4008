use super::*;

const TIMEOUT: Duration = Duration::from_secs(60);
const ASIDE_BYTES_MAX: u64 = 40;

/// Stands in for sled: the content of a file is the store.
fn load(store: &Path) -> Result<String, LoadError> {
    fs::create_dir_all(store).map_err(StoreError::from)?;
    if store.join("snap.2.generating").exists() || store.join("snap.1").exists() {
        return Err(StoreError::Broken("snapshot".to_owned()).into());
    }
    match fs::read_to_string(store.join("db")).as_deref() {
        Ok("rotten") => panic!("rotten"),
        Ok("newer") => Err(LoadError::Format(99)),
        Ok("older") => Err(LoadError::Format(1)),
        Ok(text) => Ok(text.to_owned()),
        Err(_) => Ok("new".to_owned()),
    }
}

fn directory_with(files: &[(&str, &str)]) -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    fs::create_dir(place.path().join(STORE)).unwrap();
    for (name, text) in files {
        fs::write(place.path().join(name), text).unwrap();
    }
    place
}

fn enter(directory: &Path) -> Result<Home, OpenError> {
    Home::enter(directory, &DeviceId::new("KV1").unwrap())
}

fn open(directory: &Path) -> Result<Opened<String>, OpenError> {
    enter(directory)?.open(TIMEOUT, ASIDE_BYTES_MAX, load)
}

#[test]
fn a_missing_directory_is_made() {
    let place = tempfile::tempdir().unwrap();
    let opened = open(&place.path().join("a/b")).unwrap();
    assert_eq!(
        (opened.loaded.as_str(), opened.quarantined),
        ("new", vec![])
    );
}

#[test]
fn a_sound_store_is_opened_and_leaves_no_marker() {
    let place = directory_with(&[("store/db", "sound")]);
    assert_eq!(open(place.path()).unwrap().loaded, "sound");
    assert!(!place.path().join(ATTEMPTS).exists());
}

#[test]
fn a_directory_has_one_user() {
    let place = directory_with(&[]);
    let first = enter(place.path()).unwrap();
    assert!(matches!(enter(place.path()), Err(OpenError::InUse { .. })));
    drop(first);
    assert!(enter(place.path()).is_ok());
}

#[test]
fn half_written_and_bad_snapshots_do_not_cost_the_store() {
    for snapshot in ["store/snap.2.generating", "store/snap.1"] {
        let place = directory_with(&[("store/db", "sound"), (snapshot, "")]);
        let opened = open(place.path()).unwrap();
        assert_eq!(
            (opened.loaded.as_str(), opened.quarantined),
            ("sound", vec![])
        );
    }
}

#[test]
fn a_store_that_panics_is_moved_aside_whole_and_the_oldest_go_when_there_are_too_many() {
    let place = directory_with(&[("store/db", "rotten"), ("store/conf", "kept")]);
    let opened = open(place.path()).unwrap();
    assert!(opened.moved_aside);
    let aside = |numbers: &[u32]| -> Vec<PathBuf> {
        let path = |number| place.path().join(format!("quarantine-{number}"));
        numbers.iter().map(path).collect()
    };
    assert_eq!(opened.quarantined, aside(&[1]));
    let conf = fs::read_to_string(opened.quarantined[0].join("conf"));
    assert_eq!(conf.unwrap(), "kept");
    drop(opened.home);
    // 10, 19 and 19 bytes, 13 of them for a name: with the third the first is too much.
    for expected in [&[1, 2][..], &[2, 3]] {
        fs::write(place.path().join("store/db"), "rotten").unwrap();
        assert_eq!(open(place.path()).unwrap().quarantined, aside(expected));
    }
    let opened = open(place.path()).unwrap();
    assert!(!opened.moved_aside);
    assert_eq!(opened.quarantined, aside(&[2, 3]), "they stay reported");
}

#[test]
fn a_store_that_killed_two_processes_is_not_tried_a_third_time() {
    let place = directory_with(&[("store/db", "sound"), (ATTEMPTS, "1")]);
    assert_eq!(open(place.path()).unwrap().loaded, "sound");
    fs::write(place.path().join(ATTEMPTS), "2").unwrap();
    let opened = open(place.path()).unwrap();
    assert_eq!(opened.loaded, "new");
    assert!(opened.moved_aside);
}

#[test]
fn a_start_that_ended_when_it_had_moved_the_store_aside_is_taken_up_by_the_next() {
    let place = directory_with(&[(ATTEMPTS, "3")]);
    let aside = place.path().join("quarantine-1");
    fs::rename(place.path().join(STORE), &aside).unwrap();
    let opened = open(place.path()).unwrap();
    assert_eq!(opened.loaded, "new");
    assert!(opened.moved_aside, "it is looked through");
    assert_eq!(opened.quarantined, [aside]);
}

#[test]
fn a_store_of_a_newer_or_an_older_agent_is_left_alone() {
    for (text, format) in [("newer", 99), ("older", 1)] {
        let place = directory_with(&[("store/db", text)]);
        let refused = open(place.path()).map(|_| ());
        assert!(
            matches!(
                refused,
                Err(OpenError::Newer { found, .. } | OpenError::Older { found, .. }) if found == format
            ),
            "{text}: {refused:?}"
        );
        let store = place.path().join("store/db");
        assert_eq!(fs::read_to_string(store).unwrap(), text);
        assert!(
            !place.path().join(ATTEMPTS).exists(),
            "a refusal is no death"
        );
    }
}

#[test]
fn a_rebuild_that_the_power_cut_ended_leaves_the_store_as_it_was() {
    for (before, after) in [
        (["store", "store.new"], "old"),
        (["store.old", "store.new"], "old"),
    ] {
        let place = tempfile::tempdir().unwrap();
        for (name, text) in before.into_iter().zip(["old", "half"]) {
            fs::create_dir(place.path().join(name)).unwrap();
            fs::write(place.path().join(name).join("db"), text).unwrap();
        }
        assert_eq!(open(place.path()).unwrap().loaded, after);
        assert!(!place.path().join("store.new").exists());
        assert!(!place.path().join("store.old").exists());
    }
}

#[test]
fn a_full_disk_is_not_taken_for_damage() {
    let place = directory_with(&[("store/db", "sound")]);
    let full: fn(&Path) -> Result<String, LoadError> = |_| Err(StoreError::NoSpace.into());
    let refused = enter(place.path())
        .unwrap()
        .open(TIMEOUT, ASIDE_BYTES_MAX, full);
    assert!(matches!(refused, Err(OpenError::Store { .. })));
    assert_eq!(open(place.path()).unwrap().loaded, "sound");
}

#[test]
fn a_store_that_hangs_is_moved_aside() {
    let place = directory_with(&[("store/db", "sound")]);
    let hang: fn(&Path) -> Result<String, LoadError> = |store| {
        if store.join("db").exists() {
            let (_kept, never) = mpsc::channel::<()>();
            never.recv().ok();
        }
        load(store)
    };
    let home = enter(place.path()).unwrap();
    let opened = home
        .open(Duration::from_millis(200), ASIDE_BYTES_MAX, hang)
        .unwrap();
    assert_eq!(opened.loaded, "new");
    assert!(opened.moved_aside);
}
