//! What the database servers of tests share: a port, and an end with the test.

#![allow(clippy::expect_used, reason = "all of it is tests")]

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// A shell that ends the server by a signal when it is dropped, or when this process has gone: its
/// input is closed then.
pub struct Keeper(Child);

impl Keeper {
    /// Starts a server, whose words go to `log`; `set` adds its program and arguments.
    pub fn start(signal: &str, log: &Path, set: impl FnOnce(&mut Command)) -> Self {
        let script = "signal=$1; log=$2; shift 2; \"$@\" >\"$log\" 2>&1 </dev/null & server=$!; \
                      cat >/dev/null; kill -\"$signal\" $server; wait $server 2>/dev/null";
        let mut command = Command::new("sh");
        command.args(["-c", script, "keeper", signal]).arg(log);
        set(&mut command);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().expect("sh"))
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// A port of 127.0.0.1 that nobody uses at present. It is none of those that the system gives to
/// connections that go out: one of them might take it before the server does.
pub fn free_port() -> u16 {
    const FIRST: u32 = 16_000;
    const PORTS: u32 = 16_000;
    static ASKED: AtomicU32 = AtomicU32::new(0);
    // test programs that run side by side begin far from each other
    let begin = std::process::id().wrapping_mul(1_009);
    (0..PORTS)
        .map(|_| begin.wrapping_add(ASKED.fetch_add(1, Ordering::Relaxed)) % PORTS + FIRST)
        .filter_map(|port| u16::try_from(port).ok())
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a port")
}
