//! Ends of programs and forks: each record is sent by the process that logged it, and only once.
//!
//! A test that needs a program of its own runs itself once more, and is the program then.

#![allow(unsafe_code, reason = "a fork cannot be had without")]
#![allow(clippy::unwrap_used, reason = "all of it is tests")]

mod support;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::process::{ExitStatus, Output};
use std::time::{Duration, Instant};

use bitacora_tracing::{Builder, Guard, Layer};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use support::{DEADLINE, Daemon, messages, numbers, program};
use tracing::info;
use tracing_subscriber::prelude::*;

fn builder(socket: &Path) -> Builder {
    Layer::builder().path(socket).exit_timeout(Duration::from_secs(20))
}

/// Makes the layer the program's own, as `main` would.
fn init(builder: Builder) -> Guard {
    let (layer, guard) = builder.build();
    tracing_subscriber::registry().with(layer).try_init().unwrap();
    guard
}

/// What a program has said on stderr, line by line; it must have ended well.
#[track_caller]
fn said(output: &Output) -> Vec<String> {
    let text = String::from_utf8_lossy(&output.stderr);
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert_eq!(ExitStatus::code(&output.status), Some(0), "{text}{stdout}");
    text.lines().map(str::to_owned).collect()
}

#[test]
fn records_in_the_queue_are_sent_as_the_program_ends() {
    if let Some(socket) = program() {
        let _guard = init(builder(&socket));
        (0..3_000).for_each(|number| info!("number {number}"));
        return;
    }
    let Some(daemon) = Daemon::running() else { return };
    let output = daemon.run_program("records_in_the_queue_are_sent_as_the_program_ends");
    assert_eq!(said(&output), [""; 0]);
    assert_eq!(messages(&daemon.wait_for(3_000), ""), numbers(3_000));
}

#[test]
fn a_program_that_ends_without_a_daemon_says_once_what_is_lost() {
    if let Some(socket) = program() {
        let short = Duration::from_millis(500);
        let guard = init(builder(&socket).exit_timeout(short).queue_records(30));
        (0..40).for_each(|number| info!("number {number}"));
        let began = Instant::now();
        drop(guard);
        assert!(began.elapsed() < Duration::from_secs(5));
        info!("after the end");
        return;
    }
    let Some(daemon) = Daemon::stopped() else { return };
    let test = "a_program_that_ends_without_a_daemon_says_once_what_is_lost";
    let expected = format!(
        "bitacora-tracing: 40 records lost (30 without a receipt from {}, 10 dropped as the queue \
         was full); last error: No such file or directory (os error 2)",
        daemon.socket().display()
    );
    assert_eq!(said(&daemon.run_program(test)), [expected]);
}

#[test]
fn an_error_that_ends_main_does_not_keep_its_records() {
    if let Some(socket) = program() {
        let caught = std::panic::catch_unwind(|| {
            let _guard = init(builder(&socket));
            info!("number 0");
            panic!("by the test");
        });
        assert!(caught.is_err());
        return;
    }
    let Some(daemon) = Daemon::running() else { return };
    let _ = said(&daemon.run_program("an_error_that_ends_main_does_not_keep_its_records"));
    assert_eq!(messages(&daemon.wait_for(1), ""), numbers(1));
}

struct Loud;

impl fmt::Display for Loud {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        info!("from within {Loud}"); // without end, if it were taken
        f.write_str("loud")
    }
}

#[test]
fn formatting_that_logs_is_no_endless_recursion() {
    if let Some(socket) = program() {
        let guard = init(builder(&socket));
        info!(loud = %Loud, "number 0");
        info!("number 1");
        let stats = guard.stats();
        assert_eq!(stats.errors, 1, "{stats:?}");
        assert!(stats.last_error.contains("left out"), "{stats:?}");
        return;
    }
    let Some(daemon) = Daemon::running() else { return };
    assert_eq!(said(&daemon.run_program("formatting_that_logs_is_no_endless_recursion")), [""; 0]);
    assert_eq!(messages(&daemon.wait_for(2), ""), numbers(2));
}

/// Forks; the child does its work and ends without returning.
fn in_child(work: impl FnOnce() -> bool) -> nix::unistd::Pid {
    // SAFETY: the child logs, which takes no lock that the parent may have held, and exits.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => std::process::exit(if work() { 0 } else { 9 }),
        ForkResult::Parent { child } => child,
    }
}

#[track_caller]
fn ended_well(child: nix::unistd::Pid) {
    assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 0)));
}

#[test]
fn a_fork_in_mid_stream_sends_each_record_once() {
    if let Some(socket) = program() {
        let guard = init(builder(&socket));
        (0..1_000).for_each(|number| info!("parent {number}"));
        let mut children = Vec::new();
        for child in 0..4 {
            children.push(in_child(|| {
                (0..500).for_each(|number| info!("child {child} {number}"));
                let fresh = guard.stats().sent <= 500;
                fresh && guard.flush(DEADLINE)
            }));
            (0..500).for_each(|number| info!("parent {}", 1_000 + 500 * child + number));
        }
        children.into_iter().for_each(ended_well);
        return;
    }
    let Some(daemon) = Daemon::running() else { return };
    assert_eq!(said(&daemon.run_program("a_fork_in_mid_stream_sends_each_record_once")), [""; 0]);
    let mut expected: BTreeMap<String, usize> =
        (0..3_000).map(|number| (format!("parent {number}"), 1)).collect();
    for child in 0..4 {
        expected.extend((0..500).map(|number| (format!("child {child} {number}"), 1)));
    }
    let rows = daemon.wait_for(5_000);
    assert_eq!(messages(&rows, ""), expected);
    let mut processes: Vec<_> =
        rows.iter().map(|row| row["metadata"]["process"].to_string()).collect();
    processes.sort();
    processes.dedup();
    assert_eq!(processes.len(), 5);
}

#[test]
fn forks_while_other_threads_log_do_not_hang() {
    if let Some(socket) = program() {
        let guard = init(builder(&socket));
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let stop = &stop;
                scope.spawn(move || {
                    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                        info!("thread {thread}");
                        std::thread::sleep(Duration::from_micros(200));
                    }
                });
            }
            for child in 0..20 {
                ended_well(in_child(|| {
                    info!("number {child}");
                    guard.flush(DEADLINE)
                }));
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        let acked = guard.flush(DEADLINE);
        let stats = guard.stats();
        assert!(acked && stats.dropped == 0, "{stats:?}");
        info!("sent {}", stats.acked);
        return;
    }
    let Some(daemon) = Daemon::running() else { return };
    assert_eq!(said(&daemon.run_program("forks_while_other_threads_log_do_not_hang")), [""; 0]);
    let rows = daemon.wait_for(21);
    let sent = support::eventually("the parent's last record", || {
        messages(&daemon.rows(&["--source", "app"]), "sent ").into_keys().next()
    });
    let sent: usize = sent.trim_start_matches("sent ").parse().unwrap();
    assert!(rows.len() >= 21);
    let rows = daemon.wait_for(sent + 21);
    assert_eq!(messages(&rows, "number "), numbers(20));
    assert_eq!(messages(&rows, "thread ").values().sum::<usize>(), sent);
}
