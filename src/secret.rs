//! Secrets, which are read from files: never from arguments, never shown.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// Where the packages keep secrets.
const CREDENTIALS: &str = "/etc/bitacora/credentials";
/// No password is longer; a file without a newline is not read whole.
const LENGTH_MAX: u64 = 64 * 1024;

/// Why a secret cannot be had. It says the file's name, never what is in it.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {}: {source}", path.display())]
pub struct SecretError {
    path: PathBuf,
    source: io::Error,
}

/// The first line of a file, without its end. Of a secret that systemd hands to this service, the
/// copy is read.
///
/// # Errors
///
/// The file cannot be read, or its first line is no UTF-8.
pub fn read(file: &Path) -> Result<String, SecretError> {
    let path = handed(file, std::env::var_os("CREDENTIALS_DIRECTORY").as_deref());
    match first_line(&path) {
        Ok(secret) => Ok(secret),
        Err(source) => Err(SecretError { path, source }),
    }
}

fn first_line(path: &Path) -> io::Result<String> {
    let mut line = String::new();
    BufReader::new(File::open(path)?.take(LENGTH_MAX)).read_line(&mut line)?;
    line.truncate(line.trim_end_matches(['\n', '\r']).len());
    Ok(line)
}

/// Where a secret is read: of those in [`CREDENTIALS`], which root alone may read, systemd hands a
/// copy to the service (`LoadCredential=bitacora:…`).
fn handed(file: &Path, directory: Option<&OsStr>) -> PathBuf {
    let name = file.strip_prefix(CREDENTIALS).ok().and_then(Path::file_name);
    let copy = directory.zip(name).map(|(directory, name)| {
        let mut copy = OsString::from("bitacora_");
        copy.push(name);
        Path::new(directory).join(copy)
    });
    copy.filter(|copy| copy.exists()).unwrap_or_else(|| file.to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_secret_is_the_first_line_without_its_end_and_nothing_else_is_taken_off() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("password");
        for (text, secret) in [(" s3cret \r\n", " s3cret "), ("one\ntwo\n", "one"), ("", "")] {
            fs::write(&file, text).unwrap();
            assert_eq!(read(&file).unwrap(), secret);
        }
    }

    #[test]
    fn a_secret_that_systemd_hands_over_is_read_from_its_copy() {
        let dir = tempfile::tempdir().unwrap();
        let given = Some(dir.path().as_os_str());
        let ours = Path::new("/etc/bitacora/credentials/cassandra");
        assert_eq!(handed(ours, given), ours, "there is no copy");
        let copy = dir.path().join("bitacora_cassandra");
        fs::write(&copy, "secret").unwrap();
        assert_eq!(handed(ours, given), copy);
        assert_eq!(handed(ours, None), ours);
        let other = Path::new("/srv/secrets/cassandra");
        assert_eq!(handed(other, given), other);
    }

    #[test]
    fn a_missing_file_is_named_and_one_that_is_no_text_is_not_shown() {
        let told = read(Path::new("/nowhere/password")).unwrap_err().to_string();
        assert!(told.contains("/nowhere/password"), "{told}");
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, b"s3c\xffr3t").unwrap();
        let told = read(&file).unwrap_err().to_string();
        assert!(!told.contains("s3c") && !told.contains("r3t"), "{told}");
    }
}
