//! Random histories: lines are appended in random pieces, files are rotated, compressed, copied
//! and truncated, the process is killed and started again, the
//! store lags, the configuration changes; at the end each line
//! is there once. A seed that failed repeats with `BITACORA_SEED`.

use super::*;

/// A generator of small numbers that needs nothing but its seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

struct World {
    rig: Rig,
    dice: Dice,
    written: u32,
    /// The writer's current line is not finished.
    half: bool,
    log: Vec<String>,
}

impl World {
    fn append(&mut self) {
        if self.half {
            self.rig.append("a.log", "\n");
            self.half = false;
        }
        let upto = self.written + 1 + u32::try_from(self.dice.roll(200)).unwrap();
        self.rig.append("a.log", text(self.written..upto));
        self.written = upto;
        if self.dice.roll(4) == 0 {
            let piece = line(self.written);
            self.rig.append("a.log", piece.trim_end());
            self.written += 1;
            self.half = true;
        }
    }

    fn shift(&self) {
        for old in (1..12).rev() {
            for ending in ["", ".gz", ".zst"] {
                let (from, to) =
                    (format!("a.log.{old}{ending}"), format!("a.log.{}{ending}", old + 1));
                if self.rig.path(&from).exists() {
                    self.rig.rename(&from, &to);
                }
            }
        }
    }

    fn rotate(&mut self) {
        if !self.rig.path("a.log").exists() {
            return;
        }
        self.shift();
        // the writer ends its line before it closes, or never
        self.half = false;
        if self.dice.roll(3) == 0 {
            self.rig.copytruncate("a.log", "a.log.1");
        } else {
            self.rig.rename("a.log", "a.log.1");
        }
        if self.dice.roll(2) == 0 {
            self.append();
        }
    }

    fn compress(&mut self) {
        let old = 1 + self.dice.roll(4);
        let name = format!("a.log.{old}");
        if self.rig.path(&name).exists() {
            let encoding = if self.dice.roll(2) == 0 { Encoding::Gzip } else { Encoding::Zstd };
            self.rig.compress(&name, encoding);
        }
    }

    fn turn(&mut self) {
        let what = self.dice.roll(17);
        self.log.push(format!("{what} at line {}", self.written));
        match what {
            0..=3 => self.append(),
            4..=7 => {
                self.rig.step();
                let ms = self.dice.roll(3000);
                self.rig.pass(ms);
            }
            8 => self.rig.read(),
            9 | 10 => self.rotate(),
            11 => self.compress(),
            12 => {
                self.rig.kill();
                self.rig.store_works = true;
            }
            13 => self.rig.store_works = self.dice.roll(2) == 0,
            16 => {
                self.rig.sources[0].source = format!("source {}", self.dice.roll(3));
                let sources = self.rig.sources.clone();
                if let Some(tailer) = &mut self.rig.tailer {
                    tailer.reload(&sources).unwrap();
                }
            }
            14 => self.rig.room = 1 + usize::try_from(self.dice.roll(8)).unwrap(),
            _ => {
                // a copy that must not be read
                if self.rig.path("a.log").exists() {
                    let to = self.rig.path("a.log.bak");
                    fs::copy(self.rig.path("a.log"), to).unwrap();
                }
            }
        }
    }
}

fn history(seed: u64) -> Result<(), String> {
    let mut rig = Rig::new(&["a.log"]);
    rig.append("a.log", text(0..1));
    rig.settle();
    let dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let mut world = World { rig, dice, written: 1, half: false, log: Vec::new() };
    for _ in 0..60 {
        world.turn();
    }
    world.rig.store_works = true;
    world.rig.room = 64;
    for _ in 0..3 {
        world.rig.settle();
    }
    if world.half {
        world.rig.append("a.log", "\n");
        world.rig.settle();
    }
    let mut wanted: Vec<String> =
        (0..world.written).map(|number| line(number).trim().to_owned()).collect();
    wanted.sort();
    let lines = world.rig.lines();
    if lines == wanted && world.rig.receipts.is_empty() {
        return Ok(());
    }
    let missing: Vec<_> = wanted.iter().filter(|one| !lines.contains(one)).take(3).collect();
    let twice: Vec<_> =
        lines.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| &pair[0]).take(3).collect();
    Err(format!(
        "seed {seed}: {} of {} lines; missing {missing:?}; twice {twice:?}; receipts {:?}; \
         said {:?}; {:?}\n{:?}",
        lines.len(),
        wanted.len(),
        world.rig.receipts,
        world.rig.said,
        world.rig.happened,
        world.log,
    ))
}

#[test]
fn after_any_history_each_line_is_there_once() {
    if let Some(seed) = std::env::var("BITACORA_SEED").ok().and_then(|seed| seed.parse().ok()) {
        history(seed).unwrap();
        return;
    }
    let runs = std::env::var("BITACORA_RUNS").ok().and_then(|runs| runs.parse().ok());
    for seed in 1..=runs.unwrap_or(1000) {
        history(seed).unwrap();
    }
}
