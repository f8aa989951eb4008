//! The owner against a real PostgreSQL that fails in the ways that databases fail.

use std::time::Duration;

use prometheus_client::registry::Registry;
use proto::device::DeviceId;
use proto::frame::Up;
use proto::passage::Passage;
use proto::topic::Shard;
use service::clock::wall_millis;
use service::ops::Health;
use tokio::sync::{mpsc, watch};
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use super::database_tests::{Base, Keeper, LEASE};
use super::lease::Holdings;
use super::owner::Owner;
use crate::config::{LimitsConfig, WindowsConfig};
use crate::intake::decode::Message;
use crate::intake::lane::{self, Lanes};
use crate::intake::mqtt::{Downlink, Gate, Link};
use crate::metrics::Metrics;
use crate::testing::{batch, header, message, passage};

const PATIENCE: Duration = Duration::from_secs(60);

/// An owner at work, with its lease; without a broker its receipts go nowhere.
struct Centre {
    base: Base,
    commits: mpsc::Receiver<()>,
    _listener: Client,
    messages: Lanes<flume::Sender<Vec<Message>>>,
    gate: watch::Receiver<Gate>,
    stop: CancellationToken,
    keeper: Keeper,
    relinks: watch::Sender<u64>,
}

impl Centre {
    async fn start() -> Self {
        let base = Base::new().await;
        let (listener, commits) = base.listen("flushed").await;
        base.client.batch_execute(NOTIFY).await.unwrap();
        let keeper = Keeper::start(&base, "centre-1");
        let (messages, messages_out) = lane::channels(1_000);
        let (gate_in, gate) = watch::channel(Gate::Closed("not begun".to_owned()));
        let (_, link) = watch::channel(Link::Down);
        let (relinks, relinks_out) = watch::channel(0);
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
            lease: LEASE.ttl(),
            renewed: keeper.renewed.clone(),
            raises: keeper.raises.clone(),
            in_use: keeper.in_use.clone(),
            relinks: relinks_out,
            messages: messages_out,
            downlink: Downlink::new(vec![link], metrics.clone()),
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
            keeper,
            relinks,
        };
        centre.gate_is(|gate| *gate == Gate::Open).await;
        centre
    }

    fn send(&self, messages: Vec<Message>) {
        self.messages.live.send(messages).unwrap();
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
async fn values_that_the_database_takes_from_nobody_close_intake() {
    let mut centre = Centre::start().await;
    let ban = "ALTER TABLE passage ADD CHECK (speed_ckmh < 5000)";
    centre.base.client.batch_execute(ban).await.unwrap();
    let sent = (1..=12).map(|n| batch(&format!("KV{n}"), 1, 1, &fresh(1)));
    centre.send(sent.collect());
    let is_blown =
        |gate: &Gate| matches!(gate, Gate::Closed(why) if why.contains("refused for ever"));
    centre.gate_is(is_blown).await;
    assert_eq!(centre.base.number(COUNTED).await, 0);
}

#[tokio::test]
async fn a_few_of_a_large_fleet_close_no_intake_however_new_the_connection_is() {
    let mut centre = Centre::start().await;
    let fleet =
        "INSERT INTO device (device, shard) SELECT 'F' || n, n % 64 FROM generate_series(1, 200) n";
    centre.base.client.batch_execute(fleet).await.unwrap();
    // The header promises two passages.
    let malformed = |n: u8| {
        let up = Up::Passages(fresh(1).into_iter().collect());
        message(&format!("KV{n}"), &header(1, 1, 2, 2), &up)
    };
    let mut sent: Vec<Message> = (1..=12).map(malformed).collect();
    sent.push(batch("KV20", 1, 1, &fresh(10)));
    centre.send(sent);
    centre.settles(COUNTED, 10).await;
    // What the first flush led to is decided before the second.
    centre.send(vec![batch("KV20", 1, 11, &fresh(10))]);
    centre.settles(COUNTED, 20).await;
    assert_eq!(*centre.gate.borrow(), Gate::Open);
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
async fn a_device_with_more_windows_than_many_flushes_take_does_not_keep_others_waiting() {
    let mut centre = Centre::start().await;
    let now = wall_millis();
    let sparse: Vec<_> = (0..4_096)
        .map(|n| passage(now - n * 300_000, 5_000))
        .collect();
    centre.send(vec![
        batch("SPARSE", 1, 1, &sparse),
        batch("SPARSE", 1, 4_097, &sparse),
    ]);
    let begun = async {
        while centre.base.number(COUNTED).await == 0 {
            centre.commits.recv().await;
        }
    };
    tokio::time::timeout(PATIENCE, begun).await.unwrap();
    centre.send(vec![batch("KV1", 1, 1, &fresh(10))]);
    let of_other = "SELECT coalesce(sum(upper(r) - lower(r)), 0)::int8 FROM stream_cursor
        JOIN device USING (device_key), unnest(counted) AS r WHERE device = 'KV1'";
    centre.settles(of_other, 10).await;
    let sparse = centre.base.number(COUNTED).await - 10;
    assert!(sparse < 8_192, "the other waited for all {sparse}");
    centre.settles(COUNTED, 8_202).await;
    assert_eq!(centre.base.number(VEHICLES).await, 8_202);
    assert_eq!(centre.base.number(RAW_DISTINCT).await, 8_202);
}

#[tokio::test]
async fn a_turn_takes_along_what_has_been_decoded_of_the_backlog() {
    let mut centre = Centre::start().await;
    let (target, tasks) = (&centre.base.target, &centre.base.tasks);
    let mut blocker = target.connect("blocker", tasks).await.unwrap();
    let lock = blocker.transaction().await.unwrap();
    lock.batch_execute("LOCK TABLE stream_cursor IN SHARE MODE")
        .await
        .unwrap();
    centre.send(vec![batch("FIRST", 1, 1, &fresh(10))]);
    let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    while centre.base.number(waits).await == 0 {
        tokio::task::yield_now().await;
    }
    // All turns have something to take, and the next is due when the flush is over.
    let live = (0..64).map(|n| batch(&format!("KV{n}"), 1, 1, &fresh(1)));
    centre.send(live.collect());
    let late = vec![batch("LATE", 1, 1, &fresh(10))];
    centre.messages.backlog.send(late).unwrap();
    lock.rollback().await.unwrap();
    centre.settles(COUNTED, 84).await;
    let in_the_first = "SELECT count(*) FROM stream_cursor JOIN device USING (device_key)
        WHERE device = 'LATE' AND stream_cursor.xmin::text = (
            SELECT min(c.xmin::text::int8)::text FROM stream_cursor c JOIN device d USING (device_key)
            WHERE d.device LIKE 'KV%')";
    assert_eq!(centre.base.number(in_the_first).await, 1);
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

/// The first transactions, so many, fail for a reason that passes.
pub(crate) async fn failing(base: &Base, table: &str, times: u32) {
    let fail = format!(
        "CREATE SEQUENCE attempts;
         CREATE FUNCTION fails() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF nextval('attempts') <= {times} THEN
                 RAISE EXCEPTION 'try again' USING ERRCODE = '40001';
             END IF;
             RETURN NULL; END $$;
         CREATE TRIGGER fails AFTER INSERT ON {table}
             FOR EACH STATEMENT EXECUTE FUNCTION fails()"
    );
    base.client.batch_execute(&fail).await.unwrap();
}

#[tokio::test]
async fn after_eight_more_attempts_at_a_flush_its_connection_and_tokens_are_suspected() {
    for (failures, suspected) in [(8, false), (9, true)] {
        let mut centre = Centre::start().await;
        failing(&centre.base, "stream_cursor", failures).await;
        let before = centre.keeper.owns(64).await;
        let opened = centre.gate.clone();
        centre.send(vec![batch("KV1", 1, 1, &fresh(10))]);
        centre.settles(COUNTED, 10).await;
        assert_eq!(centre.base.number(VEHICLES).await, 10);
        assert_eq!(centre.base.number(RAW).await, 10);
        let attempts = "SELECT last_value FROM attempts";
        assert_eq!(centre.base.number(attempts).await, i64::from(failures) + 1);
        assert_eq!(opened.has_changed().unwrap(), suspected, "{failures}");
        let after = centre.base.tokens().await;
        let raised = after.iter().all(|(shard, token)| *token > before[shard]);
        assert_eq!(raised, suspected, "{failures}");
    }
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
    let taken = "INSERT INTO aggregator (owner, renewed_at, expires_after, suspect_after, brokers)
        VALUES ('another 1 x', now() + interval '1 hour', '1 second', '1 second', 9);
        UPDATE shard_lease SET owner = 'another 1 x';
        UPDATE shard_token SET token = token + 1";
    centre.base.client.batch_execute(taken).await.unwrap();
    centre.send(vec![batch("KV1", 1, 1, &fresh(10))]);
    centre
        .gate_is(|gate| matches!(gate, Gate::Closed(why) if why.contains("another 1 x")))
        .await;
    assert_eq!(centre.base.number(COUNTED).await, 0);
    let back = "UPDATE aggregator SET renewed_at = '-infinity' WHERE owner = 'another 1 x'";
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

#[tokio::test]
async fn shards_come_and_go_between_flushes_and_intake_stays_open() {
    let mut centre = Centre::start().await;
    let devices: Vec<String> = (0..24).map(|n| format!("KV{n}")).collect();
    let of_all = |first: u64, passages: &[Passage]| -> Vec<Message> {
        let of_one = |device: &String| batch(device, 1, first, passages);
        devices.iter().map(of_one).collect()
    };
    let sent = fresh(30);
    centre.send(of_all(1, &sent[..10]));
    centre.settles(COUNTED, 240).await;
    let opened = centre.gate.clone();
    let mut second = Keeper::start(&centre.base, "centre-2");
    let theirs = second.owns(32).await;
    let own = |device: &&String| !theirs.contains_key(&Shard::of(&DeviceId::new(device).unwrap()));
    let own = i64::try_from(devices.iter().filter(own).count()).unwrap();
    assert!(own < 24, "some devices moved");
    centre.send(of_all(11, &sent[10..20]));
    centre.settles(COUNTED, 240 + 10 * own).await;
    second.stop.cancel();
    centre.keeper.owns(64).await;
    // Nobody has a receipt for the second ten of those that had moved: they come again.
    centre.send(of_all(11, &sent[10..20]));
    centre.send(of_all(21, &sent[20..]));
    centre.settles(COUNTED, 720).await;
    assert_eq!(centre.base.number(VEHICLES).await, 720);
    assert_eq!(centre.base.number(RAW).await, 720);
    assert!(!opened.has_changed().unwrap(), "intake stays open");
}

#[tokio::test]
async fn a_new_connection_to_the_broker_brings_new_tokens_and_intake_stays_open() {
    let mut centre = Centre::start().await;
    let sent = fresh(20);
    centre.send(vec![batch("KV1", 1, 1, &sent[..10])]);
    centre.settles(COUNTED, 10).await;
    let before = centre.keeper.owns(64).await;
    let opened = centre.gate.clone();
    centre.relinks.send_modify(|relinks| *relinks += 1);
    let is_raised = |shard: &Shard, token: &i64| *token > before[shard];
    let raised = |now: &Holdings| now.tokens.iter().all(|(s, t)| is_raised(s, t));
    centre.keeper.wait(raised).await;
    // What a unit sends again, and what is new.
    centre.send(vec![batch("KV1", 1, 1, &sent)]);
    centre.settles(COUNTED, 20).await;
    assert_eq!(centre.base.number(VEHICLES).await, 20);
    assert!(!opened.has_changed().unwrap(), "intake stays open");
}
