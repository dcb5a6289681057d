//! How the days of each source are cut into buckets, as `log_layout` says.

use std::collections::HashMap;

use scylla::client::session::Session;
use scylla::response::PagingState;
use scylla::statement::prepared::PreparedStatement;
use scylla::value::CqlDate;

use super::ask::{all_rows, prepare};
use crate::key::{Layout, Table};
use crate::stores::StoreError;

/// All layouts that differ from the default, by source, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Layouts {
    infrastructure: HashMap<String, Vec<(i32, Layout)>>,
    application: HashMap<String, Vec<(i32, Layout)>>,
}

impl Layouts {
    /// The layout of a day: the last one that begins on it or before.
    pub(super) fn of(&self, table: Table, source: &str, day: i32) -> Layout {
        let layouts = match table {
            Table::Infrastructure => &self.infrastructure,
            Table::Application => &self.application,
            Table::Events => return Layout::default(),
        };
        layouts
            .get(source)
            .and_then(|layouts| layouts.iter().rev().find(|(from, _)| *from <= day))
            .map_or_else(Layout::default, |(_, layout)| *layout)
    }

    fn add(&mut self, table: &str, source: String, from: i32, slot_hours: i8, shards: i16) {
        let layouts = match Table::from_word(table) {
            Some(Table::Infrastructure) => &mut self.infrastructure,
            Some(Table::Application) => &mut self.application,
            Some(Table::Events) | None => return,
        };
        let slot_hours = u8::try_from(slot_hours).unwrap_or(24);
        let layout = Layout {
            slot_hours: if slot_hours > 0 && 24 % slot_hours == 0 { slot_hours } else { 24 },
            shards: u8::try_from(shards.clamp(1, 64)).unwrap_or(1),
        };
        let list = layouts.entry(source).or_default();
        list.push((from, layout));
        list.sort_unstable_by_key(|(from, _)| *from);
    }
}

/// Days since 1970 of a CQL `date`.
pub(super) fn day_of_cql(date: CqlDate) -> i32 {
    (date.0 ^ (1 << 31)).cast_signed()
}

type LayoutRow = (String, String, CqlDate, Option<i8>, Option<i16>);

/// Reads the table.
pub(super) struct ReadLayouts(PreparedStatement);

impl ReadLayouts {
    pub(super) async fn prepare(session: &Session, keyspace: &str) -> Result<Self, StoreError> {
        let text = format!(
            "SELECT table_name, source, from_date, slot_hours, shards FROM {keyspace}.log_layout"
        );
        Ok(Self(prepare(session, text).await?))
    }

    pub(super) async fn read(&self, session: &Session) -> Result<Layouts, StoreError> {
        let mut layouts = Layouts::default();
        let rows: Vec<LayoutRow> = all_rows(session, &self.0, (), PagingState::start()).await?;
        for (table, source, from, slot_hours, shards) in rows {
            let (slot_hours, shards) = (slot_hours.unwrap_or(24), shards.unwrap_or(1));
            layouts.add(&table, source, day_of_cql(from), slot_hours, shards);
        }
        Ok(layouts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layout_holds_from_its_first_day_on() {
        let mut layouts = Layouts::default();
        layouts.add("infrastructure_logs", "nginx".to_owned(), 200, 1, 8);
        layouts.add("infrastructure_logs", "nginx".to_owned(), 100, 6, 2);
        let of = |day| layouts.of(Table::Infrastructure, "nginx", day);
        assert_eq!(of(99), Layout::default());
        assert_eq!(of(100), Layout { slot_hours: 6, shards: 2 });
        assert_eq!(of(199), Layout { slot_hours: 6, shards: 2 });
        assert_eq!(of(5000), Layout { slot_hours: 1, shards: 8 });
        assert_eq!(layouts.of(Table::Application, "nginx", 300), Layout::default());
    }

    #[test]
    fn a_layout_that_makes_no_sense_is_the_default() {
        let mut layouts = Layouts::default();
        layouts.add("infrastructure_logs", "a".to_owned(), 0, 7, 0);
        assert_eq!(layouts.of(Table::Infrastructure, "a", 0), Layout::default());
    }
}
