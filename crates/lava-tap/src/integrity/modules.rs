//! Modules, remembered from when they become live until the kernel frees them.
//!
//! Limits: at most [`MAX`] modules; a module's address range is what its own structure said when it was loaded.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;

use lava_event::GuestText;
use lava_guest::btf::Types;
use lava_guest::kernel::Kernel;
use lava_guest::memory::{Unreadable, Virtual};
use lava_guest::patchable;

use super::watch::Area;
use crate::introspect::Context;
use crate::missing::Missing;

/// Modules remembered; Debian's kernels load some 60.
const MAX: usize = 1024;
/// Room for a module's name (`MODULE_NAME_LEN`, include/linux/moduleparam.h).
const NAME: usize = 56;
/// No module of Debian's has 16 MiB of code.
const MAX_PART: u64 = 16 << 20;
/// Files that the kernel read for tasks that have not yet loaded a module.
const MAX_READS: usize = 64;
/// Entries looked at in one of a module's tables.
const MAX_TABLE: u64 = 64 * 1024;

/// Where a part of a module is said to lie: offsets in `struct module` of its base and of where it begins and ends behind that.
struct Part {
    base: u64,
    from: Option<u64>,
    to: u64,
    area: Area,
}

/// (offset of the pointer to a table, of the number of its entries, bytes of an entry).
type Table = (u64, u64, u64);

/// A live module.
#[derive(Clone, Debug)]
pub struct Module {
    pub name: GuestText,
    /// (first byte, past the last, what); the code first.
    pub parts: Vec<(u64, u64, Area)>,
    /// Missed in the list of modules at the last look.
    pub missed: bool,
    /// Told to be hidden.
    pub told: bool,
}

/// The live modules, by the address of their `struct module`.
pub struct Modules {
    parts: Vec<Part>,
    labels: Vec<Table>,
    entries: Option<Table>,
    /// Offset of `module.state`.
    state: Option<u64>,
    live: Mutex<BTreeMap<u64, Module>>,
    /// The last file that the kernel read for a task, by the address of its `task_struct`.
    reads: Mutex<HashMap<u64, GuestText>>,
}

impl Modules {
    pub fn resolve(kernel: &Kernel, missing: &mut Missing) -> Self {
        let types = &kernel.types;
        let parts = in_layout(types).or_else(|| in_memory_types(types)).unwrap_or_default();
        if parts.is_empty() {
            missing.push("kernel integrity: this kernel does not say where a module's code lies");
        }
        let table = |pointer: &str, number: &str, size: u64| {
            Some((types.offset("module", pointer).ok()?, types.offset("module", number).ok()?, size))
        };
        let labels = [
            table("jump_entries", "num_jump_entries", patchable::JUMP_ENTRY),
            table("static_call_sites", "num_static_call_sites", patchable::STATIC_CALL_SITE),
        ];
        Self {
            parts,
            labels: labels.into_iter().flatten().collect(),
            state: types.offset("module", "state").ok(),
            entries: table("ftrace_callsites", "num_ftrace_callsites", 8),
            live: Mutex::default(),
            reads: Mutex::default(),
        }
    }

    /// True for a module that is live: one that is still being loaded is written to, and comes by the kernel's own function later.
    pub fn is_live(&self, context: &Context<'_>, address: u64) -> bool {
        /// `MODULE_STATE_LIVE` (include/linux/module.h).
        const LIVE: u32 = 0;
        self.state.is_some_and(|offset| context.memory().u32(address.wrapping_add(offset)) == Ok(LIVE))
    }

    /// Reads the `struct module` at `address`, and remembers it.
    pub fn load(&self, context: &Context<'_>, address: u64) -> Module {
        let memory = context.memory();
        let at = |offset: u64| address.wrapping_add(offset);
        let name = memory.read_cstr(at(context.layout().module.name), NAME).bytes.into();
        let read = |part: &Part| -> Option<(u64, u64, Area)> {
            let base = memory.pointer(at(part.base)).ok()?;
            let from = part.from.map_or(Ok(0), |offset| memory.u32(at(offset))).ok()?;
            let to = u64::from(memory.u32(at(part.to)).ok()?);
            let sound = base >> 47 == 0x1_ffff && u64::from(from) < to && to <= MAX_PART;
            sound.then(|| (base.wrapping_add(from.into()), base.wrapping_add(to), part.area))
        };
        let parts = self.parts.iter().filter_map(read).collect();
        let module = Module { name, parts, missed: false, told: false };
        if let Ok(mut live) = self.live.lock()
            && live.len() < MAX
        {
            live.insert(address, module.clone());
        }
        module
    }

    /// The module at `address` is freed.
    pub fn unload(&self, address: u64) -> Option<Module> {
        self.live.lock().ok()?.remove(&address)
    }

    pub fn clear(&self) {
        if let (Ok(mut live), Ok(mut reads)) = (self.live.lock(), self.reads.lock()) {
            live.clear();
            reads.clear();
        }
    }

    /// The kernel reads a whole file for a task.
    pub fn file_read(&self, task: u64, path: GuestText) {
        if let Ok(mut reads) = self.reads.lock() {
            if reads.len() >= MAX_READS {
                reads.clear();
            }
            reads.insert(task, path);
        }
    }

    /// The file that the module which the task loads now came from.
    pub fn file_of(&self, task: u64) -> Option<GuestText> {
        self.reads.lock().ok()?.remove(&task)
    }

    /// Calls `look` with each: its address and what is known of it.
    pub fn each(&self, mut look: impl FnMut(u64, &mut Module)) {
        if let Ok(mut live) = self.live.lock() {
            live.iter_mut().for_each(|(&address, module)| look(address, module));
        }
    }

    /// The module in whose parts `address` lies, and how far behind the part's beginning.
    pub fn containing(&self, address: u64) -> Option<(GuestText, u64)> {
        let live = self.live.lock().ok()?;
        live.values().find_map(|module| {
            let part = module.parts.iter().find(|(start, end, _)| (*start..*end).contains(&address))?;
            Some((module.name.clone(), address - part.0))
        })
    }

    /// Whether a module has a jump label or a static call whose instruction holds all of `length` bytes at `address`, or (second) a
    /// function entry that ftrace redirects: its address.
    pub fn site(&self, context: &Context<'_>, address: u64, length: u64) -> Result<(bool, Option<u64>), Unreadable> {
        let module = self.live.lock().ok().and_then(|live| {
            live.iter().find_map(|(&at, module)| {
                module.parts.iter().any(|(start, end, _)| (*start..*end).contains(&address)).then_some(at)
            })
        });
        let Some(module) = module else { return Ok((false, None)) };
        let memory = context.memory();
        let table = |&(pointer, number, size): &Table| -> Result<(u64, Vec<u8>), Unreadable> {
            let count = u64::from(memory.u32(module.wrapping_add(number))?).min(MAX_TABLE);
            let base = memory.u64(module.wrapping_add(pointer))?;
            Ok((base, memory.read_vec(base, count * size, (MAX_TABLE * size) as usize)))
        };
        let holds =
            |site: u64| site <= address && address.wrapping_add(length) <= site.wrapping_add(patchable::LONGEST);
        for label in &self.labels {
            let (base, bytes) = table(label)?;
            let mut entries = (0u64..).zip(bytes.chunks_exact(label.2 as usize));
            let offset = |entry: &[u8]| entry.first_chunk::<4>().map(|bytes| u32::from_le_bytes(*bytes));
            if entries.any(|(number, entry)| {
                offset(entry).is_some_and(|o| holds(patchable::relative(base.wrapping_add(number * label.2), o)))
            }) {
                return Ok((true, None));
            }
        }
        let Some(entries) = &self.entries else { return Ok((false, None)) };
        let (_, bytes) = table(entries)?;
        let mut sites = bytes.chunks_exact(8).filter_map(|entry| entry.try_into().ok().map(u64::from_le_bytes));
        Ok((false, sites.find(|&site| holds(site))))
    }
}

/// Up to 6.3: `struct module_layout core_layout` (include/linux/module.h).
fn in_layout(types: &Types) -> Option<Vec<Part>> {
    let of = |name: &str| types.offset("module", name).ok();
    let (base, text, data) = (of("core_layout.base")?, of("core_layout.text_size")?, of("core_layout.ro_size")?);
    Some(vec![
        Part { base, from: None, to: text, area: Area::ModuleText },
        Part { base, from: Some(text), to: data, area: Area::ModuleData },
    ])
}

/// From 6.4 on: `struct module_memory mem[MOD_MEM_NUM_TYPES]`.
fn in_memory_types(types: &Types) -> Option<Vec<Part>> {
    let (mem, size) = (types.offset("module", "mem").ok()?, types.size_of("module_memory").ok()?);
    let member = |name: &str| types.offset("module_memory", name).ok();
    let (base, length) = (member("base")?, member("size")?);
    let part = |name: &str, area| {
        let at = mem + u64::try_from(types.enum_value(None, name)?).ok()? * size;
        Some(Part { base: at + base, from: None, to: at + length, area })
    };
    Some(vec![part("MOD_TEXT", Area::ModuleText)?, part("MOD_RODATA", Area::ModuleData)?])
}
