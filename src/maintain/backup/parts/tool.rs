//! Programs of databases: dumps on their output, dumps on their input. Secrets reach them by
//! files in a private directory, never by arguments or environment.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use super::Making;
use crate::maintain::backup::BackupError;

const CHUNK: usize = 256 << 10;
/// So much of what a program says on stderr is kept, of its end.
const SAID_BYTES_MAX: usize = 2000;

/// A program that may have several names: the first of them that is there.
pub fn first_of(names: &[&str]) -> String {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = |name: &&&str| std::env::split_paths(&path).any(|dir| dir.join(name).is_file());
    let chosen = names.iter().find(there).or_else(|| names.first());
    chosen.map_or_else(String::new, |name| (*name).to_owned())
}

/// A file that only this user may read, for a tool to take a secret from.
pub fn private_file(path: &Path, text: &str) -> Result<(), BackupError> {
    let failed = |source| BackupError::write(path, source);
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(failed)
}

fn failed(program: &str, detail: impl Into<String>) -> BackupError {
    BackupError::Tool { program: program.to_owned(), detail: detail.into() }
}

/// Runs a command and looks at its output as it comes; `to` gets all of it.
pub fn dump(
    program: &str,
    command: &mut Command,
    to: &Path,
    look: &mut dyn FnMut(&[u8]),
) -> Result<(), BackupError> {
    let full = |source| BackupError::write(to, source);
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to);
    let mut file = file.map_err(full)?;
    read(program, command, &mut |bytes| {
        look(bytes);
        file.write_all(bytes).map_err(full)
    })
}

/// Runs a command and hands its output over as it comes.
pub fn read(
    program: &str,
    command: &mut Command,
    to: &mut dyn FnMut(&[u8]) -> Result<(), BackupError>,
) -> Result<(), BackupError> {
    let mut child = start(program, command.stdin(Stdio::null()).stdout(Stdio::piped()))?;
    let said = listen(&mut child);
    let mut copied = Ok(());
    if let Some(mut output) = child.stdout.take() {
        let mut chunk = vec![0; CHUNK];
        while copied.is_ok() {
            match output.read(&mut chunk) {
                Ok(0) => break,
                Ok(read) => copied = to(chunk.get(..read).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => copied = Err(failed(program, error.to_string())),
            }
        }
    }
    end(program, child, said, copied)
}

/// Runs a command that takes a file on its input.
pub fn feed(program: &str, command: &mut Command, from: &Path) -> Result<(), BackupError> {
    let file = File::open(from).map_err(|source| BackupError::read(from, source))?;
    let mut child = start(program, command.stdin(file).stdout(Stdio::null()))?;
    let said = listen(&mut child);
    end(program, child, said, Ok(()))
}

/// Runs a command and answers what it prints.
pub fn ask(program: &str, command: &mut Command) -> Result<String, BackupError> {
    let output =
        command.stdin(Stdio::null()).output().map_err(|error| not_started(program, &error))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let mut said = output.stderr;
    if said.is_empty() {
        said = output.stdout;
    }
    Err(failed(program, in_one_line(&said, &output.status.to_string())))
}

fn start(program: &str, command: &mut Command) -> Result<Child, BackupError> {
    command.stderr(Stdio::piped()).spawn().map_err(|error| not_started(program, &error))
}

fn not_started(program: &str, error: &io::Error) -> BackupError {
    match error.kind() {
        io::ErrorKind::NotFound => failed(program, "is not installed here"),
        _ => failed(program, format!("cannot be started: {error}")),
    }
}

/// Reads stderr beside stdout, so that neither of the two can fill its pipe and stop the program.
fn listen(child: &mut Child) -> Option<thread::JoinHandle<Vec<u8>>> {
    let mut stderr = child.stderr.take()?;
    Some(thread::spawn(move || {
        let (mut said, mut chunk) = (Vec::new(), [0; 4096]);
        while let Ok(read @ 1..) = stderr.read(&mut chunk) {
            said.extend_from_slice(chunk.get(..read).unwrap_or_default());
            let over = said.len().saturating_sub(SAID_BYTES_MAX);
            said.drain(..over);
        }
        said
    }))
}

fn end(
    program: &str,
    mut child: Child,
    said: Option<thread::JoinHandle<Vec<u8>>>,
    copied: Result<(), BackupError>,
) -> Result<(), BackupError> {
    if copied.is_err() {
        // it would wait for ever for somebody to read on
        drop(child.kill());
    }
    let status = child.wait().map_err(|error| failed(program, error.to_string()))?;
    let said = said.and_then(|thread| thread.join().ok()).unwrap_or_default();
    copied?;
    if status.success() {
        return Ok(());
    }
    Err(failed(program, in_one_line(&said, &status.to_string())))
}

/// The last words of a program, as one line without control characters.
fn in_one_line(said: &[u8], status: &str) -> String {
    let text = String::from_utf8_lossy(said);
    // what nodetool says stands before where it was in its own code
    let text = text.split("-- StackTrace --").next().unwrap_or_default();
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let last = lines.get(lines.len().saturating_sub(3)..).unwrap_or_default().join("; ");
    let last: String = last.chars().filter(|c| !c.is_control()).collect();
    if last.is_empty() { status.to_owned() } else { format!("{last} ({status})") }
}

/// Part of kind `command`: whatever the command prints.
pub fn copy(making: &mut Making<'_, '_>, command: &[String]) -> Result<(), BackupError> {
    let (program, mut command) = split(command)?;
    let path: PathBuf = making.scratch.path("output");
    dump(&program, &mut command, &path, &mut |_| ())?;
    let name = format!("{}/output", making.record.name);
    making.frame.add_file(&name, &path)?;
    Ok(())
}

/// A command as the configuration says it.
pub fn split(words: &[String]) -> Result<(String, Command), BackupError> {
    let (program, arguments) =
        words.split_first().ok_or_else(|| BackupError::Source("the command is empty".into()))?;
    let mut command = Command::new(program);
    command.args(arguments);
    Ok((program.clone(), command))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_program_that_fails_is_told_in_its_own_words_and_its_output_is_read_to_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let mut bytes = 0;
        let script =
            "head -c 1000000 /dev/zero; head -c 1000000 /dev/zero >&2; echo why >&2; exit 3";
        let told = dump("tool", &mut shell(script), &out, &mut |chunk| bytes += chunk.len());
        let told = told.unwrap_err().to_string();
        assert!(told.contains("why") && told.contains('3'), "{told}");
        assert_eq!((bytes, std::fs::metadata(&out).unwrap().len()), (1_000_000, 1_000_000));
        let missing = ask("no-such-tool", &mut Command::new("no-such-tool")).unwrap_err();
        assert!(missing.to_string().contains("not installed"), "{missing}");
    }

    #[test]
    fn a_file_with_a_secret_is_for_this_user_alone() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.cnf");
        private_file(&path, "secret").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
