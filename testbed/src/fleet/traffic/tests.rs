use proto::Plate;

use super::*;

const START: EventTime = EventTime::from_millis(1_750_000_000_000);

fn passages(road: Road, seed: u64, count: usize) -> Vec<Passage> {
    let mut traffic = Traffic::new(road, seed, START);
    (0..count).map(|_| traffic.next_passage()).collect()
}

#[test]
fn the_same_seed_gives_the_same_traffic_and_another_seed_another() {
    let road = Road::motorway(12.0);
    assert_eq!(passages(road, 1, 2_000), passages(road, 1, 2_000));
    assert_ne!(passages(road, 1, 2_000), passages(road, 2, 2_000));
}

#[test]
fn passages_come_in_order_of_time_at_the_announced_moment() {
    let mut traffic = Traffic::new(Road::motorway(12.0), 3, START);
    let mut before = START;
    for _ in 0..5_000 {
        let announced = traffic.next_at();
        let passage = traffic.next_passage();
        assert_eq!(passage.event_time, announced);
        assert!(passage.event_time >= before);
        before = passage.event_time;
    }
}

#[test]
fn the_mean_flow_is_what_was_asked_for() {
    for rate in [0.2, 3.0, 11.6, 200.0] {
        let all = passages(Road::motorway(rate), 4, 20_000);
        let last = all.last().unwrap().event_time.as_millis();
        let seconds = to_f64(last - START.as_millis()) / 1_000.0;
        let flow = 20_000.0 / seconds;
        assert!((flow / rate - 1.0).abs() < 0.05, "{flow} for {rate}");
    }
}

#[test]
fn the_day_averages_to_one_and_peaks_in_the_afternoon() {
    assert_eq!(HOURS.iter().sum::<u32>(), 24_000);
    assert!(of_mean(17 * HOUR_MS) > 1.6);
    assert!(of_mean(3 * HOUR_MS) < 0.2);
    let road = Road {
        day: Day::Peaks {
            utc_offset_ms: 3 * HOUR_MS,
        },
        ..Road::motorway(1.0)
    };
    let count = |utc_hour: i64| {
        let start = EventTime::from_millis(20_000 * 24 * HOUR_MS + utc_hour * HOUR_MS);
        let mut traffic = Traffic::new(road, 5, start);
        let end = start.as_millis() + HOUR_MS;
        std::iter::from_fn(|| Some(traffic.next_passage()))
            .take_while(|passage| passage.event_time.as_millis() < end)
            .count()
    };
    assert!(count(14) > 5 * count(0), "{} {}", count(14), count(0));
}

#[test]
fn vehicles_are_as_on_a_road() {
    let all = passages(Road::motorway(12.0), 6, 50_000);
    let share = |which: &dyn Fn(&Passage) -> bool| {
        all.iter().filter(|passage| which(passage)).count() * 1_000 / all.len()
    };
    assert!((10..=25).contains(&share(&|p| p.plate == Plate::Absent)));
    assert!((1..=6).contains(&share(&|p| p.speed.is_none())));
    assert!(
        (20..=150).contains(&share(&|p| p.violation)),
        "{}",
        share(&|p| p.violation)
    );
    assert!((430..=570).contains(&share(&|p| p.direction == Some(Direction::Receding))));
    let mean = |lane: u8| {
        let speeds: Vec<f64> = all
            .iter()
            .filter(|p| p.lane.is_some_and(|l| l.get() == lane))
            .filter_map(|p| p.speed.map(Speed::kmh))
            .collect();
        speeds.iter().sum::<f64>() / speeds.len() as f64
    };
    assert!(mean(3) > mean(0) + 10.0);
    assert!((80.0..125.0).contains(&mean(0)) && (80.0..125.0).contains(&mean(3)));
    for passage in &all {
        if let Some(speed) = passage.speed {
            assert_eq!(speed.centi_kmh() % 10, 0, "tenths of km/h");
        }
    }
}

#[test]
fn headways_bunch() {
    let road = Road {
        lanes: 1,
        ..Road::motorway(0.3)
    };
    let all = passages(road, 7, 20_000);
    let headways: Vec<i64> = all
        .windows(2)
        .map(|pair| pair[1].event_time.as_millis() - pair[0].event_time.as_millis())
        .collect();
    let followers = headways
        .iter()
        .filter(|ms| (1_199..=1_201).contains(*ms))
        .count();
    let share = followers * 100 / headways.len();
    assert!((15..=25).contains(&share), "{share} % follow");
    assert!(headways.iter().all(|ms| *ms >= 1_199));
}
