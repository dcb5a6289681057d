//! Batches of rows: the cells go straight from the batch's arena into the request.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use scylla::client::session::Session;
use scylla::frame::response::result::{ColumnType, NativeType};
use scylla::serialize::SerializationError;
use scylla::serialize::batch::{BatchValues, BatchValuesIterator};
use scylla::serialize::row::RowSerializationContext;
use scylla::serialize::writers::RowWriter;
use scylla::statement::batch::{Batch as Request, BatchType};
use scylla::statement::prepared::PreparedStatement;

use super::ask::prepare;
use super::fault;
use crate::batch::{ApplicationColumns, Batch, EventColumns, Row, Slice};
use crate::config::Lifetimes;
use crate::key::{Table, month_of};
use crate::stores::StoreError;

use NativeType::{BigInt, Date, Double, Inet, Int, SmallInt, Text, Timestamp, Uuid};

/// The columns in the order in which [`Cells`] writes them; the write timestamp comes last.
const COLUMNS: &[(&str, NativeType)] = &[
    ("log_date", Date),
    ("source", Text),
    ("bucket", SmallInt),
    ("timestamp", Timestamp),
    ("origin", BigInt),
    ("offset_bytes", BigInt),
    ("level", Text),
    ("message", Text),
    ("host", Text),
    ("metadata", Text),
];

const APPLICATION_COLUMNS: &[(&str, NativeType)] = &[
    ("logger", Text),
    ("request_id", Uuid),
    ("user_id", Int),
    ("session_id", Text),
    ("traceback", Text),
    ("duration_ms", Double),
];

const EVENT_COLUMNS: &[(&str, NativeType)] = &[
    ("user_id", Uuid),
    ("month", Date),
    ("event_timestamp", Timestamp),
    ("event_id", Uuid),
    ("event_type", Text),
    ("event_data", Text),
    ("session_id", Text),
    ("ip_address", Inet),
    ("user_agent", Text),
];

/// Requests that wait to be used again, each with as many statements as its last batch had rows.
const REQUESTS_KEPT_MAX: usize = 8;

/// The prepared inserts of one table: the usual one, and those of sources whose rows live longer
/// or shorter.
pub(super) struct Inserts {
    usual: Insert,
    sources: HashMap<String, Insert>,
}

impl Inserts {
    /// Prepares them.
    pub(super) async fn prepare(
        session: &Session,
        keyspace: &str,
        table: Table,
        lifetimes: &Lifetimes,
    ) -> Result<Self, StoreError> {
        let usual = lifetimes.of_table(table);
        let mut sources = HashMap::new();
        for (source, lifetime) in &lifetimes.sources {
            if Some(*lifetime) != usual {
                let insert = Insert::prepare(session, keyspace, table, Some(*lifetime)).await?;
                sources.insert(source.clone(), insert);
            }
        }
        Ok(Self { usual: Insert::prepare(session, keyspace, table, usual).await?, sources })
    }

    /// The one for rows of this source.
    pub(super) fn of(&self, source: &str) -> &Insert {
        self.sources.get(source).unwrap_or(&self.usual)
    }
}

/// A prepared insert.
pub(super) struct Insert {
    statement: PreparedStatement,
    requests: Mutex<Vec<Request>>,
}

impl Insert {
    /// Prepares it. The time to live is always said: the table's own may be changed at any
    /// moment, and spans carry what is said here.
    async fn prepare(
        session: &Session,
        keyspace: &str,
        table: Table,
        lifetime: Option<Duration>,
    ) -> Result<Self, StoreError> {
        let columns = columns(table);
        let names: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
        let ttl_s = lifetime.map_or(0, |lifetime| lifetime.as_secs());
        let text = format!(
            "INSERT INTO {keyspace}.{} ({}) VALUES ({}) USING TIMESTAMP ? AND TTL {ttl_s}",
            table.name(),
            names.join(", "),
            vec!["?"; names.len()].join(", "),
        );
        let statement = prepare(session, text).await?;
        // Cells are written without a check per row, so the types are checked here, once.
        let specs = statement.get_variable_col_specs();
        for (spec, (name, wanted)) in specs.iter().zip(&columns) {
            if *spec.typ() != ColumnType::Native(wanted.clone()) {
                return Err(fault::schema(format!(
                    "column {name} of {keyspace}.{} has the type {:?}, not {wanted:?}",
                    table.name(),
                    spec.typ()
                )));
            }
        }
        if specs.len() != columns.len() + 1 {
            return Err(fault::schema(format!("{} has other columns", table.name())));
        }
        Ok(Self { statement, requests: Mutex::new(Vec::new()) })
    }

    /// A request with `rows` statements.
    pub(super) fn take(&self, rows: usize) -> Request {
        let kept = {
            let mut kept = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
            let same = kept.iter().position(|request| request.statements.len() == rows);
            match same {
                Some(index) => Some(kept.swap_remove(index)),
                None => kept.pop(),
            }
        };
        let mut request = kept.unwrap_or_else(|| {
            let mut request = Request::new(BatchType::Unlogged);
            request.set_is_idempotent(true);
            request
        });
        request.statements.truncate(rows);
        while request.statements.len() < rows {
            request.append_statement(self.statement.clone());
        }
        request
    }

    /// Gives a request back.
    pub(super) fn give(&self, request: Request) {
        let mut kept = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < REQUESTS_KEPT_MAX {
            kept.push(request);
        }
    }
}

fn columns(table: Table) -> Vec<&'static (&'static str, NativeType)> {
    match table {
        Table::Infrastructure => COLUMNS.iter().collect(),
        Table::Application => COLUMNS.iter().chain(APPLICATION_COLUMNS).collect(),
        Table::Events => EVENT_COLUMNS.iter().collect(),
    }
}

/// A CQL `date`: days since 1970 with the middle of the unsigned range as day 0.
pub(super) fn cql_date(day: i32) -> u32 {
    day.cast_unsigned() ^ (1 << 31)
}

/// The rows of a batch as values of a request.
pub(super) struct Cells<'a>(pub(super) &'a Batch);

impl BatchValues for Cells<'_> {
    type BatchValuesIter<'r>
        = CellsIter<'r>
    where
        Self: 'r;

    fn batch_values_iter(&self) -> CellsIter<'_> {
        CellsIter { batch: self.0, next: 0 }
    }
}

/// See [`Cells`].
pub(super) struct CellsIter<'a> {
    batch: &'a Batch,
    next: usize,
}

impl BatchValuesIterator<'_> for CellsIter<'_> {
    fn serialize_next(
        &mut self,
        _: &RowSerializationContext<'_>,
        writer: &mut RowWriter,
    ) -> Option<Result<(), SerializationError>> {
        let row = self.batch.rows.get(self.next)?;
        let stamp = self.batch.row_stamp(self.next);
        self.next += 1;
        Some(write_row(self.batch, row, stamp, writer))
    }

    fn is_empty_next(&mut self) -> Option<bool> {
        self.skip_next().map(|()| false)
    }

    fn skip_next(&mut self) -> Option<()> {
        self.batch.rows.get(self.next)?;
        self.next += 1;
        Some(())
    }

    fn count(self) -> usize {
        self.batch.rows.len().saturating_sub(self.next)
    }
}

fn write_row(
    batch: &Batch,
    row: &Row,
    stamp: i64,
    writer: &mut RowWriter,
) -> Result<(), SerializationError> {
    let partition = &batch.partition;
    if partition.table == Table::Events {
        write_event(batch, row, writer)?;
        return cell(writer, &stamp.to_be_bytes());
    }
    cell(writer, &cql_date(partition.day).to_be_bytes())?;
    cell(writer, partition.source.as_bytes())?;
    cell(writer, &partition.bucket.to_be_bytes())?;
    cell(writer, &row.key.timestamp_ms.to_be_bytes())?;
    cell(writer, &row.key.origin.to_be_bytes())?;
    cell(writer, &row.key.offset_bytes.to_be_bytes())?;
    cell(writer, row.level.name().as_bytes())?;
    cell(writer, batch.text(&row.message))?;
    cell(writer, batch.host.as_bytes())?;
    let metadata = batch.text(&row.metadata);
    optional(writer, (!metadata.is_empty()).then_some(metadata))?;
    if partition.table == Table::Application {
        let none = ApplicationColumns::default();
        let columns = batch.application_of(row).unwrap_or(&none);
        write_application(batch, columns, writer)?;
    }
    cell(writer, &stamp.to_be_bytes())
}

fn write_application(
    batch: &Batch,
    columns: &ApplicationColumns,
    writer: &mut RowWriter,
) -> Result<(), SerializationError> {
    optional(writer, columns.logger.as_ref().map(|slice| batch.text(slice)))?;
    optional(writer, columns.request_id.map(u128::to_be_bytes).as_ref().map(<[u8; 16]>::as_slice))?;
    optional(writer, columns.user_id.map(i32::to_be_bytes).as_ref().map(<[u8; 4]>::as_slice))?;
    optional(writer, columns.session_id.as_ref().map(|slice| batch.text(slice)))?;
    optional(writer, columns.traceback.as_ref().map(|slice| batch.text(slice)))?;
    optional(writer, columns.duration_ms.map(f64::to_be_bytes).as_ref().map(<[u8; 8]>::as_slice))
}

fn write_event(batch: &Batch, row: &Row, writer: &mut RowWriter) -> Result<(), SerializationError> {
    let nobody = EventColumns::default();
    let columns = batch.event_of(row).unwrap_or(&nobody);
    let text = |slice: Option<&Slice>| slice.map(|slice| batch.text(slice));
    let filled = |slice: &Slice| Some(batch.text(slice)).filter(|text| !text.is_empty());
    cell(writer, &columns.user_id.to_be_bytes())?;
    cell(writer, &cql_date(month_of(batch.partition.day)).to_be_bytes())?;
    cell(writer, &row.key.timestamp_ms.to_be_bytes())?;
    cell(writer, &row.key.event_id().to_be_bytes())?;
    optional(writer, filled(&row.message))?;
    optional(writer, filled(&row.metadata))?;
    optional(writer, text(columns.session_id.as_ref()))?;
    match columns.ip_address {
        Some(IpAddr::V4(ip)) => cell(writer, &ip.octets())?,
        Some(IpAddr::V6(ip)) => cell(writer, &ip.octets())?,
        None => optional(writer, None)?,
    }
    optional(writer, text(columns.user_agent.as_ref()))
}

fn cell(writer: &mut RowWriter, value: &[u8]) -> Result<(), SerializationError> {
    writer.make_cell_writer().set_value(value).map_err(SerializationError::new)?;
    Ok(())
}

/// An absent column is unset: a null would be a tombstone.
fn optional(writer: &mut RowWriter, value: Option<&[u8]>) -> Result<(), SerializationError> {
    let Some(value) = value else {
        writer.make_cell_writer().set_unset();
        return Ok(());
    };
    cell(writer, value)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::key::{Partition, RowKey};
    use crate::record::Level;

    fn batch(table: Table) -> Batch {
        let partition = Partition { table, day: 0, source: Arc::from("s"), bucket: 2, user: None };
        let mut batch = Batch::new(partition, Arc::from("h"));
        batch.text.extend_from_slice(b"hello");
        batch.stamp = 7;
        for offset_bytes in [0, 6] {
            batch.rows.push(Row {
                rung: None,
                key: RowKey { timestamp_ms: 1, origin: 2, offset_bytes },
                level: Level::Error,
                message: 0..5,
                metadata: 0..0,
                further: None,
            });
        }
        batch
    }

    fn bytes_of(batch: &Batch) -> (Vec<u8>, Vec<usize>) {
        let mut buffer = Vec::new();
        let mut counts = Vec::new();
        let cells = Cells(batch);
        let mut cells = cells.batch_values_iter();
        loop {
            let mut writer = RowWriter::new(&mut buffer);
            match cells.serialize_next(&RowSerializationContext::empty(), &mut writer) {
                Some(result) => result.unwrap(),
                None => break,
            }
            counts.push(writer.value_count());
        }
        (buffer, counts)
    }

    #[test]
    fn each_row_has_all_columns_and_its_own_stamp() {
        let tables = [(Table::Infrastructure, 11), (Table::Application, 17), (Table::Events, 10)];
        for (table, columns) in tables {
            let (bytes, counts) = bytes_of(&batch(table));
            assert_eq!(counts, [columns, columns]);
            assert_eq!(bytes[bytes.len() - 8..], 8_i64.to_be_bytes());
        }
    }

    #[test]
    fn absent_columns_are_unset_and_not_null() {
        let (bytes, _) = bytes_of(&batch(Table::Infrastructure));
        let unset = (-2_i32).to_be_bytes();
        let null = (-1_i32).to_be_bytes();
        assert_eq!(bytes.windows(4).filter(|window| *window == unset).count(), 2);
        assert_eq!(bytes.windows(4).filter(|window| *window == null).count(), 0);
    }

    #[test]
    fn an_event_is_one_of_its_users_month() {
        let mut events = batch(Table::Events);
        events.partition.day = 20_779;
        let ip_address = Some(IpAddr::from([192, 0, 2, 7]));
        events.events.push(EventColumns { user_id: 5, ip_address, ..EventColumns::default() });
        for row in &mut events.rows {
            row.further = Some(0);
        }
        let (bytes, _) = bytes_of(&events);
        let sized =
            |value: &[u8]| [&i32::try_from(value.len()).unwrap().to_be_bytes(), value].concat();
        let key = [sized(&5_u128.to_be_bytes()), sized(&cql_date(20_758).to_be_bytes())].concat();
        assert!(bytes.starts_with(&key));
        let ip = sized(&[192, 0, 2, 7]);
        assert_eq!(bytes.windows(8).filter(|window| *window == ip).count(), 2);
    }

    #[test]
    fn day_zero_is_the_middle_of_a_date() {
        assert_eq!(cql_date(0), 1 << 31);
        assert_eq!(cql_date(-1), (1 << 31) - 1);
        assert_eq!(cql_date(20_000), (1 << 31) + 20_000);
    }
}
