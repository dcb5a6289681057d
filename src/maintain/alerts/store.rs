//! The stores: whether they answer and how fast, the nodes of a cluster, rows that are refused for
//! good, and losses.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::finding::Finding;
use super::text::{ago, number, time};
use crate::stores::LogReader;
use crate::stores::cassandra::CassandraStore;

/// A loss is trouble for so long.
const LOSS_MS: i64 = 24 * 3_600_000;
/// How long a node may take to accept a connection.
const NODE_WAIT: Duration = Duration::from_secs(3);

/// Whether an answer came, and in time.
#[must_use]
pub fn answered(rule: &str, result: Result<Duration, String>, slow: Duration) -> Finding {
    match result {
        Err(error) => Finding::trouble(rule, &error),
        Ok(took) => {
            let ms = took.as_millis();
            let detail = format!("it answers in {ms} ms; over {} ms is slow", slow.as_millis());
            Finding::judge(rule, took > slow, &detail).with(took.as_secs_f64())
        }
    }
}

/// Asks the log store a small question.
///
/// # Errors
///
/// Why it does not answer.
pub async fn ask(reader: &dyn LogReader) -> Result<Duration, String> {
    let started = Instant::now();
    reader.watermarks().await.map_err(|error| error.to_string())?;
    Ok(started.elapsed())
}

/// Rows of this host that the store refused for good.
pub async fn dead_letters(reader: &dyn LogReader, host: &str) -> Finding {
    const RULE: &str = "dead-letters";
    let letters = match reader.dead_letters().await {
        Ok(letters) => letters,
        Err(error) => return Finding::unknown(RULE, &error.to_string()),
    };
    let ours: Vec<_> = letters.into_iter().filter(|letter| letter.host == host).collect();
    let newest = ours.iter().max_by_key(|letter| letter.refused_ms);
    let Some(newest) = newest else {
        return Finding::well(RULE, "no row is refused for good").with(0.0);
    };
    let detail = format!(
        "{} rows are refused for good, the newest of {} at {}: {}; see `bitacora dead-letters ls`",
        ours.len(),
        newest.source,
        time(newest.refused_ms),
        newest.reason
    );
    Finding::trouble(RULE, &detail)
        .with(number(ours.len() as u64))
        .marked(i64::try_from(ours.len()).unwrap_or(i64::MAX))
}

/// Losses of this host that were noticed a short while ago, or since the last check.
pub async fn losses(reader: &dyn LogReader, host: &str, last_ms: i64, now_ms: i64) -> Finding {
    const RULE: &str = "losses";
    let receipts = match reader.receipts().await {
        Ok(receipts) => receipts,
        Err(error) => return Finding::unknown(RULE, &error.to_string()),
    };
    let since = now_ms.saturating_sub(LOSS_MS).min(last_ms);
    let recent = receipts.iter().filter(|one| one.host == host && one.noticed_ms >= since);
    let count = recent.clone().count();
    let Some(newest) = recent.max_by_key(|one| one.noticed_ms) else {
        return Finding::well(RULE, "nothing was lost in a day").with(0.0);
    };
    let detail = format!(
        "{count} losses in a day, the newest of {} noticed at {} in {}: {}; `bitacora audit` lists them",
        newest.source,
        time(newest.noticed_ms),
        newest.path.display(),
        newest.detail
    );
    Finding::trouble(RULE, &detail).with(number(count as u64)).marked(newest.noticed_ms)
}

/// How far each source of this host is behind, by the store's own marks: for when no daemon can
/// be asked.
pub async fn backlog(
    reader: &dyn LogReader,
    host: &str,
    most: Duration,
    now_ms: i64,
) -> Vec<Finding> {
    const RULE: &str = "backlog";
    let marks = match reader.watermarks().await {
        Ok(marks) => marks,
        Err(error) => return vec![Finding::unknown(RULE, &error.to_string())],
    };
    let ours = marks.into_iter().filter(|mark| mark.host == host);
    ours.map(|mark| {
        let behind_ms = now_ms.saturating_sub(mark.seen_ms).max(0);
        let detail = format!("complete in the store until {} ago", ago(behind_ms));
        let behind = Duration::from_millis(behind_ms.unsigned_abs());
        Finding::judge(RULE, behind > most, &detail).of(&mark.source).with(behind.as_secs_f64())
    })
    .collect()
}

/// Whether the nodes of the cluster accept connections of clients.
pub async fn nodes(store: &CassandraStore) -> Finding {
    const RULE: &str = "nodes";
    let nodes = match store.nodes().await {
        Ok(nodes) => nodes,
        Err(error) => return Finding::unknown(RULE, &error.to_string()),
    };
    let count = nodes.len();
    let tries: Vec<_> = nodes.into_iter().map(|node| tokio::spawn(try_node(node))).collect();
    let mut down = Vec::new();
    for one in tries {
        match one.await {
            Ok(Err(why)) => down.push(why),
            Ok(Ok(())) => {}
            Err(error) => return Finding::unknown(RULE, &error.to_string()),
        }
    }
    let detail = if down.is_empty() {
        format!("all {count} nodes take connections")
    } else {
        format!("{} of {count} nodes take no connections: {}", down.len(), down.join(", "))
    };
    let number_down = number(down.len() as u64);
    let mark = i64::try_from(down.len()).unwrap_or(i64::MAX);
    Finding::judge(RULE, !down.is_empty(), &detail).with(number_down).marked(mark)
}

async fn try_node(node: SocketAddr) -> Result<(), String> {
    let connected = tokio::net::TcpStream::connect(node);
    match tokio::time::timeout(NODE_WAIT, connected).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(format!("{node} ({error})")),
        Err(_) => Err(format!("{node} (no answer)")),
    }
}

/// What is found of the rules that need the store, where it does not answer.
#[must_use]
pub fn unknown(why: &str) -> Vec<Finding> {
    ["dead-letters", "losses"].map(|rule| Finding::unknown(rule, why)).to_vec()
}
