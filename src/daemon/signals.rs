//! Signals, on a thread of their own: they work when the runtime is stuck.

use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// SIGTERM or SIGINT.
    Stop,
    /// SIGHUP.
    Reload,
}

/// Exit code after a second SIGTERM or SIGINT: 128 and the signal's number, as shells count.
const fn exit_code(signal: i32) -> i32 {
    128 + signal
}

/// Calls `each` for every signal, for as long as the process lives. A second stop ends the
/// process at once; what was not acknowledged is read again at the next start.
///
/// # Errors
///
/// The handlers cannot be installed.
pub fn listen(mut each: impl FnMut(Wish) + Send + 'static) -> std::io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let mut stopping = false;
        for signal in signals.forever() {
            match signal {
                SIGHUP => each(Wish::Reload),
                _ if stopping => {
                    tracing::warn!("a second signal: ending at once");
                    std::process::exit(exit_code(signal));
                }
                _ => {
                    stopping = true;
                    each(Wish::Stop);
                }
            }
        }
    })?;
    Ok(())
}
