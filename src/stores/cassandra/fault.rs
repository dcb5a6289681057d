//! What the driver's errors mean for a row.
//!
//! Only an answer that blames the rows themselves is [`StoreError::Invalid`]. Everything else
//! waits: a missing table, a lost permission and a full disk are outages, whatever the server
//! calls them.

#![allow(clippy::needless_pass_by_value, reason = "these are given to map_err")]

use std::time::Duration;

use scylla::errors::{
    BadQuery, ConnectionError, ConnectionPoolError, ConnectionSetupRequestErrorKind, DbError,
    ExecutionError, MetadataError, NewSessionError, PrepareError, RequestAttemptError,
};

use super::NAME;
use crate::stores::StoreError;

/// The largest request that is sent. Cassandra refuses frames over 16 MiB.
pub(super) const REQUEST_BYTES_MAX: usize = 15 << 20;

pub(super) fn unreachable(detail: impl ToString) -> StoreError {
    StoreError::Unreachable { store: NAME, detail: detail.to_string() }
}

pub(super) fn outage(detail: impl ToString) -> StoreError {
    StoreError::Outage { store: NAME, detail: detail.to_string() }
}

pub(super) fn invalid(detail: impl ToString) -> StoreError {
    StoreError::Invalid { store: NAME, detail: detail.to_string() }
}

pub(super) fn schema(detail: impl ToString) -> StoreError {
    StoreError::Schema { store: NAME, detail: detail.to_string() }
}

/// The error of a statement that was executed after `waited`.
pub(super) fn execution(error: &ExecutionError, waited: Duration) -> StoreError {
    match error {
        ExecutionError::BadQuery(
            BadQuery::SerializationError(_)
            | BadQuery::ValuesTooLongForKey(..)
            | BadQuery::TooManyQueriesInBatchStatement(_),
        ) => invalid(error),
        ExecutionError::RequestTimeout(limit) => {
            StoreError::Timeout { store: NAME, waited: *limit }
        }
        ExecutionError::LastAttemptError(attempt) => self::attempt(attempt, waited),
        ExecutionError::PrepareError(error) => prepare(error),
        ExecutionError::ConnectionPoolError(error) => pool(error),
        ExecutionError::EmptyPlan => {
            unreachable("no node of the configured datacenter is up; check store.cassandra.nodes")
        }
        ExecutionError::BadQuery(_) => schema(error),
        _ => unreachable(error),
    }
}

pub(super) fn prepare(error: &PrepareError) -> StoreError {
    match error {
        PrepareError::AllAttemptsFailed { first_attempt } => {
            // A statement has no rows yet: what the server calls invalid is the table's fault.
            match attempt(first_attempt, Duration::ZERO) {
                StoreError::Invalid { detail, .. } => schema(detail),
                other => other,
            }
        }
        PrepareError::ConnectionPoolError(error) => pool(error),
        _ => unreachable(error),
    }
}

/// Why there is no session.
pub(super) fn session(error: &NewSessionError) -> StoreError {
    match error {
        NewSessionError::MetadataError(MetadataError::ConnectionPoolError(error)) => pool(error),
        _ => unreachable(error),
    }
}

fn pool(error: &ConnectionPoolError) -> StoreError {
    let ConnectionPoolError::Broken { last_connection_error } = error else {
        return unreachable(error);
    };
    let ConnectionError::ConnectionSetupRequestError(setup) = last_connection_error else {
        return unreachable(last_connection_error);
    };
    match &setup.error {
        ConnectionSetupRequestErrorKind::DbError(DbError::AuthenticationError, text) => {
            outage(format!(
                "the login was refused: {text}; check store.cassandra.username and password_file"
            ))
        }
        ConnectionSetupRequestErrorKind::MissingAuthentication => outage(
            "the cluster asks for a user and a password; set store.cassandra.username and password_file",
        ),
        _ => unreachable(last_connection_error),
    }
}

fn attempt(error: &RequestAttemptError, waited: Duration) -> StoreError {
    match error {
        RequestAttemptError::SerializationError(_)
        | RequestAttemptError::CqlRequestSerialization(_) => invalid(error),
        RequestAttemptError::DbError(kind, text) => answer(kind, text, waited),
        RequestAttemptError::RepreparedIdChanged { .. }
        | RequestAttemptError::RepreparedIdMissingInBatch => {
            schema("the tables have changed under a running program")
        }
        _ => unreachable(error),
    }
}

/// The server's own answer.
fn answer(kind: &DbError, text: &str, waited: Duration) -> StoreError {
    match kind {
        DbError::WriteTimeout { .. } | DbError::ReadTimeout { .. } => {
            StoreError::Timeout { store: NAME, waited }
        }
        DbError::Invalid if blames_the_tables(text) => schema(text),
        DbError::Invalid if blames_the_server(text) => outage(text),
        DbError::Invalid => invalid(text),
        DbError::SyntaxError => schema(text),
        // Cassandra answers so to a request over its frame limit or its mutation limit.
        DbError::ProtocolError | DbError::ServerError if blames_the_size(text) => invalid(text),
        DbError::Unauthorized => {
            outage(format!("{text}; GRANT it to the user of store.cassandra.username"))
        }
        _ => outage(format!("{kind}: {text}")),
    }
}

/// Cassandra and `ScyllaDB` call a missing keyspace, table or column an invalid request.
fn blames_the_tables(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    let missing = ["does not exist", "unconfigured", "undefined", "unknown", "no keyspace"];
    let what = ["keyspace", "table", "column", "identifier"];
    missing.iter().any(|word| text.contains(word)) && what.iter().any(|word| text.contains(word))
        || text.contains("replication factor")
}

/// Cassandra's guardrails (a disk that is nearly full, a consistency that is not allowed) and its
/// list of denied partitions speak of invalid requests too. Those on sizes do blame the row.
fn blames_the_server(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    (text.contains("guardrail") && !text.contains("size violated"))
        || text.contains("denylist")
        || text.contains("consistency level")
}

fn blames_the_size(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    ["too large", "exceeds", "too big", "larger than"].iter().any(|word| text.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(kind: DbError, text: &str) -> &'static str {
        answer(&kind, text, Duration::ZERO).reason()
    }

    #[test]
    fn a_missing_table_is_not_the_rows_fault() {
        for text in [
            "table infrastructure_logs does not exist",
            "unconfigured table infrastructure_logs",
            "Keyspace logging does not exist",
            "Undefined column name metadata in table logging.infrastructure_logs",
            "Unknown identifier metadata",
        ] {
            assert_eq!(of(DbError::Invalid, text), "schema", "{text}");
        }
    }

    #[test]
    fn a_full_disk_is_an_outage_though_the_server_calls_the_request_invalid() {
        for text in [
            "Guardrail replica_disk_usage violated: Write request failed because disk usage \
             exceeds failure threshold in at least one replica.",
            "Guardrail write_consistency_levels violated: Provided value ONE is not allowed",
            "Unable to write to denylisted partition [0x00]",
        ] {
            assert_eq!(of(DbError::Invalid, text), "outage", "{text}");
        }
    }

    #[test]
    fn what_the_server_says_of_the_rows_is_their_fault() {
        assert_eq!(of(DbError::Invalid, "String didn't validate."), "invalid");
        let value = "Guardrail column_value_size violated: Value of column message has size 9MiB";
        assert_eq!(of(DbError::Invalid, value), "invalid");
        assert_eq!(
            of(DbError::ServerError, "CQL Message of size 17 exceeds allowed maximum of 16 bytes"),
            "invalid"
        );
    }

    #[test]
    fn a_lost_permission_and_an_overload_are_outages() {
        assert_eq!(of(DbError::Unauthorized, "User has no MODIFY permission"), "outage");
        assert_eq!(of(DbError::Overloaded, "too many requests"), "outage");
        assert_eq!(of(DbError::ServerError, "java.io.IOException: No space left"), "outage");
    }
}
