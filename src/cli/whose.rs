//! Whose rows `bitacora logs` is asked for: of a user, a session, or user events.

use super::exit::Refusal;
use super::logs::Args;
use crate::key::Table;
use crate::query::count::{By, needs_no_rows};
use crate::query::filter::{FieldIs, Filter, Tables};
use crate::worker::id_uuid;

/// The source of all user events.
const EVENTS: &str = Table::Events.name();

/// See the module.
#[derive(Debug)]
pub struct Whose {
    /// Which tables.
    pub tables: Tables,
    /// Sources, as they were said or as the tables have them.
    pub sources: Vec<String>,
    /// What a row must say.
    pub musts: Vec<FieldIs>,
    /// Whose events.
    pub user: Option<u128>,
}

fn usage(error: &str) -> anyhow::Error {
    Refusal::Usage(error.to_owned()).into()
}

/// The column's value for an id: one that is no uuid has a name-based one.
pub fn id_of(id: &str) -> u128 {
    id_uuid(id.as_bytes()).0.as_u128()
}

impl Whose {
    /// Understands the arguments.
    ///
    /// # Errors
    ///
    /// Something is asked of user events that they do not have.
    pub fn new(args: &Args) -> anyhow::Result<Self> {
        let events = asks_for_events(args)?;
        let user = args.user.as_deref().filter(|_| events).map(id_of);
        let named = match user {
            Some(user) => Some(uuid::Uuid::from_u128(user).to_string()),
            None => args.user.clone(),
        };
        let words = [
            ("user_id", named),
            ("session_id", args.session.clone()),
            ("event_type", args.event_type.clone()),
        ];
        let musts: Vec<FieldIs> = words
            .into_iter()
            .filter_map(|(field, value)| {
                Some(FieldIs { field: field.to_owned(), values: vec![value?] })
            })
            .collect();
        let tables = match (events, musts.is_empty()) {
            (true, _) => Tables::Events,
            (false, false) => Tables::Application,
            (false, true) => Tables::Logs,
        };
        let sources = if events { vec![EVENTS.to_owned()] } else { args.source.clone() };
        Ok(Self { tables, sources, musts, user })
    }
}

fn asks_for_events(args: &Args) -> anyhow::Result<bool> {
    let named = *args.source == [EVENTS];
    let events = args.events || args.event_type.is_some() || named;
    let levels = args.priority.is_some() || !args.level.is_empty();
    if events && (levels || !args.host.is_empty() || args.request_id.is_some()) {
        return Err(usage(
            "user events have no level, no host and no request: leave out -p, --level, -H and \
             --request-id",
        ));
    }
    if events && !named && !args.source.is_empty() {
        return Err(usage("all user events have the source user_events: leave out -s"));
    }
    Ok(events)
}

/// For a store that keeps user events by user.
///
/// # Errors
///
/// Nobody is named, and it is no count that the statistics answer.
pub fn check_user(filter: &Filter, count: Option<&[By]>) -> anyhow::Result<()> {
    let nobody = filter.tables == Tables::Events && filter.user.is_none();
    if nobody && !count.is_some_and(|by| needs_no_rows(filter, by)) {
        return Err(usage(
            "this store keeps user events by user: name one by --user, or count all of them in \
             whole minutes by --count",
        ));
    }
    Ok(())
}
