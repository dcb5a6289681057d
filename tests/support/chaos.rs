//! One round of the kill matrix: a writer, a way of rotating, and a daemon that is killed again
//! and again; at the end every line must be one row.

use std::time::{Duration, Instant};

use super::ledger::{Ledger, Rotation, Style};
use super::site::{Daemon, Files, Site};
use super::{PATIENCE, Rng, pause_ms, within};

/// How the daemon is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    /// At a moment.
    Moment,
    /// When it enters the n-th call of one of these kinds, in one of its threads.
    Call { calls: &'static str, nth: u64 },
}

/// How many deaths there were, of each kind.
#[derive(Debug, Clone, Copy, Default)]
pub struct Deaths {
    pub at_moments: u32,
    pub at_writes: u32,
    pub at_syncs: u32,
    pub at_names: u32,
    /// Faults that were set and never fired; they are counted as moments.
    pub missed: u32,
    /// Lines that had to arrive.
    pub lines: usize,
    /// Lines that the rotation itself may have taken away before they could be read.
    pub forgiven: usize,
}

impl Deaths {
    pub fn add(&mut self, other: Self) {
        self.at_moments += other.at_moments;
        self.at_writes += other.at_writes;
        self.at_syncs += other.at_syncs;
        self.at_names += other.at_names;
        self.missed += other.missed;
        self.lines += other.lines;
        self.forgiven += other.forgiven;
    }

    pub const fn at_calls(&self) -> u32 {
        self.at_writes + self.at_syncs + self.at_names
    }
}

const WRITES: &str = "write,pwrite64";
const SYNCS: &str = "fsync,fdatasync";
const NAMES: &str = "rename,renameat,renameat2,unlink,unlinkat,ftruncate";

impl Death {
    fn random(rng: &mut Rng, trace: bool) -> Self {
        if !trace {
            return Self::Moment;
        }
        // Each thread counts for itself. Most deaths come shortly after the start, where most is
        // decided; some later.
        let scale = *rng.pick(&[3, 6, 12, 24]);
        match rng.range(0, 9) {
            0..=2 => Self::Moment,
            3..=5 => Self::Call { calls: WRITES, nth: rng.range(1, scale * 3) },
            6..=8 => Self::Call { calls: SYNCS, nth: rng.range(1, scale) },
            _ => Self::Call { calls: NAMES, nth: rng.range(1, 4) },
        }
    }
}

fn start(site: &Site, death: Death) -> Daemon {
    let Death::Call { calls, nth } = death else { return site.start() };
    let trace = format!("trace={calls}");
    let inject = format!("inject={calls}:signal=SIGKILL:when={nth}");
    // Without --seccomp-bpf: strace 6.1 then misses most of the calls that it should inject into.
    let strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e"];
    site.start_as(&[&strace[..], &[&inject]].concat(), &[])
}

/// Waits until every line that must be there is.
pub fn arrived(site: &Site, ledger: &mut Ledger, patience: Duration) -> bool {
    let arrived = within(patience, || ledger.expected.all_in(&site.rows()));
    if arrived {
        ledger.seen();
    }
    arrived
}

/// Runs one round.
///
/// # Errors
///
/// What was lost or is there twice, or what the program says of it.
pub fn round(site: &Site, kind: Rotation, seed: u64, trace: bool) -> Result<Deaths, String> {
    let mut rng = Rng(seed);
    let style = *rng.pick(&Style::ALL);
    let path = site.log("app").join("app.log");
    site.configure(&[Files::new(style.source(), &path)]);
    let mut ledger = Ledger::for_rotation(kind, &path, style, rng.next());
    // What stands beside a file at its first sight is not the daemon's; so it must see it first.
    ledger.write(2);
    ledger.finish_line();
    let daemon = site.start();
    if !arrived(site, &mut ledger, PATIENCE) {
        return Err(format!("the first lines did not arrive: {}", daemon.said()));
    }
    daemon.kill();
    let mut deaths = Deaths::default();
    for _ in 0..rng.range(2, 4) {
        while_down(&mut ledger, kind, &mut rng);
        one_life(site, &mut ledger, kind, &mut rng, trace, &mut deaths);
    }
    while_down(&mut ledger, kind, &mut rng);
    settle(site, &mut ledger)?;
    deaths.lines = ledger.expected.must.len();
    deaths.forgiven = ledger.expected.may.len();
    Ok(deaths)
}

fn while_down(ledger: &mut Ledger, kind: Rotation, rng: &mut Rng) {
    if rng.one_in(3) {
        return;
    }
    for _ in 0..rng.range(0, 3) {
        ledger.write(rng.range(0, 60));
        ledger.rotate(kind);
    }
    ledger.write(rng.range(0, 60));
}

/// The daemon lives, lines are written and files rotated, until it dies.
fn one_life(
    site: &Site,
    ledger: &mut Ledger,
    kind: Rotation,
    rng: &mut Rng,
    trace: bool,
    deaths: &mut Deaths,
) {
    let death = Death::random(rng, trace);
    let mut daemon = start(site, death);
    let end = Instant::now() + Duration::from_millis(rng.range(50, 1_600));
    let see = rng.one_in(3);
    let mut rotations = rng.range(0, 3);
    if see {
        arrived(site, ledger, Duration::from_secs(2));
    }
    while daemon.ended().is_none() && Instant::now() < end {
        ledger.write(rng.range(0, 40));
        if rotations > 0 && rng.one_in(4) {
            rotations -= 1;
            ledger.rotate(kind);
        }
        pause_ms(rng.range(0, 60));
    }
    // A call that kills ends the process without our doing; give it the time to come.
    if death != Death::Moment {
        within(Duration::from_millis(1_500), || daemon.ended().is_some());
    }
    match (daemon.ended().is_some(), death) {
        (true, Death::Call { calls: WRITES, .. }) => deaths.at_writes += 1,
        (true, Death::Call { calls: SYNCS, .. }) => deaths.at_syncs += 1,
        (true, Death::Call { .. }) => deaths.at_names += 1,
        (true, Death::Moment) => panic!("it ended by itself: {}", daemon.said()),
        (false, _) => {
            deaths.at_moments += 1;
            deaths.missed += u32::from(death != Death::Moment);
        }
    }
    daemon.kill();
}

/// A last life without a kill: everything arrives, nothing twice, and `audit` agrees.
fn settle(site: &Site, ledger: &mut Ledger) -> Result<(), String> {
    let daemon = site.start();
    ledger.write(5);
    ledger.finish_line();
    let complete = arrived(site, ledger, PATIENCE);
    if !complete {
        let said = daemon.said();
        let wrong = ledger.expected.compare(&site.rows()).err();
        return Err(format!("not all arrived: {}\n{said}", wrong.unwrap_or_default()));
    }
    daemon.stop();
    ledger.expected.compare(&site.rows())?;
    let audit = site.run(&["audit", "--deep"]);
    if !audit.status.success() {
        return Err(super::site::told(&audit));
    }
    Ok(())
}
