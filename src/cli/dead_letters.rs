//! `bitacora dead-letters`: rows that the store refused for good.

use std::borrow::Cow;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::exit;
use super::store::{open_reader, runtime};
use crate::batch::Batch;
use crate::config::{Config, Machine};
use crate::daemon::wall_us;
use crate::key::{Partition, RowKey, Table, day_of};
use crate::ledger::DeadLetter;
use crate::record::{Level, Record};
use crate::stores::{Store, open};
use crate::worker::{Flags, user_of, write_row};

const AFTER_HELP: &str = "\
A row becomes a dead letter when the store calls it invalid or too large while it takes others.
ID is ORIGIN:OFFSET as `ls` shows it.

Exits with 0 if there are some (ls, show) or all were dealt with (retry, drop), 1 if not.";

/// Arguments of `bitacora dead-letters`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// What to do
    #[command(subcommand)]
    pub action: Action,
}

/// What to do with dead letters.
#[derive(Debug, clap::Subcommand)]
pub enum Action {
    /// List them
    Ls {
        /// Answer as one JSON object a letter
        #[arg(long)]
        json: bool,
    },
    /// Show one, with all its text
    Show {
        /// Which
        id: String,
    },
    /// Write rows again; those that the store takes are no letters any more
    Retry {
        /// Which; all with `all`
        id: String,
        /// Say what would be done, and change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Give them up for good
    Drop {
        /// Which; all with `all`
        id: String,
        /// Say what would be done, and change nothing
        #[arg(long)]
        dry_run: bool,
    },
}

fn id(letter: &DeadLetter) -> String {
    format!("{}:{}", letter.origin, letter.offset_bytes)
}

/// Does what is asked.
///
/// # Errors
///
/// The configuration is wrong, or the store cannot be used.
pub fn run(args: &Args, path: &Path, mut output: impl Write) -> anyhow::Result<ExitCode> {
    let config = Config::load(path, &Machine::here())?;
    runtime()?.block_on(async {
        let reader = open_reader(&config)?;
        let letters = reader.dead_letters().await?;
        let (wanted, all) = match &args.action {
            Action::Ls { json } => return list(&letters, *json, &mut output),
            Action::Show { id } => (id, false),
            Action::Retry { id, .. } | Action::Drop { id, .. } => (id, id == "all"),
        };
        let chosen: Vec<&DeadLetter> =
            letters.iter().filter(|letter| all || id(letter) == *wanted).collect();
        if chosen.is_empty() {
            eprintln!("there is no dead letter {wanted}; `bitacora dead-letters ls` lists them");
            return Ok(ExitCode::from(exit::NOT_CLEAN));
        }
        let mut refused = 0;
        for letter in chosen {
            match &args.action {
                Action::Ls { .. } => {}
                Action::Show { .. } => {
                    writeln!(output, "{}", serde_json::to_string_pretty(letter)?)?;
                }
                Action::Retry { dry_run: true, .. } => {
                    writeln!(output, "{} would be written again", id(letter))?;
                }
                Action::Drop { dry_run: true, .. } => {
                    writeln!(output, "{} would be given up", id(letter))?;
                }
                Action::Retry { .. } => {
                    let store = open::writer(&config.store)?;
                    store.check().await?;
                    match retry(&*store, letter).await {
                        Ok(()) => {
                            reader.remove_dead_letter(letter).await?;
                            writeln!(output, "{} is stored", id(letter))?;
                        }
                        Err(error) => {
                            refused += 1;
                            writeln!(output, "{} is refused again: {error}", id(letter))?;
                        }
                    }
                    store.close().await?;
                }
                Action::Drop { .. } => {
                    reader.remove_dead_letter(letter).await?;
                    writeln!(output, "{} is given up", id(letter))?;
                }
            }
        }
        anyhow::Ok(ExitCode::from(if refused == 0 { exit::DONE } else { exit::NOT_CLEAN }))
    })
}

fn list(letters: &[DeadLetter], json: bool, output: &mut impl Write) -> anyhow::Result<ExitCode> {
    for letter in letters {
        if json {
            writeln!(output, "{}", serde_json::to_string(letter)?)?;
        } else {
            let head: String =
                letter.message.chars().filter(|c| !c.is_control()).take(60).collect();
            writeln!(
                output,
                "{:<32} {} {}: {head} ({})",
                id(letter),
                letter.source,
                letter.level,
                letter.reason
            )?;
        }
    }
    Ok(ExitCode::from(if letters.is_empty() { exit::NOT_CLEAN } else { exit::DONE }))
}

/// Writes the row of a letter again, under its key.
async fn retry(store: &dyn Store, letter: &DeadLetter) -> anyhow::Result<()> {
    let key = RowKey {
        timestamp_ms: letter.timestamp_ms,
        origin: letter.origin,
        offset_bytes: letter.offset_bytes,
    };
    let level = Level::from_name(&letter.level).unwrap_or_default();
    // a letter's metadata holds the further columns under their own names
    let fields: Map<String, Value> = if letter.metadata.is_empty() {
        Map::new()
    } else {
        serde_json::from_str(&letter.metadata)?
    };
    let mut record = Record { level, parsed: true, ..Record::default() };
    let is_event = letter.table == Table::Events;
    if is_event {
        record.push(b"event_type", letter.message.as_bytes());
    } else {
        record.message = Cow::Borrowed(letter.message.as_bytes());
    }
    for (key, value) in &fields {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        record.push_text(key.as_bytes(), text.into_bytes());
    }
    let day = day_of(letter.timestamp_ms);
    let layout = store.layout(letter.table, &letter.source, day);
    let partition = Partition {
        table: letter.table,
        day,
        source: letter.source.as_str().into(),
        bucket: layout.filter(|_| !is_event).map_or(0, |layout| layout.bucket(level, key)),
        user: layout.filter(|_| is_event).map(|_| user_of(&record.fields)),
    };
    let mut batch = Batch::new(partition, letter.host.as_str().into());
    write_row(&mut batch, key, &record, &Flags::default(), None);
    batch.stamp = wall_us();
    store.write(Arc::new(batch)).await?;
    Ok(())
}
