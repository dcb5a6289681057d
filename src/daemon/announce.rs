//! Brings origins, contexts and loss receipts into the store before anything that needs them.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::clock::wall_us;
use super::health::Health;
use super::inbox::{Command, Inbox};
use crate::backoff::Backoff;
use crate::ledger::{Context, OriginRecord};
use crate::state::{Post, Stamps, State};
use crate::stores::Store;

/// Announcements that wait at most.
pub const ANNOUNCEMENTS_WAITING_MAX: usize = 256;
/// Announcements that are with the store at once: SQLite commits them together.
const AT_ONCE_MAX: usize = 64;
/// How often the outbox is looked at while something may be in it.
const OUTBOX_EVERY: Duration = Duration::from_secs(2);

/// An origin, or a further context of it.
#[derive(Debug)]
pub struct Announcement {
    /// Its record.
    pub record: OriginRecord,
    /// All its contexts.
    pub contexts: Vec<Context>,
}

/// What the tasks here work with.
#[derive(Clone)]
pub struct Announcing {
    /// Where it goes.
    pub store: Arc<dyn Store>,
    /// Write timestamps.
    pub stamps: Arc<Stamps>,
    /// Who waits for the answer.
    pub tail: Arc<Inbox>,
    /// Who is told of refusals.
    pub health: Arc<Health>,
    /// Ends it.
    pub stop: CancellationToken,
}

/// Runs until the tailer has gone, or until the stop.
pub async fn run(announcing: Announcing, mut announcements: mpsc::Receiver<Announcement>) {
    let at_once = Arc::new(Semaphore::new(AT_ONCE_MAX));
    let tasks = TaskTracker::new();
    while let Some(announcement) = announcements.recv().await {
        let Ok(permit) = Arc::clone(&at_once).acquire_owned().await else { return };
        let announcing = announcing.clone();
        tasks.spawn(async move {
            announcing.one(announcement).await;
            drop(permit);
        });
    }
    tasks.close();
    tasks.wait().await;
}

impl Announcing {
    async fn one(self, announcement: Announcement) {
        let Announcement { record, contexts } = announcement;
        let stamp = self.stamps.take(1 + contexts.len(), wall_us());
        let mut backoff = Backoff::new(FIRST_WAIT, MAX_WAIT, record.id.unsigned_abs());
        loop {
            let answer = tokio::select! {
                answer = self.store.put_origin(&record, &contexts, stamp) => answer,
                () = self.stop.cancelled() => return,
            };
            match answer {
                Ok(()) => break,
                Err(error) => self.health.store_refused(&error),
            }
            tokio::select! {
                () = tokio::time::sleep(backoff.next()) => {}
                () = self.stop.cancelled() => return,
            }
        }
        self.tail.tell(Command::Announced(record.id));
    }
}

/// First wait after a refusal.
pub const FIRST_WAIT: Duration = Duration::from_millis(100);
/// Longest wait between tries.
pub const MAX_WAIT: Duration = Duration::from_secs(15);

/// Empties the outbox into the store, for as long as the daemon runs.
pub async fn post(announcing: Announcing, state: Arc<State>) {
    let stop = announcing.stop.clone();
    loop {
        tokio::select! {
            () = state.may_have_posts() => {}
            () = stop.cancelled() => return,
        }
        match tokio::task::block_in_place(|| state.outbox()) {
            Ok(posts) if !posts.is_empty() => announcing.posts(&state, &posts).await,
            Ok(_) => {}
            Err(error) => announcing.health.state_refused(&error),
        }
        tokio::select! {
            () = tokio::time::sleep(OUTBOX_EVERY) => {}
            () = stop.cancelled() => return,
        }
    }
}

impl Announcing {
    async fn posts(&self, state: &State, posts: &[Post]) {
        let mut receipts = Vec::new();
        let mut letters = Vec::new();
        for post in posts {
            match post {
                Post::Receipt(receipt) => receipts.push(receipt.clone()),
                Post::Letter(letter) => letters.push(letter.clone()),
            }
        }
        let stamp = self.stamps.take(posts.len(), wall_us());
        let mut done: Vec<Post> = Vec::new();
        if !receipts.is_empty() && self.store.put_receipts(&receipts, stamp).await.is_ok() {
            done.extend(receipts.into_iter().map(Post::Receipt));
        }
        if !letters.is_empty() && self.store.put_dead_letters(&letters, stamp).await.is_ok() {
            done.extend(letters.into_iter().map(Post::Letter));
        }
        if !done.is_empty()
            && let Err(error) = tokio::task::block_in_place(|| state.remove_posts(&done))
        {
            self.health.state_refused(&error);
        }
    }
}
