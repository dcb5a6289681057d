//! Records of several lines, some of which a power cut has taken back.

use std::io::{Seek, Write};

use super::*;
use crate::key::Table;
use crate::stores::sqlite::{Options, SqliteStore};

const FIRST: &str = "2026-11-22 10:00:00.001 UTC [1] LOG:  one\n";
const OTHER: &str = "2026-11-22 10:00:00.002 UTC [2] LOG:  two\n";
const DETAIL: &str = "2026-11-22 10:00:00.003 UTC [1] DETAIL:  of one\n";
const NEW: &str = "2026-11-22 10:00:09.001 UTC [3] LOG:  after the cut\n";
const NEW_DETAIL: &str = "2026-11-22 10:00:09.002 UTC [1] DETAIL:  after the cut\n";

fn request(text: &str, to: usize) -> CutBack {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file.rewind().unwrap();
    let context = Context {
        origin: 7,
        from_bytes: 0,
        source: "postgresql".to_owned(),
        table: Table::Infrastructure,
        format: "postgresql".to_owned(),
        options: BTreeMap::new(),
        timezone: "UTC".to_owned(),
        anchor_ms: 0,
        max_line_bytes: 1 << 18,
        parser_version: 1,
    };
    let (encoding, to, contexts) = (Encoding::Plain, to as u64, vec![context]);
    CutBack { origin: 7, path: "a.log".into(), file, encoding, from: 0, end: 0, to, contexts }
}

/// A store that has what a run wrote of `text`, but for the records that begin with `lost`.
fn store_of(dir: &std::path::Path, text: &str, lost: &str) -> Arc<dyn Store> {
    let store = SqliteStore::start(dir.to_owned(), Options::default()).unwrap();
    let fill = Fill::new(
        FillLimits { batch_rows: 1, batch_age_ms: 0, open_bytes: 1 << 20 },
        "host".into(),
        Box::new(|_, _, _| None),
        Box::new(|_| 1),
    );
    let mut worker = Worker::new(fill, Arc::new(Buffers::default()), Numbers::of_worker(0, 1));
    let context = request("", 0).contexts.remove(0);
    let mut output = Output::default();
    let open = Opening {
        origin: 7,
        at: 0,
        context,
        first_anchor_ms: 0,
        before: Vec::new(),
        running_ms: None,
        carried: Vec::new(),
    };
    let chunk = Chunk { origin: 7, start: 0, bytes: text.as_bytes().to_vec() };
    for input in [Input::Open(open), Input::Chunk(chunk), Input::Finish { origin: 7 }] {
        worker.take(input, 0, &mut output).unwrap();
    }
    worker.ship_all(0, &mut output);
    for batch in output.batches {
        let begins = |row: &crate::batch::Row| {
            let offset = usize::try_from(row.key.offset_bytes).unwrap();
            !lost.is_empty() && text[offset..].starts_with(lost)
        };
        if !batch.rows.iter().any(begins) {
            block_on(store.write(Arc::new(batch))).unwrap();
        }
    }
    Arc::new(store)
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// Where the file goes on that has `text` now, read up to `to`.
fn goes_on(store: &Arc<dyn Store>, text: &str, to: usize) -> usize {
    let rows = rows_of(request(text, to), store).unwrap();
    usize::try_from(block_on(rows.goes_on_at(&**store)).unwrap()).unwrap()
}

#[test]
fn a_line_is_the_origins_if_it_stands_in_a_row_that_began_before_others() {
    let dir = tempfile::tempdir().unwrap();
    let before = [FIRST, OTHER, DETAIL].concat();
    let store = store_of(dir.path(), &before, OTHER);
    let now = [&before, NEW].concat();
    assert_eq!(goes_on(&store, &now, now.len()), before.len());
}

#[test]
fn a_line_that_continues_a_stored_record_with_another_text_was_written_after_the_cut() {
    let dir = tempfile::tempdir().unwrap();
    let store = store_of(dir.path(), &[FIRST, OTHER, DETAIL].concat(), "");
    for after in [[NEW, NEW_DETAIL].concat(), NEW_DETAIL.to_owned()] {
        let now = [FIRST, OTHER, &after].concat();
        assert_eq!(goes_on(&store, &now, now.len()), FIRST.len() + OTHER.len());
    }
}

#[test]
fn the_beginning_of_a_line_is_not_taken_for_a_line() {
    let dir = tempfile::tempdir().unwrap();
    let before = [FIRST, "\tand more of it\n"].concat();
    let store = store_of(dir.path(), &before, "");
    let now = [FIRST, NEW].concat();
    // as far as the file once was: in the middle of a time
    assert_eq!(goes_on(&store, &now, FIRST.len() + 12), FIRST.len());
}

#[test]
fn a_record_may_be_stored_with_fewer_lines_than_the_file_has() {
    let dir = tempfile::tempdir().unwrap();
    let store = store_of(dir.path(), FIRST, "");
    let now = [FIRST, DETAIL].concat();
    assert_eq!(goes_on(&store, &now, now.len()), FIRST.len());
}
