//! `bitacora logs`: shows, searches, counts and follows stored rows.

use std::io::{self, BufWriter, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use jiff::Zoned;
use jiff::tz::TimeZone;

use super::exit::{self, Refusal};
use super::pager::Pager;
use super::whose::{self, Whose};
use crate::query::complete::completeness;
use crate::query::count::{By, count};
use crate::query::filter::{self, Filter, Name, Tables};
use crate::query::follow::Follower;
use crate::query::output::{Look, Printer, Style};
use crate::query::raw::Files;
use crate::query::run::From;
use crate::query::{Asked, Lines, QueryError, cursor, run as run_query, time};
use crate::stores::{LogReader, StoredRow};

/// How often a follower looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Rows before a follower begins, if nothing is said.
const FOLLOW_LINES: usize = 10;

const AFTER_HELP: &str = "\
Examples:
  bitacora logs -n 20                        the newest 20 rows
  bitacora logs -f -s nginx                  follow all sources of nginx
  bitacora logs -S -2h -p warning            the last two hours, WARNING and above
  bitacora logs -S today -g 'timed? out'     search messages and fields
  bitacora logs status=502 method=POST -o json   502 and POST, one object a row
  bitacora logs status=502 status=504 + level=ERROR   (502 or 504) or ERROR
  bitacora logs -S yesterday -U today --count hour,source   rows by hour and source
  bitacora logs --user 42 --min-duration 500ms   what an application said of a user, if slow
  bitacora logs --events --user 42 -n 20     the newest 20 events of a user
  bitacora logs -n 1 --show-cursor; bitacora logs --after-cursor 't=…'   what came since

Times: now, today, yesterday, -2h, \"2h ago\", 07:00, 2026-11-22, \"2026-11-22 07:00\",
RFC 3339, @SECONDS. Exit codes: 0 found, 1 nothing found or (--require-complete) not complete,
2 usage, 69 the store cannot be read.";

/// Show, search, count and follow stored rows
///
/// Rows are shown oldest first, all of them unless -n says how many. The last line on stderr says
/// until when the answer is complete, and what is known to be lost.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(after_help = AFTER_HELP)]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub struct Args {
    /// Only rows with this field: a column or a key of the metadata. The same field again means
    /// or, another field means and, `+` means or between groups
    #[arg(value_name = "FIELD=VALUE")]
    pub fields: Vec<String>,
    /// Wait for more rows and show them as they are committed
    #[arg(short, long)]
    pub follow: bool,
    /// Only the newest N rows; `all` for all of them
    #[arg(short = 'n', long, value_name = "N", num_args = 0..=1, default_missing_value = "10")]
    pub lines: Option<String>,
    /// Newest first
    #[arg(short, long, conflicts_with = "follow")]
    pub reverse: bool,
    /// Rows from this time on
    #[arg(short = 'S', long, value_name = "TIME", allow_hyphen_values = true)]
    pub since: Option<String>,
    /// Rows up to this time
    #[arg(short = 'U', long, value_name = "TIME", allow_hyphen_values = true)]
    pub until: Option<String>,
    /// This level and above (warning), or a range (debug..info); syslog's words and numbers too
    #[arg(short, long, value_name = "LEVEL")]
    pub priority: Option<String>,
    /// Exactly these levels
    #[arg(long, value_name = "LEVEL", value_delimiter = ',', conflicts_with = "priority")]
    pub level: Vec<String>,
    /// Search in the message and in the values of the metadata. All in lower case ignores case
    #[arg(short, long, value_name = "REGEX")]
    pub grep: Option<String>,
    /// Whether --grep regards case, whatever the pattern looks like
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub case_sensitive: Option<bool>,
    /// Only this source; its family (nginx for nginx/access) or a pattern. May be repeated
    #[arg(short, long, value_name = "NAME", value_delimiter = ',')]
    pub source: Vec<String>,
    /// Only this host, or a pattern. May be repeated
    #[arg(short = 'H', long, value_name = "HOST", value_delimiter = ',')]
    pub host: Vec<String>,
    /// Only rows of this request
    #[arg(long, value_name = "ID")]
    pub request_id: Option<String>,
    /// Only rows of applications of this user; with --events the events of this user
    #[arg(long, value_name = "ID")]
    pub user: Option<String>,
    /// Only rows of applications of this session; with --events the events of it
    #[arg(long, value_name = "ID")]
    pub session: Option<String>,
    /// Show user events, newest first, instead of log rows (`-s user_events` means the same).
    /// In Cassandra they are kept by user: name one by --user
    #[arg(long)]
    pub events: bool,
    /// Only user events of this type; means --events
    #[arg(long, value_name = "TYPE")]
    pub event_type: Option<String>,
    /// Only what took at least so long (500ms, 2s), where a row says it
    #[arg(long, value_name = "TIME")]
    pub min_duration: Option<String>,
    /// How rows look: short, short-iso, json, json-pretty, cat, verbose, raw (the line as it
    /// stands in its file while that exists) or csv
    #[arg(short, long, value_name = "LOOK", default_value = "short")]
    pub output: Look,
    /// The same as -o json
    #[arg(long, conflicts_with = "output")]
    pub json: bool,
    /// Count rows by source, level, host, minute, hour, day, or any field; several with commas.
    /// Records that may still grow, the last of a multi-line log, are not counted yet
    #[arg(long, value_name = "BY", num_args = 0..=1, default_missing_value = "all", conflicts_with = "follow")]
    pub count: Option<String>,
    /// Begin at this row
    #[arg(short, long, value_name = "CURSOR")]
    pub cursor: Option<String>,
    /// Begin after this row
    #[arg(long, value_name = "CURSOR", conflicts_with = "cursor")]
    pub after_cursor: Option<String>,
    /// Print the cursor of the last row at the end
    #[arg(long)]
    pub show_cursor: bool,
    /// Exit with 1 unless the answer is complete
    #[arg(long)]
    pub require_complete: bool,
    /// Times in UTC
    #[arg(long)]
    pub utc: bool,
    /// Do not say how complete the answer is
    #[arg(short, long)]
    pub quiet: bool,
    /// Write straight to the terminal
    #[arg(long)]
    pub no_pager: bool,
}

/// What an answer depends on besides the store.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// The time, in the local zone.
    pub now: Zoned,
    /// A person reads the answer on a terminal.
    pub terminal: bool,
    /// With colours.
    pub colour: bool,
}

fn usage(error: impl std::fmt::Display) -> anyhow::Error {
    Refusal::Usage(error.to_string()).into()
}

/// An error by its own type, so that its exit code is found.
fn failed(error: QueryError) -> anyhow::Error {
    match error {
        QueryError::Store(error) => error.into(),
        QueryError::Output(error) => error.into(),
    }
}

/// Answers on stdout, through a pager on a terminal. The store is opened within a runtime.
///
/// # Errors
///
/// The arguments' ([`Refusal::Usage`]), the store's or the output's.
pub fn run(
    args: &Args,
    open: impl FnOnce() -> anyhow::Result<Arc<dyn LogReader>>,
) -> anyhow::Result<ExitCode> {
    let terminal = io::stdout().is_terminal();
    let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    let around =
        Surroundings { now: Zoned::now(), terminal, colour: terminal && !no_colour && !dumb };
    // before the pager: a mistake is told on the terminal, not behind it
    let question = Question::new(args, &around.now)?;
    // a thread of its own for the driver: a pager makes this one wait as long as its user likes
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let reader = {
        let _within = runtime.enter();
        open()?
    };
    let by_pages = terminal && !args.follow && !args.no_pager;
    let mut pager = if by_pages { Pager::start() } else { None };
    let answered = {
        let out: Box<dyn Write> = match &mut pager {
            Some(pager) => Box::new(pager),
            None => Box::new(io::stdout()),
        };
        let mut out = BufWriter::new(out);
        let answered = runtime.block_on(question.answer(&*reader, &around, &mut out));
        let flushed = out.flush();
        // what could not be written is not wanted
        let _ = out.into_parts();
        answered.and_then(|told| Ok(flushed.map(|()| told)?))
    };
    drop(pager);
    let told = answered?;
    if let Some(line) = &told.line {
        eprintln!("-- {line}");
    }
    Ok(ExitCode::from(if told.good { exit::DONE } else { exit::NOT_CLEAN }))
}

/// The end of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// How complete it is.
    pub line: Option<String>,
    /// Something was found, and it is complete if that was required.
    pub good: bool,
}

/// Arguments that have been understood.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub struct Question {
    asked: Asked,
    follow: bool,
    count: Option<Vec<By>>,
    look: Look,
    zone: TimeZone,
    show_cursor: bool,
    require_complete: bool,
    quiet: bool,
}

impl Question {
    /// Understands the arguments.
    ///
    /// # Errors
    ///
    /// [`Refusal::Usage`], with what is possible instead.
    pub fn new(args: &Args, now: &Zoned) -> anyhow::Result<Self> {
        let now = if args.utc { now.with_time_zone(TimeZone::UTC) } else { now.clone() };
        let mut words = args.fields.clone();
        let mut by = args.count.clone();
        // `--count status=502` counts the rows with that field
        if let Some(word) = by.take_if(|word| word.contains('=')) {
            words.insert(0, word);
            by = Some("all".into());
        }
        let names = |words: &[String]| -> Result<Vec<Name>, _> {
            words.iter().map(|word| Name::new(word)).collect()
        };
        let at = |word: &Option<String>| {
            word.as_deref().map(|word| time::read(word, &now)).transpose().map_err(usage)
        };
        let levels = match &args.priority {
            Some(word) => filter::priority(word).map_err(usage)?,
            None => args
                .level
                .iter()
                .map(|word| filter::level(word))
                .collect::<Result<_, _>>()
                .map_err(usage)?,
        };
        let (since_ms, until_ms) = (at(&args.since)?, at(&args.until)?);
        if since_ms.zip(until_ms).is_some_and(|(since, until)| since > until) {
            return Err(usage("--since is after --until: no row can be there"));
        }
        let grep = args.grep.as_deref().map(|pattern| filter::grep(pattern, args.case_sensitive));
        let whose = Whose::new(args)?;
        let filter = Filter {
            since_ms,
            until_ms,
            sources: names(&whose.sources).map_err(usage)?,
            hosts: names(&args.host).map_err(usage)?,
            levels,
            request_id: args.request_id.as_deref().map(whose::id_of),
            min_duration_ms: args.min_duration.as_deref().map(duration_ms).transpose()?,
            grep: grep.transpose().map_err(usage)?,
            fields: filter::fields(&words).map_err(usage)?,
            musts: whose.musts,
            tables: whose.tables,
            user: whose.user,
        };
        let newest_first = whose.tables == Tables::Events && !args.follow;
        let lines = match args.lines.as_deref() {
            None if args.follow => Lines::Newest(FOLLOW_LINES),
            None | Some("all") => Lines::All,
            Some(number) => Lines::Newest(number.parse().map_err(|_| {
                usage(format!("{number:?} is no number of rows; write a number or `all`"))
            })?),
        };
        let cursor = args.cursor.as_ref().or(args.after_cursor.as_ref());
        let from = cursor.map(|word| cursor::read(word)).transpose().map_err(usage)?;
        let after = args.after_cursor.is_some();
        Ok(Self {
            asked: Asked {
                filter,
                lines,
                reverse: args.reverse || newest_first,
                from: from.map(|key| From { key, after }),
            },
            follow: args.follow,
            count: by.as_deref().map(By::list),
            look: if args.json { Look::Json } else { args.output },
            zone: now.time_zone().clone(),
            show_cursor: args.show_cursor,
            require_complete: args.require_complete,
            quiet: args.quiet,
        })
    }

    /// Answers. A follower only ends with an error.
    ///
    /// # Errors
    ///
    /// The store's or the output's.
    pub async fn answer(
        &self,
        reader: &dyn LogReader,
        around: &Surroundings,
        out: &mut dyn Write,
    ) -> anyhow::Result<Told> {
        if reader.needs_user() {
            whose::check_user(&self.asked.filter, self.count.as_deref())?;
        }
        let files = match self.look {
            Look::Raw => Some(Files::of(reader).await?),
            _ => None,
        };
        let style = Style {
            look: self.look,
            zone: self.zone.clone(),
            colour: around.colour,
            terminal: around.terminal,
        };
        let mut printer = Printer::new(style, files);
        // before the rows: what is committed after it can only make the answer better
        let now_ms = around.now.timestamp().as_millisecond();
        let told =
            completeness(reader, &self.asked.filter, now_ms, &self.zone).await.map_err(failed)?;
        let found = if let Some(by) = &self.count {
            let counts = count(reader, &self.asked.filter, by, &self.zone).await.map_err(failed)?;
            printer.counts(out, by, &counts)?;
            counts.iter().map(|count| count.rows).sum()
        } else if self.follow {
            return self.follow(reader, &mut printer, out).await;
        } else {
            self.show(reader, &mut printer, out).await?
        };
        let good = found > 0 && (told.complete || !self.require_complete);
        Ok(Told { line: (!self.quiet).then_some(told.line), good })
    }

    async fn show(
        &self,
        reader: &dyn LogReader,
        printer: &mut Printer,
        out: &mut dyn Write,
    ) -> anyhow::Result<u64> {
        let mut last = None;
        let mut emit = |row: &StoredRow| {
            last = Some(row.key);
            printer.row(out, row)
        };
        let found = run_query(reader, &self.asked, &mut emit).await.map_err(failed)?;
        if let Some(key) = last.filter(|_| self.show_cursor) {
            writeln!(out, "-- cursor: {}", cursor::write(key))?;
        }
        Ok(found)
    }

    async fn follow(
        &self,
        reader: &dyn LogReader,
        printer: &mut Printer,
        out: &mut dyn Write,
    ) -> anyhow::Result<Told> {
        let mut follower = Follower::begin(reader).await.map_err(failed)?;
        let mut emit = |row: &StoredRow| {
            // the others come with the first look that finds them committed
            if follower.committed(row) { printer.row(out, row) } else { Ok(()) }
        };
        run_query(reader, &self.asked, &mut emit).await.map_err(failed)?;
        out.flush()?;
        let mut waiting = false;
        loop {
            let mut emit = |row: &StoredRow| printer.row(out, row);
            match follower.look(reader, &self.asked.filter, &mut emit).await {
                Ok(_) => waiting = false,
                Err(QueryError::Output(error)) => return Err(error.into()),
                Err(QueryError::Store(error)) => {
                    if !std::mem::replace(&mut waiting, true) {
                        eprintln!("bitacora: {error}; waiting for it");
                    }
                }
            }
            out.flush()?;
            if nobody_reads() {
                return Err(io::Error::from(io::ErrorKind::BrokenPipe).into());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// Whether the reader of our output has gone: without rows no write would tell.
fn nobody_reads() -> bool {
    use rustix::event::{PollFd, PollFlags, poll};
    let stdout = io::stdout();
    let mut fds = [PollFd::new(&stdout, PollFlags::empty())];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    let gone = PollFlags::ERR;
    poll(&mut fds, Some(&now)).is_ok() && fds.iter().any(|fd| fd.revents().intersects(gone))
}

fn duration_ms(word: &str) -> anyhow::Result<f64> {
    let digits = word.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(word.len());
    let (number, unit) = word.split_at(digits);
    let unit = match unit.trim() {
        "" | "ms" => 1.0,
        "s" => 1e3,
        "m" | "min" => 6e4,
        "h" => 3.6e6,
        _ => f64::NAN,
    };
    let number: f64 = number.parse().unwrap_or(f64::NAN);
    let duration = number * unit;
    if duration.is_nan() {
        return Err(usage(format!("{word:?} is no duration; write for example 500ms or 2s")));
    }
    Ok(duration)
}

#[cfg(test)]
#[path = "logs_tests.rs"]
mod tests;
