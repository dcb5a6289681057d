//! `POST /api/dora/events`: what one request does, without the server that takes it.
//!
//! The body is `{"events": […]}`, each as `json::event` reads it. If one of them is wrong, none
//! is stored. Sending a request again is harmless.

use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::json::{Event, Refused, event};
use super::{DoraError, DoraStore};
use crate::secret::{self, SecretError};

/// A longer body is refused.
pub const BODY_BYTES_MAX: usize = 1024 * 1024;
/// More events in one request are refused.
pub const EVENTS_MAX: usize = 1000;
/// A shorter token could be guessed.
const TOKEN_CHARS_MIN: usize = 16;

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Its file cannot be read.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// It could be guessed.
    #[error("the token in {0} has fewer than 16 characters; make one with `openssl rand -hex 32`")]
    Short(String),
}

/// What a client must know. Only its hash is held, which is also why comparing takes the same time
/// whatever is offered.
pub struct Token([u8; 32]);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

impl Token {
    /// The first line of a file.
    ///
    /// # Errors
    ///
    /// It cannot be read, or is too short.
    pub fn read(file: &Path) -> Result<Self, TokenError> {
        let secret = secret::read(file)?;
        if secret.chars().count() < TOKEN_CHARS_MIN {
            return Err(TokenError::Short(file.display().to_string()));
        }
        Ok(Self(Sha256::digest(secret.as_bytes()).into()))
    }

    /// Whether the header `Authorization` has it: `Bearer TOKEN`.
    #[must_use]
    pub fn fits(&self, authorization: Option<&[u8]>) -> bool {
        let offered = authorization
            .and_then(|header| header.split_at_checked(7))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "))
            .map(|(_, token)| token.trim_ascii());
        let Some(offered) = offered else { return false };
        let hash: [u8; 32] = Sha256::digest(offered).into();
        // every byte is looked at
        let differ = self.0.iter().zip(hash).fold(0, |differ, (one, other)| differ | (one ^ other));
        std::hint::black_box(differ) == 0
    }
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// Its body.
    pub body: Value,
}

fn reply(status: u16, error: &str) -> Reply {
    Reply { status, body: json!({ "error": error }) }
}

/// Does what one request asks. The token is looked at before the body is.
pub async fn receive(
    store: &dyn DoraStore,
    token: &Token,
    authorization: Option<&[u8]>,
    body: &[u8],
) -> Reply {
    if !token.fits(authorization) {
        return reply(401, "a token is needed: Authorization: Bearer …");
    }
    if body.len() > BODY_BYTES_MAX {
        return reply(413, "the body is longer than 1 MiB");
    }
    let events = match read(body) {
        Ok(events) => events,
        Err(refused) => {
            let body = json!({ "error": "nothing is stored", "refused": refused });
            return Reply { status: 400, body };
        }
    };
    match put(store, &events).await {
        Ok(done) if done.refused.is_empty() => {
            Reply { status: 200, body: json!({ "stored": done.stored, "known": done.known }) }
        }
        Ok(done) => Reply {
            status: 409,
            body: json!({
                "error": "some events do not fit what is known; the others are stored",
                "stored": done.stored,
                "known": done.known,
                "refused": done.refused,
            }),
        },
        // where the database is and what it says is not a client's business
        Err(DoraError::Unreachable { .. }) => {
            reply(503, "the database does not answer; send the events again later")
        }
        Err(_) => reply(500, "the events cannot be stored; the log of bitacora says why"),
    }
}

fn read(body: &[u8]) -> Result<Vec<Event>, Vec<Refused>> {
    let one = |path: &str, reason: String| vec![Refused::new(path, reason)];
    let value: Value = serde_json::from_slice(body)
        .map_err(|error| one("the body", format!("is not JSON: {error}")))?;
    let Some(Value::Array(list)) = value.get("events") else {
        return Err(one("events", "is missing or not a list".to_owned()));
    };
    if list.len() > EVENTS_MAX {
        return Err(one("events", format!("are {}; {EVENTS_MAX} at most", list.len())));
    }
    let mut events = Vec::with_capacity(list.len());
    let mut refused = Vec::new();
    for (number, value) in list.iter().enumerate() {
        match event(value, &format!("events[{number}]")) {
            Ok(event) => events.push(event),
            Err(fault) => refused.push(fault),
        }
    }
    if refused.is_empty() { Ok(events) } else { Err(refused) }
}

/// What became of the events of a request.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Put {
    /// New ones.
    pub stored: usize,
    /// Those that were there already.
    pub known: usize,
    /// Those that do not fit what is known.
    pub refused: Vec<Refused>,
}

/// Stores events in their order.
///
/// # Errors
///
/// The database's; a part may be stored by then, and doing it again does the rest.
pub async fn put(store: &dyn DoraStore, events: &[Event]) -> Result<Put, DoraError> {
    let mut put = Put::default();
    for (number, event) in events.iter().enumerate() {
        let new = match event {
            Event::Phase(phase) => {
                let new = store.add_phases(std::slice::from_ref(phase)).await?;
                new.first() == Some(&true)
            }
            Event::Deployment(deployment) => store.add_deployment(deployment).await?,
            Event::Incident(incident) => store.open_incident(incident).await?,
            Event::Closed { id, closed_ms } => {
                let closed = store.close_incident(id, *closed_ms).await?;
                if !closed && let Some(reason) = not_closed(store, id).await? {
                    put.refused.push(Refused::new(format!("events[{number}]"), reason));
                    continue;
                }
                closed
            }
        };
        if new {
            put.stored += 1;
        } else {
            put.known += 1;
        }
    }
    Ok(put)
}

/// Why an incident was not closed; `None` if it is closed.
///
/// # Errors
///
/// The database's.
pub async fn not_closed(store: &dyn DoraStore, id: &str) -> Result<Option<String>, DoraError> {
    Ok(match store.incident(id).await? {
        None => Some(format!("there is no incident {id}")),
        Some(incident) if incident.closed_ms.is_none() => Some(format!(
            "incident {id} was opened later, at {}",
            super::json::time_text(incident.opened_ms)
        )),
        Some(_) => None,
    })
}
