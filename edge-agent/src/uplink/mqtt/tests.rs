//! A link to a broker of the test's own making, without TLS.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::*;

/// How long anything may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(60);

const CONNACK: [u8; 4] = [0x20, 2, 0, 0];
const DISCONNECT: u8 = 0xe0;
const PINGREQ: u8 = 0xc0;
const PINGRESP: [u8; 2] = [0xd0, 0];

async fn listener() -> (TcpListener, Address) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = Address {
        host: "127.0.0.1".to_owned(),
        port: listener.local_addr().unwrap().port(),
        device: DeviceId::new("KV1").unwrap(),
    };
    (listener, address)
}

fn link(address: &Address, connection_timeout_s: u64) -> (Link, TaskSet) {
    let tasks = TaskSet::new(CancellationToken::new());
    let link = Link::over(&tasks, address, Transport::Tcp, connection_timeout_s);
    (link, tasks)
}

/// The next packet of a client, which has fewer than 128 bytes.
async fn packet(stream: &mut TcpStream) -> Vec<u8> {
    let read = async {
        let (first, length) = (stream.read_u8().await?, stream.read_u8().await?);
        let mut body = vec![0; usize::from(length)];
        stream.read_exact(&mut body).await?;
        Ok::<_, std::io::Error>([&[first, length], &body[..]].concat())
    };
    let read = timeout(PATIENCE, read).await.expect("a packet");
    read.unwrap()
}

async fn next(link: &mut Link) -> LinkEvent {
    timeout(PATIENCE, link.next()).await.expect("an event")
}

/// A link that stands, and the broker's side of it.
async fn linked() -> (Link, TaskSet, TcpStream) {
    let (listener, address) = listener().await;
    let (mut link, tasks) = link(&address, CONNECTION_TIMEOUT_S);
    let (mut broker, _) = listener.accept().await.unwrap();
    assert_eq!(packet(&mut broker).await[0], 0x10);
    broker.write_all(&CONNACK).await.unwrap();
    let subscribe = packet(&mut broker).await;
    let granted = [0x90, 4, subscribe[2], subscribe[3], 0, 0];
    broker.write_all(&granted).await.unwrap();
    assert!(matches!(next(&mut link).await, LinkEvent::Subscribed));
    (link, tasks, broker)
}

#[tokio::test]
async fn a_broker_that_does_not_close_after_a_farewell_is_not_waited_for() {
    let (link, tasks, mut broker) = linked().await;
    // It says that it lives, and never closes.
    let stays = async {
        loop {
            if packet(&mut broker).await[0] == PINGREQ {
                broker.write_all(&PINGRESP).await.unwrap();
            }
        }
    };
    let closing = timeout(PATIENCE, link.close_within(Duration::ZERO));
    tokio::select! {
        closed = closing => closed.expect("given up"),
        () = stays => {}
    }
    // What would still wait for the broker ends with the link.
    assert_eq!(tasks.join(PATIENCE).await, Ok(()));
    drop(broker);

    let (link, tasks, mut broker) = linked().await;
    let heard = async {
        assert_eq!(packet(&mut broker).await[0], DISCONNECT);
        drop(broker);
    };
    let (left, ()) = tokio::join!(timeout(PATIENCE, link.close_within(2 * PATIENCE)), heard);
    left.expect("the broker has heard it");
    assert_eq!(tasks.join(PATIENCE).await, Ok(()));
}

#[tokio::test]
async fn a_broker_that_answers_no_connect_is_given_up() {
    let (listener, address) = listener().await;
    let (mut link, tasks) = link(&address, 0);
    let event = next(&mut link).await;
    assert!(matches!(event, LinkEvent::Lost(_)), "{event:?}");
    assert_eq!(tasks.join(PATIENCE).await, Ok(()));
    drop(listener);
}

#[test]
fn the_client_of_a_unit_is_given_the_limits_that_it_keeps() {
    let address = Address {
        host: "localhost".to_owned(),
        port: 1,
        device: DeviceId::new("KV1").unwrap(),
    };
    let (_client, event_loop) = client_of(&address, Transport::Tcp, 7);
    let options = &event_loop.mqtt_options;
    assert_eq!(options.keep_alive(), KEEP_ALIVE);
    assert_eq!(options.inflight(), UNACKNOWLEDGED_MAX);
    assert_eq!(options.max_packet_size(), PACKET_BYTES_MAX);
    assert_eq!(event_loop.network_options().connection_timeout(), 7);
}

#[tokio::test]
async fn frames_beyond_the_room_of_the_client_stay_with_the_machine() {
    let (mut link, _tasks, _broker) = linked().await;
    // Nobody moves the client meanwhile.
    let handed = (0..100).filter(|_| link.publish(vec![0; 9])).count();
    assert_eq!(handed, REQUESTS_MAX);
    assert_eq!(link.unacknowledged.len(), REQUESTS_MAX);
}

#[tokio::test]
async fn events_that_nobody_takes_hold_the_link_back_and_none_is_lost() {
    const MESSAGES: u16 = 2_000;
    let (mut link, _tasks, mut broker) = linked().await;
    let said = async {
        for number in 0..MESSAGES {
            let [high, low] = number.to_be_bytes();
            // QoS 0, topic "t", two bytes.
            let publish = [0x30, 5, 0, 1, b't', high, low];
            broker.write_all(&publish).await.unwrap();
        }
    };
    let taken = async {
        let full = async {
            while link.events.len() < EVENTS_MAX {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, full).await.expect("events come");
        for _ in 0..1_000 {
            tokio::task::yield_now().await;
            assert_eq!(link.events.len(), EVENTS_MAX);
        }
        for number in 0..MESSAGES {
            let event = next(&mut link).await;
            assert!(
                matches!(event, LinkEvent::Unreadable(_)),
                "{number}: {event:?}"
            );
            assert!(link.events.len() <= EVENTS_MAX);
        }
    };
    tokio::join!(said, taken);
}
