//! Sessions over a pair of sockets and a spool: what the limits of time and memory do.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;

use super::session::Session;
use super::*;
use crate::spool::{SegmentReader, SpoolConfig};

struct Place {
    dir: tempfile::TempDir,
    shared: Arc<Shared>,
    writer: std::thread::JoinHandle<()>,
}

impl Place {
    fn new(limits: Limits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = SpoolConfig {
            dir: dir.path().to_owned(),
            limit_bytes: 1 << 30,
            segment_bytes: 1 << 30,
            new_origin: Box::new(|| 1),
            now_ms: || 1_795_305_600_000,
            committed: Box::new(|_| {}),
            troubled: Box::new(|_| {}),
            stop: CancellationToken::new(),
        };
        let (spool, writer) = Spool::start(config).unwrap();
        Self { dir, shared: Shared::new(spool, limits, || 1_795_305_600_000), writer }
    }

    /// A client's end of a session.
    fn connect(&self) -> (UnixStream, tokio::task::JoinHandle<()>) {
        let (client, ours) = UnixStream::pair().unwrap();
        let seat = self.shared.enter(Some(7)).unwrap();
        let session = Session::new(&self.shared, seat, Some(1), Some(7));
        (client, tokio::spawn(session.run(ours, CancellationToken::new())))
    }

    /// Ends it; the flags and the texts of the lines that it stored.
    fn lines(self) -> Vec<(String, String)> {
        drop(self.shared);
        self.writer.join().unwrap();
        let reader = SegmentReader::open(self.dir.path(), 1, None).unwrap();
        let mut text = String::new();
        let mut last = 0;
        while let Some(block) = reader.block_after(last, i64::MAX).unwrap() {
            last = block.id;
            text.push_str(std::str::from_utf8(&block.bytes).unwrap());
        }
        let parts = |line: &str| {
            let mut parts = line.splitn(5, ' ').skip(3).map(str::to_owned);
            (parts.next().unwrap(), parts.next().unwrap())
        };
        text.lines().map(parts).collect()
    }
}

const LINE_LIMIT: Duration = Duration::from_millis(300);

fn in_a_hurry() -> Limits {
    Limits { line: LINE_LIMIT, ..Limits::default() }
}

#[tokio::test]
async fn lines_that_never_end_with_a_write_are_taken_for_longer_than_one_line_may_take() {
    let place = Place::new(in_a_hurry());
    let (mut client, session) = place.connect();
    client.write_all(b"<13>one").await.unwrap();
    for _ in 0..20 {
        tokio::time::sleep(LINE_LIMIT / 6).await;
        client.write_all(b" line\n<13>one").await.unwrap();
    }
    client.write_all(b" line\n").await.unwrap();
    drop(client);
    session.await.unwrap();
    let line = ("-".to_owned(), "<13>one line".to_owned());
    assert_eq!(place.lines(), vec![line; 21]);
}

#[tokio::test]
async fn an_unfinished_line_is_kept_at_its_limit_unless_its_client_sends_it_again() {
    let id = "6f1c6a52-8b0e-4f43-9c37-3d3ab0d1a4cd";
    let hello = format!("{{\"bitacora\":1,\"ack\":true,\"client\":\"{id}\",\"next\":1}}\n");
    let kept = vec![("p".to_owned(), "<13>unfin".to_owned())];
    for (first, kept) in [("", kept), (&*hello, Vec::new())] {
        let place = Place::new(in_a_hurry());
        let (mut client, session) = place.connect();
        client.write_all(first.as_bytes()).await.unwrap();
        client.write_all(b"<13>unfin").await.unwrap();
        let mut told = String::new();
        client.read_to_string(&mut told).await.unwrap();
        session.await.unwrap();
        assert_eq!(place.lines(), kept, "{first}");
    }
}

#[tokio::test]
async fn who_begins_a_short_line_is_not_closed_for_what_others_hold() {
    let place = Place::new(Limits { begun_bytes: 10_000, ..Limits::default() });
    let (mut greedy, greedy_session) = place.connect();
    greedy.write_all(&[b'g'; 9_000]).await.unwrap();
    while place.shared.begun.load(Ordering::Relaxed) < 9_000 {
        tokio::task::yield_now().await;
    }
    let (mut other, other_session) = place.connect();
    other.write_all(&[b'o'; 5_000]).await.unwrap();
    let mut told = String::new();
    other.read_to_string(&mut told).await.unwrap();
    assert!(told.contains("not ended"), "{told}");
    other_session.await.unwrap();
    let (mut honest, session) = place.connect();
    honest.write_all(&[b'h'; 2_000]).await.unwrap();
    while place.shared.begun.load(Ordering::Relaxed) < 11_000 {
        tokio::task::yield_now().await;
    }
    honest.write_all(b" and its end\n").await.unwrap();
    drop((honest, greedy));
    session.await.unwrap();
    greedy_session.await.unwrap();
    let lines = place.lines();
    assert!(lines.iter().any(|(_, text)| text.ends_with("hh and its end")), "{lines:?}");
}

#[tokio::test]
async fn who_does_not_read_its_answers_is_let_go_descriptor_and_all() {
    let id = "6f1c6a52-8b0e-4f43-9c37-3d3ab0d1a4cd";
    let hello = format!("{{\"bitacora\":1,\"ack\":true,\"client\":\"{id}\",\"next\":1}}\n");
    let place = Place::new(in_a_hurry());
    let (mut client, session) = place.connect();
    client.write_all(hello.as_bytes()).await.unwrap();
    let deadline = Duration::from_mins(1);
    let flood = async { while client.write_all(&b"x\n".repeat(10_000)).await.is_ok() {} };
    tokio::time::timeout(deadline, flood).await.expect("it is never let go");
    session.await.unwrap();
    // what was said before is there to be read, and then the end: nobody holds the other end
    let mut told = Vec::new();
    let read = tokio::time::timeout(deadline, client.read_to_end(&mut told)).await;
    let _ = read.expect("the connection is still open");
    assert!(told.starts_with(b"{\"bitacora\":1,\"acked\":0}\n"));
}
