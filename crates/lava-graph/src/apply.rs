//! What each event does to the graph; what happens to files is in `apply_files`, on sockets in `apply_net`.

use lava_event::{Credentials, DiskRegion, Event, FileType, Grade, GuestText, Kind, ProcessKey, ProcessRef, Source};

use crate::files::{FileState, Key};
use crate::graph::{Graph, MAX_CONTENTS, MAX_DECISIONS, Task};
use crate::processes::State;
use crate::store::{Happening, clip, label};
use crate::{DecisionSummary, EdgeDecision, NodeId, NodeKind, NodeTaint, TaintRule, Verb, cut};

impl Graph {
    pub(crate) fn apply_event(&mut self, event: &Event) {
        let actor = self.meet(event);
        match &event.kind {
            Kind::VmTask { .. } => self.task(event),
            Kind::VmMember { path, command, hosts, .. } if !command.is_empty() => self.member(event, path, hosts),
            Kind::VmReset { .. } => {
                self.processes.end_all();
                self.files.reset();
                self.pipes.reset();
                self.memory.reset();
                self.disks.reset();
                self.channels.reset();
            }
            Kind::VmDecision { .. } => self.decision(event),
            Kind::NetFlow { protocol, origin, destination, .. } => self.wire(event, *protocol, *origin, *destination),
            Kind::DiskWrite { disk, region, ranges, bytes, count, .. } => {
                let happening = (*count, *bytes);
                if let Some((found, device)) = self.disks.attribute(event.seq, disk, *region, ranges) {
                    self.disk_write(event, disk, *region, happening, Some((found.grade, device)));
                } else if *region != DiskRegion::Data && self.root.is_some() {
                    self.disk_write(event, disk, *region, happening, None);
                }
            }
            _ => {
                if let Some(actor) = actor {
                    self.act(event, actor);
                }
            }
        }
    }

    fn act(&mut self, event: &Event, actor: ProcessKey) {
        match &event.kind {
            Kind::ProcessFork { child, thread: false, .. } => self.fork(event, actor, child),
            Kind::ProcessExec { .. } => {
                self.memory.left(actor);
                self.exec(event, actor);
            }
            Kind::ProcessExit { .. } => {
                self.memory.left(actor);
                self.processes.end(actor);
            }
            Kind::ProcessCredentials { old, new } => self.credentials(event, actor, old, new),
            Kind::FileOpen { path, file, access } => self.open(event, actor, path, file, *access),
            Kind::FileCreate { path, file, .. } => self.create(event, actor, path, file.as_ref()),
            Kind::FileWrite { path, file, ranges, bytes, count } => {
                let node = self.write(event, actor, path, file, *count, *bytes);
                if let (FileType::BlockDevice, Some(node)) = (file.file_type(), node) {
                    self.disks.device_written(file.node, ranges, actor, event.seq, node);
                }
            }
            Kind::FileRead { path, file, .. } => self.read(event, actor, path, file),
            Kind::MemoryMap { shared: true, path: Some(path), file: Some(file), protection, .. } => {
                self.map_shared(event, actor, path, file, *protection);
            }
            Kind::MemoryRemoteWrite { target, bytes, .. } => self.injected(event, actor, target, *bytes),
            Kind::FileMapWrite { path, file, ranges } => {
                let bytes = ranges.iter().fold(0u64, |sum, range| sum.saturating_add(range.len()));
                self.write(event, actor, path, file, 1, bytes);
            }
            // What is left of it is this process's version.
            Kind::FileTruncate { path, file, .. } => {
                self.write(event, actor, path, file, 0, 0);
            }
            Kind::FileAttributes { path, file, .. } | Kind::FileXattr { path, file, .. } => {
                self.touch(event, actor, path, Some(file), Verb::ChangesAttributes);
            }
            Kind::FileRename { from, to, file } => {
                if let Some(node) = self.touch(event, actor, from, Some(file), Verb::Renames) {
                    self.store.update_node(node, |node| {
                        node.label = label(to);
                        if node.detail.len() < 8 {
                            node.detail.push(clip(&format!("was {}", label(from))));
                        }
                    });
                }
                self.files.rename(from, to);
            }
            Kind::FileUnlink { path, file } => {
                self.touch(event, actor, path, Some(file), Verb::Deletes);
                self.files.unlink(path);
            }
            Kind::NetConnect { .. } | Kind::NetFlowOwner { .. } | Kind::NetAccept { .. } | Kind::NetTransfer { .. } => {
                self.network(event, actor)
            }
            Kind::KernelModuleLoad { name, .. } => {
                if let Some(process) = self.tainted_node(actor) {
                    let node = self.named(event, NodeKind::Module, label(name));
                    self.taint_node(event, node, TaintRule::Written, Grade::Observed);
                    self.store.happen(event, Happening::observed(process, Verb::Loads, node));
                }
            }
            _ => {}
        }
    }

    /// The node of that kind and name.
    pub(crate) fn named(&mut self, event: &Event, kind: NodeKind, name: String) -> NodeId {
        match self.names.get(&(kind, name.clone())) {
            Some(&node) => node,
            None => {
                let node = self.store.add_node(event, kind, name.clone(), Vec::new(), None);
                if self.names.len() < 100_000 {
                    self.names.insert((kind, name), node);
                }
                node
            }
        }
    }

    /// The acting process's node, if it is tainted.
    pub(crate) fn tainted_node(&self, actor: ProcessKey) -> Option<NodeId> {
        self.processes.get(actor).filter(|state| state.tainted).map(|state| state.node)
    }

    pub(crate) fn taint_node(&mut self, event: &Event, node: NodeId, rule: TaintRule, grade: Grade) {
        self.store.taint(node, NodeTaint { rule, grade, event: event.seq });
    }

    pub(crate) fn taint_process(&mut self, event: &Event, key: ProcessKey, rule: TaintRule, grade: Grade) {
        if let Some(state) = self.processes.get_mut(key) {
            state.tainted = true;
            let node = state.node;
            self.taint_node(event, node, rule, grade);
            self.lanes.tainted(key);
            self.memory.process_tainted(key);
        }
    }

    /// Knows the acting process from now on. One whose fork was missed is taken for a child of its parent, inferred.
    fn meet(&mut self, event: &Event) -> Option<ProcessKey> {
        let process = event.process.as_ref()?;
        let key = process.key();
        // What the wire tells of a conversation comes late: its process may have ended, and does not live again.
        if self.processes.get(key).is_none() && event.source != Source::Net && !self.processes.is_full() {
            let parent = self.processes.running(process.ppid).filter(|parent| *parent != key);
            self.add_process(event, key, parent, &process.comm, process.exe.clone());
            if parent.is_some_and(|parent| self.is_tainted(parent)) {
                self.taint_process(event, key, TaintRule::Descent, Grade::Inferred);
            }
            let state = self.processes.get(key).map(|state| state.node);
            let above = parent.and_then(|parent| self.processes.get(parent)).map(|state| state.node);
            if let (Some(node), Some(above)) = (state, above) {
                self.store.happen(event, Happening::observed(above, Verb::Forks, node).inferred());
            }
        }
        Some(key)
    }

    fn add_process(
        &mut self,
        event: &Event,
        key: ProcessKey,
        parent: Option<ProcessKey>,
        comm: &GuestText,
        exe: GuestText,
    ) {
        let name = label(if exe.is_empty() { comm } else { &exe });
        let node = self.store.add_node(event, NodeKind::Process, name, vec![format!("pid {}", key.pid)], Some(key));
        self.processes.insert(key, State { node, parent, exe, tainted: false, host: false, jobs_from: None });
    }

    fn fork(&mut self, event: &Event, actor: ProcessKey, child: &ProcessRef) {
        let key = ProcessKey { pid: child.pid, start_ns: child.start_ns };
        let Some(parent) = self.processes.get(actor).cloned() else { return };
        if let Some(known) = self.processes.get(key).map(|state| state.node) {
            // The child was on another processor, and was seen to act before its fork was told.
            if key != actor && self.processes.get(key).is_some_and(|state| state.parent == Some(actor)) {
                if parent.tainted {
                    self.taint_process(event, key, TaintRule::Descent, Grade::Observed);
                }
                self.store.happen(event, Happening::observed(parent.node, Verb::Forks, known));
            }
            return;
        }
        if key == actor || self.processes.is_full() {
            return;
        }
        self.add_process(event, key, Some(actor), &child.comm, parent.exe.clone());
        self.memory.forked(actor, key);
        let Some(node) = self.processes.get(key).map(|state| state.node) else { return };
        let opens = |task: &&mut Task| task.handed_over && cut::same_program(&task.launcher, parent.exe.bytes());
        if let Some(task) = self.task.as_mut().filter(opens) {
            task.handed_over = false;
            let task = task.node;
            self.root.get_or_insert(key);
            self.taint_process(event, key, TaintRule::Task, Grade::Observed);
            self.store.happen(event, Happening::observed(task, Verb::Opens, node));
        } else if parent.tainted {
            self.taint_process(event, key, TaintRule::Descent, Grade::Observed);
        } else if let Some(table) = parent.jobs_from {
            self.taint_process(event, key, TaintRule::Job, Grade::Inferred);
            self.store.happen(event, Happening::observed(table, Verb::Starts, node).inferred());
        }
        self.store.happen(event, Happening::observed(parent.node, Verb::Forks, node));
    }

    fn exec(&mut self, event: &Event, actor: ProcessKey) {
        let (Kind::ProcessExec { path, argv, file, interpreter, .. }, Some(process)) = (&event.kind, &event.process)
        else {
            return;
        };
        let Some(old) = self.processes.get(actor).cloned() else { return };
        let arguments: Vec<String> = argv.iter().take(16).map(label).collect();
        let detail = vec![
            format!("pid {}, uid {}", actor.pid, process.uid),
            clip(&arguments.join(" ")),
            clip(&format!("by the name {}", label(path))),
        ];
        let exe = if process.exe.is_empty() { path.clone() } else { process.exe.clone() };
        let node = self.store.add_node(event, NodeKind::Process, label(&exe), detail, Some(actor));
        if let Some(state) = self.processes.get_mut(actor) {
            state.node = node;
            state.exe = exe.clone();
            state.jobs_from = None;
        }
        let key = self.files.key(&exe, Some(file));
        let image = self.files.get(&key).is_some_and(|state| state.tainted);
        let script = interpreter.is_some().then(|| self.files.by_path(path.bytes()).cloned()).flatten();
        if old.tainted {
            self.taint_node(event, node, TaintRule::Descent, Grade::Observed);
        } else if image || script.as_ref().is_some_and(|script| script.tainted) {
            self.taint_process(event, actor, TaintRule::Image, Grade::Observed);
        }
        self.store.happen(event, Happening::observed(old.node, Verb::Executes, node));
        if self.is_tainted(actor) {
            let file = self.file(event, &exe, Some(file)).0;
            self.store.happen(event, Happening::observed(node, Verb::Runs, file));
            if let Some(script) = script {
                self.store.happen(event, Happening::observed(node, Verb::Runs, script.node));
            }
        }
    }

    fn credentials(&mut self, event: &Event, actor: ProcessKey, old: &Credentials, new: &Credentials) {
        let gained = new.effective & !old.effective;
        if old.uid == new.uid && old.euid == new.euid && gained == 0 {
            return;
        }
        if let Some(process) = self.tainted_node(actor) {
            let mut name = format!("uid {} → {}, euid {} → {}", old.uid, new.uid, old.euid, new.euid);
            if gained != 0 {
                name.push_str(&format!(", capabilities +{gained:#x}"));
            }
            let node = self.store.add_node(event, NodeKind::Credential, name, Vec::new(), Some(actor));
            self.taint_node(event, node, TaintRule::Written, Grade::Observed);
            self.store.happen(event, Happening::observed(process, Verb::Gains, node));
        }
    }

    fn disk_write(
        &mut self,
        event: &Event,
        disk: &str,
        region: DiskRegion,
        (count, bytes): (u64, u64),
        by: Option<(Grade, NodeId)>,
    ) {
        let name = match region {
            DiskRegion::MbrBootCode => "MBR boot code",
            DiskRegion::MbrSignature => "disk signature",
            DiskRegion::PartitionTable => "partition table",
            DiskRegion::PostMbrGap => "gap behind the MBR",
            DiskRegion::Gpt => "GPT",
            DiskRegion::BootSector => "boot sector",
            DiskRegion::Data => "data",
        };
        let area = self.named(event, NodeKind::DiskArea, clip(&format!("{name} of {}", label(&GuestText::from(disk)))));
        let (grade, from) = match by {
            Some(by) => by,
            None => (Grade::Inferred, self.named(event, NodeKind::Kernel, "guest kernel, for nobody known".to_owned())),
        };
        let tainted = self.disks.attribution(event.seq).is_some_and(|found| self.is_tainted(found.process));
        if tainted {
            self.taint_node(event, area, TaintRule::Written, grade);
        }
        let happening = Happening { grade, ..Happening::observed(from, Verb::Writes, area) };
        self.store.happen(event, happening.of(count, bytes));
    }

    fn task(&mut self, event: &Event) {
        let Kind::VmTask { name, path, sha256, profile, command, launcher, hosts, .. } = &event.kind else { return };
        if self.task.is_some() {
            return;
        }
        let shown = |text: &str| label(&GuestText::from(text));
        let detail = vec![format!("profile {}", shown(profile)), shown(&command.join(" "))];
        let node = self.store.add_node(event, NodeKind::Task, shown(name), detail, None);
        let detail = vec![format!("sha256 {sha256}")];
        let content = self.store.add_node(event, NodeKind::File, shown(path), detail, None);
        for id in [node, content] {
            self.taint_node(event, id, TaintRule::Task, Grade::Observed);
        }
        let key = Key::Path(path.as_bytes().to_vec());
        let state = FileState { node: content, tainted: true, version: 0, writer: None };
        self.files.insert(&GuestText::from(path.as_str()), key, state);
        self.store.happen(event, Happening::observed(node, Verb::Opens, content));
        self.task = Some(Task {
            node,
            contents: vec![(path.as_bytes().to_vec(), content)],
            handed_over: true,
            launcher: launcher.as_bytes().to_vec(),
            hosts: base_names(hosts),
        });
    }

    /// A file that the archive held is opened as the task itself was.
    fn member(&mut self, event: &Event, path: &GuestText, hosts: &[String]) {
        let (content, key) = self.file(event, path, None);
        if let Some(state) = self.files.get_mut(&key) {
            state.tainted = true;
        }
        self.taint_node(event, content, TaintRule::Written, Grade::Observed);
        let Some(task) = self.task.as_mut().filter(|task| task.contents.len() < MAX_CONTENTS) else { return };
        task.contents.push((path.bytes().to_vec(), content));
        task.handed_over = true;
        task.hosts.extend(base_names(hosts));
        let task = task.node;
        self.store.happen(event, Happening::observed(task, Verb::Opens, content));
    }

    fn decision(&mut self, event: &Event) {
        let Kind::VmDecision { subject, action, policy, rule, reason, outcome } = &event.kind else { return };
        let decision = EdgeDecision { action: *action, outcome: outcome.clone(), event: event.seq };
        self.store.decide(*subject, &decision);
        if self.decisions.len() < MAX_DECISIONS {
            self.decisions.push(DecisionSummary {
                event: event.seq,
                subject: *subject,
                time_ns: event.time_ns,
                action: *action,
                policy: policy.clone(),
                rule: rule.clone(),
                reason: reason.clone(),
                outcome: outcome.clone(),
            });
        }
    }
}

fn base_names(programs: &[String]) -> Vec<Vec<u8>> {
    programs.iter().map(|program| cut::base_name(program.as_bytes()).to_vec()).collect()
}
