//! `bitacora parse`: shows what the parsers make of a text, and stores nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::builder::PossibleValuesParser;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Map, Value, json};

use super::exit::Refusal;
use crate::parse::{Clock, Format, Parser};
use crate::record::{Record, Time};
use crate::worker::{FramedRecord, Framer, INTERLEAVED_BYTES_MAX};

/// The default of `max_line`: see bitacora.toml.
const MAX_LINE: usize = 256 << 10;
const CHUNK_BYTES: usize = 64 << 10;

/// The arguments of `bitacora parse`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Prints one JSON object a record, in the order of the file. Lines that the format does not
understand are records too, with \"unparsed\" in their metadata; the exit code is 0 all the same.

Example:
  bitacora parse --format nginx/access --option log_format='$remote_addr \"$request\"' access.log")]
pub struct Args {
    /// Format of the text
    #[arg(long, value_name = "FORMAT", value_parser = formats())]
    pub format: String,
    /// Option of the format; may be given several times
    #[arg(long = "option", value_name = "KEY=VALUE", value_parser = key_and_value)]
    pub options: Vec<(String, String)>,
    /// The time from which dates without a year are read; the current one by default
    #[arg(long, value_name = "RFC3339")]
    pub now: Option<Timestamp>,
    /// Zone of times that name none, such as Europe/Madrid
    #[arg(long, value_name = "TZ", default_value = "local")]
    pub timezone: String,
    /// What to read; - is the standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

fn formats() -> PossibleValuesParser {
    PossibleValuesParser::new(Format::ALL.map(Format::name))
}

fn key_and_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("it must have the form KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

impl Args {
    /// Opens what is to be read.
    ///
    /// # Errors
    ///
    /// The file cannot be opened.
    pub fn open(&self) -> anyhow::Result<Box<dyn Read>> {
        if self.file == Path::new("-") {
            return Ok(Box::new(io::stdin().lock()));
        }
        let file = File::open(&self.file)
            .with_context(|| format!("cannot open {}", self.file.display()))?;
        Ok(Box::new(file))
    }

    fn parser(&self) -> Result<Parser, Refusal> {
        let mut options = BTreeMap::new();
        for (key, value) in &self.options {
            if options.insert(key.clone(), value.clone()).is_some() {
                return Err(Refusal::Usage(format!("option {key} is given twice: give it once")));
            }
        }
        let format = Format::from_name(&self.format)
            .ok_or_else(|| Refusal::Usage(format!("format {} is unknown", self.format)))?;
        Parser::new(format, &options).map_err(|error| Refusal::Usage(error.to_string()))
    }

    fn clock(&self) -> Result<Clock, Refusal> {
        let zone = match self.timezone.as_str() {
            "local" => TimeZone::try_system(),
            name => TimeZone::get(name),
        };
        let zone = zone.map_err(|error| {
            Refusal::Usage(format!(
                "time zone {}: {error}; give --timezone a name such as Europe/Madrid or UTC",
                self.timezone
            ))
        })?;
        let now = self.now.unwrap_or_else(Timestamp::now);
        Ok(Clock::new(zone, now.as_millisecond()))
    }
}

/// Parses `input` to its end. Records are framed as the daemon does it.
///
/// # Errors
///
/// An argument is wrong, or reading or writing failed.
pub fn run(args: &Args, mut input: impl Read, output: impl Write) -> anyhow::Result<ExitCode> {
    let parser = args.parser()?;
    let mut clock = args.clock()?;
    let mut printer = Printer {
        output: BufWriter::new(output),
        waiting: BTreeSet::new(),
        interleaves: parser.format() == Format::Postgresql,
        newest: 0,
        result: Ok(()),
    };
    let mut framer = Framer::new(&parser, MAX_LINE, |framed| {
        let (object, dated) = show(&parser, &mut clock, &framed);
        printer.take(framed.start, object);
        dated
    });
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let read = match input.read(&mut chunk) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", args.file.display()));
            }
        };
        framer.feed(chunk.get(..read).unwrap_or_default());
    }
    framer.finish();
    printer.finish()?;
    Ok(ExitCode::SUCCESS)
}

/// Prints records in the order of their first bytes. They come in the order in which they end.
struct Printer<W: Write> {
    output: BufWriter<W>,
    waiting: BTreeSet<(u64, String)>,
    interleaves: bool,
    newest: u64,
    result: io::Result<()>,
}

impl<W: Write> Printer<W> {
    fn take(&mut self, start: u64, object: String) {
        if self.result.is_err() {
            return;
        }
        if !self.interleaves {
            self.result = writeln!(self.output, "{object}");
            return;
        }
        self.waiting.insert((start, object));
        // A record that lines of others interrupt has ended by this distance.
        self.newest = self.newest.max(start);
        while let Some((first, _)) = self.waiting.first()
            && first.saturating_add(INTERLEAVED_BYTES_MAX) < self.newest
            && let Some((_, object)) = self.waiting.pop_first()
            && self.result.is_ok()
        {
            self.result = writeln!(self.output, "{object}");
        }
    }

    fn finish(mut self) -> io::Result<()> {
        self.result?;
        for (_, object) in self.waiting {
            writeln!(self.output, "{object}")?;
        }
        self.output.flush()
    }
}

/// The JSON object of a record, and whether it has a time.
fn show(parser: &Parser, clock: &mut Clock, framed: &FramedRecord<'_>) -> (String, bool) {
    let text = String::from_utf8_lossy(framed.text);
    let mut record = Record::default();
    if framed.flags.continued {
        record.not_understood(text.as_bytes());
    } else {
        parser.parse(text.as_bytes(), clock, &mut record);
    }
    let time = record.time.filter(|time| time.row_millis().is_some());
    let mut metadata = Map::new();
    for field in &record.fields {
        metadata.insert(string(&field.key), Value::String(string(&field.value)));
    }
    if !record.parsed {
        metadata.insert("unparsed".to_owned(), json!("true"));
    }
    for (key, value) in framed.flags.entries() {
        metadata.insert(key.to_owned(), Value::String(value));
    }
    if std::str::from_utf8(framed.text).is_err() {
        metadata.insert("raw_base64".to_owned(), Value::String(STANDARD.encode(framed.text)));
    }
    let object = json!({
        "timestamp": time.map(rfc3339),
        "level": record.level.name(),
        "message": string(&record.message),
        "metadata": metadata,
        "offset": framed.start,
    });
    (object.to_string(), time.is_some())
}

fn string(text: &[u8]) -> String {
    String::from_utf8_lossy(text).into_owned()
}

/// The time in UTC with the fraction digits of the text.
fn rfc3339(time: Time) -> String {
    let mut text = Timestamp::from_second(time.seconds)
        .map_or_else(|_| String::new(), |second| second.strftime("%Y-%m-%dT%H:%M:%S").to_string());
    if time.digits > 0 {
        let nanos = format!(".{:09}", time.nanos);
        text.push_str(nanos.get(..=usize::from(time.digits)).unwrap_or(&nanos));
    }
    text.push('Z');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn printed(args: &[&str], text: &[u8]) -> Vec<Value> {
        let args = ["parse", "--timezone", "UTC"].iter().chain(args).chain(&["-"]);
        let line = <Line as clap::Parser>::try_parse_from(args).unwrap();
        let mut output = Vec::new();
        run(&line.args, text, &mut output).unwrap();
        let lines = output.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_slice(line).unwrap()).collect()
    }

    fn refused(args: &[&str]) -> String {
        let args = ["parse"].iter().chain(args).chain(&["-"]);
        match <Line as clap::Parser>::try_parse_from(args) {
            Ok(line) => run(&line.args, &b""[..], Vec::new()).unwrap_err().to_string(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_line_that_is_not_understood_or_not_utf8_is_shown_whole() {
        let records = printed(&["--format", "json"], b"{\"msg\":\"pan\"}\r\n\nno \xff\x00\n");
        assert_eq!(records.len(), 2);
        assert_eq!(records[0]["message"], "pan");
        assert_eq!(records[0]["metadata"], json!({}));
        assert_eq!(records[1]["message"], "no \u{fffd}\0");
        assert_eq!(records[1]["timestamp"], Value::Null);
        assert_eq!(records[1]["metadata"], json!({"unparsed": "true", "raw_base64": "bm8g/wA="}));
        assert_eq!(records[1]["offset"], 16);
    }

    #[test]
    fn a_time_has_the_fraction_digits_of_its_text() {
        let text =
            b"{\"ts\":1935655872.3450}\n{\"ts\":1935655872}\n{\"ts\":\"2031-05-04 10:11:12,5\"}\n";
        let records = printed(&["--format", "json"], text);
        let times: Vec<_> = records.iter().map(|record| record["timestamp"].clone()).collect();
        assert_eq!(
            times,
            ["2031-05-04T10:11:12.3450Z", "2031-05-04T10:11:12Z", "2031-05-04T10:11:12.5Z"]
        );
    }

    #[test]
    fn records_come_in_the_order_of_their_first_lines() {
        let mut printer = Printer {
            output: BufWriter::new(Vec::new()),
            waiting: BTreeSet::new(),
            interleaves: true,
            newest: 0,
            result: Ok(()),
        };
        for start in [40, 7, INTERLEAVED_BYTES_MAX + 20] {
            printer.take(start, start.to_string());
        }
        let waiting: Vec<_> = printer.waiting.iter().map(|(start, _)| *start).collect();
        assert_eq!(waiting, [40, INTERLEAVED_BYTES_MAX + 20]);
        assert_eq!(printer.output.buffer(), b"7\n");
    }

    #[test]
    fn wrong_arguments_are_told() {
        for (args, part) in [
            (&["--format", "perl"][..], "nginx/access"),
            (&["--format", "json", "--option", "x"], "KEY=VALUE"),
            (&["--format", "json", "--option", "x=y"], "level_scheme"),
            (&["--format", "json", "--timezone", "Mars"], "Europe/Madrid"),
            (&["--format", "nginx/access", "--option", "log_format=$"], "byte 1"),
            (
                &["--format", "json", "--option", "level_scheme=a", "--option", "level_scheme=b"],
                "twice",
            ),
        ] {
            let message = refused(args);
            assert!(message.contains(part), "{args:?}: {message}");
        }
    }
}
