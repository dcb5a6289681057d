//! What a line becomes: a record with a time, a level, a message and fields.
//!
//! Everything borrows from the line (or from the parser that read it), so that the hot path
//! allocates nothing per line. All text is UTF-8 by construction, kept as bytes so that no
//! slice has to be checked again: lines that are not UTF-8 are converted before they are parsed.

use std::borrow::Cow;
use std::fmt;

/// Text that is valid UTF-8: borrowed from the line where that is possible.
pub type Text<'a> = Cow<'a, [u8]>;

/// How grave a record is. The order is the order of gravity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(u8)]
pub enum Level {
    /// `TRACE`
    Trace,
    /// `DEBUG`
    Debug,
    /// `INFO`, also where the text says nothing.
    #[default]
    Info,
    /// `WARNING`
    Warning,
    /// `ERROR`
    Error,
    /// `CRITICAL`
    Critical,
}

impl Level {
    /// All levels, least grave first.
    pub const ALL: [Self; 6] =
        [Self::Trace, Self::Debug, Self::Info, Self::Warning, Self::Error, Self::Critical];

    /// The word that stands in the column `level`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Trace => "TRACE",
            Self::Debug => "DEBUG",
            Self::Info => "INFO",
            Self::Warning => "WARNING",
            Self::Error => "ERROR",
            Self::Critical => "CRITICAL",
        }
    }

    /// Reads the word of [`Level::name`], in any case.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.name().eq_ignore_ascii_case(name))
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// An instant with as many fraction digits as the text had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    /// Seconds since 1970, UTC.
    pub seconds: i64,
    /// Nanoseconds within the second; digits beyond the ninth are cut.
    pub nanos: u32,
    /// How many fraction digits the text had (0 to 9).
    pub digits: u8,
}

/// 2200-01-01T00:00:00Z in milliseconds: a time from there on is no time.
const END_OF_TIMES_MS: i64 = 7_258_118_400_000;

impl Time {
    /// Milliseconds since 1970, the precision of a row; `None` outside 1970 to 2200.
    #[must_use]
    pub fn row_millis(self) -> Option<i64> {
        let millis =
            self.seconds.checked_mul(1000)?.checked_add(i64::from(self.nanos / 1_000_000))?;
        (0..END_OF_TIMES_MS).contains(&millis).then_some(millis)
    }
}

/// One entry of the metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field<'a> {
    /// The name; unique within its record.
    pub key: Text<'a>,
    /// The value, never empty unless the format says that an empty value counts.
    pub value: Text<'a>,
}

/// One log entry after parsing. Cleared and used again for the next line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record<'a> {
    /// When it happened, if the text says so.
    pub time: Option<Time>,
    /// How grave it is.
    pub level: Level,
    /// What it says.
    pub message: Text<'a>,
    /// Everything else, in the order of the text.
    pub fields: Vec<Field<'a>>,
    /// Whether the format understood the text; if not, the message is all of it.
    pub parsed: bool,
}

impl<'a> Record<'a> {
    /// Empties the record and keeps its memory.
    #[inline]
    pub fn clear(&mut self) {
        self.time = None;
        self.level = Level::Info;
        self.message = Cow::Borrowed(b"");
        self.fields.clear();
        self.parsed = false;
    }

    /// Makes this the record of a text that no parser understands: all of it is the message.
    pub fn not_understood(&mut self, text: &'a [u8]) {
        self.clear();
        self.message = Cow::Borrowed(text);
    }

    /// Adds a field whose key and value are borrowed; an empty value has no key.
    #[inline]
    pub fn push(&mut self, key: &'a [u8], value: &'a [u8]) {
        if !value.is_empty() {
            self.fields.push(Field { key: Cow::Borrowed(key), value: Cow::Borrowed(value) });
        }
    }

    /// Adds a field with text of its own; an empty value has no key.
    #[inline]
    pub fn push_text(&mut self, key: impl Into<Text<'a>>, value: impl Into<Text<'a>>) {
        let value = value.into();
        if !value.is_empty() {
            self.fields.push(Field { key: key.into(), value });
        }
    }

    /// The value under `key`.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.fields.iter().find(|field| &*field.key == key).map(|field| &*field.value)
    }
}
