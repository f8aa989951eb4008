//! Who may do what in the database.

use aggregator::config::{ApiConfig, Timescale};
use aggregator::store::connect::Target;
use aggregator::store::schema;
use service::tasks::TaskSet;
use testbed::postgres::{Cluster, Options};
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use crate::centre::{Centre, settings};

async fn denied(client: &Client, sql: &str) -> String {
    let error = client.batch_execute(sql).await.expect_err(sql);
    error
        .code()
        .unwrap_or_else(|| panic!("{sql}: {error}"))
        .code()
        .to_owned()
}

const INSUFFICIENT_PRIVILEGE: &str = "42501";
const READ_ONLY_TRANSACTION: &str = "25006";
const QUERY_CANCELED: &str = "57014";

#[tokio::test]
async fn a_reader_sees_the_views_and_nothing_else() {
    let centre = Centre::start().await;
    centre
        .database
        .batch_execute("SELECT raw_days_prepare('{2025-04-05}')")
        .await
        .unwrap();
    let reader = Target::new(&settings(&centre.url))
        .unwrap()
        .pool(1)
        .unwrap()
        .get()
        .await
        .unwrap();
    let row = reader
        .query_one("SELECT current_user::text", &[])
        .await
        .unwrap();
    assert_eq!(row.get::<_, &str>(0), "verst_reader");

    for view in [
        "v_speed_5m",
        "v_speed_1h",
        "v_speed_24h",
        "v_device",
        "v_passage",
        "v_loss",
        "v_ml_5m",
        "v_backlog",
        "verst_completeness(now() - interval '1 day')",
        "v_speed_version_5m",
        "v_speed_version_1h",
        "v_speed_version_24h",
        "v_finality",
        "v_history",
        "v_ledger",
    ] {
        reader
            .batch_execute(&format!("SELECT * FROM {view}"))
            .await
            .unwrap();
    }
    let tables = "SELECT c.oid::regclass::text FROM pg_class c
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')";
    let tables = centre.database.query(tables, &[]).await.unwrap();
    assert!(tables.len() > 10);
    for table in tables.iter().map(|row| row.get::<_, &str>(0)) {
        assert_eq!(
            denied(&reader, &format!("SELECT FROM {table}")).await,
            INSUFFICIENT_PRIVILEGE
        );
    }
    let insert = "INSERT INTO device (device, shard) VALUES ('KV1', 0)";
    assert_eq!(denied(&reader, insert).await, READ_ONLY_TRANSACTION);
    // With the session's own guard taken away, rights alone must hold.
    reader
        .batch_execute("SET default_transaction_read_only = off")
        .await
        .unwrap();
    for sql in [
        insert,
        "UPDATE speed_stats_5m SET n = 0",
        "DELETE FROM passage",
        "TRUNCATE device",
        "CREATE TABLE mine ()",
        "SELECT raw_days_drop('2100-01-01')",
        "SELECT raw_day_pack('2100-01-01')",
        "SELECT verst_roles_grant()",
        "SELECT verst_login_create('mallory')",
        "SELECT plate FROM passage",
    ] {
        assert_eq!(denied(&reader, sql).await, INSUFFICIENT_PRIVILEGE, "{sql}");
    }
    let plates = "SELECT count(*) FROM information_schema.columns
        WHERE table_name LIKE 'v\\_%' AND (column_name LIKE '%plate%' OR column_name = 'extra')";
    assert_eq!(centre.value(plates).await.as_deref(), Some("0"));
}

#[tokio::test]
async fn a_login_gets_its_limits_and_the_rights_of_its_group() {
    let cluster = Cluster::start(Options::fast()).unwrap();
    let url = cluster.fresh_database().unwrap();
    let centre = Centre::over(url, &ApiConfig::default()).await;
    let create = "SELECT verst_login_create('grafana', statement_limit => '30 s');
        SELECT verst_login_create('aggregator', 'verst_writer');
        ALTER ROLE grafana PASSWORD 'x'; ALTER ROLE aggregator PASSWORD 'x'";
    centre.database.batch_execute(create).await.unwrap();
    assert!(
        !denied(
            &centre.database,
            "SELECT verst_login_create('root', 'postgres')"
        )
        .await
        .is_empty()
    );
    let login = async |role: &str| {
        let url = centre
            .url
            .split_once('@')
            .map(|(_, place)| format!("postgres://{role}:x@{place}"));
        Target::new(&settings(&url.unwrap()))
            .unwrap()
            .connect("test", &centre.tasks)
            .await
            .unwrap()
    };

    let reader = login("grafana").await;
    let show = async |client: &Client, name: &str| -> String {
        let sql = "SELECT current_setting($1)";
        client.query_one(sql, &[&name]).await.unwrap().get(0)
    };
    assert_eq!(show(&reader, "statement_timeout").await, "30s");
    reader
        .batch_execute("SELECT * FROM v_speed_5m")
        .await
        .unwrap();
    assert_eq!(
        denied(&reader, "SELECT * FROM speed_stats_5m").await,
        INSUFFICIENT_PRIVILEGE
    );
    assert_eq!(
        denied(&reader, "CREATE TEMP TABLE t ()").await,
        READ_ONLY_TRANSACTION
    );

    let writer = login("aggregator").await;
    assert_eq!(show(&writer, "statement_timeout").await, "0");
    let flush = "SELECT raw_days_prepare('{2025-04-05}');
        INSERT INTO device (device, shard) VALUES ('KV1', 0);
        SELECT nextval('stream_key');
        UPDATE shard_token SET token = token + 1 WHERE shard = 0;
        INSERT INTO passage (event_time, seq, device_key, stream_key, violation)
        SELECT '2025-04-05Z', 1, device_key, 1, false FROM device;
        SELECT raw_day_pack('2025-04-06');
        SELECT raw_days_drop('2025-04-06')";
    writer.batch_execute(flush).await.unwrap();
    for sql in [
        "DROP TABLE device",
        "CREATE TABLE public.mine ()",
        "DELETE FROM refinery_schema_history",
    ] {
        assert_eq!(denied(&writer, sql).await, INSUFFICIENT_PRIVILEGE, "{sql}");
    }
}

#[tokio::test]
async fn a_reader_that_holds_a_snapshot_or_runs_for_an_hour_is_cut_off() {
    let cluster = Cluster::start(Options::fast()).unwrap();
    let url = cluster.fresh_database().unwrap();
    let centre = Centre::over(url, &ApiConfig::default()).await;
    let create = "SELECT verst_login_create('mallory', statement_limit => '300 ms',
            idle_in_transaction_limit => '300 ms', connections_max => 1);
        ALTER ROLE mallory PASSWORD 'x'";
    centre.database.batch_execute(create).await.unwrap();
    let place = centre.url.split_once('@').unwrap().1;
    let url = format!("postgres://mallory:x@{place}");
    let target = Target::new(&settings(&url)).unwrap();
    let reader = target.connect("test", &centre.tasks).await.unwrap();

    assert!(
        target.connect("test", &centre.tasks).await.is_err(),
        "one connection is all that it has"
    );
    assert_eq!(
        denied(&reader, "SELECT pg_sleep(3600)").await,
        QUERY_CANCELED
    );
    let snapshot = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM v_speed_5m";
    reader.batch_execute(snapshot).await.unwrap();
    let held = "SELECT count(*)::text FROM pg_stat_activity
        WHERE usename = 'mallory' AND backend_xmin IS NOT NULL";
    while centre.value(held).await.as_deref() != Some("0") {
        tokio::task::yield_now().await;
    }
    assert!(
        reader.batch_execute("SELECT 1").await.is_err(),
        "its session has ended"
    );
}

#[tokio::test]
async fn an_owner_who_may_not_create_roles_migrates_and_is_told() {
    let cluster = Cluster::start(Options::fast()).unwrap();
    let create = "CREATE ROLE plain LOGIN PASSWORD 'x'";
    cluster.sql("postgres", create).unwrap();
    cluster
        .sql(
            "postgres",
            "CREATE DATABASE verst OWNER plain TEMPLATE template0",
        )
        .unwrap();
    let url = cluster.connection_string_of("verst");
    let place = url.split_once('@').unwrap().1;
    let tasks = TaskSet::new(CancellationToken::new());
    let target = Target::new(&settings(&format!("postgres://plain:x@{place}"))).unwrap();
    let mut owner = target.connect("test", &tasks).await.unwrap();
    schema::migrate(&mut owner, Timescale::Auto).await.unwrap();

    let grant = async || -> String {
        owner
            .query_one("SELECT verst_roles_grant()", &[])
            .await
            .unwrap()
            .get(0)
    };
    assert_eq!(grant().await, "missing: verst_reader, verst_writer");
    // The API reads with the owner's rights then, and still cannot write.
    let reader = target.pool(1).unwrap().get().await.unwrap();
    reader
        .batch_execute("SELECT * FROM v_speed_5m")
        .await
        .unwrap();
    assert_eq!(
        denied(&reader, "DELETE FROM device").await,
        READ_ONLY_TRANSACTION
    );

    let roles = "CREATE ROLE verst_reader NOLOGIN; CREATE ROLE verst_writer NOLOGIN";
    cluster.sql("verst", roles).unwrap();
    assert_eq!(grant().await, "granted");
    cluster
        .sql("verst", "SET ROLE verst_reader; SELECT * FROM v_speed_5m")
        .unwrap();
    assert!(
        cluster
            .sql("verst", "SET ROLE verst_reader; SELECT * FROM device")
            .is_err()
    );
}
