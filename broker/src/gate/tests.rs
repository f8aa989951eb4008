use super::*;

/// How long anything may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn a_burst_of_warnings_is_logged_and_then_two_a_second() {
    let start = monotonic();
    let mut bucket = warnings(start);
    let logged = (0..100).filter(|_| bucket.try_take(1.0, start)).count();
    assert_eq!(logged, 20);
    let later = start + Duration::from_secs(3);
    let logged = (0..100).filter(|_| bucket.try_take(1.0, later)).count();
    assert_eq!(logged, 6);
}

/// Connections that the kernel dropped because a queue like ours was full.
fn dropped() -> u64 {
    let counters = std::fs::read_to_string("/proc/net/netstat").unwrap();
    let mut lines = counters.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let place = names
        .split(' ')
        .position(|name| name == "ListenDrops")
        .unwrap();
    values.split(' ').nth(place).unwrap().parse().unwrap()
}

#[tokio::test]
async fn beyond_the_queue_of_the_kernel_a_newcomer_waits_until_one_is_accepted() {
    service::descriptors::make_room_for(usize::try_from(BACKLOG).unwrap());
    let most = std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
    let most: u32 = most.trim().parse().unwrap();
    let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    // The kernel keeps one more than it was asked for.
    for _ in 0..=BACKLOG.min(most) {
        let connected = timeout(PATIENCE, TcpStream::connect(address)).await;
        waiting.push(connected.expect("there is room").unwrap());
    }
    let before = dropped();
    let refused = async {
        while dropped() == before {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        _ = TcpStream::connect(address) => panic!("{} wait already", waiting.len()),
        dropped = timeout(PATIENCE, refused) => dropped.expect("nobody is turned away"),
    }
    listener.accept().await.unwrap();
    let connected = timeout(PATIENCE, TcpStream::connect(address)).await;
    connected.expect("there is room again").unwrap();
}
