//! Runs a command, measures it, and passes on its end and the signals that were meant for it.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, Signal, pidfd_open, pidfd_send_signal};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::exfiltrator::raw::WithRawSiginfo;

use super::events::DURATION_MAX_CS;

/// The variable that tells a command under which id it is looked for.
pub const REQUEST_ID: &str = "BITACORA_REQUEST_ID";

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// By itself, with this code.
    Code(u8),
    /// By this signal.
    Signal(i32),
}

/// A command that was run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// How it ended.
    pub end: End,
    /// How long it took.
    pub took: Duration,
}

impl Ended {
    /// Hundredths of a second, as a phase has them.
    #[must_use]
    pub fn hundredths(&self) -> i64 {
        i64::try_from(self.took.as_millis() / 10).unwrap_or(i64::MAX).min(DURATION_MAX_CS)
    }
}

/// Runs a command to its end, with our input and output, under this id. A command that cannot be
/// started ends with 127 (there is none) or 126, as a shell has it, and why is told on stderr.
///
/// # Errors
///
/// Signals cannot be watched, or the command's end not be heard of.
pub fn run(command: &[OsString], request_id: &str) -> io::Result<Ended> {
    let Some((program, arguments)) = command.split_first() else {
        return Err(io::Error::other("there is no command"));
    };
    let signals = SignalsInfo::<WithRawSiginfo>::new(watched())?;
    let handle = signals.handle();
    let began = Instant::now();
    let mut child = match Command::new(program).args(arguments).env(REQUEST_ID, request_id).spawn()
    {
        Ok(child) => child,
        Err(error) => {
            eprintln!("bitacora: cannot run {}: {error}", program.to_string_lossy());
            let code = if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 };
            return Ok(Ended { end: End::Code(code), took: began.elapsed() });
        }
    };
    let passed = pass_on(&child, signals);
    let status = child.wait();
    let took = began.elapsed();
    handle.close();
    if let Ok(passed) = passed {
        drop(passed.join());
    }
    let status = status?;
    let end = match (status.code(), status.signal()) {
        (Some(code), _) => End::Code(u8::try_from(code).unwrap_or(u8::MAX)),
        (None, signal) => End::Signal(signal.unwrap_or(SIGTERM)),
    };
    Ok(Ended { end, took })
}

/// The signals that are passed on: those that whoever started us has not switched off, as
/// nohup(1) does, for these stay switched off in the command.
fn watched() -> Vec<i32> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0);
    let all = [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2];
    all.into_iter().filter(|signal| ignored & (1 << (signal - 1)) == 0).collect()
}

/// A thread that passes signals on until its list is closed. What the terminal sends, the command
/// has got itself. A descriptor names the process, as its number may be another's once it ended.
fn pass_on(
    child: &Child,
    mut signals: SignalsInfo<WithRawSiginfo>,
) -> io::Result<std::thread::JoinHandle<()>> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::other("a process without a number"))?;
    let descriptor = pidfd_open(pid, PidfdFlags::empty())?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for told in signals.forever() {
            let by_a_process = told.si_code <= 0;
            if let Some(signal) = Signal::from_named_raw(told.si_signo)
                && by_a_process
            {
                // it may have ended
                pidfd_send_signal(&descriptor, signal).unwrap_or(());
            }
        }
    })
}

/// Ends this process by the signal that ended the command, without a second core file. Comes back
/// only where that does not work.
pub fn die_of(signal: i32) {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    rustix::process::setrlimit(Resource::Core, none).unwrap_or(());
    drop(signal_hook::low_level::emulate_default_handler(signal));
}
