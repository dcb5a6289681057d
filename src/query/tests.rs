//! Questions against a model store: a sorted list of rows and their spans.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::count::{By, Count, count};
use super::filter::Tables;
use super::follow::Follower;
use super::run::From;
use super::*;
use crate::duration::DurationCounts;
use crate::key::{RowKey, Table};
use crate::ledger::{DeadLetter, LossReceipt, MinuteCounts, Span, StoredOrigin, Watermark};
use crate::record::Level;
use crate::stores::{
    Answer, CountKey, DurationKey, Grown, KeyVisitor, LogReader, MinuteDurations, Page, RowQuery,
    StoredRow,
};

/// A row of origin 1, whose offset is its time.
pub(crate) fn row(timestamp_ms: i64, message: &str) -> StoredRow {
    StoredRow {
        table: Table::Infrastructure,
        key: RowKey { timestamp_ms, origin: 1, offset_bytes: timestamp_ms },
        source: "nginx/access".into(),
        level: Level::Info,
        message: message.into(),
        host: "web1".into(),
        metadata: String::new(),
        further: Vec::new(),
    }
}

/// Answers at most `page` rows at once, however many are asked for.
#[derive(Default)]
struct ModelStore {
    rows: BTreeMap<RowKey, StoredRow>,
    spans: BTreeMap<(i64, u64), (i64, Span)>,
    page: usize,
    stamp: i64,
}

impl ModelStore {
    fn with(rows: Vec<StoredRow>, page: usize) -> Self {
        let rows = rows.into_iter().map(|row| (row.key, row)).collect();
        Self { rows, page, ..Self::default() }
    }

    /// Adds rows at the end of an origin, and writes or grows its span.
    fn append(&mut self, origin: i64, times: &[i64], commit: bool, close: bool) {
        let of_origin = |row: &&StoredRow| row.key.origin == origin;
        let mut next = self
            .rows
            .values()
            .filter(of_origin)
            .map(|row| row.key.offset_bytes + 10)
            .max()
            .unwrap_or(0);
        for time in times {
            let mut row = row(*time, &format!("{origin}:{next}"));
            row.key = RowKey { timestamp_ms: *time, origin, offset_bytes: next };
            row.source = if origin % 2 == 0 { "syslog" } else { "nginx/access" }.into();
            row.level = if next % 30 == 0 { Level::Error } else { Level::Info };
            self.rows.insert(row.key, row);
            next += 10;
        }
        if commit {
            self.commit(origin, next.cast_unsigned(), close);
        }
    }

    fn commit(&mut self, origin: i64, end_bytes: u64, close: bool) {
        let last = self.spans.range((origin, 0)..=(origin, u64::MAX)).next_back();
        let start_bytes =
            last.map_or(
                0,
                |(_, (_, span))| {
                    if span.closed { span.end_bytes } else { span.start_bytes }
                },
            );
        let mut minutes = MinuteCounts::new();
        let mut running_ms = None;
        let mut source = String::new();
        let mut of_span: Vec<&StoredRow> = self
            .rows
            .values()
            .filter(|row| row.key.origin == origin)
            .filter(|row| (start_bytes..end_bytes).contains(&row.key.offset_bytes.cast_unsigned()))
            .collect();
        of_span.sort_by_key(|row| row.key.offset_bytes);
        for row in &of_span {
            let minute = row.key.timestamp_ms.div_euclid(60_000);
            *minutes.entry((minute, row.level)).or_default() += 1;
            running_ms = Some(row.key.timestamp_ms);
            source.clone_from(&row.source);
        }
        self.stamp += 1;
        let span = Span {
            origin,
            start_bytes,
            end_bytes,
            rows: of_span.len() as u64,
            lines: of_span.len() as u64,
            reasons: crate::ledger::Reasons::default(),
            minutes,
            durations: Some(DurationCounts::new()),
            running_ms,
            crc: 0,
            marker: 0,
            markers: Vec::new(),
            first_write_ms: 0,
            last_write_ms: 0,
            ttl_s: None,
            closed: close,
            carried: Vec::new(),
            table: Table::Infrastructure,
            source,
        };
        self.spans.insert((origin, start_bytes), (self.stamp, span));
    }
}

fn done<'a, T: Send + 'a>(value: T) -> Answer<'a, T> {
    Box::pin(std::future::ready(Ok(value)))
}

impl LogReader for ModelStore {
    fn rows<'a>(&'a self, query: &'a RowQuery) -> Answer<'a, Page> {
        let fits = |row: &&StoredRow| {
            let time = row.key.timestamp_ms;
            query.since_ms.is_none_or(|since| time >= since)
                && query.until_ms.is_none_or(|until| time < until)
                && (query.sources.is_empty() || query.sources.contains(&row.source))
                && (query.levels.is_empty() || query.levels.contains(&row.level))
                && query.after.is_none_or(|after| {
                    if query.newest_first { row.key < after } else { row.key > after }
                })
        };
        let mut rows: Vec<StoredRow> = self.rows.values().filter(fits).cloned().collect();
        if query.newest_first {
            rows.reverse();
        }
        let most = query.limit.min(self.page.max(1));
        let exhausted = rows.len() <= most;
        rows.truncate(most);
        done(Page { rows, exhausted })
    }

    fn counts(&self, since_ms: i64, until_ms: i64) -> Answer<'_, Vec<(CountKey, u64)>> {
        let mut counts = Vec::new();
        for (_, span) in self.spans.values() {
            for (&(minute, level), &count) in &span.minutes {
                if minute * 60_000 < until_ms && (minute + 1) * 60_000 > since_ms {
                    let (source, host) = (span.source.clone(), "web1".to_owned());
                    counts
                        .push((CountKey { minute, table: span.table, source, level, host }, count));
                }
            }
        }
        done(counts)
    }

    fn durations(&self, _: i64, _: i64) -> Answer<'_, Vec<(DurationKey, MinuteDurations)>> {
        done(Vec::new())
    }

    fn sources(&self) -> Answer<'_, Vec<String>> {
        done(vec!["nginx/access".into(), "syslog".into()])
    }

    fn origins<'a>(&'a self, _: Option<&'a str>) -> Answer<'a, Vec<StoredOrigin>> {
        done(Vec::new())
    }

    fn grown(&self, mark: Option<i64>) -> Answer<'_, Grown> {
        let spans = self.spans.values().filter(|(stamp, _)| mark.is_none_or(|mark| *stamp > mark));
        let spans = spans.map(|(_, span)| ("web1".to_owned(), span.clone())).collect();
        done(Grown { spans, mark: self.stamp })
    }

    fn visit_keys<'a>(&'a self, _: KeyVisitor<'a>) -> Answer<'a, ()> {
        done(())
    }

    fn receipts(&self) -> Answer<'_, Vec<LossReceipt>> {
        done(Vec::new())
    }

    fn watermarks(&self) -> Answer<'_, Vec<Watermark>> {
        done(Vec::new())
    }

    fn dead_letters(&self) -> Answer<'_, Vec<DeadLetter>> {
        done(Vec::new())
    }

    fn remove_dead_letter<'a>(&'a self, _: &'a DeadLetter) -> Answer<'a, ()> {
        done(())
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn asked(lines: Lines, reverse: bool, from: Option<From>) -> Asked {
    Asked { filter: Filter::default(), lines, reverse, from }
}

fn keys(store: &ModelStore, asked: &Asked) -> Vec<RowKey> {
    let mut keys = Vec::new();
    let mut emit = |row: &StoredRow| {
        keys.push(row.key);
        Ok(())
    };
    let found = block_on(run(store, asked, &mut emit)).unwrap();
    assert_eq!(found, keys.len() as u64);
    keys
}

#[test]
fn the_newest_rows_come_oldest_first_however_many_they_are() {
    let store = ModelStore::with((0..5000).map(|time| row(time, "x")).collect(), 700);
    for lines in [1, 10, 2000, 2001, 4999, 6000] {
        let found = keys(&store, &asked(Lines::Newest(lines), false, None));
        let times: Vec<i64> = found.iter().map(|key| key.timestamp_ms).collect();
        let first = 5000 - i64::try_from(lines.min(5000)).unwrap();
        assert_eq!(times, (first..5000).collect::<Vec<_>>(), "{lines}");
    }
}

#[test]
fn a_cursor_begins_at_its_row_or_after_it_in_both_directions() {
    let store = ModelStore::with((0..10).map(|time| row(time, "x")).collect(), 3);
    let key = row(4, "").key;
    for (reverse, after, expected) in [
        (false, false, vec![4, 5, 6]),
        (false, true, vec![5, 6, 7]),
        (true, false, vec![4, 3, 2]),
        (true, true, vec![3, 2, 1]),
    ] {
        let asked = asked(Lines::Newest(3), reverse, Some(From { key, after }));
        let times: Vec<i64> = keys(&store, &asked).iter().map(|key| key.timestamp_ms).collect();
        assert_eq!(times, expected, "reverse {reverse}, after {after}");
    }
}

proptest! {
    #[test]
    fn pages_of_any_size_give_what_one_big_page_gives(
        times in prop::collection::vec(0i64..50, 0..120),
        page in 1usize..40,
        reverse: bool,
        search: bool,
    ) {
        let rows: Vec<StoredRow> = times.iter().enumerate().map(|(at, time)| {
            let mut row = row(*time, if at % 3 == 0 { "fish" } else { "bread" });
            row.key.origin = i64::try_from(at % 4).unwrap();
            row
        }).collect();
        let small = ModelStore::with(rows.clone(), page);
        let big = ModelStore::with(rows, usize::MAX);
        let mut asked = asked(Lines::All, reverse, None);
        if search {
            asked.filter.grep = Some(filter::grep("fish", None).unwrap());
        }
        let found = keys(&small, &asked);
        prop_assert_eq!(&found, &keys(&big, &asked));
        let mut sorted = found.clone();
        sorted.sort();
        if reverse { sorted.reverse(); }
        prop_assert_eq!(found, sorted);
    }

    #[test]
    fn following_shows_each_row_once_however_late_and_in_whatever_order_it_is_committed(
        steps in prop::collection::vec(
            (1i64..6, prop::collection::vec(0i64..400_000, 0..8), any::<bool>(), any::<bool>(),
             any::<bool>()),
            1..30,
        ),
        errors_only: bool,
    ) {
        let mut store = ModelStore { page: 7, ..ModelStore::default() };
        let mut filter = Filter::default();
        if errors_only {
            filter.levels = vec![Level::Error, Level::Critical];
        }
        let mut follower = None;
        let mut shown: Vec<RowKey> = Vec::new();
        let mut before: Vec<RowKey> = Vec::new();
        let middle = steps.len() / 2;
        for (at, (origin, times, commit, close, look)) in steps.iter().enumerate() {
            if at == middle {
                let begun = block_on(Follower::begin(&store)).unwrap();
                before = store.rows.values().filter(|row| begun.committed(row)).map(|row| row.key).collect();
                follower = Some(begun);
            }
            store.append(*origin, times, *commit, *close);
            if let (Some(follower), true) = (&mut follower, look) {
                let mut emit = |row: &StoredRow| { shown.push(row.key); Ok(()) };
                block_on(follower.look(&store, &filter, &mut emit)).unwrap();
            }
        }
        let mut follower = follower.unwrap();
        for origin in 1..6 {
            store.append(origin, &[], true, false);
        }
        let mut emit = |row: &StoredRow| { shown.push(row.key); Ok(()) };
        block_on(follower.look(&store, &filter, &mut emit)).unwrap();
        let mut expected: Vec<RowKey> = store.rows.values()
            .filter(|row| filter.wants_level(row.level))
            .map(|row| row.key)
            .filter(|key| !before.contains(key))
            .collect();
        expected.sort();
        shown.sort();
        prop_assert_eq!(shown, expected);
    }

    #[test]
    fn counting_by_statistics_gives_what_counting_rows_gives(
        times in prop::collection::vec(0i64..400_000, 0..60),
        since in prop::option::of(0i64..400_000),
        until in prop::option::of(0i64..400_000),
        by in prop::sample::select(vec!["", "source", "level,host", "minute", "hour,source", "day"]),
    ) {
        let mut store = ModelStore { page: 9, ..ModelStore::default() };
        for (at, times) in times.chunks(5).enumerate() {
            store.append(i64::try_from(at % 3).unwrap(), times, true, at % 2 == 0);
        }
        let by = By::list(by);
        let zone = jiff::tz::TimeZone::fixed(jiff::tz::Offset::constant(2));
        let mut filter = Filter { since_ms: since, until_ms: until, ..Filter::default() };
        let fast = block_on(count(&store, &filter, &by, &zone)).unwrap();
        filter.grep = Some(filter::grep("", None).unwrap());
        let slow = block_on(count(&store, &filter, &by, &zone)).unwrap();
        prop_assert_eq!(fast, slow);
    }
}

#[test]
fn counting_by_a_field_groups_its_values() {
    let mut rows: Vec<StoredRow> = (0..6).map(|time| row(time, "x")).collect();
    for (at, row) in rows.iter_mut().enumerate() {
        row.metadata = format!(r#"{{"status":"{}"}}"#, if at < 4 { 200 } else { 502 });
    }
    rows.push(row(9, "x"));
    let store = ModelStore::with(rows, 100);
    let zone = jiff::tz::TimeZone::UTC;
    let counts = block_on(count(&store, &Filter::default(), &By::list("status"), &zone)).unwrap();
    let expected = [("200", 4), ("502", 2), ("", 1)];
    let expected = expected.map(|(value, rows)| Count { values: vec![value.into()], rows });
    assert_eq!(counts, expected);
}

#[test]
fn a_follower_of_events_sees_events_and_another_sees_none() {
    let mut store = ModelStore { page: 7, ..ModelStore::default() };
    let begun = [Tables::Events, Tables::Logs].map(|tables| {
        let filter = Filter { tables, ..Filter::default() };
        (filter, block_on(Follower::begin(&store)).unwrap())
    });
    store.append(1, &[1000, 2000, 3000], true, false);
    for row in store.rows.values_mut() {
        row.table = Table::Events;
    }
    for (_, span) in store.spans.values_mut() {
        span.table = Table::Events;
    }
    let shown = begun.map(|(filter, mut follower)| {
        let mut shown = Vec::new();
        let mut emit = |row: &StoredRow| {
            shown.push(row.key.timestamp_ms);
            Ok(())
        };
        block_on(follower.look(&store, &filter, &mut emit)).unwrap();
        shown
    });
    assert_eq!(shown, [vec![1000, 2000, 3000], vec![]]);
}
