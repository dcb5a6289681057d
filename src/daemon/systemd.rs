//! What systemd is told, and what it hands over. Without systemd nothing is said, and nothing fails.

use std::fs::File;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::time::Duration;

use rustix::net::{SocketType, sockopt};
use sd_notify::NotifyState;

use crate::ledger::OriginId;
use crate::sources::socket;

/// Longest time between two words of progress.
const BEAT: Duration = Duration::from_secs(10);
/// `FileDescriptorName=` of the stream socket.
const STREAM: &str = "stream";
/// The same of the datagram socket.
const DGRAM: &str = "dgram";
/// How deleted files are called in the descriptor store, before the number of their origin.
const DELETED: &str = "deleted-";

/// What systemd hands over at a start.
#[derive(Debug, Default)]
pub struct Handed {
    /// The sockets of the socket units.
    pub sockets: socket::Handed,
    /// Deleted files that an earlier run of the service gave to systemd: see [`keep`].
    pub deleted: Vec<(OriginId, File)>,
}

/// Takes what systemd hands over. What is of no use is closed.
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
            (STREAM, Some(SocketType::STREAM)) => {
                handed.sockets.stream = Some(UnixListener::from(owned));
            }
            (DGRAM, Some(SocketType::DGRAM)) => {
                handed.sockets.dgram = Some(UnixDatagram::from(owned));
            }
            (name, None) if origin_of(name).is_some() => {
                handed.deleted.extend(origin_of(name).map(|origin| (origin, File::from(owned))));
            }
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

fn origin_of(name: &str) -> Option<OriginId> {
    name.strip_prefix(DELETED)?.parse().ok()
}

/// Gives systemd a copy of the descriptor of a deleted file, which the next start gets back: while
/// nobody has it open, its bytes are gone.
pub fn keep(origin: OriginId, file: &File) {
    let name = format!("{DELETED}{origin}");
    let states = [NotifyState::FdStore, NotifyState::FdName(&name)];
    if let Err(error) = sd_notify::notify_with_fds(&states, &[file.as_fd()]) {
        tracing::debug!(%error, "systemd does not keep a deleted file");
    }
}

/// systemd need not keep that file any longer.
pub fn release(origin: OriginId) {
    let name = format!("{DELETED}{origin}");
    say(&[NotifyState::FdStoreRemove, NotifyState::FdName(&name)]);
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

/// How often [`alive`] is to be said: twice in the time after which systemd takes the daemon for
/// stuck (`WatchdogSec=`), and every few seconds at least.
pub fn beat() -> Duration {
    let stuck = sd_notify::watchdog_enabled().unwrap_or(BEAT * 2);
    (stuck / 2).clamp(Duration::from_millis(100), BEAT)
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
