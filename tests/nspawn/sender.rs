//! A client that sends every 10 ms while the service is treated badly.

use std::process::Child;

use serde_json::Value;

use crate::machine::Machine;

/// The client, `sender.py`, as a user who is in the sockets' group and in no other.
#[derive(Debug)]
pub struct Sender<'a> {
    machine: &'a Machine,
    source: &'static str,
    child: Child,
}

impl<'a> Sender<'a> {
    /// Starts it, and waits until it has receipts.
    #[track_caller]
    pub fn start(machine: &'a Machine, source: &'static str) -> Self {
        machine.ok("id shop >/dev/null 2>&1 || useradd --groups bitacora-log shop");
        machine.ok(&format!("rm -f /run/{source}.stop"));
        let child = machine.spawn(&format!(
            "exec setpriv --reuid shop --regid shop --init-groups python3 /tests/sender.py {source} /run/{source}.stop"
        ));
        machine.until(&format!("bitacora logs -s {source} -n 1 | grep -q no"));
        Self { machine, source, child }
    }

    /// Ends it: nothing was refused, and every record is one row.
    #[track_caller]
    pub fn ends_well(self) {
        let Self { machine, source, child } = self;
        machine.ok(&format!("touch /run/{source}.stop"));
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "the client ended badly: {output:?}");
        let said: Value = serde_json::from_slice(&output.stdout).unwrap();
        eprintln!("{source}: {said}");
        let sent = said["sent"].as_u64().unwrap();
        assert!(sent > 50, "the client hardly sent anything: {said}");
        assert_eq!(said["acked"], sent, "records without receipt: {said}");
        assert_eq!(said["refused"], 0, "refused connections: {said}\n{}", machine.journal());
        machine.until(&format!(
            "test \"$(bitacora logs -s {source} -o json -n all | wc -l)\" -ge {sent}"
        ));
        let mut numbers: Vec<u64> = machine
            .rows(source)
            .iter()
            .map(|row| row["message"].as_str().unwrap()["no ".len()..].parse().unwrap())
            .collect();
        numbers.sort_unstable();
        let doubled: Vec<_> = numbers.windows(2).filter(|two| two[0] == two[1]).collect();
        let lost: Vec<_> = (1..=sent).filter(|one| numbers.binary_search(one).is_err()).collect();
        assert!(doubled.is_empty() && lost.is_empty(), "doubled {doubled:?}, lost {lost:?}");
        assert_eq!(numbers.len() as u64, sent);
    }
}
