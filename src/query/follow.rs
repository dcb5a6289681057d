//! Follows the rows as they are committed.
//!
//! Rows may arrive late, with times older than what was shown: a file that was away, a host that
//! was cut off. So the clock decides nothing here. Spans tile the bytes of every file and only
//! grow: each look asks which spans have grown, and shows the rows that begin in the new bytes.
//! No row can come twice, and none is missed.

use std::collections::{BTreeMap, HashMap};

use super::run::{PAGE_ROWS, Scan};
use super::{Emit, Filter, QueryError};
use crate::key::Table;
use crate::ledger::{MinuteCounts, OriginId, Span};
use crate::stores::{LogReader, RowQuery, StoredRow};

const MINUTE_MS: i64 = 60_000;

/// Times within one file may be a little out of order: nginx logs a request when it ends.
const DISORDER_MS: i64 = 2000;

/// Rows of one look that are put in order by time together.
const SORTED_ROWS_MAX: usize = 4000;

/// The last span of an origin, as it was seen.
#[derive(Debug)]
struct Seen {
    start_bytes: u64,
    end_bytes: u64,
    minutes: MinuteCounts,
    running_ms: Option<i64>,
}

/// New bytes of one origin, and how many rows begin in them by minute.
#[derive(Debug)]
struct Growth {
    from: u64,
    to: u64,
    since_ms: Option<i64>,
    minutes: BTreeMap<i64, u64>,
}

type Growths = BTreeMap<(Table, String), HashMap<OriginId, Growth>>;

/// What was seen so far.
#[derive(Debug)]
pub struct Follower {
    seen: HashMap<OriginId, Seen>,
    mark: i64,
}

impl Follower {
    /// Begins at what is committed.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn begin(reader: &dyn LogReader) -> Result<Self, QueryError> {
        let grown = reader.grown(None).await?;
        let mut follower = Self { seen: HashMap::new(), mark: grown.mark };
        for (_, span) in grown.spans {
            follower.see(span);
        }
        Ok(follower)
    }

    /// Whether a row was committed when following began, so that no look will show it.
    #[must_use]
    pub fn committed(&self, row: &StoredRow) -> bool {
        let offset = u64::try_from(row.key.offset_bytes).unwrap_or(0);
        self.seen.get(&row.key.origin).is_some_and(|seen| offset < seen.end_bytes)
    }

    /// Shows what was committed since the last look.
    ///
    /// # Errors
    ///
    /// The store's or `emit`'s. After the store's, the next look shows what is missing; a row may
    /// then come again.
    pub async fn look(
        &mut self,
        reader: &dyn LogReader,
        filter: &Filter,
        emit: Emit<'_>,
    ) -> Result<u64, QueryError> {
        let grown = reader.grown(Some(self.mark)).await?;
        let mut growths = Growths::new();
        for (host, span) in &grown.spans {
            let wanted = filter.wants_table(span.table) && filter.wants_source(&span.source);
            if wanted && filter.wants_host(host) {
                self.measure(span, filter, &mut growths);
            }
        }
        let mut shown = Shown { filter, rows: Vec::new(), emitted: 0, emit };
        for ((table, source), growths) in growths {
            read_source(reader, filter, table, source, &growths, &mut shown).await?;
        }
        shown.flush()?;
        let emitted = shown.emitted;
        for (_, span) in grown.spans {
            self.see(span);
        }
        self.mark = grown.mark;
        Ok(emitted)
    }

    /// Notes the bytes of a span that were not there when it was last seen. Spans come by start,
    /// so that a closed span and the one after it add up.
    fn measure(&self, span: &Span, filter: &Filter, growths: &mut Growths) {
        let seen = self.seen.get(&span.origin);
        let known = match seen {
            Some(seen) if span.start_bytes < seen.start_bytes => return,
            Some(seen) if span.start_bytes == seen.start_bytes => Some(seen),
            _ => None,
        };
        let from = known.map_or(span.start_bytes, |seen| seen.end_bytes);
        if span.end_bytes <= from {
            return;
        }
        let of_source = growths.entry((span.table, span.source.clone())).or_default();
        let growth = of_source.entry(span.origin).or_insert(Growth {
            from,
            to: from,
            since_ms: seen.and_then(|seen| seen.running_ms),
            minutes: BTreeMap::new(),
        });
        growth.to = span.end_bytes;
        for (key, count) in &span.minutes {
            let before = known.and_then(|seen| seen.minutes.get(key)).copied().unwrap_or(0);
            if *count > before && filter.wants_level(key.1) {
                *growth.minutes.entry(key.0).or_default() += count - before;
            }
        }
    }

    fn see(&mut self, span: Span) {
        let seen = self.seen.get(&span.origin);
        if seen.is_some_and(|seen| span.start_bytes < seen.start_bytes) {
            return;
        }
        // a closed span grows no more: its counts need not be kept
        let minutes = if span.closed { MinuteCounts::new() } else { span.minutes };
        self.seen.insert(
            span.origin,
            Seen {
                start_bytes: span.start_bytes,
                end_bytes: span.end_bytes,
                minutes,
                running_ms: span.running_ms,
            },
        );
    }
}

/// Rows that wait for their place in the order of time.
struct Shown<'a, 'b> {
    filter: &'a Filter,
    rows: Vec<StoredRow>,
    emitted: u64,
    emit: Emit<'b>,
}

impl Shown<'_, '_> {
    fn push(&mut self, row: &StoredRow) -> std::io::Result<()> {
        if self.filter.fits(row) {
            self.rows.push(row.clone());
        }
        if self.rows.len() >= SORTED_ROWS_MAX { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.rows.sort_by_key(|row| row.key);
        for row in self.rows.drain(..) {
            (self.emit)(&row)?;
            self.emitted += 1;
        }
        Ok(())
    }
}

/// Reads the new rows of one source, in the minutes that have any.
async fn read_source(
    reader: &dyn LogReader,
    filter: &Filter,
    table: Table,
    source: String,
    growths: &HashMap<OriginId, Growth>,
    shown: &mut Shown<'_, '_>,
) -> Result<(), QueryError> {
    let mut minutes: BTreeMap<i64, u64> = BTreeMap::new();
    for growth in growths.values() {
        for (minute, count) in &growth.minutes {
            *minutes.entry(*minute).or_default() += count;
        }
    }
    let mut runs: Vec<(i64, i64, u64)> = Vec::new();
    for (minute, count) in minutes {
        match runs.last_mut() {
            Some(run) if minute <= run.1 + 1 => *run = (run.0, minute, run.2 + count),
            _ => runs.push((minute, minute, count)),
        }
    }
    let query = RowQuery {
        tables: vec![table],
        sources: vec![source],
        levels: filter.levels.clone(),
        user: filter.user,
        ..RowQuery::default()
    };
    for (first, last, count) in runs {
        let (start, end) = (first * MINUTE_MS, (last + 1) * MINUTE_MS);
        // new rows are mostly younger than the last one that was seen of their file
        let likely = growths
            .values()
            .filter(|growth| growth.minutes.range(first..=last).next().is_some())
            .map(|growth| growth.since_ms.map_or(start, |since| since - DISORDER_MS))
            .min()
            .map_or(start, |since| since.clamp(start, end));
        let mut missing = count;
        for (since, until) in [(likely, end), (start, likely)] {
            if missing == 0 || since >= until {
                continue;
            }
            let query = RowQuery { since_ms: Some(since), until_ms: Some(until), ..query.clone() };
            missing -= read_run(reader, query, growths, missing, shown).await?;
        }
    }
    Ok(())
}

async fn read_run(
    reader: &dyn LogReader,
    query: RowQuery,
    growths: &HashMap<OriginId, Growth>,
    missing: u64,
    shown: &mut Shown<'_, '_>,
) -> Result<u64, QueryError> {
    let everything = Filter { tables: shown.filter.tables, ..Filter::default() };
    let mut scan = Scan { reader, filter: &everything, query };
    let mut found = 0;
    while found < missing {
        let mut new = |row: &StoredRow| {
            let offset = u64::try_from(row.key.offset_bytes).unwrap_or(0);
            let growth = growths.get(&row.key.origin);
            if growth.is_some_and(|growth| (growth.from..growth.to).contains(&offset)) {
                found += 1;
                shown.push(row)?;
            }
            Ok(())
        };
        if scan.each(PAGE_ROWS as u64, &mut new).await? < PAGE_ROWS as u64 {
            break;
        }
    }
    Ok(found.min(missing))
}
