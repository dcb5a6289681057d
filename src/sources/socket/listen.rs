//! The two sockets: made, given to their group, and waited at.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{UnixDatagram, UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

use super::load::Load;
use super::protocol::{Frame, RECORD_BYTES_MAX};
use super::session::{Session, refuse};
use super::{Counts, Places, Shared};
use crate::parse::socket::Envelope;
use crate::spool::Append;

/// Connections that wait to be accepted.
const BACKLOG_WAIT: Duration = Duration::from_millis(100);
/// Datagrams that are handed over at once.
const DATAGRAMS_MAX: usize = 256;

/// Why a socket cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// It cannot be made.
    #[error("cannot make the socket {}: {source}", path.display())]
    Bind {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process listens there.
    #[error("another process listens on {}: stop it, or give `[socket]` another path", path.display())]
    Taken {
        /// Where.
        path: PathBuf,
    },
    /// The group is unknown or cannot be given.
    #[error("cannot give the socket {} to group {group}: {detail}", path.display())]
    Group {
        /// Where.
        path: PathBuf,
        /// The group's name.
        group: String,
        /// Why.
        detail: String,
    },
}

/// Sockets that another process has bound and listens at on our behalf: clients that come while
/// the daemon restarts wait there, and none is refused.
#[derive(Debug, Default)]
pub struct Handed {
    /// The stream socket.
    pub stream: Option<net::UnixListener>,
    /// The datagram socket.
    pub dgram: Option<net::UnixDatagram>,
}

/// The sockets, open.
#[derive(Debug)]
pub struct Listening {
    stream: Option<UnixListener>,
    dgram: Option<UnixDatagram>,
    /// The sockets that are taken away at the end.
    own: Vec<PathBuf>,
}

impl Listening {
    /// Takes the sockets that were handed over, and makes the others. One that a dead process left
    /// is taken over.
    ///
    /// # Errors
    ///
    /// One of them cannot be had.
    pub fn open(places: &Places, handed: Handed) -> Result<Self, SocketError> {
        let mut own = Vec::new();
        let named = |path: &PathBuf| !path.as_os_str().is_empty();
        let stream = Some(&places.stream).filter(|path| named(path));
        let stream = stream.map(|path| stream_at(path, places, handed.stream, &mut own));
        let dgram = Some(&places.dgram).filter(|path| named(path));
        let dgram = dgram.map(|path| dgram_at(path, places, handed.dgram, &mut own));
        Ok(Self { stream: stream.transpose()?, dgram: dgram.transpose()?, own })
    }

    /// Serves clients until the stop, and then takes the sockets away.
    pub async fn serve(self, shared: Arc<Shared>, stop: CancellationToken) {
        let Self { stream, dgram, own } = self;
        let datagrams =
            dgram.map(|socket| tokio::spawn(receive(socket, Arc::clone(&shared), stop.clone())));
        let sessions = tokio_util::task::TaskTracker::new();
        if let Some(listener) = stream {
            accept(&listener, &shared, &sessions, &stop).await;
        } else {
            stop.cancelled().await;
        }
        for path in own {
            // a client that finds none knows that nobody is there
            let _ = fs::remove_file(&path);
        }
        sessions.close();
        sessions.wait().await;
        if let Some(datagrams) = datagrams {
            // it ends at the stop, too
            let _ = datagrams.await;
        }
    }
}

fn stream_at(
    path: &Path,
    places: &Places,
    handed: Option<net::UnixListener>,
    own: &mut Vec<PathBuf>,
) -> Result<UnixListener, SocketError> {
    let bind = at(path);
    let socket = if let Some(socket) = handed {
        say_other_place(socket.local_addr().ok().as_ref(), path);
        socket
    } else {
        make_way(path, || net::UnixStream::connect(path).is_ok())?;
        let socket = net::UnixListener::bind(path).map_err(&bind)?;
        own.push(path.to_owned());
        give(path, places)?;
        socket
    };
    socket.set_nonblocking(true).map_err(&bind)?;
    UnixListener::from_std(socket).map_err(bind)
}

fn dgram_at(
    path: &Path,
    places: &Places,
    handed: Option<net::UnixDatagram>,
    own: &mut Vec<PathBuf>,
) -> Result<UnixDatagram, SocketError> {
    let bind = at(path);
    let socket = if let Some(socket) = handed {
        say_other_place(socket.local_addr().ok().as_ref(), path);
        socket
    } else {
        let probe = || net::UnixDatagram::unbound().and_then(|socket| socket.connect(path));
        make_way(path, || probe().is_ok())?;
        let socket = net::UnixDatagram::bind(path).map_err(&bind)?;
        own.push(path.to_owned());
        give(path, places)?;
        socket
    };
    socket.set_nonblocking(true).map_err(&bind)?;
    UnixDatagram::from_std(socket).map_err(bind)
}

async fn accept(
    listener: &UnixListener,
    shared: &Arc<Shared>,
    sessions: &tokio_util::task::TaskTracker,
    stop: &CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                let peer = stream.peer_cred().ok();
                let uid = peer.as_ref().map(tokio::net::unix::UCred::uid);
                let pid = peer.and_then(|peer| peer.pid()).and_then(|pid| u32::try_from(pid).ok());
                match shared.enter(uid) {
                    Some(seat) => {
                        let session = Session::new(shared, seat, pid, uid);
                        sessions.spawn(session.run(stream, stop.clone()));
                    }
                    None => turn_away(stream).await,
                }
            }
            Err(error) => {
                tracing::warn!(%error, "the socket cannot accept a client for now");
                tokio::time::sleep(BACKLOG_WAIT).await;
            }
        }
    }
}

async fn turn_away(stream: UnixStream) {
    let mut writer = Some(stream.into_split().1);
    let told = refuse(&mut writer, "there are too many connections");
    // one that does not read is not waited for
    let _ = tokio::time::timeout(BACKLOG_WAIT, told).await;
}

async fn receive(socket: UnixDatagram, shared: Arc<Shared>, stop: CancellationToken) {
    let mut buffer = vec![0; RECORD_BYTES_MAX + 1];
    let mut load = Load::default();
    loop {
        let received = tokio::select! {
            received = socket.recv(&mut buffer) => received,
            () = stop.cancelled() => return,
        };
        let mut next = received;
        for _ in 0..DATAGRAMS_MAX {
            let Ok(length) = next else { break };
            datagram(buffer.get(..length).unwrap_or_default(), &shared, &mut load);
            if load.is_full() {
                break;
            }
            next = socket.try_recv(&mut buffer);
        }
        let records = load.records;
        if records == 0 {
            continue;
        }
        let counts = Arc::clone(shared.counts());
        let done = Box::new(move |_: &[_]| Counts::add(&counts.stored, records));
        let append = Append { client: None, parts: load.take(), done };
        if shared.spool.try_append(append).is_err() {
            Counts::add(&shared.counts.refused, records);
        }
    }
}

fn datagram(bytes: &[u8], shared: &Arc<Shared>, load: &mut Load) {
    let text = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let text = text.strip_suffix(b"\0").unwrap_or(text);
    if text.iter().all(u8::is_ascii_whitespace) {
        return;
    }
    shared.tapped(text);
    let whole = text.get(..RECORD_BYTES_MAX).filter(|head| head.len() < text.len());
    let frame = Frame { text: whole.unwrap_or(text), line_bytes: whole.map(|_| text.len() as u64) };
    let envelope = Envelope { at_ms: (shared.now_ms)(), ..Envelope::default() };
    if load.add(frame, envelope, &shared.sources).fault.is_some() {
        Counts::add(&shared.counts.invalid, 1);
    }
}

fn at(path: &Path) -> impl Fn(io::Error) -> SocketError {
    move |source| SocketError::Bind { path: path.to_owned(), source }
}

/// Says where clients really find a socket that was handed over.
fn say_other_place(bound: Option<&net::SocketAddr>, wanted: &Path) {
    let bound = bound.and_then(net::SocketAddr::as_pathname);
    if bound != Some(wanted) {
        let bound = bound.unwrap_or(Path::new("a socket without a name"));
        tracing::warn!(
            "systemd listens on {}, and that is used; `[socket]` says {}: make them equal, as \
             `bitacora send` goes by the configuration",
            bound.display(),
            wanted.display()
        );
    }
}

/// Takes a socket away that a dead process left, and makes its directory.
fn make_way(path: &Path, connects: impl FnOnce() -> bool) -> Result<(), SocketError> {
    let bind = |source| SocketError::Bind { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Ok(there) if there.file_type().is_socket() => {
            if connects() {
                return Err(SocketError::Taken { path: path.to_owned() });
            }
            fs::remove_file(path).map_err(bind)
        }
        Ok(_) => Err(bind(io::Error::other("something else has this name"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => match path.parent() {
            Some(dir) => fs::create_dir_all(dir).map_err(bind),
            None => Ok(()),
        },
        Err(error) => Err(bind(error)),
    }
}

fn give(path: &Path, places: &Places) -> Result<(), SocketError> {
    if !places.group.is_empty() {
        let refused = |detail: String| SocketError::Group {
            path: path.to_owned(),
            group: places.group.clone(),
            detail,
        };
        let Some(group) = group_id(&places.group) else {
            return Err(refused("there is no such group on this machine".to_owned()));
        };
        std::os::unix::fs::chown(path, None, Some(group))
            .map_err(|error| refused(error.to_string()))?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(places.mode))
        .map_err(|source| SocketError::Bind { path: path.to_owned(), source })
}

/// The number of a group, from the system's own list, or a number as it is.
fn group_id(name: &str) -> Option<u32> {
    if let Ok(number) = name.parse() {
        return Some(number);
    }
    Some(nix::unistd::Group::from_name(name).ok()??.gid.as_raw())
}
