//! Writes a parsed record as a row into a batch: message, metadata as JSON, further columns.
//! For user events see [`super::event`].

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use uuid::Uuid;

use super::Flags;
use crate::batch::{ApplicationColumns, Batch, Row, Slice};
use crate::duration::Rung;
use crate::key::{RowKey, Table};
use crate::record::{Field, Record};

/// Appends the row of `record` to `batch`. `raw` is the text before it was converted to UTF-8,
/// where it was not.
pub fn write(
    batch: &mut Batch,
    key: RowKey,
    record: &Record<'_>,
    flags: &Flags,
    raw: Option<&[u8]>,
) {
    if batch.partition.table == Table::Events {
        return super::event::write(batch, key, record, flags, raw);
    }
    let message = append(batch, &record.message);
    let application = (batch.partition.table == Table::Application)
        .then(|| application_columns(batch, &record.fields));
    let metadata_start = batch.text.len();
    let mut object = Object::begin(&mut batch.text);
    for field in &record.fields {
        let taken = application.as_ref().is_some_and(|columns| columns.takes(field));
        if !taken {
            object.entry(&field.key, &field.value);
        }
    }
    object.notes(record, flags, raw);
    object.end();
    let metadata = slice(metadata_start, batch.text.len());
    let further = application.map(|columns| {
        batch.application.push(columns.columns);
        u32::try_from(batch.application.len() - 1).unwrap_or(u32::MAX)
    });
    let rung = rung(batch.partition.table, record);
    batch.rows.push(Row { key, level: record.level, rung, message, metadata, further });
}

/// On which rung the row of a record counts. User events are no log rows, and count on none.
pub(super) fn rung(table: Table, record: &Record<'_>) -> Option<Rung> {
    if table == Table::Events { None } else { Rung::of_fields(&record.fields) }
}

pub(super) fn append(batch: &mut Batch, text: &[u8]) -> Slice {
    let start = batch.text.len();
    batch.text.extend_from_slice(text);
    slice(start, batch.text.len())
}

pub(super) fn slice(start: usize, end: usize) -> Slice {
    // a batch holds little more than 1 MiB, so both fit
    u32::try_from(start).unwrap_or(u32::MAX)..u32::try_from(end).unwrap_or(u32::MAX)
}

/// The columns of `application_logs`, and which fields they used up.
struct Taken {
    columns: ApplicationColumns,
    user_id: bool,
    duration: bool,
    request_id: bool,
}

impl Taken {
    fn takes(&self, field: &Field<'_>) -> bool {
        match &*field.key {
            b"logger" | b"session_id" | b"traceback" => true,
            b"user_id" => self.user_id,
            b"duration_ms" => self.duration,
            b"request_id" => self.request_id,
            _ => false,
        }
    }
}

/// A value of another type than its column's stays in the metadata as text.
fn application_columns(batch: &mut Batch, fields: &[Field<'_>]) -> Taken {
    let mut columns = ApplicationColumns::default();
    let mut taken = Taken {
        columns: ApplicationColumns::default(),
        user_id: false,
        duration: false,
        request_id: false,
    };
    for field in fields {
        match &*field.key {
            b"logger" => columns.logger = Some(append(batch, &field.value)),
            b"session_id" => columns.session_id = Some(append(batch, &field.value)),
            b"traceback" => columns.traceback = Some(append(batch, &field.value)),
            b"user_id" => {
                columns.user_id = text(&field.value).and_then(|value| value.parse().ok());
                taken.user_id = columns.user_id.is_some();
            }
            b"duration_ms" => {
                columns.duration_ms = text(&field.value)
                    .and_then(|value| value.parse().ok())
                    .filter(|value: &f64| value.is_finite());
                taken.duration = columns.duration_ms.is_some();
            }
            b"request_id" => {
                let (id, exact) = id_uuid(&field.value);
                columns.request_id = Some(id.as_u128());
                taken.request_id = exact;
            }
            _ => {}
        }
    }
    taken.columns = columns;
    taken
}

pub(super) fn text(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(value).ok()
}

/// The uuid of the id of a request or a user, and whether the id is one in its canonical form. An
/// id of another shape becomes a name-based uuid (version 5, namespace OID), and its text stays in the metadata.
#[must_use]
pub fn id_uuid(id: &[u8]) -> (Uuid, bool) {
    match text(id).and_then(|id| Uuid::try_parse(id).ok()) {
        Some(uuid) => (uuid, uuid.hyphenated().to_string().as_bytes() == id),
        None => (Uuid::new_v5(&Uuid::NAMESPACE_OID, id), false),
    }
}

/// A flat JSON object of strings, written straight into an arena.
pub struct Object<'a> {
    out: &'a mut Vec<u8>,
    first: bool,
}

impl<'a> Object<'a> {
    /// Opens the object.
    pub fn begin(out: &'a mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, first: true }
    }

    /// Adds an entry.
    pub fn entry(&mut self, key: &[u8], value: &[u8]) {
        if self.first {
            self.first = false;
            self.out.push(b'"');
        } else {
            self.out.extend_from_slice(b",\"");
        }
        escape(self.out, key);
        self.out.extend_from_slice(b"\":\"");
        escape(self.out, value);
        self.out.push(b'"');
    }

    /// Adds what is known of the text besides the record's own words.
    pub(super) fn notes(&mut self, record: &Record<'_>, flags: &Flags, raw: Option<&[u8]>) {
        if !record.parsed {
            self.entry(b"unparsed", b"true");
        }
        flags.write(self);
        if let Some(raw) = raw {
            self.entry(b"raw_base64", STANDARD.encode(raw).as_bytes());
        }
    }

    /// Closes it; an object without entries leaves no text, as the column is then unset.
    pub fn end(self) {
        if self.first {
            self.out.pop();
        } else {
            self.out.push(b'}');
        }
    }
}

/// Whether a JSON string may hold these eight bytes as they are: none is a control byte, a quote
/// or a backslash. Bit tricks, as a look at each byte costs more than the copy that follows.
const fn plain_word(word: u64) -> bool {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    // a byte that is 0 after the exclusive or borrows from above, which sets its high bit
    const fn any_zero(word: u64) -> u64 {
        word.wrapping_sub(ONES) & !word & HIGHS
    }
    let control = word.wrapping_sub(ONES * 0x20) & !word & HIGHS;
    let quote = any_zero(word ^ (ONES * b'"' as u64));
    let backslash = any_zero(word ^ (ONES * b'\\' as u64));
    control | quote | backslash == 0
}

/// Words overlap at the end, so that there is no rest to be looked at byte by byte.
#[inline]
fn is_plain(text: &[u8]) -> bool {
    if let Some(last) = text.last_chunk::<8>() {
        let (words, _) = text.as_chunks::<8>();
        return words.iter().all(|word| plain_word(u64::from_le_bytes(*word)))
            && plain_word(u64::from_le_bytes(*last));
    }
    if let (Some(first), Some(last)) = (text.first_chunk::<4>(), text.last_chunk::<4>()) {
        let (first, last) = (u32::from_le_bytes(*first), u32::from_le_bytes(*last));
        return plain_word(u64::from(first) << 32 | u64::from(last));
    }
    text.iter().all(|&byte| byte >= 0x20 && byte != b'"' && byte != b'\\')
}

/// Appends UTF-8 text as the inside of a JSON string (RFC 8259, section 7).
#[inline]
fn escape(out: &mut Vec<u8>, text: &[u8]) {
    if is_plain(text) {
        out.extend_from_slice(text);
    } else {
        escape_bytes(out, text);
    }
}

#[cold]
fn escape_bytes(out: &mut Vec<u8>, text: &[u8]) {
    for &byte in text {
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0x00..0x20 => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                out.extend_from_slice(b"\\u00");
                out.extend(
                    [byte >> 4, byte & 15]
                        .map(|digit| HEX.get(usize::from(digit)).copied().unwrap_or(b'0')),
                );
            }
            _ => out.push(byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_object_without_entries_is_no_text() {
        let mut out = Vec::new();
        Object::begin(&mut out).end();
        assert!(out.is_empty());
    }

    #[test]
    fn a_byte_that_needs_an_escape_is_seen_at_every_place() {
        for length in 1..20 {
            assert!(is_plain(&vec![0x7f; length]) && is_plain(&vec![0xff; length]));
            for at in 0..length {
                for byte in (0..0x20).chain([b'"', b'\\']) {
                    let mut text = vec![b'a'; length];
                    text[at] = byte;
                    assert!(!is_plain(&text), "{byte} at {at} of {length}");
                }
            }
        }
    }

    #[test]
    fn a_request_id_of_another_shape_becomes_a_name_based_uuid() {
        let (uuid, exact) = id_uuid(b"r-7");
        assert!(!exact);
        assert_eq!(uuid, id_uuid(b"r-7").0);
        let canonical = "0b0d7a0e-5a51-4c4b-9d0a-0123456789ab";
        let (uuid, exact) = id_uuid(canonical.as_bytes());
        assert!(exact);
        assert_eq!(uuid.to_string(), canonical);
        assert!(!id_uuid(b"0B0D7A0E5A514C4B9D0A0123456789AB").1, "its text is kept");
    }

    proptest! {
        #[test]
        fn metadata_is_json_that_reads_back_as_it_was(
            entries in proptest::collection::btree_map(".{0,20}", "(?s).{0,40}", 1..6)
        ) {
            let mut out = Vec::new();
            let mut object = Object::begin(&mut out);
            for (key, value) in &entries {
                object.entry(key.as_bytes(), value.as_bytes());
            }
            object.end();
            let back: std::collections::BTreeMap<String, String> =
                serde_json::from_slice(&out).unwrap();
            prop_assert_eq!(back, entries);
        }
    }
}
