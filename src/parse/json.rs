//! JSON lines of applications.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::{Clock, OptionError, keys, time};
use crate::record::{Level, Record, Text, Time};

pub use scan::{Value, members};

mod scan;

/// The compiled options of the format.
#[derive(Debug)]
pub struct Options {
    scheme: Scheme,
}

/// Whose numbers the levels are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    /// pino's and bunyan's: 10 is TRACE.
    Pino,
    /// Python's `logging`: 10 is DEBUG.
    Python,
}

impl Options {
    /// Compiles the option `level_scheme`.
    ///
    /// # Errors
    ///
    /// The scheme is unknown.
    pub fn new(options: &BTreeMap<String, String>) -> Result<Self, OptionError> {
        let scheme = match options.get("level_scheme").map(String::as_str) {
            None | Some("pino" | "bunyan") => Scheme::Pino,
            Some("python") => Scheme::Python,
            Some(other) => {
                return Err(OptionError {
                    option: "level_scheme".to_owned(),
                    detail: format!("{other:?} is unknown: use \"pino\" or \"python\""),
                });
            }
        };
        Ok(Self { scheme })
    }
}

/// What a member may become besides a field. The number is its rank: the least one present wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    Time(u8),
    Level(u8),
    Message(u8),
    Logger(u8),
    Traceback(u8),
    Other,
}

impl Meaning {
    fn of(key: &[u8]) -> Self {
        match key {
            b"timestamp" => Self::Time(0),
            b"@timestamp" => Self::Time(1),
            b"time" => Self::Time(2),
            b"ts" => Self::Time(3),
            b"datetime" => Self::Time(4),
            b"asctime" => Self::Time(5),
            b"level" => Self::Level(0),
            b"severity" => Self::Level(1),
            b"levelname" => Self::Level(2),
            b"log.level" => Self::Level(3),
            b"lvl" => Self::Level(4),
            b"log_level" => Self::Level(5),
            b"message" => Self::Message(0),
            b"msg" => Self::Message(1),
            b"fields.message" => Self::Message(2),
            b"logger" => Self::Logger(0),
            b"logger_name" => Self::Logger(1),
            b"log.logger" => Self::Logger(2),
            b"name" => Self::Logger(3),
            b"traceback" => Self::Traceback(0),
            b"exc_info" => Self::Traceback(1),
            b"stack_trace" => Self::Traceback(2),
            b"exception" => Self::Traceback(3),
            b"error.stack_trace" => Self::Traceback(4),
            _ => Self::Other,
        }
    }
}

/// A member that is taken out of the object, unless a better one comes.
struct Taken<'a> {
    rank: u8,
    key: Text<'a>,
    value: Text<'a>,
}

/// What is known of a line while its members come.
struct Reader<'a, 'r> {
    record: &'r mut Record<'a>,
    time: Option<Taken<'a>>,
    level: Option<Taken<'a>>,
    message: Option<Taken<'a>>,
    /// Rank and place of the field that will be called `logger`.
    logger: Option<(u8, usize)>,
    traceback: Option<(u8, usize)>,
    /// All but the time stay what they are called.
    event: bool,
}

/// Reads one line; `false` if it is no JSON object.
pub fn parse<'a>(
    text: &'a [u8],
    options: &Options,
    clock: &mut Clock,
    record: &mut Record<'a>,
) -> bool {
    Reader::new(record, false).read(text, options, clock)
}

/// The same for a user event: only its time is taken, and all other members are fields under their
/// own names.
pub fn parse_event<'a>(
    text: &'a [u8],
    options: &Options,
    clock: &mut Clock,
    record: &mut Record<'a>,
) -> bool {
    Reader::new(record, true).read(text, options, clock)
}

impl<'a, 'r> Reader<'a, 'r> {
    fn new(record: &'r mut Record<'a>, event: bool) -> Self {
        let (time, level, message, logger, traceback) = (None, None, None, None, None);
        Self { record, time, level, message, logger, traceback, event }
    }

    fn read(mut self, text: &'a [u8], options: &Options, clock: &mut Clock) -> bool {
        let understood = members(text, |key, value| self.member(key, value));
        if understood {
            self.finish(options, clock);
        }
        understood
    }

    fn member(&mut self, key: Text<'a>, value: Value<'a>) {
        let plain = matches!(value, Value::Text(_) | Value::Number(_));
        let meaning = match Meaning::of(&key) {
            time @ Meaning::Time(_) => time,
            _ if self.event => Meaning::Other,
            meaning => meaning,
        };
        let (rank, place) = match meaning {
            Meaning::Time(rank) => (rank, &mut self.time),
            Meaning::Level(rank) => (rank, &mut self.level),
            Meaning::Message(rank) => (rank, &mut self.message),
            Meaning::Logger(rank) => return self.named(key, value, rank, |it| &mut it.logger),
            // `"exc_info": true` says that there is a traceback; it is none itself.
            Meaning::Traceback(rank) => {
                let rank = if plain || rank == 0 { rank } else { rank + 100 };
                return self.named(key, value, rank, |it| &mut it.traceback);
            }
            Meaning::Other => return self.record.push_text(key, value.into_text()),
        };
        if !plain || place.as_ref().is_some_and(|taken| taken.rank <= rank) {
            return self.record.push_text(key, value.into_text());
        }
        if let Some(worse) = place.replace(Taken { rank, key, value: value.into_text() }) {
            self.record.push_text(worse.key, worse.value);
        }
    }

    /// Adds a field that gets another name if no better one is found.
    fn named(
        &mut self,
        key: Text<'a>,
        value: Value<'a>,
        rank: u8,
        place: impl FnOnce(&mut Self) -> &mut Option<(u8, usize)>,
    ) {
        let at = self.record.fields.len();
        self.record.push_text(key, value.into_text());
        let added = self.record.fields.len() > at;
        let place = place(self);
        if added && place.is_none_or(|(best, _)| rank < best) {
            *place = Some((rank, at));
        }
    }

    fn finish(mut self, options: &Options, clock: &mut Clock) {
        for (place, name) in [(self.logger, &b"logger"[..]), (self.traceback, b"traceback")] {
            let field = place.and_then(|(_, at)| self.record.fields.get_mut(at));
            if let Some(field) = field {
                field.key = Cow::Borrowed(name);
            }
        }
        // What cannot be read stays among the fields: no text is lost.
        if let Some(taken) = self.time.take() {
            self.record.time = read_time(&taken.value, clock);
            if self.record.time.is_none() {
                self.record.push_text(taken.key, taken.value);
            }
        }
        if let Some(taken) = self.level.take() {
            match read_level(&taken.value, options.scheme) {
                Some(level) => self.record.level = level,
                None => self.record.push_text(taken.key, taken.value),
            }
        }
        if let Some(taken) = self.message.take() {
            self.record.message = taken.value;
        }
        keys::number_repeated(&mut self.record.fields);
    }
}

/// ISO 8601, with a zone after a blank too, or a number since 1970.
fn read_time(text: &[u8], clock: &mut Clock) -> Option<Time> {
    let Some((time, rest)) = clock.iso(text) else { return time::epoch(text) };
    if rest.is_empty() {
        return Some(time);
    }
    let zone = rest.strip_prefix(b" ").filter(|zone| !zone.is_empty())?;
    let (civil, rest) = time::date_time(text)?;
    // An offset before the blank would be left here.
    (rest.len() == zone.len() + 1).then(|| clock.instant(&civil, time::Zone::read(zone))).flatten()
}

fn read_level(text: &[u8], scheme: Scheme) -> Option<Level> {
    if text.first().is_some_and(u8::is_ascii_digit) {
        return read_number(text, scheme);
    }
    let mut word = [0; "information".len()];
    let word = word.get_mut(..text.len())?;
    word.copy_from_slice(text);
    word.make_ascii_lowercase();
    Some(match &*word {
        b"trace" => Level::Trace,
        b"debug" => Level::Debug,
        b"info" | b"information" | b"notice" => Level::Info,
        b"warn" | b"warning" => Level::Warning,
        b"error" | b"err" => Level::Error,
        b"fatal" | b"critical" | b"crit" | b"panic" | b"alert" | b"emerg" | b"emergency" => {
            Level::Critical
        }
        _ => return None,
    })
}

/// A number between two tens counts as the lower one.
fn read_number(text: &[u8], scheme: Scheme) -> Option<Level> {
    let whole = text.split(|byte| *byte == b'.').next()?;
    let number = std::str::from_utf8(whole).ok()?.parse::<u32>().ok()? / 10;
    let steps: &[Level] = match scheme {
        Scheme::Pino => &Level::ALL,
        Scheme::Python => Level::ALL.get(1..)?,
    };
    let step = usize::try_from(number.checked_sub(1)?).ok()?;
    Some(steps.get(step).copied().unwrap_or(Level::Critical))
}
