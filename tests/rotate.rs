//! Every way of rotating, while the daemon runs and while it is down.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::pedantic,
    reason = "a test that fails may panic, and moves files as their owners do"
)]

mod support;

use std::fs;

use support::chaos::arrived;
use support::ledger::{Ledger, Rotation, Style};
use support::site::{Daemon, Files, Site};
use support::{PATIENCE, pause_ms};

struct Scene {
    site: Site,
    ledger: Ledger,
    daemon: Option<Daemon>,
}

impl Scene {
    /// A daemon that follows a file whose first lines are stored.
    fn new(kind: Rotation, style: Style) -> Self {
        Self::with(kind, style, &[])
    }

    fn with(kind: Rotation, style: Style, environment: &[(&str, &str)]) -> Self {
        let site = Site::new();
        let path = site.log("app").join("app.log");
        site.configure(&[Files::new(style.source(), &path)]);
        let ledger = Ledger::for_rotation(kind, &path, style, 11);
        let daemon = Some(site.start_as(&[], environment));
        let mut scene = Self { site, ledger, daemon };
        scene.ledger.write(3);
        scene.ledger.finish_line();
        scene.everything_arrives();
        scene
    }

    #[track_caller]
    fn everything_arrives(&mut self) {
        if !arrived(&self.site, &mut self.ledger, PATIENCE) {
            let wrong = self.ledger.expected.compare(&self.site.rows());
            panic!("not all arrived: {wrong:?}\n{}", self.site.said());
        }
    }

    fn stop(&mut self) {
        self.daemon.take().unwrap().stop();
    }

    fn start(&mut self) {
        self.daemon = Some(self.site.start());
    }

    /// Nothing lost, nothing twice, and `audit` agrees.
    #[track_caller]
    fn ends_well(mut self) {
        self.ledger.finish_line();
        self.everything_arrives();
        self.stop();
        assert_eq!(self.ledger.expected.compare(&self.site.rows()), Ok(()));
        self.site.audit_is_clean();
    }
}

/// Rotations while the daemon reads: now with everything stored, now with lines just written.
fn while_it_runs(kind: Rotation, style: Style) {
    while_it_runs_in(Scene::new(kind, style), kind);
}

fn while_it_runs_in(mut scene: Scene, kind: Rotation) {
    for turn in 0..6 {
        scene.ledger.write(40);
        if turn % 2 == 0 {
            scene.ledger.finish_line();
            scene.everything_arrives();
            // It was read a moment ago, so the reader holds it.
            scene.ledger.held = true;
            scene.ledger.write(10);
        }
        scene.ledger.rotate(kind);
        scene.ledger.write(10);
        pause_ms(30 * turn);
    }
    scene.ends_well();
}

/// Several rotations in a row while nobody reads.
fn while_it_is_down(kind: Rotation, style: Style) {
    let mut scene = Scene::new(kind, style);
    for turn in 0..3 {
        scene.ledger.write(20);
        if turn == 1 {
            scene.daemon.take().unwrap().kill();
        } else {
            scene.stop();
        }
        for _ in 0..4 {
            scene.ledger.write(30);
            scene.ledger.rotate(kind);
        }
        scene.ledger.write(5);
        scene.start();
        scene.ledger.finish_line();
        scene.everything_arrives();
    }
    scene.ends_well();
}

macro_rules! rotations {
    ($($kind:ident $style:ident $running:ident $down:ident;)*) => {$(
        #[test]
        fn $running() {
            while_it_runs(Rotation::$kind, Style::$style);
        }

        #[test]
        fn $down() {
            while_it_is_down(Rotation::$kind, Style::$style);
        }
    )*};
}

rotations! {
    Rename Nginx
        a_file_that_is_renamed_is_read_to_its_end
        files_that_were_renamed_while_it_was_down_are_read;
    RenameLate Syslog
        a_writer_that_keeps_the_old_name_is_followed
        late_writes_while_it_was_down_are_read;
    Gzip Nginx
        a_file_that_is_compressed_is_read_once
        files_that_were_gzipped_while_it_was_down_are_read_once;
    Zstd Json
        a_file_that_is_compressed_by_zstd_is_read_once
        files_that_were_compressed_by_zstd_while_it_was_down_are_read_once;
    CopyTruncate Nginx
        copytruncate_gives_no_line_twice
        copies_that_were_made_while_it_was_down_are_read_once;
    Truncate Json
        a_file_that_is_truncated_begins_again
        a_file_that_was_truncated_while_it_was_down_begins_again;
    DeleteCreate Nginx
        a_deleted_file_is_read_to_its_end
        a_file_that_was_deleted_and_made_anew_while_it_was_down_begins_again;
    DirectorySwap Syslog
        a_directory_that_is_replaced_is_followed
        a_directory_that_was_replaced_while_it_was_down_is_found;
    SymlinkSwap Nginx
        a_link_that_is_pointed_elsewhere_is_followed
        a_link_that_was_pointed_elsewhere_while_it_was_down_is_followed;
}

#[test]
fn rotations_are_followed_with_events_switched_off() {
    let events_off = [("BITACORA_EVENTS", "off")];
    for kind in [Rotation::Rename, Rotation::RenameLate, Rotation::CopyTruncate, Rotation::Gzip] {
        while_it_runs_in(Scene::with(kind, Style::Nginx, &events_off), kind);
    }
}

#[test]
fn five_rotations_while_it_is_down_with_the_middle_ones_compressed_lose_nothing() {
    let mut scene = Scene::new(Rotation::Rename, Style::Nginx);
    scene.ledger.write(25);
    scene.stop();
    for _ in 0..5 {
        scene.ledger.write(40);
        scene.ledger.rotate(Rotation::Rename);
    }
    scene.ledger.compress_rotated(2, Rotation::Gzip);
    scene.ledger.compress_rotated(3, Rotation::Zstd);
    scene.ledger.compress_rotated(4, Rotation::Gzip);
    scene.ledger.write(5);
    scene.start();
    scene.ends_well();
}

#[test]
fn a_generation_that_is_compressed_later_is_not_read_again() {
    let mut scene = Scene::new(Rotation::Rename, Style::Nginx);
    scene.ledger.write(60);
    scene.ledger.rotate(Rotation::Rename);
    scene.ledger.write(20);
    scene.ledger.finish_line();
    scene.everything_arrives();
    scene.ledger.compress_rotated(1, Rotation::Gzip);
    scene.ledger.rotate(Rotation::Rename);
    scene.ledger.write(20);
    scene.ledger.finish_line();
    scene.everything_arrives();
    scene.stop();
    scene.ledger.compress_rotated(1, Rotation::Zstd);
    scene.start();
    scene.ledger.write(20);
    scene.ends_well();
}

#[test]
fn dated_names_and_a_pattern_are_followed_without_reading_twice() {
    let site = Site::new();
    let files = Files::new("nginx/access", site.log("**/*.log"));
    site.configure(&[files]);
    let mut daily = Ledger::new(&site.log("a/access.log"), Style::Nginx, 1, 3);
    let mut other = Ledger::new(&site.log("b/c/access.log"), Style::Nginx, 100_000, 4);
    daily.write(50);
    other.write(50);
    daily.finish_line();
    other.finish_line();
    let daemon = site.start();
    assert!(arrived(&site, &mut daily, PATIENCE), "{}", daemon.said());
    for turn in 0..3 {
        daily.write(30);
        daily.finish_line();
        // `access-20261120.log` matches the pattern itself; it is no new file for all that.
        let dated = site.log(&format!("a/access-2026112{turn}.log"));
        fs::rename(&daily.path, dated).unwrap();
        let mut next = Ledger::new(&daily.path, Style::Nginx, 1_000 * (turn + 1), turn);
        next.expected.add(&daily.expected);
        daily = next;
        daily.write(30);
        other.write(10);
        pause_ms(200 * turn);
    }
    daily.finish_line();
    other.finish_line();
    assert!(arrived(&site, &mut daily, PATIENCE), "{}", daemon.said());
    assert!(arrived(&site, &mut other, PATIENCE), "{}", daemon.said());
    daemon.stop();
    daily.expected.add(&other.expected);
    assert_eq!(daily.expected.compare(&site.rows()), Ok(()));
    site.audit_is_clean();
}
