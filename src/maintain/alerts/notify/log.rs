//! A file that each message is appended to: a line for each of its news, on disk when it is told.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::Duration;

use super::{Message, Notifier, NotifyError};
use crate::durable;
use crate::maintain::alerts::text::time;

/// The notifier.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
}

impl LogFile {
    /// Into this file.
    #[must_use]
    pub const fn new(path: PathBuf) -> Self {
        Self { path }
    }

    fn open(&self) -> io::Result<File> {
        let is_new = !self.path.exists();
        if let Some(dir) = self.path.parent().filter(|_| is_new) {
            durable::create_dir(dir)?;
        }
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o640)
            // a pipe that nobody reads would hold us up
            .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
            .open(&self.path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is no ordinary file"));
        }
        if let Some(dir) = self.path.parent().filter(|_| is_new) {
            durable::sync_dir(dir)?;
        }
        Ok(file)
    }
}

impl Notifier for LogFile {
    fn name(&self) -> &'static str {
        "log"
    }

    fn send(&self, message: &Message, _: Duration) -> Result<(), NotifyError> {
        let written = self.open().and_then(|mut file| {
            file.write_all(lines(message).as_bytes())?;
            file.sync_data()
        });
        written.map_err(|error| {
            NotifyError::Refused(format!("cannot append to {}: {error}", self.path.display()))
        })
    }
}

fn lines(message: &Message) -> String {
    let mut lines = String::new();
    for news in &message.news {
        let (at, host) = (time(message.at_ms), &message.host);
        lines += &format!("{at} {host} {} {}: {}", news.kind.word(), news.name, news.detail);
        for sample in &news.samples {
            lines += " | ";
            lines += sample;
        }
        lines.push('\n');
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::maintain::alerts::finding::Finding;
    use crate::maintain::alerts::notify::{Kind, News};

    const WAIT: Duration = Duration::from_secs(1);

    #[test]
    fn each_news_is_one_line_and_lines_are_added() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/alerts.log");
        let log = LogFile::new(path.clone());
        let finding = Finding::trouble("errors", "two\nlines").showing(["a\nforged line"]);
        let news = News::new(Kind::Trouble, &finding, 0);
        log.send(&Message::new("h", 0, vec![news]), WAIT).unwrap();
        log.send(&Message::test("h", 0, None), WAIT).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert_eq!(
            lines[0],
            "1970-01-01T00:00:00Z h TROUBLE errors: two\\nlines | a\\nforged line"
        );
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    }

    #[test]
    fn a_pipe_is_refused_and_does_not_hold_us_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        let mode = rustix::fs::Mode::RWXU;
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let error = LogFile::new(path).send(&Message::test("h", 0, None), WAIT).unwrap_err();
        assert!(error.to_string().contains("cannot append"), "{error}");
    }
}
