//! How the threads of the sources, tailer and drain, are told things and woken.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, Thread};

use crate::config::FileSource;
use crate::ledger::OriginId;

/// What the thread of a source is told.
#[derive(Debug, Clone)]
pub enum Command {
    /// The store has an origin and its contexts.
    Announced(OriginId),
    /// Origins are committed.
    Committed {
        /// Up to which end, with the marker there.
        ends: Vec<(OriginId, u64, u64)>,
        /// `state.db` knows it.
        saved: bool,
    },
    /// A file that was cut back goes on at an offset.
    CutBack(OriginId, u64),
    /// Retention has ended these origins.
    Forget(Vec<OriginId>),
    /// The sources are these.
    Reload(Vec<FileSource>),
    /// No more is read.
    Stop,
}

/// How others reach the thread of a source.
#[derive(Debug, Default)]
pub struct Inbox {
    commands: Mutex<Vec<Command>>,
    thread: OnceLock<Thread>,
    /// Another source's thread, that hears the same.
    also: OnceLock<Arc<Inbox>>,
}

impl Inbox {
    /// Tells it something, and wakes it.
    pub fn tell(&self, command: Command) {
        if let Some(also) = self.also.get() {
            also.tell(command.clone());
        }
        self.commands.lock().unwrap_or_else(PoisonError::into_inner).push(command);
        self.wake();
    }

    /// Ends its sleep.
    pub fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    /// Ends the sleep of every source's thread: the workers have room.
    pub fn wake_all(&self) {
        self.wake();
        if let Some(also) = self.also.get() {
            also.wake();
        }
    }

    /// From here on another source's thread hears the same.
    pub fn share(&self, also: Arc<Self>) {
        // once: there are two sources
        let _ = self.also.set(also);
    }

    /// The thread that calls this is the one that is reached.
    pub fn begin(&self) {
        // set once: the thread begins once
        let _ = self.thread.set(thread::current());
    }

    /// What was told since the last time.
    pub fn take(&self) -> Vec<Command> {
        std::mem::take(&mut *self.commands.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
