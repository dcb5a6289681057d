//! Log files, their writers, and what is known of every line: where it stands, and whether it
//! has to arrive.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bitacora::ledger::Encoding;
use jiff::Timestamp;

use super::clock::Clock;
use super::random::Random;

/// What a log's lines look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    Json,
    Syslog,
    Postgresql,
}

/// Whether a line has to arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Exactly once.
    Must,
    /// Exactly once, unless the daemon dies before it is stored: only the daemon has it still.
    Held,
    /// Once or not at all.
    May,
}

/// One line, known by its number.
#[derive(Debug, Clone)]
pub struct Line {
    pub log: usize,
    pub due: Due,
}

/// A line in a file.
#[derive(Debug, Clone, Copy)]
pub struct Placed {
    pub number: usize,
    pub end: u64,
}

/// One inode.
#[derive(Debug)]
pub struct Inode {
    pub log: usize,
    /// Its name; none once it is deleted.
    pub path: Option<PathBuf>,
    pub number: u64,
    pub encoding: Encoding,
    pub lines: Vec<Placed>,
    pub len: u64,
    /// Its name is the log's or a rotated form of it.
    pub visible: bool,
    handle: File,
    /// The rest of a line of which the beginning is written.
    rest: Option<(usize, Vec<u8>)>,
}

/// One followed path.
#[derive(Debug)]
pub struct Log {
    pub path: PathBuf,
    pub style: Style,
    /// The path is a symbolic link to the file.
    pub link: bool,
    /// The file that its writer has open.
    pub writer: usize,
    /// Numbers the targets of the link and dated names.
    targets: u32,
}

/// See the module.
pub struct Disk {
    pub dir: PathBuf,
    pub logs: Vec<Log>,
    pub inodes: Vec<Inode>,
    pub lines: Vec<Line>,
    pub clock: Arc<Clock>,
}

/// Lines that a deletion or a cut takes away: numbers of those that stand nowhere else.
pub type Gone = Vec<Placed>;

impl Disk {
    pub fn new(dir: &Path, clock: Arc<Clock>) -> Self {
        let dir = dir.to_owned();
        Self { dir, logs: Vec::new(), inodes: Vec::new(), lines: Vec::new(), clock }
    }

    pub fn add_log(&mut self, name: &str, style: Style, link: bool) -> usize {
        let path = self.dir.join(name);
        self.logs.push(Log { path, style, link, writer: 0, targets: 0 });
        let log = self.logs.len() - 1;
        let inode = self.create(log);
        self.logs[log].writer = inode;
        log
    }

    /// A new, empty file at the log's path; the old one must be gone from there.
    fn create(&mut self, log: usize) -> usize {
        let path = self.logs[log].path.clone();
        if !self.logs[log].link {
            return self.add_inode(log, &path, Encoding::Plain);
        }
        self.logs[log].targets += 1;
        let target = self.dated(log);
        let inode = self.add_inode(log, &target, Encoding::Plain);
        let _ = fs::remove_file(&path);
        std::os::unix::fs::symlink(&target, &path).unwrap();
        inode
    }

    fn dated(&self, log: usize) -> PathBuf {
        let Log { path, targets, .. } = &self.logs[log];
        PathBuf::from(format!("{}-{}", path.display(), 20_261_100 + targets))
    }

    fn add_inode(&mut self, log: usize, path: &Path, encoding: Encoding) -> usize {
        let handle = OpenOptions::new().read(true).append(true).create(true).open(path).unwrap();
        let number = handle.metadata().unwrap().ino();
        self.inodes.push(Inode {
            log,
            path: Some(path.to_owned()),
            number,
            encoding,
            lines: Vec::new(),
            len: 0,
            visible: true,
            handle,
            rest: None,
        });
        let inode = self.inodes.len() - 1;
        self.touch(inode);
        inode
    }

    /// Files have the time of this world.
    fn touch(&mut self, inode: usize) {
        self.clock.advance(1);
        let ms = u64::try_from(self.clock.wall_ms()).unwrap();
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(ms);
        self.inodes[inode].handle.set_modified(time).unwrap();
    }

    fn line(&mut self, log: usize, random: &mut Random) -> (usize, Vec<u8>) {
        let number = self.lines.len();
        self.lines.push(Line { log, due: Due::Must });
        let now = Timestamp::from_millisecond(self.clock.wall_ms()).unwrap();
        let padding = "x".repeat(random.below(60));
        let took = number * 37 % 3000;
        let text = match self.logs[log].style {
            Style::Json => {
                let level = random.pick(&["INFO", "INFO", "WARNING", "ERROR"]);
                match random.below(8) {
                    0 => format!("{{\"message\":\"<{number}> {padding}\"}}\n"),
                    1 => format!("<{number}> no JSON {padding}\n"),
                    2 => format!(
                        "{{\"timestamp\":\"{now}\",\"level\":\"{level}\",\"message\":\"<{number}>\",\"duration_ms\":{took}}}\n\n"
                    ),
                    _ => format!(
                        "{{\"timestamp\":\"{now}\",\"level\":\"{level}\",\"message\":\"<{number}> {padding}\"}}\n"
                    ),
                }
            }
            Style::Syslog => {
                let time = now.to_zoned(jiff::tz::TimeZone::UTC).strftime("%b %e %H:%M:%S");
                format!("{time} box app[7]: <{number}> {padding}\n")
            }
            Style::Postgresql => {
                let pid = 100 + random.below(3);
                let time = now.to_zoned(jiff::tz::TimeZone::UTC).strftime("%Y-%m-%d %H:%M:%S.%3f");
                let kind = random.below(6);
                match kind {
                    0 => format!("\tgoes on <{number}> {padding}\n"),
                    1 => format!("{time} UTC [{pid}] DETAIL:  <{number}> {padding}\n"),
                    2 => format!("{time} UTC [{pid}] ERROR:  <{number}> {padding}\n"),
                    3 => format!("{time} UTC [{pid}] LOG:  <{number}> {padding}\n"),
                    _ => format!(
                        "{time} UTC [{pid}] LOG:  duration: {took}.5 ms  statement: <{number}> {padding}\n"
                    ),
                }
            }
        };
        (number, text.into_bytes())
    }

    /// The log's writer appends whole lines.
    pub fn append(&mut self, log: usize, count: usize, random: &mut Random) {
        let at = self.logs[log].writer;
        self.complete(at);
        let mut bytes = Vec::new();
        for _ in 0..count {
            let (number, text) = self.line(log, random);
            bytes.extend_from_slice(&text);
            let inode = &mut self.inodes[at];
            let end = inode.len + bytes.len() as u64;
            inode.lines.push(Placed { number, end });
            if inode.path.is_none() {
                // late writes to a file that has no name are the stated limit
                self.lines[number].due = Due::May;
            }
        }
        self.write(at, &bytes);
    }

    fn write(&mut self, at: usize, bytes: &[u8]) {
        let inode = &mut self.inodes[at];
        inode.handle.write_all(bytes).unwrap();
        inode.len += bytes.len() as u64;
        self.touch(at);
    }

    /// The writer gets to the middle of a line.
    pub fn append_part(&mut self, log: usize, random: &mut Random) {
        let at = self.logs[log].writer;
        self.complete(at);
        let (number, text) = self.line(log, random);
        // never within the number
        let head = text.iter().position(|&byte| byte == b'<').unwrap();
        let after = text.iter().position(|&byte| byte == b'>').unwrap() + 1;
        let cut = if random.percent(50) { 1 + random.below(head.max(1)) } else { after };
        let rest = text[cut..].to_vec();
        self.lines[number].due = Due::May;
        self.write(at, &text[..cut]);
        self.inodes[at].rest = Some((number, rest));
    }

    fn complete(&mut self, at: usize) {
        if let Some((number, rest)) = self.inodes[at].rest.take() {
            self.write(at, &rest);
            let inode = &mut self.inodes[at];
            let end = inode.len;
            inode.lines.push(Placed { number, end });
            if inode.path.is_some() {
                self.lines[number].due = Due::Must;
            }
        }
    }

    pub fn complete_all(&mut self) {
        for at in 0..self.inodes.len() {
            if self.logs[self.inodes[at].log].writer == at {
                self.complete(at);
            }
        }
    }

    /// The file at the log's path.
    pub fn current(&self, log: usize) -> Option<usize> {
        let path = fs::canonicalize(&self.logs[log].path).ok()?;
        self.inodes.iter().position(|inode| inode.path.as_deref() == Some(&path))
    }

    /// Files of a log with a rotated name.
    pub fn rotated(&self, log: usize) -> Vec<usize> {
        let current = self.current(log);
        let rotated = |at: &usize| {
            let inode = &self.inodes[*at];
            inode.log == log && inode.path.is_some() && inode.visible && Some(*at) != current
        };
        (0..self.inodes.len()).filter(rotated).collect()
    }

    fn rename(&mut self, at: usize, to: PathBuf) {
        let from = self.inodes[at].path.replace(to.clone()).unwrap();
        rustix::fs::rename(from, to).unwrap();
    }

    /// `access.log.1`, and what stood there goes up by one.
    fn shift(&mut self, log: usize) -> PathBuf {
        let base = self.logs[log].path.display().to_string();
        let ending = |encoding| match encoding {
            Encoding::Plain => "",
            Encoding::Gzip => ".gz",
            Encoding::Zstd => ".zst",
            Encoding::Spool => unreachable!("it is no file"),
        };
        let number_of = |inode: &Inode| -> Option<u32> {
            let name = inode.path.as_ref()?.display().to_string();
            let name = name.strip_suffix(ending(inode.encoding))?.strip_prefix(&base)?.to_owned();
            name.strip_prefix('.')?.parse().ok()
        };
        let mut numbered: Vec<(u32, usize)> = (0..self.inodes.len())
            .filter(|&at| self.inodes[at].log == log && self.inodes[at].visible)
            .filter_map(|at| Some((number_of(&self.inodes[at])?, at)))
            .collect();
        numbered.sort_unstable();
        for (number, at) in numbered.into_iter().rev() {
            let encoding = self.inodes[at].encoding;
            self.rename(at, PathBuf::from(format!("{base}.{}{}", number + 1, ending(encoding))));
        }
        PathBuf::from(format!("{base}.1"))
    }

    /// Rename and create; the writer goes on in the old file until it reopens.
    pub fn rotate(&mut self, log: usize, dated: bool) {
        let Some(at) = self.current(log) else { return };
        if self.logs[log].link {
            self.create(log);
            return;
        }
        let to = if dated {
            self.logs[log].targets += 1;
            self.dated(log)
        } else {
            self.shift(log)
        };
        self.rename(at, to);
        self.create(log);
    }

    /// The writer opens the log's path again.
    pub fn reopen(&mut self, log: usize) {
        if let Some(at) = self.current(log) {
            self.logs[log].writer = at;
        }
    }

    /// Deletes a file and answers what is gone with it.
    pub fn delete(&mut self, at: usize) -> Gone {
        let path = self.inodes[at].path.take().unwrap();
        fs::remove_file(path).unwrap();
        self.gone_from(at, 0)
    }

    /// Delete and create; the writer goes on in the old file until it reopens.
    pub fn replace(&mut self, log: usize) -> Option<(usize, Gone)> {
        let at = self.current(log)?;
        let gone = self.delete(at);
        self.create(log);
        Some((at, gone))
    }

    fn gone_from(&self, at: usize, from: u64) -> Gone {
        let elsewhere = |number: usize| {
            self.inodes.iter().enumerate().any(|(other, inode)| {
                (other != at || inode.path.is_some() && from > 0)
                    && inode.path.is_some()
                    && inode.visible
                    && inode
                        .lines
                        .iter()
                        .any(|line| line.number == number && (other != at || line.end <= from))
            })
        };
        let lines = self.inodes[at].lines.iter().filter(|line| line.end > from);
        lines.filter(|line| !elsewhere(line.number)).copied().collect()
    }

    /// Cuts the log's file back to `len` bytes and answers what is gone with the rest.
    pub fn cut(&mut self, at: usize, len: u64) -> Gone {
        let gone = self.gone_from(at, len);
        let inode = &mut self.inodes[at];
        inode.handle.set_len(len).unwrap();
        inode.lines.retain(|line| line.end <= len);
        inode.len = len;
        inode.rest = None;
        self.touch(at);
        gone
    }

    /// A copy under another name.
    pub fn copy(&mut self, at: usize, to: &Path, visible: bool) -> usize {
        let inode = &self.inodes[at];
        let (log, lines, len) = (inode.log, inode.lines.clone(), inode.len);
        let bytes = self.content(at);
        let copy = self.add_inode(log, to, Encoding::Plain);
        let inode = &mut self.inodes[copy];
        inode.handle.write_all(&bytes).unwrap();
        (inode.lines, inode.len, inode.visible) = (lines, len, visible);
        self.touch(copy);
        copy
    }

    /// A copy as `logrotate` makes it, in the place of the newest rotated file.
    pub fn copy_aside(&mut self, log: usize) -> Option<usize> {
        let at = self.current(log)?;
        let to = self.shift(log);
        Some(self.copy(at, &to, true))
    }

    /// A copy that is none of the log's: `cp access.log access.log.bak`.
    pub fn copy_away(&mut self, log: usize) {
        let to = PathBuf::from(format!("{}.bak", self.logs[log].path.display()));
        if let Some(at) = self.current(log)
            && !to.exists()
        {
            self.copy(at, &to, false);
        }
    }

    /// The first bytes of a file.
    pub fn head(&self, at: usize) -> Vec<u8> {
        let mut head = self.content(at);
        head.truncate(1024);
        head
    }

    fn content(&self, at: usize) -> Vec<u8> {
        let inode = &self.inodes[at];
        let mut bytes = vec![0; usize::try_from(inode.len).unwrap()];
        inode.handle.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    /// Begins to compress a file: what is there of the new one is not whole yet.
    pub fn begin_compress(&mut self, at: usize, encoding: Encoding) -> Compressing {
        let bytes = self.content(at);
        let mtime = self.inodes[at].handle.metadata().unwrap().modified().unwrap();
        let (ending, packed) = if encoding == Encoding::Zstd {
            (".zst", zstd::stream::encode_all(&bytes[..], 1).unwrap())
        } else {
            let level = flate2::Compression::fast();
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
            encoder.write_all(&bytes).unwrap();
            (".gz", encoder.finish().unwrap())
        };
        let plain = self.inodes[at].path.clone().unwrap();
        let to = PathBuf::from(format!("{}{ending}", plain.display()));
        let lines = self.inodes[at].lines.clone();
        let log = self.inodes[at].log;
        let inode = self.add_inode(log, &to, encoding);
        self.inodes[inode].visible = false;
        let half = packed.len() / 2;
        self.inodes[inode].handle.write_all(&packed[..half]).unwrap();
        let rest = packed[half..].to_vec();
        Compressing { plain: at, packed: inode, rest, lines, mtime }
    }

    /// Ends it, and deletes the plain file.
    pub fn end_compress(&mut self, compressing: Compressing) -> (usize, Gone) {
        let Compressing { plain, packed, rest, lines, mtime } = compressing;
        let inode = &mut self.inodes[packed];
        inode.handle.write_all(&rest).unwrap();
        inode.handle.set_modified(mtime).unwrap();
        (inode.lines, inode.visible) = (lines, true);
        (plain, self.delete(plain))
    }
}

/// A compression in progress.
pub struct Compressing {
    plain: usize,
    packed: usize,
    rest: Vec<u8>,
    lines: Vec<Placed>,
    mtime: SystemTime,
}
