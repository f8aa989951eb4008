//! Against a real PostgreSQL: what is committed is what was planned, fenced owners write nothing,
//! leases pass on. With TimescaleDB where the server offers it, else with native partitions.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use prometheus_client::registry::Registry;
use proto::device::DeviceId;
use proto::frame::Up;
use proto::heartbeat::{Backlog, CameraLink, Disk, Heartbeat};
use proto::loss::{Loss, LossReason, LossScope, Losses};
use proto::passage::Passage;
use proto::plate::{Plate, PlateText};
use proto::ranges::{Seq, SeqRange};
use proto::topic::Shard;
use secrecy::SecretString;
use service::clock::{monotonic, wall_millis};
use service::tasks::TaskSet;
use testbed::postgres::Cluster;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_postgres::{AsyncMessage, Client};
use tokio_util::sync::CancellationToken;

use super::lease::{Holdings, InUse, Instance, LeaseKeeper, Raise};
use super::load;
use super::plan::{Context, Plan, plan};
use super::select::select;
use super::writer::{Right, WriteError, Writer};
use crate::config::{DatabaseConfig, LeaseConfig, Timescale};
use crate::intake::decode::Message;
use crate::metrics::Metrics;
use crate::store::connect::Target;
use crate::store::schema::{self, SchemaError, Storage};
use crate::testing::{CENTRE, DAY, NOW, batch, header, message, passage, stream};
use crate::window::lateness::Horizon;
use crate::window::rollup::{Length, WindowId};
use crate::window::state::Memory;

const UNIT: &str = "KV1";

/// A migrated database of its own.
pub(crate) struct Base {
    url: String,
    pub(crate) target: Target,
    pub(crate) tasks: TaskSet,
    pub(crate) client: Client,
}

pub(super) fn settings(url: &str) -> DatabaseConfig {
    DatabaseConfig {
        url: SecretString::from(url),
        password_file: None,
        ca: None,
        pool_size: 1,
        migrate: true,
        timescale: Timescale::Off,
        accept_async_standby: false,
    }
}

impl Base {
    pub(crate) async fn new() -> Self {
        let url = Cluster::shared().fresh_database().unwrap();
        Self::over(url, Timescale::Auto).await
    }

    pub(super) async fn over(url: String, timescale: Timescale) -> Self {
        let target = Target::new(&settings(&url)).unwrap();
        let tasks = TaskSet::new(CancellationToken::new());
        let mut client = target.connect("test", &tasks).await.unwrap();
        schema::migrate(&mut client, timescale).await.unwrap();
        Self {
            url,
            target,
            tasks,
            client,
        }
    }

    /// Whatever is notified on a channel from now on, as it happens, while the client lives.
    pub(super) async fn listen(&self, channel: &str) -> (Client, mpsc::Receiver<()>) {
        let (client, mut connection) = tokio_postgres::connect(&self.url, tokio_postgres::NoTls)
            .await
            .unwrap();
        let (heard_in, heard) = mpsc::channel(1);
        self.tasks.spawn("listener", async move {
            while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
                if matches!(message, AsyncMessage::Notification(_)) {
                    // One that waits is as good as two.
                    heard_in.try_send(()).ok();
                }
            }
        });
        let listen = format!("LISTEN {channel}");
        client.batch_execute(&listen).await.unwrap();
        (client, heard)
    }

    pub(crate) async fn writer(&self) -> Writer {
        Writer::open(&self.target, "verst-writer test", &self.tasks)
            .await
            .unwrap()
    }

    pub(crate) async fn number(&self, query: &str) -> i64 {
        self.client.query_one(query, &[]).await.unwrap().get(0)
    }

    pub(crate) async fn tokens(&self) -> BTreeMap<Shard, i64> {
        let rows = self
            .client
            .query("SELECT shard, token FROM shard_token", &[])
            .await
            .unwrap();
        let shard = |n: i16| Shard::new(u8::try_from(n).unwrap()).unwrap();
        rows.iter()
            .map(|row| (shard(row.get(0)), row.get(1)))
            .collect()
    }
}

/// Loads what the messages need, as the owner does.
async fn loaded(writer: &Writer, memory: &mut Memory, messages: &[Message]) {
    let client = writer.client();
    for message in messages {
        let device = message.sender().device.clone();
        if memory.device(&device).is_none() {
            load::devices(client, memory, std::slice::from_ref(&device), NOW / DAY)
                .await
                .unwrap();
        }
        for stream in message.streams() {
            let state = memory.device(&device).unwrap();
            if !state.cursors.contains_key(&stream) {
                load::cursors(client, memory, &[(device.clone(), stream)])
                    .await
                    .unwrap();
            }
        }
    }
}

fn horizon() -> Horizon {
    Horizon::at(NOW, 60 * DAY, 300_000)
}

pub(super) async fn planned<'a>(
    writer: &Writer,
    memory: &mut Memory,
    messages: &'a [Message],
) -> Plan<'a> {
    loaded(writer, memory, messages).await;
    let places: Vec<usize> = (0..messages.len()).collect();
    let floor_ms = load::floor_ms(writer.client()).await.unwrap();
    let horizon = horizon().not_below(floor_ms);
    let selection = select(memory, messages, &places, &horizon);
    assert!(selection.left_over.is_empty());
    load::windows(writer, memory, &selection.windows)
        .await
        .unwrap();
    let keys = load::stream_keys(writer.client(), messages.len())
        .await
        .unwrap();
    let context = Context {
        now_ms: NOW,
        horizon,
        raw: true,
        rejected_per_day_max: 100,
        stream_keys: &keys,
        centre: CENTRE,
    };
    plan(memory, messages, &selection.parts, &context)
}

/// Every field in use, over two days, three of them beyond the horizon.
fn varied(count: usize) -> Vec<Passage> {
    (0..count)
        .map(|n| {
            let small = u8::try_from(n % 10).unwrap();
            let age = if n % 50 == 49 {
                61 * DAY
            } else {
                i64::try_from(n).unwrap() * 60_000
            };
            Passage {
                plate: match n % 3 {
                    0 => Plate::Absent,
                    1 => Plate::Text(PlateText::new("А123ВС68").unwrap()),
                    _ => Plate::Hash([small; 8]),
                },
                lane: proto::passage::Lane::new(small),
                direction: proto::passage::Direction::from_code(small),
                vehicle_class: proto::passage::VehicleClass::new(small),
                length: proto::passage::LengthCm::new(400 + u16::from(small)),
                speed_limit: proto::passage::SpeedLimitKmh::new(90),
                violation: n % 7 == 0,
                confidence: proto::passage::ConfidencePermille::new(987),
                extra: (n % 5 == 0).then(|| r#"{"camera": {"id": 7}}"#.into()),
                ..passage(NOW - age, 5_000 + u16::try_from(n).unwrap())
            }
        })
        .collect()
}

#[tokio::test]
async fn what_is_read_again_is_what_was_committed() {
    let base = Base::new().await;
    let writer = base.writer().await;
    let tokens = base.tokens().await;
    let mut memory = Memory::new();
    // 60 windows of 5 minutes at most in one flush.
    let sent = varied(150);
    for (first, part) in [
        (1, &sent[..150]),
        (101, &sent[100..150]),
        (151, &sent[..20]),
    ] {
        let messages = [batch(UNIT, 1, first, part), batch("KV2", 1, first, part)];
        let plan = planned(&writer, &mut memory, &messages).await;
        writer.commit(&plan, Right::Owner(&tokens)).await.unwrap();
        memory.install(plan.changes);
    }
    let mut again = Memory::new();
    for name in [UNIT, "KV2"] {
        let device = DeviceId::new(name).unwrap();
        let known = memory.device(&device).unwrap();
        load::devices(
            writer.client(),
            &mut again,
            std::slice::from_ref(&device),
            NOW / DAY,
        )
        .await
        .unwrap();
        load::cursors(writer.client(), &mut again, &[(device.clone(), stream(1))])
            .await
            .unwrap();
        let windows: Vec<(DeviceId, WindowId)> = known
            .windows
            .keys()
            .map(|id| (device.clone(), *id))
            .collect();
        load::windows(&writer, &mut again, &windows).await.unwrap();
        let read = again.device(&device).unwrap();
        // When a stream began is the database's word; until it is read, the flush's own clock stands
        // for it.
        let mut cursors = read.cursors.clone();
        cursors
            .values_mut()
            .for_each(|cursor| cursor.since_ms = NOW);
        assert_eq!(cursors, known.cursors);
        for (id, (window, _)) in &known.windows {
            assert_eq!(&read.windows[id].0, window, "{id:?}");
        }
        assert_eq!(read.today.rejected, known.today.rejected);
        assert!(read.today.rejected_kept > 0);
    }
    let raw = base.number("SELECT count(*) FROM passage").await;
    let distinct = base
        .number("SELECT count(DISTINCT (stream_key, seq)) FROM passage")
        .await;
    let rejected = base.number("SELECT count(*) FROM rejected_passage").await;
    assert_eq!((raw, distinct, raw + rejected), (raw, raw, 2 * 170));
    for length in Length::ALL {
        let sum = format!("SELECT sum(n)::int8 FROM {}", length.table());
        assert_eq!(base.number(&sum).await, raw, "{length:?}");
    }
}

#[tokio::test]
async fn raw_rows_hold_every_field() {
    let base = Base::new().await;
    let writer = base.writer().await;
    let messages = [batch(UNIT, 1, 1, &varied(40))];
    let plan = planned(&writer, &mut Memory::new(), &messages).await;
    writer
        .commit(&plan, Right::Owner(&base.tokens().await))
        .await
        .unwrap();
    let row = base
        .client
        .query_one(
            "SELECT (extract(epoch FROM event_time) * 1000)::int8, speed_ckmh, lane, direction,
                    vehicle_class, length_cm, speed_limit_kmh, confidence_permille, violation,
                    plate, encode(plate_hash, 'hex'), extra::text
             FROM passage WHERE seq = 36",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(row.get::<_, i64>(0), NOW - 35 * 60_000);
    assert_eq!(row.get::<_, i32>(1), 5_035);
    let small: Vec<i16> = (2..8).map(|column| row.get(column)).collect();
    assert_eq!(small, [5, 5, 5, 405, 90, 987]);
    assert!(row.get::<_, bool>(8));
    assert_eq!(row.get::<_, Option<String>>(9), None);
    assert_eq!(
        row.get::<_, Option<String>>(10).unwrap(),
        "0505050505050505"
    );
    assert_eq!(row.get::<_, String>(11), r#"{"camera": {"id": 7}}"#);
    let text: String = base
        .client
        .query_one("SELECT plate FROM passage WHERE seq = 2", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(text, "А123ВС68");
}

#[tokio::test]
async fn an_owner_whose_token_was_raised_writes_nothing() {
    let base = Base::new().await;
    let writer = base.writer().await;
    let tokens = base.tokens().await;
    let messages = [batch(UNIT, 1, 1, &varied(10))];
    let plan = planned(&writer, &mut Memory::new(), &messages).await;
    base.client
        .execute("UPDATE shard_token SET token = token + 1", &[])
        .await
        .unwrap();
    let fenced = writer
        .commit(&plan, Right::Owner(&tokens))
        .await
        .unwrap_err();
    assert!(matches!(fenced, WriteError::Fenced { .. }), "{fenced}");
    for table in ["passage", "speed_stats_5m", "stream_cursor"] {
        assert_eq!(
            base.number(&format!("SELECT count(*) FROM {table}")).await,
            0,
            "{table}"
        );
    }
    // The connection is still good, and under the new token the same plan holds.
    writer
        .commit(&plan, Right::Owner(&base.tokens().await))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_plan_against_stale_state_writes_nothing() {
    let base = Base::new().await;
    let writer = base.writer().await;
    let tokens = base.tokens().await;
    let first = [batch(UNIT, 1, 1, &varied(10))];
    let plan = planned(&writer, &mut Memory::new(), &first).await;
    writer.commit(&plan, Right::Owner(&tokens)).await.unwrap();
    let again = writer
        .commit(&plan, Right::Owner(&tokens))
        .await
        .unwrap_err();
    assert!(matches!(again, WriteError::Rows { .. }), "{again}");
    assert_eq!(base.number("SELECT count(*) FROM passage").await, 10);
    assert_eq!(
        base.number("SELECT max(rev)::int8 FROM speed_stats_5m")
            .await,
        1
    );
}

#[tokio::test]
async fn the_ledger_and_the_state_of_a_unit_are_written() {
    let base = Base::new().await;
    let writer = base.writer().await;
    let mut memory = Memory::new();
    let tokens = base.tokens().await;
    let seq = |n| Seq::new(n).unwrap();
    let loss = Loss {
        range: SeqRange::new(seq(1), seq(10)).unwrap(),
        scope: LossScope::All,
        reason: LossReason::Quota,
        event_min: Some(proto::EventTime::from_millis(NOW - 1_000)),
        event_max: None,
    };
    let heartbeat = Heartbeat {
        held: Vec::new(),
        backlog: Backlog {
            passages: 7,
            bytes: u64::MAX,
            oldest: None,
            newest: Some(proto::EventTime::from_millis(NOW)),
            drain_per_min: Some(-3),
        },
        camera: CameraLink::Unknown,
        clock_offset_ms: Some(-3),
        agent_version: "0.1.0".to_owned(),
        disk: Disk::default(),
    };
    let up = Up::Loss(Losses { losses: vec![loss] });
    let messages = [
        message(UNIT, &header(1, 1, 0, 10), &up),
        message(UNIT, &header(1, 1, 0, 10), &Up::Heartbeat(heartbeat)),
    ];
    let plan = planned(&writer, &mut memory, &messages).await;
    writer.commit(&plan, Right::Owner(&tokens)).await.unwrap();
    memory.install(plan.changes);
    assert_eq!(base.number("SELECT count(*) FROM loss_ledger").await, 1);
    assert_eq!(
        base.number("SELECT backlog_passages FROM device_status")
            .await,
        7
    );
    assert_eq!(
        base.number(
            "SELECT backlog_drain_per_min FROM device_status WHERE backlog_newest IS NOT NULL"
        )
        .await,
        -3
    );
    let late = [batch(UNIT, 1, 3, &varied(4))];
    let plan = planned(&writer, &mut memory, &late).await;
    writer.commit(&plan, Right::Owner(&tokens)).await.unwrap();
    assert_eq!(base.number("SELECT recovered FROM loss_ledger").await, 4);
}

#[tokio::test]
async fn what_no_window_takes_and_the_side_table_has_no_room_for_is_lost_by_the_ledger() {
    let base = Base::new().await;
    let (writer, tokens) = (base.writer().await, base.tokens().await);
    let mut memory = Memory::new();
    // Every second one is beyond the horizon; the side table takes 100 of a unit and day.
    let sent: Vec<Passage> = (0..600)
        .map(|n| passage(if n % 2 == 0 { NOW - 61 * DAY } else { NOW - n }, 5_000))
        .collect();
    for (first, part) in (1..).step_by(200).zip(sent.chunks(200)) {
        let messages = [batch(UNIT, 1, first, part)];
        let plan = planned(&writer, &mut memory, &messages).await;
        writer.commit(&plan, Right::Owner(&tokens)).await.unwrap();
        memory.install(plan.changes);
    }
    let books = "SELECT accepted * 1000000 + counted * 1000 + lost FROM v_ledger";
    assert_eq!(base.number(books).await, 600_400_200);
    let named = "SELECT sum(passages)::int8 FROM v_loss WHERE reason = 'too_old'";
    assert_eq!(base.number(named).await, 200);
    let entries = "SELECT count(*) FROM loss_ledger";
    assert_eq!(base.number(entries).await, 1, "one for a stream and day");
    let kept = "SELECT count(*) FROM rejected_passage";
    assert_eq!(base.number(kept).await, 100);
    let stored = "SELECT stored FROM v_ledger";
    assert_eq!(base.number(stored).await, 400);
}

#[tokio::test]
async fn migrating_twice_changes_nothing_and_a_missing_schema_is_named() {
    let url = Cluster::shared().fresh_database().unwrap();
    let target = Target::new(&settings(&url)).unwrap();
    let tasks = TaskSet::new(CancellationToken::new());
    let mut client = target.connect("test", &tasks).await.unwrap();
    let behind = schema::check(&mut client).await.unwrap_err();
    assert!(
        matches!(&behind, SchemaError::Behind(names) if names.contains("V1__tables")),
        "{behind}"
    );
    let first = schema::migrate(&mut client, Timescale::Off).await.unwrap();
    assert_eq!(
        (first.storage, first.applied.is_empty()),
        (Storage::Plain, false)
    );
    let second = schema::migrate(&mut client, Timescale::Auto).await.unwrap();
    assert_eq!(
        (second.storage, second.applied.is_empty()),
        (Storage::Plain, true)
    );
    assert_eq!(schema::check(&mut client).await.unwrap(), Storage::Plain);
}

#[tokio::test]
async fn days_of_raw_passages_are_made_once_and_dropped_when_old() {
    let url = Cluster::shared().fresh_database().unwrap();
    let base = Base::over(url, Timescale::Off).await;
    let prepare =
        "SELECT raw_days_prepare(ARRAY['2024-02-29', '2024-03-01', '2024-02-29']::date[])";
    for _ in 0..2 {
        base.client.execute(prepare, &[]).await.unwrap();
    }
    let partitions = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'passage'::regclass";
    assert_eq!(base.number(partitions).await, 2);
    let drop = "SELECT raw_days_drop('2024-03-01')::int8";
    assert_eq!((base.number(drop).await, base.number(drop).await), (1, 0));
    assert_eq!(base.number(partitions).await, 1);
}

/// A lease keeper at work.
pub(super) struct Keeper {
    pub(super) holdings: watch::Receiver<Holdings>,
    pub(super) renewed: watch::Receiver<Instant>,
    pub(super) raises: mpsc::Sender<Raise>,
    /// Empty unless an owner says otherwise: shards are given up at once.
    pub(super) in_use: watch::Sender<InUse>,
    pub(super) brokers: watch::Sender<u16>,
    pub(super) stop: CancellationToken,
    pub(super) instance: Instance,
}

/// A machine under load may stand still for a while.
pub(super) const LEASE: LeaseConfig = LeaseConfig {
    ttl_ms: 10_000,
    renew_ms: 100,
};

impl Keeper {
    pub(super) fn start(base: &Base, name: &str) -> Self {
        Self::start_with(base, name, LEASE)
    }

    pub(super) fn start_with(base: &Base, name: &str, settings: LeaseConfig) -> Self {
        Self::start_at(base, name, settings, wall_millis)
    }

    pub(super) fn start_at(
        base: &Base,
        name: &str,
        settings: LeaseConfig,
        wall_millis: fn() -> i64,
    ) -> Self {
        let (holdings_in, holdings) = watch::channel(Holdings::default());
        let (renewed_in, renewed) = watch::channel(monotonic());
        let (raises, raises_out) = mpsc::channel(1);
        let (in_use, in_use_out) = watch::channel(InUse::new());
        let (brokers, brokers_out) = watch::channel(1);
        let stop = CancellationToken::new();
        let instance = Instance::new(name).unwrap();
        let keeper = LeaseKeeper {
            target: base.target.clone(),
            instance: instance.clone(),
            settings,
            holdings: holdings_in,
            renewed: renewed_in,
            raises: raises_out,
            in_use: in_use_out,
            brokers: brokers_out,
            wall_millis,
            metrics: Metrics::register(&mut Registry::default()),
            tasks: base.tasks.clone(),
        };
        base.tasks.spawn("lease", keeper.run(stop.clone()));
        Self {
            holdings,
            renewed,
            raises,
            in_use,
            brokers,
            stop,
            instance,
        }
    }

    pub(super) async fn wait(&mut self, what: impl FnMut(&Holdings) -> bool) -> Holdings {
        let found = tokio::time::timeout(Duration::from_secs(30), self.holdings.wait_for(what));
        found.await.expect("holdings did not come").unwrap().clone()
    }

    pub(super) async fn owns(&mut self, shards: usize) -> BTreeMap<Shard, i64> {
        self.wait(|holdings| holdings.tokens.len() == shards)
            .await
            .tokens
    }
}

#[tokio::test]
async fn aggregators_share_the_shards_evenly_as_they_come_and_go() {
    let base = Base::new().await;
    let mut first = Keeper::start(&base, "centre-1");
    let alone = first.owns(64).await;
    let mut second = Keeper::start(&base, "centre-2");
    let (one, other) = (first.owns(32).await, second.owns(32).await);
    assert!(
        one.iter().all(|(shard, token)| alone[shard] == *token),
        "what stays keeps its token"
    );
    assert!(
        other.iter().all(|(shard, token)| alone[shard] < *token),
        "what moves gets a higher one"
    );
    let mut third = Keeper::start(&base, "centre-3");
    third.wait(|holdings| holdings.tokens.len() >= 21).await;
    let owners = "SELECT count(DISTINCT owner) FROM shard_lease WHERE owner IS NOT NULL";
    assert_eq!(base.number(owners).await, 3);
    first.stop.cancel();
    second.owns(32).await;
    third.owns(32).await;
    second.stop.cancel();
    let after = third.owns(64).await;
    assert!(after.iter().all(|(shard, token)| alone[shard] < *token));
    let holdings = third.wait(|holdings| holdings.other.is_none()).await;
    assert!(holdings.centre.is_some() && holdings.takes_part);
}

#[tokio::test]
async fn each_life_of_a_database_has_a_higher_timeline_however_old_what_was_restored_is() {
    let base = Base::new().await;
    // Whoever starts after `change` finds itself in another life.
    let timeline = async |change: &str| {
        base.client.batch_execute(change).await.unwrap();
        let mut keeper = Keeper::start(&base, "centre-1");
        let holdings = keeper.wait(|holdings| holdings.centre.is_some()).await;
        keeper.stop.cancel();
        holdings.centre.unwrap().timeline
    };
    let first = timeline("SELECT").await;
    assert_eq!(timeline("SELECT").await, first, "the same life");
    // Twice a promoted standby; then, on another server, a dump from before both.
    let restored =
        format!("UPDATE centre SET timeline = {first}, server_id = 0, server_timeline = 1");
    let promoted = "UPDATE centre SET server_timeline = 0";
    let mut before = first;
    for change in [promoted, promoted, &restored] {
        let clock = "SELECT (extract(epoch FROM clock_timestamp()) / 10)::int8";
        let clock = base.number(clock).await;
        let next = timeline(change).await;
        // What units were told stood at the clock of that time.
        assert!(
            i64::from(next) >= clock,
            "{change}: {next}, the clock is at {clock}"
        );
        assert!(
            next > before || change == restored,
            "{change}: {next} after {before}"
        );
        before = next;
    }
}

#[tokio::test]
async fn a_shard_is_given_up_only_when_its_owner_has_let_go_of_it() {
    let base = Base::new().await;
    let mut first = Keeper::start(&base, "centre-1");
    let mut in_use = first.owns(64).await;
    first.in_use.send_replace(in_use.clone());
    let mut second = Keeper::start(&base, "centre-2");
    for given in 1..=32 {
        let kept = first.owns(64 - given).await;
        // Published, but still in use: nobody else has it.
        let leases = "SELECT count(*) FROM shard_lease WHERE owner LIKE 'centre-1 %'";
        assert_eq!(
            base.number(leases).await,
            65 - i64::try_from(given).unwrap()
        );
        assert_eq!(second.holdings.borrow().tokens.len(), given - 1);
        in_use.retain(|shard, _| kept.contains_key(shard));
        first.in_use.send_replace(in_use.clone());
        second.owns(given).await;
    }
}

#[tokio::test]
async fn who_loses_the_broker_gives_its_shards_up_and_gets_them_back() {
    let base = Base::new().await;
    let mut first = Keeper::start(&base, "centre-1");
    first.owns(64).await;
    let mut second = Keeper::start(&base, "centre-2");
    second.owns(32).await;
    first.brokers.send_replace(0);
    second.owns(64).await;
    first.brokers.send_replace(1);
    first.owns(32).await;
    second.owns(32).await;
}

#[tokio::test]
async fn of_two_with_one_name_the_younger_stands_by_until_the_older_is_gone() {
    let base = Base::new().await;
    let mut older = Keeper::start(&base, "centre-1");
    older.owns(64).await;
    let mut younger = Keeper::start(&base, "centre-1");
    let standby = younger.wait(|holdings| holdings.other.is_some()).await;
    assert_eq!(standby.other.unwrap(), older.instance.owner());
    assert!(standby.tokens.is_empty() && !standby.takes_part);
    assert_eq!(base.number("SELECT count(*) FROM aggregator").await, 1);
    older.stop.cancel();
    younger.owns(64).await;
}

/// An aggregator that was killed: its row, its leases, no session.
async fn killed(base: &Base, renewed: &str) -> Instance {
    let dead = Instance::new("centre-1").unwrap();
    let row = format!(
        "INSERT INTO aggregator (owner, renewed_at, expires_after, suspect_after, brokers)
         VALUES ('{owner}', {renewed}, '1 second', '1 second', 1);
         UPDATE shard_lease SET owner = '{owner}'",
        owner = dead.owner()
    );
    base.client.batch_execute(&row).await.unwrap();
    dead
}

#[tokio::test]
async fn an_owner_that_is_silent_is_replaced_and_its_writer_ended() {
    let base = Base::new().await;
    // Its session is gone, but it has not missed a renewal yet.
    let dead = killed(&base, "now() + interval '10 minutes'").await;
    let mut keeper = Keeper::start(&base, "centre-2");
    keeper.wait(|holdings| holdings.other.is_some()).await;
    assert!(keeper.holdings.borrow().tokens.is_empty());
    let orphan = Writer::open(&base.target, &dead.writer(), &base.tasks)
        .await
        .unwrap();
    orphan
        .client()
        .batch_execute("BEGIN; SELECT * FROM shard_token FOR SHARE")
        .await
        .unwrap();
    let late = "UPDATE aggregator SET renewed_at = '-infinity' WHERE owner LIKE 'centre-1 %'";
    base.client.batch_execute(late).await.unwrap();
    keeper.owns(64).await;
    assert!(
        orphan.client().batch_execute("COMMIT").await.is_err(),
        "the orphan was ended"
    );
    orphan
        .commit(&empty_plan(), Right::Owner(&BTreeMap::new()))
        .await
        .unwrap_err();
}

#[tokio::test]
async fn who_wakes_up_after_its_shards_were_taken_raises_no_token_of_theirs() {
    let base = Base::new().await;
    let mut sleeper = Keeper::start(&base, "centre-1");
    let before = sleeper.owns(64).await;
    let taken = "UPDATE shard_lease SET owner = 'centre-2 1 x' WHERE shard < 60;
        INSERT INTO aggregator (owner, renewed_at, expires_after, suspect_after, brokers)
        VALUES ('centre-2 1 x', now() + interval '1 hour', '1 hour', '1 hour', 1)";
    base.client.batch_execute(taken).await.unwrap();
    let (done, raised) = oneshot::channel();
    let end_writer = true;
    sleeper
        .raises
        .send(Raise { end_writer, done })
        .await
        .unwrap();
    raised.await.unwrap();
    let after = base.tokens().await;
    let raised = |(shard, token): &(&Shard, &i64)| **token > before[*shard];
    assert_eq!(after.iter().filter(raised).count(), 4);
    let holdings = sleeper.holdings.borrow().tokens.clone();
    assert!(holdings.iter().all(|(shard, token)| after[shard] == *token));
    assert!(holdings.len() <= 4);
}

#[tokio::test]
async fn whoever_has_another_clock_than_the_database_owns_nothing_until_it_is_set() {
    /// How far the clock is off.
    static OFF_MS: AtomicI64 = AtomicI64::new(0);
    let base = Base::new().await;
    let clock = || wall_millis() + OFF_MS.load(Ordering::Relaxed);
    let mut wrong = Keeper::start_at(&base, "centre-1", LEASE, clock);
    wrong.owns(64).await;
    let mut other = Keeper::start(&base, "centre-2");
    other.owns(32).await;
    for off_ms in [-600_000, 100 * DAY] {
        OFF_MS.store(off_ms, Ordering::Relaxed);
        let found = wrong.wait(|holdings| holdings.clocks.is_some()).await;
        let apart = found.clocks.unwrap();
        assert_eq!(apart.own_ms > apart.database_ms, off_ms > 0);
        assert!(found.tokens.is_empty() && !found.takes_part);
        other.owns(64).await;
        OFF_MS.store(0, Ordering::Relaxed);
        wrong.wait(|holdings| holdings.clocks.is_none()).await;
        wrong.owns(32).await;
    }
}

fn empty_plan() -> Plan<'static> {
    let context = Context {
        now_ms: NOW,
        horizon: horizon(),
        raw: false,
        rejected_per_day_max: 0,
        stream_keys: &[],
        centre: CENTRE,
    };
    plan(&Memory::new(), &[], &[], &context)
}

#[tokio::test]
async fn a_flush_that_is_not_committed_in_time_counts_as_lost_and_leaves_nothing() {
    let base = Base::new().await;
    let mut writer = base.writer().await;
    let tokens = base.tokens().await;
    let messages = [batch(UNIT, 1, 1, &varied(10))];
    let plan = planned(&writer, &mut Memory::new(), &messages).await;
    let lock = "BEGIN; LOCK TABLE stream_cursor IN ACCESS EXCLUSIVE MODE";
    base.client.batch_execute(lock).await.unwrap();
    let patience = std::mem::replace(&mut writer.patience, Duration::ZERO);
    let lost = writer.commit(&plan, Right::Owner(&tokens)).await;
    assert!(matches!(lost, Err(WriteError::Timeout)), "{lost:?}");
    // Whoever reads again does so over another connection: with this one, its transaction goes.
    drop(writer);
    base.client.batch_execute("ROLLBACK").await.unwrap();
    let open = "SELECT count(*) FROM pg_stat_activity
        WHERE application_name = 'verst-writer test' AND datname = current_database()";
    while base.number(open).await > 0 {}
    assert_eq!(base.number("SELECT count(*) FROM passage").await, 0);
    let again = base.writer().await;
    assert_eq!(again.patience, patience);
    let plan = planned(&again, &mut Memory::new(), &messages).await;
    again.commit(&plan, Right::Owner(&tokens)).await.unwrap();
    assert_eq!(base.number("SELECT count(*) FROM passage").await, 10);
}

#[tokio::test]
async fn raising_waits_for_the_transaction_that_still_holds_the_token() {
    let base = Base::new().await;
    let mut keeper = Keeper::start(&base, "centre-1");
    let before = keeper.wait(|holdings| holdings.tokens.len() == 64).await;
    let holder = base.target.connect("somebody", &base.tasks).await.unwrap();
    holder
        .batch_execute("BEGIN; SELECT * FROM shard_token FOR SHARE")
        .await
        .unwrap();
    let (done, mut raised) = oneshot::channel();
    let end_writer = true;
    keeper
        .raises
        .send(Raise { end_writer, done })
        .await
        .unwrap();
    let waits = "SELECT count(*) FROM pg_stat_activity
        WHERE wait_event_type = 'Lock' AND query LIKE '%UPDATE shard_token%' AND datname = current_database()";
    while base.number(waits).await == 0 {
        tokio::task::yield_now().await;
    }
    assert!(raised.try_recv().is_err());
    holder.batch_execute("COMMIT").await.unwrap();
    raised.await.unwrap();
    assert!(keeper.holdings.borrow().tokens.values().min() > before.tokens.values().max());
}
