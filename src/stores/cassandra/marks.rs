//! Loss receipts, watermarks and dead letters.

use std::sync::Arc;

use scylla::client::session::Session;
use scylla::response::PagingState;
use scylla::statement::prepared::PreparedStatement;
use scylla::value::{CqlTimestamp, MaybeUnset};
use scylla::{DeserializeRow, SerializeRow};
use tokio::time::Instant;

use super::ask::{all_rows, for_each, prepare};
use super::fault;
use super::origins::{path_bytes, path_of, unset};
use crate::key::Table;
use crate::ledger::{Cause, DeadLetter, LossReceipt, Watermark};
use crate::stores::StoreError;

const RECEIPT_COLUMNS: &str = "origin, start_bytes, cause, end_bytes, source, host, path, \
     path_bytes, noticed, detail";
const WATERMARK_COLUMNS: &str = "source, host, seen, written, behind_bytes";
const LETTER_COLUMNS: &str = "table_name, source, timestamp, origin, offset_bytes, host, level, \
     message, metadata, reason, refused";
const LETTER_KEY: &str =
    "table_name = ? AND source = ? AND timestamp = ? AND origin = ? AND offset_bytes = ?";

#[derive(SerializeRow)]
#[scylla(flavor = "enforce_order", skip_name_checks)]
struct ReceiptValues {
    origin: i64,
    start_bytes: i64,
    cause: &'static str,
    end_bytes: MaybeUnset<i64>,
    source: String,
    host: String,
    path: String,
    path_bytes: MaybeUnset<Vec<u8>>,
    noticed: CqlTimestamp,
    detail: String,
    stamp: i64,
}

#[derive(DeserializeRow)]
#[scylla(flavor = "enforce_order", skip_name_checks)]
struct ReceiptRow {
    origin: i64,
    start_bytes: i64,
    cause: String,
    end_bytes: Option<i64>,
    source: Option<String>,
    host: Option<String>,
    path: Option<String>,
    path_bytes: Option<Vec<u8>>,
    noticed: Option<CqlTimestamp>,
    detail: Option<String>,
}

#[derive(SerializeRow)]
#[scylla(flavor = "enforce_order", skip_name_checks)]
struct LetterValues {
    table_name: &'static str,
    source: String,
    timestamp: CqlTimestamp,
    origin: i64,
    offset_bytes: i64,
    host: String,
    level: String,
    message: String,
    metadata: String,
    reason: String,
    refused: CqlTimestamp,
    stamp: i64,
}

#[derive(DeserializeRow)]
#[scylla(flavor = "enforce_order", skip_name_checks)]
struct LetterRow {
    table_name: String,
    source: String,
    timestamp: CqlTimestamp,
    origin: i64,
    offset_bytes: i64,
    host: Option<String>,
    level: Option<String>,
    message: Option<String>,
    metadata: Option<String>,
    reason: Option<String>,
    refused: Option<CqlTimestamp>,
}

type WatermarkRow = (String, String, Option<CqlTimestamp>, Option<CqlTimestamp>, Option<i64>);

fn cause_of(name: &str) -> Cause {
    [Cause::Truncated, Cause::Deleted, Cause::CutBack, Cause::Spool]
        .into_iter()
        .find(|cause| cause.name() == name)
        .unwrap_or(Cause::Unknown)
}

impl From<ReceiptRow> for LossReceipt {
    fn from(row: ReceiptRow) -> Self {
        Self {
            origin: row.origin,
            start_bytes: row.start_bytes.cast_unsigned(),
            end_bytes: row.end_bytes.map(i64::cast_unsigned),
            cause: cause_of(&row.cause),
            source: row.source.unwrap_or_default(),
            host: row.host.unwrap_or_default(),
            path: path_of(row.path, row.path_bytes),
            noticed_ms: row.noticed.map_or(0, |time| time.0),
            detail: row.detail.unwrap_or_default(),
        }
    }
}

impl From<LetterRow> for DeadLetter {
    fn from(row: LetterRow) -> Self {
        Self {
            table: Table::from_word(&row.table_name).unwrap_or(Table::Infrastructure),
            source: row.source,
            host: row.host.unwrap_or_default(),
            timestamp_ms: row.timestamp.0,
            origin: row.origin,
            offset_bytes: row.offset_bytes,
            level: row.level.unwrap_or_default(),
            message: row.message.unwrap_or_default(),
            metadata: row.metadata.unwrap_or_default(),
            reason: row.reason.unwrap_or_default(),
            refused_ms: row.refused.map_or(0, |time| time.0),
        }
    }
}

/// What is prepared for the three tables.
pub(super) struct Statements {
    put_receipt: PreparedStatement,
    put_watermark: PreparedStatement,
    put_letter: PreparedStatement,
    receipts: PreparedStatement,
    watermarks: PreparedStatement,
    letters: PreparedStatement,
    letter_stamp: PreparedStatement,
    remove_letter: PreparedStatement,
}

impl Statements {
    pub(super) async fn prepare(session: &Session, keyspace: &str) -> Result<Self, StoreError> {
        let put = |table: &str, columns: &str| {
            let marks = vec!["?"; columns.split(',').count()].join(", ");
            format!("INSERT INTO {keyspace}.{table} ({columns}) VALUES ({marks}) USING TIMESTAMP ?")
        };
        let get = |table: &str, columns: &str| format!("SELECT {columns} FROM {keyspace}.{table}");
        Ok(Self {
            put_receipt: prepare(session, put("loss_receipts", RECEIPT_COLUMNS)).await?,
            put_watermark: prepare(session, put("watermarks", WATERMARK_COLUMNS)).await?,
            put_letter: prepare(session, put("dead_letters", LETTER_COLUMNS)).await?,
            receipts: prepare(session, get("loss_receipts", RECEIPT_COLUMNS)).await?,
            watermarks: prepare(session, get("watermarks", WATERMARK_COLUMNS)).await?,
            letters: prepare(session, get("dead_letters", LETTER_COLUMNS)).await?,
            letter_stamp: prepare(
                session,
                format!("SELECT writetime(reason) FROM {keyspace}.dead_letters WHERE {LETTER_KEY}"),
            )
            .await?,
            remove_letter: prepare(
                session,
                format!("DELETE FROM {keyspace}.dead_letters USING TIMESTAMP ? WHERE {LETTER_KEY}"),
            )
            .await?,
        })
    }

    pub(super) async fn put_receipts(
        &self,
        session: &Arc<Session>,
        receipts: &[LossReceipt],
        stamp: i64,
    ) -> Result<(), StoreError> {
        let values = receipts.iter().zip(stamp..).map(|(receipt, stamp)| ReceiptValues {
            origin: receipt.origin,
            start_bytes: receipt.start_bytes.cast_signed(),
            cause: receipt.cause.name(),
            end_bytes: unset(receipt.end_bytes.map(u64::cast_signed)),
            source: receipt.source.clone(),
            host: receipt.host.clone(),
            path: receipt.path.to_string_lossy().into_owned(),
            path_bytes: unset(path_bytes(&receipt.path)),
            noticed: CqlTimestamp(receipt.noticed_ms),
            detail: receipt.detail.clone(),
            stamp,
        });
        for_each(session, &self.put_receipt, values.collect::<Vec<_>>()).await
    }

    pub(super) async fn put_watermarks(
        &self,
        session: &Arc<Session>,
        watermarks: &[Watermark],
        stamp: i64,
    ) -> Result<(), StoreError> {
        let values = watermarks.iter().zip(stamp..).map(|(watermark, stamp)| {
            (
                watermark.source.clone(),
                watermark.host.clone(),
                CqlTimestamp(watermark.seen_ms),
                CqlTimestamp(watermark.written_ms),
                watermark.behind_bytes.cast_signed(),
                stamp,
            )
        });
        for_each(session, &self.put_watermark, values.collect::<Vec<_>>()).await
    }

    pub(super) async fn put_letters(
        &self,
        session: &Arc<Session>,
        letters: &[DeadLetter],
        stamp: i64,
    ) -> Result<(), StoreError> {
        let values = letters.iter().zip(stamp..).map(|(letter, stamp)| LetterValues {
            table_name: letter.table.name(),
            source: letter.source.clone(),
            timestamp: CqlTimestamp(letter.timestamp_ms),
            origin: letter.origin,
            offset_bytes: letter.offset_bytes,
            host: letter.host.clone(),
            level: letter.level.clone(),
            message: letter.message.clone(),
            metadata: letter.metadata.clone(),
            reason: letter.reason.clone(),
            refused: CqlTimestamp(letter.refused_ms),
            stamp,
        });
        for_each(session, &self.put_letter, values.collect::<Vec<_>>()).await
    }

    pub(super) async fn receipts(&self, session: &Session) -> Result<Vec<LossReceipt>, StoreError> {
        let rows: Vec<ReceiptRow> =
            all_rows(session, &self.receipts, (), PagingState::start()).await?;
        let mut receipts: Vec<LossReceipt> = rows.into_iter().map(LossReceipt::from).collect();
        receipts.sort_by_key(|receipt| (receipt.noticed_ms, receipt.origin, receipt.start_bytes));
        Ok(receipts)
    }

    pub(super) async fn watermarks(&self, session: &Session) -> Result<Vec<Watermark>, StoreError> {
        let rows: Vec<WatermarkRow> =
            all_rows(session, &self.watermarks, (), PagingState::start()).await?;
        let mut watermarks: Vec<Watermark> = rows
            .into_iter()
            .map(|(source, host, seen, written, behind)| Watermark {
                source,
                host,
                seen_ms: seen.map_or(0, |time| time.0),
                written_ms: written.map_or(0, |time| time.0),
                behind_bytes: behind.unwrap_or(0).cast_unsigned(),
            })
            .collect();
        watermarks.sort_by(|a, b| (&a.source, &a.host).cmp(&(&b.source, &b.host)));
        Ok(watermarks)
    }

    pub(super) async fn letters(&self, session: &Session) -> Result<Vec<DeadLetter>, StoreError> {
        let rows: Vec<LetterRow> =
            all_rows(session, &self.letters, (), PagingState::start()).await?;
        let mut letters: Vec<DeadLetter> = rows.into_iter().map(DeadLetter::from).collect();
        letters.sort_by_key(|letter| (letter.refused_ms, letter.origin, letter.offset_bytes));
        Ok(letters)
    }

    /// The delete has the letter's own write timestamp: it beats every repetition of that write,
    /// whatever the clocks say, and no later one.
    pub(super) async fn remove_letter(
        &self,
        session: &Session,
        letter: &DeadLetter,
    ) -> Result<(), StoreError> {
        let key = (
            letter.table.name(),
            letter.source.as_str(),
            CqlTimestamp(letter.timestamp_ms),
            letter.origin,
            letter.offset_bytes,
        );
        let stamps: Vec<(Option<i64>,)> =
            all_rows(session, &self.letter_stamp, key, PagingState::start()).await?;
        let Some((Some(stamp),)) = stamps.first() else { return Ok(()) };
        let started = Instant::now();
        session
            .execute_unpaged(&self.remove_letter, (stamp, key.0, key.1, key.2, key.3, key.4))
            .await
            .map_err(|error| fault::execution(&error, started.elapsed()))?;
        Ok(())
    }
}
