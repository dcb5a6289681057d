//! What systemd is told, and what it hands over. Without systemd nothing is said, and nothing fails.

use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener};

use rustix::net::{SocketType, sockopt};
use sd_notify::NotifyState;

use crate::sources::socket::Handed;

/// `FileDescriptorName=` of the stream socket.
const STREAM: &str = "stream";
/// The same of the datagram socket.
const DGRAM: &str = "dgram";

/// The sockets of the socket units. Whatever else was handed over is closed.
pub fn handed() -> Handed {
    let mut handed = Handed::default();
    let given = match sd_notify::listen_fds_with_names() {
        Ok(given) => given,
        Err(error) => {
            tracing::error!(%error, "what systemd handed over cannot be understood");
            return handed;
        }
    };
    for (descriptor, name) in given {
        let owned = own(descriptor);
        let kind = sockopt::socket_type(&owned).ok();
        match (&*name, kind) {
            (STREAM, Some(SocketType::STREAM)) => handed.stream = Some(UnixListener::from(owned)),
            (DGRAM, Some(SocketType::DGRAM)) => handed.dgram = Some(UnixDatagram::from(owned)),
            _ => {
                tracing::warn!(
                    "systemd hands over {name:?}, which is of no use here: a socket unit needs \
                     FileDescriptorName={STREAM} with ListenStream=, or ={DGRAM} with \
                     ListenDatagram="
                );
            }
        }
    }
    handed
}

#[allow(unsafe_code, reason = "LISTEN_FDS says that this descriptor is ours, and it is taken once")]
fn own(descriptor: std::os::fd::RawFd) -> OwnedFd {
    // SAFETY: systemd opened it for this process, named it in LISTEN_FDS for our pid, and `handed`
    // is called once, before anything else in the process could have closed it.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}

/// The daemon works.
pub fn ready(status: &str) {
    say(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// One line for `systemctl status`.
pub fn status(status: &str) {
    say(&[NotifyState::Status(status)]);
}

/// A loop has made progress.
pub fn alive() {
    say(&[NotifyState::Watchdog]);
}

/// A reload begins; [`ready`] ends it.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => say(&[NotifyState::Reloading, now]),
        Err(_) => say(&[NotifyState::Reloading]),
    }
}

/// The stop has begun.
pub fn stopping() {
    say(&[NotifyState::Stopping]);
}

fn say(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd was not told");
    }
}
