//! The packages on a machine with its own systemd: installed by apt and rpm, started, treated badly
//! and removed. Makes a Debian root and boots it in a container; skipped where that cannot be.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::pedantic,
    missing_docs,
    reason = "a test that fails may panic"
)]

mod deb;
mod machine;
mod rpm;
mod sender;
#[path = "../support/mod.rs"]
mod support;

use std::sync::{LazyLock, Mutex};
use std::time::Instant;

use machine::{Machine, Parts};

static PARTS: LazyLock<Result<Parts, String>> = LazyLock::new(Parts::ready);
/// One machine at a time: the service's deadlines are those of a machine that does little else.
static TURN: Mutex<()> = Mutex::new(());

/// Calls a test with what it needs, or says why it cannot be done here.
fn with_parts(name: &str, test: impl FnOnce(&Parts)) {
    match &*PARTS {
        Ok(parts) => {
            let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            test(parts);
        }
        Err(why) => support::skip(name, why),
    }
}

/// Steps of a test, each said with its time, as they share one machine.
struct Steps<'a> {
    machine: &'a Machine,
}

impl Steps<'_> {
    fn step(&self, name: &str, step: impl FnOnce(&Machine)) {
        let began = Instant::now();
        eprintln!("step: {name}");
        step(self.machine);
        eprintln!("  {:.1} s", began.elapsed().as_secs_f64());
    }
}

#[test]
fn the_deb_installs_ships_survives_and_goes() {
    with_parts("the_deb_installs_ships_survives_and_goes", deb::whole_life);
}

#[test]
fn the_rpm_installs_ships_upgrades_and_goes() {
    with_parts("the_rpm_installs_ships_upgrades_and_goes", rpm::whole_life);
}
