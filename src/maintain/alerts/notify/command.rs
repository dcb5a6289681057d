//! A command that gets each message as one JSON object on its input.

use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use super::{Message, Notifier, NotifyError};
use crate::maintain::alerts::process::finish;

/// So much of what it says on stderr is passed on.
const SAID_BYTES: u64 = 16 << 10;
/// How long its last words are waited for after its end.
const LAST_WORDS_WAIT: Duration = Duration::from_millis(200);

/// The notifier.
#[derive(Debug)]
pub struct Run {
    command: Vec<String>,
}

impl Run {
    /// This command, with its arguments.
    #[must_use]
    pub const fn new(command: Vec<String>) -> Self {
        Self { command }
    }

    /// The command, and who tells when it has said its last.
    fn start(&self, message: &Message) -> io::Result<(Child, Receiver<()>)> {
        let (program, arguments) = self
            .command
            .split_first()
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "it is empty"))?;
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()?;
        // both in threads of their own: a command may read nothing, and say more than a pipe holds
        if let Some(mut input) = child.stdin.take() {
            let text = message.json() + "\n";
            // it may not want to know
            thread::Builder::new().spawn(move || drop(input.write_all(text.as_bytes())))?;
        }
        let (said, heard) = mpsc::sync_channel(1);
        if let Some(errors) = child.stderr.take() {
            thread::Builder::new().spawn(move || {
                pass_on(errors);
                let _ = said.send(());
            })?;
        }
        Ok((child, heard))
    }
}

/// What it has to say stands in the journal, or before the eyes of whoever tries it: its beginning.
fn pass_on(mut errors: impl Read) {
    drop(io::copy(&mut (&mut errors).take(SAID_BYTES), &mut io::stderr()));
    // read on, or it would wait for ever for somebody to do so
    drop(io::copy(&mut errors, &mut io::sink()));
}

impl Notifier for Run {
    fn name(&self) -> &'static str {
        "command"
    }

    fn send(&self, message: &Message, wait: Duration) -> Result<(), NotifyError> {
        let program = self.command.first().map_or("", String::as_str);
        let failed = |error: io::Error| NotifyError::Settings(format!("{program}: {error}"));
        let (mut child, heard) = self.start(message).map_err(failed)?;
        let ended = finish(&mut child, wait).map_err(failed)?;
        // something that it has left behind may hold the pipe
        let _ = heard.recv_timeout(LAST_WORDS_WAIT);
        match ended {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(NotifyError::Refused(format!("{program} ends with {status}"))),
            None => Err(NotifyError::Timeout(wait)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Instant;

    use super::*;
    use crate::maintain::alerts::finding::Finding;
    use crate::maintain::alerts::notify::{Kind, News};

    fn shell(script: &str) -> Run {
        Run::new(["sh", "-c", script].map(str::to_owned).to_vec())
    }

    fn message() -> Message {
        Message::test("h", 0, Some("errors"))
    }

    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn it_gets_the_message_as_json() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("got");
        shell(&format!("cat >{}", path.display())).send(&message(), LONG).unwrap();
        let got: serde_json::Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        assert_eq!(got["news"][0]["kind"], "test");
        assert_eq!(got["host"], "h");
    }

    #[test]
    fn one_that_fails_or_is_not_there_is_told() {
        let error = shell("exit 3").send(&message(), LONG).unwrap_err();
        assert!(error.to_string().contains("exit status: 3"), "{error}");
        let error = Run::new(vec!["/no/such".into()]).send(&message(), LONG).unwrap_err();
        assert!(error.to_string().contains("/no/such"), "{error}");
    }

    #[test]
    fn one_that_reads_nothing_of_a_long_message_or_floods_is_given_up_in_time() {
        let finding = Finding::trouble("errors", &"x".repeat(600));
        let news = vec![News::new(Kind::Trouble, &finding, 0); 1000];
        let long = Message::new("h", 0, news);
        assert!(long.json().len() > 128 << 10, "longer than a pipe holds");
        let started = Instant::now();
        for script in ["sleep 60", "yes x >&2"] {
            let error = shell(script).send(&long, Duration::from_millis(300)).unwrap_err();
            assert!(matches!(error, NotifyError::Timeout(_)), "{error}");
        }
        assert!(started.elapsed() < LONG, "{:?}", started.elapsed());
        shell("exit 0").send(&long, LONG).unwrap();
    }

    #[test]
    fn of_what_it_says_the_beginning_is_passed_on_and_the_rest_read() {
        let mut said = io::Cursor::new(vec![b'x'; 1 << 20]);
        pass_on(&mut said);
        assert_eq!(said.position(), 1 << 20);
    }

    #[test]
    fn one_that_does_not_end_is_killed_with_all_that_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("child");
        let script = format!("sleep 60 & echo $! >{}; wait", path.display());
        let error = shell(&script).send(&message(), Duration::from_millis(500)).unwrap_err();
        assert!(matches!(error, NotifyError::Timeout(_)), "{error}");
        let child = fs::read_to_string(path).unwrap();
        let state = || fs::read_to_string(format!("/proc/{}/stat", child.trim()));
        let end = Instant::now() + LONG;
        // whoever inherits it may not have taken note of its end yet
        while state().is_ok_and(|stat| !stat.contains(") Z ")) {
            assert!(Instant::now() < end, "it lives on");
            thread::sleep(Duration::from_millis(20));
        }
    }
}
