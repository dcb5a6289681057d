//! Seeded lines: the same file on every machine, but for the date.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

/// So many lines share a second.
const LINES_A_SECOND: u64 = 2000;

const PATHS: [&str; 8] = [
    "/catalogue/item",
    "/catalogue/list/season/autumn",
    "/api/v2/basket",
    "/api/v2/session/renew",
    "/static/js/chunk",
    "/static/img/product/large",
    "/search/suggest",
    "/account/orders",
];

const AGENTS: [&str; 5] = [
    "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) Chrome/141.0.0.0 Safari/",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 14_5) Version/18.4 Safari/",
    "Mozilla/5.0 (Linux; Android 15; Pixel 9) Chrome/141.0 Mobile Safari/",
    "Mozilla/5.0 (compatible; crawler/2.1; +https://crawler.example/about) ",
];

/// A small generator (xorshift): good enough to spread values.
pub struct Random(u64);

impl Random {
    /// The same seed gives the same values.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A value below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }

    fn of<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[usize::try_from(self.below(all.len() as u64)).unwrap()]
    }
}

/// Makes nginx combined lines of yesterday.
pub struct Lines {
    random: Random,
    midnight: Timestamp,
    number: u64,
    second: u64,
    time: String,
}

impl Lines {
    /// The lines of this seed.
    pub fn new(seed: u64) -> Self {
        let yesterday = Timestamp::now().to_zoned(TimeZone::UTC).date() - 1.day();
        let midnight = yesterday.to_zoned(TimeZone::UTC).unwrap().timestamp();
        let random = Random::new(seed);
        Self { random, midnight, number: 0, second: u64::MAX, time: String::new() }
    }

    /// Time of a line whose second of the day is this.
    pub fn time(&self, second: u64) -> Timestamp {
        self.midnight + i64::try_from(second).unwrap().seconds()
    }

    /// Appends the next line.
    pub fn next(&mut self, out: &mut impl Write) -> io::Result<()> {
        self.number += 1;
        self.at(self.number / LINES_A_SECOND, out)
    }

    /// Appends a line of this second of the day; about 220 bytes.
    pub fn at(&mut self, second: u64, out: &mut impl Write) -> io::Result<()> {
        if second != self.second {
            self.second = second;
            let time = self.time(second).strftime("%d/%b/%Y:%H:%M:%S +0000");
            self.time = time.to_string();
        }
        let random = &mut self.random;
        let visitor = random.below(20_000);
        let method = if random.below(12) == 0 { "POST" } else { "GET" };
        let status = if random.below(50) == 0 { 404 } else { 200 };
        writeln!(
            out,
            "203.{}.{}.{} - - [{}] \"{method} {}/{}?page={}&sort=price HTTP/1.1\" {status} {} \
             \"https://shop.example/catalogue/list/{}\" \"{}{}.0\"",
            visitor % 3,
            visitor / 250 % 80,
            visitor % 250,
            self.time,
            random.of(&PATHS),
            random.below(50_000),
            random.below(20),
            random.below(90_000),
            random.below(4000),
            random.of(&AGENTS),
            100 + random.below(40),
        )
    }
}

/// Writes a file of so many lines and leaves it in the page cache; its size in bytes.
pub fn write(path: &Path, count: u64, seed: u64) -> u64 {
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path).unwrap());
    let mut lines = Lines::new(seed);
    for _ in 0..count {
        lines.next(&mut out).unwrap();
    }
    out.flush().unwrap();
    // what is dirty now would be written during the measurement
    out.get_ref().sync_all().unwrap();
    out.get_ref().metadata().unwrap().len()
}

/// Reads a file, so that it is in the page cache.
pub fn warm(path: &Path) {
    io::copy(&mut File::open(path).unwrap(), &mut io::sink()).unwrap();
}
