//! An event as Sigma's Linux taxonomy names its parts.

use std::collections::BTreeMap;
use std::sync::Arc;

use lava_event::{Event, FileType, GuestText, Kind, Process, ProcessKey};

use crate::Taint;

/// Longest text of a field, bytes: what stands behind it is not looked at.
const MAX_TEXT: usize = 64 << 10;
/// Processes whose command lines are remembered.
const MAX_PROCESSES: usize = 1 << 16;

/// Sigma's categories of log sources for which there are events.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Category {
    ProcessCreation,
    FileEvent,
    FileDelete,
    NetworkConnection,
}

impl Category {
    /// By its name in rules.
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "process_creation" => Self::ProcessCreation,
            "file_event" => Self::FileEvent,
            "file_delete" => Self::FileDelete,
            "network_connection" => Self::NetworkConnection,
            _ => return None,
        })
    }

    /// The fields that its records can have.
    pub(super) const fn fields(self) -> &'static [&'static str] {
        match self {
            Self::ProcessCreation => &[
                "Image",
                "CommandLine",
                "CurrentDirectory",
                "ParentImage",
                "ParentCommandLine",
                "User",
                "ProcessId",
                "ParentProcessId",
            ],
            Self::FileEvent | Self::FileDelete => &["TargetFilename", "Image", "CommandLine", "User", "ProcessId"],
            Self::NetworkConnection => &[
                "DestinationIp",
                "DestinationPort",
                "Protocol",
                "Initiated",
                "Image",
                "CommandLine",
                "User",
                "ProcessId",
            ],
        }
    }
}

/// The parts of one event. A part that is not known is not there.
pub(super) struct Record {
    pub(super) category: Category,
    fields: Vec<(&'static str, String)>,
    /// What it is about, for titles.
    pub(super) subject: String,
}

impl Record {
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| *known == name).map(|(_, text)| text.as_str())
    }

    pub(super) fn texts(&self) -> impl Iterator<Item = &str> {
        self.fields.iter().map(|(_, text)| text.as_str())
    }
}

/// What a process runs.
#[derive(Clone, Debug)]
struct Running {
    image: String,
    /// Not known for a process that was there before watching began.
    command_line: Option<String>,
}

/// Programs and command lines of the session's processes.
#[derive(Debug, Default)]
pub(super) struct Processes {
    running: BTreeMap<ProcessKey, Arc<Running>>,
}

fn text(text: &GuestText) -> String {
    let bytes = text.bytes();
    match bytes.get(..MAX_TEXT) {
        Some(cut) => GuestText::from(cut.to_vec()).matchable(),
        None => text.matchable(),
    }
}

/// Arguments with a space between them, as Sysmon for Linux writes them.
fn command_line(argv: &[GuestText]) -> String {
    let mut out = String::new();
    for (i, argument) in argv.iter().enumerate() {
        if i > 0 {
            out.push(' ');
        }
        out.push_str(&text(argument));
        if out.len() > MAX_TEXT {
            break;
        }
    }
    out
}

fn user(process: &Process) -> String {
    // Names of other users stand in the guest's files, which are not asked.
    if process.uid == 0 { "root".to_owned() } else { process.uid.to_string() }
}

impl Processes {
    /// Takes an event in. Called before [`Processes::record`].
    pub(super) fn remember(&mut self, event: &Event) {
        let Some(process) = &event.process else { return };
        match &event.kind {
            Kind::ProcessExec { argv, .. } => {
                let running = Running { image: text(&process.exe), command_line: Some(command_line(argv)) };
                self.insert(process.key(), Arc::new(running));
            }
            Kind::ProcessFork { child, thread: false, .. } => {
                let known = self.running.get(&process.key()).cloned();
                let running =
                    known.unwrap_or_else(|| Arc::new(Running { image: text(&process.exe), command_line: None }));
                self.insert(process.key(), Arc::clone(&running));
                self.insert(ProcessKey { pid: child.pid, start_ns: child.start_ns }, running);
            }
            _ => {}
        }
    }

    fn insert(&mut self, key: ProcessKey, running: Arc<Running>) {
        if self.running.len() < MAX_PROCESSES || self.running.contains_key(&key) {
            self.running.insert(key, running);
        }
    }

    /// True if there were more processes than are remembered.
    pub(super) fn is_full(&self) -> bool {
        self.running.len() >= MAX_PROCESSES
    }

    /// The event as a record, if it is of a category.
    pub(super) fn record(&self, event: &Event, taint: &dyn Taint) -> Option<Record> {
        let process = event.process.as_ref()?;
        let mut fields: Vec<(&'static str, String)> = Vec::with_capacity(8);
        let mut put = |name, text: String| fields.push((name, text));
        let (category, subject) = match &event.kind {
            Kind::ProcessExec { argv, cwd, .. } => {
                put("CurrentDirectory", text(cwd));
                put("ParentProcessId", process.ppid.to_string());
                if let Some(parent) = taint.parent(process.key()).and_then(|parent| self.running.get(&parent)) {
                    put("ParentImage", parent.image.clone());
                    if let Some(line) = &parent.command_line {
                        put("ParentCommandLine", line.clone());
                    }
                }
                (Category::ProcessCreation, command_line(argv).into_bytes())
            }
            Kind::FileCreate { path, what: FileType::Regular | FileType::Symlink, .. }
            | Kind::FileRename { to: path, .. } => {
                put("TargetFilename", text(path));
                (Category::FileEvent, path.bytes().to_vec())
            }
            Kind::FileWrite { path, file, .. } if file.file_type() == FileType::Regular => {
                put("TargetFilename", text(path));
                (Category::FileEvent, path.bytes().to_vec())
            }
            Kind::FileUnlink { path, .. } => {
                put("TargetFilename", text(path));
                (Category::FileDelete, path.bytes().to_vec())
            }
            Kind::NetConnect { protocol, destination: Some(to), .. } => {
                put("DestinationIp", to.address.to_string());
                put("DestinationPort", to.port.to_string());
                put("Protocol", format!("{protocol:?}").to_lowercase());
                put("Initiated", "true".to_owned());
                (Category::NetworkConnection, to.to_string().into_bytes())
            }
            // Most events: they cost no more than this look.
            _ => return None,
        };
        put("Image", text(&process.exe));
        put("User", user(process));
        put("ProcessId", process.pid.to_string());
        if let Some(line) = self.running.get(&process.key()).and_then(|running| running.command_line.clone()) {
            put("CommandLine", line);
        }
        Some(Record { category, fields, subject: crate::path::shown(&subject) })
    }
}
