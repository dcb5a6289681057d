//! Origins that retention has ended.

use super::*;

fn kept(rig: &Rig) -> Vec<OriginId> {
    rig.state.origins().unwrap().iter().map(|known| known.record.id).collect()
}

fn forget(rig: &mut Rig, ended: &[OriginId]) {
    rig.tailer.as_mut().unwrap().forget_origins(ended);
    rig.settle();
}

#[test]
fn an_origin_is_forgotten_unless_a_file_needs_it() {
    let mut rig = Rig::new(&["*.log"]);
    rig.append("a.log", text(0..10));
    rig.settle();
    rig.append("b.log", text(10..20));
    rig.settle();
    fs::remove_file(rig.path("a.log")).unwrap();
    forget(&mut rig, &[1, 2, 99]);
    assert_eq!(kept(&rig), [1, 2], "the first is not finished yet");
    rig.pass(120_000);
    rig.settle();
    forget(&mut rig, &[1, 2, 99]);
    assert_eq!(kept(&rig), [2]);
    // what comes back is a file like any other, and the rest goes on
    rig.append("a.log", text(0..10));
    rig.append("b.log", text(20..30));
    rig.settle();
    assert_eq!(kept(&rig), [2, 3]);
    assert_eq!(rig.stories[&3].bytes, rig.stories[&1].bytes);
    assert_eq!(rig.stories[&2].bytes, text(10..30).into_bytes());
}

#[test]
fn a_rotated_file_that_is_there_keeps_its_origin() {
    let mut rig = Rig::new(&["a.log"]);
    rig.append("a.log", text(0..10));
    rig.settle();
    rig.rename("a.log", "a.log.1");
    rig.append("a.log", text(10..20));
    rig.settle();
    for start in [false, true] {
        if start {
            rig.kill();
            rig.settle();
        }
        forget(&mut rig, &[1]);
        assert_eq!(kept(&rig), [1, 2]);
    }
    rig.compress("a.log.1", Encoding::Gzip);
    rig.settle();
    forget(&mut rig, &[1]);
    assert_eq!(kept(&rig), [1, 2]);
    fs::remove_file(rig.path("a.log.1.gz")).unwrap();
    rig.pass(120_000);
    rig.settle();
    forget(&mut rig, &[1]);
    assert_eq!(kept(&rig), [2]);
    rig.expect(&[0..20]);
}

#[test]
fn nothing_is_forgotten_before_the_files_were_looked_at() {
    let mut rig = Rig::new(&["a.log"]);
    rig.append("a.log", text(0..10));
    rig.settle();
    rig.rename("a.log", "a.log.1");
    rig.append("a.log", text(10..20));
    rig.settle();
    rig.kill();
    rig.start();
    forget(&mut rig, &[1]);
    assert_eq!(kept(&rig), [1, 2]);
    rig.expect(&[0..20]);
}

#[test]
fn a_sibling_that_is_older_than_what_was_forgotten_is_not_read() {
    let mut rig = Rig::new(&["a.log"]);
    rig.append("a.log", text(0..10));
    rig.settle();
    fs::remove_file(rig.path("a.log")).unwrap();
    rig.pass(120_000);
    rig.settle();
    forget(&mut rig, &[1]);
    assert_eq!(kept(&rig), Vec::<OriginId>::new());
    rig.append("a.log.2", text(50..60));
    rig.age("a.log.2");
    rig.append("a.log", text(10..20));
    rig.settle();
    rig.expect(&[0..20]);
}
