//! Reads page by page, so that an answer of any length takes little memory and stops as soon as
//! nobody listens.

use std::collections::VecDeque;

use super::{Emit, Filter, QueryError};
use crate::key::RowKey;
use crate::stores::{LogReader, RowQuery, StoredRow};

/// Rows of one page.
pub const PAGE_ROWS: usize = 1000;

/// So many newest rows are kept to turn them round; for more, the place is found first.
const KEPT_ROWS_MAX: usize = 2000;

/// How many rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lines {
    /// All of them.
    All,
    /// The newest ones; from a cursor on, the first ones.
    Newest(usize),
}

/// Where to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct From {
    /// At this row…
    pub key: RowKey,
    /// …or after it.
    pub after: bool,
}

/// A question for rows.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Which rows.
    pub filter: Filter,
    /// How many.
    pub lines: Lines,
    /// Newest first.
    pub reverse: bool,
    /// From a cursor on, in the order asked for.
    pub from: Option<From>,
}

/// Gives all rows that are asked for to `emit`, in order; answers how many there were.
///
/// # Errors
///
/// The store's or `emit`'s.
pub async fn run(reader: &dyn LogReader, asked: &Asked, emit: Emit<'_>) -> Result<u64, QueryError> {
    let Some(mut query) = asked.filter.query(reader).await? else { return Ok(0) };
    query.newest_first = asked.reverse;
    query.after = asked
        .from
        .map(|from| if from.after { from.key } else { just_before(from.key, asked.reverse) });
    let mut scan = Scan { reader, filter: &asked.filter, query };
    match asked.lines {
        Lines::All => scan.each(u64::MAX, emit).await,
        Lines::Newest(lines) if asked.reverse || asked.from.is_some() => {
            scan.each(lines as u64, emit).await
        }
        Lines::Newest(lines) if lines <= KEPT_ROWS_MAX => {
            scan.query.newest_first = true;
            let mut kept = VecDeque::new();
            let mut keep = |row: &StoredRow| {
                kept.push_front(row.clone());
                Ok(())
            };
            let found = scan.each(lines as u64, &mut keep).await?;
            kept.iter().try_for_each(emit)?;
            Ok(found)
        }
        Lines::Newest(lines) => {
            scan.query.newest_first = true;
            let mut first = None;
            let mut note = |row: &StoredRow| {
                first = Some(row.key);
                Ok(())
            };
            scan.each(lines as u64, &mut note).await?;
            let Some(first) = first else { return Ok(0) };
            scan.query.newest_first = false;
            scan.query.after = Some(just_before(first, false));
            scan.each(u64::MAX, emit).await
        }
    }
}

/// The place before a row in the order asked for: what comes after it begins with the row.
fn just_before(key: RowKey, reverse: bool) -> RowKey {
    let step = if reverse { 1 } else { -1 };
    RowKey { offset_bytes: key.offset_bytes.saturating_add(step), ..key }
}

/// Pages of one question.
pub(super) struct Scan<'a> {
    pub(super) reader: &'a dyn LogReader,
    pub(super) filter: &'a Filter,
    pub(super) query: RowQuery,
}

impl Scan<'_> {
    /// Gives up to `most` rows that fit to `emit`.
    pub(super) async fn each(&mut self, most: u64, emit: Emit<'_>) -> Result<u64, QueryError> {
        let mut found = 0;
        let only = self.filter.only_names_and_levels();
        while found < most {
            let missing = usize::try_from(most - found).unwrap_or(usize::MAX);
            self.query.limit = if only { missing.min(PAGE_ROWS) } else { PAGE_ROWS };
            let page = self.reader.rows(&self.query).await?;
            for row in page.rows.iter().filter(|row| self.filter.fits(row)) {
                emit(row)?;
                found += 1;
                if found == most {
                    return Ok(found);
                }
            }
            match page.rows.last() {
                Some(last) if !page.exhausted => self.query.after = Some(last.key),
                _ => break,
            }
        }
        Ok(found)
    }
}
