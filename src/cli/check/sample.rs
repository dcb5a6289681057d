//! Lets a parser read the end of a file, to see whether it is the right one.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::parse::{Clock, Framing, Parser, Role};
use crate::record::Record;

const LINES_MAX: usize = 100;
const BYTES_MAX: u64 = 256 << 10;

/// How well records were understood.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Sample {
    /// Records read.
    pub records: usize,
    /// Of these, understood.
    pub understood: usize,
    /// The first that was not, shortened.
    pub stranger: Option<String>,
}

impl Sample {
    pub fn add(&mut self, other: Self) {
        self.records += other.records;
        self.understood += other.understood;
        self.stranger = self.stranger.take().or(other.stranger);
    }
}

/// Reads the last lines of a file.
pub(super) fn last_lines(path: &Path, parser: &Parser, clock: &Clock) -> io::Result<Sample> {
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    let start = size.saturating_sub(BYTES_MAX);
    let mut bytes = vec![0; usize::try_from(size - start).unwrap_or(0)];
    // the file may shrink meanwhile: what cannot be read stays away
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, start + filled as u64)? {
            0 => break,
            count => filled += count,
        }
    }
    bytes.truncate(filled);
    Ok(read(&bytes, start > 0, parser, clock))
}

/// Reads the last lines of a text whose first line is perhaps not whole.
fn read(text: &[u8], cut: bool, parser: &Parser, clock: &Clock) -> Sample {
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    let mut lines: Vec<&[u8]> = text.rsplit(|byte| *byte == b'\n').take(LINES_MAX + 1).collect();
    // the file goes on before these lines
    if (cut || lines.len() > LINES_MAX) && lines.len() > 1 {
        lines.pop();
    }
    lines.reverse();
    let mut sample = Sample::default();
    let mut open: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    let mut last_thread = None;
    let mut framing = Framing::default();
    for line in lines {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        match parser.role(line, &mut framing) {
            Role::Begins { thread } => {
                if let Some(record) = open.insert(thread, line.to_vec()) {
                    count(&record, parser, clock, &mut sample);
                }
                last_thread = Some(thread);
            }
            Role::Adds { thread } => {
                join(&mut open, thread, line);
                last_thread = Some(thread);
            }
            Role::Continues => {
                if let Some(thread) = last_thread {
                    join(&mut open, thread, line);
                }
            }
        }
    }
    for record in open.values() {
        count(record, parser, clock, &mut sample);
    }
    sample
}

/// Adds a line to the open record of its thread; without one its beginning is not in the sample.
fn join(open: &mut BTreeMap<u64, Vec<u8>>, thread: u64, line: &[u8]) {
    if let Some(record) = open.get_mut(&thread) {
        record.push(b'\n');
        record.extend_from_slice(line);
    }
}

fn count(text: &[u8], parser: &Parser, clock: &Clock, sample: &mut Sample) {
    let text = String::from_utf8_lossy(text);
    let mut record = Record::default();
    parser.parse(text.as_bytes(), &mut clock.clone(), &mut record);
    sample.records += 1;
    if record.parsed {
        sample.understood += 1;
    } else if sample.stranger.is_none() {
        let line = text.lines().next().unwrap_or_default();
        // what a client wrote into a log must not steer this terminal
        let shown = line.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c });
        sample.stranger = Some(shown.take(120).collect());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use jiff::tz::TimeZone;

    use super::*;
    use crate::parse::Format;

    fn sample(text: &str, cut: bool) -> Sample {
        let parser = Parser::new(Format::Json, &BTreeMap::new()).unwrap();
        read(text.as_bytes(), cut, &parser, &Clock::new(TimeZone::UTC, 0))
    }

    #[test]
    fn at_most_the_last_hundred_lines_are_read() {
        let text: Vec<_> = (0..250).map(|number| format!("line {number}\n")).collect();
        let sample = sample(&text.concat(), false);
        assert_eq!((sample.records, sample.understood), (100, 0));
        assert_eq!(sample.stranger.as_deref(), Some("line 150"));
    }

    #[test]
    fn a_first_line_that_may_be_cut_is_left_out() {
        assert_eq!(sample("half\nwhole\n", true).stranger.as_deref(), Some("whole"));
        assert_eq!(sample("half\nwhole\n", false).records, 2);
        assert_eq!(sample("", false), Sample::default());
    }
}
