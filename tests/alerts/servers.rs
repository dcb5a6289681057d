//! A webhook and an SMTP server that keep what they are sent.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// What a webhook does with a request instead of an answer.
pub const HANG: u16 = 0;

/// A webhook on a port of this machine.
pub struct Webhook {
    pub address: String,
    got: Arc<Mutex<Vec<(String, String)>>>,
    status: Arc<AtomicU16>,
}

impl Webhook {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}/hooks/{}", listener.local_addr().unwrap(), super::SECRET);
        let got = Arc::new(Mutex::new(Vec::new()));
        let status = Arc::new(AtomicU16::new(200));
        let (kept, answer) = (Arc::clone(&got), Arc::clone(&status));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (kept, answer) = (Arc::clone(&kept), Arc::clone(&answer));
                thread::spawn(move || serve(stream, &kept, &answer));
            }
        });
        Self { address, got, status }
    }

    /// From now on it answers so, or not at all.
    pub fn answer(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
    }

    /// The texts of the messages, in order.
    pub fn texts(&self) -> Vec<String> {
        let got = self.got.lock().unwrap();
        let text = |(_, body): &(String, String)| {
            let body: serde_json::Value = serde_json::from_str(body).unwrap();
            body["text"].as_str().unwrap().to_owned()
        };
        got.iter().map(text).collect()
    }

    /// The messages as they came, with their heads.
    pub fn raw(&self) -> Vec<(String, String)> {
        self.got.lock().unwrap().clone()
    }
}

fn serve(stream: TcpStream, kept: &Mutex<Vec<(String, String)>>, answer: &AtomicU16) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).unwrap_or(0) == 0 {
            return;
        }
    }
    let length = head.lines().find_map(|line| {
        line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok()
    });
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).unwrap();
    let status = answer.load(Ordering::SeqCst);
    if status == HANG {
        // until the other side has had enough
        let _ = reader.read_to_end(&mut Vec::new());
        return;
    }
    if status == 200 {
        kept.lock().unwrap().push((head.clone(), String::from_utf8(body).unwrap()));
    }
    // a refusal repeats the address, as some do
    let path = head.split(' ').nth(1).unwrap_or_default();
    let said = if status == 200 { "ok".to_owned() } else { format!("no such hook {path}") };
    let _ = write!(
        &stream,
        "HTTP/1.1 {status} X\r\nLocation: /elsewhere\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{said}",
        said.len()
    );
}

/// One letter as it came.
#[derive(Debug, Clone, Default)]
pub struct Letter {
    pub from: String,
    pub to: Vec<String>,
    pub login: String,
    pub encrypted: bool,
    pub data: String,
}

/// An SMTP server on a port of this machine; with a certificate it asks for STARTTLS.
pub struct Mailbox {
    pub port: u16,
    letters: Arc<Mutex<Vec<Letter>>>,
    wrong: Arc<AtomicBool>,
}

impl Mailbox {
    pub fn start(tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let letters = Arc::new(Mutex::new(Vec::new()));
        let wrong = Arc::new(AtomicBool::new(false));
        let (kept, refuses) = (Arc::clone(&letters), Arc::clone(&wrong));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (tls, kept, wrong) = (tls.clone(), Arc::clone(&kept), Arc::clone(&refuses));
                thread::spawn(move || converse(stream, tls, &kept, &wrong));
            }
        });
        Self { port, letters, wrong }
    }

    /// From now on no password is right.
    pub fn refuse_logins(&self) {
        self.wrong.store(true, Ordering::SeqCst);
    }

    pub fn letters(&self) -> Vec<Letter> {
        self.letters.lock().unwrap().clone()
    }
}

trait Line: Read + Write {}
impl<T: Read + Write> Line for T {}

/// A line without its end, read byte by byte: what follows STARTTLS must not be taken with it.
fn line(stream: &mut dyn Line) -> Option<String> {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while stream.read(&mut byte).ok()? == 1 {
        if byte[0] == b'\n' {
            return Some(String::from_utf8_lossy(&bytes).trim_end_matches('\r').to_owned());
        }
        bytes.push(byte[0]);
    }
    None
}

fn say(stream: &mut dyn Line, text: &str) {
    let _ = stream.write_all(text.as_bytes()).and_then(|()| stream.flush());
}

fn converse(
    stream: TcpStream,
    tls: Option<Arc<ServerConfig>>,
    kept: &Mutex<Vec<Letter>>,
    wrong: &AtomicBool,
) {
    let mut stream: Box<dyn Line> = Box::new(stream);
    say(&mut *stream, "220 test ESMTP\r\n");
    let mut plain = tls.is_some();
    let mut letter = Letter { encrypted: false, ..Letter::default() };
    while let Some(said) = line(&mut *stream) {
        let word = said.to_ascii_uppercase();
        if word.starts_with("EHLO") {
            let more = if plain { "250-STARTTLS\r\n" } else { "250-AUTH PLAIN\r\n" };
            say(&mut *stream, &format!("250-test\r\n{more}250 8BITMIME\r\n"));
        } else if word == "STARTTLS" {
            say(&mut *stream, "220 go on\r\n");
            let config = tls.clone().unwrap();
            // the plain stream is inside the box; nothing more is read from it but by TLS
            let connection = ServerConnection::new(config).unwrap();
            stream = Box::new(StreamOwned::new(connection, stream));
            plain = false;
            letter.encrypted = true;
        } else if word.starts_with("AUTH") {
            if wrong.load(Ordering::SeqCst) {
                // some repeat what they were told
                say(&mut *stream, &format!("535 no: {said}\r\n"));
                continue;
            }
            letter.login = said;
            say(&mut *stream, "235 welcome\r\n");
        } else if word.starts_with("MAIL FROM:") {
            letter.from = said[10..].to_owned();
            say(&mut *stream, "250 ok\r\n");
        } else if word.starts_with("RCPT TO:") {
            letter.to.push(said[8..].to_owned());
            say(&mut *stream, "250 ok\r\n");
        } else if word == "DATA" {
            say(&mut *stream, "354 go on\r\n");
            while let Some(said) = line(&mut *stream).filter(|said| said != ".") {
                letter.data += &said;
                letter.data.push('\n');
            }
            kept.lock().unwrap().push(letter.clone());
            say(&mut *stream, "250 ok\r\n");
        } else {
            say(&mut *stream, if word == "QUIT" { "221 bye\r\n" } else { "250 ok\r\n" });
        }
    }
}

/// A certificate for 127.0.0.1 by openssl: the file that says it may be trusted, and the server's
/// side of it.
pub fn certificate(dir: &Path) -> Option<(PathBuf, Arc<ServerConfig>)> {
    let (cert, key) = (dir.join("cert.pem"), dir.join("key.pem"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test"])
        .args(["-addext", "subjectAltName=IP:127.0.0.1"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&cert)
        .output()
        .ok()?;
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let chain = vec![CertificateDer::from_pem_file(&cert).unwrap()];
    let key = PrivateKeyDer::from_pem_file(&key).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    Some((cert, Arc::new(config)))
}

/// The text of a letter, out of its transfer encoding.
pub fn decoded(letter: &Letter) -> String {
    let (head, body) = letter.data.split_once("\n\n").unwrap();
    let encoding = head.to_ascii_lowercase();
    if encoding.contains("quoted-printable") {
        let joined = body.replace("=\n", "");
        let mut bytes = Vec::new();
        let mut rest = joined.bytes();
        while let Some(byte) = rest.next() {
            if byte == b'=' {
                let hex = [rest.next().unwrap(), rest.next().unwrap()];
                bytes.push(u8::from_str_radix(std::str::from_utf8(&hex).unwrap(), 16).unwrap());
            } else {
                bytes.push(byte);
            }
        }
        return String::from_utf8(bytes).unwrap();
    }
    if encoding.contains("base64") {
        use base64::Engine as _;
        let joined: String = body.split_whitespace().collect();
        let bytes = base64::engine::general_purpose::STANDARD.decode(joined).unwrap();
        return String::from_utf8(bytes).unwrap();
    }
    body.to_owned()
}

/// All bytes of all files below a directory.
pub fn all_bytes(dir: &Path, skip: &[&Path]) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if skip.contains(&&*path) {
            continue;
        }
        if path.is_dir() {
            found.extend(all_bytes(&path, skip));
        } else if path.is_file() {
            found.push((path.clone(), fs::read(path).unwrap()));
        }
    }
    found
}
