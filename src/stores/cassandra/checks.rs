//! Results of health checks: a partition for each day of a host.

use std::collections::BTreeMap;
use std::sync::Arc;

use scylla::client::session::Session;
use scylla::response::PagingState;
use scylla::statement::prepared::PreparedStatement;
use scylla::value::{CqlDate, CqlTimestamp, MaybeUnset};

use super::ask::{all_rows, at_once, for_each, prepare, prepare_read};
use super::layout::day_of_cql;
use super::origins::unset;
use super::rows::cql_date;
use super::{CassandraStore, Link};
use crate::key::day_of;
use crate::stores::health::{CheckStatus, HealthCheck, HealthStore, OldChecks};
use crate::stores::{Answer, StoreError};

/// What is prepared for the table.
pub(super) struct Statements {
    put: PreparedStatement,
    partitions: PreparedStatement,
    last: PreparedStatement,
    count: PreparedStatement,
    remove: PreparedStatement,
}

type CheckRow = (String, CqlTimestamp, Option<String>, Option<f64>, Option<String>);
type CheckValues = (CqlDate, String, String, CqlTimestamp, String, MaybeUnset<f64>, String);

impl Statements {
    pub(super) async fn prepare(session: &Session, keyspace: &str) -> Result<Self, StoreError> {
        let table = format!("{keyspace}.health_checks");
        let partition = "WHERE check_date = ? AND host = ?";
        let insert = format!(
            "INSERT INTO {table} (check_date, host, check_name, checked_at, status, value, detail) \
             VALUES (?, ?, ?, ?, ?, ?, ?)"
        );
        // the first row of each group is the newest, as the table has them in that order
        let last = format!(
            "SELECT check_name, checked_at, status, value, detail FROM {table} {partition} \
             GROUP BY check_name"
        );
        let count =
            format!("SELECT count(*), min(checked_at), max(checked_at) FROM {table} {partition}");
        let partitions = format!("SELECT DISTINCT check_date, host FROM {table}");
        Ok(Self {
            put: prepare(session, insert).await?,
            partitions: prepare_read(session, partitions).await?,
            last: prepare_read(session, last).await?,
            count: prepare_read(session, count).await?,
            remove: prepare(session, format!("DELETE FROM {table} {partition}")).await?,
        })
    }

    /// Day and host of each partition.
    async fn partitions(&self, session: &Session) -> Result<Vec<(i32, String)>, StoreError> {
        let rows: Vec<(CqlDate, String)> =
            all_rows(session, &self.partitions, (), PagingState::start()).await?;
        Ok(rows.into_iter().map(|(date, host)| (day_of_cql(date), host)).collect())
    }

    async fn last_of(
        &self,
        session: &Session,
        day: i32,
        host: String,
    ) -> Result<Vec<HealthCheck>, StoreError> {
        let key = (CqlDate(cql_date(day)), host.as_str());
        let rows: Vec<CheckRow> = all_rows(session, &self.last, key, PagingState::start()).await?;
        let check = |(name, checked, status, value, detail): CheckRow| HealthCheck {
            host: host.clone(),
            name,
            checked_ms: checked.0,
            status: CheckStatus::from_name(status.as_deref().unwrap_or_default()),
            value,
            detail: detail.unwrap_or_default(),
        };
        Ok(rows.into_iter().map(check).collect())
    }

    /// The partitions of days before this one, counted.
    async fn before(
        &self,
        session: &Session,
        day: i32,
    ) -> Result<(Vec<(i32, String)>, OldChecks), StoreError> {
        let mut partitions = self.partitions(session).await?;
        partitions.retain(|(found, _)| *found < day);
        let mut old = OldChecks::default();
        for (found, host) in &partitions {
            let key = (CqlDate(cql_date(*found)), host.as_str());
            let rows: Vec<(i64, Option<CqlTimestamp>, Option<CqlTimestamp>)> =
                all_rows(session, &self.count, key, PagingState::start()).await?;
            for (rows, oldest, newest) in rows {
                old.add(rows.unsigned_abs(), oldest.map(|at| at.0), newest.map(|at| at.0));
            }
        }
        Ok((partitions, old))
    }
}

async fn last_checks(link: &Arc<Link>) -> Result<Vec<HealthCheck>, StoreError> {
    // a check that has not run on a host's last day is found on the days before
    let partitions = link.checks.partitions(&link.session).await?;
    let jobs = partitions.into_iter().map(|(day, host)| {
        let link = Arc::clone(link);
        async move { link.checks.last_of(&link.session, day, host).await }
    });
    let mut newest: BTreeMap<(String, String), HealthCheck> = BTreeMap::new();
    at_once(jobs.collect::<Vec<_>>(), |checks| {
        for check in checks {
            let key = (check.host.clone(), check.name.clone());
            if newest.get(&key).is_none_or(|known| known.checked_ms < check.checked_ms) {
                newest.insert(key, check);
            }
        }
        true
    })
    .await?;
    Ok(newest.into_values().collect())
}

impl HealthStore for CassandraStore {
    fn record_checks<'a>(&'a self, checks: &'a [HealthCheck]) -> Answer<'a, ()> {
        Box::pin(async move {
            let link = self.link().await?;
            let values = checks.iter().map(|check| -> CheckValues {
                (
                    CqlDate(cql_date(day_of(check.checked_ms))),
                    check.host.clone(),
                    check.name.clone(),
                    CqlTimestamp(check.checked_ms),
                    check.status.name().to_owned(),
                    unset(check.value),
                    check.detail.clone(),
                )
            });
            let values: Vec<_> = values.collect();
            self.note(for_each(&link.session, &link.checks.put, values).await)
        })
    }

    fn last_checks(&self) -> Answer<'_, Vec<HealthCheck>> {
        Box::pin(async move {
            let link = self.link().await?;
            self.note(last_checks(&link).await)
        })
    }

    fn checks_before(&self, before_ms: i64) -> Answer<'_, OldChecks> {
        Box::pin(async move {
            let link = self.link().await?;
            let found = link.checks.before(&link.session, day_of(before_ms)).await;
            self.note(found.map(|(_, old)| old))
        })
    }

    fn drop_checks_before(&self, before_ms: i64) -> Answer<'_, OldChecks> {
        Box::pin(async move {
            let link = self.link().await?;
            let (partitions, old) =
                self.note(link.checks.before(&link.session, day_of(before_ms)).await)?;
            let keys = partitions.into_iter().map(|(day, host)| (CqlDate(cql_date(day)), host));
            let keys: Vec<_> = keys.collect();
            self.note(for_each(&link.session, &link.checks.remove, keys).await)?;
            Ok(old)
        })
    }
}
