//! An honest client of the socket among hostile ones: how much later its receipts come. The hostile
//! ones are processes of their own, and where that can be had users of their own.

use std::io::{BufRead, BufReader, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use crate::figures::{Figures, Limit, median, percentile, title};
use crate::lines::Random;
use crate::process::Daemon;
use crate::socket::connect;
use crate::throughput::sqlite_in;

/// Connections that say nothing, of one user; and its limit.
const IDLE: usize = 1000;
/// The same where all are of one user: the others need their places.
const IDLE_BESIDE: usize = 850;
/// Connections that say one byte a second.
const SLOW: usize = 100;
/// Between two records of the honest client.
const PACE: Duration = Duration::from_millis(2);
/// A p99 below this is well, whatever it is alone.
const FLOOR_MS: f64 = 1.0;
/// Descriptors of one message; the kernel takes no more.
const DESCRIPTORS: usize = 253;

/// The p99 of receipts alone and under attack, in turn.
pub fn hostile(figures: &Figures, scratch: &Path, records: usize, rounds: usize) {
    title(&format!("hostile clients: {rounds} rounds of {records} records of an honest one"));
    let dir = scratch.join("hostile");
    let store = format!("mode = \"0666\"\n{}", sqlite_in(&dir.join("store")));
    let mut daemon = Daemon::start(&dir, &store, &[]);
    drop(connect(&dir));
    let mut honest = Honest::new(&dir);
    honest.p99(records / 2);
    let (mut alone, mut attacked, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        alone.push(honest.p99(records));
        let attack = Attack::start(&dir);
        attacked.push(honest.p99(records));
        drop(attack);
        ratios.push(attacked[attacked.len() - 1] / alone[alone.len() - 1]);
        // what the hostile ones have left is done
        let mut before = -1.0;
        daemon.watch(Duration::from_secs(1), |sample| {
            let rows = sample.rows();
            std::mem::replace(&mut before, rows) == rows
        });
    }
    figures.print("receipt p99 of an honest client, alone", &alone, "ms", Limit::None);
    let most = FLOOR_MS.max(2.0 * median(&alone));
    figures.print("the same among hostile ones", &attacked, "ms", Limit::AtMost(most));
    figures.print("ratio of pairs", &ratios, "times", Limit::None);
    let descriptors = daemon.descriptors() as f64;
    figures.print("descriptors of the daemon afterwards", &[descriptors], "", Limit::None);
    daemon.stop();
}

/// Sends one record after the other, and waits for each receipt.
struct Honest {
    stream: UnixStream,
    answers: BufReader<UnixStream>,
    number: u64,
}

impl Honest {
    fn new(dir: &Path) -> Self {
        let mut stream = connect(dir);
        let id = uuid::Uuid::new_v4();
        let hello = format!("{{\"bitacora\":1,\"ack\":true,\"client\":\"{id}\",\"next\":1}}\n");
        stream.write_all(hello.as_bytes()).unwrap();
        let mut answers = BufReader::new(stream.try_clone().unwrap());
        answers.read_line(&mut String::new()).unwrap();
        Self { stream, answers, number: 0 }
    }

    fn p99(&mut self, records: usize) -> f64 {
        let mut waits = Vec::new();
        for _ in 0..records {
            thread::sleep(PACE);
            self.number += 1;
            let record = format!("{{\"level\":\"INFO\",\"message\":\"sale {}\"}}\n", self.number);
            let began = Instant::now();
            self.stream.write_all(record.as_bytes()).unwrap();
            let mut answer = String::new();
            self.answers.read_line(&mut answer).unwrap();
            assert_eq!(answer, format!("{{\"acked\":{}}}\n", self.number));
            waits.push(began.elapsed().as_secs_f64() * 1000.0);
        }
        percentile(&waits, 99)
    }
}

/// Two hostile processes. They end when this is dropped.
struct Attack(Vec<Child>);

impl Attack {
    fn start(dir: &Path) -> Self {
        let root = rustix::process::geteuid().is_root();
        let start = |how: &str, user: u32| {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args(["--attack", how]).arg(dir);
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
            if root {
                command.uid(user).gid(user);
            }
            let mut child = command.spawn().unwrap();
            let mut ready = String::new();
            BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut ready).unwrap();
            assert_eq!(ready, "ready\n", "the attack '{how}' did not begin");
            child
        };
        Self(vec![start(if root { "idle" } else { "idle-beside" }, 65_533), start("loud", 65_534)])
    }
}

impl Drop for Attack {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What a hostile process does, until it is killed or its parent has gone.
pub fn attack(how: &str, dir: &Path) {
    let dir = dir.to_owned();
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let more = rustix::process::Rlimit { current: limit.maximum, ..limit };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, more).unwrap();
    let mut idle = Vec::new();
    match how {
        "idle" => idle.extend((0..IDLE).map(|_| connect(&dir))),
        "idle-beside" => idle.extend((0..IDLE_BESIDE).map(|_| connect(&dir))),
        _ => {
            let each: [fn(&Path); 7] = [slow, huge, huge, half, bombs, garbage, storm];
            for one in each {
                let dir = dir.clone();
                thread::spawn(move || one(&dir));
            }
            thread::sleep(Duration::from_millis(500)); // all have begun
        }
    }
    println!("ready");
    let _ = std::io::stdin().read(&mut [0]);
}

/// 100 connections, one byte a second each.
fn slow(dir: &Path) {
    let mut all: Vec<UnixStream> = (0..SLOW).map(|_| connect(dir)).collect();
    loop {
        for one in &mut all {
            if one.write_all(b"s").is_err() {
                *one = connect(dir);
            }
            thread::sleep(Duration::from_secs(1) / u32::try_from(SLOW).unwrap());
        }
    }
}

/// Lines of 8 MiB, 3 MiB a second.
fn huge(dir: &Path) {
    let piece = vec![b'h'; 64 << 10];
    loop {
        let mut stream = connect(dir);
        for _ in 0..128 {
            if stream.write_all(&piece).is_err() {
                break;
            }
            thread::sleep(Duration::from_millis(20));
        }
        let _ = stream.write_all(b"\n");
    }
}

/// Half a record, and gone: 200 a second.
fn half(dir: &Path) {
    loop {
        let _ = connect(dir).write_all(b"{\"message\":\"and th");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Messages with 253 descriptors each, 200 a second.
fn bombs(dir: &Path) {
    let null = std::fs::File::open("/dev/null").unwrap();
    let descriptors = [null.as_fd(); DESCRIPTORS];
    let mut stream = connect(dir);
    loop {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
        let text = [std::io::IoSlice::new(b"{\"message\":\"a bomb\"}\n")];
        if sendmsg(&stream, &text, &mut control, SendFlags::NOSIGNAL).is_err() {
            stream = connect(dir);
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// 4 KiB of anything, 200 times a second.
fn garbage(dir: &Path) {
    let mut random = Random::new(11);
    let mut stream = connect(dir);
    loop {
        let bytes: Vec<u8> = (0..4096).map(|_| random.below(256).to_le_bytes()[0]).collect();
        if stream.write_all(&bytes).is_err() {
            stream = connect(dir);
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Connections that are closed at once, 1,000 a second.
fn storm(dir: &Path) {
    loop {
        drop(connect(dir));
        thread::sleep(Duration::from_millis(1));
    }
}
