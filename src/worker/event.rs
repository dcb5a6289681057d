//! Writes a user event as a row of `user_events`.
//!
//! A member of a record is a column by its own name; all others, and the members of its object
//! `event_data` without that prefix, are the column `event_data`. A value of another type than its
//! column's stays there as text: no event is refused.

use std::borrow::Cow;

use super::Flags;
use super::row::{Object, append, id_uuid, slice, text};
use crate::batch::{Batch, EVENT_DATA_PREFIX, EventColumns, Row};
use crate::key::RowKey;
use crate::parse::number_repeated;
use crate::record::{Field, Record};

/// Whose event it is: a uuid, made of the id where that is none; nil where nobody is named.
#[must_use]
pub fn user_of(fields: &[Field<'_>]) -> u128 {
    let named = fields.iter().find(|field| &*field.key == b"user_id");
    named.map_or(0, |field| id_uuid(&field.value).0.as_u128())
}

/// Appends the row of `record` to `batch`; see [`super::write_row`].
pub(super) fn write(
    batch: &mut Batch,
    key: RowKey,
    record: &Record<'_>,
    flags: &Flags,
    raw: Option<&[u8]>,
) {
    let end = batch.text.len();
    let mut event_type = slice(end, end);
    let mut columns = EventColumns::default();
    let mut data = Vec::with_capacity(record.fields.len() + 1);
    if !record.message.is_empty() {
        data.push(borrowed(b"message", &record.message));
    }
    for field in record.fields.iter().filter(|field| inner_key(field).is_none()) {
        let value = &field.value;
        let taken = match &*field.key {
            b"event_type" => {
                event_type = append(batch, value);
                true
            }
            b"session_id" => {
                columns.session_id = Some(append(batch, value));
                true
            }
            b"user_agent" => {
                columns.user_agent = Some(append(batch, value));
                true
            }
            b"user_id" => {
                let (user, exact) = id_uuid(value);
                columns.user_id = user.as_u128();
                exact
            }
            b"ip_address" => {
                columns.ip_address = text(value).and_then(|value| value.parse().ok());
                columns.ip_address.is_some()
            }
            _ => false,
        };
        if !taken {
            data.push(borrowed(&field.key, value));
        }
    }
    // behind the others, so that what the daemon has noted keeps its names
    let inner = record.fields.iter().filter_map(|field| Some((inner_key(field)?, field)));
    data.extend(inner.map(|(key, field)| borrowed(key, &field.value)));
    number_repeated(&mut data);
    let start = batch.text.len();
    let mut object = Object::begin(&mut batch.text);
    for field in &data {
        object.entry(&field.key, &field.value);
    }
    object.notes(record, flags, raw);
    object.end();
    let metadata = slice(start, batch.text.len());
    batch.events.push(columns);
    let further = u32::try_from(batch.events.len() - 1).ok();
    let (level, message) = (record.level, event_type);
    batch.rows.push(Row { key, level, rung: None, message, metadata, further });
}

fn inner_key<'a>(field: &'a Field<'_>) -> Option<&'a [u8]> {
    field.key.strip_prefix(EVENT_DATA_PREFIX.as_bytes())
}

fn borrowed<'a>(key: &'a [u8], value: &'a [u8]) -> Field<'a> {
    Field { key: Cow::Borrowed(key), value: Cow::Borrowed(value) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::IpAddr;

    use uuid::Uuid;

    use super::*;
    use crate::key::{Partition, Table};

    const ANA: &str = "0b0d7a0e-5a51-4c4b-9d0a-0123456789ab";

    struct Event {
        kind: String,
        user: Uuid,
        session: Option<String>,
        ip: Option<IpAddr>,
        agent: Option<String>,
        data: BTreeMap<String, String>,
    }

    fn event(record: &Record<'_>) -> Event {
        let partition = Partition {
            table: Table::Events,
            day: 0,
            source: "user_events".into(),
            bucket: 0,
            user: None,
        };
        let mut batch = Batch::new(partition, "web1".into());
        let key = RowKey { timestamp_ms: 1, origin: 2, offset_bytes: 3 };
        // a row before it, so that indexes and slices are not all 0
        super::super::write_row(
            &mut batch,
            key,
            &fields(&[("user_agent", "x")]),
            &Flags::default(),
            None,
        );
        super::super::write_row(&mut batch, key, record, &Flags::default(), None);
        let row = &batch.rows[1];
        let columns = batch.event_of(row).unwrap();
        let word = |slice| String::from_utf8(batch.text(slice).to_vec()).unwrap();
        Event {
            kind: word(&row.message),
            user: Uuid::from_u128(columns.user_id),
            session: columns.session_id.as_ref().map(word),
            ip: columns.ip_address,
            agent: columns.user_agent.as_ref().map(word),
            data: serde_json::from_str(&word(&row.metadata)).unwrap_or_default(),
        }
    }

    fn fields(entries: &[(&'static str, &'static str)]) -> Record<'static> {
        let mut record = Record { parsed: true, ..Record::default() };
        for (key, value) in entries {
            record.push(key.as_bytes(), value.as_bytes());
        }
        record
    }

    fn data(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
        entries.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn columns_are_taken_and_all_else_is_event_data() {
        let event = event(&fields(&[
            ("event_type", "sale"),
            ("user_id", ANA),
            ("session_id", "s1"),
            ("ip_address", "2001:db8::1"),
            ("user_agent", "curl"),
            ("event_data.cart.total", "7"),
            ("event_data", "not an object"),
            ("shop", "north"),
            ("peer_pid", "4711"),
        ]));
        assert_eq!((&*event.kind, event.user.to_string().as_str()), ("sale", ANA));
        assert_eq!(event.session.as_deref(), Some("s1"));
        assert_eq!(event.ip, Some("2001:db8::1".parse().unwrap()));
        assert_eq!(event.agent.as_deref(), Some("curl"));
        let expected = data(&[
            ("cart.total", "7"),
            ("event_data", "not an object"),
            ("shop", "north"),
            ("peer_pid", "4711"),
        ]);
        assert_eq!(event.data, expected);
    }

    #[test]
    fn values_of_other_types_stay_as_text() {
        let event = event(&fields(&[
            ("event_type", "login"),
            ("user_id", "42"),
            ("ip_address", "not told"),
        ]));
        assert_eq!(event.user, Uuid::new_v5(&Uuid::NAMESPACE_OID, b"42"));
        assert_eq!(event.ip, None);
        assert_eq!(event.data, data(&[("user_id", "42"), ("ip_address", "not told")]));
        assert_eq!(event.user.as_u128(), user_of(&fields(&[("a", "b"), ("user_id", "42")]).fields));
    }

    #[test]
    fn an_event_of_nobody_has_the_nil_uuid() {
        assert_eq!(event(&fields(&[("event_type", "visit")])).user, Uuid::nil());
        assert_eq!(user_of(&fields(&[("event_data.user_id", "42")]).fields), 0);
    }

    #[test]
    fn names_that_meet_are_numbered_and_those_of_the_daemon_stay() {
        let event = event(&fields(&[
            ("event_data.peer_uid", "0"),
            ("event_data.user_id", "7"),
            ("user_id", "42"),
            ("a", "1"),
            ("event_data.a", "2"),
            ("peer_uid", "33"),
        ]));
        let expected = data(&[
            ("user_id", "42"),
            ("a", "1"),
            ("peer_uid", "33"),
            ("peer_uid.2", "0"),
            ("user_id.2", "7"),
            ("a.2", "2"),
        ]);
        assert_eq!(event.data, expected);
    }

    #[test]
    fn a_text_that_is_not_understood_is_kept() {
        let mut record = Record::default();
        record.not_understood(b"{\"event_type\":");
        let event = event(&record);
        assert_eq!(event.kind, "");
        assert_eq!(event.data, data(&[("message", "{\"event_type\":"), ("unparsed", "true")]));
    }
}
