//! Whatever is asked about the past is answered as it was answered then, or not with numbers.

use std::time::Duration;

use proto::device::DeviceId;
use proto::frame::Up;
use proto::header::Frontier;
use proto::passage::{EventTime, Passage};
use proto::window::BUCKET_MS;

use super::database_tests::{Base, planned};
use super::writer::{Right, Writer};
use crate::intake::decode::Message;
use crate::store::reader::{Interval, OutOfReach, ReadError, Reader, SpeedRows};
use crate::store::retention::forget_history;
use crate::testing::{DAY, NOW, header, message, passage};
use crate::window::state::Memory;

const UNIT: &str = "KV1";
const HOUR: i64 = 3_600_000;

/// Numbers that are the same each time.
struct Draw(u64);

impl Draw {
    fn below(&mut self, limit: i64) -> i64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        i64::try_from(self.0 >> 33).unwrap() % limit
    }
}

/// A unit whose flushes are made by hand.
struct Unit {
    base: Base,
    writer: Writer,
    reader: Reader,
    memory: Memory,
    next: u64,
}

impl Unit {
    async fn new() -> Self {
        let base = Base::new().await;
        Self {
            writer: base.writer().await,
            reader: Reader::new(base.target.pool(2).unwrap(), 1 << 20),
            base,
            memory: Memory::new(),
            next: 1,
        }
    }

    /// One flush: these passages, and the statement that everything before `frontier_ms` is sent.
    async fn flush(&mut self, passages: &[Passage], frontier_ms: i64) {
        let count = u32::try_from(passages.len()).unwrap();
        let mut header = header(1, self.next, count, self.next - 1 + u64::from(count));
        self.next += u64::from(count);
        header.frontier = Frontier {
            before: EventTime::from_millis(frontier_ms),
            run: 1,
            counter: self.next,
        };
        let up = Up::Passages(passages.iter().cloned().collect());
        let messages: [Message; 1] = [message(UNIT, &header, &up)];
        let plan = planned(&self.writer, &mut self.memory, &messages).await;
        let tokens = self.base.tokens().await;
        let done = self.writer.commit(&plan, Right::Owner(&tokens)).await;
        done.unwrap();
        self.memory.install(plan.changes);
    }

    /// A millisecond that has passed, after everything that is committed and before what follows.
    async fn instant(&self) -> i64 {
        let clock = "SELECT ceil(extract(epoch FROM clock_timestamp()) * 1000)::int8";
        let instant = self.base.number(clock).await;
        while self.base.number(clock).await <= instant + 1 {}
        instant
    }

    async fn now(&self, interval: Interval, covered: (i64, i64)) -> SpeedRows {
        let device = DeviceId::new(UNIT).unwrap();
        let rows = self.reader.speed(&device, interval, covered.0..covered.1);
        rows.await.unwrap().unwrap()
    }

    async fn then(
        &self,
        interval: Interval,
        covered: (i64, i64),
        at_ms: i64,
    ) -> Result<SpeedRows, OutOfReach> {
        let device = DeviceId::new(UNIT).unwrap();
        let past = self
            .reader
            .speed_at(&device, interval, covered.0..covered.1, at_ms);
        past.await.unwrap().map(Option::unwrap)
    }
}

/// Ranges that begin and end with a window of the length.
fn ranges(interval: Interval) -> [(i64, i64); 3] {
    let day = interval.floor(NOW - NOW.rem_euclid(DAY));
    let back = |ms: i64| interval.floor(NOW - ms);
    [
        (day - DAY, day + DAY),
        (back(5 * HOUR), back(2 * HOUR)),
        (back(90 * 60_000), back(30 * 60_000)),
    ]
}

/// What was said then against what is said of then. Says how many windows are not kept.
#[track_caller]
fn assert_same(interval: Interval, then: &SpeedRows, past: &SpeedRows) -> usize {
    let known = |rows: &SpeedRows| (rows.standing.first_seen_ms, rows.standing.final_to_ms);
    assert_eq!(known(past), known(then));
    let final_to = then.standing.final_to_ms.unwrap_or(i64::MIN);
    for start in &past.not_kept {
        assert!(
            start + interval.length_ms() > final_to,
            "{interval:?} at {start} was final and is not kept"
        );
    }
    let mut kept: Vec<_> = then.windows.clone();
    kept.retain(|window| !past.not_kept.contains(&window.row.start_ms));
    assert_eq!(past.windows, kept, "{interval:?}");
    assert_eq!(kept.len() + past.not_kept.len(), then.windows.len());
    if past.totals.is_none() {
        assert!(!past.not_kept.is_empty());
    } else {
        assert_eq!(past.totals, then.totals, "{interval:?}");
    }
    past.not_kept.len()
}

#[tokio::test]
async fn every_answer_of_the_past_is_given_again_unless_it_was_partial_then() {
    let mut unit = Unit::new().await;
    let mut draw = Draw(7);
    let mut said = Vec::new();
    // From 8 hours ago to now, in steps of about 12 minutes; the unit is final half an hour behind.
    let mut time = NOW - 8 * HOUR;
    while time < NOW {
        let fresh = (0..5).map(|_| passage(time + draw.below(10 * 60_000), 8_000));
        let mut passages: Vec<Passage> = fresh.collect();
        // Some are so late that what they change was final.
        if draw.below(2) == 0 {
            let late = NOW - 8 * HOUR + draw.below(time - NOW + 8 * HOUR + 1);
            let speed = u16::try_from(1_000 + draw.below(15_000)).unwrap();
            passages.push(passage(late, speed));
        }
        unit.flush(&passages, time - HOUR / 2).await;
        for interval in Interval::ALL {
            for covered in ranges(interval) {
                let rows = unit.now(interval, covered).await;
                said.push((unit.instant().await, interval, covered, rows));
            }
        }
        time += 10 * 60_000 + draw.below(5 * 60_000);
    }
    let (mut repeated, mut not_kept, mut without_totals) = (0, 0, 0);
    for (at, interval, covered, then) in &said {
        let past = unit.then(*interval, *covered, *at).await.unwrap();
        let missing = assert_same(*interval, then, &past);
        not_kept += missing;
        without_totals += usize::from(past.totals.is_none());
        repeated += usize::from(missing == 0 && !then.windows.is_empty());
    }
    let versions = unit.base.number("SELECT count(*) FROM speed_history").await;
    let all = said.len();
    assert!(
        versions > 10 && repeated > 50 && not_kept > 20 && (1..all / 4).contains(&without_totals),
        "{versions} versions kept; of {all} answers {repeated} repeated whole, \
         {without_totals} without totals; {not_kept} windows not kept"
    );
}

#[tokio::test]
async fn totals_are_put_together_from_shorter_windows_where_longer_ones_are_not_kept() {
    let mut unit = Unit::new().await;
    let hour = NOW - NOW.rem_euclid(HOUR) - 5 * HOUR;
    let first: Vec<Passage> = (0..12)
        .map(|n| {
            passage(
                hour + n * BUCKET_MS,
                5_000 + 500 * u16::try_from(n).unwrap(),
            )
        })
        .collect();
    unit.flush(&first, hour + HOUR).await;
    // The day goes on, so the day as it was then is not kept; its hour is.
    let day = hour - hour.rem_euclid(DAY);
    let then = unit.now(Interval::Day, (day, day + DAY)).await;
    let at = unit.instant().await;
    unit.flush(&[passage(hour + 2 * HOUR, 9_000)], hour + 3 * HOUR)
        .await;
    unit.flush(&[passage(hour + 1, 100)], hour + 3 * HOUR).await;
    let past = unit
        .then(Interval::Day, (day, day + DAY), at)
        .await
        .unwrap();
    assert_eq!(past.not_kept, [day]);
    assert_eq!(past.totals, then.totals);
}

#[tokio::test]
async fn a_flush_keeps_only_versions_that_were_final() {
    let mut unit = Unit::new().await;
    let window = NOW - NOW.rem_euclid(BUCKET_MS) - 10 * BUCKET_MS;
    for n in 0..5 {
        unit.flush(&[passage(window + n, 5_000)], window).await;
    }
    let kept = "SELECT count(*) FROM speed_history";
    assert_eq!(unit.base.number(kept).await, 0);
    // The flush that says so finds it not final yet.
    unit.flush(&[passage(window + 10, 5_000)], window + BUCKET_MS)
        .await;
    assert_eq!(unit.base.number(kept).await, 0);
    unit.flush(&[passage(window + 11, 5_000)], window + BUCKET_MS)
        .await;
    let version = "SELECT count(*) FROM speed_history WHERE minutes = 5 AND n = 6 AND rev = 6
                   AND NOT revised AND updated_at < valid_to";
    assert_eq!(unit.base.number(version).await, 1);
    let log = "SELECT count(*) FROM finality_log";
    assert_eq!(unit.base.number(log).await, 2);
}

#[tokio::test]
async fn what_is_ahead_or_no_longer_kept_is_out_of_reach() {
    let mut unit = Unit::new().await;
    let window = NOW - NOW.rem_euclid(BUCKET_MS) - 10 * BUCKET_MS;
    for n in 0..3 {
        unit.flush(&[passage(window + n, 5_000)], window + (n + 1) * BUCKET_MS)
            .await;
    }
    let (covered, five) = ((window, window + BUCKET_MS), Interval::FiveMinutes);
    let at = unit.instant().await;
    let ahead = unit.then(five, covered, at + HOUR).await;
    assert!(matches!(ahead, Err(OutOfReach::Future { now_ms }) if now_ms >= at));
    // As if all of it had happened ten days ago.
    let age = "UPDATE speed_history SET updated_at = updated_at - interval '10 days',
                   valid_to = valid_to - interval '10 days';
               UPDATE finality_log SET at = at - interval '10 days';
               UPDATE device SET first_seen = first_seen - interval '10 days';
               UPDATE history_kept SET kept_from = kept_from - interval '10 days'";
    unit.base.client.batch_execute(age).await.unwrap();
    assert!(unit.then(five, covered, at - 9 * DAY).await.is_ok());
    forget_history(&unit.base.client, 7).await.unwrap();
    let forgotten = unit.then(five, covered, at - 9 * DAY).await;
    let Err(OutOfReach::Forgotten { kept_from_ms }) = forgotten else {
        panic!("{forgotten:?}");
    };
    assert_eq!(
        (kept_from_ms - at + 7 * DAY).abs() / HOUR,
        0,
        "7 days are kept"
    );
    assert_eq!(
        unit.base.number("SELECT count(*) FROM speed_history").await,
        0
    );
    // The last entry before the kept time still says how far the unit was final.
    assert_eq!(
        unit.base.number("SELECT count(*) FROM finality_log").await,
        1
    );
    let past = unit.then(five, covered, kept_from_ms).await.unwrap();
    assert_eq!(past.standing.final_to_ms, Some(window + 3 * BUCKET_MS));
}

#[tokio::test]
async fn old_entries_are_deleted_so_many_at_a_time() {
    let unit = Unit::new().await;
    let old = "CREATE SEQUENCE deletes;
        CREATE FUNCTION deleted() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN PERFORM nextval('deletes'); RETURN NULL; END $$;
        CREATE TRIGGER deleted AFTER DELETE ON finality_log
            FOR EACH STATEMENT EXECUTE FUNCTION deleted();
        INSERT INTO finality_log (device_key, at, final_to)
            SELECT 1, now() - interval '10 days' + n * interval '1 second', now()
            FROM generate_series(0, 12000) AS n";
    unit.base.client.batch_execute(old).await.unwrap();
    forget_history(&unit.base.client, 7).await.unwrap();
    let left = "SELECT count(*) FROM finality_log";
    assert_eq!(unit.base.number(left).await, 1);
    let statements = "SELECT last_value FROM deletes";
    assert_eq!(unit.base.number(statements).await, 3, "5,000 each");
}

/// Silence is a table that another has locked; the server itself would cancel only after 5 s.
#[tokio::test]
async fn a_question_that_is_not_answered_is_given_up_and_its_connection_with_it() {
    let mut unit = Unit::new().await;
    let window = NOW - NOW.rem_euclid(BUCKET_MS) - 10 * BUCKET_MS;
    unit.flush(&[passage(window, 5_000)], window).await;
    let (device, five) = (DeviceId::new(UNIT).unwrap(), Interval::FiveMinutes);
    let covered = window..window + BUCKET_MS;
    let other = unit.base.target.connect("lock", &unit.base.tasks);
    let other = other.await.unwrap();
    let lock = "BEGIN; LOCK TABLE device IN ACCESS EXCLUSIVE MODE";
    other.batch_execute(lock).await.unwrap();
    let patience = std::mem::replace(&mut unit.reader.patience, Duration::ZERO);
    let asked = unit.reader.speed(&device, five, covered.clone()).await;
    assert!(matches!(asked, Err(ReadError::TimedOut)), "{asked:?}");
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
        AND application_name = 'verst-api' AND wait_event_type = 'Lock'";
    let seen = async { while unit.base.number(waiting).await == 0 {} };
    let seen = tokio::time::timeout(Duration::from_secs(60), seen).await;
    seen.expect("it still waits when nobody waits for it");
    other.batch_execute("ROLLBACK").await.unwrap();
    unit.reader.patience = patience;
    let answered = unit.now(five, (covered.start, covered.end)).await;
    assert_eq!(answered.windows.len(), 1);
}

#[tokio::test]
async fn a_flush_that_is_under_way_for_too_long_is_waited_for_no_longer() {
    let mut unit = Unit::new().await;
    let window = NOW - NOW.rem_euclid(BUCKET_MS) - 10 * BUCKET_MS;
    unit.flush(&[passage(window, 5_000)], window).await;
    // As if all of it had happened a day ago.
    let age = "UPDATE device SET first_seen = first_seen - interval '1 day';
               UPDATE history_kept SET kept_from = kept_from - interval '1 day'";
    unit.base.client.batch_execute(age).await.unwrap();
    let flush = unit
        .base
        .target
        .connect("flush", &unit.base.tasks)
        .await
        .unwrap();
    let begun = "BEGIN; SELECT * FROM shard_token FOR SHARE";
    flush.batch_execute(begun).await.unwrap();
    let at = unit.instant().await;
    let covered = (window, window + BUCKET_MS);
    let then = unit.then(Interval::FiveMinutes, covered, at - 6 * 60_000);
    assert!(then.await.is_ok());
    unit.reader.patience = Duration::ZERO;
    let device = DeviceId::new(UNIT).unwrap();
    let range = covered.0..covered.1;
    let recent = unit
        .reader
        .speed_at(&device, Interval::FiveMinutes, range, at);
    let waits = tokio::time::timeout(Duration::from_secs(60), recent).await;
    let waits = waits.expect("it waits, and not for ever").unwrap_err();
    assert!(matches!(waits, ReadError::TimedOut), "{waits}");
}

#[tokio::test]
async fn a_time_is_answered_when_no_flush_can_turn_up_before_it() {
    let mut unit = Unit::new().await;
    let window = NOW - NOW.rem_euclid(BUCKET_MS) - 10 * BUCKET_MS;
    unit.flush(&[passage(window, 5_000)], window).await;
    let flush = unit
        .base
        .target
        .connect("flush", &unit.base.tasks)
        .await
        .unwrap();
    let begun = "BEGIN; SELECT * FROM shard_token FOR SHARE;
                 UPDATE speed_stats_5m SET n = 77, rev = 2, updated_at = clock_timestamp()";
    flush.batch_execute(begun).await.unwrap();
    let at = unit.instant().await;
    let covered = (window, window + BUCKET_MS);
    let commit = async {
        // The question is on its way before this.
        for _ in 0..20 {
            unit.base.number("SELECT 1::int8").await;
        }
        flush.batch_execute("COMMIT").await.unwrap();
    };
    let (past, ()) = tokio::join!(unit.then(Interval::FiveMinutes, covered, at), commit);
    assert_eq!(past.unwrap().windows[0].row.sums.n, 77);
}
