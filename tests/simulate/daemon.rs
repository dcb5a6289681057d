//! The daemon without threads: the same parts, wired as `src/daemon` wires them, each queue moved
//! on by hand in an order that the seed decides.

use std::collections::VecDeque;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::task::{Context as Poll, Waker};

use bitacora::batch::Batch;
use bitacora::config::{FileSource, Lifetimes};
use bitacora::daemon::cutback::{self, CutBack};
use bitacora::daemon::recovery::recover;
use bitacora::key::Table;
use bitacora::ledger::{Ack, Context, OriginId, OriginRecord, Piece, Span};
use bitacora::sources::file::{
    Change, Detail, FileEvent, FileStatus, KnownOrigin, NewOrigin, Now, TailState, TailStateError,
    Tailer, TailerConfig,
};
use bitacora::sources::{Buffers, Input};
use bitacora::state::{Post, Stamps, State};
use bitacora::stores::Store;
use bitacora::tracker::{Leave, Tracker};
use bitacora::worker::{Fill, FillLimits, Numbers, Output, Worker};

use super::clock::Clock;
use super::random::Random;
use super::store::Memory;
use super::telling::tell;

const WORKERS: usize = 2;
const CHUNKS_WAITING_MAX: usize = 4;
const BATCHES_WAITING_MAX: usize = 12;

/// What unwinds when the daemon is killed.
#[derive(Debug)]
pub struct Killed;

/// Where the daemon can be killed: before and after everything that outlives it.
#[derive(Debug)]
pub struct Boundaries {
    left: AtomicI64,
    state_refuses: AtomicBool,
}

impl Boundaries {
    pub fn new() -> Self {
        Self { left: AtomicI64::new(i64::MAX), state_refuses: AtomicBool::new(false) }
    }

    /// The daemon dies at the `count`th boundary from now on.
    pub fn kill_at(&self, count: i64) {
        self.left.store(count, Ordering::Relaxed);
    }

    pub fn never_kill(&self) {
        self.kill_at(i64::MAX);
    }

    pub fn refuse(&self, refuses: bool) {
        self.state_refuses.store(refuses, Ordering::Relaxed);
    }

    pub fn refuses(&self) -> bool {
        self.state_refuses.load(Ordering::Relaxed)
    }

    fn pass(&self) {
        if self.left.fetch_sub(1, Ordering::Relaxed) == 1 {
            resume_unwind(Box::new(Killed));
        }
    }
}

/// `state.db`, with boundaries around what it keeps.
struct Watched {
    state: Arc<State>,
    boundaries: Arc<Boundaries>,
}

impl Watched {
    fn keep(
        &self,
        what: impl FnOnce(&State) -> Result<(), TailStateError>,
    ) -> Result<(), TailStateError> {
        self.boundaries.pass();
        if self.boundaries.refuses() {
            return Err(TailStateError::Unavailable { detail: "told to refuse".to_owned() });
        }
        what(&self.state)?;
        self.boundaries.pass();
        Ok(())
    }
}

impl TailState for Watched {
    fn origins(&self) -> Result<Vec<KnownOrigin>, TailStateError> {
        self.state.origins()
    }

    fn detail(&self, origin: OriginId) -> Result<Detail, TailStateError> {
        self.state.detail(origin)
    }

    fn add_origins(&self, origins: &[NewOrigin]) -> Result<(), TailStateError> {
        self.keep(|state| state.add_origins(origins))
    }

    fn add_contexts(&self, contexts: &[Context]) -> Result<(), TailStateError> {
        self.keep(|state| state.add_contexts(contexts))
    }

    fn raise_reaches(
        &self,
        reaches: &[(OriginId, u64, Option<u64>)],
    ) -> Result<(), TailStateError> {
        self.keep(|state| state.raise_reaches(reaches))
    }

    fn update(&self, changes: &[Change]) -> Result<(), TailStateError> {
        self.keep(|state| state.update(changes))
    }

    fn is_seen(&self, key: &str) -> Result<bool, TailStateError> {
        self.state.is_seen(key)
    }

    fn mark_seen(&self, keys: &[String]) -> Result<(), TailStateError> {
        self.keep(|state| state.mark_seen(keys))
    }
}

/// A rule that is broken on purpose, to see that the checks notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    Nothing,
    /// Rows count as stored before the store has answered.
    EarlySpans,
    /// Rows are keyed by the order in which they are written.
    CounterKeys,
    /// Origins end whose files are there.
    EarlyEnds,
}

/// What survives the daemon, and what it is told.
pub struct Ground {
    pub state_dir: PathBuf,
    pub machine_id: PathBuf,
    pub clock: Arc<Clock>,
    pub store: Arc<Memory>,
    pub boundaries: Arc<Boundaries>,
    pub ids: Arc<AtomicI64>,
    pub keys: Arc<AtomicI64>,
    pub sources: Vec<FileSource>,
    pub broken: Broken,
    /// What it says and does is told on stderr.
    pub talks: bool,
}

#[derive(Debug)]
enum Message {
    Open { origin: OriginId, at: u64, table: Table, source: String },
    Context { origin: OriginId, from_bytes: u64, table: Table, source: String },
    Pieces(Vec<Piece>),
    Leave(OriginId, Leave),
}

enum Told {
    Announced(OriginId),
    Committed(Vec<(OriginId, u64, u64)>, bool),
    CutBack(OriginId, u64),
}

/// See the module.
pub struct Daemon {
    pub state: Arc<State>,
    store: Arc<Memory>,
    stamps: Arc<Stamps>,
    clock: Arc<Clock>,
    boundaries: Arc<Boundaries>,
    keys: Arc<AtomicI64>,
    broken: Broken,
    pub tailer: Tailer,
    workers: Vec<Worker>,
    tracker: Tracker,
    inputs: Vec<VecDeque<Input>>,
    batches: Vec<Arc<Batch>>,
    messages: VecDeque<Message>,
    acks: VecDeque<Ack>,
    announcements: Vec<(OriginRecord, Vec<Context>, i64)>,
    cut_backs: VecDeque<CutBack>,
    told: VecDeque<Told>,
    committing: Option<(Vec<Span>, i64)>,
    events: Vec<FileEvent>,
    talks: bool,
    /// The tailer has nothing to do at once.
    pub rests: bool,
}

/// The answer of a future that never waits.
pub fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Poll::from_waker(Waker::noop())) {
        std::task::Poll::Ready(answer) => answer,
        std::task::Poll::Pending => unreachable!("nothing here waits"),
    }
}

impl Daemon {
    pub fn start(ground: &Ground) -> Self {
        let clock = Arc::clone(&ground.clock);
        let state = State::open_on(&ground.state_dir, &ground.machine_id, clock.wall_ms()).unwrap();
        let state = Arc::new(state);
        assert_eq!(state.recovered(), None, "state.db was not damaged");
        let stamps = Arc::new(Stamps::new(Arc::clone(&state)).unwrap());
        now(recover(&*ground.store, &state, &stamps, clock.wall_ms())).unwrap();
        let buffers = Arc::new(Buffers::default());
        let mut config = TailerConfig::new(ground.sources.clone(), "host", state.machine());
        let ids = Arc::clone(&ground.ids);
        if ids.load(Ordering::Relaxed) % 2 == 0 {
            // as with thousands of files: quiet ones are closed and let go
            (config.idle_ms, config.kept_files_max) = (500, 0);
        }
        config.ids = Box::new(move || ids.fetch_add(1, Ordering::Relaxed));
        let files = Arc::clone(&clock);
        config.file_clock_ns = Box::new(move || files.wall_ms() * 1_000_000);
        let watched =
            Watched { state: Arc::clone(&state), boundaries: Arc::clone(&ground.boundaries) };
        let tailer = Tailer::new(config, Arc::new(watched), Arc::clone(&buffers)).unwrap();
        let workers = (0..WORKERS).map(|index| {
            let limits = FillLimits { batch_rows: 7, batch_age_ms: 1000, open_bytes: 1 << 20 };
            let (store, stamps) = (Arc::clone(&ground.store), Arc::clone(&stamps));
            let clock = Arc::clone(&clock);
            let fill = Fill::new(
                limits,
                "host".into(),
                Box::new(move |table, source, day| store.layout(table, source, day)),
                Box::new(move |rows| stamps.take(rows, clock.wall_ms() * 1000)),
            );
            let numbers = Numbers::of_worker(index as u64, WORKERS as u64);
            Worker::new(fill, Arc::clone(&buffers), numbers)
        });
        let workers: Vec<Worker> = workers.collect();
        Self {
            state,
            store: Arc::clone(&ground.store),
            stamps,
            clock,
            boundaries: Arc::clone(&ground.boundaries),
            keys: Arc::clone(&ground.keys),
            broken: ground.broken,
            tailer,
            workers,
            tracker: Tracker::new(Lifetimes::default()),
            inputs: (0..WORKERS).map(|_| VecDeque::new()).collect(),
            batches: Vec::new(),
            messages: VecDeque::new(),
            acks: VecDeque::new(),
            announcements: Vec::new(),
            cut_backs: VecDeque::new(),
            told: VecDeque::new(),
            committing: None,
            events: Vec::new(),
            talks: ground.talks,
            rests: false,
        }
    }

    pub fn reload(&mut self, sources: &[FileSource]) {
        self.tailer.reload(sources).unwrap();
    }

    pub fn status(&self) -> Vec<FileStatus> {
        self.tailer.status()
    }

    /// One part does a little, whichever the seed says.
    pub fn move_on(&mut self, random: &mut Random) {
        match random.weighted(&[30, 25, 8, 25, 25, 12, 4, 4, 2]) {
            0 => {
                if random.percent(50) {
                    self.tailer.hint();
                }
                self.tail();
            }
            1 => {
                let index = random.below(WORKERS);
                self.work(index);
            }
            2 => {
                let (index, idle) = (random.below(WORKERS), random.percent(50));
                self.tick(index, idle);
            }
            3 => self.deliver(random),
            4 => self.track(Some(random)),
            5 => self.announce(random),
            6 => self.post(),
            7 => self.answer_cut_back(),
            _ => self.store.late_write(),
        }
    }

    /// Every part does all that it can at this time.
    pub fn move_all(&mut self, random: &mut Random) {
        self.tailer.hint();
        for _ in 0..200 {
            self.tail();
            for index in 0..WORKERS {
                while !self.inputs[index].is_empty() {
                    self.work(index);
                    self.deliver(random);
                }
                self.tick(index, true);
            }
            while !self.batches.is_empty() {
                self.deliver(random);
            }
            while !self.announcements.is_empty() {
                self.announce(random);
            }
            self.answer_cut_back();
            self.track(None);
            self.post();
            if self.is_idle() {
                return;
            }
        }
        panic!("the daemon finds no rest");
    }

    fn is_idle(&self) -> bool {
        self.rests
            && self.told.is_empty()
            && self.committing.is_none()
            && self.messages.is_empty()
            && self.cut_backs.is_empty()
            && self.inputs.iter().all(VecDeque::is_empty)
    }

    fn tail(&mut self) {
        for told in std::mem::take(&mut self.told) {
            match told {
                Told::Announced(origin) => self.tailer.announced(origin),
                Told::Committed(ends, saved) => self.tailer.committed(&ends, saved),
                Told::CutBack(origin, at) => self.tailer.cut_back(origin, at),
            }
        }
        let chunk = |input: &&Input| matches!(input, Input::Chunk(_));
        let waiting = self.inputs.iter().map(|queue| queue.iter().filter(chunk).count()).max();
        let room = CHUNKS_WAITING_MAX.saturating_sub(waiting.unwrap_or(0));
        let time = Now { mono_ms: self.clock.mono_ms(), wall_ms: self.clock.wall_ms() };
        let pace = self.tailer.step(time, room, &mut self.events);
        self.rests = pace.wait_ms > 0;
        let events = std::mem::take(&mut self.events);
        for event in events {
            self.boundaries.pass();
            self.dispatch(event);
        }
    }

    fn dispatch(&mut self, event: FileEvent) {
        if self.talks {
            tell(&event);
        }
        match event {
            FileEvent::Input(input) => {
                let index = usize::try_from(input.origin().unsigned_abs()).unwrap() % WORKERS;
                self.inputs[index].push_back(input);
            }
            FileEvent::Announce { record, contexts } => {
                let stamp = self.stamps.take(1 + contexts.len(), self.clock.wall_ms() * 1000);
                self.announcements.push((record, contexts, stamp));
            }
            FileEvent::CutBack { origin, path, file, encoding, from, end, to, contexts } => {
                let request = CutBack { origin, path, file, encoding, from, end, to, contexts };
                self.cut_backs.push_back(request);
            }
            FileEvent::Receipt(_) | FileEvent::Happened { .. } | FileEvent::Said { .. } => {}
        }
    }

    fn work(&mut self, index: usize) {
        if self.batches.len() > BATCHES_WAITING_MAX {
            return;
        }
        let Some(input) = self.inputs[index].pop_front() else { return };
        let mut after = None;
        match &input {
            Input::Open(opening) => self.messages.push_back(Message::Open {
                origin: opening.origin,
                at: opening.at,
                table: opening.context.table,
                source: opening.context.source.clone(),
            }),
            Input::Context(context) => {
                after = Some(Message::Context {
                    origin: context.origin,
                    from_bytes: context.from_bytes,
                    table: context.table,
                    source: context.source.clone(),
                });
            }
            Input::Finish { origin } => after = Some(Message::Leave(*origin, Leave::Finished)),
            Input::Rest { origin } => after = Some(Message::Leave(*origin, Leave::Rest)),
            Input::Chunk(_) => {}
        }
        let mut output = Output::default();
        self.workers[index].take(input, self.clock.mono_ms(), &mut output).unwrap();
        self.send(output);
        self.messages.extend(after);
    }

    fn tick(&mut self, index: usize, idle: bool) {
        let mut output = Output::default();
        self.workers[index].tick(self.clock.mono_ms(), &|_| 2000, idle, &mut output);
        self.send(output);
    }

    fn send(&mut self, output: Output) {
        if !output.pieces.is_empty() {
            self.messages.push_back(Message::Pieces(output.pieces));
        }
        for mut batch in output.batches {
            if self.broken == Broken::CounterKeys {
                for row in &mut batch.rows {
                    row.key.offset_bytes = self.keys.fetch_add(1, Ordering::Relaxed);
                }
            }
            if self.broken == Broken::EarlySpans {
                self.acks.push_back(Ack { pieces: batch.pieces.clone(), not_rows: Vec::new() });
            }
            self.batches.push(Arc::new(batch));
        }
    }

    fn deliver(&mut self, random: &mut Random) {
        if self.batches.is_empty() {
            return;
        }
        let index = random.below(self.batches.len());
        if now(self.store.write(Arc::clone(&self.batches[index]))).is_ok() {
            let batch = self.batches.remove(index);
            if self.broken != Broken::EarlySpans {
                let pieces = batch.pieces.clone();
                self.acks.push_back(Ack { pieces, not_rows: Vec::new() });
            }
        }
    }

    /// With chance, some of what waits; else everything.
    fn track(&mut self, mut chance: Option<&mut Random>) {
        if self.committing.is_none() {
            loop {
                let messages_first = chance.as_mut().is_none_or(|random| random.percent(50));
                if messages_first && let Some(message) = self.messages.pop_front() {
                    self.take(message);
                } else if let Some(ack) = self.acks.pop_front() {
                    self.tracker.acked(&ack.pieces, &ack.not_rows, self.clock.wall_ms());
                } else if self.messages.is_empty() {
                    break;
                }
                if chance.as_mut().is_some_and(|random| random.percent(20)) {
                    break;
                }
            }
            let spans = self.tracker.due(self.clock.wall_ms());
            self.begin_commit(spans);
        }
        self.commit();
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Open { origin, at, table, source } => {
                let last = self.state.last_span(origin).unwrap();
                let last = last.filter(|span| span.end_bytes == at);
                self.tracker.open(origin, at, last, table, &source);
            }
            Message::Context { origin, from_bytes, table, source } => {
                self.tracker.context(origin, from_bytes, table, &source);
            }
            Message::Pieces(pieces) => {
                for piece in pieces {
                    self.tracker.piece(piece, self.clock.wall_ms());
                }
            }
            Message::Leave(origin, leave) => self.tracker.leave(origin, leave),
        }
    }

    fn begin_commit(&mut self, spans: Vec<Span>) {
        if !spans.is_empty() {
            let stamp = self.stamps.take(spans.len(), self.clock.wall_ms() * 1000);
            self.committing = Some((spans, stamp));
        }
    }

    fn commit(&mut self) {
        let Some((spans, stamp)) = &self.committing else { return };
        self.boundaries.pass();
        if now(self.store.put_spans(spans, *stamp)).is_err() {
            return;
        }
        let Some((spans, _)) = self.committing.take() else { return };
        self.boundaries.pass();
        let saved = !self.boundaries.refuses();
        if saved {
            self.state.put_spans(&spans).unwrap();
        }
        self.boundaries.pass();
        let committed = self.tracker.written(&spans);
        if self.talks {
            for span in &spans {
                eprintln!("    origin {} is stored to {}", span.origin, span.end_bytes);
            }
        }
        let ends = committed.iter().map(|done| (done.origin, done.end_bytes, done.marker));
        self.told.push_back(Told::Committed(ends.collect(), saved));
    }

    fn announce(&mut self, random: &mut Random) {
        if self.announcements.is_empty() {
            return;
        }
        let index = random.below(self.announcements.len());
        let (record, contexts, stamp) = &self.announcements[index];
        if now(self.store.put_origin(record, contexts, *stamp)).is_ok() {
            self.told.push_back(Told::Announced(record.id));
            self.announcements.remove(index);
        }
    }

    fn post(&mut self) {
        let posts = self.state.outbox().unwrap();
        let receipts: Vec<_> = posts
            .iter()
            .filter_map(|post| match post {
                Post::Receipt(receipt) => Some(receipt.clone()),
                Post::Letter(_) => None,
            })
            .collect();
        if !receipts.is_empty() && now(self.store.put_receipts(&receipts, 0)).is_ok() {
            self.boundaries.pass();
            self.state.remove_posts(&posts).unwrap();
        }
    }

    fn answer_cut_back(&mut self) {
        let Some(request) = self.cut_backs.pop_front() else { return };
        let origin = request.origin;
        let store: Arc<dyn Store> = Arc::clone(&self.store) as Arc<dyn Store>;
        let from = request.from;
        let at = match cutback::rows_of(request, &store) {
            Ok(rows) => now(rows.goes_on_at(&*store)).unwrap(),
            Err(_) => from,
        };
        self.told.push_back(Told::CutBack(origin, at));
    }

    /// Saves what can be saved, as a stop does; what the store does not take in time is left.
    pub fn stop(mut self, random: &mut Random) {
        self.tailer.stop();
        for _ in 0..100 {
            (0..WORKERS).for_each(|index| self.work(index));
            self.deliver(random);
        }
        if self.inputs.iter().any(|queue| !queue.is_empty()) {
            return;
        }
        for worker in &mut self.workers {
            let mut output = Output::default();
            worker.ship_all(self.clock.mono_ms(), &mut output);
            self.batches.extend(output.batches.into_iter().map(Arc::new));
            self.messages.push_back(Message::Pieces(output.pieces));
        }
        for _ in 0..40 {
            self.deliver(random);
        }
        self.track(None);
        for _ in 0..40 {
            if self.committing.is_none() {
                let spans = self.tracker.rest(self.clock.wall_ms());
                self.begin_commit(spans);
            }
            self.commit();
        }
        self.stamps.release().unwrap();
    }
}

/// Opens the state of a daemon that is down.
pub fn look(state_dir: &Path) -> Option<State> {
    State::look(state_dir).ok()
}
