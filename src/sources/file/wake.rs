//! Wake-ups from the kernel: hints that make the tailer look sooner, and nothing more. Content,
//! names and order of events are never used, and nothing is wrong when none arrive.
//!
//! Literal paths are watched by linemux's `MuxedEvents`, which waits for files that do not exist
//! yet; directories of patterns by notify, of the same version, so that one copy of it is built.
//! Their queues have no limit, so each event is drained at once into one flag a source.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use linemux::MuxedEvents;
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Called when a flag rises: it wakes the thread that steps the tailer.
pub type WakeUp = Arc<dyn Fn() + Send + Sync>;

/// Paths that may wait to be handed to the task that watches them.
const PATHS_QUEUED_MAX: usize = 64;

struct Shared {
    wake: WakeUp,
    /// One flag a source.
    flags: RwLock<Vec<AtomicBool>>,
    /// Which sources follow a path, or a pattern through a directory.
    sources: RwLock<HashMap<PathBuf, Vec<usize>>>,
    faults: AtomicU64,
    overflows: AtomicU64,
    fault: Mutex<Option<String>>,
    said: AtomicBool,
}

impl Shared {
    fn event(&self, event: &Event) {
        if event.need_rescan() {
            self.overflows.fetch_add(1, Ordering::Relaxed);
        }
        let sources = self.sources.read().unwrap_or_else(PoisonError::into_inner);
        let flags = self.flags.read().unwrap_or_else(PoisonError::into_inner);
        let of = |path: &Path| sources.get(path);
        let mut meant: Vec<usize> = Vec::new();
        for path in &event.paths {
            let found = of(path).or_else(|| of(path.parent()?));
            meant.extend(found.into_iter().flatten());
        }
        if meant.is_empty() {
            meant.extend(0..flags.len()); // it does not say whose it is
        }
        let rose = meant
            .into_iter()
            .filter_map(|source| flags.get(source))
            .fold(false, |rose, flag| rose | !flag.swap(true, Ordering::AcqRel));
        if rose {
            (self.wake)();
        }
    }

    /// Counts a fault, and keeps the first to be said.
    fn fault(&self, text: String) {
        self.faults.fetch_add(1, Ordering::Relaxed);
        if !self.said.swap(true, Ordering::AcqRel) {
            *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
        }
    }
}

/// The watches of all sources.
pub struct Wake(Option<On>);

struct On {
    shared: Arc<Shared>,
    paths: mpsc::Sender<PathBuf>,
    task: JoinHandle<()>,
    watcher: Option<RecommendedWatcher>,
    files: BTreeSet<PathBuf>,
    dirs: BTreeSet<PathBuf>,
    /// Some path could not be watched when that was last tried.
    incomplete: bool,
}

impl std::fmt::Debug for Wake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Wake").field(&self.0.is_some()).finish()
    }
}

impl Wake {
    /// No watches: the timer alone.
    #[must_use]
    pub const fn off() -> Self {
        Self(None)
    }

    /// Watches what [`Wake::watch`] is told; `wake` is called from other threads.
    #[must_use]
    pub fn on(runtime: &Handle, wake: WakeUp) -> Self {
        let shared = Arc::new(Shared {
            wake,
            flags: RwLock::default(),
            sources: RwLock::default(),
            faults: AtomicU64::new(0),
            overflows: AtomicU64::new(0),
            fault: Mutex::default(),
            said: AtomicBool::new(false),
        });
        let (paths, queue) = mpsc::channel(PATHS_QUEUED_MAX);
        let task = runtime.spawn(watch_paths(Arc::clone(&shared), queue));
        let events = Arc::clone(&shared);
        let made = notify::recommended_watcher(move |event: notify::Result<Event>| match event {
            Ok(event) => events.event(&event),
            Err(error) => events.fault(reason("directories", &error)),
        });
        let watcher = made.map_err(|error| shared.fault(reason("directories", &error))).ok();
        let (files, dirs) = (BTreeSet::new(), BTreeSet::new());
        Self(Some(On { shared, paths, task, watcher, files, dirs, incomplete: false }))
    }

    /// Watches the literal paths and the directories of each source (what
    /// [`super::Tailer::to_watch`] says). It costs little when nothing has changed; what could not
    /// be watched is tried again.
    pub fn watch(&mut self, sources: &[(Vec<PathBuf>, Vec<PathBuf>)]) {
        let Some(on) = &mut self.0 else { return };
        on.map(sources);
        on.incomplete = false;
        let files = sources.iter().flat_map(|(files, _)| files);
        let fresh: Vec<PathBuf> = files.filter(|file| !on.files.contains(*file)).cloned().collect();
        for file in fresh {
            // a missing parent is an error of linemux's, and no fault: the timer finds the file
            if !file.parent().is_some_and(Path::is_dir) || on.paths.try_send(file.clone()).is_err()
            {
                on.incomplete = true;
                continue;
            }
            on.files.insert(file);
        }
        let dirs: BTreeSet<PathBuf> =
            sources.iter().flat_map(|(_, dirs)| dirs.iter().cloned()).collect();
        let Some(watcher) = &mut on.watcher else { return };
        for gone in on.dirs.difference(&dirs) {
            // it may be gone from the disk, and its watch with it
            let _ = watcher.unwatch(gone);
        }
        let fresh: Vec<PathBuf> = dirs.difference(&on.dirs).cloned().collect();
        on.dirs.retain(|dir| dirs.contains(dir));
        for dir in fresh {
            match watcher.watch(&dir, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    on.dirs.insert(dir);
                }
                Err(error) => {
                    on.incomplete = true;
                    on.shared.fault(reason(&dir.display().to_string(), &error));
                }
            }
        }
    }

    /// Whether something moved since the last call.
    #[must_use]
    pub fn take(&self) -> bool {
        let Some(on) = &self.0 else { return false };
        let flags = on.shared.flags.read().unwrap_or_else(PoisonError::into_inner);
        flags.iter().fold(false, |any, flag| any | flag.swap(false, Ordering::AcqRel))
    }

    /// Whether everything is watched, so that looks by the timer may be rarer.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.0.as_ref().is_some_and(|on| {
            !on.incomplete
                && !on.task.is_finished()
                && on.watcher.is_some()
                && on.shared.faults.load(Ordering::Relaxed) == 0
        })
    }

    /// How many watches could not be made, or broke.
    #[must_use]
    pub fn faults(&self) -> u64 {
        self.0.as_ref().map_or(0, |on| on.shared.faults.load(Ordering::Relaxed))
    }

    /// How often the kernel's queue ran over, for `bitacora_inotify_overflows_total`.
    #[must_use]
    pub fn overflows(&self) -> u64 {
        self.0.as_ref().map_or(0, |on| on.shared.overflows.load(Ordering::Relaxed))
    }

    /// The first fault, once, for the log.
    pub fn fault(&self) -> Option<String> {
        let on = self.0.as_ref()?;
        if on.task.is_finished() && on.shared.faults.load(Ordering::Relaxed) == 0 {
            on.shared
                .fault("the task that watches files has ended; files are found by timer".into());
        }
        on.shared.fault.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl On {
    fn map(&self, sources: &[(Vec<PathBuf>, Vec<PathBuf>)]) {
        let mut map: HashMap<PathBuf, Vec<usize>> = HashMap::new();
        for (source, (files, dirs)) in sources.iter().enumerate() {
            for path in files.iter().chain(dirs) {
                map.entry(path.clone()).or_default().push(source);
            }
        }
        *self.shared.sources.write().unwrap_or_else(PoisonError::into_inner) = map;
        let mut flags = self.shared.flags.write().unwrap_or_else(PoisonError::into_inner);
        flags.resize_with(sources.len(), AtomicBool::default);
    }
}

impl Drop for On {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Drains linemux's events, and adds paths as they come.
async fn watch_paths(shared: Arc<Shared>, mut queue: mpsc::Receiver<PathBuf>) {
    let mut events = match MuxedEvents::new() {
        Ok(events) => events,
        Err(error) => return shared.fault(reason("files", &error)),
    };
    let mut any = false;
    loop {
        tokio::select! {
            path = queue.recv() => {
                let Some(path) = path else { return };
                match events.add_file(&path).await {
                    Ok(_) => any = true,
                    Err(error) => shared.fault(reason(&path.display().to_string(), &error)),
                }
            }
            event = events.next_event(), if any => match event {
                Ok(Some(event)) => shared.event(&event),
                Ok(None) => any = false,
                Err(error) => shared.fault(reason("files", &error)),
            },
        }
    }
}

fn reason(what: &str, error: &dyn std::error::Error) -> String {
    format!(
        "{what} cannot be watched: {error}; changes are found by timer (raise \
         fs.inotify.max_user_watches or fs.inotify.max_user_instances to have them sooner)"
    )
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
    use std::time::Duration;

    use super::*;

    fn wake(runtime: &tokio::runtime::Runtime) -> (Wake, Receiver<()>) {
        let (sender, receiver) = channel();
        let wake =
            Wake::on(runtime.handle(), Arc::new(move || sender.send(()).unwrap_or_default()));
        (wake, receiver)
    }

    /// Appends until a wake-up comes: a watch may be made a little later than it is asked for.
    fn append_until_woken(path: &Path, woken: &Receiver<()>) {
        for _ in 0..100 {
            let mut file = fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
            file.write_all(b"line\n").unwrap();
            match woken.recv_timeout(Duration::from_millis(100)) {
                Ok(()) => return,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => panic!("the watch has ended"),
            }
        }
        panic!("no wake-up came");
    }

    #[test]
    fn an_appended_line_wakes_once_until_the_flag_is_taken() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build();
        let runtime = runtime.unwrap();
        let dir = tempfile::tempdir().unwrap();
        for (files, dirs) in
            [(vec![dir.path().join("later.log")], vec![]), (vec![], vec![dir.path().to_owned()])]
        {
            let path = dir.path().join("later.log");
            let (mut wake, woken) = wake(&runtime);
            wake.watch(&[(files, dirs)]);
            append_until_woken(&path, &woken);
            assert!(wake.take(), "{:?}", wake.fault());
            assert_eq!((wake.faults(), wake.fault()), (0, None));
            assert!(wake.is_complete());
        }
    }

    #[test]
    fn a_directory_that_is_not_there_is_a_fault_that_is_said_once() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build();
        let runtime = runtime.unwrap();
        let (mut wake, _woken) = wake(&runtime);
        for _ in 0..3 {
            wake.watch(&[(vec![], vec!["/nowhere/at/all".into()])]);
        }
        assert_eq!(wake.faults(), 3);
        assert!(wake.fault().unwrap().contains("/nowhere/at/all"));
        assert_eq!(wake.fault(), None);
        assert!(!wake.is_complete());
        assert!(!Wake::off().is_complete());
    }
}
