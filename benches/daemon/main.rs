//! The whole daemon, measured: the real program in a process of its own, beside a bare program in
//! the same run. `cargo bench --bench daemon -- [NAME...] [--strict] [--quick]`; `./dev bench`
//! calls it. The figures, and what they mean, are in `docs/performance.md`.

#![allow(
    clippy::unwrap_used,
    clippy::pedantic,
    clippy::indexing_slicing,
    reason = "a measurement stops at a mistake"
)]
#![allow(clippy::cast_precision_loss, reason = "figures are rounded anyway")]

use std::path::Path;
use std::process::ExitCode;

#[path = "../support/bare.rs"]
mod bare_loop;
mod cassandra;
mod figures;
mod hostile;
mod lines;
#[path = "../../tests/support/cassandra.rs"]
mod node;
mod process;
mod socket;
mod throughput;
mod waiting;

/// All benchmarks, in this order. Comparisons with other shippers will be one more.
const NAMES: [&str; 7] = ["null", "sqlite", "latency", "quiet", "socket", "hostile", "cassandra"];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    if let [flag, how, dir] = &arguments[..]
        && flag == "--attack"
    {
        hostile::attack(how, Path::new(dir));
        return ExitCode::SUCCESS;
    }
    // cargo adds --bench
    let wanted: Vec<&str> =
        arguments.iter().map(String::as_str).filter(|name| !name.starts_with("--")).collect();
    if let Some(unknown) = wanted.iter().find(|name| !NAMES.contains(name)) {
        eprintln!("bench: no benchmark '{unknown}'; there are {}", NAMES.join(", "));
        return ExitCode::from(2);
    }
    let quick = has("--quick");
    let rows = if quick { 400_000 } else { 2_000_000 };
    let runs = if quick { 1 } else { 5 };
    let scratch =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("bench-{}", std::process::id()));
    std::fs::create_dir_all(&scratch).unwrap();
    let figures = figures::Figures::default();
    println!("program: {}", process::binary().display());
    // hostile clients are a part of what is measured at the socket
    let is_wanted =
        |name: &str| wanted.contains(&name) || name == "hostile" && wanted.contains(&"socket");
    for name in NAMES.iter().filter(|name| wanted.is_empty() || is_wanted(name)) {
        match *name {
            "null" => throughput::null(&figures, &scratch, rows, runs),
            "sqlite" => throughput::sqlite(&figures, &scratch, rows, runs.min(3)),
            "latency" => waiting::latency(&figures, &scratch, if quick { 20 } else { 100 }),
            "quiet" => waiting::quiet(&figures, &scratch, if quick { 1000 } else { 20_000 }),
            "socket" => socket::socket(&figures, &scratch, rows / 2),
            "hostile" => hostile::hostile(&figures, &scratch, if quick { 500 } else { 3000 }, runs),
            _ => cassandra::ship(&figures, &scratch, rows / 5, runs),
        }
    }
    let _ = std::fs::remove_dir_all(&scratch);
    println!("\nlimits missed: {}", figures.missed());
    ExitCode::from(u8::from(has("--strict") && figures.missed() > 0))
}
