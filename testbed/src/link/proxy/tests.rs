use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::link::Shape;

struct Ends {
    link: Link,
    near: TcpStream,
    far: TcpStream,
}

async fn ends(plan: Plan) -> Ends {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let link = Link::start(listener.local_addr().unwrap(), plan, 1).unwrap();
    let near = TcpStream::connect(link.address()).await.unwrap();
    let (far, _) = listener.accept().await.unwrap();
    Ends { link, near, far }
}

#[tokio::test]
async fn a_free_link_carries_every_byte_both_ways_and_then_the_goodbye() {
    let mut ends = ends(Plan::both(Shape::FREE)).await;
    let sent: Vec<u8> = (0..100_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let mut got = vec![0; sent.len()];
    let (written, read) = tokio::join!(ends.near.write_all(&sent), ends.far.read_exact(&mut got));
    written.unwrap();
    read.unwrap();
    assert_eq!(got, sent);
    ends.far.write_all(b"yes").await.unwrap();
    drop(ends.far);
    let mut answer = Vec::new();
    ends.near.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"yes");
    let counts = ends.link.counts();
    assert!(counts.up_wire_bytes > 100_000 && counts.down_wire_bytes > 3);
}

#[tokio::test]
async fn a_cut_resets_both_ends_and_a_closed_link_takes_nobody() {
    let mut ends = ends(Plan::both(Shape::FREE)).await;
    ends.link.close();
    let mut byte = [0];
    for end in [&mut ends.near, &mut ends.far] {
        let error = end.read(&mut byte).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
    let mut refused = TcpStream::connect(ends.link.address()).await.unwrap();
    assert!(refused.read(&mut byte).await.is_err());
    ends.link.open();
    assert!(TcpStream::connect(ends.link.address()).await.is_ok());
}

#[tokio::test]
async fn a_forgotten_connection_swallows_all_and_tells_nobody_while_new_ones_live() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let to = listener.local_addr().unwrap();
    let link = Link::start(to, Plan::both(Shape::FREE), 1).unwrap();
    let mut near = TcpStream::connect(link.address()).await.unwrap();
    let (mut far, _) = listener.accept().await.unwrap();
    near.write_all(b"before").await.unwrap();
    let mut six = [0; 6];
    far.read_exact(&mut six).await.unwrap();
    assert_eq!(&six, b"before");
    link.forget();
    near.write_all(b"after").await.unwrap();
    near.shutdown().await.unwrap();
    // Elsewhere from now on; and whatever the old connection would still do was done by then.
    let other = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    link.lead_to(other.local_addr().unwrap());
    let mut fresh = TcpStream::connect(link.address()).await.unwrap();
    let (mut fresh_far, _) = other.accept().await.unwrap();
    fresh.write_all(b"fresh").await.unwrap();
    let mut five = [0; 5];
    fresh_far.read_exact(&mut five).await.unwrap();
    assert_eq!(&five, b"fresh");
    let nothing = far.try_read(&mut six).unwrap_err();
    assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
    link.cut();
    let error = far.read(&mut six).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_silent_direction_holds_what_it_has_and_the_other_goes_on() {
    let mut ends = ends(Plan::both(Shape::FREE)).await;
    ends.link.silence(Direction::Up, true);
    ends.near.write_all(b"held").await.unwrap();
    ends.far.write_all(b"down").await.unwrap();
    let mut four = [0; 4];
    ends.near.read_exact(&mut four).await.unwrap();
    assert_eq!(&four, b"down");
    let nothing = ends.far.try_read(&mut four).unwrap_err();
    assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
    ends.link.silence(Direction::Up, false);
    ends.far.read_exact(&mut four).await.unwrap();
    assert_eq!(&four, b"held");
}

#[tokio::test]
async fn whoever_sends_more_than_the_link_carries_is_held_back() {
    let slow = Shape::slow(64, Duration::from_millis(300));
    let ends = ends(Plan::both(slow)).await;
    let mut taken = 0;
    while let Ok(Ok(())) =
        tokio::time::timeout(Duration::from_millis(500), ends.near.writable()).await
    {
        match ends.near.try_write(&[0; 1_024]) {
            Ok(bytes) => taken += bytes,
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        }
        assert!(taken < 1_000_000, "nobody is held back");
    }
    let counts = ends.link.counts();
    assert!(counts.up_wire_bytes < 64 * 1_024, "{counts:?}");
}
