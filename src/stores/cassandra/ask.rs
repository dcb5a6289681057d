//! Statements: prepared, asked page by page, many at once.

use std::sync::Arc;

use scylla::client::session::Session;
use scylla::deserialize::row::DeserializeRow;
use scylla::policies::retry::DefaultRetryPolicy;
use scylla::response::PagingState;
use scylla::serialize::row::SerializeRow;
use scylla::statement::Statement;
use scylla::statement::prepared::PreparedStatement;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::fault;
use crate::stores::StoreError;

/// Statements of one call that are under way at once.
const AT_ONCE: usize = 64;

/// Prepares a statement that may be repeated.
pub(super) async fn prepare(
    session: &Session,
    text: String,
) -> Result<PreparedStatement, StoreError> {
    let mut statement =
        session.prepare(Statement::new(text)).await.map_err(|error| fault::prepare(&error))?;
    statement.set_is_idempotent(true);
    statement.set_use_cached_result_metadata(true);
    Ok(statement)
}

/// Prepares a statement for people: the driver may ask another node.
pub(super) async fn prepare_read(
    session: &Session,
    text: String,
) -> Result<PreparedStatement, StoreError> {
    let mut statement = prepare(session, text).await?;
    statement.set_retry_policy(Some(Arc::new(DefaultRetryPolicy::new())));
    Ok(statement)
}

/// One page of an answer, and where the next one begins.
pub(super) async fn page<R>(
    session: &Session,
    statement: &PreparedStatement,
    values: &impl SerializeRow,
    from: PagingState,
) -> Result<(Vec<R>, Option<PagingState>), StoreError>
where
    R: for<'frame> DeserializeRow<'frame, 'frame>,
{
    let started = Instant::now();
    let (result, next) = session
        .execute_single_page(statement, values, from)
        .await
        .map_err(|error| fault::execution(&error, started.elapsed()))?;
    let result = result.into_rows_result().map_err(fault::schema)?;
    let rows = result.rows::<R>().map_err(fault::schema)?;
    let rows = rows.collect::<Result<Vec<R>, _>>().map_err(fault::schema)?;
    Ok((rows, next.into_paging_control_flow().continue_value()))
}

/// All rows of an answer.
pub(super) async fn all_rows<R>(
    session: &Session,
    statement: &PreparedStatement,
    values: impl SerializeRow,
    from: PagingState,
) -> Result<Vec<R>, StoreError>
where
    R: for<'frame> DeserializeRow<'frame, 'frame>,
{
    let mut all = Vec::new();
    let mut next = Some(from);
    while let Some(from) = next.take() {
        let (rows, more) = page(session, statement, &values, from).await?;
        all.extend(rows);
        next = more;
    }
    Ok(all)
}

/// Executes a statement with each of these values, several at once; fails with the first error.
pub(super) async fn for_each<V>(
    session: &Arc<Session>,
    statement: &PreparedStatement,
    values: impl IntoIterator<Item = V>,
) -> Result<(), StoreError>
where
    V: SerializeRow + Send + 'static,
{
    let jobs = values.into_iter().map(|value| {
        let (session, statement) = (Arc::clone(session), statement.clone());
        async move {
            let started = Instant::now();
            let result = session.execute_unpaged(&statement, value).await;
            result.map(drop).map_err(|error| fault::execution(&error, started.elapsed()))
        }
    });
    at_once(jobs, |()| true).await
}

/// Runs jobs, several at once, and hands over what each of them finds, in no order, until `take`
/// answers `false` or a job fails.
pub(super) async fn at_once<T: Send + 'static>(
    jobs: impl IntoIterator<Item = impl Future<Output = Result<T, StoreError>> + Send + 'static>,
    mut take: impl FnMut(T) -> bool,
) -> Result<(), StoreError> {
    let mut jobs = jobs.into_iter();
    let mut running = JoinSet::new();
    for job in jobs.by_ref().take(AT_ONCE) {
        running.spawn(job);
    }
    while let Some(done) = running.join_next().await {
        let found = done.map_err(fault::unreachable)??;
        if !take(found) {
            return Ok(());
        }
        if let Some(job) = jobs.next() {
            running.spawn(job);
        }
    }
    Ok(())
}
