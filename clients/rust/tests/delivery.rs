//! Records on their way to the real daemon: each arrives once, whatever happens to it.

mod support;

use std::thread;
use std::time::{Duration, Instant};

use bitacora_tracing::{Guard, WhenFull};
use nix::sys::signal::Signal;
use serde_json::Value;
use support::{DEADLINE, Daemon, dispatch, eventually, messages, numbers};
use tracing::Dispatch;
use tracing::dispatcher::with_default;
use tracing::info;

/// Logs `number FROM` and on in this thread.
fn log(subscriber: &Dispatch, numbers: std::ops::Range<usize>) {
    with_default(subscriber, || numbers.for_each(|number| info!("number {number}")));
}

/// Waits for a record's receipt, so that there is a connection.
fn connect(subscriber: &Dispatch, guard: &Guard) {
    log(subscriber, 0..1);
    assert!(guard.flush(DEADLINE), "{:?}", guard.stats());
}

#[test]
fn kill_9_in_mid_stream_loses_nothing_and_repeats_nothing() {
    let Some(mut daemon) = Daemon::running() else { return };
    let (subscriber, guard) = dispatch(daemon.builder().queue_records(100_000));
    let count = 20_000;
    thread::scope(|scope| {
        scope.spawn(|| {
            for first in (0..count).step_by(50) {
                log(&subscriber, first..first + 50);
                thread::sleep(Duration::from_millis(2)); // the pace of an application
            }
        });
        for kill in 1..=3 {
            eventually("records are acknowledged", || {
                (guard.stats().acked > kill * 3_000).then_some(())
            });
            daemon.kill();
            daemon.start();
        }
    });
    assert!(guard.flush(DEADLINE), "{:?}", guard.stats());
    assert_eq!(messages(&daemon.wait_for(count), ""), numbers(count));
    let stats = guard.stats();
    assert!(stats.reconnects >= 3, "{stats:?}");
    assert_eq!((stats.acked, stats.dropped), (count as u64, 0));
}

#[test]
fn records_wait_for_a_daemon_that_is_down_at_the_start() {
    let Some(mut daemon) = Daemon::stopped() else { return };
    let (subscriber, guard) = dispatch(daemon.builder());
    log(&subscriber, 0..500);
    assert!(!guard.flush(Duration::from_millis(300)));
    let stats = guard.stats();
    assert_eq!(stats.queued, 500);
    assert!(stats.last_error.starts_with("No such file or directory"), "{stats:?}");
    daemon.start();
    assert!(guard.flush(DEADLINE));
    assert_eq!(messages(&daemon.wait_for(500), ""), numbers(500));
    assert_eq!(guard.stats().reconnects, 0);
}

#[test]
fn a_stopped_daemon_never_holds_the_application_back() {
    let Some(daemon) = Daemon::running() else { return };
    let (subscriber, guard) = dispatch(daemon.builder().queue_records(1_000));
    connect(&subscriber, &guard);
    daemon.signal(Signal::SIGSTOP);
    let mut longest = Duration::ZERO;
    for number in 1..=5_000 {
        let began = Instant::now();
        log(&subscriber, number..number + 1);
        longest = longest.max(began.elapsed());
        if number % 100 == 0 {
            thread::sleep(Duration::from_millis(1)); // lets the worker fill socket and window
        }
    }
    // Far above what an event costs, and far below what waiting for the daemon would.
    assert!(longest < Duration::from_secs(1), "an event took {longest:?}");
    let dropped = guard.stats().dropped;
    assert!(dropped > 0);
    daemon.signal(Signal::SIGCONT);
    assert!(guard.flush(DEADLINE));
    assert_eq!(guard.stats().dropped, dropped);
    let kept = 5_001 - usize::try_from(dropped).unwrap();
    let is_told = |row: &&Value| row["metadata"].get("dropped").is_some();
    let rows = eventually("the rows and the word of the dropped ones", || {
        let rows = daemon.rows(&["--source", "app"]);
        (rows.len() >= kept + rows.iter().filter(is_told).count().max(1)).then_some(rows)
    });
    let told: Vec<&Value> = rows.iter().filter(is_told).collect();
    let sum = told.iter().map(|row| row["metadata"]["dropped"].as_str().unwrap());
    assert_eq!(sum.map(|count| count.parse::<u64>().unwrap()).sum::<u64>(), dropped);
    assert_eq!(rows.len(), kept + told.len());
    let stored = messages(&rows, "number ");
    assert!(stored.values().all(|count| *count == 1));
    assert!(stored.contains_key("number 5000"), "the oldest are dropped, not the newest");
}

#[test]
fn what_was_sent_is_not_flushed_until_its_receipt_came() {
    let Some(daemon) = Daemon::running() else { return };
    let (subscriber, guard) = dispatch(daemon.builder());
    connect(&subscriber, &guard);
    daemon.signal(Signal::SIGSTOP);
    log(&subscriber, 1..10);
    eventually("the records are on their way", || (guard.stats().in_flight == 9).then_some(()));
    assert!(!guard.flush(Duration::from_millis(200)));
    daemon.signal(Signal::SIGCONT);
    assert!(guard.flush(DEADLINE));
    assert_eq!(messages(&daemon.wait_for(10), ""), numbers(10));
}

#[test]
fn the_policy_block_waits_and_drops_nothing() {
    let Some(daemon) = Daemon::running() else { return };
    let (subscriber, guard) =
        dispatch(daemon.builder().queue_records(100).when_full(WhenFull::Block));
    daemon.signal(Signal::SIGSTOP);
    thread::scope(|scope| {
        let writer = scope.spawn(|| log(&subscriber, 0..5_000));
        eventually("the queue is full", || (guard.stats().queued == 100).then_some(()));
        let until = Instant::now() + Duration::from_millis(300);
        while Instant::now() < until {
            assert!(!writer.is_finished(), "it does not wait");
            thread::yield_now();
        }
        daemon.signal(Signal::SIGCONT);
    });
    assert!(guard.flush(DEADLINE));
    assert_eq!(messages(&daemon.wait_for(5_000), ""), numbers(5_000));
    assert_eq!(guard.stats().dropped, 0);
}

#[test]
fn a_blocked_caller_goes_on_when_the_guard_is_dropped() {
    let Some(daemon) = Daemon::stopped() else { return };
    let (subscriber, guard) =
        dispatch(daemon.builder().queue_records(10).when_full(WhenFull::Block));
    thread::scope(|scope| {
        let writer = scope.spawn(|| log(&subscriber, 0..20));
        eventually("the queue is full", || (guard.stats().queued == 10).then_some(()));
        drop(guard);
        eventually("the caller goes on", || writer.is_finished().then_some(()));
    });
}

#[test]
fn fifty_threads_log_at_once() {
    let Some(daemon) = Daemon::running() else { return };
    let (subscriber, guard) = dispatch(daemon.builder());
    thread::scope(|scope| {
        for number in 0..50 {
            let subscriber = &subscriber;
            scope.spawn(move || log(subscriber, number * 100..(number + 1) * 100));
        }
    });
    assert!(guard.flush(DEADLINE));
    assert_eq!(messages(&daemon.wait_for(5_000), ""), numbers(5_000));
    assert_eq!(guard.stats().dropped, 0);
}

#[test]
fn memory_is_bounded_by_bytes_too() {
    let Some(daemon) = Daemon::stopped() else { return };
    let (subscriber, guard) = dispatch(daemon.builder().queue_bytes(1_000_000));
    let long = "x".repeat(100_000);
    with_default(&subscriber, || (0..100).for_each(|_| info!("{long}")));
    let stats = guard.stats();
    assert!(stats.queued <= 10 && stats.queued > 0, "{stats:?}");
    assert!(stats.dropped >= 90, "{stats:?}");
}

#[test]
fn a_flush_without_records_is_at_once_and_a_row_needs_no_second_event() {
    let Some(daemon) = Daemon::running() else { return };
    let (subscriber, guard) = dispatch(daemon.builder());
    assert!(guard.flush(Duration::ZERO));
    log(&subscriber, 0..1);
    // Nobody flushes: the worker's own moment of waiting for company ends.
    assert_eq!(messages(&daemon.wait_for(1), ""), numbers(1));
}

#[test]
fn a_daemon_that_was_restarted_while_nothing_was_logged_is_found_again() {
    let Some(mut daemon) = Daemon::running() else { return };
    let (subscriber, guard) = dispatch(daemon.builder());
    connect(&subscriber, &guard);
    daemon.kill();
    daemon.start();
    log(&subscriber, 1..2);
    assert!(guard.flush(DEADLINE));
    assert_eq!(messages(&daemon.wait_for(2), ""), numbers(2));
    assert_eq!(guard.stats().reconnects, 1);
}
