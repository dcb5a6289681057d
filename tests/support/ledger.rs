//! The writer of a log: it numbers its lines, writes them in random pieces, rotates its file in
//! every way that is known, and keeps its own account of what must arrive.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::Rng;
use super::rows::Expected;

/// How its lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    Nginx,
    Syslog,
    Json,
}

impl Style {
    pub const ALL: [Self; 3] = [Self::Nginx, Self::Syslog, Self::Json];

    /// The source (and by default the format) of such lines.
    pub const fn source(self) -> &'static str {
        match self {
            Self::Nginx => "nginx/access",
            Self::Syslog => "syslog",
            Self::Json => "json",
        }
    }

    fn line(self, number: u64, filler: &str) -> String {
        let now = Timestamp::now();
        let zoned = now.to_zoned(TimeZone::UTC);
        match self {
            Self::Nginx => {
                let time = zoned.strftime("%d/%b/%Y:%H:%M:%S +0000");
                format!(
                    "192.0.2.7 - - [{time}] \"GET /ln{number:08}x HTTP/1.1\" 200 512 \"-\" \"probe {filler}\""
                )
            }
            Self::Syslog => {
                let time = zoned.strftime("%Y-%m-%dT%H:%M:%S%.6f+00:00");
                format!("{time} web1 probe[77]: ln{number:08}x {filler}")
            }
            Self::Json => format!(
                "{{\"time\":\"{now:.6}\",\"level\":\"info\",\"message\":\"ln{number:08}x {filler}\"}}"
            ),
        }
    }
}

/// A way in which a file is rotated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotation {
    /// Renamed, and a new one created.
    Rename,
    /// Renamed, while the writer goes on writing to the old name's file for a time.
    RenameLate,
    /// Renamed and compressed.
    Gzip,
    /// Renamed and compressed.
    Zstd,
    /// Copied and cut to nothing.
    CopyTruncate,
    /// Cut to nothing by the application.
    Truncate,
    /// Deleted and created anew; where nobody holds it, ext4 gives the inode out again at once.
    DeleteCreate,
    /// The directory is renamed and made anew.
    DirectorySwap,
    /// The path is a symbolic link, which is pointed to a new file.
    SymlinkSwap,
}

impl Rotation {
    pub const ALL: [Self; 9] = [
        Self::Rename,
        Self::RenameLate,
        Self::Gzip,
        Self::Zstd,
        Self::CopyTruncate,
        Self::Truncate,
        Self::DeleteCreate,
        Self::DirectorySwap,
        Self::SymlinkSwap,
    ];

    /// Whether unread lines are gone where no reader holds the file.
    const fn takes_lines_away(self) -> bool {
        matches!(self, Self::Truncate | Self::DeleteCreate | Self::DirectorySwap)
    }
}

const KEPT_MAX: usize = 30;

/// One log file and its writer.
#[derive(Debug)]
pub struct Ledger {
    pub path: PathBuf,
    pub rng: Rng,
    pub style: Style,
    pub expected: Expected,
    file: File,
    next: u64,
    /// The rest of a line that is written in part.
    half: Option<(u64, Vec<u8>)>,
    /// Lines written since the last time when all was seen in the store.
    unseen: Vec<u64>,
    /// A line of this generation has been seen in the store.
    followed: bool,
    /// A reader holds the file, by the test's own reasoning: what is in it cannot be taken away.
    pub held: bool,
    swaps: u32,
}

impl Ledger {
    /// Creates the file. Numbers begin at `first`.
    pub fn new(path: &Path, style: Style, first: u64, seed: u64) -> Self {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        Self {
            file: append_to(path),
            path: path.to_owned(),
            rng: Rng(seed),
            style,
            expected: Expected::default(),
            next: first,
            half: None,
            unseen: Vec::new(),
            followed: false,
            held: false,
            swaps: 0,
        }
    }

    /// The same behind a symbolic link.
    pub fn behind_link(path: &Path, style: Style, first: u64, seed: u64) -> Self {
        let target = link_target(path, 0);
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        append_to(&target);
        std::os::unix::fs::symlink(&target, path).unwrap();
        Self::new(path, style, first, seed)
    }

    /// For a rotation: behind a link where it needs one.
    pub fn for_rotation(kind: Rotation, path: &Path, style: Style, seed: u64) -> Self {
        match kind {
            Rotation::SymlinkSwap => Self::behind_link(path, style, 1, seed),
            _ => Self::new(path, style, 1, seed),
        }
    }

    /// Writes `lines` lines in random pieces; the last may stay unfinished for now.
    pub fn write(&mut self, lines: u64) {
        let mut bytes = Vec::new();
        let mut whole = Vec::new();
        if let Some((number, rest)) = self.half.take() {
            bytes.extend(rest);
            whole.push(number);
        }
        for _ in 0..lines {
            let number = self.next;
            self.next += 1;
            bytes.extend(self.line(number));
            whole.push(number);
        }
        if self.rng.one_in(3)
            && let Some(last) = whole.pop()
        {
            // The new line at the end is always missing, the token perhaps.
            let keep = usize::try_from(self.rng.range(1, 60)).unwrap().min(bytes.len() - 1);
            self.half = Some((last, bytes.split_off(bytes.len() - keep)));
        }
        self.put(&bytes);
        self.unseen.extend(&whole);
        self.expected.must.extend(whole);
    }

    /// Writes the rest of an unfinished line.
    pub fn finish_line(&mut self) {
        if let Some((number, rest)) = self.half.take() {
            self.put(&rest);
            self.unseen.push(number);
            self.expected.must.insert(number);
        }
    }

    /// Writes bytes of the test's own, which may hold numbers of its own.
    pub fn write_raw(&mut self, bytes: &[u8]) {
        self.finish_line();
        self.file.write_all(bytes).unwrap();
        for number in super::rows::numbers(&String::from_utf8_lossy(bytes)) {
            self.unseen.push(number);
            self.expected.must.insert(number);
        }
    }

    /// A number that no line has yet.
    pub fn take_number(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    /// All that was written has been seen in the store.
    pub fn seen(&mut self) {
        self.followed |= !self.unseen.is_empty();
        self.unseen.clear();
    }

    fn line(&mut self, number: u64) -> Vec<u8> {
        let length = match self.rng.range(0, 99) {
            0 => 20_000,
            1..=9 => 1_000,
            _ => self.rng.range(0, 120),
        };
        let filler: String = (0..length)
            .map(|_| char::from(b'a' + u8::try_from(self.rng.next() % 26).unwrap()))
            .collect();
        let mut line = self.style.line(number, &filler).into_bytes();
        if self.rng.one_in(40) {
            line.push(b'\r');
        }
        line.push(b'\n');
        line
    }

    fn put(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let most = bytes.len().min(8_000) as u64;
            let piece = usize::try_from(self.rng.range(1, most)).unwrap();
            self.file.write_all(&bytes[..piece]).unwrap();
            bytes = &bytes[piece..];
            if self.rng.one_in(12) {
                super::pause_ms(self.rng.range(0, 4));
            }
        }
    }

    /// Rotates the file. What the rotation itself may take away moves from `must` to `may`.
    pub fn rotate(&mut self, kind: Rotation) {
        self.forgive(kind);
        let first = self.numbered(1, "");
        match kind {
            Rotation::Rename => {
                self.end_generation();
                self.shift();
                fs::rename(&self.path, &first).unwrap();
                if self.rng.one_in(3) {
                    super::pause_ms(self.rng.range(0, 40));
                }
                self.reopen();
            }
            Rotation::RenameLate => {
                self.shift();
                fs::rename(&self.path, &first).unwrap();
                let created = self.rng.one_in(2).then(|| append_to(&self.path));
                for _ in 0..self.rng.range(1, 3) {
                    let lines = self.rng.range(1, 8);
                    self.write(lines);
                    super::pause_ms(self.rng.range(0, 30));
                }
                self.finish_line();
                drop(created);
                self.reopen();
            }
            Rotation::Gzip | Rotation::Zstd => {
                self.finish_line();
                self.shift();
                fs::rename(&self.path, &first).unwrap();
                self.reopen();
                compress(&first, kind);
            }
            Rotation::CopyTruncate => {
                self.finish_line();
                self.shift();
                fs::copy(&self.path, &first).unwrap();
                if self.rng.one_in(3) {
                    let before = self.unseen.len();
                    let lines = self.rng.range(1, 4);
                    self.write(lines);
                    self.finish_line();
                    self.lose_since(before);
                }
                self.file.set_len(0).unwrap();
            }
            Rotation::Truncate => {
                self.finish_line();
                self.file.set_len(0).unwrap();
            }
            Rotation::DeleteCreate => {
                self.finish_line();
                fs::remove_file(&self.path).unwrap();
                self.reopen();
            }
            Rotation::DirectorySwap => {
                self.finish_line();
                self.swaps += 1;
                let dir = self.path.parent().unwrap().to_owned();
                fs::rename(&dir, dir.with_extension(format!("old{}", self.swaps))).unwrap();
                fs::create_dir(&dir).unwrap();
                self.reopen();
            }
            Rotation::SymlinkSwap => {
                self.finish_line();
                self.swaps += 1;
                let target = link_target(&self.path, self.swaps);
                self.file = append_to(&target);
                let link = self.path.with_extension("new");
                std::os::unix::fs::symlink(&target, &link).unwrap();
                fs::rename(&link, &self.path).unwrap();
            }
        }
        self.followed = false;
        self.held = false;
    }

    /// What a rotation takes away is no loss of the reader's.
    fn forgive(&mut self, kind: Rotation) {
        // Nobody can follow a link to a file that it pointed to between two looks only.
        let unknowable = kind == Rotation::SymlinkSwap && !self.followed;
        if (kind.takes_lines_away() && !self.held) || unknowable {
            self.lose_since(0);
            if let Some((number, rest)) = self.half.take() {
                self.file.write_all(&rest).unwrap();
                self.expected.may.insert(number);
            }
        }
        if kind == Rotation::Truncate {
            self.lose_since(0);
        }
    }

    fn lose_since(&mut self, index: usize) {
        for number in self.unseen.drain(index..) {
            self.expected.must.remove(&number);
            self.expected.may.insert(number);
        }
    }

    /// A generation ends at a line end, or (a writer that died) without one: then the last line
    /// is final as it stands.
    fn end_generation(&mut self) {
        if self.half.is_some() || !self.rng.one_in(4) {
            self.finish_line();
            return;
        }
        let number = self.next;
        self.next += 1;
        let mut line = self.line(number);
        line.pop();
        self.put(&line);
        self.unseen.push(number);
        self.expected.must.insert(number);
    }

    fn numbered(&self, number: usize, ending: &str) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{number}{ending}"));
        name.into()
    }

    /// `access.log.1` becomes `access.log.2`, and so on, from the oldest on.
    fn shift(&self) {
        for number in (1..KEPT_MAX).rev() {
            for ending in ["", ".gz", ".zst"] {
                let from = self.numbered(number, ending);
                if from.exists() {
                    fs::rename(from, self.numbered(number + 1, ending)).unwrap();
                }
            }
        }
    }

    /// Compresses a generation that was rotated before (logrotate's `delaycompress`).
    pub fn compress_rotated(&self, number: usize, kind: Rotation) {
        compress(&self.numbered(number, ""), kind);
    }

    fn reopen(&mut self) {
        self.file = append_to(&self.path);
    }
}

fn append_to(path: &Path) -> File {
    OpenOptions::new().append(true).create(true).open(path).unwrap()
}

fn link_target(path: &Path, swaps: u32) -> PathBuf {
    let dir = path.parent().unwrap().join("generations");
    dir.join(format!("generation-{swaps}.log"))
}

/// As gzip and zstd do it: the new file grows, takes the old one's time, and the old one goes.
fn compress(plain: &Path, kind: Rotation) {
    let bytes = fs::read(plain).unwrap();
    let modified = fs::metadata(plain).unwrap().modified().unwrap();
    let (ending, packed) = if kind == Rotation::Zstd {
        ("zst", zstd::encode_all(&bytes[..], 3).unwrap())
    } else {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&bytes).unwrap();
        ("gz", encoder.finish().unwrap())
    };
    let mut name = plain.to_owned().into_os_string();
    name.push(format!(".{ending}"));
    let mut file = File::create(&name).unwrap();
    let (head, tail) = packed.split_at(packed.len() / 2);
    file.write_all(head).unwrap();
    super::pause_ms(2);
    file.write_all(tail).unwrap();
    file.set_modified(modified).unwrap();
    drop(file);
    fs::remove_file(plain).unwrap();
}
