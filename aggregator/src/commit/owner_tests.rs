//! The owner against a real PostgreSQL that fails in the ways that databases fail.

use std::time::Duration;

use prometheus_client::registry::Registry;
use proto::passage::Passage;
use service::clock::wall_millis;
use service::ops::Health;
use tokio::sync::{mpsc, watch};
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use super::database_tests::{Base, Keeper};
use super::owner::Owner;
use crate::config::{LimitsConfig, WindowsConfig};
use crate::intake::decode::Message;
use crate::intake::mqtt::{Downlink, Gate, Link};
use crate::metrics::Metrics;
use crate::testing::{batch, passage};

const PATIENCE: Duration = Duration::from_secs(60);

/// An owner at work, with its lease; without a broker its receipts go nowhere.
struct Centre {
    base: Base,
    commits: mpsc::Receiver<()>,
    _listener: Client,
    messages: flume::Sender<Vec<Message>>,
    gate: watch::Receiver<Gate>,
    stop: CancellationToken,
    _keeper: Keeper,
}

impl Centre {
    async fn start() -> Self {
        let base = Base::new().await;
        let (listener, commits) = base.listen("flushed").await;
        base.client.batch_execute(NOTIFY).await.unwrap();
        let keeper = Keeper::start(&base, "centre-1");
        let (messages, messages_out) = flume::bounded(1_000);
        let (gate_in, gate) = watch::channel(Gate::Closed("not begun".to_owned()));
        let (_, link) = watch::channel(Link::Down);
        let metrics = Metrics::register(&mut Registry::default());
        let stop = CancellationToken::new();
        let owner = Owner {
            windows: WindowsConfig {
                flush_interval_ms: 50,
                ..WindowsConfig::default()
            },
            raw: true,
            limits: LimitsConfig::default(),
            target: base.target.clone(),
            instance: keeper.instance.clone(),
            tasks: base.tasks.clone(),
            holdings: keeper.holdings.clone(),
            raises: keeper.raises.clone(),
            messages: messages_out,
            downlink: Downlink::new(link, metrics.clone()),
            gate: gate_in,
            health: Health::new(),
            metrics,
        };
        base.tasks.spawn("owner", owner.run(stop.clone()));
        let mut centre = Self {
            base,
            commits,
            _listener: listener,
            messages,
            gate,
            stop,
            _keeper: keeper,
        };
        centre.gate_is(|gate| *gate == Gate::Open).await;
        centre
    }

    fn send(&self, messages: Vec<Message>) {
        self.messages.send(messages).unwrap();
    }

    async fn gate_is(&mut self, what: impl FnMut(&Gate) -> bool) {
        let found = tokio::time::timeout(PATIENCE, self.gate.wait_for(what)).await;
        assert!(found.expect("the gate did not move").is_ok());
    }

    /// Waits, from COMMIT to COMMIT, until the query gives this number.
    async fn settles(&mut self, query: &str, number: i64) {
        let settled = async {
            while self.base.number(query).await != number {
                self.commits.recv().await;
            }
        };
        if tokio::time::timeout(PATIENCE, settled).await.is_err() {
            panic!(
                "{query} gives {}, not {number}",
                self.base.number(query).await
            );
        }
    }
}

/// A notification is sent by the COMMIT.
const NOTIFY: &str = "
    CREATE FUNCTION flushed() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN NOTIFY flushed; RETURN NULL; END $$;
    CREATE TRIGGER flushed AFTER INSERT OR UPDATE ON stream_cursor
        FOR EACH STATEMENT EXECUTE FUNCTION flushed()";

const COUNTED: &str = "SELECT coalesce(sum(upper(r) - lower(r)), 0)::int8
    FROM stream_cursor, unnest(counted) AS r";
const VEHICLES: &str = "SELECT coalesce(sum(n), 0)::int8 FROM speed_stats_24h";
const RAW: &str = "SELECT count(*) FROM passage";
const RAW_DISTINCT: &str = "SELECT count(DISTINCT (stream_key, seq)) FROM passage";

/// Passages of the last minutes.
fn fresh(count: u16) -> Vec<Passage> {
    let now = wall_millis();
    (0..count)
        .map(|n| passage(now - i64::from(n) * 500, 5_000 + n))
        .collect()
}

#[tokio::test]
async fn what_cannot_be_stored_is_refused_alone_and_the_rest_is_committed() {
    let mut centre = Centre::start().await;
    let ban = "ALTER TABLE passage ADD CHECK (speed_ckmh <> 6666)";
    centre.base.client.batch_execute(ban).await.unwrap();
    let mut poisoned = fresh(10);
    poisoned[3].speed = proto::Speed::from_centi_kmh(6_666);
    centre.send(vec![
        batch("KV1", 1, 1, &fresh(10)),
        batch("KV2", 1, 1, &fresh(10)),
        batch("KV2", 1, 11, &poisoned),
        batch("KV2", 1, 21, &fresh(10)),
        batch("KV3", 1, 1, &fresh(10)),
    ]);
    centre.settles(COUNTED, 40).await;
    assert_eq!(centre.base.number(VEHICLES).await, 40);
    assert_eq!(centre.base.number(RAW).await, 40);
    let gap = "SELECT count(*) FROM stream_cursor WHERE counted = '{[1,11),[21,31)}'";
    assert_eq!(centre.base.number(gap).await, 1);
}

#[tokio::test]
async fn a_writer_that_is_killed_again_and_again_counts_everything_once() {
    let mut centre = Centre::start().await;
    let sent = fresh(400);
    for turn in 0..20_u64 {
        let first = usize::try_from(turn * 20).unwrap();
        // Each batch overlaps the one before.
        let from = first.saturating_sub(10);
        centre.send(vec![batch(
            "KV1",
            1,
            from as u64 + 1,
            &sent[from..first + 20],
        )]);
        let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE application_name LIKE 'verst-writer%' AND datname = current_database()";
        centre.base.client.execute(kill, &[]).await.unwrap();
    }
    centre.settles(COUNTED, 400).await;
    assert_eq!(centre.base.number(VEHICLES).await, 400);
    assert_eq!(centre.base.number(RAW).await, 400);
    assert_eq!(centre.base.number(RAW_DISTINCT).await, 400);
}

#[tokio::test]
async fn a_full_disk_closes_intake_and_room_opens_it_again() {
    let mut centre = Centre::start().await;
    let full = "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION 'no space left on device' USING ERRCODE = '53100'; END $$;
        CREATE TRIGGER full_disk BEFORE INSERT ON stream_cursor EXECUTE FUNCTION full_disk()";
    centre.base.client.batch_execute(full).await.unwrap();
    centre.send(vec![batch("KV1", 1, 1, &fresh(10))]);
    let is_full = |gate: &Gate| matches!(gate, Gate::Closed(why) if why.contains("53100"));
    centre.gate_is(is_full).await;
    assert_eq!(centre.base.number(RAW).await, 0);
    centre
        .base
        .client
        .batch_execute("DROP FUNCTION full_disk CASCADE")
        .await
        .unwrap();
    centre.gate_is(|gate| *gate == Gate::Open).await;
    centre.settles(COUNTED, 10).await;
    assert_eq!(centre.base.number(RAW).await, 10);
}

#[tokio::test]
async fn what_is_at_hand_at_the_stop_is_committed() {
    let mut centre = Centre::start().await;
    centre.send(vec![
        batch("KV1", 1, 1, &fresh(10)),
        batch("KV2", 1, 1, &fresh(10)),
    ]);
    centre.stop.cancel();
    // The owner's end closes the gate's channel.
    let ended = async { while centre.gate.changed().await.is_ok() {} };
    tokio::time::timeout(PATIENCE, ended).await.unwrap();
    assert_eq!(centre.base.number(COUNTED).await, 20);
}

#[tokio::test]
async fn an_owner_that_was_replaced_commits_nothing_more_until_it_owns_again() {
    let mut centre = Centre::start().await;
    // Somebody else has taken everything over.
    let taken =
        "UPDATE shard_lease SET owner = 'another 1 x', expires_at = now() + interval '1 hour';
        UPDATE shard_token SET token = token + 1";
    centre.base.client.batch_execute(taken).await.unwrap();
    centre.send(vec![batch("KV1", 1, 1, &fresh(10))]);
    centre
        .gate_is(|gate| matches!(gate, Gate::Closed(why) if why.contains("another 1 x")))
        .await;
    assert_eq!(centre.base.number(COUNTED).await, 0);
    let back = "UPDATE shard_lease SET expires_at = now()";
    centre.base.client.batch_execute(back).await.unwrap();
    centre.gate_is(|gate| *gate == Gate::Open).await;
    centre.send(vec![batch("KV1", 1, 1, &fresh(10))]);
    centre.settles(COUNTED, 10).await;
    assert_eq!(centre.base.number(RAW).await, 10);
}

#[tokio::test]
async fn an_owner_whose_windows_another_has_changed_reads_again_and_goes_on() {
    let mut centre = Centre::start().await;
    let sent = fresh(20);
    centre.send(vec![batch("KV1", 1, 1, &sent[..10])]);
    centre.settles(COUNTED, 10).await;
    for table in ["speed_stats_5m", "speed_stats_1h", "speed_stats_24h"] {
        let change = format!("UPDATE {table} SET n = n + 1, rev = rev + 1");
        centre.base.client.batch_execute(&change).await.unwrap();
    }
    centre.gate.mark_unchanged();
    centre.send(vec![batch("KV1", 1, 11, &sent[10..])]);
    centre.settles(COUNTED, 20).await;
    let changed = centre.base.number(VEHICLES).await - 20;
    assert!(changed > 0, "what another has written stands");
    assert!(!centre.gate.has_changed().unwrap(), "intake stays open");
}
