use std::fs;
use std::os::unix::fs::PermissionsExt;

use proto::passage::{EventTime, Passage};

use super::*;
use crate::buffer::{Admitted, Buffer, BufferSettings, QuotaPolicy};

const NOW_MS: i64 = 1_743_848_130_000;

/// A buffer's directory in which the passages of KV1 lie.
async fn buffer_of(passages: i64) -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    let settings = BufferSettings {
        device: DeviceId::new("KV1").unwrap(),
        directory: place.path().join("buffer"),
        quota_bytes: 1 << 30,
        free_floor_bytes: 0,
        policy: QuotaPolicy::DropOldest,
        linger: std::time::Duration::ZERO,
        open_timeout: std::time::Duration::from_secs(60),
    };
    let (buffer, owner) = Buffer::open(&settings).unwrap();
    let owner = std::thread::spawn(move || owner.run());
    let passages = (0..passages).map(|n| Admitted {
        passage: Passage {
            event_time: EventTime::from_millis(NOW_MS + n * 1_000),
            ..Passage::default()
        },
        event_id: None,
    });
    buffer.append(passages.collect()).await.unwrap();
    drop(buffer);
    owner.join().unwrap();
    place
}

fn export(store: &Path, out: &Path) -> Result<u8, Failure> {
    let command = Export {
        store: Some(store.to_owned()),
        out: Some(out.to_owned()),
        config: None,
        json: true,
    };
    command.export(store)
}

fn names_in(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_file_has_a_line_a_passage_and_is_its_owners_alone() {
    let place = buffer_of(300).await;
    let out = place.path().join("KV1.ndjson");
    assert_eq!(
        export(&place.path().join("buffer"), &out).unwrap(),
        exit::OK
    );
    let mode = fs::metadata(&out).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let text = fs::read_to_string(&out).unwrap();
    let lines = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let mut seqs: Vec<u64> = lines
        .map(|line| {
            assert_eq!(line["kvfv_id"], "KV1");
            line["seq"].as_u64().unwrap()
        })
        .collect();
    seqs.sort_unstable();
    assert_eq!(seqs, (1..=300).collect::<Vec<_>>());
    assert_eq!(names_in(place.path()), ["KV1.ndjson", "buffer"]);
}

#[tokio::test]
async fn a_file_that_exists_stays_as_it_is() {
    let place = buffer_of(10).await;
    let out = place.path().join("KV1.ndjson");
    fs::write(&out, "of last year").unwrap();
    let failure = export(&place.path().join("buffer"), &out)
        .unwrap_err()
        .to_string();
    assert!(
        failure.contains("KV1.ndjson") && failure.contains("name another"),
        "{failure}"
    );
    assert_eq!(fs::read_to_string(&out).unwrap(), "of last year");
}

#[tokio::test]
async fn nothing_is_written_into_the_store() {
    let place = buffer_of(10).await;
    let buffer = place.path().join("buffer");
    for out in ["KV1.ndjson", "store/KV1.ndjson", "store/../KV1.ndjson"] {
        let failure = export(&buffer, &buffer.join(out)).unwrap_err();
        assert!(matches!(failure, Failure::Inside { .. }), "{failure}");
    }
    let main_file = buffer.join("store/db");
    let failure = export(&main_file, &buffer.join("store/blobs/KV1.ndjson")).unwrap_err();
    assert!(matches!(failure, Failure::Inside { .. }), "{failure}");
    assert_eq!(names_in(&buffer), ["lock", "store", "witness"]);
}

/// Takes some bytes, then fails as a pipe does whose reader has gone.
struct Pipe(usize);

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(self.0);
        self.0 -= taken;
        if taken == 0 {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_reader_that_has_gone_is_told_from_a_store_that_cannot_be_read() {
    let place = buffer_of(300).await;
    let stores = stores_at(&place.path().join("buffer")).unwrap();
    for out in [0, 1_000, 20_000] {
        let failure = write_lines(&stores, Pipe(out), &mut |_| ()).unwrap_err();
        let Failure::Output(error) = failure else {
            panic!("{failure}");
        };
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}

#[tokio::test]
async fn the_summary_names_stores_streams_numbers_and_times() {
    let place = buffer_of(1_234).await;
    let stores = stores_at(&place.path().join("buffer")).unwrap();
    let mut tally = write_lines(&stores, io::sink(), &mut |_| ()).unwrap();
    let (stream, size) = (*tally.streams.keys().next().unwrap(), bytes(tally.bytes));
    let store = stores[0].place.display();
    assert_eq!(
        summary::text(&stores, &tally),
        format!(
            "1,234 passages, from 2025-04-05T10:15:30Z to 2025-04-05T10:36:03Z; {size} looked through
  store   {store}, of KV1
  stream  {stream}: 1,234 passages, numbers 1 to 1,234, from 2025-04-05T10:15:30Z to 2025-04-05T10:36:03Z
"
        )
    );
    tally.unread_bytes = 4_096;
    assert!(summary::text(&stores, &tally).contains("\n  !       4,096 bytes could not be read"));
    let json: Value = serde_json::from_str(&summary::json(&stores, &tally)).unwrap();
    assert_eq!(
        (
            &json["passages"],
            &json["unread_bytes"],
            &json["streams"][0]["last"]
        ),
        (&1_234.into(), &4_096.into(), &1_234.into())
    );
    assert_eq!(json["streams"][0]["from"], "2025-04-05T10:15:30.000Z");
}

#[test]
fn the_list_names_each_place_its_size_and_its_unit() {
    let aside = [
        MovedAside {
            place: "/b/quarantine-1".into(),
            device: None,
            bytes: 1_536,
        },
        MovedAside {
            place: "/b/foreign-1".into(),
            device: DeviceId::new("KV7").ok(),
            bytes: 3,
        },
    ];
    assert_eq!(
        list_as_text(Path::new("/b"), &aside),
        "/b/quarantine-1  1.5 KiB, no name in it\n/b/foreign-1  3 B, of KV7\n\
         to take the passages out: edge-agent export STORE --out FILE\n"
    );
    assert_eq!(
        list_as_text(Path::new("/b"), &[]),
        "nothing was moved aside in /b\n"
    );
    assert_eq!(
        list_as_json(&aside[1..]),
        "[{\"bytes\":3,\"kvfv_id\":\"KV7\",\"store\":\"/b/foreign-1\"}]\n"
    );
}
