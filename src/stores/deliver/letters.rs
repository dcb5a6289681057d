//! Dead letters: a row that the store will never take, kept with its reason and all its text.

use serde_json::{Map, Value};

use crate::batch::{ApplicationColumns, Batch, EVENT_DATA_PREFIX, EventColumns, Row, Slice};
use crate::key::Table;
use crate::ledger::DeadLetter;

/// The letter of one row of a batch.
pub(super) fn letter_of(batch: &Batch, row: &Row, reason: String, refused_ms: i64) -> DeadLetter {
    let mut metadata = words(batch, &row.metadata);
    if batch.partition.table == Table::Events {
        metadata = with_event_columns(batch, batch.event_of(row), &metadata);
    } else if let Some(columns) = batch.application_of(row) {
        metadata = with_columns(batch, columns, &metadata);
    }
    DeadLetter {
        table: batch.partition.table,
        source: batch.partition.source.to_string(),
        host: batch.host.to_string(),
        timestamp_ms: row.key.timestamp_ms,
        origin: row.key.origin,
        offset_bytes: row.key.offset_bytes,
        level: row.level.to_string(),
        message: words(batch, &row.message),
        metadata,
        reason,
        refused_ms,
    }
}

fn words(batch: &Batch, slice: &Slice) -> String {
    String::from_utf8_lossy(batch.text(slice)).into_owned()
}

/// A letter has no columns of its own for these, so they go into its metadata under their names.
fn with_columns(batch: &Batch, columns: &ApplicationColumns, metadata: &str) -> String {
    let Some(mut object) = object_of(metadata) else { return metadata.to_owned() };
    let text = |slice: &Option<Slice>| slice.as_ref().map(|slice| Value::from(words(batch, slice)));
    let request = columns.request_id.map(|id| uuid::Uuid::from_u128(id).to_string());
    let values = [
        ("logger", text(&columns.logger)),
        ("request_id", request.map(Value::from)),
        ("user_id", columns.user_id.map(Value::from)),
        ("session_id", text(&columns.session_id)),
        ("traceback", text(&columns.traceback)),
        ("duration_ms", columns.duration_ms.map(Value::from)),
    ];
    for (name, value) in values {
        if let Some(value) = value {
            object.insert(name.to_owned(), value);
        }
    }
    Value::Object(object).to_string()
}

/// The same for a user event, as a client would have sent it: its data keeps a prefix, so that no
/// key of it meets a column.
fn with_event_columns(batch: &Batch, columns: Option<&EventColumns>, data: &str) -> String {
    let Some(object) = object_of(data) else { return data.to_owned() };
    let inner = |(key, value)| (format!("{EVENT_DATA_PREFIX}{key}"), value);
    let mut object: Map<String, Value> = object.into_iter().map(inner).collect();
    if let Some(columns) = columns {
        let text = |slice: &Option<Slice>| slice.as_ref().map(|slice| words(batch, slice));
        let user = uuid::Uuid::from_u128(columns.user_id);
        let values = [
            ("user_id", (!user.is_nil()).then(|| user.to_string())),
            ("session_id", text(&columns.session_id)),
            ("ip_address", columns.ip_address.map(|ip| ip.to_string())),
            ("user_agent", text(&columns.user_agent)),
        ];
        let values = values.into_iter().filter_map(|(name, value)| Some((name, value?)));
        object.extend(values.map(|(name, value)| (name.to_owned(), value.into())));
    }
    Value::Object(object).to_string()
}

fn object_of(text: &str) -> Option<Map<String, Value>> {
    if text.is_empty() { Some(Map::new()) } else { serde_json::from_str(text).ok() }
}

/// A batch of some consecutive rows of another, with the same write timestamps.
pub(super) fn part(batch: &Batch, rows: std::ops::Range<usize>) -> Batch {
    let mut part = Batch::new(batch.partition.clone(), batch.host.clone());
    part.stamp = batch.row_stamp(rows.start);
    for row in batch.rows.get(rows).unwrap_or_default() {
        let message = copy(batch, &row.message, &mut part.text);
        let metadata = copy(batch, &row.metadata, &mut part.text);
        let text = &mut part.text;
        let mut copy = |slice: &Option<Slice>| slice.as_ref().map(|s| copy(batch, s, text));
        if batch.partition.table == Table::Events {
            part.events.extend(batch.event_of(row).map(|columns| EventColumns {
                session_id: copy(&columns.session_id),
                user_agent: copy(&columns.user_agent),
                ..*columns
            }));
        } else {
            part.application.extend(batch.application_of(row).map(|columns| ApplicationColumns {
                logger: copy(&columns.logger),
                session_id: copy(&columns.session_id),
                traceback: copy(&columns.traceback),
                ..*columns
            }));
        }
        // one of them is empty
        let columns = part.application.len() + part.events.len();
        let last = u32::try_from(columns).ok().and_then(|count| count.checked_sub(1));
        part.rows.push(Row { message, metadata, further: row.further.and(last), ..*row });
    }
    part
}

fn copy(batch: &Batch, slice: &Slice, text: &mut Vec<u8>) -> Slice {
    // no longer than the arena that it comes from, whose ends are 32-bit numbers
    let end = |text: &Vec<u8>| u32::try_from(text.len()).unwrap_or(u32::MAX);
    let start = end(text);
    text.extend_from_slice(batch.text(slice));
    start..end(text)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::key::{Partition, RowKey};
    use crate::record::Level;

    fn batch() -> Batch {
        let partition = Partition {
            table: Table::Application,
            day: 0,
            source: "app".into(),
            bucket: 0,
            user: None,
        };
        let mut batch = Batch::new(partition, Arc::from("web1"));
        batch.stamp = 500;
        for number in 0..3_i64 {
            let mut add = |text: &str| {
                let start = u32::try_from(batch.text.len()).unwrap();
                batch.text.extend_from_slice(text.as_bytes());
                start..u32::try_from(batch.text.len()).unwrap()
            };
            let message = add(&format!("message {number}"));
            let metadata = add(if number == 1 { r#"{"path":"/a"}"# } else { "" });
            let logger = add(&format!("logger {number}"));
            batch.application.push(ApplicationColumns {
                logger: Some(logger),
                request_id: Some(1),
                user_id: Some(42),
                duration_ms: Some(1.5),
                ..ApplicationColumns::default()
            });
            batch.rows.push(Row {
                rung: None,
                key: RowKey { timestamp_ms: number, origin: 9, offset_bytes: number },
                level: Level::Error,
                message,
                metadata,
                further: Some(u32::try_from(number).unwrap()),
            });
        }
        batch
    }

    #[test]
    fn a_part_has_the_same_rows_with_the_same_stamps() {
        let whole = batch();
        let part = part(&whole, 1..3);
        assert_eq!(part.rows.len(), 2);
        for (index, row) in part.rows.iter().enumerate() {
            let of = &whole.rows[index + 1];
            assert_eq!((row.key, row.level), (of.key, of.level));
            assert_eq!(part.text(&row.message), whole.text(&of.message));
            assert_eq!(part.text(&row.metadata), whole.text(&of.metadata));
            let columns = &part.application[row.further.unwrap() as usize];
            let logger = part.text(columns.logger.as_ref().unwrap());
            assert_eq!(logger, format!("logger {}", index + 1).as_bytes());
            assert_eq!(part.row_stamp(index), whole.row_stamp(index + 1));
        }
    }

    fn events() -> Batch {
        let mut batch = batch();
        batch.partition.table = Table::Events;
        batch.application.clear();
        let session = batch.rows[0].message.clone();
        for (number, row) in (0_u32..).zip(&mut batch.rows) {
            row.further = Some(number);
            batch.events.push(EventColumns {
                user_id: u128::from(number),
                session_id: Some(session.clone()),
                ip_address: Some(std::net::IpAddr::from([192, 0, 2, 7])),
                user_agent: None,
            });
        }
        batch
    }

    #[test]
    fn a_part_of_events_has_the_same_events() {
        let whole = events();
        let part = part(&whole, 1..3);
        for (row, of) in part.rows.iter().zip(&whole.rows[1..]) {
            let (columns, of) = (part.event_of(row).unwrap(), whole.event_of(of).unwrap());
            assert_eq!((columns.user_id, columns.ip_address), (of.user_id, of.ip_address));
            assert_eq!(part.text(columns.session_id.as_ref().unwrap()), b"message 0");
            assert_eq!(columns.user_agent, None);
        }
    }

    #[test]
    fn a_letter_of_an_event_is_as_a_client_would_send_it() {
        let batch = events();
        let letter = letter_of(&batch, &batch.rows[1], "too large".to_owned(), 77);
        assert_eq!(letter.message, "message 1", "its type");
        let metadata: Value = serde_json::from_str(&letter.metadata).unwrap();
        let wanted = serde_json::json!({
            "event_data.path": "/a", "session_id": "message 0", "ip_address": "192.0.2.7",
            "user_id": "00000000-0000-0000-0000-000000000001",
        });
        assert_eq!(metadata, wanted);
        let nobody = letter_of(&batch, &batch.rows[0], String::new(), 0);
        assert!(!nobody.metadata.contains("user_id"), "{}", nobody.metadata);
    }

    #[test]
    fn a_letter_keeps_every_column() {
        let batch = batch();
        let letter = letter_of(&batch, &batch.rows[1], "too large".to_owned(), 77);
        assert_eq!(
            (&*letter.message, &*letter.level, letter.offset_bytes),
            ("message 1", "ERROR", 1)
        );
        let metadata: Value = serde_json::from_str(&letter.metadata).unwrap();
        let wanted = serde_json::json!({
            "path": "/a", "logger": "logger 1", "user_id": 42, "duration_ms": 1.5,
            "request_id": "00000000-0000-0000-0000-000000000001",
        });
        assert_eq!(metadata, wanted);
        let bare = letter_of(&batch, &batch.rows[0], String::new(), 0);
        assert!(bare.metadata.contains("logger 0"), "{}", bare.metadata);
    }
}
