//! What the tests share: one system at a time, generated lines, a unit spoken by hand.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use proto::frame::{Down, Up};
use proto::header::{Frontier, UpHeader};
use proto::receipt::{Refusal, StreamReceipt};
use proto::{DeviceId, EventTime, PassageBatch, Seq, Shard, StreamId, topic};
use rustls_pki_types::ServerName;
use service::tls::{TimeFloor, client_config, load_identity};
use testbed::clock;
use testbed::feed::{self, Feed, Line};
use testbed::fleet::mqtt::{self, Packet};
use testbed::fleet::traffic::{Road, Traffic};
use testbed::pki::BROKER_HOST;
use testbed::recompute::Ledger;
use testbed::synthetic::Synthetic;
use testbed::system::{System, Verdict};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// From the last post until all is counted and stored, through recoveries, on a busy machine.
pub(crate) const SETTLED_WITHIN: Duration = Duration::from_secs(120);
/// An answer that takes longer does not come.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// Of the hand-made unit's connection.
const KEEP_ALIVE_S: u16 = 30;

pub(crate) const HOUR_MS: i64 = 3_600_000;

static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// Two whole systems at once would starve each other on a small machine. (`cargo nextest` runs each
/// test in a process of its own; there `.config/nextest.toml` says the same.)
pub(crate) async fn alone() -> MutexGuard<'static, ()> {
    service::tls::install_crypto_provider();
    ONE_AT_A_TIME.lock().await
}

/// What is drawn differs from run to run; the seed that is printed repeats one.
#[expect(clippy::print_stdout, reason = "shown when the test fails")]
pub(crate) fn seed() -> u64 {
    let given = std::env::var("VERST_TEST_SEED").ok();
    let seed = given
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(rand::random::<u64>);
    println!("to repeat: VERST_TEST_SEED={seed}");
    seed
}

/// Waits until everything is counted and stored, and compares all of it.
pub(crate) async fn settled(system: &System, ledger: &Ledger) -> Verdict {
    let counted = system.settled(ledger.passages(), SETTLED_WITHIN).await;
    counted.expect("all counted and stored");
    system.judge(ledger).await.expect("compared")
}

pub(crate) fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// Lines with `event_id`s, `age_ms` old.
pub(crate) fn lines(device: &str, passages: usize, age_ms: i64, seed: u64) -> Vec<Line> {
    let synthetic = Synthetic {
        device: device.to_owned(),
        passages,
        start_ms: clock::unix_ms() - age_ms,
        passages_per_s: 2.0,
        seed,
        event_ids: true,
    };
    let feed: Feed = feed::sort(synthetic.lines()).expect("generated lines are events");
    feed.into_values().next().expect("one unit")
}

/// Passages of motorway traffic from `start_ms` on, as a batch.
pub(crate) fn batch(passages: usize, start_ms: i64, seed: u64) -> PassageBatch {
    let start = EventTime::from_millis(start_ms);
    let mut traffic = Traffic::new(Road::motorway(5.0), seed, start);
    let mut batch = PassageBatch::new();
    (0..passages).for_each(|_| batch.push(&traffic.next_passage()));
    batch
}

/// A unit whose every frame the test makes by hand.
pub(crate) struct HandUnit {
    device: DeviceId,
    stream: StreamId,
    tls: TlsStream<TcpStream>,
    received: BytesMut,
    packet_id: u16,
    counter: u64,
}

impl HandUnit {
    /// Connects with the certificate of `device` and subscribes what a unit subscribes.
    pub(crate) async fn connect(system: &System, device: &str) -> Self {
        let name = DeviceId::new(device).expect("a name");
        let beacon = topic::beacon(Shard::of(&name));
        Self::connect_as(system, device, &[&topic::down(&name), &beacon]).await
    }

    /// Connects with the certificate of that name, and subscribes.
    pub(crate) async fn connect_as(system: &System, device: &str, filters: &[&str]) -> Self {
        let pki = &system.pki;
        let identity = load_identity(&pki.certificate(device), &pki.key(device)).expect("issued");
        let config = client_config(&identity, &pki.ca(), &TimeFloor::new()).expect("roots");
        let socket = TcpStream::connect(system.broker_address())
            .await
            .expect("listening");
        let host = ServerName::try_from(BROKER_HOST).expect("a name");
        let tls = TlsConnector::from(Arc::new(config))
            .connect(host, socket)
            .await;
        let mut unit = Self {
            device: DeviceId::new(device).expect("a name"),
            stream: StreamId::from_bytes(rand::random()),
            tls: tls.expect("mutual TLS"),
            received: BytesMut::new(),
            packet_id: 1,
            counter: 0,
        };
        let mut out = BytesMut::new();
        mqtt::put_connect(&mut out, device, KEEP_ALIVE_S);
        if !filters.is_empty() {
            mqtt::put_subscribe(&mut out, 1, filters);
        }
        unit.tls.write_all(&out).await.expect("connected");
        unit.tls.flush().await.expect("connected");
        assert!(
            matches!(unit.packet().await, Some(Packet::ConnAck(0))),
            "CONNECT accepted"
        );
        while !filters.is_empty() {
            match unit.packet().await {
                Some(Packet::SubAck(granted)) => {
                    assert!(granted, "subscribed");
                    break;
                }
                Some(Packet::Publish { .. }) => {}
                other => panic!("expected SUBACK, got {other:?}"),
            }
        }
        unit
    }

    pub(crate) fn stream(&self) -> StreamId {
        self.stream
    }

    /// The frame of a message about `count` passages from number `first` on.
    pub(crate) fn frame(&mut self, first: u64, count: u32, message: &Up) -> Vec<u8> {
        self.counter += 1;
        let now = EventTime::from_millis(clock::unix_ms());
        let header = UpHeader {
            stream: self.stream,
            first: Seq::new(first).expect("a sequence number"),
            count,
            accepted_to: first - 1 + u64::from(count),
            frontier: Frontier {
                before: EventTime::from_millis(now.as_millis() - 24 * HOUR_MS),
                run: 1,
                counter: self.counter,
            },
            sent_at: now,
        };
        message.encode(&header)
    }

    /// Publishes under any topic; false when the broker has ended the connection.
    pub(crate) async fn publish_to(&mut self, topic: &str, frame: &[u8]) -> bool {
        self.packet_id += 1;
        let mut out = BytesMut::new();
        mqtt::put_publish(&mut out, topic, self.packet_id, frame);
        self.tls.write_all(&out).await.is_ok() && self.tls.flush().await.is_ok()
    }

    /// Publishes under its own topic.
    pub(crate) async fn publish(&mut self, frame: &[u8]) {
        let topic = topic::up(&self.device);
        assert!(
            self.publish_to(&topic, frame).await,
            "the broker ended the connection"
        );
    }

    /// The next message of the centre to this unit.
    async fn heard(&mut self) -> Down {
        let down = topic::down(&self.device);
        loop {
            match self.packet().await {
                Some(Packet::Publish {
                    topic,
                    acknowledge,
                    payload,
                }) => {
                    if let Some(packet_id) = acknowledge {
                        let mut out = BytesMut::new();
                        mqtt::put_puback(&mut out, packet_id);
                        self.tls.write_all(&out).await.expect("connected");
                        self.tls.flush().await.expect("connected");
                    }
                    if topic == down.as_bytes() {
                        return Down::decode(&payload).expect("a frame of the centre");
                    }
                }
                Some(_) => {}
                None => panic!("the broker ended the connection"),
            }
        }
    }

    /// The next receipt of its stream that covers at least `counted` passages.
    pub(crate) async fn receipt(&mut self, counted: u64) -> StreamReceipt {
        loop {
            if let Down::Receipt(receipt) = self.heard().await {
                let mine = receipt
                    .streams
                    .into_iter()
                    .find(|one| one.stream == self.stream);
                if let Some(mine) = mine.filter(|mine| mine.counted.count() >= counted) {
                    return mine;
                }
            }
        }
    }

    /// The next refusal.
    pub(crate) async fn refusal(&mut self) -> Refusal {
        loop {
            if let Down::Refusal(refusal) = self.heard().await {
                return refusal;
            }
        }
    }

    /// Whether the broker ends the connection by itself.
    pub(crate) async fn is_cut_off(&mut self) -> bool {
        while self.packet().await.is_some() {}
        true
    }

    /// The next packet; none at the end of the connection.
    async fn packet(&mut self) -> Option<Packet> {
        loop {
            if let Some(packet) = mqtt::take_packet(&mut self.received).expect("a packet") {
                return Some(packet);
            }
            let read = timeout(ANSWER_WITHIN, self.tls.read_buf(&mut self.received)).await;
            match read.expect("the broker answers or closes in time") {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }
}
