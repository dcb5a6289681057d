//! `bitacora send`: a record, or lines, to the socket; waits for the receipt.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use super::exit::{self, Refusal};
use crate::config::units;
use crate::config::{Config, Machine};
use crate::record::Level;

const AFTER_HELP: &str = "\
Examples:
  bitacora send \"backup done\"
  bitacora send --level error --logger nightly --field host=db1 \"backup failed\"
  bitacora send --event login --field user_id=7 --field ip_address=192.0.2.7
  bitacora send --json '{\"message\":\"one\",\"duration_ms\":1.5}'
  some-program 2>&1 | bitacora send --source some-program

Each record is on disk when its key is printed: origin and offset_bytes, as `bitacora logs -o json`
shows them. Exit code 69: no daemon, or no receipt in time; the record may be stored all the same.";

/// Arguments of `bitacora send`.
#[derive(Debug, Default, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// The message, its words joined by blanks; without it (and --event) each line of standard
    /// input is one
    pub message: Vec<String>,
    /// The message (or each line) is a JSON record, and is sent as it is
    #[arg(long, conflicts_with_all = ["event", "level", "logger", "source", "field"])]
    pub json: bool,
    /// Make it a user event of this type
    #[arg(long, value_name = "TYPE")]
    pub event: Option<String>,
    /// How grave it is
    #[arg(short, long, value_name = "LEVEL")]
    pub level: Option<String>,
    /// Column `logger`
    #[arg(long, value_name = "NAME")]
    pub logger: Option<String>,
    /// Column `source`; app by default
    #[arg(short, long, value_name = "NAME")]
    pub source: Option<String>,
    /// Another column, or an entry of the metadata; any number of them
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub field: Vec<String>,
    /// The socket; that of the configuration by default
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// How long to wait for the daemon
    #[arg(long, value_name = "TIME", default_value = "10s")]
    pub timeout: String,
    /// Print no keys
    #[arg(short, long)]
    pub quiet: bool,
    /// Print the records that would be sent, and send nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Sends what the arguments or standard input say.
///
/// # Errors
///
/// The arguments or the configuration are wrong.
pub fn run(args: &Args, path: &Path, mut output: impl Write) -> anyhow::Result<ExitCode> {
    let frame = args.frame()?;
    let timeout = units::duration(&args.timeout)
        .map_err(|error| usage(format!("--timeout {:?}: {error}", args.timeout)))?;
    let input = std::io::stdin().lock();
    let lines: Box<dyn Iterator<Item = std::io::Result<String>>> =
        if args.message.is_empty() && args.event.is_none() {
            Box::new(input.lines())
        } else {
            Box::new(std::iter::once(Ok(args.message.join(" "))))
        };
    let records = lines.map(|line| args.record(&frame, line?));
    if args.dry_run {
        for record in records {
            writeln!(output, "{}", record?)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let configured = || anyhow::Ok(Config::load(path, &Machine::here())?.socket.stream);
    let socket = args.socket.clone().map_or_else(configured, |socket| Ok(Some(socket)))?;
    let Some(socket) = socket else {
        let path = path.display();
        return Err(usage(format!("[socket] stream is switched off in {path}; see --socket")));
    };
    match send(&socket, records, timeout, !args.quiet, output) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(Failure::Daemon(why)) => {
            eprintln!("{}: {why}", socket.display());
            Ok(ExitCode::from(exit::UNAVAILABLE))
        }
        Err(Failure::Input(error)) => Err(error),
    }
}

impl Args {
    /// What all records have.
    fn frame(&self) -> anyhow::Result<Map<String, Value>> {
        let mut frame = Map::new();
        if let Some(level) = &self.level {
            let Some(level) = Level::from_name(level) else {
                let all = Level::ALL.map(Level::name).join(", ").to_lowercase();
                return Err(usage(format!("--level {level:?} is unknown; it is one of {all}")));
            };
            frame.insert("level".to_owned(), level.name().into());
        }
        let named =
            [("event_type", &self.event), ("logger", &self.logger), ("source", &self.source)];
        for (key, value) in named {
            if let Some(value) = value {
                frame.insert(key.to_owned(), value.as_str().into());
            }
        }
        for field in &self.field {
            let Some((key, value)) = field.split_once('=').filter(|(key, _)| !key.is_empty())
            else {
                return Err(usage(format!("--field {field:?} is no KEY=VALUE")));
            };
            frame.insert(key.to_owned(), value.into());
        }
        Ok(frame)
    }

    fn record(&self, frame: &Map<String, Value>, line: String) -> anyhow::Result<String> {
        if self.json {
            let record: Value = serde_json::from_str(&line)
                .map_err(|error| usage(format!("{line:?} is no JSON: {error}")))?;
            if !record.is_object() {
                return Err(usage(format!("{line:?} is no JSON object")));
            }
            return Ok(record.to_string()); // on one line
        }
        let mut record = frame.clone();
        if !line.is_empty() {
            record.insert("message".to_owned(), line.into());
        }
        Ok(Value::from(record).to_string())
    }
}

fn usage(text: String) -> anyhow::Error {
    Refusal::Usage(text).into()
}

enum Failure {
    /// It is not there, or does not answer.
    Daemon(String),
    /// The records cannot be read, or the keys not be printed.
    Input(anyhow::Error),
}

fn send(
    socket: &Path,
    records: impl Iterator<Item = anyhow::Result<String>>,
    timeout: Duration,
    keys: bool,
    output: impl Write,
) -> Result<(), Failure> {
    let mut stream = UnixStream::connect(socket).map_err(|error| lost(&error))?;
    stream.set_write_timeout(Some(timeout)).map_err(|error| lost(&error))?;
    stream.set_read_timeout(Some(timeout)).map_err(|error| lost(&error))?;
    let client = uuid::Uuid::new_v4();
    let hello = serde_json::json!({
        "bitacora": 1, "ack": true, "client": client.to_string(), "next": 1, "keys": keys,
    });
    stream.write_all(format!("{hello}\n").as_bytes()).map_err(|error| lost(&error))?;
    let answers = BufReader::new(stream.try_clone().map_err(|error| lost(&error))?);
    let (told, heard) = std::sync::mpsc::sync_channel(1024);
    let reader = thread::spawn(move || {
        for line in answers.lines() {
            let failed = line.is_err();
            if told.send(line).is_err() || failed {
                return;
            }
        }
    });
    let mut receipts = Receipts { acked: 0, output };
    let mut sent = 0;
    for record in records {
        let record = record.map_err(Failure::Input)?;
        stream.write_all(format!("{record}\n").as_bytes()).map_err(|error| lost(&error))?;
        sent += 1;
        while let Ok(line) = heard.try_recv() {
            receipts.take(line)?;
        }
    }
    let deadline = Instant::now() + timeout;
    while receipts.acked < sent {
        let left = deadline.saturating_duration_since(Instant::now());
        let Ok(line) = heard.recv_timeout(left) else {
            let missing = sent - receipts.acked;
            let why = format!("no receipt for {missing} of {sent} records in time");
            return Err(Failure::Daemon(why));
        };
        receipts.take(line)?;
    }
    // nothing is to be heard any more
    let _ = stream.shutdown(std::net::Shutdown::Both);
    drop(heard);
    reader.join().map_err(|_| Failure::Daemon("the reader of its answers ended".to_owned()))
}

fn lost(error: &std::io::Error) -> Failure {
    let why = match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => "no answer in time".to_owned(),
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
            format!("no daemon listens there ({error}); is it running?")
        }
        _ => error.to_string(),
    };
    Failure::Daemon(why)
}

/// What the daemon has answered.
struct Receipts<W> {
    acked: u64,
    output: W,
}

impl<W: Write> Receipts<W> {
    fn take(&mut self, line: std::io::Result<String>) -> Result<(), Failure> {
        let answer: Value = serde_json::from_str(&line.map_err(|error| lost(&error))?)
            .map_err(|error| Failure::Daemon(format!("it speaks another protocol: {error}")))?;
        if let Some(error) = answer.get("error").and_then(Value::as_str) {
            let Some(record) = answer.get("record") else {
                return Err(Failure::Daemon(error.to_owned()));
            };
            eprintln!("record {record}: {error}");
        }
        for key in answer.get("keys").and_then(Value::as_array).into_iter().flatten() {
            let part = |at: usize| key.get(at).and_then(Value::as_i64).unwrap_or_default();
            writeln!(self.output, "{} {}", part(1), part(2))
                .map_err(|error| Failure::Input(error.into()))?;
        }
        self.acked = answer.get("acked").and_then(Value::as_u64).unwrap_or(self.acked);
        Ok(())
    }
}
