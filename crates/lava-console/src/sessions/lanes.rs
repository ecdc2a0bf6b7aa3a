//! The processes of a session, for a timeline with one lane each.

use std::collections::{BTreeMap, BTreeSet};

use lava_event::{Event, GuestText, Kind, ProcessKey};
use lava_graph::Graph;
use serde::Serialize;
use utoipa::ToSchema;

/// Processes remembered; later ones are counted.
const MAX_LANES: usize = 20_000;
/// Arguments remembered of each, and bytes of each of these.
const MAX_ARGUMENTS: usize = 64;
const MAX_ARGUMENT: usize = 1024;

/// How a process ended.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Exit {
    /// Exit code, if it exited.
    code: Option<u32>,
    /// Signal, if one ended it.
    signal: Option<u32>,
    /// Session time, ns.
    time_ns: u64,
}

/// One process.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Lane {
    /// Process number.
    pid: u32,
    /// Start, ns since the guest's boot: with the number, its identity.
    start_ns: u64,
    /// Number of its parent.
    ppid: u32,
    /// Effective user id, as last seen.
    uid: Option<u32>,
    /// Program, as last seen; guest text.
    #[schema(value_type = String)]
    exe: GuestText,
    /// Name of the thread last seen; guest text.
    #[schema(value_type = String)]
    comm: GuestText,
    /// Arguments of its last exec; guest text, shortened.
    #[schema(value_type = Vec<String>)]
    argv: Vec<GuestText>,
    /// Session time of the first event that speaks of it, ns.
    first_ns: u64,
    /// And of the last.
    last_ns: u64,
    /// How it ended, if it did.
    exit: Option<Exit>,
    /// It descends from the task.
    tainted: bool,
}

impl Lane {
    const fn key(&self) -> ProcessKey {
        ProcessKey { pid: self.pid, start_ns: self.start_ns }
    }
}

/// All of a session's.
#[derive(Clone, Debug, Default)]
pub struct Lanes {
    all: BTreeMap<ProcessKey, Lane>,
    left_out: u64,
}

/// What is told of them.
#[derive(Debug, Serialize, ToSchema)]
pub struct Processes {
    /// Those that descend from the task, then their ancestors, then the others, each by their beginning.
    pub processes: Vec<Lane>,
    /// How many there are beside these.
    pub left_out: u64,
}

impl Lanes {
    /// Takes the next event.
    pub fn apply(&mut self, event: &Event) {
        if let Some(process) = &event.process
            && let Some(lane) = self.lane(process.key(), event.time_ns)
        {
            lane.ppid = process.ppid;
            lane.uid = Some(process.uid);
            lane.comm.clone_from(&process.comm);
            lane.exe.clone_from(&process.exe);
            match &event.kind {
                Kind::ProcessExec { argv, .. } => lane.argv = argv.iter().take(MAX_ARGUMENTS).map(short).collect(),
                Kind::ProcessExit { code, signal } => {
                    lane.exit = Some(Exit { code: *code, signal: *signal, time_ns: event.time_ns });
                }
                _ => {}
            }
        }
        if let Kind::ProcessFork { child, thread: false, .. } = &event.kind {
            let parent = event.process.as_ref().map(|parent| (parent.pid, parent.uid, parent.exe.clone()));
            let key = ProcessKey { pid: child.pid, start_ns: child.start_ns };
            if let Some(lane) = self.lane(key, event.time_ns) {
                lane.comm.clone_from(&child.comm);
                if let Some((pid, uid, exe)) = parent {
                    (lane.ppid, lane.uid, lane.exe) = (pid, Some(uid), exe);
                }
            }
        }
    }

    fn lane(&mut self, key: ProcessKey, time_ns: u64) -> Option<&mut Lane> {
        if self.all.len() >= MAX_LANES && !self.all.contains_key(&key) {
            self.left_out += 1;
            return None;
        }
        let lane = self.all.entry(key).or_insert_with(|| Lane {
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
        });
        lane.last_ns = time_ns;
        Some(lane)
    }

    /// At most `limit` of them, what matters first.
    pub fn told(&self, graph: &Graph, limit: usize) -> Processes {
        let tainted = |lane: &Lane| graph.is_tainted(lane.key());
        let mut ancestors = BTreeSet::new();
        for lane in self.all.values().filter(|lane| tainted(lane)) {
            let mut key = lane.key();
            while let Some(parent) = graph.parent(key) {
                if !ancestors.insert(parent) {
                    break;
                }
                key = parent;
            }
        }
        let rank = |lane: &Lane| match (tainted(lane), ancestors.contains(&lane.key())) {
            (true, _) => 0,
            (false, true) => 1,
            (false, false) => 2,
        };
        let mut lanes: Vec<&Lane> = self.all.values().collect();
        lanes.sort_by_key(|lane| (rank(lane), lane.first_ns, lane.key()));
        let processes: Vec<Lane> =
            lanes.iter().take(limit).map(|&lane| Lane { tainted: tainted(lane), ..lane.clone() }).collect();
        let left_out = (lanes.len() - processes.len()) as u64 + self.left_out;
        Processes { processes, left_out }
    }
}

fn short(text: &GuestText) -> GuestText {
    GuestText::from(text.bytes()[..text.bytes().len().min(MAX_ARGUMENT)].to_vec())
}
