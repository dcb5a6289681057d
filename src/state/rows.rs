//! How the ledger's values stand in `state.db`.
//!
//! Numbers of 64 bits without a sign are kept as the signed number of the same bits, paths as
//! their bytes: a file's name need not be text.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rusqlite::types::Type;
use rusqlite::{Row, Statement, named_params};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::duration;
use crate::key::Table;
use crate::ledger::{
    Carried, Encoding, KernelIdentity, Marker, OriginId, OriginRecord, Reasons, Span,
};
use crate::record::Level;

/// The columns that [`record`] reads, in its order.
pub(crate) const RECORD_COLUMNS: &str = "id, machine, host, first_path, device, inode, \
     generation, born_ns, head_hash, head_bytes, first_offset, born_ms, encoding";

/// Adds an origin that begins: no span, and a reach of its own.
pub(crate) const INSERT_ORIGIN: &str = "INSERT OR REPLACE INTO origins (id, machine, host, \
     first_path, device, inode, generation, born_ns, head_hash, head_bytes, first_offset, \
     born_ms, encoding, path, mtime_ns, first_marker, end_bytes, marker, reach) VALUES (:id, \
     :machine, :host, :first_path, :device, :inode, :generation, :born_ns, :head_hash, \
     :head_bytes, :first_offset, :born_ms, :encoding, :path, :mtime_ns, :marker, :first_offset, \
     :marker, :reach)";

/// Adds or replaces a context.
pub(crate) const INSERT_CONTEXT: &str =
    "INSERT OR REPLACE INTO contexts (origin, from_bytes, context) VALUES (?1, ?2, ?3)";

/// The signed number of the same bits.
pub(crate) const fn signed(number: u64) -> i64 {
    number.cast_signed()
}

/// The number that [`signed`] was given.
pub(crate) const fn unsigned(number: i64) -> u64 {
    number.cast_unsigned()
}

/// A path as its bytes.
pub(crate) fn path_bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

/// A path from its bytes.
pub(crate) fn path_of(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(bytes))
}

fn encoding_of(word: &str) -> Encoding {
    Encoding::from_name(word).unwrap_or_default()
}

/// An origin's record from a row that begins with [`RECORD_COLUMNS`].
pub(crate) fn record(row: &Row<'_>) -> rusqlite::Result<OriginRecord> {
    Ok(OriginRecord {
        id: row.get(0)?,
        machine: row.get(1)?,
        host: row.get(2)?,
        path: path_of(row.get_ref(3)?.as_bytes()?),
        kernel: KernelIdentity {
            device: unsigned(row.get(4)?),
            inode: unsigned(row.get(5)?),
            generation: row.get::<_, Option<i64>>(6)?.map(unsigned),
            born_ns: row.get(7)?,
        },
        head_hash: unsigned(row.get(8)?),
        head_bytes: unsigned(row.get(9)?),
        first_offset: unsigned(row.get(10)?),
        born_ms: row.get(11)?,
        encoding: encoding_of(row.get_ref(12)?.as_str()?),
    })
}

/// Runs [`INSERT_ORIGIN`].
pub(crate) fn insert_origin(
    statement: &mut Statement<'_>,
    record: &OriginRecord,
    path: &Path,
    mtime_ns: i64,
    marker: u64,
    reach: u64,
) -> rusqlite::Result<()> {
    let kernel = &record.kernel;
    let written = statement.execute(named_params! {
        ":id": record.id,
        ":machine": record.machine,
        ":host": record.host,
        ":first_path": path_bytes(&record.path),
        ":device": signed(kernel.device),
        ":inode": signed(kernel.inode),
        ":generation": kernel.generation.map(signed),
        ":born_ns": kernel.born_ns,
        ":head_hash": signed(record.head_hash),
        ":head_bytes": signed(record.head_bytes),
        ":first_offset": signed(record.first_offset),
        ":born_ms": record.born_ms,
        ":encoding": record.encoding.name(),
        ":path": path_bytes(path),
        ":mtime_ns": mtime_ns,
        ":marker": signed(marker),
        ":reach": signed(reach),
    });
    written.map(drop)
}

/// JSON text of a value of ours.
pub(crate) fn to_json<T: Serialize + ?Sized>(value: &T) -> String {
    let text = serde_json::to_string(value);
    assert!(text.is_ok(), "a value of the state is no JSON: {:?}", text.err());
    text.unwrap_or_default()
}

/// A value from its JSON text.
pub(crate) fn from_json<T: DeserializeOwned>(text: &str) -> rusqlite::Result<T> {
    serde_json::from_str(text)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(0, Type::Text, Box::new(error)))
}

/// A span as JSON. Its own type, because a map with such keys is no JSON object.
#[derive(Debug, Serialize, Deserialize)]
struct SpanText {
    start_bytes: u64,
    end_bytes: u64,
    rows: u64,
    lines: u64,
    reasons: Reasons,
    minutes: Vec<(i64, String, u64)>,
    /// Missing in the text of an older version.
    #[serde(default)]
    durations: Option<Vec<Vec<i64>>>,
    running_ms: Option<i64>,
    crc: u64,
    marker: u64,
    markers: Vec<Marker>,
    first_write_ms: i64,
    last_write_ms: i64,
    ttl_s: Option<i64>,
    closed: bool,
    carried: Vec<Carried>,
    table: Table,
    source: String,
}

/// A span as text.
pub(crate) fn span_text(span: &Span) -> String {
    let minutes = span.minutes.iter();
    to_json(&SpanText {
        start_bytes: span.start_bytes,
        end_bytes: span.end_bytes,
        rows: span.rows,
        lines: span.lines,
        reasons: span.reasons.clone(),
        minutes: minutes.map(|((minute, level), n)| (*minute, level.to_string(), *n)).collect(),
        durations: span.durations.as_ref().map(duration::to_lines),
        running_ms: span.running_ms,
        crc: span.crc,
        marker: span.marker,
        markers: span.markers.clone(),
        first_write_ms: span.first_write_ms,
        last_write_ms: span.last_write_ms,
        ttl_s: span.ttl_s,
        closed: span.closed,
        carried: span.carried.clone(),
        table: span.table,
        source: span.source.clone(),
    })
}

/// A span from the text of [`span_text`].
pub(crate) fn span_of(origin: OriginId, text: &str) -> rusqlite::Result<Span> {
    let span: SpanText = from_json(text)?;
    let level = |name: &str| Level::from_name(name).unwrap_or_default();
    Ok(Span {
        origin,
        start_bytes: span.start_bytes,
        end_bytes: span.end_bytes,
        rows: span.rows,
        lines: span.lines,
        reasons: span.reasons,
        minutes: span
            .minutes
            .iter()
            .map(|(minute, name, n)| ((*minute, level(name)), *n))
            .collect(),
        durations: span.durations.as_deref().map(duration::from_lines),
        running_ms: span.running_ms,
        crc: span.crc,
        marker: span.marker,
        markers: span.markers,
        first_write_ms: span.first_write_ms,
        last_write_ms: span.last_write_ms,
        ttl_s: span.ttl_s,
        closed: span.closed,
        carried: span.carried,
        table: span.table,
        source: span.source,
    })
}
