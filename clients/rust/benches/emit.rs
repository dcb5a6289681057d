//! What an event costs the calling thread, with the daemon up, down and stopped.
//!
//!     BITACORA_BINARY=target/release/bitacora cargo bench -p bitacora-tracing -- [--strict] [--calls N]
//!
//! *Tight* is event upon event; *paced* leaves some work and a pause between two events, so that
//! the worker runs in between and caches are cold, as in an application. With `--strict` the exit
//! status is 1 if a figure is over its limit.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark may end early")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::env;
use std::hint::black_box;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use bitacora_tracing::{Builder, Guard};
use nix::sys::signal::Signal;
use support::{Daemon, dispatch};
use tracing::dispatcher::with_default;
use tracing::{info, info_span};

const MEDIAN_MAX: Duration = Duration::from_micros(20);
const P99_MAX: Duration = Duration::from_micros(100);

struct Figures {
    median: Duration,
    p99: Duration,
    max: Duration,
}

/// One event of three fields in a span with two.
fn measure(calls: usize, paced: bool) -> Figures {
    let span = info_span!("request", request_id = "7c0d6f34-51cb-4f8a-8e0b-d3b0c8a4b1aa", user = 7);
    let _inside = span.enter();
    let mut took: Vec<Duration> = Vec::with_capacity(calls);
    for number in 0..calls {
        let began = Instant::now();
        info!(user_id = 7, duration_ms = 12.5, "order {number} of customer {} was sent", "ana");
        took.push(began.elapsed());
        if paced {
            black_box((0..20_000_u64).fold(0, |sum, step| black_box(sum + step)));
            thread::sleep(Duration::from_micros(200));
        }
    }
    took.sort_unstable();
    let at = |rank: usize| took.get(rank).copied().unwrap_or_default();
    Figures { median: at(calls / 2), p99: at(calls * 99 / 100), max: at(calls - 1) }
}

/// Prints a line for each pace, and says how many figures are over their limits.
fn show(name: &str, calls: usize, builder: Builder, ready: impl FnOnce(&Guard)) -> usize {
    let (subscriber, guard) = dispatch(builder);
    let mut over = 0;
    with_default(&subscriber, || {
        ready(&guard);
        for (pace, calls) in [("tight", calls), ("paced", calls / 10)] {
            let before = guard.stats().dropped;
            let Figures { median, p99, max } = measure(calls, pace == "paced");
            let dropped = guard.stats().dropped - before;
            let bad = median > MEDIAN_MAX || p99 > P99_MAX;
            over += usize::from(bad);
            let micros = |time: Duration| time.as_secs_f64() * 1e6;
            println!(
                "{:<28}{:>11.1}{:>11.1}{:>11.0}{dropped:>11}{}",
                format!("{name}, {pace}"),
                micros(median),
                micros(p99),
                micros(max),
                if bad { "  over" } else { "" }
            );
        }
    });
    over
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().collect();
    let strict = arguments.iter().any(|argument| argument == "--strict");
    let number = arguments.iter().skip_while(|argument| *argument != "--calls").nth(1);
    let calls = number.map_or(50_000, |number| number.parse().expect("a number after --calls"));
    assert!(calls >= 100, "--calls is at least 100");
    let Some(mut daemon) = Daemon::running() else { return ExitCode::from(2) };
    println!("{:28}{:>11}{:>11}{:>11}{:>11}", "", "median µs", "p99 µs", "max µs", "dropped");

    let mut over = show("bitacora, daemon up", calls, daemon.builder(), |_| {});
    daemon.kill();
    over += show("daemon down", calls, daemon.builder(), |_| {});
    daemon.start();
    over += show("daemon stopped", calls, daemon.builder(), |guard| {
        info!("connect");
        assert!(guard.flush(support::DEADLINE));
        daemon.signal(Signal::SIGSTOP);
    });

    println!("limits: median {MEDIAN_MAX:?}, p99 {P99_MAX:?}; {over} over");
    if over > 0 && strict { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
