//! What comes out of stores that the real engine wrote.

use std::collections::BTreeMap;
use std::fs;

use proto::{PassageBatch, Speed};

use super::*;
use crate::buffer::damage_tests::{kill_openings, numbers, settle};
use crate::buffer::engine::Engine;
use crate::buffer::model::settings;
use crate::buffer::{Admitted, QuotaPolicy, StoreHealth};

const NOW_MS: i64 = 1_743_848_130_000;
const PLENTY: u64 = 1 << 30;

fn open(directory: &Path) -> Engine {
    let settings = settings(directory, PLENTY, QuotaPolicy::DropOldest);
    Engine::open(&settings, NOW_MS).unwrap()
}

/// The `n`th passage, which no other is like.
fn passage(n: u64) -> Passage {
    let n = i64::try_from(n).unwrap();
    Passage {
        event_time: EventTime::from_millis(NOW_MS + n * 1_000),
        speed: Speed::from_centi_kmh(u16::try_from(n % 40_000).unwrap()),
        extra: Some(format!("{{\"n\":{n}}}").into()),
        ..Passage::default()
    }
}

/// Appends passages, `a_commit` at a time.
fn append(engine: &mut Engine, from: u64, to: u64, a_commit: usize) {
    let passages: Vec<Admitted> = (from..to)
        .map(|n| Admitted {
            passage: passage(n),
            event_id: None,
        })
        .collect();
    for some in passages.chunks(a_commit) {
        engine.stage(some, NOW_MS).unwrap().unwrap();
        engine.commit(NOW_MS).unwrap();
    }
}

fn stream(engine: &mut Engine) -> StreamId {
    engine.state(StoreHealth::Ok).streams.last().unwrap().id
}

/// A buffer that accepted the passages `0..count`, `a_commit` at a time, closed again, and their stream.
fn closed(count: u64, a_commit: usize) -> (tempfile::TempDir, StreamId) {
    let place = tempfile::tempdir().unwrap();
    let mut engine = open(place.path());
    append(&mut engine, 0, count, a_commit);
    let stream = stream(&mut engine);
    (place, stream)
}

/// What came out: under each name the device and the passage.
type Out = BTreeMap<(StreamId, u64), (Option<String>, Passage)>;

fn export_by(exporter: Exporter, place: &Path) -> (Vec<(StreamId, u64)>, Out, Tally) {
    let (mut order, mut out, mut exporter) = (Vec::new(), Out::new(), exporter);
    let mut looked = 0;
    for store in stores_at(place).unwrap() {
        let mut take = |exported: Exported<'_>| {
            let name = (exported.stream, exported.seq.get());
            order.push(name);
            let device = exported.device.map(ToString::to_string);
            out.insert(name, (device, exported.passage));
            Ok(())
        };
        let all = exporter.look_through(&store, &mut take, &mut |bytes| looked += bytes);
        all.unwrap();
    }
    let tally = exporter.into_tally();
    assert_eq!(tally.bytes, looked);
    (order, out, tally)
}

/// Exports all that is at a place; fails where a number comes out twice.
fn export(place: &Path) -> (Out, Tally) {
    let (order, out, tally) = export_by(Exporter::default(), place);
    assert_eq!(order.len(), out.len(), "a number came out twice");
    assert_eq!(tally.passages, out.len() as u64);
    (out, tally)
}

/// What must come out of a stream that accepted the passages `from..to` as its numbers 1, 2, 3 …
fn expected(stream: StreamId, from: u64, to: u64) -> Out {
    let named = Some("KV1".to_owned());
    let all = (from..to).map(|n| ((stream, n - from + 1), (named.clone(), passage(n))));
    all.collect()
}

/// Every file below a directory, with what is in it.
fn files(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = places::files_below(directory).unwrap().into_iter();
    files
        .map(|(path, _)| (path.clone(), fs::read(path).unwrap()))
        .collect()
}

/// How many passages lie in chunks, copies and all.
fn copies(directory: &Path) -> u64 {
    let mut passages = 0;
    for bytes in files(directory).values() {
        salvage::values_in(bytes.as_slice(), |found| {
            if let Found::Chunk(key, _) = found {
                passages += key.range.count();
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    }
    passages
}

#[test]
fn each_passage_comes_out_once_as_it_was_accepted_though_it_lies_there_several_times() {
    // Small commits, whose chunks are merged into larger ones later.
    let (place, stream) = closed(900, 3);
    let store = place.path().join("store");
    assert!(copies(&store) > 900, "{} copies", copies(&store));
    let (out, tally) = export(&store);
    assert!(out == expected(stream, 0, 900));
    let streams = BTreeMap::from([(
        stream,
        StreamTally {
            seqs: numbers(1, 900),
            from: EventTime::from_millis(NOW_MS),
            to: EventTime::from_millis(NOW_MS + 899_000),
        },
    )]);
    assert_eq!((tally.streams, tally.unread_bytes), (streams, 0));
}

#[test]
fn what_was_counted_and_deleted_comes_out_as_long_as_its_bytes_are_there() {
    let place = tempfile::tempdir().unwrap();
    let mut engine = open(place.path());
    append(&mut engine, 0, 200, 50);
    let stream = stream(&mut engine);
    settle(&mut engine, numbers(1, 200));
    engine.settings.quota_bytes = 1_000;
    append(&mut engine, 200, 210, 10);
    let held = engine.state(StoreHealth::Ok).streams[0].held.clone();
    assert!(held.is_disjoint(&numbers(1, 100)), "{held:?}");
    drop(engine);
    assert!(export(&place.path().join("store")).0 == expected(stream, 0, 210));
}

#[test]
fn a_store_is_read_beside_its_agent_and_not_a_byte_of_it_changes() {
    let place = tempfile::tempdir().unwrap();
    let mut engine = open(place.path());
    append(&mut engine, 0, 300, 100);
    let stream = stream(&mut engine);
    let before = files(place.path());
    let (out, _) = export(place.path());
    assert!(out == expected(stream, 0, 300));
    assert!(files(place.path()) == before);
    append(&mut engine, 300, 400, 100);
    assert!(export(place.path()).0 == expected(stream, 0, 400));
}

#[test]
fn a_damaged_store_gives_all_but_what_the_damage_hit() {
    let (place, stream) = closed(640, 64);
    let file = place.path().join("store/db");
    let mut bytes = fs::read(&file).unwrap();
    let mut expected = expected(stream, 0, 640);
    // Every copy of the chunk of the numbers 65 to 128.
    let hit = (0..bytes.len() - 4).filter(|at| {
        let found = chunk::open(&bytes[*at..]);
        found.is_ok_and(|(key, _)| key.range.first().get() == 65)
    });
    let hit: Vec<usize> = hit.collect();
    hit.iter().for_each(|at| bytes[at + 60] ^= 1);
    expected.retain(|(_, seq), _| !(65..=128).contains(seq));
    fs::write(&file, bytes).unwrap();
    kill_openings(place.path());
    drop(open(place.path()));

    let aside = place.path().join("quarantine-1");
    let found = moved_aside(place.path()).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(
        (&found[0].place, found[0].bytes),
        (&aside, directory_bytes(&aside))
    );
    assert_eq!(found[0].device, DeviceId::new("KV1").ok());
    let before = files(&aside);
    let (out, tally) = export(&aside);
    assert!(out == expected);
    assert_eq!(tally.broken, hit.len() as u64);
    assert!(files(&aside) == before);
    // The store that took these back holds them, too.
    let (out, _) = export(place.path());
    assert!(out == expected);
}

#[test]
fn the_buffer_of_another_unit_comes_out_with_its_damaged_stores_under_its_own_name() {
    let (place, first) = closed(100, 100);
    kill_openings(place.path());
    let mut engine = open(place.path());
    append(&mut engine, 100, 150, 50);
    let second = stream(&mut engine);
    drop(engine);
    let mut settings = settings(place.path(), PLENTY, QuotaPolicy::DropOldest);
    settings.device = DeviceId::new("KV2").unwrap();
    let mut engine = Engine::open(&settings, NOW_MS).unwrap();
    append(&mut engine, 900, 950, 50);
    let third = stream(&mut engine);
    drop(engine);

    let aside = place.path().join("foreign-1");
    let devices = moved_aside(place.path()).unwrap().into_iter();
    let devices: Vec<_> = devices.map(|found| (found.place, found.device)).collect();
    assert_eq!(devices, [(aside.clone(), DeviceId::new("KV1").ok())]);
    let mut all = expected(first, 0, 100);
    all.extend(expected(second, 100, 150));
    assert!(export(&aside).0 == all);
    // The buffer around it is KV2's and holds nothing of KV1.
    let (out, _) = export(place.path());
    assert!(out.keys().all(|(stream, _)| *stream == third) && out.len() == 50);
    assert!(
        out.values()
            .all(|(device, _)| device.as_deref() == Some("KV2"))
    );
}

#[test]
fn a_file_of_a_store_and_one_whose_name_is_gone_come_out_without_a_name() {
    let (place, stream) = closed(50, 50);
    let store = place.path().join("store");
    fs::remove_file(store.join("device")).unwrap();
    let mut nameless = expected(stream, 0, 50);
    nameless.values_mut().for_each(|(device, _)| *device = None);
    for place in [store.join("db"), store] {
        assert!(export(&place).0 == nameless, "{}", place.display());
    }
}

#[test]
fn what_lies_in_sleds_other_files_comes_out_too() {
    let (place, stream) = closed(50, 50);
    let store = place.path().join("store");
    fs::rename(store.join("db"), store.join("blobs/917")).unwrap();
    assert!(export(&store).0 == expected(stream, 0, 50));
}

#[test]
fn what_is_no_store_is_named_with_what_to_do() {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("notes.txt"), "nothing").unwrap();
    let error = stores_at(place.path()).unwrap_err();
    assert!(matches!(&error, ExportError::NoStore { path } if path == place.path()));
    let text = error.to_string();
    assert!(text.contains(&place.path().display().to_string()), "{text}");
    assert!(text.contains("edge-agent export --config FILE"), "{text}");
    let nowhere = place.path().join("quarantine-7");
    let error = stores_at(&nowhere).unwrap_err();
    assert!(matches!(&error, ExportError::Read { path, .. } if *path == nowhere));
    let denied = ExportError::Read {
        path: nowhere,
        source: io::ErrorKind::PermissionDenied.into(),
    };
    assert!(denied.to_string().ends_with("or as root"), "{denied}");
}

#[test]
fn whoever_can_take_no_more_ends_it() {
    let place = tempfile::tempdir().unwrap();
    append(&mut open(place.path()), 0, 300, 50);
    let stores = stores_at(place.path()).unwrap();
    let mut taken = 0;
    let mut take = |_: Exported<'_>| {
        taken += 1;
        if taken == 70 {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(())
    };
    let ended = Exporter::default().look_through(&stores[0], &mut take, &mut |_| ());
    let is_broken = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
    assert!(matches!(ended, Err(ExportError::Taker(error)) if is_broken(&error)));
    assert_eq!(taken, 70);
}

/// A file with chunks of 10 passages each, which begin at these numbers.
fn chunks(stream: StreamId, firsts: &[u64]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut bytes = Vec::new();
    for first in firsts {
        let batch: PassageBatch = (0..10).map(|n| passage(first + n)).collect();
        let (event_min, event_max) = batch.event_span().unwrap();
        let key = ChunkKey {
            stream,
            range: SeqRange::from_count(Seq::new(*first).unwrap(), 10).unwrap(),
            event_min,
            event_max,
        };
        bytes.extend(chunk::encode(&key, &batch));
    }
    fs::write(file.path(), bytes).unwrap();
    file
}

#[test]
fn beyond_the_ranges_that_are_remembered_passages_come_out_all_the_same_and_it_says_so() {
    let stream = StreamId::from_bytes([5; 16]);
    // 401 is a range too many, twice; 11 joins those around it to one, so there is place for it then.
    let file = chunks(stream, &[1, 21, 401, 401, 11, 1, 401, 31, 401]);
    let limited = Exporter {
        ranges_max: 2,
        ..Exporter::default()
    };
    let (order, out, tally) = export_by(limited, file.path());
    assert_eq!(order.len(), 70);
    let first = |first: u64| (first..first + 10).map(|n| (stream, n));
    let all: Vec<_> = [1, 11, 21, 31, 401].into_iter().flat_map(first).collect();
    assert_eq!(out.into_keys().collect::<Vec<_>>(), all);
    assert_eq!((tally.passages, tally.unremembered), (70, 20));
}

#[test]
fn of_a_chunk_that_overlaps_another_only_the_rest_comes_out() {
    let stream = StreamId::from_bytes([5; 16]);
    let file = chunks(stream, &[11, 6, 16, 8]);
    let (out, tally) = export(file.path());
    let all: Vec<_> = (6..=25).map(|n| (stream, n)).collect();
    assert_eq!(out.into_keys().collect::<Vec<_>>(), all);
    assert_eq!(tally.streams[&stream].seqs, numbers(6, 25));
}
