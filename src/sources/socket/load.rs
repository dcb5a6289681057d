//! What a session hands to the spool at once: records in their envelopes, by lane.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use super::protocol::{Frame, Nature, nature};
use crate::parse::socket::{Envelope, Sent};
use crate::spool::{BLOCK_BYTES_MAX, Part};

/// Sources that clients may name in all; records of further ones are of `app`.
const SOURCES_MAX: usize = 256;
/// The source of records that name none.
pub const SOURCE: &str = "app";

/// The sources that clients have named in this run.
#[derive(Debug, Default)]
pub struct Sources(Mutex<BTreeSet<Arc<str>>>);

impl Sources {
    fn lane(&self, sent: Sent, source: Option<&str>) -> Arc<str> {
        let source = match (sent, source) {
            (Sent::Event, _) => return "event user_events".into(),
            (Sent::Syslog, _) => return "syslog syslog".into(),
            (Sent::Json, None) => SOURCE,
            (Sent::Json, Some(source)) => source,
        };
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if source == SOURCE || known.contains(source) {
            return format!("json {source}").into();
        }
        if known.len() >= SOURCES_MAX {
            return format!("json {SOURCE}").into();
        }
        known.insert(source.into());
        format!("json {source}").into()
    }
}

/// The kind and the source of a lane's records, by its name.
#[must_use]
pub fn lane(name: &str) -> Option<(Sent, &str)> {
    let (sent, source) = name.split_once(' ')?;
    let sent = match sent {
        "json" => Sent::Json,
        "event" => Sent::Event,
        "syslog" => Sent::Syslog,
        _ => return None,
    };
    Some((sent, source))
}

/// Where a record was put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Added {
    /// The index of its part.
    pub part: usize,
    /// Where it begins there.
    pub offset_bytes: u64,
    /// Why it is not understood.
    pub fault: Option<&'static str>,
}

/// Records that wait to be handed over.
#[derive(Debug, Default)]
pub struct Load {
    parts: Vec<Part>,
    bytes: usize,
    /// How many.
    pub records: u64,
    /// The lane of the last record, as most clients have one.
    last: Option<(Sent, Option<String>, usize)>,
}

impl Load {
    /// Adds a record.
    pub fn add(&mut self, frame: Frame<'_>, envelope: Envelope, sources: &Sources) -> Added {
        let Nature { sent, source, fault } = nature(frame.text);
        let fault = if frame.line_bytes.is_some() { Some("it is too long") } else { fault };
        let known = self.last.as_ref().filter(|(kind, name, _)| *kind == sent && *name == source);
        let at = if let Some(&(_, _, at)) = known {
            at
        } else {
            let lane = sources.lane(sent, source.as_deref());
            let at = self.parts.iter().position(|part| part.lane == lane);
            let at = at.unwrap_or_else(|| {
                self.parts.push(Part { lane, bytes: Vec::new() });
                self.parts.len() - 1
            });
            self.last = Some((sent, source, at));
            at
        };
        let mut before = 0;
        if let Some(part) = self.parts.get_mut(at) {
            before = part.bytes.len();
            Envelope { line_bytes: frame.line_bytes, ..envelope }
                .write(frame.text, &mut part.bytes);
            self.bytes += part.bytes.len() - before;
        }
        self.records += 1;
        Added { part: at, offset_bytes: before as u64, fault }
    }

    /// Whether it is as much as is handed over at once.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.bytes >= BLOCK_BYTES_MAX
    }

    /// Takes all of it.
    pub fn take(&mut self) -> Vec<Part> {
        (self.bytes, self.records, self.last) = (0, 0, None);
        std::mem::take(&mut self.parts)
    }
}
