//! Files that come and go, limits, faults.

use std::cell::Cell;

use super::*;

thread_local! {
    static FORBIDDEN: Cell<bool> = const { Cell::new(false) };
}

fn open_if_allowed(path: &Path) -> std::io::Result<fs::File> {
    if FORBIDDEN.get() {
        return Err(std::io::ErrorKind::PermissionDenied.into());
    }
    fs::File::open(path)
}

#[test]
fn a_file_that_may_not_be_read_is_said_once_and_read_when_it_may() {
    let mut rig = Rig::new(&["a.log"]);
    rig.open = open_if_allowed;
    FORBIDDEN.set(true);
    rig.append("a.log", text(0..10));
    rig.settle();
    assert_eq!(rig.said.len(), 1, "{:?}", rig.said);
    assert_eq!(rig.lines().len(), 0);
    FORBIDDEN.set(false);
    rig.pass(30_000);
    rig.settle();
    rig.expect(&[0..10]);
    // and again, while it is followed and closed
    rig.pass(120_000);
    rig.settle();
    FORBIDDEN.set(true);
    rig.append("a.log", text(10..20));
    rig.settle();
    rig.expect(&[0..10]);
    FORBIDDEN.set(false);
    rig.pass(30_000);
    rig.settle();
    rig.expect(&[0..20]);
}

#[test]
fn files_that_appear_later_are_read_from_their_beginning() {
    let mut rig = Rig::new(&["a.log", "dir/*.log"]);
    rig.settle();
    rig.append("a.log", text(0..10));
    fs::create_dir(rig.path("dir")).unwrap();
    rig.append("dir/b.log", text(10..20));
    rig.settle();
    rig.expect(&[0..20]);
}

#[test]
fn a_file_has_no_origin_until_it_has_a_whole_line() {
    let mut rig = Rig::new(&["a.log"]);
    rig.append("a.log", "");
    rig.settle();
    assert_eq!(rig.state.origins().unwrap(), []);
    rig.append("a.log", "x");
    rig.settle();
    assert_eq!(rig.state.origins().unwrap(), []);
    rig.append("a.log", "\n");
    rig.settle();
    assert_eq!(rig.state.origins().unwrap().len(), 1);
}

#[test]
fn start_at_the_end_means_only_the_files_that_are_there_at_first() {
    let mut rig = Rig::new(&["*.log"]);
    rig.sources[0].start = Start::End;
    rig.append("a.log", text(0..500));
    rig.append("a.log", "half");
    rig.append("empty.log", "");
    rig.settle();
    rig.append("a.log", " a line\n");
    rig.append("a.log", text(500..600));
    rig.append("b.log", text(1000..1100));
    rig.append("empty.log", text(2000..2100));
    rig.settle();
    rig.rename("a.log", "a.log.1");
    rig.append("a.log", text(600..700));
    rig.settle();
    rig.kill();
    rig.rename("a.log", "a.log.2");
    rig.append("a.log", text(700..800));
    rig.append("c.log", text(3000..3100));
    rig.settle();
    let lines = rig.lines();
    assert!(lines.contains(&"half a line".to_owned()), "the last line is whole");
    assert_eq!(lines.len(), 1 + 300 + 100 + 100 + 100);
}

#[test]
fn carriage_returns_zeros_and_any_bytes_pass_as_they_are() {
    let mut rig = Rig::new(&["a.log"]);
    let mut bytes = b"one\r\n\0\0\0two\n\xff\xfe three\n\n\n".to_vec();
    bytes.extend((0..=255).filter(|byte| *byte != b'\n'));
    bytes.push(b'\n');
    rig.append("a.log", &bytes);
    rig.settle();
    assert_eq!(rig.stories[&1].bytes, bytes);
}

#[test]
fn a_hole_left_by_a_writer_that_does_not_append_is_read_as_it_is() {
    use std::os::unix::fs::FileExt;
    let mut rig = Rig::new(&["a.log"]);
    rig.append("a.log", text(0..100));
    rig.read();
    let at = text(0..100).len() as u64;
    rig.copytruncate("a.log", "a.log.1");
    let file = OpenOptions::new().write(true).open(rig.path("a.log")).unwrap();
    file.write_all_at(text(100..101).as_bytes(), at).unwrap();
    rig.settle();
    let second = &rig.stories[&2].bytes;
    assert_eq!(second.len(), text(0..101).len());
    assert!(second.ends_with(line(100).as_bytes()));
    assert_eq!(rig.receipts, []);
}

#[test]
fn hard_links_and_two_patterns_give_one_reader() {
    let mut rig = Rig::new(&["*.log", "a.*"]);
    rig.sources.push(source(rig.dir.path(), "t", &["*.log"]));
    rig.append("a.log", text(0..10));
    fs::hard_link(rig.path("a.log"), rig.path("b.log")).unwrap();
    rig.settle();
    rig.append("b.log", text(10..20));
    rig.settle();
    rig.expect(&[0..20]);
    // the first name goes, the other stays
    fs::remove_file(rig.path("a.log")).unwrap();
    rig.append("b.log", text(20..30));
    rig.settle();
    rig.expect(&[0..30]);
    assert_eq!(rig.stories.len(), 1);
}

#[test]
fn a_loud_file_does_not_starve_a_quiet_one() {
    let mut rig = Rig::new(&["a.log", "b.log"]);
    let long = "x".repeat(999) + "\n";
    rig.append("a.log", long.repeat(20_000));
    rig.append("b.log", text(0..1));
    rig.room = 4;
    for _ in 0..5 {
        rig.step();
        rig.pass(1);
    }
    let quiet = rig.stories.values().find(|story| !story.bytes.starts_with(b"x"));
    assert_eq!(quiet.unwrap().bytes.len(), line(0).len());
}

#[test]
fn many_files_are_read_with_few_open() {
    let mut rig = Rig::new(&["*.log"]);
    for number in 0..600 {
        rig.append(&format!("{number}.log"), text(number..number + 1));
    }
    for _ in 0..60 {
        rig.step();
        let open: u64 = rig.tailer.as_ref().unwrap().sums().iter().map(|sum| sum.open).sum();
        assert!(open <= 256, "{open} are open");
        rig.pass(300);
    }
    rig.expect(&[0..600]);
    let sums = rig.tailer.as_ref().unwrap().sums();
    assert!(sums[0].open <= 128);
    assert_eq!((sums[0].files, sums[0].backlog_bytes), (600, 0));
    rig.kill();
    for number in 0..600 {
        rig.append(&format!("{number}.log"), text(600 + number..601 + number));
    }
    rig.settle();
    rig.expect(&[0..1200]);
}

#[test]
fn a_quiet_file_is_closed_and_wakes_up_again() {
    let mut rig = Rig::new(&["a.log"]);
    rig.append("a.log", text(0..10));
    rig.settle();
    rig.pass(60_000);
    rig.settle();
    assert!(!rig.tailer.as_ref().unwrap().status()[0].open);
    rig.append("a.log", text(10..20));
    rig.settle();
    rig.expect(&[0..20]);
    let status = &rig.tailer.as_ref().unwrap().status()[0];
    assert_eq!((status.read, status.committed), (status.size, status.size));
    assert!(status.open);
    // renamed while it is closed
    rig.pass(60_000);
    rig.settle();
    rig.append("a.log", text(20..30));
    rig.rename("a.log", "a.log.1");
    rig.append("a.log", text(30..40));
    rig.settle();
    rig.expect(&[0..40]);
}

#[test]
fn an_incomplete_compressed_file_is_not_read_and_a_complete_one_is() {
    let mut rig = Rig::new(&["a.log"]);
    rig.append("a.log", text(0..10));
    rig.read();
    rig.kill();
    rig.rename("a.log", "a.log.1");
    rig.append("a.log.1", text(10..1000));
    rig.compress("a.log.1", Encoding::Gzip);
    let whole = fs::read(rig.path("a.log.1.gz")).unwrap();
    fs::write(rig.path("a.log.1.gz"), &whole[..whole.len() / 2]).unwrap();
    rig.append("a.log", text(1000..1010));
    rig.settle();
    rig.expect(&[0..10]);
    fs::write(rig.path("a.log.1.gz"), &whole).unwrap();
    rig.settle();
    rig.expect(&[0..1010]);
    assert_eq!(rig.receipts, []);
}

#[test]
fn what_is_known_to_be_unread_of_a_deleted_file_is_a_receipt() {
    let mut rig = Rig::new(&["a.log"]);
    rig.append("a.log", text(0..100));
    rig.store_works = false;
    rig.read();
    rig.kill();
    rig.store_works = true;
    fs::remove_file(rig.path("a.log")).unwrap();
    rig.append("a.log", text(200..210));
    rig.settle();
    rig.expect(&[200..210]);
    assert_eq!(rig.receipts.len(), 1);
    assert_eq!(rig.receipts[0].cause, crate::ledger::Cause::Deleted);
    assert_eq!((rig.receipts[0].start_bytes, rig.receipts[0].end_bytes), (0, None));
}

#[test]
fn nothing_is_written_to_the_state_while_nothing_happens() {
    let mut rig = Rig::new(&["a.log", "b.log"]);
    rig.append("a.log", text(0..10));
    rig.append("b.log.1", text(20..30));
    rig.append("b.log", text(10..20));
    rig.settle();
    rig.kill();
    rig.settle();
    let before = rig.state.origins().unwrap();
    rig.state.set_broken(true);
    rig.settle();
    rig.state.set_broken(false);
    assert_eq!(rig.said, Vec::<String>::new());
    assert_eq!(rig.state.origins().unwrap(), before);
}

#[test]
fn among_many_files_a_quiet_one_rests_once_the_state_knows_its_end() {
    let mut rig = Rig::new(&["*.log"]);
    rig.kept = 1;
    rig.append("a.log", text(0..10));
    rig.append("b.log", text(10..20));
    rig.state_works = false;
    rig.settle();
    rig.pass(60_000);
    rig.settle();
    assert!(rig.stories.values().all(|story| story.open), "the state does not have their ends");
    rig.state_works = true;
    rig.append("a.log", text(20..30));
    rig.settle();
    rig.pass(60_000);
    rig.settle();
    let open: Vec<bool> = rig.stories.values().map(|story| story.open).collect();
    assert_eq!(open, [false, true]);
    rig.append("a.log", text(30..40));
    rig.settle();
    rig.expect(&[0..40]);
    assert!(rig.stories[&1].open, "it goes on where it was");
}
