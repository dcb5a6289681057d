//! Notifiers: the ways on which news go out. Each is tried by itself, in a thread of its own and
//! for a bounded time: one that fails stops nobody else.

use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Once};
use std::thread;
use std::time::{Duration, Instant};

use crate::config::Alerts;

pub mod command;
pub mod email;
pub mod log;
pub mod message;
pub mod plan;
pub mod slack;

pub use message::{Kind, Message, News};

/// How long all messages of one check to one notifier may take.
pub const WAIT: Duration = Duration::from_secs(10);

/// Why a message did not go out. Nothing here tells a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotifyError {
    /// The file of its secret, or one of its settings.
    #[error("{0}")]
    Settings(String),
    /// The other side does not answer, or refuses.
    #[error("{0}")]
    Refused(String),
    /// It took too long.
    #[error("no answer within {:.0} s", .0.as_secs_f64())]
    Timeout(Duration),
}

/// A way on which news go out.
pub trait Notifier: Send + Sync {
    /// `slack`, `email`, `log` or `command`.
    fn name(&self) -> &'static str;

    /// Sends a message, and takes no longer than `wait`, or not much.
    ///
    /// # Errors
    ///
    /// Whether it arrived is not known; it will be sent again.
    fn send(&self, message: &Message, wait: Duration) -> Result<(), NotifyError>;
}

/// The notifiers of the configuration.
#[must_use]
pub fn configured(alerts: &Alerts) -> Vec<Arc<dyn Notifier>> {
    let mut all: Vec<Arc<dyn Notifier>> = Vec::new();
    if let Some(webhook) = &alerts.slack {
        all.push(Arc::new(slack::Slack::new(webhook.clone())));
    }
    if let Some(email) = &alerts.email {
        all.push(Arc::new(email::Mail::new(email.clone())));
    }
    if let Some(path) = &alerts.log {
        all.push(Arc::new(log::LogFile::new(path.clone())));
    }
    if !alerts.command.is_empty() {
        all.push(Arc::new(command::Run::new(alerts.command.clone())));
    }
    all
}

/// What became of the messages to one notifier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivered {
    /// So many of them went out, the first ones.
    pub messages: usize,
    /// Why the next one did not.
    pub error: Option<NotifyError>,
}

/// Sends to each notifier its messages, to all at once.
#[must_use]
pub fn deliver(work: Vec<(Arc<dyn Notifier>, Vec<Message>)>, wait: Duration) -> Vec<Delivered> {
    let end = Instant::now() + wait;
    let running: Vec<_> = work
        .into_iter()
        .map(|(notifier, messages)| {
            let (sender, results) = sync_channel(messages.len().max(1));
            let count = messages.len();
            let started = thread::Builder::new()
                .name(notifier.name().to_owned())
                .spawn(move || send_all(&*notifier, &messages, end, &sender));
            (count, results, started.err())
        })
        .collect();
    running
        .into_iter()
        .map(|(count, results, failed)| {
            let mut delivered = Delivered { messages: 0, error: None };
            if let Some(error) = failed {
                delivered.error = Some(NotifyError::Settings(format!("no thread for it: {error}")));
            }
            while delivered.error.is_none() && delivered.messages < count {
                // the notifier keeps the time itself; this is for one that hangs all the same
                let left = end.saturating_duration_since(Instant::now()) + Duration::from_secs(1);
                match results.recv_timeout(left) {
                    Ok(Ok(())) => delivered.messages += 1,
                    Ok(Err(error)) => delivered.error = Some(error),
                    Err(RecvTimeoutError::Timeout) => {
                        delivered.error = Some(NotifyError::Timeout(wait));
                    }
                    Err(RecvTimeoutError::Disconnected) => {
                        let broken = "it broke down: a fault in bitacora, please report it";
                        delivered.error = Some(NotifyError::Refused(broken.to_owned()));
                    }
                }
            }
            delivered
        })
        .collect()
}

fn send_all(
    notifier: &dyn Notifier,
    messages: &[Message],
    end: Instant,
    results: &SyncSender<Result<(), NotifyError>>,
) {
    for message in messages {
        let left = end.saturating_duration_since(Instant::now());
        let result = if left.is_zero() {
            Err(NotifyError::Timeout(WAIT))
        } else {
            notifier.send(message, left)
        };
        let failed = result.is_err();
        // whoever asked may have given up waiting
        if results.send(result).is_err() || failed {
            return;
        }
    }
}

/// Makes the cryptography of this process known to the libraries that ask for it by default.
pub(super) fn cryptography() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // another part of the process may have done it, with the same one
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scripted(&'static str, fn(&Message) -> Result<(), NotifyError>);

    impl Notifier for Scripted {
        fn name(&self) -> &'static str {
            self.0
        }

        fn send(&self, message: &Message, _: Duration) -> Result<(), NotifyError> {
            (self.1)(message)
        }
    }

    fn message() -> Message {
        Message::test("h", 0, None)
    }

    fn work(
        send: fn(&Message) -> Result<(), NotifyError>,
        count: usize,
    ) -> (Arc<dyn Notifier>, Vec<Message>) {
        (Arc::new(Scripted("scripted", send)), vec![message(); count])
    }

    #[test]
    fn one_that_fails_hangs_or_breaks_down_stops_nobody_else() {
        let refused = || NotifyError::Refused("no".to_owned());
        let answers = deliver(
            vec![
                work(|_| Err(NotifyError::Refused("no".to_owned())), 2),
                work(
                    |_| {
                        thread::sleep(Duration::from_mins(1));
                        Ok(())
                    },
                    1,
                ),
                work(|_| panic!("on purpose"), 1),
                work(|_| Ok(()), 3),
            ],
            Duration::from_millis(10),
        );
        assert_eq!(answers[0], Delivered { messages: 0, error: Some(refused()) });
        assert!(matches!(answers[1].error, Some(NotifyError::Timeout(_))), "{answers:?}");
        assert!(answers[2].error.is_some(), "{answers:?}");
        assert_eq!(answers[3], Delivered { messages: 3, error: None });
    }
}
