//! The life of the Debian package on one machine.

use crate::Steps;
use crate::machine::{Machine, Parts};
use crate::sender::Sender;
use crate::support::site::told;

const APT: &str = "DEBIAN_FRONTEND=noninteractive apt-get -y -o Dpkg::Use-Pty=0";
const DROP_IN: &str = "/etc/systemd/system/bitacora.service.d/test.conf";
const BAD: &str = "/etc/bitacora/conf.d/bad.toml";

pub fn whole_life(parts: &Parts) {
    let mut machine = Machine::new(parts, "deb");
    machine.boot();
    let steps = Steps { machine: &machine };
    let first = parts.package("bitacora_0", ".deb");
    let second = parts.package("bitacora_99", ".deb");
    steps.step("apt installs it and it is ready", |machine| installs(machine, &first));
    steps.step("the units are sound and the sandbox is tight", sandbox_is_tight);
    steps.step("rows of nginx and rsyslog arrive", ships);
    steps.step("what it says is in the journal, with fields, and does not feed itself", speaks);
    steps.step("the sockets start the service", activates);
    steps.step("a good configuration is taken, a bad one refused", reloads);
    steps.step("a bad configuration at the start is no loop", starts_badly);
    steps.step("a log of root alone is read", reads_logs_of_root);
    steps.step("nothing is written outside its directories", writes_nowhere_else);
    steps.step("a deleted file outlives its daemon", keeps_deleted_files);
    steps.step("restarts, kills and an upgrade", |machine| survives(machine, &second));
    steps.step("a process that hangs is replaced", is_watched);
    steps.step("a secret stays one", keeps_secrets);
    steps.step("as root, and without the capability", drop_ins);
    steps.step("the timers are set, and what they start works", times);
    steps.step("a unit that fails is told", tells);
    steps.step("the audit is clean", |machine| drop(machine.ok("bitacora audit --deep")));
    steps.step("it is removed and purged", goes);
}

fn installs(machine: &Machine, package: &str) {
    let said = machine.ok(&format!("{APT} install /packages/{package} 2>&1"));
    for bad in ["rror", "ailed", "ould not"] {
        assert!(!said.contains(bad), "apt says {bad:?}:\n{said}");
    }
    machine.ready();
    machine.ok("systemctl is-active bitacora.socket bitacora-dgram.socket");
    machine.ok("systemctl is-enabled bitacora.service bitacora.socket bitacora-dgram.socket");
    assert_eq!(machine.show("bitacora.service", "NRestarts"), "0");
    assert_ne!(machine.show("bitacora.service", "StatusText"), "");
    let sockets = machine.ok("stat -c '%n %U:%G %a' /run/bitacora/*");
    let dgram = "/run/bitacora/log.dgram root:bitacora-log 660";
    assert_eq!(sockets, format!("{dgram}\n/run/bitacora/log.sock root:bitacora-log 660"));
    assert_eq!(machine.ok("stat -c %a /etc/bitacora/credentials"), "700");
    machine.ok("bitacora check");
    machine.ok("man -w bitacora bitacora-logs bitacora.toml");
    machine.ok("dpkg --verify bitacora");
    is_ready_within_a_second(machine);
}

/// From the start of the unit to READY=1.
pub fn is_ready_within_a_second(machine: &Machine) {
    let us = |property| -> u64 { machine.show("bitacora.service", property).parse().unwrap() };
    let took = us("ActiveEnterTimestampMonotonic") - us("InactiveExitTimestampMonotonic");
    eprintln!("  ready after {} ms", took / 1000);
    assert!(took < 1_000_000, "ready only after {took} µs");
}

fn sandbox_is_tight(machine: &Machine) {
    let units = "/lib/systemd/system/bitacora*";
    assert_eq!(machine.ok(&format!("systemd-analyze verify {units} 2>&1")), "");
    machine.ok("systemd-analyze security --threshold=15 bitacora.service");
    let pid = machine.pid();
    let user = machine.ok(&format!("ps -o user= -p {pid}"));
    assert_eq!(user, "bitacora");
    let capabilities = machine.ok(&format!("grep -E '^Cap(Prm|Eff|Bnd)' /proc/{pid}/status"));
    for line in capabilities.lines() {
        assert!(line.ends_with("0000000000000004"), "more than CAP_DAC_READ_SEARCH: {line}");
    }
}

fn ships(machine: &Machine) {
    machine.ok("for n in $(seq 50); do curl -fsS -o /dev/null http://127.0.0.1/?ship=$n; done");
    machine.ok("for n in $(seq 50); do logger -t ships shipped number $n; done");
    machine.rows_with("nginx/access", "/?ship=", 50);
    machine.rows_with("syslog", "shipped number", 50);
}

/// rsyslog writes what the daemon says to a file that the daemon carries.
fn speaks(machine: &Machine) {
    let begins = "journalctl -o json -u bitacora MESSAGE_ID=5f9f2b0c0b5d4d3f9a4e6a1c7d2e8b01";
    machine
        .until(&format!("{begins} | grep '\"STORE\":\"sqlite\"' | grep -q '\"PRIORITY\":\"6\"'"));
    machine.until("bitacora logs -s syslog -o json -n all | grep -q 'reading begins'");
    let said: u32 = machine.ok("journalctl -t bitacora | wc -l").trim().parse().unwrap();
    assert!(said < 50, "{said} messages");
}

/// The store stands still while a log is written and deleted; then the daemon is killed.
fn keeps_deleted_files(machine: &Machine) {
    let kept = "systemctl show -P NFileDescriptorStore bitacora.service";
    let source =
        "[[files]]\nsource = \"doomed\"\nformat = \"json\"\npaths = [\"/var/log/doomed.log\"]\n";
    machine.write("/etc/bitacora/conf.d/doomed.toml", source);
    machine.ok("systemctl reload bitacora.service");
    machine.ok(
        "for n in $(seq 100); do echo '{\"message\":\"doomed '$n'\"}'; done >/var/log/doomed.log",
    );
    machine.rows_with("doomed", "doomed ", 100);
    let holds = "import glob, os, sqlite3, time\n\
         held = [sqlite3.connect(file) for file in glob.glob('/var/lib/bitacora/logs/2*.db')]\n\
         [one.execute('BEGIN IMMEDIATE') for one in held]\n\
         open('/run/held', 'w').write(str(os.getpid()))\n\
         time.sleep(600)\n";
    machine.write("/run/hold.py", holds);
    let mut holder = machine.spawn("exec python3 /run/hold.py");
    machine.until("test -s /run/held");
    machine.ok("for n in $(seq 900); do echo '{\"message\":\"doomed, too '$n'\"}'; done >>/var/log/doomed.log; rm /var/log/doomed.log");
    machine.until(&format!("test $({kept}) = 1"));
    machine.ok("systemctl kill -s KILL bitacora.service; kill $(cat /run/held)");
    holder.wait().unwrap();
    machine.rows_with("doomed", "doomed", 1000);
    machine.until(&format!("test $({kept}) = 0"));
}

/// A client comes while no daemon runs: systemd starts it, and the client has its receipt.
fn activates(machine: &Machine) {
    let stopped = || {
        machine.ok("systemctl stop bitacora.service");
        machine.fails("systemctl is-active bitacora.service");
    };
    stopped();
    machine.ok("bitacora send 'woken by the stream'");
    machine.ok("systemctl is-active bitacora.service");
    machine.rows_with("app", "woken by the stream", 1);
    stopped();
    machine.ok("logger -u /run/bitacora/log.dgram -t woken woken by a datagram");
    machine.ready();
    machine.until("bitacora logs -s syslog -o json -n all | grep -q 'woken by a datagram'");
}

fn reloads(machine: &Machine) {
    let pid = machine.pid();
    machine.ok("echo '{\"message\":\"first of shop\"}' >/var/log/shop.log");
    let source =
        "[[files]]\nsource = \"shop\"\nformat = \"json\"\npaths = [\"/var/log/shop.log\"]\n";
    machine.write("/etc/bitacora/conf.d/shop.toml", source);
    machine.ok("systemctl reload bitacora.service");
    machine.rows_with("shop", "first of shop", 1);

    machine.write(BAD, "\n[deamon]\n");
    machine.fails("systemctl reload bitacora.service");
    let journal = machine.journal();
    assert!(journal.contains("bad.toml:2:"), "the fault has no place:\n{journal}");
    machine.ok("systemctl is-active bitacora.service");
    machine.ok("echo '{\"message\":\"second of shop\"}' >>/var/log/shop.log");
    machine.ok(&format!("rm {BAD}")); // the commands read it too, and refuse
    machine.rows_with("shop", "second of shop", 1);
    machine.ok("systemctl reload bitacora.service");
    assert_eq!(machine.pid(), pid, "a reload is no restart");
}

/// Exit 78: systemd does not try again by itself, and where clients knock, they are not refused.
fn starts_badly(machine: &Machine) {
    machine.write(BAD, "[deamon]\n");
    machine.ok("systemctl stop bitacora.socket bitacora-dgram.socket bitacora.service");
    machine.fails("systemctl start bitacora.service");
    assert_eq!(machine.show("bitacora.service", "ExecMainStatus"), "78");
    assert_eq!(machine.show("bitacora.service", "NRestarts"), "0");
    let starts = "journalctl -u bitacora.service -o short-unix | grep 'Starting bitacora'";
    let before = machine.ok(starts).lines().count();
    let sender = machine.spawn("python3 /tests/sender.py patient /run/patient.stop");
    machine.until(&format!("test $({starts} | wc -l) -ge {}", before + 3));
    let said = machine.ok(starts);
    let at: Vec<f64> = said
        .lines()
        .skip(before)
        .map(|line| line.split(' ').next().unwrap().parse().unwrap())
        .collect();
    let loops = at.windows(2).any(|pair| pair[1] - pair[0] < 4.0);
    assert!(!loops, "starts that a client's knocking makes are not 5 s apart: {at:?}");
    machine.ok(&format!("rm {BAD}"));
    machine.ok("systemctl restart bitacora.service");
    machine.ok("touch /run/patient.stop");
    let output = sender.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("\"refused\": 0,"), "{}", told(&output));
}

fn reads_logs_of_root(machine: &Machine) {
    machine.ok("install -d -m 0700 /var/log/vault && umask 077 && echo '{\"message\":\"seen by root\"}' >/var/log/vault/app.log");
    let source =
        "[[files]]\nsource = \"vault\"\nformat = \"json\"\npaths = [\"/var/log/vault/*.log\"]\n";
    machine.write("/etc/bitacora/conf.d/vault.toml", source);
    machine.ok("systemctl reload bitacora.service");
    machine.rows_with("vault", "seen by root", 1);
    assert_eq!(machine.ok("stat -c '%U %a' /var/log/vault/app.log"), "root 600");
}

/// Even root finds no place to write where the daemon lives, but its own directories.
fn writes_nowhere_else(machine: &Machine) {
    for dir in
        ["/", "/etc", "/etc/bitacora", "/usr", "/var", "/var/log", "/var/lib", "/boot", "/srv"]
    {
        let output = machine.in_sandbox(&format!("touch {dir}/written"));
        assert!(told(&output).contains("Read-only file system"), "{dir}: {}", told(&output));
    }
    for dir in ["/root", "/home"] {
        let output = machine.in_sandbox(&format!("ls -A {dir}; touch {dir}/written"));
        assert!(!output.status.success() && output.stdout.is_empty(), "{dir}: {}", told(&output));
    }
    let own = machine.in_sandbox("touch /var/lib/bitacora/written && rm /var/lib/bitacora/written");
    assert!(own.status.success(), "{}", told(&own));
    let shadow = machine.in_sandbox("cat /etc/shadow");
    assert!(shadow.stdout.is_empty(), "the passwords of the machine can be read");
    // and its user may not, in the machine at large
    let as_user = "setpriv --reuid bitacora --regid bitacora --init-groups touch";
    machine.fails(&format!("{as_user} /run/bitacora/written"));
    machine.fails(&format!("{as_user} /etc/bitacora/written"));
}

fn survives(machine: &Machine, package: &str) {
    machine.ok("echo '# edited here' >>/etc/bitacora/bitacora.toml");
    let listening = |unit| machine.show(unit, "ActiveEnterTimestampMonotonic");
    let since = (listening("bitacora.socket"), listening("bitacora-dgram.socket"));
    let sender = Sender::start(machine, "survivor");
    for _ in 0..2 {
        machine.ok("systemctl restart bitacora.service");
        machine.ready();
        machine.ok("systemctl kill --kill-who=main --signal=KILL bitacora.service");
        machine.until("systemctl is-active bitacora.service");
        machine.ready();
    }
    let old = (machine.pid(), machine.ok("sha256sum </usr/bin/bitacora"));
    machine.ok(&format!("{APT} install /packages/{package} 2>&1"));
    machine.ready();
    let pid = machine.pid();
    let runs = machine.ok(&format!("sha256sum </proc/{pid}/exe"));
    assert_ne!((&pid, &runs), (&old.0, &old.1), "the old program still runs");
    assert_eq!(runs, machine.ok("sha256sum </usr/bin/bitacora"));
    sender.ends_well();
    let now = (listening("bitacora.socket"), listening("bitacora-dgram.socket"));
    assert_eq!(since, now, "the sockets were closed in between");
    machine.ok("grep -q '# edited here' /etc/bitacora/bitacora.toml");
    machine.ok("for n in $(seq 20); do curl -fsS -o /dev/null http://127.0.0.1/?after=$n; done");
    machine.rows_with("nginx/access", "/?after=", 20);
    machine.rows_with("nginx/access", "/?ship=", 50);
    is_ready_within_a_second(machine);
}

/// A process that is stopped feeds the watchdog no more.
fn is_watched(machine: &Machine) {
    machine.write(DROP_IN, "[Service]\nWatchdogSec=12s\n");
    machine.ok("systemctl daemon-reload && systemctl restart bitacora.service");
    machine.ready();
    let sender = Sender::start(machine, "watched");
    let pid = machine.pid();
    machine.ok(&format!("kill -STOP {pid}"));
    machine.ok("echo '{\"message\":\"while it hung\"}' >>/var/log/shop.log");
    machine.until(&format!("test \"$(systemctl show --value -p MainPID bitacora)\" -ne {pid}"));
    machine.ready();
    let journal = machine.journal();
    assert!(journal.contains("Watchdog timeout"), "{journal}");
    sender.ends_well();
    machine.rows_with("shop", "while it hung", 1);
    machine.ok(&format!("rm {DROP_IN} && systemctl daemon-reload"));
    machine.ok("systemctl reset-failed bitacora.service && systemctl restart bitacora.service");
}

/// A password that the daemon reads and uses is nowhere to be seen, even where everything is said.
fn keeps_secrets(machine: &Machine) {
    const CANARY: &str = "canary-4f1b9c7e20d8";
    machine.write("/etc/bitacora/credentials/cassandra", &format!("{CANARY}\n"));
    machine.ok("chmod 600 /etc/bitacora/credentials/cassandra");
    let store = "[store]\nkind = \"cassandra\"\n[store.cassandra]\nnodes = [\"127.0.0.1:1\"]\n\
         username = \"bitacora\"\npassword_file = \"/etc/bitacora/credentials/cassandra\"\n";
    machine.write("/etc/bitacora/conf.d/store.toml", store);
    machine.write(DROP_IN, "[Service]\nEnvironment=BITACORA_LOG=trace\n");
    machine.ok("systemctl daemon-reload && systemctl restart bitacora.service");
    machine.until("journalctl -u bitacora.service -n 200 -o cat | grep -q 'reading waits'");
    let pid = machine.pid();
    let given = "/run/credentials/bitacora.service/bitacora_cassandra";
    assert_eq!(machine.ok(&format!("cat {given}")), CANARY, "the service was not handed it");
    assert_eq!(machine.ok(&format!("stat -c '%U %a' {given}")), "bitacora 400");
    machine.fails(&format!("setpriv --reuid nobody --clear-groups cat {given}"));
    let places = [
        format!("cat /proc/{pid}/cmdline /proc/{pid}/environ"),
        "journalctl --no-pager -o json --all".to_owned(),
        "curl -fsS http://127.0.0.1:9598/metrics".to_owned(),
        "systemctl status --no-pager -n 500 bitacora.service; systemctl show bitacora.service"
            .to_owned(),
        "bitacora status --json; bitacora status; bitacora check; true".to_owned(),
        "cat /var/log/syslog /var/lib/bitacora/*.db* /var/lib/bitacora/logs/*".to_owned(),
    ];
    for place in places {
        machine.ok(&format!("({place}) >/run/seen && test -s /run/seen"));
        machine.fails(&format!("grep -a {CANARY} /run/seen"));
    }
    machine.ok(&format!("rm /run/seen /etc/bitacora/conf.d/store.toml {DROP_IN}"));
    machine.ok("systemctl daemon-reload && systemctl restart bitacora.service");
    machine.ready();
}

/// The two drop-ins that the documentation offers.
fn drop_ins(machine: &Machine) {
    let examples = "/usr/share/doc/bitacora/examples";
    let with = |name: &str| {
        machine.ok(&format!("install -D -m 0644 {examples}/{name} {DROP_IN}"));
        machine.ok("systemctl daemon-reload && systemctl restart bitacora.service");
        machine.ready();
    };
    with("root.conf");
    assert_eq!(machine.ok(&format!("ps -o user= -p {}", machine.pid())), "root");
    machine.ok("systemd-analyze security --threshold=20 bitacora.service");
    machine.ok("echo '{\"message\":\"for root\"}' >>/var/log/vault/app.log");
    machine.rows_with("vault", "for root", 1);
    with("nocap.conf");
    machine.ok("systemd-analyze security --threshold=13 bitacora.service");
    machine.ok("echo '{\"message\":\"for later\"}' >>/var/log/vault/app.log");
    machine.ok("for n in $(seq 5); do curl -fsS -o /dev/null http://127.0.0.1/?adm=$n; done");
    machine.rows_with("nginx/access", "/?adm=", 5); // by the group adm
    machine.rows_with("vault", "for later", 0);
    machine.ok(&format!("rm {DROP_IN} && systemctl daemon-reload"));
    machine.ok("systemctl restart bitacora.service");
    machine.rows_with("vault", "for later", 1);
}

const TIMERS: &str =
    "bitacora-alerts.timer bitacora-backup.timer bitacora-retention.timer bitacora-drill.timer";

fn times(machine: &Machine) {
    machine.ok(&format!("systemctl is-enabled {TIMERS}"));
    machine.ok(&format!("systemctl is-active {TIMERS}"));
    for off in ["stats", "repair", "snapshots"] {
        machine.fails(&format!("systemctl is-enabled bitacora-cassandra-{off}.timer"));
        machine.fails(&format!("systemctl is-active bitacora-cassandra-{off}.timer"));
    }
    let log = "[alerts]\nlog = { file = \"/var/log/bitacora/alerts.log\" }\n";
    machine.write("/etc/bitacora/conf.d/alerts.toml", log);
    for job in ["backup", "drill", "retention"] {
        machine.ok(&format!("systemctl start bitacora-{job}.service"));
        let ended = machine.show(&format!("bitacora-{job}.service"), "ExecMainStatus");
        assert_eq!(ended, "0", "{job}\n{}", machine.journal());
    }
    machine.ok("ls /var/backups/bitacora/*.verified.json /var/backups/bitacora/*.drilled.json");
    assert_eq!(machine.ok("stat -c '%U:%G %a' /var/backups/bitacora"), "bitacora:bitacora 750");
    // the timer may be at it just now, and the disk of whoever tests may be full: both are no fault
    machine.until("systemctl start bitacora-alerts.service");
    assert_eq!(machine.show("bitacora-alerts.service", "Result"), "success");
    let listed = machine.ok("bitacora alerts list");
    for rule in ["daemon", "errors", "store", "dora", "backup", "drill"] {
        let found = |line: &str| line.split_whitespace().nth(1) == Some(&format!("{rule},"));
        let line = listed.lines().find(|line| found(line));
        let line = line.unwrap_or_else(|| panic!("no {rule}:\n{listed}"));
        let well = line.starts_with("ok") || rule == "errors";
        assert!(well, "{line}\n{listed}");
    }
}

/// OnFailure= of a unit: a message at once, and its end once the unit works again.
fn tells(machine: &Machine) {
    const DROP_IN: &str = "/etc/systemd/system/bitacora-retention.service.d/test.conf";
    const LOG: &str = "/var/log/bitacora/alerts.log";
    machine.write(DROP_IN, "[Service]\nExecStart=\nExecStart=/bin/false\n");
    machine.ok("systemctl daemon-reload");
    machine.fails("systemctl start bitacora-retention.service");
    machine.until(&format!("grep 'TROUBLE unit bitacora-retention.service' {LOG}"));
    machine.ok(&format!("rm {DROP_IN} && systemctl daemon-reload"));
    machine.ok("systemctl start bitacora-retention.service");
    machine.until("systemctl start bitacora-alerts.service");
    machine.until(&format!("grep 'RECOVERED unit bitacora-retention.service' {LOG}"));
    assert_eq!(machine.ok(&format!("stat -c %U:%a {LOG}")), "bitacora:640");
    machine.ok("rm /etc/bitacora/conf.d/alerts.toml");
}

fn goes(machine: &Machine) {
    machine.ok(&format!("{APT} remove bitacora 2>&1"));
    machine.fails("pgrep -x bitacora");
    machine.fails("systemctl is-active bitacora.socket");
    machine.fails("systemctl is-active bitacora-dgram.socket");
    machine.fails("ls /usr/bin/bitacora");
    machine.ok("test -f /etc/bitacora/bitacora.toml && test -f /var/lib/bitacora/state.db");
    machine.ok(&format!("{APT} purge bitacora 2>&1"));
    let left = "find / -xdev -path /proc -prune -o -path /packages -prune -o -path /var/cache/man -prune -o -name '*bitacora*' -print";
    let left = machine.ok(left);
    let ours = "/etc/bitacora/conf.d";
    // archives are what one wants back after a mistake
    let stays = ["/etc/bitacora", "/var/backups/bitacora"];
    let strays: Vec<&str> =
        left.lines().filter(|path| !stays.iter().any(|stays| path.starts_with(stays))).collect();
    assert!(strays.is_empty(), "left behind: {strays:?}");
    let kept =
        machine.ok(&format!("find /etc/bitacora {ours} -type f 2>/dev/null | sort -u || true"));
    assert!(kept.lines().all(|path| path.starts_with(ours)), "left behind: {kept}");
}
