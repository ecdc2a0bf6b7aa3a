//! What waits for the policy at a hook, and what happens there if it says no.
//!
//! The vCPU is held until the answer is here. The tap cannot write registers, so a function of the kernel is refused by what it reads
//! next in memory:
//!
//! | what | refused by | what the guest sees |
//! |---|---|---|
//! | `process.exec` | SIGKILL to the process, whose old program is gone by then | it dies before the new program's first instruction |
//! | `file.open`, to write | the open file's operations become the kernel's own `bad_file_ops` | the open fails with EIO; nothing is cut, nothing written |
//! | `kernel.module_load` | the module's `init` is taken away, SIGKILL to who loads it | the module lies there, and none of it runs |
//!
//! *Remediate* does the same: nothing has happened that could be undone.
//!
//! Limits: a file that the open itself has made stays, empty. The first process and the kernel's own threads are not killed: a program
//! that they start themselves runs. A file that was open before, renames and links do not wait.

use std::collections::HashMap;
use std::sync::Mutex;

use lava_event::{Action, Event};
use lava_guest::kernel::Kernel;
use lava_guest::memory::Unreadable;

use crate::introspect::Context;
use crate::kill;
use crate::missing::Missing;

/// Opens under way that were asked about; beyond that some are told twice.
const MAX_OPENS: usize = 16 * 1024;

/// What can be refused here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Subject {
    Exec,
    Open,
    Module,
}

impl Subject {
    const fn kind(self) -> &'static str {
        match self {
            Self::Exec => "process.exec",
            Self::Open => "file.open",
            Self::Module => "kernel.module_load",
        }
    }
}

/// What the policy wants to be asked about.
#[derive(Default)]
pub struct Asks {
    kinds: Vec<String>,
    /// Link address of `bad_file_ops` (fs/bad_inode.c), offsets of `file.f_op` and `module.init`.
    bad_file: Option<(u64, u64)>,
    init: Option<u64>,
    /// Opens that were told when they were asked about: the open file, by the address of the task.
    opens: Mutex<HashMap<u64, u64>>,
}

impl Asks {
    /// What the kernel lacks to refuse something that is asked about goes to `missing`.
    pub fn resolve(kernel: &Kernel, kinds: Vec<String>, missing: &mut Missing) -> Self {
        let bad = kernel.symbols.address("bad_file_ops").zip(kernel.types.offset("file", "f_op").ok());
        let init = kernel.types.offset("module", "init").ok();
        let asks = Self { kinds, bad_file: bad, init, opens: Mutex::default() };
        if asks.about(Subject::Open) && bad.is_none() {
            missing.push("refusing file.open: this kernel has no bad_file_ops: who opens is killed instead");
        }
        if asks.about(Subject::Module) && init.is_none() {
            missing.push("refusing kernel.module_load: no module.init in the kernel's types: the module will run");
        }
        asks
    }

    /// Whether the policy wants to be asked about these.
    pub fn about(&self, subject: Subject) -> bool {
        self.kinds.iter().any(|kind| kind == subject.kind())
    }

    /// The task opens a file: that which is asked about, and so told now, or another. An open that failed is followed by others, and
    /// its `struct file` is used again.
    pub fn opening(&self, task: u64, asked: Option<u64>) {
        let Ok(mut opens) = self.opens.lock() else { return };
        if opens.len() >= MAX_OPENS {
            opens.clear();
        }
        match asked {
            Some(file) => opens.insert(task, file),
            None => opens.remove(&task),
        };
    }

    /// Whether the task's last open was asked about, and is that of this file.
    pub fn opened(&self, task: u64, file: u64) -> bool {
        self.opens.lock().is_ok_and(|mut opens| opens.remove(&task) == Some(file))
    }

    /// The guest was reset.
    pub fn clear(&self) {
        if let Ok(mut opens) = self.opens.lock() {
            opens.clear();
        }
    }
}

/// Emits the event. If the policy wants to be asked about such, and the task has started, waits for its answer; `refuse` is what is
/// done if it is no, and says so.
pub fn submit(context: &Context<'_>, subject: Subject, event: Event, refuse: impl FnOnce() -> String) {
    let tap = context.tap;
    if !tap.asks.about(subject) || !tap.task.started() {
        return tap.emitter.emit_event(context.vcpu, event);
    }
    let outcome = match tap.emitter.ask(context.vcpu, event) {
        Action::Allow => "it went on".to_owned(),
        Action::Deny | Action::Remediate => refuse(),
    };
    tap.emitter.settle(context.vcpu, &outcome);
}

/// Makes the open of the `struct file` at this address fail. Says what was done.
pub fn open(context: &Context<'_>, file: u64) -> String {
    let Some((operations, offset)) = context.tap.asks.bad_file else { return kill::acting(context) };
    let operations = operations.wrapping_add(context.slide).to_le_bytes();
    match write(context, file.wrapping_add(offset), &operations) {
        Ok(()) => "the open failed with an I/O error".to_owned(),
        Err(_) => format!("the open could not be stopped; {}", kill::acting(context)),
    }
}

/// Takes the init function of the `struct module` at this address away. Says what was done.
pub fn module(context: &Context<'_>, module: u64) -> String {
    let done = context.tap.asks.init.map(|offset| write(context, module.wrapping_add(offset), &[0; 8]));
    let killed = kill::acting(context);
    match done {
        Some(Ok(())) => format!("the module's init function is not run; {killed}"),
        _ => format!("the module runs; {killed}"),
    }
}

fn write(context: &Context<'_>, address: u64, bytes: &[u8]) -> Result<(), Unreadable> {
    let place = context.tap.ram().zip(context.memory().physical(address));
    place.map_or(Err(Unreadable { address }), |(ram, gpa)| ram.write(gpa, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_is_told_once() {
        let asks = Asks { kinds: vec!["file.open".into()], ..Asks::default() };
        assert!(asks.about(Subject::Open) && !asks.about(Subject::Exec));
        asks.opening(1, Some(10));
        assert!(!asks.opened(2, 10) && !asks.opened(1, 11), "another file: the first open failed");
        asks.opening(1, Some(10));
        assert!(asks.opened(1, 10) && !asks.opened(1, 10));
        asks.opening(1, Some(10));
        asks.opening(1, None);
        assert!(!asks.opened(1, 10), "the first open failed, and another one got its memory");
        (0..2 * MAX_OPENS as u64).for_each(|task| asks.opening(task, Some(1)));
        assert!(asks.opens.lock().unwrap().len() <= MAX_OPENS);
    }
}
