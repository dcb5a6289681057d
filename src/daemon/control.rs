//! The control socket: `status`, `reload` and `tap` for commands beside the daemon.
//!
//! One JSON object a line, one line back (for a tap, one a record). Mode 0600: whoever may open it
//! may ask.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::sources::socket::Tap;

/// Longest request, in bytes.
const REQUEST_BYTES_MAX: u64 = 4096;
/// How long a client may take to ask.
const REQUEST_WAIT: Duration = Duration::from_secs(5);

/// What may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "command")]
pub enum Request {
    /// How it goes: see [`super::status::Status`].
    Status,
    /// Read the configuration again.
    Reload,
    /// Retention has ended origins: forget them.
    Forget,
    /// The socket's records as they come, until the asker has gone.
    Tap,
}

/// One question and where its answer goes: a line of JSON.
pub type Question = (Request, oneshot::Sender<String>);

/// Why a command could not ask the daemon.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody listens.
    #[error("no daemon answers on {}: {source}; is it running, and does it use this configuration?", path.display())]
    Absent {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The conversation broke.
    #[error("the daemon on {} broke off: {source}", path.display())]
    Broken {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Binds the socket. The state directory is locked, so that a socket that is there is a dead one.
///
/// # Errors
///
/// The directory cannot be written.
pub fn bind(path: &Path) -> std::io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Answers until `stop`.
pub async fn serve(
    listener: UnixListener,
    questions: mpsc::Sender<Question>,
    tap: Option<Tap>,
    stop: CancellationToken,
) {
    loop {
        let stream = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match stream {
            Ok((stream, _)) => {
                tokio::spawn(converse(stream, questions.clone(), tap.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "the control socket cannot accept");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

async fn converse(stream: UnixStream, questions: mpsc::Sender<Question>, tap: Option<Tap>) {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    let mut limited = tokio::io::BufReader::new(read.take(REQUEST_BYTES_MAX));
    let read = tokio::time::timeout(REQUEST_WAIT, limited.read_line(&mut line)).await;
    if !matches!(read, Ok(Ok(1..))) {
        return;
    }
    let answer = match serde_json::from_str::<Request>(&line) {
        Ok(Request::Tap) => match tap {
            Some(tap) => return pour(&tap, &mut write).await,
            None => error_line("the socket is switched off: set [socket] stream or dgram"),
        },
        Ok(request) => {
            let (sender, receiver) = oneshot::channel();
            if questions.send((request, sender)).await.is_err() {
                return;
            }
            receiver.await.unwrap_or_else(|_| error_line("the daemon is stopping"))
        }
        Err(error) => error_line(&format!("not a request: {error}")),
    };
    // a client that has gone needs no answer
    let _ = write.write_all(format!("{answer}\n").as_bytes()).await;
}

/// Sends records, a line of JSON each, until the asker has gone.
async fn pour(tap: &Tap, write: &mut OwnedWriteHalf) {
    let mut records = tap.subscribe();
    loop {
        let line = match records.recv().await {
            Ok(record) => serde_json::json!({ "record": String::from_utf8_lossy(&record) }),
            Err(RecvError::Lagged(missed)) => serde_json::json!({ "missed": missed }),
            Err(RecvError::Closed) => return,
        };
        if write.write_all(format!("{line}\n").as_bytes()).await.is_err() {
            return;
        }
    }
}

/// An answer that says what is wrong.
#[must_use]
pub fn error_line(error: &str) -> String {
    serde_json::json!({ "error": error }).to_string()
}

/// Asks the daemon that listens on `path`, and waits for its answer.
///
/// # Errors
///
/// Nobody listens, or the conversation breaks.
pub fn ask(path: &Path, request: Request, wait: Duration) -> Result<String, ControlError> {
    let broken = |source| ControlError::Broken { path: path.to_owned(), source };
    let mut answers = listen_to(path, request)?;
    answers.get_ref().set_read_timeout(Some(wait)).map_err(broken)?;
    let mut answer = String::new();
    answers.read_line(&mut answer).map_err(broken)?;
    Ok(answer)
}

/// Asks the daemon that listens on `path`; its answers are to be read, a line each.
///
/// # Errors
///
/// Nobody listens.
pub fn listen_to(path: &Path, request: Request) -> Result<BufReader<BlockingStream>, ControlError> {
    let absent = |source| ControlError::Absent { path: path.to_owned(), source };
    let broken = |source| ControlError::Broken { path: path.to_owned(), source };
    let mut stream = BlockingStream::connect(path).map_err(absent)?;
    let question = serde_json::to_string(&request).unwrap_or_default() + "\n";
    stream.write_all(question.as_bytes()).map_err(broken)?;
    Ok(BufReader::new(stream))
}
