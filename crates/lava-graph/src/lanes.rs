//! The processes as a timeline shows them, one lane each.

use std::collections::{BTreeMap, BTreeSet};

use lava_event::{Event, GuestText, Kind, ProcessKey};
use serde::{Deserialize, Serialize};

use crate::processes::Processes;

/// Processes remembered; later ones are counted.
const MAX_LANES: usize = 20_000;
/// Processes that are told.
const MAX_TOLD: usize = 2_000;
/// Arguments remembered of each, bytes of one of these, and of all.
const MAX_ARGUMENTS: usize = 64;
const MAX_ARGUMENT: usize = 1024;
const MAX_COMMAND: usize = 8 << 10;

/// How a process ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Exit {
    /// Exit code, if it exited.
    pub code: Option<u32>,
    /// Signal, if one ended it.
    pub signal: Option<u32>,
    /// Session time, ns.
    pub time_ns: u64,
}

/// One process.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Lane {
    /// Process number.
    pub pid: u32,
    /// Start, ns since the guest's boot: with the number, its identity.
    pub start_ns: u64,
    /// Number of its parent.
    pub ppid: u32,
    /// Effective user id, as last seen.
    pub uid: Option<u32>,
    /// Program, as last seen.
    pub exe: GuestText,
    /// Name of the thread last seen.
    pub comm: GuestText,
    /// Arguments of its last exec, shortened.
    pub argv: Vec<GuestText>,
    /// Session time of the first event that speaks of it, ns.
    pub first_ns: u64,
    /// And of the last.
    pub last_ns: u64,
    /// How it ended, if it did.
    pub exit: Option<Exit>,
    /// It descends from the task.
    pub tainted: bool,
}

impl Lane {
    const fn key(&self) -> ProcessKey {
        ProcessKey { pid: self.pid, start_ns: self.start_ns }
    }
}

/// The processes of a session, for a timeline.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Timeline {
    /// Those that descend from the task, then their ancestors, then the others, each by their beginning.
    pub processes: Vec<Lane>,
    /// How many there are beside these.
    pub left_out: u64,
}

/// What is remembered of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lanes {
    all: BTreeMap<ProcessKey, (Lane, Option<ProcessKey>)>,
    left_out: u64,
}

impl Lanes {
    /// Takes an event that `processes` have taken.
    pub(crate) fn apply(&mut self, event: &Event, processes: &Processes) {
        if let Some(process) = &event.process
            && let Some(lane) = self.lane(process.key(), event.time_ns, processes)
        {
            (lane.ppid, lane.uid) = (process.ppid, Some(process.uid));
            replace(&mut lane.comm, &process.comm);
            replace(&mut lane.exe, &process.exe);
            match &event.kind {
                Kind::ProcessExec { argv, .. } => lane.argv = shortened(argv),
                Kind::ProcessExit { code, signal } => {
                    lane.exit = Some(Exit { code: *code, signal: *signal, time_ns: event.time_ns });
                }
                _ => {}
            }
        }
        if let Kind::ProcessFork { child, thread: false, .. } = &event.kind {
            let key = ProcessKey { pid: child.pid, start_ns: child.start_ns };
            match self.lane(key, event.time_ns, processes) {
                Some(lane) => {
                    replace(&mut lane.comm, &child.comm);
                    if let Some(parent) = &event.process {
                        (lane.ppid, lane.uid, lane.exe) = (parent.pid, Some(parent.uid), parent.exe.clone());
                    }
                }
                None => self.left_out += 1,
            }
        }
    }

    /// The process has become tainted, perhaps by what another did: it may never act again.
    pub(crate) fn tainted(&mut self, key: ProcessKey) {
        if let Some((lane, _)) = self.all.get_mut(&key) {
            lane.tainted = true;
        }
    }

    fn lane(&mut self, key: ProcessKey, time_ns: u64, processes: &Processes) -> Option<&mut Lane> {
        if self.all.len() >= MAX_LANES && !self.all.contains_key(&key) {
            return None;
        }
        let new = || Lane {
            pid: key.pid,
            start_ns: key.start_ns,
            ppid: 0,
            uid: None,
            exe: GuestText::default(),
            comm: GuestText::default(),
            argv: Vec::new(),
            first_ns: time_ns,
            last_ns: time_ns,
            exit: None,
            tainted: false,
        };
        let (lane, parent) = self.all.entry(key).or_insert_with(|| (new(), None));
        lane.last_ns = time_ns;
        // Kept here: the graph forgets clean processes when they end, and of many tainted ones the first.
        if let Some(state) = processes.get(key) {
            lane.tainted |= state.tainted;
            *parent = parent.or(state.parent);
        }
        Some(lane)
    }

    /// What matters first, at most [`MAX_TOLD`].
    pub(crate) fn told(&self) -> Timeline {
        let mut ancestors = BTreeSet::new();
        for (_, parent) in self.all.values().filter(|(lane, _)| lane.tainted) {
            let mut above = *parent;
            while let Some(key) = above.filter(|key| ancestors.insert(*key)) {
                above = self.all.get(&key).and_then(|(_, parent)| *parent);
            }
        }
        let rank = |lane: &Lane| match (lane.tainted, ancestors.contains(&lane.key())) {
            (true, _) => 0,
            (false, true) => 1,
            (false, false) => 2,
        };
        let mut lanes: Vec<&Lane> = self.all.values().map(|(lane, _)| lane).collect();
        lanes.sort_by_key(|lane| (rank(lane), lane.first_ns, lane.key()));
        let processes: Vec<Lane> = lanes.iter().take(MAX_TOLD).map(|&lane| lane.clone()).collect();
        let left_out = (lanes.len() - processes.len()) as u64 + self.left_out;
        Timeline { processes, left_out }
    }
}

/// Most events change neither.
fn replace(known: &mut GuestText, now: &GuestText) {
    if known != now {
        known.clone_from(now);
    }
}

fn shortened(argv: &[GuestText]) -> Vec<GuestText> {
    let mut left = MAX_COMMAND;
    let mut short = Vec::new();
    for argument in argv.iter().take(MAX_ARGUMENTS) {
        let bytes = argument.bytes();
        let kept = bytes.len().min(MAX_ARGUMENT).min(left);
        left -= kept;
        short.push(GuestText::from(bytes[..kept].to_vec()));
        if left == 0 {
            break;
        }
    }
    short
}

#[cfg(test)]
mod tests {
    use lava_event::{Process, ProcessRef, Source};

    use super::*;
    use crate::Graph;

    const LAUNCHER: u32 = 100;

    fn by(pid: u32, kind: Kind) -> Event {
        let (comm, exe) = ("x".into(), "/bin/x".into());
        let process = Process { pid, tid: pid, start_ns: u64::from(pid), ppid: 1, uid: 0, comm, exe };
        Event { process: Some(process), ..Event::new(u64::from(pid), Source::Tap, kind) }
    }

    fn fork(parent: u32, pid: u32) -> Event {
        let child = ProcessRef { pid, tid: pid, start_ns: u64::from(pid), comm: "x".into() };
        by(parent, Kind::ProcessFork { child, thread: false, flags: 0 })
    }

    /// A task whose root process forks so many that end at once.
    fn task(forks: u32) -> Timeline {
        let mut graph = Graph::new();
        let task = Kind::VmTask {
            name: "t".into(),
            path: "/home/user/t".into(),
            sha256: lava_event::Sha256::default(),
            profile: "elf".into(),
            command: vec!["/home/user/t".into()],
            launcher: "/bin/x".into(),
            jit: vec![],
            hosts: vec![],
            unpacks: None,
        };
        graph.apply(&Event::new(0, Source::Microvisor, task));
        graph.apply(&fork(LAUNCHER, 200));
        for pid in 1000..1000 + forks {
            graph.apply(&fork(200, pid));
            graph.apply(&by(pid, Kind::ProcessExit { code: Some(0), signal: None }));
        }
        graph.timeline()
    }

    #[test]
    fn those_that_ended_long_ago_are_known_to_descend_from_the_task() {
        // More than the graph remembers of tainted ones that ended.
        let timeline = task(70_000);
        assert!(timeline.processes.iter().all(|lane| lane.tainted));
        assert_eq!(timeline.processes.len(), MAX_TOLD);
        // The launcher, the root and those it forked.
        assert_eq!(timeline.left_out, 70_002 - MAX_TOLD as u64, "each is told or counted once");
    }

    #[test]
    fn the_task_comes_first_then_who_started_it() {
        let timeline = task(2);
        let told: Vec<(u32, bool)> = timeline.processes.iter().map(|lane| (lane.pid, lane.tainted)).collect();
        assert_eq!(told, [(200, true), (1000, true), (1001, true), (LAUNCHER, false)]);
    }

    #[test]
    fn a_command_is_shortened() {
        let argument = GuestText::from(vec![b'a'; 5000]);
        let short = shortened(&vec![argument; 100]);
        assert_eq!(short.len(), MAX_COMMAND / MAX_ARGUMENT);
        assert!(short.iter().all(|one| one.bytes().len() == MAX_ARGUMENT));
        assert_eq!(shortened(&vec!["x".into(); 100]).len(), MAX_ARGUMENTS);
    }
}
