use super::*;

const NOON: i64 = 20_000 * DAY_MS + DAY_MS / 2;

fn at(hours: i64, minutes: i64) -> EventTime {
    EventTime::from_millis(20_000 * DAY_MS + (hours * 60 + minutes) * MINUTE_MS)
}

fn hours(text: &str) -> Hours {
    Hours::try_from(text.to_owned()).unwrap()
}

fn offset(text: &str) -> UtcOffset {
    UtcOffset::try_from(text.to_owned()).unwrap()
}

#[test]
fn hours_may_span_midnight_and_are_told_by_the_offset() {
    let rules = Rules {
        backlog_hours: vec![hours("22:00-06:00"), hours("12:30-13:00")],
        offset: offset("+03:00"),
        ..Rules::default()
    };
    let allowance = Allowance::new(rules, Spent::default());
    let table = [
        (at(18, 59), Allowed::Live, at(19, 0)),
        (at(19, 0), Allowed::Everything, at(27, 0)),
        (at(26, 59), Allowed::Everything, at(27, 0)),
        (at(3, 0), Allowed::Live, at(9, 30)),
        (at(9, 30), Allowed::Everything, at(10, 0)),
        (at(10, 0), Allowed::Live, at(19, 0)),
    ];
    for (when, allowed, until) in table {
        let judgement = allowance.judge(when);
        assert_eq!(
            (judgement.allowed, judgement.until),
            (allowed, Some(until)),
            "{when:?}"
        );
    }
}

#[test]
fn the_backlog_stops_at_the_reserve_and_all_at_the_cap_until_local_midnight() {
    let rules = Rules {
        daily_bytes_max: Some(1_000_000),
        reserve_percent: 20,
        offset: offset("-02:00"),
        ..Rules::default()
    };
    let mut allowance = Allowance::new(rules, Spent::default());
    let noon = EventTime::from_millis(NOON);
    for (bytes, allowed) in [
        (799_999, Allowed::Everything),
        (1, Allowed::Live),
        (199_999, Allowed::Live),
        (1, Allowed::Nothing),
    ] {
        allowance.spend_bytes(noon, bytes);
        assert_eq!(allowance.judge(noon).allowed, allowed);
    }
    let midnight = allowance.judge(noon).until.unwrap();
    assert_eq!(midnight, at(26, 0));
    let before = EventTime::from_millis(midnight.as_millis() - 1);
    assert_eq!(allowance.judge(before).allowed, Allowed::Nothing);
    assert_eq!(allowance.judge(midnight).allowed, Allowed::Everything);
    allowance.spend(midnight, 380);
    assert_eq!(allowance.spent().bytes, 500);
}

#[test]
fn what_was_spent_survives_as_a_line() {
    let spent = Spent {
        day: 20_000,
        bytes: 12_345,
    };
    assert_eq!(Spent::parse(&spent.line()), Some(spent));
    assert_eq!(Spent::parse("20000"), None);
}

#[test]
fn times_of_day_and_offsets_are_read_strictly() {
    for bad in [
        "22-06",
        "22:00",
        "25:00-01:00",
        "1:00-02:00",
        "05:00-05:00",
        "05:60-06:00",
    ] {
        assert!(Hours::try_from(bad.to_owned()).is_err(), "{bad}");
    }
    for bad in ["3", "+3:00", "+15:00", "03:00", "+03:0a", "é"] {
        assert!(UtcOffset::try_from(bad.to_owned()).is_err(), "{bad}");
    }
    assert!(hours("00:00-24:00").contains(1_439));
}
