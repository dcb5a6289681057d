//! Origins and their contexts: `origins`, `contexts`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use scylla::client::session::Session;
use scylla::response::PagingState;
use scylla::statement::prepared::PreparedStatement;
use scylla::value::{CqlTimestamp, MaybeUnset};
use scylla::{DeserializeRow, SerializeRow};

use super::Link;
use super::ask::{all_rows, at_once, for_each, prepare};
use crate::key::Table;
use crate::ledger::{
    Context, Encoding, KernelIdentity, OriginId, OriginRecord, Span, StoredOrigin,
};
use crate::stores::StoreError;

const ORIGIN_COLUMNS: &str = "machine, origin, host, path, path_bytes, device, inode, generation, \
     born_ns, head_hash, head_bytes, first_offset, born, encoding";
const CONTEXT_COLUMNS: &str = "origin, from_bytes, source, table_name, format, options, timezone, \
     anchor, max_line_bytes, parser_version";

#[derive(SerializeRow)]
#[scylla(flavor = "enforce_order", skip_name_checks)]
struct OriginValues {
    machine: String,
    origin: i64,
    host: String,
    path: String,
    path_bytes: MaybeUnset<Vec<u8>>,
    device: i64,
    inode: i64,
    generation: MaybeUnset<i64>,
    born_ns: MaybeUnset<i64>,
    head_hash: i64,
    head_bytes: i64,
    first_offset: i64,
    born: CqlTimestamp,
    encoding: &'static str,
    stamp: i64,
}

#[derive(DeserializeRow)]
#[scylla(flavor = "enforce_order", skip_name_checks)]
struct OriginRow {
    machine: String,
    origin: i64,
    host: Option<String>,
    path: Option<String>,
    path_bytes: Option<Vec<u8>>,
    device: Option<i64>,
    inode: Option<i64>,
    generation: Option<i64>,
    born_ns: Option<i64>,
    head_hash: Option<i64>,
    head_bytes: Option<i64>,
    first_offset: Option<i64>,
    born: Option<CqlTimestamp>,
    encoding: Option<String>,
}

#[derive(SerializeRow)]
#[scylla(flavor = "enforce_order", skip_name_checks)]
struct ContextValues {
    origin: i64,
    from_bytes: i64,
    source: String,
    table_name: &'static str,
    format: String,
    options: String,
    timezone: String,
    anchor: CqlTimestamp,
    max_line_bytes: i64,
    parser_version: i32,
    stamp: i64,
}

#[derive(DeserializeRow)]
#[scylla(flavor = "enforce_order", skip_name_checks)]
struct ContextRow {
    origin: i64,
    from_bytes: i64,
    source: Option<String>,
    table_name: Option<String>,
    format: Option<String>,
    options: Option<String>,
    timezone: Option<String>,
    anchor: Option<CqlTimestamp>,
    max_line_bytes: Option<i64>,
    parser_version: Option<i32>,
}

/// An absent column is unset, never null.
pub(super) fn unset<T>(value: Option<T>) -> MaybeUnset<T> {
    value.map_or(MaybeUnset::Unset, MaybeUnset::Set)
}

/// The bytes of a path, where its text does not say them.
pub(super) fn path_bytes(path: &Path) -> Option<Vec<u8>> {
    path.to_str().is_none().then(|| path.as_os_str().as_bytes().to_vec())
}

/// A path from its two columns.
pub(super) fn path_of(text: Option<String>, bytes: Option<Vec<u8>>) -> PathBuf {
    bytes.map_or_else(
        || PathBuf::from(text.unwrap_or_default()),
        |bytes| PathBuf::from(OsString::from_vec(bytes)),
    )
}

fn encoding_of(name: Option<&str>) -> Encoding {
    name.and_then(Encoding::from_name).unwrap_or_default()
}

impl OriginValues {
    fn new(origin: &OriginRecord, stamp: i64) -> Self {
        Self {
            machine: origin.machine.clone(),
            origin: origin.id,
            host: origin.host.clone(),
            path: origin.path.to_string_lossy().into_owned(),
            path_bytes: unset(path_bytes(&origin.path)),
            device: origin.kernel.device.cast_signed(),
            inode: origin.kernel.inode.cast_signed(),
            generation: unset(origin.kernel.generation.map(u64::cast_signed)),
            born_ns: unset(origin.kernel.born_ns),
            head_hash: origin.head_hash.cast_signed(),
            head_bytes: origin.head_bytes.cast_signed(),
            first_offset: origin.first_offset.cast_signed(),
            born: CqlTimestamp(origin.born_ms),
            encoding: origin.encoding.name(),
            stamp,
        }
    }
}

impl From<OriginRow> for OriginRecord {
    fn from(row: OriginRow) -> Self {
        let unsigned = |value: Option<i64>| value.unwrap_or(0).cast_unsigned();
        Self {
            id: row.origin,
            machine: row.machine,
            host: row.host.unwrap_or_default(),
            path: path_of(row.path, row.path_bytes),
            kernel: KernelIdentity {
                device: unsigned(row.device),
                inode: unsigned(row.inode),
                generation: row.generation.map(i64::cast_unsigned),
                born_ns: row.born_ns,
            },
            head_hash: unsigned(row.head_hash),
            head_bytes: unsigned(row.head_bytes),
            first_offset: unsigned(row.first_offset),
            born_ms: row.born.map_or(0, |born| born.0),
            encoding: encoding_of(row.encoding.as_deref()),
        }
    }
}

impl ContextValues {
    fn new(context: &Context, stamp: i64) -> Self {
        Self {
            origin: context.origin,
            from_bytes: context.from_bytes.cast_signed(),
            source: context.source.clone(),
            table_name: context.table.name(),
            format: context.format.clone(),
            options: serde_json::to_string(&context.options).unwrap_or_default(),
            timezone: context.timezone.clone(),
            anchor: CqlTimestamp(context.anchor_ms),
            max_line_bytes: context.max_line_bytes.cast_signed(),
            parser_version: context.parser_version.cast_signed(),
            stamp,
        }
    }
}

impl From<ContextRow> for Context {
    fn from(row: ContextRow) -> Self {
        let options: BTreeMap<String, String> =
            row.options.and_then(|options| serde_json::from_str(&options).ok()).unwrap_or_default();
        let table = row.table_name.as_deref().and_then(Table::from_word);
        Self {
            origin: row.origin,
            from_bytes: row.from_bytes.cast_unsigned(),
            source: row.source.unwrap_or_default(),
            table: table.unwrap_or(Table::Infrastructure),
            format: row.format.unwrap_or_default(),
            options,
            timezone: row.timezone.unwrap_or_default(),
            anchor_ms: row.anchor.map_or(0, |anchor| anchor.0),
            max_line_bytes: row.max_line_bytes.unwrap_or(0).cast_unsigned(),
            parser_version: row.parser_version.unwrap_or(0).cast_unsigned(),
        }
    }
}

/// What is prepared for the two tables.
pub(super) struct Statements {
    put_origin: PreparedStatement,
    put_context: PreparedStatement,
    of_machine: PreparedStatement,
    of_all: PreparedStatement,
    contexts: PreparedStatement,
    hosts: PreparedStatement,
}

impl Statements {
    pub(super) async fn prepare(session: &Session, keyspace: &str) -> Result<Self, StoreError> {
        let get = format!("SELECT {ORIGIN_COLUMNS} FROM {keyspace}.origins");
        Ok(Self {
            put_origin: prepare(
                session,
                format!(
                    "INSERT INTO {keyspace}.origins ({ORIGIN_COLUMNS}) \
                     VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ?"
                ),
            )
            .await?,
            put_context: prepare(
                session,
                format!(
                    "INSERT INTO {keyspace}.contexts ({CONTEXT_COLUMNS}) \
                     VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ?"
                ),
            )
            .await?,
            of_machine: prepare(session, format!("{get} WHERE machine = ?")).await?,
            of_all: prepare(session, get).await?,
            contexts: prepare(
                session,
                format!("SELECT {CONTEXT_COLUMNS} FROM {keyspace}.contexts WHERE origin = ?"),
            )
            .await?,
            hosts: prepare(session, format!("SELECT origin, host FROM {keyspace}.origins")).await?,
        })
    }

    /// The contexts first: an origin in the table always has them.
    pub(super) async fn put(
        &self,
        session: &Arc<Session>,
        origin: &OriginRecord,
        contexts: &[Context],
        stamp: i64,
    ) -> Result<(), StoreError> {
        let values = contexts.iter().map(|context| ContextValues::new(context, stamp));
        for_each(session, &self.put_context, values.collect::<Vec<_>>()).await?;
        for_each(session, &self.put_origin, [OriginValues::new(origin, stamp)]).await
    }

    /// The host of every origin.
    pub(super) async fn hosts(
        &self,
        session: &Session,
    ) -> Result<BTreeMap<OriginId, String>, StoreError> {
        let rows: Vec<(i64, Option<String>)> =
            all_rows(session, &self.hosts, (), PagingState::start()).await?;
        Ok(rows.into_iter().map(|(origin, host)| (origin, host.unwrap_or_default())).collect())
    }
}

/// All that is known of a machine's origins, ordered by number.
pub(super) async fn all(
    link: &Arc<Link>,
    machine: Option<&str>,
) -> Result<Vec<StoredOrigin>, StoreError> {
    let start = PagingState::start();
    let statements = &link.origins;
    let mut rows: Vec<OriginRow> = match machine {
        Some(machine) => all_rows(&link.session, &statements.of_machine, (machine,), start).await?,
        None => all_rows(&link.session, &statements.of_all, (), start).await?,
    };
    rows.sort_unstable_by_key(|row| row.origin);
    let mut origins: Vec<StoredOrigin> = rows
        .into_iter()
        .map(|row| StoredOrigin { record: row.into(), contexts: Vec::new(), spans: Vec::new() })
        .collect();
    let numbers: Vec<OriginId> = origins.iter().map(|origin| origin.record.id).collect();
    let jobs = numbers.into_iter().map(|number| {
        let link = Arc::clone(link);
        async move { Ok((number, details(&link, number).await?)) }
    });
    let mut found: BTreeMap<OriginId, (Vec<Context>, Vec<Span>)> = BTreeMap::new();
    at_once(jobs, |(number, details)| {
        found.insert(number, details);
        true
    })
    .await?;
    for origin in &mut origins {
        if let Some((contexts, spans)) = found.remove(&origin.record.id) {
            origin.contexts = contexts;
            origin.spans = spans;
        }
    }
    Ok(origins)
}

async fn details(link: &Link, origin: OriginId) -> Result<(Vec<Context>, Vec<Span>), StoreError> {
    let start = PagingState::start();
    let contexts: Vec<ContextRow> =
        all_rows(&link.session, &link.origins.contexts, (origin,), start).await?;
    let spans = link.spans.of_origin(&link.session, origin).await?;
    Ok((contexts.into_iter().map(Context::from).collect(), spans))
}
