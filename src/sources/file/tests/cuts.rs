//! Files that a power cut or a restored disk has cut back.

use super::*;

#[test]
fn a_file_that_was_cut_back_goes_on_with_the_first_line_that_is_not_stored() {
    for running in [false, true] {
        let mut rig = Rig::new(&["a.log"]);
        rig.append("a.log", text(0..100));
        rig.read();
        rig.append("a.log", text(100..200));
        rig.read();
        rig.append("a.log", text(200..300));
        rig.read();
        if !running {
            rig.kill();
        }
        let file = OpenOptions::new().write(true).open(rig.path("a.log")).unwrap();
        file.set_len(text(0..250).len() as u64).unwrap();
        rig.append("a.log", text(400..450));
        rig.settle();
        rig.expect(&[0..300, 400..450]);
        assert_eq!(rig.cuts, [(1, text(0..250).len() as u64)]);
        assert_eq!(rig.receipts.len(), 1);
        assert_eq!(rig.receipts[0].cause, crate::ledger::Cause::CutBack);
    }
}

#[test]
fn a_copy_of_a_file_that_was_cut_back_goes_on_with_the_first_line_that_is_not_stored() {
    let mut rig = Rig::new(&["a.log"]);
    for part in 0..3 {
        rig.append("a.log", text(100 * part..100 * part + 100));
        rig.read();
    }
    rig.kill();
    let file = OpenOptions::new().write(true).open(rig.path("a.log")).unwrap();
    file.set_len(text(0..250).len() as u64).unwrap();
    rig.append("a.log", text(400..450));
    // copytruncate, before anybody looked
    fs::copy(rig.path("a.log"), rig.path("a.log.1")).unwrap();
    file.set_len(0).unwrap();
    rig.append("a.log", text(450..460));
    rig.settle();
    rig.expect(&[0..300, 400..460]);
}

#[test]
fn a_file_that_was_cut_back_is_not_taken_for_an_origin_that_has_nothing_of_it() {
    let mut rig = Rig::new(&["a.log"]);
    rig.store_works = false;
    rig.append("a.log", text(0..50));
    rig.read();
    rig.kill();
    // the machine is cloned: an origin of each has the file's identity
    rig.machine = "clone";
    rig.store_works = true;
    for part in 0..3 {
        rig.read();
        rig.append("a.log", text(50 + 50 * part..100 + 50 * part));
        rig.read();
    }
    rig.kill();
    let file = OpenOptions::new().write(true).open(rig.path("a.log")).unwrap();
    file.set_len(text(0..180).len() as u64).unwrap();
    rig.settle();
    rig.expect(&[0..200]);
    assert_eq!(rig.cuts, [(2, text(0..180).len() as u64)]);
}
