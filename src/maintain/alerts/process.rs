//! Other programs, for a bounded time.

use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

/// How often a program is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// Bytes of an answer that are read: fewer than a pipe holds, so that nobody waits for a reader.
const ANSWER_BYTES: u64 = 32 << 10;

/// How a program ended, and the beginning of what it said.
#[derive(Debug)]
pub struct Ended {
    /// How.
    pub status: ExitStatus,
    /// On its output.
    pub output: String,
    /// On its error output.
    pub errors: String,
}

/// Runs a program that says little. It has nothing to read.
///
/// # Errors
///
/// It cannot be started, or does not end in time; then it is killed.
pub fn run(command: &mut Command, wait: Duration) -> io::Result<Ended> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn()?;
    let Some(status) = finish(&mut child, wait)? else {
        let late = format!("no answer within {} s", wait.as_secs());
        return Err(io::Error::new(io::ErrorKind::TimedOut, late));
    };
    let output = child.stdout.take().map_or_else(String::new, beginning);
    let errors = child.stderr.take().map_or_else(String::new, beginning);
    Ok(Ended { status, output, errors })
}

fn beginning(pipe: impl Read) -> String {
    let mut bytes = Vec::new();
    // what could be read counts
    let _ = pipe.take(ANSWER_BYTES).read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Waits for the end of a program that leads a group of processes; one that is late is killed,
/// with all that it started, and `None` says so.
///
/// # Errors
///
/// What the system says.
pub fn finish(child: &mut Child, wait: Duration) -> io::Result<Option<ExitStatus>> {
    let end = Instant::now() + wait;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
            // it may have ended at this very moment
            let _ = group.map(|group| kill_process_group(group, Signal::KILL));
            let _ = child.kill();
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(LOOK.min(left));
    }
}
