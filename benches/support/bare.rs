//! The bare loop: somebody who has nothing but the driver, and the same rows.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bitacora::batch::Batch;
use bitacora::config::Cassandra;
use scylla::SerializeRow;
use scylla::client::session::Session;
use scylla::statement::batch::{Batch as Request, BatchType};
use scylla::value::{CqlDate, CqlTimestamp};
use tokio::task::JoinSet;

/// Rows of every batch.
pub const ROWS: usize = 1000;

/// A row as somebody would write it who has nothing but the driver.
#[derive(SerializeRow)]
#[scylla(flavor = "enforce_order", skip_name_checks)]
struct BareRow {
    log_date: CqlDate,
    source: Arc<str>,
    bucket: i16,
    timestamp: CqlTimestamp,
    origin: i64,
    offset_bytes: i64,
    level: &'static str,
    message: String,
    host: Arc<str>,
    metadata: String,
    stamp: i64,
}

fn bare_rows(batch: &Batch) -> Vec<BareRow> {
    let owned = |slice| String::from_utf8(batch.text(slice).to_vec()).unwrap();
    (0..)
        .zip(&batch.rows)
        .map(|(index, row)| BareRow {
            log_date: CqlDate(batch.partition.day.cast_unsigned() ^ (1 << 31)),
            source: Arc::clone(&batch.partition.source),
            bucket: batch.partition.bucket,
            timestamp: CqlTimestamp(row.key.timestamp_ms),
            origin: row.key.origin,
            offset_bytes: row.key.offset_bytes,
            level: row.level.name(),
            message: owned(&row.message),
            host: Arc::clone(&batch.host),
            metadata: owned(&row.metadata),
            stamp: batch.row_stamp(index),
        })
        .collect()
}

/// One run.
pub struct Run {
    /// Rows a second, over all of it.
    pub rows_per_s: f64,
    /// How long each batch took, in order.
    pub waits: Vec<Duration>,
}

impl Run {
    /// The wait that `share` percent of the batches did not exceed.
    #[allow(dead_code, reason = "each benchmark uses its part of this")]
    pub fn wait(&self, share: usize) -> Duration {
        self.waits[(self.waits.len() - 1) * share / 100]
    }
}

/// Executes the writes, `in_flight` at once.
pub async fn run<F>(writes: Vec<F>, in_flight: usize) -> Run
where
    F: Future<Output = ()> + Send + 'static,
{
    let rows = writes.len() * ROWS;
    let mut waits = Vec::with_capacity(writes.len());
    let mut running = JoinSet::new();
    let start = Instant::now();
    for write in writes {
        if running.len() == in_flight {
            waits.extend(running.join_next().await.map(Result::unwrap));
        }
        running.spawn(async move {
            let start = Instant::now();
            write.await;
            start.elapsed()
        });
    }
    while let Some(wait) = running.join_next().await {
        waits.push(wait.unwrap());
    }
    let took = start.elapsed().as_secs_f64();
    waits.sort_unstable();
    Run { rows_per_s: rows as f64 / took, waits }
}

/// Writes the batches as the bare loop does.
pub async fn bare(
    session: &Arc<Session>,
    request: &Arc<Request>,
    batches: &[Batch],
    at_once: usize,
) -> Run {
    let writes = batches.iter().map(|batch| {
        let (session, request, rows) = (Arc::clone(session), Arc::clone(request), bare_rows(batch));
        async move {
            session.batch(&request, &rows).await.unwrap();
        }
    });
    run(writes.collect(), at_once).await
}

/// The bare loop's request, made once: 1000 clones of one prepared statement.
pub async fn bare_request(session: &Session, config: &Cassandra) -> Arc<Request> {
    let insert = format!(
        "INSERT INTO {}.infrastructure_logs (log_date, source, bucket, timestamp, origin, \
         offset_bytes, level, message, host, metadata) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) \
         USING TIMESTAMP ?",
        config.keyspace
    );
    let statement = session.prepare(insert).await.unwrap();
    let mut request = Request::new(BatchType::Unlogged);
    for _ in 0..ROWS {
        request.append_statement(statement.clone());
    }
    request.set_is_idempotent(true);
    Arc::new(request)
}
