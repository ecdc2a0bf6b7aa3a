//! What the tap sees of execve, against strace in the same guest.

use std::collections::{BTreeMap, BTreeSet};

use lava_event::{Event, Kind};

use crate::common::run;

/// Programs by PATH, by relative path, by script, by another script, through find, xargs and python; and failures.
const WORKLOAD: &str = r#"#!/bin/sh
if [ -z "$TRACED" ]; then
    TRACED=1 exec strace -f -q -e trace=execve -e signal=none /bin/sh "$0"
fi
cd /home/user
for i in 1 2 3 4 5; do /bin/true; (id > /dev/null) & done; wait
printf '#!/bin/sh\nexec /bin/echo from a script\n' > inner.sh; chmod +x inner.sh; ./inner.sh
printf '#!/usr/bin/env python3\nimport subprocess\nfor i in range(3): subprocess.run(["/bin/true", str(i)])\nsubprocess.run("exit 3", shell=True)\n' > inner.py
chmod +x inner.py; ./inner.py
find /etc/cron.d -name '*' -exec basename {} \;
echo a b c | xargs -n1 printf 'x %s\n'
/nonexistent/program; nosuchprogram; /etc/passwd
env A=1 nice ls / | sort | uniq -c | tail -1
exec /bin/true last
"#;

/// Paths of the successful execs in strace's output, with how often.
fn strace_saw(console: &str) -> BTreeMap<String, usize> {
    let (mut seen, mut unfinished) = (BTreeMap::new(), BTreeMap::<String, String>::new());
    for line in console.lines() {
        let (pid, call) = match line.strip_prefix("[pid").and_then(|rest| rest.split_once("] ")) {
            Some((pid, call)) => (pid.trim(), call),
            None => ("", line),
        };
        let path = call.strip_prefix("execve(\"").and_then(|rest| rest.split('"').next()).map(str::to_owned);
        if let Some(path) = path {
            if call.ends_with("<unfinished ...>") {
                unfinished.insert(pid.to_owned(), path);
            } else if call.ends_with(" = 0") {
                *seen.entry(path).or_default() += 1;
            }
        } else if call.starts_with("<... execve resumed>")
            && let Some(path) = unfinished.remove(pid)
            && call.ends_with(" = 0")
        {
            *seen.entry(path).or_default() += 1;
        }
    }
    assert!(unfinished.is_empty(), "strace's output is not understood: {unfinished:?}");
    seen
}

/// The same from our events: execs of strace's descendants.
fn lava_saw(events: &[Event]) -> BTreeMap<String, usize> {
    let (mut below, mut seen) = (BTreeSet::new(), BTreeMap::new());
    let mut strace = None;
    for event in events {
        let Some(actor) = event.actor() else { continue };
        match &event.kind {
            Kind::ProcessExec { path, .. } if path.to_string().ends_with("/strace") => strace = Some(actor),
            Kind::ProcessFork { child, thread: false, .. } if Some(actor) == strace || below.contains(&actor) => {
                below.insert(lava_event::ProcessKey { pid: child.pid, start_ns: child.start_ns });
            }
            Kind::ProcessExec { path, .. } if below.contains(&actor) => *seen.entry(path.to_string()).or_default() += 1,
            _ => {}
        }
    }
    seen
}

#[test]
fn every_exec_that_strace_saw_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let task = folder.path().join("workload.sh");
    std::fs::write(&task, WORKLOAD).unwrap();
    let ran = run(&[task.to_str().unwrap(), "--console"]);
    let (truth, ours) = (strace_saw(&ran.console), lava_saw(&ran.events));
    assert!(truth.values().sum::<usize>() >= 30, "the workload ran: {truth:?}\n{}", ran.console);
    assert_eq!(ours, truth);
}
