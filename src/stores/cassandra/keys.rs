//! The keys of all rows of a table, read range by range of the partitions' tokens.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use scylla::response::PagingState;
use scylla::value::CqlTimestamp;
use tokio::sync::mpsc;

use super::Link;
use super::ask::page;
use crate::key::{RowKey, Table};
use crate::stores::StoreError;

/// Into how many ranges of tokens a full scan is cut, and how many are read at once.
const RANGES: i64 = 64;
const RANGES_AT_ONCE: usize = 4;

/// Reads all keys of a table, range of tokens by range of tokens; `false` when the visitor has
/// had enough.
pub(super) async fn visit_table(
    link: &Arc<Link>,
    table: Table,
    visitor: &mut (dyn FnMut(Table, RowKey) -> bool + Send),
) -> Result<bool, StoreError> {
    let (sender, mut pages) = mpsc::channel::<Result<Vec<RowKey>, StoreError>>(RANGES_AT_ONCE);
    let next = Arc::new(AtomicI64::new(0));
    for _ in 0..RANGES_AT_ONCE {
        let (link, sender, next) = (Arc::clone(link), sender.clone(), Arc::clone(&next));
        tokio::spawn(async move {
            loop {
                let range = next.fetch_add(1, Ordering::Relaxed);
                if range >= RANGES {
                    return;
                }
                let result = send_range(&link, table, range, &sender).await;
                if let Err(error) = result {
                    // Without a receiver nobody wants to know.
                    drop(sender.send(Err(error)).await);
                    return;
                }
            }
        });
    }
    drop(sender);
    while let Some(keys) = pages.recv().await {
        if !keys?.into_iter().all(|key| visitor(table, key)) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The tokens of a range: above the first, up to the second. No token is `i64::MIN`.
fn tokens(range: i64) -> (i64, i64) {
    const WIDTH: i64 = i64::MAX / RANGES * 2;
    let start = |range: i64| i64::MIN.wrapping_add(WIDTH.wrapping_mul(range));
    (start(range), if range == RANGES - 1 { i64::MAX } else { start(range + 1) })
}

type Key = (CqlTimestamp, i64, i64);

fn key_of((timestamp, origin, offset_bytes): Key) -> RowKey {
    RowKey { timestamp_ms: timestamp.0, origin, offset_bytes }
}

async fn send_range(
    link: &Link,
    table: Table,
    range: i64,
    sender: &mpsc::Sender<Result<Vec<RowKey>, StoreError>>,
) -> Result<(), StoreError> {
    let (above, to) = tokens(range);
    let mut next = Some(PagingState::start());
    while let Some(from) = next.take() {
        let (keys, more) = match link.reads.of(table) {
            Some(statements) => {
                let statement = &statements.keys;
                let (rows, more) =
                    page::<Key>(&link.session, statement, &(above, to), from).await?;
                (rows.into_iter().map(key_of).collect(), more)
            }
            None => link.reads.events.keys(&link.session, (above, to), from).await?,
        };
        next = more;
        if sender.send(Ok(keys)).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ranges_cover_all_tokens_and_touch() {
        assert_eq!(tokens(0).0, i64::MIN);
        assert_eq!(tokens(RANGES - 1).1, i64::MAX);
        for range in 1..RANGES {
            assert_eq!(tokens(range - 1).1, tokens(range).0);
            assert!(tokens(range).0 < tokens(range).1);
        }
    }
}
