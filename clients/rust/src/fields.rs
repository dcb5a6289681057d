//! The fields of an event or a span, noted in the calling thread.
//!
//! Values become plain ones that nobody changes any more. Formatting is the application's code, so
//! it may fail or panic here: the record goes on, and says so.

use std::error::Error;
use std::fmt::{self, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};

use tracing::field::{Field, Visit};

/// A text longer than a record may be is cut at once: a queue of them would be memory.
pub(crate) const TEXT_BYTES_MAX: usize = 262_144;
/// Memory of a field besides its text, about.
const FIELD_BYTES: usize = 64;
/// Links of a chain of errors that are kept.
const CHAIN_MAX: usize = 50;

/// A value with its type in JSON.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Bool(bool),
    Signed(i64),
    Unsigned(u64),
    Float(f64),
    /// An integer beyond 64 bits, in digits.
    Digits(String),
    Text(String),
}

impl Value {
    fn bytes(&self) -> usize {
        match self {
            Self::Digits(text) | Self::Text(text) => text.len() + FIELD_BYTES,
            _ => FIELD_BYTES,
        }
    }
}

/// Names and values in the order in which they came; a name that comes again replaces its value.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fields {
    pub(crate) pairs: Vec<(&'static str, Value)>,
    /// Texts that were cut, and how many characters they had.
    pub(crate) cuts: Vec<(&'static str, usize)>,
    /// The last value that could not be formatted.
    pub(crate) fault: Option<String>,
    /// Memory of the values, about.
    pub(crate) bytes: usize,
}

impl Fields {
    pub(crate) fn get(&self, name: &str) -> Option<&Value> {
        self.pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    fn set(&mut self, name: &'static str, value: Value) {
        self.bytes += value.bytes();
        if let Some((_, old)) = self.pairs.iter_mut().find(|(known, _)| *known == name) {
            self.bytes -= old.bytes();
            *old = value;
        } else {
            self.pairs.push((name, value));
        }
    }

    /// Adds what came later: its values replace those of the same names.
    pub(crate) fn take(&mut self, later: Self) {
        for (name, value) in later.pairs {
            self.cuts.retain(|(known, _)| *known != name);
            self.set(name, value);
        }
        self.cuts.extend(later.cuts);
        self.fault = later.fault.or(self.fault.take());
    }

    /// Notes a text that is made by the application's code.
    fn set_text(&mut self, name: &'static str, write: impl FnOnce(&mut Capped) -> fmt::Result) {
        let mut text = Capped::default();
        match catch_unwind(AssertUnwindSafe(|| write(&mut text))) {
            Ok(Ok(())) => {}
            Ok(Err(_)) => self.fault = Some(format!("{name}: its formatting returned an error")),
            Err(_) => self.fault = Some(format!("{name}: its formatting panicked")),
        }
        self.cuts.retain(|(known, _)| *known != name);
        if text.left_out > 0 {
            self.cuts.push((name, text.text.chars().count() + text.left_out));
        }
        self.set(name, Value::Text(text.text));
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.set(field.name(), Value::Float(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field.name(), Value::Signed(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field.name(), Value::Unsigned(value));
    }

    fn record_i128(&mut self, field: &Field, value: i128) {
        let small = i64::try_from(value).map(Value::Signed);
        self.set(field.name(), small.unwrap_or_else(|_| Value::Digits(value.to_string())));
    }

    fn record_u128(&mut self, field: &Field, value: u128) {
        let small = u64::try_from(value).map(Value::Unsigned);
        self.set(field.name(), small.unwrap_or_else(|_| Value::Digits(value.to_string())));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field.name(), Value::Bool(value));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.set_text(field.name(), |text| text.write_str(value));
    }

    fn record_bytes(&mut self, field: &Field, value: &[u8]) {
        let value = value.get(..TEXT_BYTES_MAX).unwrap_or(value);
        self.set_text(field.name(), |text| text.write_str(&String::from_utf8_lossy(value)));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.set_text(field.name(), |text| write_chain(text, value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.set_text(field.name(), |text| write!(text, "{value:?}"));
    }
}

/// `outer: cause: its cause`. Some errors say their cause themselves: it is not said twice.
fn write_chain(text: &mut Capped, error: &(dyn Error + 'static)) -> fmt::Result {
    write!(text, "{error}")?;
    let mut source = error.source();
    for _ in 1..CHAIN_MAX {
        let Some(cause) = source else { break };
        let words = cause.to_string();
        if !text.text.ends_with(&words) {
            write!(text, ": {words}")?;
        }
        source = cause.source();
    }
    Ok(())
}

/// A text that stops growing at [`TEXT_BYTES_MAX`], and counts the characters it leaves out.
#[derive(Default)]
struct Capped {
    text: String,
    left_out: usize,
}

impl fmt::Write for Capped {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        let room = if self.left_out > 0 { 0 } else { TEXT_BYTES_MAX - self.text.len() };
        let (taken, rest) = more.split_at(more.floor_char_boundary(room));
        self.text.push_str(taken);
        if !rest.is_empty() {
            self.left_out += rest.chars().count();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Outer(std::io::Error);

    impl fmt::Display for Outer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("the order was not sent")
        }
    }

    impl Error for Outer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&self.0)
        }
    }

    #[test]
    fn an_error_is_told_with_its_causes() {
        let mut text = Capped::default();
        write_chain(&mut text, &Outer(std::io::Error::other("no route"))).unwrap();
        assert_eq!(text.text, "the order was not sent: no route");
    }

    #[test]
    fn a_long_text_is_cut_at_a_character_and_its_length_is_known() {
        let mut text = Capped::default();
        for _ in 0..3 {
            text.write_str(&"é".repeat(100_000)).unwrap();
        }
        assert_eq!(text.text.len(), TEXT_BYTES_MAX);
        assert_eq!(text.text.chars().count() + text.left_out, 300_000);
    }

    #[test]
    fn a_name_that_comes_again_replaces_its_value_and_memory_is_not_counted_twice() {
        let mut fields = Fields::default();
        fields.set("a", Value::Text("x".repeat(100)));
        fields.set("a", Value::Bool(true));
        assert_eq!(fields.get("a"), Some(&Value::Bool(true)));
        assert_eq!((fields.pairs.len(), fields.bytes), (1, FIELD_BYTES));
    }

    #[test]
    fn a_panic_in_formatting_is_a_fault_of_the_record() {
        let mut fields = Fields::default();
        fields.set_text("a", |_| panic!("by the test"));
        assert_eq!(fields.fault.as_deref(), Some("a: its formatting panicked"));
        assert_eq!(fields.get("a"), Some(&Value::Text(String::new())));
    }
}
