//! `bitacora audit`: proves that every byte of every file is accounted for.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use super::exit;
use super::store::{open_reader, runtime};
use crate::config::{Config, Machine};
use crate::daemon::{wall_ms, wall_us};
use crate::maintain::audit::{self, Deep, Fault, OriginAudit, Report};
use crate::stores::expired::{Tombstone, date_of};
use crate::stores::open;

const AFTER_HELP: &str = "\
Without options the store alone is asked: spans touch and do not overlap, their counts agree, and
the store has exactly the rows that they count. With --deep the files that are still there are
read again as the daemon reads them, and their bytes and the keys of their rows are compared.
With --repair exactly the rows that are missing are read once more and written.

Losses that could not be avoided have a receipt and are listed; they are no faults.

Exits with 0 if all is clean, 1 if not, 69 if the store cannot be read.";

/// Arguments of `bitacora audit`.
#[derive(Debug, Default, clap::Args)]
#[command(after_help = AFTER_HELP)]
#[allow(clippy::struct_excessive_bools)] // switches of a command line
pub struct Args {
    /// Compare with the files' own bytes
    #[arg(long)]
    pub deep: bool,
    /// Read what is missing once more and write it; includes --deep
    #[arg(long)]
    pub repair: bool,
    /// With --repair: say what would be written, and write nothing
    #[arg(long, requires = "repair")]
    pub dry_run: bool,
    /// Answer as one JSON object
    #[arg(long)]
    pub json: bool,
    /// List origins that are clean, too
    #[arg(long, short)]
    pub verbose: bool,
}

/// Audits and tells.
///
/// # Errors
///
/// The configuration is wrong, or the store cannot be read.
pub fn run(args: &Args, path: &Path, mut output: impl Write) -> anyhow::Result<ExitCode> {
    let config = Config::load(path, &Machine::here())?;
    let runtime = runtime()?;
    let (report, repaired) = runtime.block_on(async {
        let reader = open_reader(&config)?;
        let mut audited = audit::audit(&*reader, wall_ms()).await?;
        let mut repaired = None;
        if args.deep || args.repair {
            let wanted = audit::verify(&mut audited, &*reader).await?;
            let rows: usize = wanted.values().map(std::collections::HashSet::len).sum();
            if args.dry_run {
                repaired = Some(rows as u64);
            } else if args.repair {
                let store = open::writer(&config.store)?;
                store.check().await?;
                let written =
                    audit::repair(&audited, &wanted, &Arc::clone(&store), wall_us()).await?;
                store.close().await?;
                repaired = Some(written);
            }
        }
        anyhow::Ok((audited.report, repaired))
    })?;
    if args.json {
        writeln!(output, "{}", json(&report, repaired))?;
    } else {
        show(args, &report, repaired, &mut output)?;
    }
    Ok(ExitCode::from(if report.clean() { exit::DONE } else { exit::NOT_CLEAN }))
}

fn json(report: &Report, repaired: Option<u64>) -> serde_json::Value {
    let (bytes, lines, rows) = report.totals();
    serde_json::json!({
        "clean": report.clean(),
        "origins": report.origins,
        "bytes": bytes,
        "lines": lines,
        "rows": rows,
        "stray_rows": report.stray_rows,
        "dead_letters": report.dead_letters,
        "receipts": report.receipts,
        "expired_rows": report.expired_rows(),
        "expired": report.expired,
        "ended_origins": report.ended,
        "ended_rows_left": report.ended_rows_left,
        "repaired_rows": repaired,
    })
}

fn show(
    args: &Args,
    report: &Report,
    repaired: Option<u64>,
    output: &mut impl Write,
) -> std::io::Result<()> {
    for origin in &report.origins {
        if args.verbose || !origin.faults.is_empty() {
            show_origin(origin, output)?;
        }
    }
    for receipt in &report.receipts {
        let (path, cause) = (receipt.path.display(), receipt.cause.name());
        writeln!(
            output,
            "lost {path}: {cause} from byte {}: {}",
            receipt.start_bytes, receipt.detail
        )?;
    }
    if report.stray_rows > 0 {
        writeln!(output, "{} rows belong to no origin that the store knows", report.stray_rows)?;
    }
    let (bytes, lines, rows) = report.totals();
    let origins = report.origins.len();
    let verdict = if report.clean() { "clean" } else { "NOT CLEAN" };
    writeln!(
        output,
        "{verdict}: {origins} origins, {bytes} bytes in spans, {lines} lines, {rows} rows, \
         {} loss receipts, {} dead letters",
        report.receipts.len(),
        report.dead_letters
    )?;
    let expired = report.expired_rows();
    if expired > 0 {
        writeln!(output, "{expired} rows have expired{}", ended(&report.expired))?;
    }
    if !report.ended.is_empty() {
        let (origins, left) = (report.ended.len(), report.ended_rows_left);
        writeln!(output, "{origins} origins have ended, {left} rows of theirs still stand")?;
    }
    match repaired {
        Some(rows) if args.dry_run => writeln!(output, "{rows} rows would be read again"),
        Some(rows) => writeln!(output, "{rows} rows were read again; run the audit once more"),
        None => Ok(()),
    }
}

/// What retention has ended, in short.
fn ended(tombstones: &[Tombstone]) -> String {
    let days: BTreeSet<i32> = tombstones.iter().map(|tombstone| tombstone.day).collect();
    let (Some(first), Some(last)) = (days.first(), days.last()) else { return String::new() };
    format!("; retention has ended {} days, {} to {}", days.len(), date_of(*first), date_of(*last))
}

fn show_origin(origin: &OriginAudit, output: &mut impl Write) -> std::io::Result<()> {
    let state = if origin.faults.is_empty() { "clean" } else { "NOT CLEAN" };
    writeln!(
        output,
        "{} {} (origin {}): {state}, {} bytes, {} lines, {} rows",
        origin.host,
        origin.path.display(),
        origin.origin,
        origin.bytes,
        origin.lines,
        origin.rows
    )?;
    match &origin.deep {
        Some(Deep::Checked { file, bytes }) => {
            writeln!(output, "  {bytes} bytes compared with {}", file.display())?;
        }
        Some(Deep::NotChecked { why }) => writeln!(output, "  not checked: {why}")?,
        None => {}
    }
    for fault in &origin.faults {
        writeln!(output, "  {}", words(fault))?;
    }
    Ok(())
}

fn words(fault: &Fault) -> String {
    match fault {
        Fault::Gap { start_bytes, end_bytes } => {
            format!("gap: bytes {start_bytes} to {end_bytes} are in no span")
        }
        Fault::Overlap { start_bytes, end_bytes } => {
            format!("overlap: bytes {start_bytes} to {end_bytes} are in two spans")
        }
        Fault::Counts { start_bytes, detail } => format!("span at {start_bytes}: {detail}"),
        Fault::Missing { start_bytes, end_bytes, rows } => {
            format!(
                "missing: {rows} rows of bytes {start_bytes} to {end_bytes}; --repair reads them again"
            )
        }
        Fault::Excess { start_bytes, end_bytes, rows } => {
            format!("excess: {rows} rows too many in bytes {start_bytes} to {end_bytes}")
        }
        Fault::Outside { rows } => format!("{rows} rows before the origin's first byte"),
        Fault::Checksum { start_bytes, end_bytes } => {
            format!("the file's bytes {start_bytes} to {end_bytes} are not those that were read")
        }
        Fault::RowMissing { offset_bytes } => format!("the line at byte {offset_bytes} has no row"),
        Fault::RowStray { offset_bytes } => {
            format!("the row at byte {offset_bytes} stands where no record is, or at another time")
        }
    }
}
