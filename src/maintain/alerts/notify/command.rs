//! A command that gets each message as one JSON object on its input.

use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::{Message, Notifier, NotifyError};
use crate::maintain::alerts::process::finish;

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

    fn start(&self, message: &Message) -> io::Result<Child> {
        let (program, arguments) = self
            .command
            .split_first()
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "it is empty"))?;
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            // what it has to say stands in the journal, or before the eyes of whoever tries it
            .stderr(Stdio::inherit())
            .process_group(0)
            .spawn()?;
        // a message is shorter than what a pipe holds: nobody needs to read it for this to return
        if let Some(mut input) = child.stdin.take() {
            match input.write_all((message.json() + "\n").as_bytes()) {
                // a command that does not want to know
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
                written => written?,
            }
        }
        Ok(child)
    }
}

impl Notifier for Run {
    fn name(&self) -> &'static str {
        "command"
    }

    fn send(&self, message: &Message, wait: Duration) -> Result<(), NotifyError> {
        let program = self.command.first().map_or("", String::as_str);
        let failed = |error: io::Error| NotifyError::Settings(format!("{program}: {error}"));
        let mut child = self.start(message).map_err(failed)?;
        match finish(&mut child, wait).map_err(failed)? {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(NotifyError::Refused(format!("{program} ends with {status}"))),
            None => Err(NotifyError::Timeout(wait)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::thread;
    use std::time::Instant;

    use super::*;

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
