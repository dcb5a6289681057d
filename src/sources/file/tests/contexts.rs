//! Reaches, contexts, sources that change.

use super::*;
use crate::ledger::Context;

fn contexts(rig: &Rig, origin: OriginId) -> Vec<Context> {
    rig.state.get(origin).unwrap().1.contexts
}

#[test]
fn changed_rules_begin_a_context_at_the_line_after_what_was_handed_out() {
    let mut rig = Rig::new(&["a.log"]);
    rig.append("a.log", text(0..100));
    rig.append("a.log", "half");
    rig.read();
    rig.sources[0].source = "renamed".into();
    let sources = rig.sources.clone();
    rig.tailer.as_mut().unwrap().reload(&sources).unwrap();
    rig.append("a.log", " a line\n");
    rig.append("a.log", text(100..200));
    rig.settle();
    let handed = text(0..100).len() as u64;
    let story = &rig.stories[&1];
    assert_eq!(story.contexts, [(0, "s".to_owned()), (handed, "renamed".to_owned())]);
    assert_eq!(rig.lines().len(), 201);
}

#[test]
fn after_a_restart_what_may_have_been_stored_keeps_its_context() {
    let mut rig = Rig::new(&["a.log"]);
    rig.append("a.log", text(0..1000));
    rig.store_works = false;
    rig.room = 1;
    rig.step();
    rig.step();
    rig.kill();
    let reach = rig.state.get(1).unwrap().0.reach;
    assert_eq!(reach, text(0..1000).len() as u64, "reserved before it was handed out");
    rig.sources[0].timezone = "Europe/Zurich".into();
    rig.append("a.log", text(1000..2000));
    (rig.store_works, rig.room) = (true, 64);
    rig.settle();
    rig.expect(&[0..2000]);
    let all = contexts(&rig, 1);
    assert_eq!(all.len(), 2);
    assert_eq!((all[1].from_bytes, all[1].timezone.as_str()), (reach, "Europe/Zurich"));
    // a context that is known is not begun again
    rig.kill();
    rig.append("a.log", text(2000..2100));
    rig.settle();
    rig.expect(&[0..2100]);
    assert_eq!(contexts(&rig, 1).len(), 2);
}

#[test]
fn a_context_that_was_begun_and_not_reached_is_replaced_by_the_next_change() {
    let mut rig = Rig::new(&["a.log"]);
    rig.append("a.log", text(0..100));
    rig.read();
    for name in ["second", "third"] {
        rig.sources[0].source = name.into();
        let sources = rig.sources.clone();
        rig.tailer.as_mut().unwrap().reload(&sources).unwrap();
        rig.read();
    }
    rig.append("a.log", text(100..200));
    rig.settle();
    rig.expect(&[0..200]);
    let all = contexts(&rig, 1);
    assert_eq!(all.len(), 2);
    assert_eq!(all[1].source, "third");
}

#[test]
fn nothing_is_handed_out_far_beyond_what_is_stored() {
    let mut rig = Rig::new(&["a.log"]);
    let long = "x".repeat(999) + "\n";
    rig.append("a.log", long.repeat(40_000));
    rig.store_works = false;
    for _ in 0..50 {
        rig.step();
        rig.pass(10);
    }
    let handed = rig.stories[&1].bytes.len() as u64;
    assert!(handed <= REACH_BYTES_MAX && handed > REACH_BYTES_MAX - 2000, "{handed}");
    rig.store_works = true;
    rig.settle();
    assert_eq!(rig.stories[&1].bytes.len(), 40_000_000);
}

#[test]
fn a_line_that_is_longer_than_the_reach_does_not_stop_the_file() {
    let mut rig = Rig::new(&["a.log"]);
    let reach = usize::try_from(REACH_BYTES_MAX).unwrap();
    rig.append("a.log", "y".repeat(reach + (3 << 20)));
    rig.append("a.log", "\nnext\n");
    rig.store_works = false;
    for _ in 0..100 {
        rig.step();
        rig.pass(10);
    }
    assert_eq!(rig.stories[&1].bytes.len(), reach + (3 << 20) + 6);
}

#[test]
fn nothing_is_handed_out_that_the_state_could_not_reserve() {
    let mut rig = Rig::new(&["a.log", "b.log"]);
    rig.append("a.log", text(0..10));
    rig.read();
    rig.state.set_broken(true);
    rig.append("a.log", text(10..20));
    rig.append("b.log", text(100..110));
    rig.tailer.as_mut().unwrap();
    rig.store_works = false;
    rig.read();
    rig.state.set_broken(false);
    assert_eq!(rig.lines().len(), 10);
    assert_eq!(rig.said.len(), 1, "said once: {:?}", rig.said);
    rig.store_works = true;
    rig.settle();
    rig.expect(&[0..20, 100..110]);
}

#[test]
fn an_old_anchor_of_times_without_year_is_renewed_before_reading_on() {
    let mut rig = Rig::new(&["a.log"]);
    rig.sources[0].format = Format::Syslog;
    rig.append("a.log", text(0..10));
    rig.settle();
    rig.pass(11 * 3_600_000);
    rig.append("a.log", text(10..20));
    rig.settle();
    assert_eq!(contexts(&rig, 1).len(), 1);
    rig.pass(3_600_000);
    rig.append("a.log", text(20..30));
    rig.settle();
    rig.expect(&[0..30]);
    let all = contexts(&rig, 1);
    assert_eq!(all.len(), 2);
    assert_eq!(all[1].from_bytes, text(0..20).len() as u64);
    assert!(all[1].anchor_ms - all[0].anchor_ms >= 12 * 3_600_000);
}

#[test]
fn a_source_that_is_removed_retires_and_resumes_when_it_returns() {
    for restart in [false, true] {
        let mut rig = Rig::new(&["a.log"]);
        rig.sources.push(source(rig.dir.path(), "t", &["b.log"]));
        rig.append("a.log", text(0..10));
        rig.append("b.log", text(100..110));
        rig.settle();
        let both = rig.sources.clone();
        for sources in [vec![both[0].clone()], both] {
            rig.sources = sources;
            if restart {
                rig.kill();
            } else {
                let sources = rig.sources.clone();
                rig.tailer.as_mut().unwrap().reload(&sources).unwrap();
            }
            rig.settle();
            let at = if rig.sources.len() == 1 { 10 } else { 20 };
            rig.append("a.log", text(at..at + 10));
            rig.append("b.log", text(100 + at..110 + at));
            rig.settle();
            let id = rig
                .stories
                .iter()
                .find(|(_, story)| story.record.as_ref().unwrap().path.ends_with("b.log"));
            let id = *id.unwrap().0;
            let retired = rig.state.get(id).unwrap().0.retired;
            assert_eq!(retired, rig.sources.len() == 1);
            if retired {
                rig.expect(&[0..20, 100..110]);
            }
        }
        rig.expect(&[0..30, 100..130]);
        assert_eq!(rig.stories.len(), 2);
        assert_eq!(rig.receipts, []);
    }
}

#[test]
fn a_file_that_moves_to_another_source_keeps_its_origin() {
    let mut rig = Rig::new(&["a.log"]);
    rig.append("a.log", text(0..10));
    rig.settle();
    rig.sources = vec![source(rig.dir.path(), "other", &["*.log"])];
    let sources = rig.sources.clone();
    rig.tailer.as_mut().unwrap().reload(&sources).unwrap();
    rig.append("a.log", text(10..20));
    rig.settle();
    rig.expect(&[0..20]);
    assert_eq!(rig.stories.len(), 1);
    assert_eq!(contexts(&rig, 1)[1].source, "other");
}

#[test]
fn on_another_machine_a_new_origin_begins_where_the_old_one_stood() {
    let mut rig = Rig::new(&["a.log"]);
    rig.append("a.log", text(0..100));
    rig.settle();
    rig.kill();
    rig.machine = "clone";
    rig.append("a.log", text(100..200));
    rig.settle();
    rig.expect(&[0..200]);
    assert_eq!(rig.stories.len(), 2);
    assert_eq!(rig.stories[&2].first, text(0..100).len() as u64);
    assert!(rig.state.get(1).unwrap().0.finished);
}

#[test]
fn rules_that_change_while_bytes_are_read_again_begin_behind_those_of_the_earlier_run() {
    let mut rig = Rig::new(&["a.log"]);
    let long = "x".repeat(999) + "\n";
    rig.append("a.log", long.repeat(1000));
    rig.store_works = false;
    rig.read();
    let handed = rig.stories[&1].bytes.len() as u64;
    rig.kill();
    rig.room = 1;
    rig.step();
    rig.step();
    assert!((rig.stories[&1].bytes.len() as u64) < handed, "it is in the middle");
    rig.sources[0].source = "renamed".into();
    let sources = rig.sources.clone();
    rig.tailer.as_mut().unwrap().reload(&sources).unwrap();
    rig.append("a.log", text(0..10));
    (rig.store_works, rig.room) = (true, 64);
    rig.settle();
    let all = contexts(&rig, 1);
    assert_eq!(all.len(), 2);
    assert_eq!((all[1].from_bytes, all[1].source.as_str()), (handed, "renamed"));
}

#[test]
fn a_context_begins_where_a_finished_file_ended_records_of_several_lines() {
    for (format, contexts_there) in [(Format::Syslog, 2), (Format::Json, 1)] {
        let mut rig = Rig::new(&["a.log"]);
        rig.sources[0].format = format;
        rig.append("a.log", text(0..10));
        rig.read();
        rig.rename("a.log", "a.log.1");
        rig.settle();
        assert!(rig.stories[&1].finished);
        let all = contexts(&rig, 1);
        assert_eq!(all.len(), contexts_there, "{format:?}");
        rig.kill();
        rig.append("a.log.1", text(10..20));
        rig.settle();
        rig.expect(&[0..20]);
        assert!(all[all.len() - 1].same_rules(&all[0]));
        assert!(contexts_there == 1 || all[1].from_bytes == text(0..10).len() as u64);
    }
}
