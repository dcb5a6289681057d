//! Tests of times.

use super::*;

fn at(text: &str) -> i64 {
    text.parse::<Timestamp>().unwrap().as_second()
}

fn clock_in(zone: &str, now: &str) -> Clock {
    let zone = if zone == "UTC" { TimeZone::UTC } else { TimeZone::get(zone).unwrap() };
    Clock::new(zone, now.parse::<Timestamp>().unwrap().as_millisecond())
}

fn seconds(zone: &str, text: &str, abbreviation: &str) -> i64 {
    let (civil, rest) = date_time(text.as_bytes()).unwrap();
    assert!(rest.is_empty());
    let clock = clock_in(zone, "2031-05-04T00:00:00Z");
    clock.instant(&civil, Zone::read(abbreviation.as_bytes())).unwrap().seconds
}

fn year_less(zone: &str, now: &str, month: u8, day: u8, hour: u8) -> Option<i64> {
    let civil = Civil { year: None, month, day, hour, minute: 59, second: 58, nanos: 0, digits: 0 };
    clock_in(zone, now).instant(&civil, Zone::Local).map(|time| time.seconds)
}

#[test]
fn iso_times_keep_their_fraction_and_give_what_follows() {
    let mut clock = clock_in("UTC", "2031-05-04T00:00:00Z");
    for (text, instant, nanos, digits, rest) in [
        ("2031-05-04T12:11:12.003+02:00 x", "2031-05-04T10:11:12Z", 3_000_000, 3, " x"),
        ("2031-05-04 10:11:12,5", "2031-05-04T10:11:12Z", 500_000_000, 1, ""),
        ("2031-05-04T10:11:12Z", "2031-05-04T10:11:12Z", 0, 0, ""),
        ("2031-05-04T10:11:12.1234567891Z", "2031-05-04T10:11:12Z", 123_456_789, 9, ""),
        ("2031-05-04t04:41:12-0530:", "2031-05-04T10:11:12Z", 0, 0, ":"),
        ("2031-05-04T10:11:12. ", "2031-05-04T10:11:12Z", 0, 0, ". "),
    ] {
        let (time, after) = clock.iso(text.as_bytes()).unwrap();
        assert_eq!((time.seconds, time.nanos, time.digits), (at(instant), nanos, digits), "{text}");
        assert_eq!(after, rest.as_bytes(), "{text}");
    }
}

#[test]
fn what_is_no_time_is_none() {
    let mut clock = clock_in("UTC", "2031-05-04T00:00:00Z");
    for text in
        ["", "2031-05-04", "2031-13-04T10:11:12Z", "2031-02-29T10:11:12Z", "2031-05-04T24:11:12Z"]
    {
        assert_eq!(clock.iso(text.as_bytes()), None, "{text}");
    }
    for text in ["0001-01-01T00:00:00Z", "1969-12-31T23:59:59Z", "2200-01-01T00:00:00Z"] {
        assert_eq!(clock.iso(text.as_bytes()), None, "{text}");
    }
    for text in ["04/May/2031:12:11:12", "04/Mai/2031:12:11:12 +0200", "31/Apr/2031:12:11:12 +0200"]
    {
        assert_eq!(clock.clf(text.as_bytes()), None, "{text}");
    }
}

#[test]
fn a_remembered_text_is_not_mistaken_for_another() {
    let mut clock = clock_in("Europe/Madrid", "2031-05-04T00:00:00Z");
    let with_zone = clock.iso(b"2031-05-04T12:11:12.1Z").unwrap().0;
    let without = clock.iso(b"2031-05-04T12:11:12.25").unwrap().0;
    assert_eq!(with_zone.seconds - without.seconds, 7200);
    assert_eq!((without.nanos, without.digits), (250_000_000, 2));
    assert_eq!(clock.iso(b"2031-05-04T12:11:12.1Z").unwrap().0, with_zone);
    let first = clock.clf(b"04/May/2031:12:11:12 +0200").unwrap();
    assert_eq!(clock.clf(b"04/May/2031:12:11:12 +0200"), Some(first));
    assert_eq!(clock.clf(b"04/May/2031:12:11:13 +0200").unwrap().seconds, first.seconds + 1);
}

#[test]
fn a_skipped_hour_lies_after_the_change_and_a_repeated_one_before() {
    // 30 March 2031 02:00 CET becomes 03:00 CEST; 26 October 03:00 CEST becomes 02:00 CET.
    assert_eq!(seconds("Europe/Madrid", "2031-03-30T02:30:00", ""), at("2031-03-30T01:30:00Z"));
    assert_eq!(seconds("Europe/Madrid", "2031-10-26T02:30:00", ""), at("2031-10-26T00:30:00Z"));
    assert_eq!(seconds("Europe/Madrid", "2031-10-26T02:30:00", "CEST"), at("2031-10-26T00:30:00Z"));
    assert_eq!(seconds("Europe/Madrid", "2031-10-26T02:30:00", "CET"), at("2031-10-26T01:30:00Z"));
}

#[test]
fn an_abbreviation_means_first_what_the_zone_means_by_it() {
    for (zone, abbreviation, utc_hour) in [
        ("UTC", "UTC", 12),
        ("Asia/Tokyo", "GMT", 12),
        ("UTC", "IST", 7),
        ("Europe/Dublin", "IST", 11),
        ("America/Havana", "CDT", 16),
        ("UTC", "CDT", 17),
        ("Asia/Shanghai", "CST", 4),
        ("Asia/Tokyo", "XYZT", 3),
        ("Asia/Tokyo", "-03", 15),
        ("Asia/Tokyo", "+0430", 8),
    ] {
        let got = seconds(zone, "2031-05-04T12:30:00", abbreviation) - at("2031-05-04T00:00:00Z");
        assert_eq!(got / 3600, utc_hour, "{abbreviation} in {zone}");
    }
}

#[test]
fn a_missing_year_is_the_latest_one_within_a_day_of_now() {
    let new_year = "2031-01-02T00:00:00Z";
    assert_eq!(year_less("UTC", new_year, 12, 31, 23), Some(at("2030-12-31T23:59:58Z")));
    assert_eq!(year_less("UTC", new_year, 1, 2, 23), Some(at("2031-01-02T23:59:58Z")));
    assert_eq!(year_less("UTC", new_year, 1, 3, 0), Some(at("2030-01-03T00:59:58Z")));
    let silvester = "2030-12-31T12:00:00Z";
    assert_eq!(year_less("UTC", silvester, 1, 1, 11), Some(at("2031-01-01T11:59:58Z")));
    assert_eq!(year_less("UTC", silvester, 1, 1, 12), Some(at("2030-01-01T12:59:58Z")));
    // Kiritimati is in the next year already.
    let east = "Pacific/Kiritimati";
    assert_eq!(year_less(east, "2030-12-31T11:00:00Z", 1, 1, 1), Some(at("2030-12-31T11:59:58Z")));
}

#[test]
fn the_29th_of_february_is_in_the_last_leap_year() {
    assert_eq!(
        year_less("UTC", "2031-03-01T00:00:00Z", 2, 29, 3),
        Some(at("2028-02-29T03:59:58Z"))
    );
    assert_eq!(
        year_less("UTC", "2103-03-01T00:00:00Z", 2, 29, 3),
        Some(at("2096-02-29T03:59:58Z"))
    );
    assert_eq!(year_less("UTC", "2031-03-01T00:00:00Z", 2, 30, 3), None);
}

#[test]
fn a_leap_second_is_the_one_after_59() {
    assert_eq!(seconds("UTC", "2016-12-31T23:59:60", ""), at("2017-01-01T00:00:00Z"));
}

#[test]
fn offsets_have_two_to_six_digits() {
    for (text, seconds, rest) in [
        ("Z", 0, ""),
        ("+02", 7200, ""),
        ("-0330 x", -12_600, " x"),
        ("+05:30", 19_800, ""),
        ("+01:02:03", 3723, ""),
        ("+02:", 7200, ":"),
    ] {
        assert_eq!(offset(text.as_bytes()), Some((seconds, rest.as_bytes())), "{text}");
    }
    for text in ["", "+2", "+020", "+25:00", "Zoo", "+12345678"] {
        assert_eq!(offset(text.as_bytes()), None, "{text}");
    }
}
