//! The pager of a person: `$PAGER`, or `less` as `journalctl` starts it.

use std::io::{self, Write};
use std::process::{Child, ChildStdin, Command, Stdio};

/// A running pager. Dropped, it is waited for until its user leaves it.
#[derive(Debug)]
pub struct Pager {
    child: Child,
    input: Option<ChildStdin>,
}

impl Pager {
    /// Starts it; `None` if the user wants none, or there is none.
    #[must_use]
    pub fn start() -> Option<Self> {
        let wanted = std::env::var("PAGER").unwrap_or_else(|_| "less".into());
        if wanted.trim().is_empty() || wanted.trim() == "cat" {
            return None;
        }
        let mut command = Command::new("sh");
        // exec, so that a missing program is told by sh alone and leaves nothing behind
        command.args(["-c", &format!("exec {wanted}")]).stdin(Stdio::piped());
        if std::env::var_os("LESS").is_none() {
            // ends by itself on less than a page; colours as they are; the screen stays
            command.env("LESS", "FRX");
        }
        let mut child = command.spawn().ok()?;
        let input = child.stdin.take();
        Some(Self { child, input })
    }
}

impl Write for Pager {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.input {
            #[allow(clippy::disallowed_methods, reason = "it is the one that `write_all` calls")]
            Some(input) => input.write(bytes),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.input.as_mut().map_or(Ok(()), Write::flush)
    }
}

impl Drop for Pager {
    fn drop(&mut self) {
        self.input = None;
        let _ = self.child.wait();
    }
}
