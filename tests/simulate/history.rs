//! One history: what happens to the files, the store and the daemon, as a seed says.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use bitacora::key::Table;
use bitacora::ledger::{Encoding, OriginId};
use bitacora::sources::file::examine::head_hash;
use bitacora::sources::file::{KnownOrigin, REACH_BYTES_MAX, TailState};
use bitacora::state::{Post, State};

use super::clock::Clock;
use super::daemon::{Boundaries, Broken, Daemon, Ground, Killed, look};
use super::disk::{Disk, Due, Gone, Placed, Style};
use super::random::Random;
use super::sources::{numbers_in, source_of};
use super::store::Memory;

/// Lines that are gone, and whether the daemon has to say so if they do not arrive.
#[derive(Debug)]
pub struct Loss {
    pub log: usize,
    /// The origins of the file, when they went.
    pub origins: Vec<OriginId>,
    pub lines: Vec<Placed>,
    /// So far the daemon knows of the file: lines up to there need a receipt.
    pub known: u64,
}

/// See the module.
pub struct History {
    pub random: Random,
    pub disk: Disk,
    pub ground: Ground,
    pub daemon: Option<Daemon>,
    pub losses: Vec<Loss>,
    seed: u64,
    lost_power: bool,
    lost_state: bool,
    /// It is told on stderr.
    talks: bool,
}

const STARTS_MS: [i64; 3] = [
    1_795_341_600_000, // 2026-11-22T10:00:00Z
    1_798_750_800_000, // 2026-12-31T21:00:00Z
    1_772_323_000_000, // 2026-02-28T23:56:40Z
];

impl History {
    pub fn new(seed: u64, dir: PathBuf, broken: Broken) -> Self {
        let mut random = Random::new(seed);
        let clock = Arc::new(Clock::new(*random.pick(&STARTS_MS)));
        let logs = dir.join("logs");
        fs::create_dir_all(&logs).unwrap();
        let machine_id = dir.join("machine-id");
        fs::write(&machine_id, "first\n").unwrap();
        let mut disk = Disk::new(&logs, Arc::clone(&clock));
        let count = 1 + random.below(2);
        let mut sources = Vec::new();
        for index in 0..count {
            let style = *random.pick(&[Style::Json, Style::Syslog, Style::Postgresql]);
            let name = format!("{}.log", ["access", "error"][index]);
            let link = random.percent(15);
            sources.push(source_of(&logs, &name, style, random.percent(40)));
            disk.add_log(&name, style, link);
        }
        let store = Arc::new(Memory::new(random.next(), random.percent(50)));
        let ground = Ground {
            state_dir: dir.join("state"),
            machine_id,
            clock,
            store,
            boundaries: Arc::new(Boundaries::new()),
            ids: Arc::new(AtomicI64::new(1)),
            keys: Arc::new(AtomicI64::new(0)),
            sources,
            broken,
            talks: false,
        };
        Self {
            random,
            disk,
            ground,
            daemon: None,
            losses: Vec::new(),
            seed,
            lost_power: false,
            lost_state: false,
            talks: false,
        }
    }

    pub fn talk(&mut self) {
        self.talks = true;
        self.ground.talks = true;
    }

    /// How many actions it has.
    pub fn actions(seed: u64) -> usize {
        20 + Random::new(seed ^ 0xac71_0125).below(41)
    }

    /// All of it but some actions, up to a quiet end.
    pub fn run(&mut self, without: &HashSet<usize>) {
        self.start();
        for action in (0..Self::actions(self.seed)).filter(|action| !without.contains(action)) {
            // an action's choices depend on no other action, so that one can be left out
            self.random = Random::new(self.seed ^ ((action as u64 + 1) << 40));
            let quick = self.random.below(12);
            let steps = if self.random.percent(70) { quick } else { 3 * quick };
            self.live(steps);
            self.act();
            super::retention::play(self, self.seed, action);
        }
        self.settle();
    }

    fn say(&self, what: String) {
        if self.talks {
            eprintln!("  {} {what}", self.ground.clock.wall_ms());
        }
    }

    /// The daemon moves on by so many steps, or until it dies.
    fn live(&mut self, steps: usize) {
        for _ in 0..steps {
            let ms = if self.random.percent(10) { 1200 } else { self.random.next() % 60 };
            self.ground.clock.advance(ms);
            if self.daemon.is_none() {
                if self.random.percent(5) {
                    self.ground.store.late_write();
                }
                continue;
            }
            let random = &mut self.random;
            let daemon = self.daemon.as_mut().unwrap();
            let moved = catch_unwind(AssertUnwindSafe(|| daemon.move_on(random)));
            self.survives(moved);
        }
    }

    fn survives(&mut self, moved: std::thread::Result<()>) {
        if let Err(reason) = moved {
            if reason.is::<Killed>() {
                self.die("is killed at a boundary");
            } else {
                resume_unwind(reason);
            }
        }
    }

    fn die(&mut self, how: &str) {
        self.say(format!("the daemon {how}"));
        self.ground.boundaries.never_kill();
        self.ground.boundaries.refuse(false);
        self.daemon = None;
        self.let_go();
    }

    /// The daemon is down: what only it had is gone, and it knows what its state says.
    fn let_go(&mut self) {
        for line in self.disk.lines.iter_mut().filter(|line| line.due == Due::Held) {
            line.due = Due::May;
        }
        let unsaid = self.unsaid();
        let known = self.reaches();
        for loss in &mut self.losses {
            if unsaid.contains(&loss.log) {
                let reaches = loss.origins.iter().filter_map(|id| known.get(id));
                loss.known = loss.known.min(reaches.max().copied().unwrap_or(0));
            }
        }
    }

    /// Logs without a receipt.
    fn unsaid(&self) -> HashSet<usize> {
        let mut said: HashSet<PathBuf> =
            self.ground.store.all_receipts().into_iter().map(|one| one.path).collect();
        if let Some(state) = look(&self.ground.state_dir) {
            for post in state.outbox().unwrap() {
                if let Post::Receipt(receipt) = post {
                    said.insert(receipt.path);
                }
            }
        }
        (0..self.disk.logs.len()).filter(|&log| !said.contains(&self.disk.logs[log].path)).collect()
    }

    fn origins(&self) -> Vec<KnownOrigin> {
        match &self.daemon {
            Some(daemon) => TailState::origins(&*daemon.state).unwrap(),
            None => look(&self.ground.state_dir)
                .map(|state: State| TailState::origins(&state).unwrap())
                .unwrap_or_default(),
        }
    }

    /// How far each origin is committed.
    fn ends(&self) -> HashMap<OriginId, u64> {
        let mut ends: HashMap<OriginId, u64> = HashMap::new();
        self.ground.store.each_span(|span| {
            let end = ends.entry(span.origin).or_default();
            *end = span.end_bytes.max(*end);
        });
        ends
    }

    /// How far the state knows that origins were handed out, where that is more than is in spans.
    fn reaches(&self) -> HashMap<OriginId, u64> {
        let ends = self.ends();
        let more = |origin: &KnownOrigin| {
            let end = ends.get(&origin.record.id).copied().unwrap_or(0);
            let guess = end.max(origin.record.first_offset) + REACH_BYTES_MAX;
            !origin.finished
                && origin.reach > end.max(origin.record.first_offset)
                // a state that was lost has lost its reaches
                && origin.reach < guess
        };
        let known = self.origins().into_iter().filter(more);
        known.map(|one| (one.record.id, one.reach)).collect()
    }

    pub fn stored_lines(&self) -> HashSet<usize> {
        let mut stored = HashSet::new();
        self.ground.store.each_row(|_, cell| {
            stored.extend(numbers_in(&cell.message));
            stored.extend(numbers_in(&cell.metadata));
        });
        stored
    }

    fn start(&mut self) {
        if self.daemon.is_none() {
            self.say("the daemon starts".to_owned());
            self.daemon = Some(Daemon::start(&self.ground));
        }
    }

    fn stop(&mut self) {
        let Some(daemon) = self.daemon.take() else { return };
        self.say("the daemon stops".to_owned());
        self.ground.boundaries.refuse(false);
        let random = &mut self.random;
        let stopped = catch_unwind(AssertUnwindSafe(|| daemon.stop(random)));
        self.survives(stopped);
        self.let_go();
    }

    /// Lines are gone from a file. `len` bytes of it are left, or it is deleted.
    fn gone(&mut self, at: usize, gone: Gone, head: &[u8], cut: bool) {
        let inode = self.disk.inodes[at].number;
        let ids: Vec<OriginId> = self
            .origins()
            .iter()
            .filter(|one| one.record.kernel.inode == inode)
            // what the file held before an earlier truncation is another matter
            .filter(|one| {
                let length = usize::try_from(one.record.head_bytes).unwrap();
                head.get(..length).is_some_and(|head| head_hash(head) == one.record.head_hash)
            })
            .map(|one| one.record.id)
            .collect();
        let log = self.disk.inodes[at].log;
        let mut loss = Loss { log, origins: ids.clone(), lines: Vec::new(), known: 0 };
        let status = self.daemon.as_ref().and_then(|daemon| {
            let of = |one: &bitacora::sources::file::FileStatus| {
                one.origin.is_some_and(|id| ids.contains(&id))
            };
            daemon.status().into_iter().find(of)
        });
        let known = self.reaches();
        // rows past the last span may be written again, with fewer lines if these are gone
        let committed = ids.iter().max().and_then(|id| self.ends().get(id).copied()).unwrap_or(0);
        let grows = self.disk.logs[loss.log].style == Style::Postgresql;
        let stored = self.stored_lines();
        let safe = |one: &Placed| stored.contains(&one.number) && (one.end <= committed || !grows);
        for placed in gone.into_iter().filter(|one| !safe(one)) {
            let line = &mut self.disk.lines[placed.number];
            loss.lines.push(placed);
            line.due = match &status {
                Some(status) if status.open && !cut || placed.end <= status.read => Due::Held,
                _ => Due::May,
            };
        }
        loss.known = match &status {
            Some(status) => status.size,
            None if self.daemon.is_none() => {
                ids.iter().filter_map(|id| known.get(id)).max().copied().unwrap_or(0)
            }
            None => 0,
        };
        if !loss.lines.is_empty() {
            self.losses.push(loss);
        }
    }

    /// The store knows an origin of this machine for each log, so that what is beside the log
    /// is not there for the first time.
    fn is_known(&self, log: usize) -> bool {
        let machine = fs::read_to_string(&self.ground.machine_id).unwrap();
        let path = &self.disk.logs[log].path;
        let records = self.ground.store.records();
        records.iter().any(|one| one.machine == machine.trim() && one.path == *path)
    }

    fn act(&mut self) {
        let log = self.random.below(self.disk.logs.len());
        const APPEND: usize = 0;
        let mut action = self
            .random
            .weighted(&[60, 10, 24, 10, 9, 5, 6, 0, 12, 6, 6, 5, 8, 3, 3, 8, 4, 12, 6, 14, 3]);
        let needs_known = (2..=11).contains(&action) && !self.is_known(log);
        if needs_known {
            action = APPEND;
        }
        match action {
            0 => self.append(log),
            1 => {
                self.disk.append_part(log, &mut self.random);
                self.say(format!("log {log}: half a line"));
            }
            2 => self.rotate(log),
            3 => self.compress(log),
            4 => self.copytruncate(log),
            5 => self.truncate(log),
            6 => self.replace(log),
            8 => {
                self.disk.reopen(log);
                self.say(format!("log {log}: its writer reopens"));
            }
            9 => {
                self.disk.copy_away(log);
                self.say(format!("log {log}: cp to .bak"));
            }
            10 => self.delete_rotated(log),
            11 => self.power_cut(log),
            12 => self.configure(),
            13 => self.lose_state(),
            14 => self.clone_machine(),
            15 => {
                let percent = *self.random.pick(&[0, 20, 50, 90]);
                self.ground.store.set_faults(percent);
                self.say(format!("{percent} % of all writes fail"));
            }
            16 => self.pass_time(),
            17 if self.daemon.is_some() => self.die("is killed"),
            18 => self.stop(),
            20 if self.daemon.is_some() => {
                let refuses = !self.ground.boundaries.refuses();
                self.ground.boundaries.refuse(refuses);
                self.say(format!("the state refuses: {refuses}"));
            }
            _ if self.daemon.is_some() => {
                let count = 1 + self.random.below(20);
                self.ground.boundaries.kill_at(i64::try_from(count).unwrap());
                self.say(format!("to be killed at boundary {count}"));
            }
            _ => self.start(),
        }
    }

    fn append(&mut self, log: usize) {
        let count = if self.random.percent(4) { 150 } else { 1 + self.random.below(7) };
        let first = self.disk.lines.len();
        self.disk.append(log, count, &mut self.random);
        self.say(format!("log {log}: {count} lines from {first}"));
    }

    fn rotate(&mut self, log: usize) {
        let times = if self.random.percent(20) { 3 } else { 1 };
        for _ in 0..times {
            let dated = self.random.percent(25);
            self.disk.rotate(log, dated);
            self.say(format!("log {log}: rotated (dated: {dated})"));
            if self.random.percent(60) || times > 1 {
                self.disk.reopen(log);
                self.append(log);
            }
        }
    }

    fn compress(&mut self, log: usize) {
        let mut plain = self.disk.rotated(log);
        plain.retain(|&at| {
            let inode = &self.disk.inodes[at];
            inode.encoding == Encoding::Plain && inode.len > 0 && self.disk.logs[log].writer != at
        });
        if plain.is_empty() {
            return;
        }
        let at = *self.random.pick(&plain);
        let encoding = *self.random.pick(&[Encoding::Gzip, Encoding::Zstd]);
        let compressing = self.disk.begin_compress(at, encoding);
        let steps = self.random.below(10);
        self.live(steps);
        let head = self.disk.head(at);
        let (plain, gone) = self.disk.end_compress(compressing);
        self.say(format!("log {log}: a rotated file is compressed, {} gone", gone.len()));
        self.gone(plain, gone, &head, false);
    }

    fn copytruncate(&mut self, log: usize) {
        if self.disk.current(log).is_none() || self.disk.copy_aside(log).is_none() {
            return;
        }
        let steps = self.random.below(4);
        self.live(steps);
        if self.random.percent(30) {
            self.append(log);
        }
        self.say(format!("log {log}: copied, and now"));
        self.truncate(log);
    }

    fn truncate(&mut self, log: usize) {
        let Some(at) = self.disk.current(log) else { return };
        let before = self.disk.inodes[at].len;
        let head = self.disk.head(at);
        let gone = self.disk.cut(at, 0);
        self.say(format!("log {log}: truncated at {before}, {} lines gone", gone.len()));
        self.gone(at, gone, &head, true);
        if self.random.percent(40) {
            self.append(log);
        }
    }

    fn replace(&mut self, log: usize) {
        if self.disk.logs[log].link {
            return;
        }
        if let Some((at, gone)) = self.disk.replace(log) {
            self.say(format!("log {log}: deleted and created, {} lines gone", gone.len()));
            let head = self.disk.head(at);
            self.gone(at, gone, &head, false);
        }
        if self.random.percent(70) {
            self.disk.reopen(log);
        }
    }

    fn delete_rotated(&mut self, log: usize) {
        let rotated = self.disk.rotated(log);
        if rotated.is_empty() {
            return;
        }
        let at = *self.random.pick(&rotated);
        let head = self.disk.head(at);
        let gone = self.disk.delete(at);
        self.say(format!("log {log}: a rotated file is deleted, {} lines gone", gone.len()));
        self.gone(at, gone, &head, false);
    }

    /// The machine loses power; the store and the state have more of a file than the disk.
    fn power_cut(&mut self, log: usize) {
        let Some(at) = self.disk.current(log).filter(|_| !self.lost_state) else { return };
        if self.daemon.is_some() {
            self.die("loses power");
        }
        self.lost_power = true;
        let inode = &self.disk.inodes[at];
        let ids: HashSet<OriginId> = self
            .ground
            .store
            .records()
            .iter()
            .filter(|one| one.kernel.inode == inode.number)
            .map(|one| one.id)
            .collect();
        let mut positions: Vec<u64> = Vec::new();
        let mut last: Option<(OriginId, u64, Vec<u64>)> = None;
        self.ground.store.each_span(|span| {
            let newer = last
                .as_ref()
                .is_none_or(|(id, start, _)| (span.origin, span.start_bytes) > (*id, *start));
            if ids.contains(&span.origin) && newer {
                let markers = span.markers.iter().map(|one| one.position);
                let all = markers.chain([span.end_bytes]).collect();
                last = Some((span.origin, span.start_bytes, all));
            }
        });
        // what was on its way to the store arrives before the machine is up again
        self.ground.store.late_writes();
        if let Some((.., all)) = last {
            positions.extend(all.into_iter().filter(|position| *position <= inode.len));
        }
        if positions.is_empty() {
            return;
        }
        let from = *self.random.pick(&positions);
        let ends: Vec<u64> =
            inode.lines.iter().map(|line| line.end).filter(|end| *end >= from).collect();
        if ends.is_empty() {
            return;
        }
        let len = *self.random.pick(&ends);
        let gone = self.disk.cut(at, len);
        for placed in &gone {
            self.disk.lines[placed.number].due = Due::May;
        }
        self.say(format!("log {log}: cut back to {len}, {} lines gone", gone.len()));
        if self.random.percent(50) {
            self.append(log);
        }
    }

    fn configure(&mut self) {
        let index = self.random.below(self.ground.sources.len());
        let source = &mut self.ground.sources[index];
        match self.random.below(3) {
            0 => {
                let zones = ["UTC", "Europe/Madrid", "America/New_York"];
                (*self.random.pick(&zones)).clone_into(&mut source.timezone);
            }
            1 => source.source = format!("source-{}", self.random.below(3)),
            _ => {
                source.table = *self.random.pick(&[Table::Infrastructure, Table::Application]);
            }
        }
        let said =
            format!("source {index}: {} {} {:?}", source.source, source.timezone, source.table);
        self.say(said);
        if let Some(daemon) = &mut self.daemon {
            daemon.reload(&self.ground.sources);
        }
    }

    fn lose_state(&mut self) {
        let logs = 0..self.disk.logs.len();
        let known = logs.into_iter().all(|log| self.is_known(log));
        // open faults: what the store was not told of is lost with the state, and so is the
        // marker at the reach, by which a file is known that a power cut has cut back
        let records = self.ground.store.records();
        let told = |one: &KnownOrigin| records.iter().any(|record| record.id == one.record.id);
        let told = self.origins().iter().all(told);
        if self.daemon.is_some() || !known || !told || self.lost_power {
            return;
        }
        self.lost_state = true;
        let _ = fs::remove_dir_all(&self.ground.state_dir);
        for loss in &mut self.losses {
            loss.known = 0;
        }
        self.say("the state is lost".to_owned());
    }

    fn clone_machine(&mut self) {
        if self.daemon.is_some() || !self.ground.state_dir.exists() {
            return;
        }
        let name = format!("machine-{}", self.random.below(1000));
        fs::write(&self.ground.machine_id, &name).unwrap();
        self.say(format!("the machine is {name}"));
    }

    fn pass_time(&mut self) {
        let ms = *self.random.pick(&[3000, 7000, 90_000, 3_700_000, 46_800_000]);
        self.ground.clock.advance(ms);
        self.say(format!("{ms} ms go by"));
    }

    /// All is well from here on: everything that can arrive does.
    fn settle(&mut self) {
        self.disk.complete_all();
        self.ground.store.set_faults(0);
        self.ground.boundaries.never_kill();
        self.ground.boundaries.refuse(false);
        self.start();
        self.say("all is well".to_owned());
        let waits = [1000; 8].into_iter().chain([4000; 5]).chain([15_000; 6]).chain([35_000; 2]);
        let mut quiet = 0;
        for ms in waits {
            self.ground.clock.advance(ms);
            self.ground.store.late_write();
            let random = &mut self.random;
            self.daemon.as_mut().unwrap().move_all(random);
            if super::check::everything_arrived(self) {
                quiet += 1;
                if quiet > 3 {
                    break;
                }
            }
        }
        if self.talks {
            for status in self.daemon.as_ref().unwrap().status() {
                eprintln!("  {status:?}");
            }
        }
        self.ground.store.late_writes();
        self.daemon.as_mut().unwrap().move_all(&mut self.random);
        if self.talks {
            super::telling::tell_store(&self.ground.store);
        }
    }
}
