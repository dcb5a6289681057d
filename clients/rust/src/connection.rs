//! The socket of one numbered client: lines go out, and are kept until their receipt has come.
//!
//! `docs/protocol.md` of bitacora describes what is said here. Only the worker calls these
//! functions; none of them waits longer than it is told to.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketAddrUnix, SocketFlags, SocketType,
    connect, recv, send, shutdown, socket_with,
};
use serde_json::Value;
use uuid::Uuid;

const ANSWER_BYTES_MAX: usize = 65_536;
/// Refused records of one look that are told apart.
const REFUSED_MAX: usize = 100;

/// A line that has no receipt.
#[derive(Debug)]
pub(crate) struct InFlight {
    /// Its place in the queue.
    pub(crate) position: u64,
    pub(crate) line: Vec<u8>,
}

/// Sends numbered lines, and sends them again after a new connection, until acknowledged.
#[derive(Debug)]
pub(crate) struct Connection {
    path: PathBuf,
    window_records: usize,
    window_bytes: usize,
    client: Uuid,
    /// The number of the first line in flight, or of the next line.
    first: u64,
    pub(crate) in_flight: VecDeque<InFlight>,
    in_flight_bytes: usize,
    pub(crate) sent: u64,
    pub(crate) acked: u64,
    pub(crate) connects: u64,
    /// What the daemon said of records that it did not understand.
    pub(crate) refused: Vec<String>,
    socket: Option<OwnedFd>,
    /// The daemon has answered the first line; lines may follow.
    ready: bool,
    out: Vec<u8>,
    /// So much of `out` is written.
    written: usize,
    answers: Vec<u8>,
}

impl Connection {
    pub(crate) fn new(path: PathBuf, window_records: usize, window_bytes: usize) -> Self {
        Self {
            path,
            window_records,
            window_bytes,
            client: Uuid::new_v4(),
            first: 1,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            sent: 0,
            acked: 0,
            connects: 0,
            refused: Vec::new(),
            socket: None,
            ready: false,
            out: Vec::new(),
            written: 0,
            answers: Vec::new(),
        }
    }

    /// There is a socket, though perhaps not yet an answer.
    pub(crate) fn is_open(&self) -> bool {
        self.socket.is_some()
    }

    /// The socket has something to take, or an answer to bring.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.ready || !self.out.is_empty() || !self.in_flight.is_empty()
    }

    /// So many lines may be added.
    pub(crate) fn room(&self) -> usize {
        if !self.ready || !self.out.is_empty() || self.in_flight_bytes >= self.window_bytes {
            return 0;
        }
        self.window_records.saturating_sub(self.in_flight.len())
    }

    /// Connects and says who this is.
    pub(crate) fn connect(&mut self) -> io::Result<()> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let made = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        connect(&made, &SocketAddrUnix::new(&self.path)?)?;
        self.socket = Some(made);
        let (client, next) = (self.client, self.first);
        let hello = format!(r#"{{"bitacora":1,"ack":true,"client":"{client}","next":{next}}}"#);
        self.out.extend_from_slice(hello.as_bytes());
        self.out.push(b'\n');
        Ok(())
    }

    /// Gives the socket up; what had no receipt is kept.
    pub(crate) fn disconnect(&mut self) {
        if let Some(socket) = self.socket.take() {
            // A forked child holds the socket, too: closing alone would not tell the daemon, which
            // takes one connection of a client at a time.
            let _ = shutdown(&socket, Shutdown::Both);
        }
        self.ready = false;
        self.out.clear();
        self.written = 0;
        self.answers.clear();
    }

    /// Numbers lines and begins to send them.
    pub(crate) fn add(&mut self, lines: Vec<InFlight>) -> io::Result<()> {
        for InFlight { line, .. } in &lines {
            self.out.extend_from_slice(line);
            self.in_flight_bytes += line.len();
        }
        self.sent += lines.len() as u64;
        self.in_flight.extend(lines);
        self.write()
    }

    /// Waits for the socket at most so long, then reads and writes what it can.
    pub(crate) fn pump(&mut self, time: Duration) -> io::Result<()> {
        let Some(socket) = &self.socket else { return Ok(()) };
        let mut wanted = PollFlags::IN;
        if !self.out.is_empty() {
            wanted |= PollFlags::OUT;
        }
        let mut polled = [PollFd::new(socket, wanted)];
        let time = Timespec::try_from(time).ok();
        match poll(&mut polled, time.as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        let found = polled.first().map_or(PollFlags::empty(), PollFd::revents);
        if found.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            self.read()?;
        }
        if found.contains(PollFlags::OUT) { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> io::Result<()> {
        let Some(socket) = &self.socket else { return Ok(()) };
        while let Some(rest) = self.out.get(self.written..).filter(|rest| !rest.is_empty()) {
            match send(socket, rest, SendFlags::NOSIGNAL) {
                Ok(count) => self.written += count,
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.out.clear();
        self.out.shrink_to(ANSWER_BYTES_MAX);
        self.written = 0;
        Ok(())
    }

    fn read(&mut self) -> io::Result<()> {
        let Some(socket) = &self.socket else { return Ok(()) };
        let mut got = [0; 4_096];
        let count = match recv(socket, &mut got, RecvFlags::empty()) {
            Ok((0, _)) => return Err(io::Error::other("the daemon has closed the connection")),
            Ok((count, _)) => count,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        self.answers.extend_from_slice(got.get(..count).unwrap_or_default());
        let mut answers = std::mem::take(&mut self.answers);
        let mut rest = answers.as_slice();
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let (answer, after) = rest.split_at(end);
            self.answer(answer)?;
            rest = after.get(1..).unwrap_or_default();
        }
        if rest.len() > ANSWER_BYTES_MAX {
            return Err(no_protocol());
        }
        answers.drain(..answers.len() - rest.len());
        self.answers = answers;
        Ok(())
    }

    fn answer(&mut self, text: &[u8]) -> io::Result<()> {
        let answer: Value = serde_json::from_slice(text).map_err(|_| no_protocol())?;
        if let Some(error) = answer.get("error") {
            let error = error.as_str().map_or_else(|| error.to_string(), str::to_owned);
            if answer.get("record").is_none() {
                return Err(io::Error::other(format!("the daemon refuses: {error}")));
            }
            if self.refused.len() < REFUSED_MAX {
                self.refused.push(error); // stored, but not understood
            }
            return Ok(());
        }
        let acked = answer.get("acked").and_then(Value::as_u64).ok_or_else(no_protocol)?;
        if !self.ready && answer.get("bitacora").and_then(Value::as_u64) != Some(1) {
            return Err(no_protocol());
        }
        if self.ready {
            return self.receipt(acked);
        }
        // All from number `next` on are sent again, also those that turn out to be stored.
        for InFlight { line, .. } in &self.in_flight {
            self.out.extend_from_slice(line);
        }
        self.receipt(acked)?;
        self.ready = true;
        self.connects += 1;
        self.write()
    }

    fn receipt(&mut self, upto: u64) -> io::Result<()> {
        if upto >= self.first + self.in_flight.len() as u64 {
            // Numbers of another life: only a client that begins anew is understood.
            (self.client, self.first) = (Uuid::new_v4(), 1);
            return Err(io::Error::other("the daemon acknowledges records that were never sent"));
        }
        while self.first <= upto {
            let Some(InFlight { line, .. }) = self.in_flight.pop_front() else { break };
            self.in_flight_bytes -= line.len();
            self.first += 1;
            self.acked += 1;
        }
        Ok(())
    }
}

fn no_protocol() -> io::Error {
    io::Error::other("the peer does not speak bitacora's protocol")
}
