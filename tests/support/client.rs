//! A client of the socket that numbers its records, written by `docs/protocol.md`.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Records without receipt at most, before it waits.
const WINDOW: usize = 500;

#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    id: String,
    next: u64,
    waiting: VecDeque<(u64, String)>,
    pub acked: u64,
    /// A receipt and the lower one after it: what was acknowledged is gone.
    pub taken_back: Option<(u64, u64)>,
    /// How often nobody was there.
    pub refused: u64,
    /// What the daemon said of records.
    pub errors: Vec<Value>,
    connection: Option<BufReader<UnixStream>>,
}

impl Client {
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            id: uuid::Uuid::new_v4().to_string(),
            next: 1,
            waiting: VecDeque::new(),
            acked: 0,
            taken_back: None,
            refused: 0,
            errors: Vec::new(),
            connection: None,
        }
    }

    /// The first line that a connection of this client says.
    pub fn hello(&self) -> String {
        let next = self.waiting.front().map_or(self.next, |(number, _)| *number);
        format!("{{\"bitacora\":1,\"ack\":true,\"client\":\"{}\",\"next\":{next}}}\n", self.id)
    }

    /// Adds a record and sends what can be sent.
    pub fn send(&mut self, record: &str) {
        self.waiting.push_back((self.next, record.to_owned()));
        self.next += 1;
        let line = format!("{record}\n");
        let sent = self.connection.as_mut().map(|to| to.get_mut().write_all(line.as_bytes()));
        match sent {
            Some(Ok(())) => {}
            Some(Err(_)) => self.connection = None,
            None => {
                self.connect();
            }
        }
        // each waits for a moment; a daemon that is held back gives no receipts
        for _ in 0..20 {
            if self.waiting.len() <= WINDOW {
                return;
            }
            self.poll();
        }
    }

    /// Connects and sends again what has no receipt; `false` if nobody is there.
    pub fn connect(&mut self) -> bool {
        let hello = self.hello();
        let Ok(mut stream) = UnixStream::connect(&self.path) else {
            self.refused += 1;
            return false;
        };
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
        if stream.write_all(hello.as_bytes()).is_err() {
            return false;
        }
        let mut answers = BufReader::new(stream);
        let mut first = String::new();
        if answers.read_line(&mut first).is_err() || !first.ends_with('\n') {
            return false;
        }
        let first: Value = serde_json::from_str(&first).unwrap();
        let Some(acked) = first["acked"].as_u64() else { return false };
        self.got(acked);
        answers.get_ref().set_read_timeout(Some(Duration::from_millis(5))).unwrap();
        self.connection = Some(answers);
        let next = hello_number(&hello);
        let again: Vec<String> =
            (next..self.next).map(|number| self.waiting_text(number)).collect();
        let again = again.concat();
        let to = self.connection.as_mut().unwrap().get_mut();
        if to.write_all(again.as_bytes()).is_err() {
            self.connection = None;
        }
        self.connection.is_some()
    }

    /// A record's line; one that has its receipt by now is passed over by the daemon.
    fn waiting_text(&self, number: u64) -> String {
        let found = self.waiting.iter().find(|(one, _)| *one == number);
        found.map_or_else(|| "{}\n".to_owned(), |(_, text)| format!("{text}\n"))
    }

    fn got(&mut self, acked: u64) {
        if acked < self.acked {
            self.taken_back = Some((self.acked, acked));
        }
        self.acked = acked;
        while self.waiting.front().is_some_and(|(number, _)| *number <= acked) {
            self.waiting.pop_front();
        }
    }

    /// Reads answers that are there.
    pub fn poll(&mut self) {
        let Some(connection) = &mut self.connection else { return };
        let mut line = String::new();
        match connection.read_line(&mut line) {
            Ok(0) => self.connection = None,
            Ok(_) if line.ends_with('\n') => {
                let answer: Value = serde_json::from_str(&line).unwrap();
                match answer["acked"].as_u64() {
                    Some(acked) => self.got(acked),
                    None => self.errors.push(answer),
                }
            }
            Ok(_) => self.connection = None,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => self.connection = None,
        }
    }

    /// Waits until everything has its receipt; `false` if that takes too long, or one was taken
    /// back.
    pub fn settle(&mut self, patience: Duration) -> bool {
        let end = Instant::now() + patience;
        while !self.waiting.is_empty() {
            if Instant::now() > end {
                return false;
            }
            if self.connection.is_none() && !self.connect() {
                super::pause_ms(20); // until somebody listens
                continue;
            }
            self.poll();
        }
        self.taken_back.is_none()
    }

    /// Breaks the connection off.
    pub fn hang_up(&mut self) {
        self.connection = None;
    }
}

fn hello_number(hello: &str) -> u64 {
    serde_json::from_str::<Value>(hello).unwrap()["next"].as_u64().unwrap()
}
