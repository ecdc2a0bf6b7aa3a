//! A kernel's symbols and types as Volatility 3 reads them (Intermediate Symbol Format 6.2.0, volatility3/schemas/schema-6.2.0.json), for
//! memory dumps of guests. Everything is the kernel's own: symbols from its kallsyms, types from its BTF.
//!
//! *Limits:* neither says of what type a variable is. Those that Volatility's plugins ask for stand in [`VARIABLES`], the others have none. Of
//! types that bear one name the first is taken. BTF of modules is not read.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use base64::Engine as _;
use lava_guest::btf::{Member, Shape, Types};
use lava_guest::kernel::Kernel;
use serde::ser::{Serialize, Serializer};
use serde_json::{Value, json};

use crate::Error;

/// What `object_from_symbol` is called with in volatility3 2.28 (plugins/linux, symbols/linux), and its declaration in Linux 6.1 and 6.12.
const VARIABLES: [(&str, Of); 40] = [
    ("init_task", Of::Struct("task_struct")),
    ("init_mm", Of::Struct("mm_struct")),
    ("init_pid_ns", Of::Struct("pid_namespace")),
    ("init_net", Of::Struct("net")),
    ("modules", Of::Struct("list_head")),
    ("mod_tree", Of::Struct("mod_tree_root")),
    ("module_kset", Of::Pointer("kset")),
    ("net_namespace_list", Of::Struct("list_head")),
    ("bpf_kallsyms", Of::Struct("list_head")),
    ("prog_idr", Of::Struct("idr")),
    ("tty_drivers", Of::Struct("list_head")),
    ("keyboard_notifier_list", Of::Struct("atomic_notifier_head")),
    ("iomem_resource", Of::Struct("resource")),
    ("socket_file_ops", Of::Struct("file_operations")),
    ("sockfs_dentry_operations", Of::Struct("dentry_operations")),
    ("prb", Of::Pointer("printk_ringbuffer")),
    ("ftrace_ops_list", Of::Pointer("ftrace_ops")),
    ("ftrace_list_end", Of::Struct("ftrace_ops")),
    ("ftrace_mod_maps", Of::Struct("list_head")),
    ("idt_table", Of::Structs("gate_struct", 256)),
    ("cap_last_cap", Of::Number("int")),
    ("log_buf", Of::Text),
    ("log_buf_len", Of::Number("unsigned int")),
    ("vmemmap_base", Of::Number("long unsigned int")),
    ("page_offset_base", Of::Number("long unsigned int")),
    ("module_addr_min", Of::Number("long unsigned int")),
    ("module_addr_max", Of::Number("long unsigned int")),
    ("num_registered_fb", Of::Number("int")),
    ("total_sleep_time", Of::Struct("timespec64")),
    ("taint_flags", Of::Table("taint_flag")),
    ("tk_core", Of::Struct(CLOCK)),
    ("tcp4_seq_ops", Of::Struct("seq_operations")),
    ("tcp6_seq_ops", Of::Struct("seq_operations")),
    ("udp_seq_ops", Of::Struct("seq_operations")),
    ("udp6_seq_ops", Of::Struct("seq_operations")),
    ("udplite_seq_ops", Of::Struct("seq_operations")),
    ("udplite6_seq_ops", Of::Struct("seq_operations")),
    ("raw_seq_ops", Of::Struct("seq_operations")),
    ("raw6_seq_ops", Of::Struct("seq_operations")),
    ("unix_seq_ops", Of::Struct("seq_operations")),
];

/// The type of `tk_core`, which has no name (kernel/time/timekeeping.c, Linux 3.17 to 6.12): a sequence count, then the clock.
const CLOCK: &str = "tk_core_type";

#[derive(Clone, Copy)]
enum Of {
    Struct(&'static str),
    Structs(&'static str, u32),
    /// As many as lie there before the next symbol.
    Table(&'static str),
    Pointer(&'static str),
    Number(&'static str),
    Text,
}

impl Of {
    /// `room`: bytes until the next symbol.
    fn describe(self, types: &Types, room: u64) -> Value {
        let of = |name: &str| json!({ "kind": "struct", "name": name });
        match self {
            Self::Struct(name) => of(name),
            Self::Structs(name, count) => json!({ "kind": "array", "count": count, "subtype": of(name) }),
            Self::Table(name) => {
                let count = room / types.size_of(name).unwrap_or(u64::MAX).max(1);
                json!({ "kind": "array", "count": count, "subtype": of(name) })
            }
            Self::Pointer(name) => json!({ "kind": "pointer", "subtype": of(name) }),
            Self::Number(name) => json!({ "kind": "base", "name": name }),
            Self::Text => json!({ "kind": "pointer", "subtype": { "kind": "base", "name": "char" } }),
        }
    }
}

/// Writes the kernel's symbol file.
///
/// # Errors
/// If it cannot be written.
pub fn isf(kernel: &Kernel, out: &mut dyn Write) -> Result<(), Error> {
    let file = File { kernel, names: Names::of(&kernel.types) };
    serde_json::to_writer(&mut *out, &file).map_err(std::io::Error::from)?;
    Ok(writeln!(out)?)
}

/// Names by identifier, for types that have one or are given one.
struct Names<'a> {
    types: &'a Types,
    /// What has no name of its own, by its typedef's.
    aliases: BTreeMap<u32, &'a str>,
    composites: BTreeMap<String, u32>,
    enums: BTreeMap<String, u32>,
    numbers: BTreeMap<&'a str, u32>,
}

impl<'a> Names<'a> {
    fn of(types: &'a Types) -> Self {
        let (aliases, numbers) = (BTreeMap::new(), BTreeMap::new());
        let mut names = Self { types, aliases, composites: BTreeMap::new(), enums: BTreeMap::new(), numbers };
        for id in types.ids() {
            if let Some((alias, of)) = types.alias(id)
                && types.name(of).is_empty()
            {
                names.aliases.entry(of).or_insert(alias);
            }
        }
        for id in types.ids() {
            // Only what stands there itself, not what leads to it.
            let (at, shape) = types.shape(id);
            if at != id {
                continue;
            }
            match shape {
                Shape::Struct { .. } | Shape::Union { .. } => {
                    let name = names.name(id);
                    names.composites.entry(name).or_insert(id);
                }
                Shape::Enum { .. } => {
                    let name = names.name(id);
                    names.enums.entry(name).or_insert(id);
                }
                Shape::Int { .. } | Shape::Float { .. } => {
                    names.numbers.entry(types.name(id)).or_insert(id);
                }
                _ => {}
            }
        }
        names
    }

    fn name(&self, id: u32) -> String {
        match self.types.name(id) {
            "" => self.aliases.get(&id).map_or_else(|| format!("unnamed_{id:x}"), |&alias| alias.to_owned()),
            name => name.to_owned(),
        }
    }

    /// A type as it stands in a field. `depth` bounds pointers to pointers and arrays of arrays.
    fn describe(&self, id: u32, depth: u32) -> Value {
        let (id, shape) = self.types.shape(id);
        let void = || json!({ "kind": "base", "name": "void" });
        match shape {
            _ if depth == 0 => void(),
            Shape::Void | Shape::Forward => void(),
            Shape::Function => json!({ "kind": "function" }),
            Shape::Int { .. } | Shape::Float { .. } => json!({ "kind": "base", "name": self.types.name(id) }),
            Shape::Pointer(to) => json!({ "kind": "pointer", "subtype": self.describe(to, depth - 1) }),
            Shape::Array(of, count) => {
                json!({ "kind": "array", "count": count, "subtype": self.describe(of, depth - 1) })
            }
            Shape::Struct { .. } => json!({ "kind": "struct", "name": self.name(id) }),
            Shape::Union { .. } => json!({ "kind": "union", "name": self.name(id) }),
            Shape::Enum { .. } => json!({ "kind": "enum", "name": self.name(id) }),
        }
    }

    fn field(&self, member: &Member<'_>) -> Value {
        /// No declaration of the kernel's nests deeper.
        const DEPTH: u32 = 16;
        let kind = self.describe(member.of, DEPTH);
        if member.bits == 0 {
            let mut field = json!({ "offset": member.bit_offset / 8, "type": kind });
            if member.name.is_empty() {
                field["anonymous"] = true.into();
            }
            return field;
        }
        // A bit field lies in a word of its type, if one word holds it.
        let word = match self.types.shape(member.of).1 {
            Shape::Int { size, .. } | Shape::Enum { size } => u64::from(size.max(1)) * 8,
            _ => 8,
        };
        let mut at = member.bit_offset / word * word;
        if member.bit_offset + u64::from(member.bits) > at + word {
            at = member.bit_offset / 8 * 8;
        }
        let kind = json!({
            "kind": "bitfield", "bit_position": member.bit_offset - at, "bit_length": member.bits, "type": kind,
        });
        json!({ "offset": at / 8, "type": kind })
    }

    fn composite(&self, id: u32) -> Value {
        let (size, kind) = match self.types.shape(id).1 {
            Shape::Union { size } => (size, "union"),
            Shape::Struct { size } => (size, "struct"),
            _ => (0, "struct"),
        };
        let fields: serde_json::Map<String, Value> = self
            .types
            .members(id)
            .enumerate()
            .map(|(at, member)| {
                let name = if member.name.is_empty() { format!("unnamed_field_{at}") } else { member.name.to_owned() };
                (name, self.field(&member))
            })
            .collect();
        json!({ "size": size, "kind": kind, "fields": fields })
    }

    fn enumeration(&self, id: u32) -> Value {
        let Shape::Enum { size } = self.types.shape(id).1 else { return Value::Null };
        let constants: serde_json::Map<String, Value> =
            self.types.constants(id).map(|(name, value)| (name.to_owned(), value.into())).collect();
        let below = constants.values().any(|value| value.as_i64().is_some_and(|value| value < 0));
        let base = match (size, below) {
            (1, false) => "unsigned char",
            (1, true) => "char",
            (8, false) => "long unsigned int",
            (8, true) => "long int",
            (_, false) => "unsigned int",
            (_, true) => "int",
        };
        json!({ "size": size, "base": base, "constants": constants })
    }

    fn number(&self, id: u32) -> Value {
        let (size, signed, kind) = match self.types.shape(id).1 {
            Shape::Int { size, signed, char, bool } => (
                size,
                signed,
                if bool {
                    "bool"
                } else if char || (size == 1 && !bool) {
                    "char"
                } else {
                    "int"
                },
            ),
            Shape::Float { size } => (size, true, "float"),
            _ => (0, false, "void"),
        };
        json!({ "size": size, "signed": signed, "kind": kind, "endian": "little" })
    }
}

/// A map that is written as it is made: a kernel's is some 30 MB of text.
struct Each<F>(F);

impl<F, I, V> Serialize for Each<F>
where
    F: Fn() -> I,
    I: Iterator<Item = (String, V)>,
    V: Serialize,
{
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map((self.0)())
    }
}

struct File<'a> {
    kernel: &'a Kernel,
    names: Names<'a>,
}

impl File<'_> {
    fn symbol(&self, name: &str, address: u64, room: u64) -> Value {
        let mut symbol = json!({ "address": address, "type": { "kind": "base", "name": "void" } });
        if name == "linux_banner" {
            let text = format!("{}\n\0", self.kernel.banner);
            let of = json!({ "kind": "base", "name": "char" });
            symbol["type"] = json!({ "kind": "array", "count": text.len(), "subtype": of });
            symbol["constant_data"] = base64::engine::general_purpose::STANDARD.encode(text).into();
        } else if let Some((_, of)) = VARIABLES.iter().find(|(known, _)| *known == name) {
            symbol["type"] = of.describe(self.names.types, room);
        }
        symbol
    }

    fn symbols(&self) -> impl Iterator<Item = (String, Value)> {
        let mut all: Vec<_> = self.kernel.symbols.iter().map(|(address, _, name)| (address, name)).collect();
        all.sort_by_key(|(address, _)| *address);
        let ends: BTreeSet<u64> = all.iter().map(|(address, _)| *address).collect();
        let mut told = BTreeSet::new();
        all.retain(|(_, name)| told.insert(*name));
        all.into_iter().map(move |(address, name)| {
            let end = ends.range(address.saturating_add(1)..).next().copied().unwrap_or(address);
            (name.to_owned(), self.symbol(name, address, end - address))
        })
    }
}

impl Serialize for File<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap as _;
        let names = &self.names;
        let base_types = || {
            let fixed = [
                ("void".to_owned(), json!({ "size": 0, "signed": false, "kind": "void", "endian": "little" })),
                ("pointer".to_owned(), json!({ "size": 8, "signed": false, "kind": "int", "endian": "little" })),
            ];
            fixed.into_iter().chain(names.numbers.iter().map(|(name, id)| ((*name).to_owned(), names.number(*id))))
        };
        let clock = || {
            let of = |offset: u32, kind: &str, name: &str| json!({ "offset": offset, "type": { "kind": kind, "name": name } });
            let fields = json!({ "seq": of(0, "base", "unsigned int"), "timekeeper": of(8, "struct", "timekeeper") });
            let size = names.types.size_of("timekeeper").unwrap_or(0).saturating_add(8);
            (CLOCK.to_owned(), json!({ "size": size, "kind": "struct", "fields": fields }))
        };
        let own = || names.composites.iter().map(|(name, id)| (name.clone(), names.composite(*id)));
        let user_types = || own().chain(std::iter::once_with(clock));
        let enums = || names.enums.iter().map(|(name, id)| (name.clone(), names.enumeration(*id)));
        let mut map = serializer.serialize_map(Some(5))?;
        let producer = json!({ "name": "lava", "version": env!("CARGO_PKG_VERSION") });
        map.serialize_entry("metadata", &json!({ "format": "6.2.0", "producer": producer }))?;
        map.serialize_entry("base_types", &Each(base_types))?;
        map.serialize_entry("user_types", &Each(user_types))?;
        map.serialize_entry("enums", &Each(enums))?;
        map.serialize_entry("symbols", &Each(|| self.symbols()))?;
        map.end()
    }
}
