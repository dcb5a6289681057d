//! One connection: what it says becomes loads for the spool, and what the spool says receipts.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::load::{Added, Load};
use super::protocol::{Decoder, Frame, Hello, hello};
use super::{Counts, Seat, Shared};
use crate::parse::socket::Envelope;
use crate::spool::{Append, ClientKey, Place};

/// What is read at once.
const READ_BYTES: usize = 64 << 10;
/// Answers that wait for the client to read them, besides receipts.
const SAYS_WAITING_MAX: usize = 64;
/// Records that are not understood and told of, of those that are read at once: a client that sends
/// more of them learns nothing new.
const FAULTS_MAX: usize = 64;

/// A client that numbers its records.
struct Numbered {
    key: ClientKey,
    /// The number of the record that comes next.
    next: u64,
    /// The last number that was stored before this connection.
    stored: u64,
    /// The last number that is synced.
    acked: watch::Sender<u64>,
    /// Further answers.
    says: mpsc::Sender<String>,
    /// Number, part and offset of the records of the load, if the client wants to know their keys.
    keys: Option<Vec<(u64, usize, u64)>>,
}

pub(super) struct Session {
    shared: Arc<Shared>,
    seat: Seat,
    pid: Option<u32>,
    uid: Option<u32>,
    decoder: Decoder,
    load: Load,
    /// Numbers of records that were not understood, and why: to be told.
    faults: Vec<(u64, &'static str)>,
    /// The first line is still to come.
    fresh: bool,
    numbered: Option<Numbered>,
}

impl Session {
    pub fn new(shared: &Arc<Shared>, seat: Seat, pid: Option<u32>, uid: Option<u32>) -> Self {
        Self {
            shared: Arc::clone(shared),
            seat,
            pid,
            uid,
            decoder: Decoder::default(),
            load: Load::default(),
            faults: Vec::new(),
            fresh: true,
            numbered: None,
        }
    }

    /// Lives until the client has gone, is too slow, or the stop.
    pub async fn run(mut self, stream: UnixStream, stop: CancellationToken) {
        let (reader, writer) = stream.into_split();
        let mut writer = Some(writer);
        let mut begun: Option<Instant> = None;
        let mut buffer = Vec::new();
        loop {
            let limits = self.shared.limits;
            let deadline =
                begun.map_or_else(|| Instant::now() + limits.idle, |at| at + limits.line);
            let ready = tokio::select! {
                ready = reader.readable() => ready,
                () = tokio::time::sleep_until(deadline) => Err(ErrorKind::TimedOut.into()),
                () = stop.cancelled() => Err(ErrorKind::Interrupted.into()),
            };
            let unread = self.numbered.as_ref().is_some_and(|one| one.says.is_closed());
            if ready.is_err() || unread {
                break;
            }
            let shared = Arc::clone(&self.shared);
            let asked = Instant::now();
            let Ok(turn) = shared.readers.acquire().await else { break };
            // the client did not make itself wait
            begun = begun.map(|at| at + asked.elapsed());
            // an idle client holds no buffer
            buffer.resize(READ_BYTES, 0);
            let read = match reader.try_read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    buffer = Vec::new();
                    continue;
                }
                Err(_) => break,
            };
            let bytes = buffer.get(..read).unwrap_or_default();
            if memchr::memchr(b'\n', bytes).is_some() {
                begun = None; // what is there after it is another line
            }
            if !self.take(bytes, &mut writer).await {
                return;
            }
            if !self.seat.begun(self.decoder.begun_bytes()) {
                refuse(&mut writer, "too much is held of lines that have not ended").await;
                break;
            }
            begun = self.decoder.has_begun().then(|| begun.unwrap_or_else(Instant::now));
            if read < READ_BYTES || !self.faults.is_empty() {
                buffer = Vec::new();
            }
            // others read while this client is told
            drop(turn);
            let told = tokio::select! {
                told = self.tell_faults() => told,
                () = stop.cancelled() => false,
            };
            if !told {
                break;
            }
        }
        self.end().await;
    }

    /// Takes bytes; `false` if the connection is to end.
    async fn take(&mut self, bytes: &[u8], writer: &mut Option<OwnedWriteHalf>) -> bool {
        let mut lines = Vec::new();
        let mut bytes = bytes;
        if self.fresh {
            // the first line alone may ask for something, which decides what the others are
            let Some(newline) = memchr::memchr(b'\n', bytes) else {
                self.decoder.feed(bytes, |_| {});
                return true;
            };
            let (first, rest) = bytes.split_at(newline + 1);
            bytes = rest;
            self.decoder.feed(first, |frame| lines.push((frame.text.to_vec(), frame.line_bytes)));
            self.fresh = false;
            let asks = lines.first().and_then(|(line, _)| hello(line));
            match asks {
                Some(Ok(asks)) => {
                    lines.clear();
                    if !self.greet(asks, writer).await {
                        return false;
                    }
                }
                Some(Err(fault)) => {
                    refuse(writer, &fault).await;
                    return false;
                }
                None => {}
            }
        }
        let now_ms = (self.shared.now_ms)();
        let mut faults = Vec::new();
        let mut decoder = std::mem::take(&mut self.decoder);
        for (text, line_bytes) in &lines {
            self.record(Frame { text, line_bytes: *line_bytes }, now_ms, false, &mut faults);
        }
        decoder.feed(bytes, |frame| self.record(frame, now_ms, false, &mut faults));
        self.decoder = decoder;
        self.faults = faults;
        self.hand_over().await
    }

    /// Tells a client that numbers its records which were not understood; `false` if it does not
    /// read that, or has gone.
    async fn tell_faults(&mut self) -> bool {
        let Some(numbered) = &self.numbered else { return true };
        for (record, why) in self.faults.drain(..) {
            let text = format!(
                "{{\"error\":\"{why}; it is kept as an unparsed row\",\"record\":{record}}}\n"
            );
            let told = numbered.says.send(text);
            if !matches!(timeout(self.shared.limits.line, told).await, Ok(Ok(()))) {
                return false;
            }
        }
        true
    }

    fn record(
        &mut self,
        frame: Frame<'_>,
        now_ms: i64,
        partial: bool,
        faults: &mut Vec<(u64, &'static str)>,
    ) {
        if frame.text.iter().all(u8::is_ascii_whitespace) && frame.line_bytes.is_none() {
            return;
        }
        let mut number = None;
        if let Some(numbered) = &mut self.numbered {
            number = Some(numbered.next);
            numbered.next += 1;
            if number.is_some_and(|number| number <= numbered.stored) {
                Counts::add(&self.shared.counts.repeated, 1);
                return;
            }
        }
        self.shared.tapped(frame.text);
        let envelope = Envelope {
            at_ms: now_ms,
            pid: self.pid,
            uid: self.uid,
            partial,
            line_bytes: frame.line_bytes,
        };
        let Added { part, offset_bytes, fault } =
            self.load.add(frame, envelope, &self.shared.sources);
        if let Some((keys, number)) =
            self.numbered.as_mut().and_then(|one| one.keys.as_mut()).zip(number)
        {
            keys.push((number, part, offset_bytes));
        }
        if let Some(fault) = fault {
            Counts::add(&self.shared.counts.invalid, 1);
            if faults.len() < FAULTS_MAX {
                faults.extend(number.map(|number| (number, fault)));
            }
        }
    }

    /// Hands over what there is; waits while the spool is full.
    async fn hand_over(&mut self) -> bool {
        let records = self.load.records;
        if records == 0 {
            return true;
        }
        let shared = Arc::clone(&self.shared);
        let client = self.numbered.as_ref().map(|one| (one.key, one.next - 1));
        let receipt = self.numbered.as_mut().map(|one| {
            let keys = one.keys.as_mut().map(std::mem::take).unwrap_or_default();
            (one.acked.clone(), one.next - 1, one.says.clone(), keys)
        });
        let done = Box::new(move |places: &[Place]| {
            shared.counts.stored.fetch_add(records, Ordering::Relaxed);
            let Some((acked, last, says, keys)) = receipt else { return };
            if !keys.is_empty() {
                // a client that does not read learns its keys from the store
                let _ = says.try_send(keys_line(&keys, places));
            }
            acked.send_replace(last);
        });
        self.shared.spool.append(Append { client, parts: self.load.take(), done }).await
    }

    /// A client that numbers its records is told what is stored of it.
    async fn greet(&mut self, asks: Hello, writer: &mut Option<OwnedWriteHalf>) -> bool {
        let Some(id) = asks.client else { return true };
        let key = ClientKey { uid: self.uid.unwrap_or(u32::MAX), id };
        if !self.seat.claim(key) {
            refuse(writer, "this client is connected already").await;
            return false;
        }
        let Some(stored) = self.shared.spool.acked(key).await else { return false };
        let Some(writer) = writer.take() else { return false };
        let (acked, receipts) = watch::channel(stored);
        let (says, told) = mpsc::channel(SAYS_WAITING_MAX);
        let keys = asks.keys.then(Vec::new);
        self.numbered = Some(Numbered { key, next: asks.next, stored, acked, says, keys });
        let patience = self.shared.limits.line;
        tokio::spawn(answer(writer, stored, receipts, told, patience));
        true
    }

    /// What is there of a last line is a record, unless its client will send it again.
    async fn end(mut self) {
        if self.numbered.is_some() || self.fresh && !self.decoder.has_begun() {
            return;
        }
        let (now_ms, mut faults) = ((self.shared.now_ms)(), Vec::new());
        let mut decoder = std::mem::take(&mut self.decoder);
        decoder.finish(|frame| self.record(frame, now_ms, true, &mut faults));
        self.hand_over().await;
    }
}

/// Writes answers until the session has gone and all is said, or nobody reads for `patience`: then
/// the session ends, too.
async fn answer(
    mut writer: OwnedWriteHalf,
    stored: u64,
    mut receipts: watch::Receiver<u64>,
    mut says: mpsc::Receiver<String>,
    patience: Duration,
) {
    let mut text = format!("{{\"bitacora\":1,\"acked\":{stored}}}\n");
    while let Ok(Ok(())) = timeout(patience, writer.write_all(text.as_bytes())).await {
        text = tokio::select! {
            biased;
            Some(text) = says.recv() => text,
            changed = receipts.changed() => {
                if changed.is_err() {
                    return;
                }
                let acked = *receipts.borrow_and_update();
                format!("{{\"acked\":{acked}}}\n")
            }
        };
    }
}

/// Number, origin and offset of each record.
fn keys_line(keys: &[(u64, usize, u64)], places: &[Place]) -> String {
    let keys = keys.iter().filter_map(|(number, part, offset)| {
        let place = places.get(*part)?;
        Some(format!("[{number},{},{}]", place.origin, place.offset_bytes + offset))
    });
    format!("{{\"keys\":[{}]}}\n", keys.collect::<Vec<_>>().join(","))
}

pub(super) async fn refuse(writer: &mut Option<OwnedWriteHalf>, why: &str) {
    if let Some(mut writer) = writer.take() {
        let text = serde_json::json!({ "bitacora": 1, "error": why });
        // a client that has gone misses nothing
        let _ = writer.write_all(format!("{text}\n").as_bytes()).await;
    }
}
