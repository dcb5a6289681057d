//! What waits here until the store takes it: loss receipts and dead letters. And watermarks.

use std::sync::atomic::Ordering;

use rusqlite::{Connection, Transaction};

use super::rows::{from_json, to_json};
use super::{State, StateError};
use crate::ledger::{DeadLetter, LossReceipt, Watermark};

/// One thing in the outbox.
#[derive(Debug, Clone, PartialEq)]
pub enum Post {
    /// A loss receipt.
    Receipt(LossReceipt),
    /// A dead letter.
    Letter(DeadLetter),
}

impl Post {
    const RECEIPT: &str = "receipt";
    const LETTER: &str = "letter";

    /// Its kind and its key in the store, so that what is posted twice is there once.
    fn key(&self) -> (&'static str, String) {
        match self {
            Self::Receipt(LossReceipt { origin, start_bytes, cause, .. }) => {
                (Self::RECEIPT, format!("{origin}/{start_bytes}/{}", cause.name()))
            }
            Self::Letter(DeadLetter { origin, offset_bytes, timestamp_ms, .. }) => {
                (Self::LETTER, format!("{origin}/{offset_bytes}/{timestamp_ms}"))
            }
        }
    }

    fn text(&self) -> String {
        match self {
            // the path is for people; a name that is no text is shown as well as can be
            Self::Receipt(receipt) => to_json(&LossReceipt {
                path: receipt.path.to_string_lossy().into_owned().into(),
                ..receipt.clone()
            }),
            Self::Letter(letter) => to_json(letter),
        }
    }

    fn of(kind: &str, text: &str) -> rusqlite::Result<Self> {
        if kind == Self::RECEIPT {
            from_json(text).map(Self::Receipt)
        } else {
            from_json(text).map(Self::Letter)
        }
    }
}

/// Puts one thing into the outbox.
pub(crate) fn put_post(tx: &Transaction<'_>, post: &Post) -> rusqlite::Result<()> {
    let (kind, key) = post.key();
    let sql = "INSERT OR REPLACE INTO outbox (kind, key, value) VALUES (?1, ?2, ?3)";
    tx.prepare_cached(sql)?.execute((kind, key, post.text())).map(drop)
}

impl State {
    /// Puts things into the outbox.
    ///
    /// # Errors
    ///
    /// Nothing was written.
    pub fn post(&self, posts: &[Post]) -> Result<(), StateError> {
        self.write(|tx| posts.iter().try_for_each(|post| put_post(tx, post)))
    }

    /// Whether the outbox may have something; costs nothing.
    pub fn has_posts(&self) -> bool {
        self.posts.load(Ordering::Acquire)
    }

    /// Waits until the outbox may have something; for one task.
    pub async fn may_have_posts(&self) {
        while !self.has_posts() {
            self.written.notified().await;
        }
    }

    /// Everything in the outbox.
    ///
    /// # Errors
    ///
    /// The state cannot be read.
    pub fn outbox(&self) -> Result<Vec<Post>, StateError> {
        self.posts.store(false, Ordering::Release);
        let posts = self.read(|db| {
            let mut statement = db.prepare_cached("SELECT kind, value FROM outbox")?;
            let mut rows = statement.query([])?;
            let mut posts = Vec::new();
            while let Some(row) = rows.next()? {
                posts.push(Post::of(row.get_ref(0)?.as_str()?, row.get_ref(1)?.as_str()?)?);
            }
            Ok(posts)
        });
        if !posts.as_ref().is_ok_and(Vec::is_empty) {
            self.posts.store(true, Ordering::Release);
        }
        posts
    }

    /// Takes things out of the outbox: the store has them, or a person dropped them.
    ///
    /// # Errors
    ///
    /// Nothing was written.
    pub fn remove_posts(&self, posts: &[Post]) -> Result<(), StateError> {
        self.write(|tx| {
            for post in posts {
                let (kind, key) = post.key();
                tx.prepare_cached("DELETE FROM outbox WHERE kind = ?1 AND key = ?2")?
                    .execute((kind, key))?;
            }
            Ok(())
        })
    }

    /// Keeps the newest watermark of each source and host.
    ///
    /// # Errors
    ///
    /// Nothing was written.
    pub fn put_watermarks(&self, watermarks: &[Watermark]) -> Result<(), StateError> {
        self.write(|tx| {
            for watermark in watermarks {
                let sql =
                    "INSERT OR REPLACE INTO watermarks (source, host, value) VALUES (?1, ?2, ?3)";
                let values = (&watermark.source, &watermark.host, to_json(watermark));
                tx.prepare_cached(sql)?.execute(values)?;
            }
            Ok(())
        })
    }

    /// The newest watermark of each source and host.
    ///
    /// # Errors
    ///
    /// The state cannot be read.
    pub fn watermarks(&self) -> Result<Vec<Watermark>, StateError> {
        self.read(|db: &Connection| {
            let mut statement = db.prepare_cached("SELECT value FROM watermarks")?;
            let mut rows = statement.query([])?;
            let mut watermarks = Vec::new();
            while let Some(row) = rows.next()? {
                watermarks.push(from_json(row.get_ref(0)?.as_str()?)?);
            }
            Ok(watermarks)
        })
    }
}
