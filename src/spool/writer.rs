//! The spool's one writer: it takes what waits, commits once, and then says so to everyone.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::segment::{Clients, NewBlock, Sealed, Segment, clients_of, settle};
use super::{BLOCK_BYTES_MAX, ClientKey, SpoolError, Usage, segments};
use crate::ledger::OriginId;

/// Requests that wait for the writer at most: each holds a session's buffer.
const WAITING_MAX: usize = 32;
/// Bytes of one commit, about.
const COMMIT_BYTES_MAX: usize = 1 << 20;
/// Lanes of one segment, about.
const LANES_MAX: usize = 1000;
/// A client that was not used for so long is forgotten.
const CLIENT_MS_MAX: i64 = 7 * 86_400_000;
/// So much of its file system is left to `state.db`, up to a limit: without it no span could be
/// written, and so nothing of the spool deleted.
const ROOM_PART: u64 = 8;
const ROOM_BYTES_MAX: u64 = 64 << 20;
/// How often a spool that is full, or fails, is tried again.
const TRY_EVERY: Duration = Duration::from_millis(100);

/// Lines for one lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The lane's name.
    pub lane: Arc<str>,
    /// Whole lines.
    pub bytes: Vec<u8>,
}

/// What a session hands over.
pub struct Append {
    /// Whose it is, and the number of its last record, if the client numbers them.
    pub client: Option<(ClientKey, u64)>,
    /// The lines, by lane.
    pub parts: Vec<Part>,
    /// Called when all of it is synced, with the place of each part.
    pub done: Done,
}

/// Says that it is synced.
pub type Done = Box<dyn FnOnce(&[Place]) + Send>;

/// Where a part begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The origin of its lane.
    pub origin: OriginId,
    /// The offset in it.
    pub offset_bytes: u64,
}

/// New blocks by lane.
type NewBlocks = BTreeMap<Arc<str>, VecDeque<Vec<u8>>>;

enum Message {
    Append(Append),
    Meet { client: ClientKey, answer: Box<dyn FnOnce(u64) + Send> },
}

/// Hears of errors, and of their end.
pub type Troubled = Box<dyn Fn(Option<&SpoolError>) + Send>;

/// How a spool is made.
pub struct SpoolConfig {
    /// Its directory; it is there.
    pub dir: PathBuf,
    /// Nothing is taken while it holds more.
    pub limit_bytes: u64,
    /// A segment that holds more is followed by another.
    pub segment_bytes: u64,
    /// Makes the number of an origin.
    pub new_origin: Box<dyn FnMut() -> OriginId + Send>,
    /// The wall clock, in milliseconds.
    pub now_ms: fn() -> i64,
    /// Called after each commit, with the time it took.
    pub committed: Box<dyn Fn(Duration) + Send>,
    /// Called when it cannot write, and with `None` when it can again.
    pub troubled: Troubled,
    /// Ends it.
    pub stop: CancellationToken,
}

/// How sessions reach the writer.
#[derive(Debug, Clone)]
pub struct Spool {
    messages: mpsc::Sender<Message>,
    usage: Arc<Usage>,
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Append(append) => f.debug_tuple("Append").field(&append.parts.len()).finish(),
            Self::Meet { client, .. } => f.debug_tuple("Meet").field(client).finish(),
        }
    }
}

impl Spool {
    /// Opens the spool and starts its writer, which ends when every [`Spool`] is dropped, or at
    /// the stop.
    ///
    /// # Errors
    ///
    /// The directory cannot be read, no segment can be made, or the machine refuses a thread.
    pub fn start(config: SpoolConfig) -> Result<(Self, JoinHandle<()>), SpoolError> {
        let usage = Arc::new(Usage::default());
        let (messages, waiting) = mpsc::channel(WAITING_MAX);
        let writer = Writer::open(config, Arc::clone(&usage))?;
        let dir = writer.config.dir.clone();
        let thread = thread::Builder::new()
            .name("spool".to_owned())
            .spawn(move || writer.run(waiting))
            .map_err(|error| SpoolError::io(&dir, &error))?;
        Ok((Self { messages, usage }, thread))
    }

    /// What it holds.
    #[must_use]
    pub fn usage(&self) -> &Arc<Usage> {
        &self.usage
    }

    /// Hands lines over; waits while the spool is full. `false` when it has ended.
    pub async fn append(&self, append: Append) -> bool {
        self.messages.send(Message::Append(append)).await.is_ok()
    }

    /// Hands lines over if that is possible at once.
    ///
    /// # Errors
    ///
    /// The spool is full, slow, or has ended.
    pub fn try_append(&self, append: Append) -> Result<(), Append> {
        self.messages.try_send(Message::Append(append)).map_err(|error| match error.into_inner() {
            Message::Append(append) => append,
            Message::Meet { .. } => unreachable!("an append was sent"),
        })
    }

    /// The last number that is stored for a client, after everything that it handed over before;
    /// `None` when the spool has ended.
    pub async fn acked(&self, client: ClientKey) -> Option<u64> {
        let (answer, answered) = tokio::sync::oneshot::channel();
        let answer = Box::new(move |acked| {
            // a session that has gone needs no answer
            let _ = answer.send(acked);
        });
        self.messages.send(Message::Meet { client, answer }).await.ok()?;
        answered.await.ok()
    }
}

/// Where the next part of each lane begins.
#[derive(Default)]
struct Places(BTreeMap<Arc<str>, Place>);

impl Places {
    /// The place of a part; they come in the order in which they were written.
    fn take(&mut self, part: &Part) -> Place {
        let Some(next) = self.0.get_mut(&part.lane) else {
            return Place { origin: 0, offset_bytes: 0 };
        };
        let place = *next;
        next.offset_bytes += part.bytes.len() as u64;
        place
    }
}

struct Writer {
    config: SpoolConfig,
    usage: Arc<Usage>,
    clients: Clients,
    segment: Option<Segment>,
    next_number: u64,
    /// A segment whose commit failed, until the next one says so.
    sealed: Option<Sealed>,
    troubled: bool,
}

impl Writer {
    fn open(config: SpoolConfig, usage: Arc<Usage>) -> Result<Self, SpoolError> {
        let numbers = segments(&config.dir)?;
        for &number in &numbers {
            usage.add(number, size_of(&config.dir, number));
        }
        let clients = known_clients(&config.dir, &numbers);
        let next_number = numbers.last().map_or(1, |last| last + 1);
        let mut writer = Self {
            config,
            usage,
            clients,
            segment: None,
            next_number,
            sealed: None,
            troubled: false,
        };
        if let Err(error) = writer.next_segment() {
            // clients wait, and what is there can be drained
            writer.usage.active.store(next_number, Ordering::Release);
            writer.troubled = true;
            (writer.config.troubled)(Some(&error));
        }
        Ok(writer)
    }

    fn next_segment(&mut self) -> Result<&mut Segment, SpoolError> {
        let forgotten_ms = (self.config.now_ms)() - CLIENT_MS_MAX;
        self.clients.retain(|_, (_, used_ms)| *used_ms >= forgotten_ms);
        let made = Segment::create(&self.config.dir, self.next_number, &self.clients, self.sealed)?;
        self.sealed = None;
        self.next_number += 1;
        self.usage.active.store(made.number, Ordering::Release);
        Ok(self.segment.insert(made))
    }

    fn run(mut self, mut waiting: mpsc::Receiver<Message>) {
        let mut messages = Vec::new();
        while let Some(first) = waiting.blocking_recv() {
            let mut bytes = size(&first);
            messages.push(first);
            while bytes < COMMIT_BYTES_MAX
                && let Ok(more) = waiting.try_recv()
            {
                bytes += size(&more);
                messages.push(more);
            }
            let Some(mut places) = self.commit(&messages) else { return };
            for message in messages.drain(..) {
                match message {
                    Message::Append(append) => {
                        let places = append.parts.iter().map(|part| places.take(part));
                        (append.done)(&places.collect::<Vec<_>>());
                    }
                    Message::Meet { client, answer } => {
                        answer(self.clients.get(&client).map_or(0, |(acked, _)| *acked));
                    }
                }
            }
        }
    }

    /// Writes all of it, however long that takes; `None` if the stop came first.
    fn commit(&mut self, messages: &[Message]) -> Option<Places> {
        let (lanes, clients) = self.gather(messages);
        if lanes.is_empty() && clients.is_empty() {
            return Some(Places::default());
        }
        loop {
            let over = self.usage.bytes() >= self.config.limit_bytes;
            let written = if over {
                Err(self.over())
            } else {
                self.leave_room().and_then(|()| self.write(&lanes, &clients))
            };
            match written {
                Ok(places) => {
                    if std::mem::take(&mut self.troubled) {
                        (self.config.troubled)(None);
                    }
                    self.clients.extend(clients);
                    return Some(places);
                }
                Err(error) => {
                    if matches!(error, SpoolError::Full { .. }) {
                        self.close_segment();
                    }
                    if !std::mem::replace(&mut self.troubled, true) {
                        (self.config.troubled)(Some(&error));
                    }
                    if self.config.stop.is_cancelled() {
                        return None;
                    }
                    thread::sleep(TRY_EVERY);
                }
            }
        }
    }

    /// The lines of all messages, in blocks by lane, and the numbers of their clients.
    fn gather(&self, messages: &[Message]) -> (NewBlocks, Clients) {
        let now_ms = (self.config.now_ms)();
        let mut lanes = NewBlocks::new();
        let mut clients = Clients::new();
        for message in messages {
            let Message::Append(append) = message else { continue };
            for part in append.parts.iter().filter(|part| !part.bytes.is_empty()) {
                let blocks = lanes.entry(Arc::clone(&part.lane)).or_default();
                match blocks.back_mut() {
                    Some(block) if block.len() + part.bytes.len() <= BLOCK_BYTES_MAX => {
                        block.extend_from_slice(&part.bytes);
                    }
                    _ => blocks.push_back(part.bytes.clone()),
                }
            }
            if let Some((client, last)) = append.client {
                clients.insert(client, (last, now_ms));
            }
        }
        (lanes, clients)
    }

    fn write(&mut self, lanes: &NewBlocks, clients: &Clients) -> Result<Places, SpoolError> {
        if self.segment.as_ref().is_some_and(|one| self.usage.is_given_up(one.number)) {
            self.close_segment();
        }
        let full = |segment: &Segment| {
            segment.bytes >= self.config.segment_bytes || segment.lanes.len() >= LANES_MAX
        };
        if self.segment.as_ref().is_none_or(full) {
            self.next_segment()?;
        }
        let now_ms = (self.config.now_ms)();
        let blocks: Vec<NewBlock<'_>> = lanes
            .iter()
            .flat_map(|(lane, blocks)| blocks.iter().map(move |bytes| NewBlock { lane, bytes }))
            .collect();
        let Some(segment) = &mut self.segment else { return Err(self.over()) };
        let number = segment.number;
        let ends = |segment: &Segment| -> BTreeMap<Arc<str>, Place> {
            let place = |lane: &Arc<str>| {
                let written = segment.lanes.get(lane);
                let (origin, offset_bytes) = written.map_or((0, 0), |one| (one.origin, one.end));
                (Arc::clone(lane), Place { origin, offset_bytes })
            };
            lanes.keys().map(place).collect()
        };
        let (began, before) = (Instant::now(), ends(segment));
        match segment.write(&blocks, clients, now_ms, &mut self.config.new_origin) {
            Ok(bytes) => {
                let mut places = ends(segment);
                for (lane, place) in &mut places {
                    place.offset_bytes = before.get(lane).map_or(0, |place| place.offset_bytes);
                }
                self.usage.add(number, bytes);
                self.usage.wrote(number, segment.blocks);
                (self.config.committed)(began.elapsed());
                Ok(Places(places))
            }
            Err(error) => {
                // whether it is there cannot be known: it is written again to another segment
                self.close_segment();
                Err(error)
            }
        }
    }

    /// Writes no more to this segment, so that it can be drained and deleted before the next one
    /// is made.
    fn close_segment(&mut self) {
        if let Some(segment) = self.segment.take() {
            let sealed = Sealed { segment: segment.number, blocks: segment.blocks };
            self.sealed = Some(sealed);
            self.usage.seal(sealed, self.next_number);
        }
    }

    /// The spool does not take the room that `state.db` needs to drain it.
    fn leave_room(&self) -> Result<(), SpoolError> {
        let dir = &self.config.dir;
        let look = rustix::fs::statvfs(dir).map_err(|error| SpoolError::io(dir, &error.into()))?;
        let (all, left) = (look.f_blocks * look.f_frsize, look.f_bavail * look.f_frsize);
        let kept = (all / ROOM_PART).min(ROOM_BYTES_MAX);
        if left > kept {
            return Ok(());
        }
        let detail = format!("only {left} bytes are left, and the last {kept} are for state.db");
        Err(SpoolError::Full { path: dir.clone(), detail })
    }

    fn over(&self) -> SpoolError {
        let detail = format!(
            "it holds spool_max ({} bytes); the store has to take some of it first",
            self.config.limit_bytes
        );
        SpoolError::Full { path: self.config.dir.clone(), detail }
    }
}

fn size(message: &Message) -> usize {
    match message {
        Message::Append(append) => append.parts.iter().map(|part| part.bytes.len()).sum(),
        Message::Meet { .. } => 0,
    }
}

/// The clients as the newest segment knows them: it was begun with all of them. What stands in one
/// before it may be of a commit that failed and does not count. One that cannot be read is the
/// reader's matter; the one before it knew the clients, too.
fn known_clients(dir: &Path, numbers: &[u64]) -> Clients {
    for &number in numbers.iter().rev() {
        let path = super::path_of(dir, number);
        match settle(&path).and_then(|()| clients_of(&path)) {
            Ok(known) => return known,
            Err(error) => {
                tracing::warn!("{error}; what clients are told is stored comes from before it");
            }
        }
    }
    Clients::new()
}

/// What a segment of an earlier run holds; one that cannot be read counts by its file.
fn size_of(dir: &Path, number: u64) -> u64 {
    let seal = super::reader::sealed(dir, number).unwrap_or(None);
    let held = super::SegmentReader::open(dir, number, seal).and_then(|segment| segment.bytes());
    held.unwrap_or_else(|_| {
        std::fs::metadata(super::path_of(dir, number)).map_or(0, |file| file.len())
    })
}
