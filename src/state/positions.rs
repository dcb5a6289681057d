//! Positions: how far each origin is committed, as the tracker or the store says.

use rusqlite::{Connection, OptionalExtension, Transaction};

use super::rows::{
    INSERT_CONTEXT, INSERT_ORIGIN, insert_origin, signed, span_of, span_text, to_json,
};
use super::{State, StateError};
use crate::ledger::{OriginId, Span, StoredOrigin};

/// A reach is never further past the span than this.
pub const REACH_STEP_BYTES: u64 = 16 << 20;

/// Longest time between a look at a directory and the births that follow from it.
const LOOK_MS_MAX: i64 = 60_000;

const PUT_SUM: &str =
    "INSERT OR REPLACE INTO sums (origin, start_bytes, end_bytes, crc) VALUES (?1, ?2, ?3, ?4)";

impl State {
    /// Keeps spans that the store has: each is the newest of its origin, or an older one in its
    /// last state. A position never goes back by this.
    ///
    /// # Errors
    ///
    /// Nothing was written. The store has the spans all the same, so nothing is lost by going on.
    pub fn put_spans(&self, spans: &[Span]) -> Result<(), StateError> {
        if spans.is_empty() {
            return Ok(());
        }
        self.write(|tx| {
            for span in spans {
                put_sum(tx, span)?;
                let sql = "UPDATE origins SET end_bytes = ?2, marker = ?3, span = ?4, \
                           reach = max(reach, ?2) WHERE id = ?1 AND end_bytes <= ?2";
                let (end, marker) = (signed(span.end_bytes), signed(span.marker));
                tx.prepare_cached(sql)?.execute((span.origin, end, marker, span_text(span)))?;
            }
            Ok(())
        })
    }

    /// Sets positions to what the store says: the last span of each origin, or that it has none.
    /// The store decides, also where this state is ahead of it.
    ///
    /// # Errors
    ///
    /// Nothing was written.
    pub fn set_positions(&self, positions: &[(OriginId, Option<Span>)]) -> Result<(), StateError> {
        self.write(|tx| {
            for (origin, span) in positions {
                set_position(tx, *origin, span.as_ref())?;
            }
            Ok(())
        })
    }

    /// The last span of an origin.
    ///
    /// # Errors
    ///
    /// The state cannot be read.
    pub fn last_span(&self, origin: OriginId) -> Result<Option<Span>, StateError> {
        self.read(|db| {
            let text: Option<Option<String>> = db
                .prepare_cached("SELECT span FROM origins WHERE id = ?1")?
                .query_row([origin], |row| row.get(0))
                .optional()?;
            text.flatten().map(|text| span_of(origin, &text)).transpose()
        })
    }

    /// Every origin that is known, finished ones included.
    ///
    /// # Errors
    ///
    /// The state cannot be read.
    pub fn origin_ids(&self) -> Result<Vec<OriginId>, StateError> {
        self.read(|db| {
            let mut statement = db.prepare_cached("SELECT id FROM origins ORDER BY id")?;
            statement.query_map([], |row| row.get(0))?.collect()
        })
    }

    /// Forgets origins that retention has ended.
    ///
    /// # Errors
    ///
    /// Nothing was written.
    pub fn forget(&self, origins: &[OriginId]) -> Result<(), StateError> {
        self.write(|tx| origins.iter().try_for_each(|origin| forget_origin(tx, *origin)))
    }

    /// Fills this state with what the store knows of this machine's origins. Origins that are
    /// known already are kept as they are. Answers how many were new.
    ///
    /// A lost state has lost its reaches: they are set as far as they can have been.
    ///
    /// # Errors
    ///
    /// Nothing was written.
    pub fn rebuild(&self, stored: &[StoredOrigin]) -> Result<usize, StateError> {
        self.write(|tx| {
            let mut new = 0;
            for origin in stored {
                new += usize::from(rebuild_origin(tx, origin)?);
            }
            Ok(new)
        })
    }
}

/// Removes all that is known of an origin; what the outbox has of it stays.
pub(crate) fn forget_origin(tx: &Transaction<'_>, origin: OriginId) -> rusqlite::Result<()> {
    for sql in [
        "DELETE FROM sums WHERE origin = ?1",
        "DELETE FROM contexts WHERE origin = ?1",
        "DELETE FROM origins WHERE id = ?1",
    ] {
        tx.prepare_cached(sql)?.execute([origin])?;
    }
    Ok(())
}

fn put_sum(db: &Connection, span: &Span) -> rusqlite::Result<()> {
    let (start, end) = (signed(span.start_bytes), signed(span.end_bytes));
    db.prepare_cached(PUT_SUM)?.execute((span.origin, start, end, signed(span.crc))).map(drop)
}

fn set_position(
    tx: &Transaction<'_>,
    origin: OriginId,
    span: Option<&Span>,
) -> rusqlite::Result<()> {
    let from = span.map_or(0, |span| signed(span.start_bytes));
    tx.prepare_cached("DELETE FROM sums WHERE origin = ?1 AND start_bytes >= ?2")?
        .execute((origin, from))?;
    if let Some(span) = span {
        put_sum(tx, span)?;
        let sql = "UPDATE origins SET end_bytes = ?2, marker = ?3, span = ?4, \
                   reach = max(reach, ?2) WHERE id = ?1";
        let (end, marker) = (signed(span.end_bytes), signed(span.marker));
        tx.prepare_cached(sql)?.execute((origin, end, marker, span_text(span)))?;
    } else {
        let sql = "UPDATE origins SET end_bytes = first_offset, marker = first_marker, \
                   span = NULL WHERE id = ?1";
        tx.prepare_cached(sql)?.execute([origin])?;
    }
    Ok(())
}

fn rebuild_origin(tx: &Transaction<'_>, stored: &StoredOrigin) -> rusqlite::Result<bool> {
    let record = &stored.record;
    let known = tx.prepare_cached("SELECT 1 FROM origins WHERE id = ?1")?.exists([record.id])?;
    if known {
        return Ok(false);
    }
    let last = stored.spans.iter().max_by_key(|span| span.start_bytes);
    let end = last.map_or(record.first_offset, |span| span.end_bytes);
    // what was rotated away between the last look and the birth is younger than that look
    let mtime_ns = (record.born_ms - LOOK_MS_MAX).saturating_mul(1_000_000);
    let mut insert = tx.prepare_cached(INSERT_ORIGIN)?;
    // the marker at the first offset is not in the store: without a span there is none to check
    insert_origin(&mut insert, record, &record.path, mtime_ns, 0, end + REACH_STEP_BYTES)?;
    for context in &stored.contexts {
        let text = to_json(context);
        tx.prepare_cached(INSERT_CONTEXT)?.execute((
            record.id,
            signed(context.from_bytes),
            text,
        ))?;
    }
    for span in &stored.spans {
        put_sum(tx, span)?;
    }
    if last.is_some() {
        set_position(tx, record.id, last)?;
    }
    Ok(true)
}
