//! User events: a partition for each month of each user.
//!
//! They are read user by user, month after month. Which months there are comes from `log_stats`,
//! as the days of log rows do.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use scylla::DeserializeRow;
use scylla::client::session::Session;
use scylla::response::PagingState;
use scylla::statement::prepared::PreparedStatement;
use scylla::value::{CqlDate, CqlTimestamp};
use uuid::Uuid;

use super::ask::{all_rows, page, prepare_read};
use super::rows::cql_date;
use super::{CassandraStore, Link, fault};
use crate::key::{RowKey, Table, day_of, month_of};
use crate::record::Level;
use crate::stores::{Page, RowQuery, StoreError, StoredRow, StoredText};

/// What is prepared for the table.
pub(super) struct Statements {
    newest: PreparedStatement,
    oldest: PreparedStatement,
    text: PreparedStatement,
    keys: PreparedStatement,
}

/// A row of `user_events`.
#[derive(DeserializeRow)]
#[scylla(flavor = "enforce_order", skip_name_checks)]
struct EventRow {
    user_id: Uuid,
    event_timestamp: CqlTimestamp,
    event_id: Uuid,
    event_type: Option<String>,
    event_data: Option<String>,
    session_id: Option<String>,
    ip_address: Option<IpAddr>,
    user_agent: Option<String>,
}

impl EventRow {
    fn stored(self) -> StoredRow {
        let further = [
            ("user_id", Some(self.user_id.to_string())),
            ("session_id", self.session_id),
            ("ip_address", self.ip_address.map(|ip| ip.to_string())),
            ("user_agent", self.user_agent),
        ];
        StoredRow {
            table: Table::Events,
            key: RowKey::of_event(self.event_timestamp.0, self.event_id.as_u128()),
            source: Table::Events.name().to_owned(),
            level: Level::Info,
            message: self.event_type.unwrap_or_default(),
            host: String::new(),
            metadata: self.event_data.unwrap_or_default(),
            further: further.into_iter().filter_map(|(name, value)| Some((name, value?))).collect(),
        }
    }
}

impl Statements {
    pub(super) async fn prepare(session: &Session, keyspace: &str) -> Result<Self, StoreError> {
        let from = format!("FROM {keyspace}.user_events");
        let partition = "WHERE user_id = ? AND month = ?";
        let rows = format!(
            "SELECT user_id, event_timestamp, event_id, event_type, event_data, session_id, \
             ip_address, user_agent {from} {partition} \
             AND (event_timestamp, event_id) > (?, ?) AND (event_timestamp, event_id) < (?, ?)"
        );
        let oldest = format!("{rows} ORDER BY event_timestamp ASC, event_id ASC LIMIT ?");
        let text = format!(
            "SELECT event_type, event_data {from} {partition} \
             AND event_timestamp = ? AND event_id = ?"
        );
        let keys = format!(
            "SELECT event_timestamp, event_id {from} \
             WHERE token(user_id, month) > ? AND token(user_id, month) <= ?"
        );
        let mut keys = prepare_read(session, keys).await?;
        keys.set_page_size(5000);
        Ok(Self {
            newest: prepare_read(session, format!("{rows} LIMIT ?")).await?,
            oldest: prepare_read(session, oldest).await?,
            text: prepare_read(session, text).await?,
            keys,
        })
    }

    /// The keys of a page of a range of tokens.
    pub(super) async fn keys(
        &self,
        session: &Session,
        tokens: (i64, i64),
        from: PagingState,
    ) -> Result<(Vec<RowKey>, Option<PagingState>), StoreError> {
        let (rows, next) = page::<(CqlTimestamp, Uuid)>(session, &self.keys, &tokens, from).await?;
        let keys = rows.into_iter().map(|(time, id)| RowKey::of_event(time.0, id.as_u128()));
        Ok((keys.collect(), next))
    }

    /// What an event says.
    pub(super) async fn text(
        &self,
        session: &Session,
        user: u128,
        key: RowKey,
    ) -> Result<Option<StoredText>, StoreError> {
        let month = CqlDate(cql_date(month_of(day_of(key.timestamp_ms))));
        let (time, id) = (CqlTimestamp(key.timestamp_ms), Uuid::from_u128(key.event_id()));
        let values = (Uuid::from_u128(user), month, time, id);
        let found: Vec<(Option<String>, Option<String>)> =
            all_rows(session, &self.text, values, PagingState::start()).await?;
        Ok(found.into_iter().next().map(|(message, metadata)| StoredText {
            message: message.unwrap_or_default(),
            metadata: metadata.unwrap_or_default(),
        }))
    }
}

impl CassandraStore {
    /// The events of a user, in the order asked for.
    pub(super) async fn read_events(
        &self,
        link: &Arc<Link>,
        query: &RowQuery,
    ) -> Result<Page, StoreError> {
        let Some(user) = query.user else {
            return Err(fault::invalid("user_events are kept by user: ask for those of one user"));
        };
        let (above, below) = query.edges();
        let first = month_of(day_of(above.timestamp_ms.saturating_add(1)));
        let last = match below.timestamp_ms {
            i64::MAX => i32::MAX,
            below_ms => month_of(day_of(below_ms)),
        };
        let days = self.hours(link).await?;
        let months: BTreeSet<i32> = days.keys().map(|day| month_of(*day)).collect();
        let mut months: Vec<i32> = months.range(first..=last).copied().collect();
        if query.newest_first {
            months.reverse();
        }
        let statements = &link.reads.events;
        let statement = if query.newest_first { &statements.newest } else { &statements.oldest };
        let mut rows: Vec<StoredRow> = Vec::new();
        for month in months {
            // one more than is missing, to know whether there is more
            let missing = query.limit.saturating_sub(rows.len()).saturating_add(1);
            let values = (
                Uuid::from_u128(user),
                CqlDate(cql_date(month)),
                CqlTimestamp(above.timestamp_ms),
                Uuid::from_u128(above.event_id()),
                CqlTimestamp(below.timestamp_ms),
                Uuid::from_u128(below.event_id()),
                i32::try_from(missing).unwrap_or(i32::MAX),
            );
            let found: Vec<EventRow> =
                all_rows(&link.session, statement, values, PagingState::start()).await?;
            rows.extend(found.into_iter().map(EventRow::stored));
            if rows.len() > query.limit {
                rows.truncate(query.limit);
                return Ok(Page { rows, exhausted: false });
            }
        }
        Ok(Page { rows, exhausted: true })
    }
}
