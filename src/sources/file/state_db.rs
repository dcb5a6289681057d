//! `state.db` as the tailer sees it.

use rusqlite::{Connection, Transaction};

use super::state::{Change, Detail, KnownOrigin, NewOrigin, Sum, TailState, TailStateError};
use crate::ledger::{Context, OriginId};
use crate::state::outbox::put_post;
use crate::state::positions::forget_origin;
use crate::state::rows::{
    INSERT_CONTEXT, INSERT_ORIGIN, RECORD_COLUMNS, from_json, insert_origin, path_bytes, path_of,
    record, signed, to_json, unsigned,
};
use crate::state::{Post, State, StateError};

impl From<StateError> for TailStateError {
    fn from(error: StateError) -> Self {
        Self::Unavailable { detail: error.to_string() }
    }
}

impl TailState for State {
    fn origins(&self) -> Result<Vec<KnownOrigin>, TailStateError> {
        let sql = format!(
            "SELECT {RECORD_COLUMNS}, path, mtime_ns, end_bytes, marker, reach, finished, retired, \
             reach_marker \
             FROM origins ORDER BY id"
        );
        Ok(self.read(|db| {
            let mut statement = db.prepare_cached(&sql)?;
            let known = statement.query_map([], |row| {
                Ok(KnownOrigin {
                    record: record(row)?,
                    path: path_of(row.get_ref(13)?.as_bytes()?),
                    mtime_ns: row.get(14)?,
                    end: unsigned(row.get(15)?),
                    marker: unsigned(row.get(16)?),
                    reach: unsigned(row.get(17)?),
                    finished: row.get(18)?,
                    retired: row.get(19)?,
                    reach_marker: row.get::<_, Option<i64>>(20)?.map(unsigned),
                })
            })?;
            known.collect()
        })?)
    }

    fn detail(&self, origin: OriginId) -> Result<Detail, TailStateError> {
        let mut detail = self.read(|db| {
            Ok(Detail {
                contexts: contexts(db, origin)?,
                sums: sums(db, origin)?,
                ..Detail::default()
            })
        })?;
        if let Some(span) = self.last_span(origin)? {
            detail.running_ms = span.running_ms;
            detail.markers = span.markers;
            detail.carried = span.carried;
        }
        Ok(detail)
    }

    fn add_origins(&self, origins: &[NewOrigin]) -> Result<(), TailStateError> {
        Ok(self.write(|tx| {
            for new in origins {
                let reach = new.record.first_offset;
                let mut insert = tx.prepare_cached(INSERT_ORIGIN)?;
                insert_origin(
                    &mut insert,
                    &new.record,
                    &new.path,
                    new.mtime_ns,
                    new.marker,
                    reach,
                )?;
                add_context(tx, &new.context)?;
            }
            Ok(())
        })?)
    }

    fn add_contexts(&self, contexts: &[Context]) -> Result<(), TailStateError> {
        Ok(self.write(|tx| contexts.iter().try_for_each(|context| add_context(tx, context)))?)
    }

    fn raise_reaches(
        &self,
        reaches: &[(OriginId, u64, Option<u64>)],
    ) -> Result<(), TailStateError> {
        Ok(self.write(|tx| {
            let sql = "UPDATE origins SET reach = ?2, reach_marker = ?3 \
                       WHERE id = ?1 AND reach < ?2";
            let mut statement = tx.prepare_cached(sql)?;
            for (origin, to, marker) in reaches {
                statement.execute((origin, signed(*to), marker.map(signed)))?;
            }
            Ok(())
        })?)
    }

    fn update(&self, changes: &[Change]) -> Result<(), TailStateError> {
        Ok(self.write(|tx| changes.iter().try_for_each(|change| apply(tx, change)))?)
    }

    fn is_seen(&self, key: &str) -> Result<bool, TailStateError> {
        Ok(self.read(|db| db.prepare_cached("SELECT 1 FROM seen WHERE key = ?1")?.exists([key]))?)
    }

    fn mark_seen(&self, keys: &[String]) -> Result<(), TailStateError> {
        Ok(self.write(|tx| {
            let mut statement =
                tx.prepare_cached("INSERT OR IGNORE INTO seen (key) VALUES (?1)")?;
            for key in keys {
                statement.execute([key])?;
            }
            Ok(())
        })?)
    }
}

fn contexts(db: &Connection, origin: OriginId) -> rusqlite::Result<Vec<Context>> {
    let sql = "SELECT context FROM contexts WHERE origin = ?1 ORDER BY from_bytes";
    let mut statement = db.prepare_cached(sql)?;
    statement.query_map([origin], |row| from_json(row.get_ref(0)?.as_str()?))?.collect()
}

fn sums(db: &Connection, origin: OriginId) -> rusqlite::Result<Vec<Sum>> {
    let sql = "SELECT start_bytes, end_bytes, crc FROM sums WHERE origin = ?1 ORDER BY start_bytes";
    let mut statement = db.prepare_cached(sql)?;
    let sums = statement.query_map([origin], |row| {
        Ok(Sum {
            start_bytes: unsigned(row.get(0)?),
            end_bytes: unsigned(row.get(1)?),
            crc: unsigned(row.get(2)?),
        })
    })?;
    sums.collect()
}

fn add_context(tx: &Transaction<'_>, context: &Context) -> rusqlite::Result<()> {
    let text = to_json(context);
    let values = (context.origin, signed(context.from_bytes), text);
    tx.prepare_cached(INSERT_CONTEXT)?.execute(values).map(drop)
}

fn apply(tx: &Transaction<'_>, change: &Change) -> rusqlite::Result<()> {
    let changed = match change {
        Change::Moved { origin, path } => tx
            .prepare_cached("UPDATE origins SET path = ?2 WHERE id = ?1")?
            .execute((origin, path_bytes(path))),
        Change::Adopted { origin, kernel, encoding, path } => tx
            .prepare_cached(
                "UPDATE origins SET device = ?2, inode = ?3, generation = ?4, born_ns = ?5, \
                 encoding = ?6, path = ?7 WHERE id = ?1",
            )?
            .execute((
                origin,
                signed(kernel.device),
                signed(kernel.inode),
                kernel.generation.map(signed),
                kernel.born_ns,
                encoding.name(),
                path_bytes(path),
            )),
        Change::Finished { origin, finished } => tx
            .prepare_cached("UPDATE origins SET finished = ?2 WHERE id = ?1")?
            .execute((origin, finished)),
        Change::Retired { origin, retired } => tx
            .prepare_cached("UPDATE origins SET retired = ?2 WHERE id = ?1")?
            .execute((origin, retired)),
        Change::Forgotten { origin } => return forget_origin(tx, *origin),
        Change::Lost(receipt) => return put_post(tx, &Post::Receipt((**receipt).clone())),
    };
    changed.map(drop)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    use super::*;
    use crate::key::Table;
    use crate::ledger::{Encoding, KernelIdentity, OriginRecord};
    use crate::sources::file::state::MemoryState;

    fn new_origin(id: OriginId) -> NewOrigin {
        let record = OriginRecord {
            id,
            machine: "m".to_owned(),
            host: "web1".to_owned(),
            path: PathBuf::from("/var/log/syslog"),
            kernel: KernelIdentity { device: 1, inode: 2, generation: None, born_ns: Some(3) },
            head_hash: u64::MAX,
            head_bytes: 5,
            first_offset: 6,
            born_ms: 7,
            encoding: Encoding::Plain,
        };
        let context = context(id, 6);
        NewOrigin {
            record,
            path: PathBuf::from("/var/log/syslog.1"),
            mtime_ns: 8,
            marker: 9,
            context,
        }
    }

    fn context(origin: OriginId, from_bytes: u64) -> Context {
        Context {
            origin,
            from_bytes,
            source: "syslog".to_owned(),
            table: Table::Infrastructure,
            format: "syslog".to_owned(),
            options: BTreeMap::new(),
            timezone: "UTC".to_owned(),
            anchor_ms: 1,
            max_line_bytes: 2,
            parser_version: 3,
        }
    }

    /// What a tailer does in its life, on any state.
    fn live(state: &dyn TailState) {
        state.add_origins(&[new_origin(1), new_origin(2)]).unwrap();
        state.add_contexts(&[context(1, 50), context(1, 20)]).unwrap();
        let replaced = Context { source: "other".to_owned(), ..context(1, 50) };
        state.add_contexts(&[replaced]).unwrap();
        state.raise_reaches(&[(1, 1000, Some(u64::MAX)), (2, 500, None)]).unwrap();
        state.raise_reaches(&[(1, 900, Some(7))]).unwrap();
        let path = PathBuf::from("/var/log/syslog.2.gz");
        let kernel = KernelIdentity { device: 4, inode: 5, generation: Some(6), born_ns: None };
        state
            .update(&[
                Change::Moved { origin: 2, path: "/elsewhere".into() },
                Change::Adopted { origin: 1, kernel, encoding: Encoding::Gzip, path },
                Change::Finished { origin: 1, finished: true },
                Change::Retired { origin: 2, retired: true },
            ])
            .unwrap();
        state.add_origins(&[new_origin(3)]).unwrap();
        state.add_contexts(&[context(3, 50)]).unwrap();
        state.update(&[Change::Forgotten { origin: 3 }]).unwrap();
        state.mark_seen(&["nginx:/var/log/a".to_owned()]).unwrap();
        state.mark_seen(&["nginx:/var/log/a".to_owned()]).unwrap();
    }

    #[test]
    fn the_database_and_the_memory_state_remember_alike() {
        let dir = tempfile::tempdir().unwrap();
        let memory = MemoryState::default();
        live(&memory);
        live(&State::open(dir.path(), 0).unwrap());
        let state = State::open(dir.path(), 0).unwrap();
        assert_eq!(state.origins().unwrap(), memory.origins().unwrap());
        for origin in [1, 2, 3] {
            assert_eq!(state.detail(origin).unwrap(), memory.detail(origin).unwrap());
        }
        assert!(state.detail(3).unwrap().contexts.is_empty(), "it was forgotten");
        assert!(state.is_seen("nginx:/var/log/a").unwrap());
        assert!(!state.is_seen("nginx:/var/log/b").unwrap());
    }

    /// A daemon that is killed after any step, before it hands on what the step said.
    #[test]
    fn an_origin_is_not_finished_without_the_receipt_of_what_it_lost() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("a.log");
        std::fs::write(&log, "one line\nand another\n").unwrap();
        let state = std::sync::Arc::new(State::open(&dir.path().join("state"), 0).unwrap());
        let sources = vec![super::super::tests::source(dir.path(), "s", &["a.log"])];
        let mut config = super::super::TailerConfig::new(sources, "h", state.machine());
        config.ids = Box::new(|| 7);
        let kept = std::sync::Arc::clone(&state) as std::sync::Arc<dyn TailState>;
        let mut tailer =
            super::super::Tailer::new(config, kept, std::sync::Arc::default()).unwrap();
        let mut now = super::super::Now { mono_ms: 0, wall_ms: 1_795_341_600_000 };
        for step in 0..60 {
            if step == 20 {
                std::fs::File::create(&log).unwrap();
            }
            now.mono_ms += 300;
            tailer.step(now, 0, &mut Vec::new());
            tailer.announced(7);
            let finished = state.origins().unwrap().iter().any(|known| known.finished);
            let receipts = state.outbox().unwrap().len();
            assert_eq!(usize::from(finished), receipts, "step {step}");
        }
        assert!(state.origins().unwrap()[0].finished);
    }
}
