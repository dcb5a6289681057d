//! The life of the RPM package, as far as a Debian machine can show it: no dependencies are resolved, and
//! there is no SELinux.

use std::process::Command;

use crate::Steps;
use crate::deb::is_ready_within_a_second;
use crate::machine::{Machine, Parts};
use crate::sender::Sender;
use crate::support::site::told;

const RPM: &str = "rpm --dbpath /var/lib/rpm";

pub fn whole_life(parts: &Parts) {
    let mut machine = Machine::new(parts, "rpm");
    let first = parts.package("bitacora-0", ".rpm");
    let second = parts.package("bitacora-99", ".rpm");
    installs_into_a_root(&machine, parts, &first);
    machine.boot();
    let steps = Steps { machine: &machine };
    steps.step("what was installed into a root runs after the boot", runs);
    steps.step("an upgrade refuses and loses nothing", |machine| upgrades(machine, &second));
    steps.step("it is removed", goes);
}

/// As an image is built: the scriptlets run in a chroot, without systemd.
fn installs_into_a_root(machine: &Machine, parts: &Parts, package: &str) {
    let package = parts.packages.join(package);
    for arguments in [&["--initdb"][..], &["--install", "--nodeps", package.to_str().unwrap()]] {
        let mut rpm = Command::new("rpm");
        rpm.args(["--dbpath", "/var/lib/rpm", "--root"]).arg(&machine.root).args(arguments);
        let output = rpm.output().unwrap();
        assert!(output.status.success(), "rpm {arguments:?}: {}", told(&output));
    }
}

fn runs(machine: &Machine) {
    machine.ready();
    machine.ok("systemctl is-enabled bitacora.service bitacora.socket bitacora-dgram.socket");
    let timers =
        "bitacora-alerts.timer bitacora-backup.timer bitacora-retention.timer bitacora-drill.timer";
    machine.ok(&format!("systemctl is-enabled {timers} && systemctl is-active {timers}"));
    machine.fails("systemctl is-enabled bitacora-cassandra-repair.timer");
    is_ready_within_a_second(machine);
    assert_eq!(machine.ok(&format!("{RPM} --verify --nodeps bitacora")), "");
    machine.ok("for n in $(seq 50); do logger -t ships shipped number $n; done");
    machine.rows_with("syslog", "shipped number", 50);
    machine.ok("bitacora send 'by the socket'");
    machine.rows_with("app", "by the socket", 1);
}

fn upgrades(machine: &Machine, package: &str) {
    machine.ok("echo '# edited here' >>/etc/bitacora/bitacora.toml");
    let since = machine.show("bitacora.socket", "ActiveEnterTimestampMonotonic");
    let sender = Sender::start(machine, "upgraded");
    machine.ok(&format!("{RPM} --upgrade --nodeps /packages/{package} 2>&1"));
    machine.ready();
    let pid = machine.pid();
    let runs = machine.ok(&format!("sha256sum </proc/{pid}/exe"));
    assert_eq!(runs, machine.ok("sha256sum </usr/bin/bitacora"), "the old program still runs");
    sender.ends_well();
    assert_eq!(machine.show("bitacora.socket", "ActiveEnterTimestampMonotonic"), since);
    machine.ok("grep -q '# edited here' /etc/bitacora/bitacora.toml");
    machine.ok("bitacora audit --deep");
}

fn goes(machine: &Machine) {
    machine.ok(&format!("{RPM} --erase bitacora 2>&1"));
    machine.fails("pgrep -x bitacora");
    machine.fails("systemctl is-active bitacora.socket");
    machine.fails("ls /usr/bin/bitacora");
    machine.fails("find /etc/systemd/system -name '*bitacora*' | grep .");
    machine.ok("test -f /etc/bitacora/bitacora.toml.rpmsave && test -f /var/lib/bitacora/state.db");
}
