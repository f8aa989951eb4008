//! What is special about raw rows in a hypertable of TimescaleDB. Everything else is tried on it by the
//! other tests, where the server offers it.

use service::tasks::TaskSet;
use testbed::postgres::{Cluster, Options};
use tokio_util::sync::CancellationToken;

use super::database_tests::{Base, planned, settings};
use super::writer::Right;
use crate::config::Timescale;
use crate::store::connect::Target;
use crate::store::retention;
use crate::store::schema::{self, Storage};
use crate::testing::{DAY, NOW, batch, passage};
use crate::window::state::Memory;

const UNIT: &str = "KV1";
const CHUNKS: &str = "SELECT count(*) FROM show_chunks('passage')";
const PACKED: &str = "SELECT count(*) FROM timescaledb_information.chunks WHERE is_compressed";
const ROWS: &str = "SELECT count(*) FROM passage";
const OF_THE_VIEW: &str = "SELECT count(*) FROM v_passage";

/// Whether there is anything to test; says so where there is not.
fn offered() -> bool {
    let offered = Cluster::shared().offers_timescale().unwrap();
    if !offered {
        eprintln!("skipped: the PostgreSQL server at hand offers no TimescaleDB");
    }
    offered
}

/// Commits ten passages of this stream, one of each of the last ten days, the newest of them today.
async fn commit(base: &Base, stream: u8) {
    let writer = base.writer().await;
    let passages: Vec<_> = (0..10).map(|n| passage(NOW - n * DAY, 5_000)).collect();
    let messages = [batch(UNIT, stream, 1, &passages)];
    let plan = planned(&writer, &mut Memory::new(), &messages).await;
    let tokens = base.tokens().await;
    writer.commit(&plan, Right::Owner(&tokens)).await.unwrap();
}

/// Drops what is older than the day that began so many days before today's.
fn drop_before(days: i64) -> String {
    let day = NOW / DAY - days;
    format!("SELECT raw_days_drop('epoch'::date + {day})::int8")
}

async fn days_come_and_go(base: &Base) {
    commit(base, 1).await;
    assert_eq!(
        (base.number(CHUNKS).await, base.number(ROWS).await),
        (10, 10)
    );
    assert_eq!(base.number(&drop_before(9)).await, 0);
    assert_eq!(base.number(&drop_before(3)).await, 6);
    assert_eq!(base.number(&drop_before(3)).await, 0);
    assert_eq!((base.number(CHUNKS).await, base.number(ROWS).await), (4, 4));
    assert_eq!(base.number(OF_THE_VIEW).await, 4);
}

#[tokio::test]
async fn each_day_has_its_chunk_and_old_ones_are_dropped() {
    if offered() {
        days_come_and_go(&Base::new().await).await;
    }
}

#[tokio::test]
async fn days_beyond_the_horizon_move_to_the_columnstore_and_take_what_is_added() {
    if !offered() {
        return;
    }
    let base = Base::new().await;
    commit(&base, 1).await;
    let before = i32::try_from(NOW / DAY - 3).unwrap();
    for _ in 0..2 {
        retention::pack(&base.client, before).await.unwrap();
        assert_eq!(base.number(PACKED).await, 6);
    }
    commit(&base, 2).await;
    assert_eq!(
        (base.number(ROWS).await, base.number(OF_THE_VIEW).await),
        (20, 20)
    );
    assert_eq!(base.number(&drop_before(5)).await, 4);
    assert_eq!(
        (base.number(PACKED).await, base.number(ROWS).await),
        (2, 12)
    );
}

#[tokio::test]
async fn the_apache_licence_is_enough() {
    if !offered() {
        return;
    }
    let licence = ("timescaledb.license".to_owned(), "apache".to_owned());
    let cluster = Cluster::start(Options {
        settings: vec![licence],
        ..Options::fast()
    })
    .unwrap();
    let url = cluster.fresh_database().unwrap();
    let base = Base::over(url, Timescale::On).await;
    days_come_and_go(&base).await;
    let today = i32::try_from(NOW / DAY).unwrap();
    retention::pack(&base.client, today).await.unwrap();
    assert_eq!(base.number(PACKED).await, 0);
}

#[tokio::test]
async fn an_owner_who_is_no_superuser_gets_a_hypertable() {
    if !offered() {
        return;
    }
    let cluster = Cluster::start(Options::fast()).unwrap();
    cluster
        .sql("postgres", "CREATE ROLE plain LOGIN PASSWORD 'x'")
        .unwrap();
    let create = "CREATE DATABASE verst OWNER plain TEMPLATE template0";
    cluster.sql("postgres", create).unwrap();
    let url = cluster.connection_string_of("verst");
    let place = url.split_once('@').unwrap().1;
    let base = Base::over(format!("postgres://plain:x@{place}"), Timescale::Auto).await;
    days_come_and_go(&base).await;
}

#[tokio::test]
async fn a_server_that_has_it_but_does_not_load_it_is_taken_as_plain() {
    if !offered() {
        return;
    }
    let setting = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let settings_of_server = vec![
        setting("shared_preload_libraries", ""),
        // As tuning tools leave it behind.
        setting("timescaledb.max_background_workers", "16"),
    ];
    let cluster = Cluster::start(Options {
        settings: settings_of_server,
        ..Options::fast()
    })
    .unwrap();
    let target = Target::new(&settings(&cluster.fresh_database().unwrap())).unwrap();
    let tasks = TaskSet::new(CancellationToken::new());
    let mut client = target.connect("test", &tasks).await.unwrap();
    let demanded = schema::migrate(&mut client, Timescale::On).await;
    let error = demanded.unwrap_err().to_string();
    assert!(error.contains("shared_preload_libraries"), "{error}");
    let migrated = schema::migrate(&mut client, Timescale::Auto).await.unwrap();
    assert_eq!(migrated.storage, Storage::Plain);
}

#[tokio::test]
async fn a_database_with_a_hypertable_keeps_it() {
    if !offered() {
        return;
    }
    let mut base = Base::new().await;
    let again = schema::migrate(&mut base.client, Timescale::Off).await;
    let again = again.unwrap();
    assert_eq!(
        (again.storage, again.applied.is_empty()),
        (Storage::Timescale, true)
    );
    let checked = schema::check(&mut base.client).await.unwrap();
    assert_eq!(checked, Storage::Timescale);
}
