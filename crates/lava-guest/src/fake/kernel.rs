//! A kernel file made by hand: an ELF file with kallsyms tables, a banner and types.

use crate::layout::MEMBERS;

/// Address of the made-up kernel's `.rodata`.
pub const RODATA: u64 = 0xffff_ffff_8200_0000;

/// Which order the kallsyms tables have, and how addresses are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tables {
    /// Up to 6.3, with absolute per-CPU symbols.
    Before64,
    /// 6.4 to 6.14, with absolute per-CPU symbols.
    Since64,
    /// From 6.15: every symbol relative to the base.
    Since615,
}

/// What [`elf`] puts in: the symbols every kernel has, and enough more to be believed, in order of address.
pub fn symbols() -> Vec<(u64, char, String)> {
    const TEXT: u64 = 0xffff_ffff_8100_0000;
    let mut list = vec![
        (TEXT, 'T', "_text".to_owned()),
        (TEXT + 0x40, 'T', "entry_SYSCALL_64".to_owned()),
        (TEXT + 0x40, 't', "an_alias".to_owned()),
    ];
    list.extend((1..1500).map(|i| (TEXT + i * 0x100, 't', format!("filler_{}", i % 1400))));
    list.push((TEXT + 0x10_0000, 't', "l".repeat(300)));
    list.push((RODATA, 'R', "linux_banner".to_owned()));
    list.push((RODATA + 0x100_0000, 'B', "_end".to_owned()));
    list
}

/// The kallsyms tables of [`symbols`], and of one per-CPU symbol where they are absolute.
pub fn kallsyms(order: Tables) -> Vec<u8> {
    let mut list = symbols();
    let base = list[0].0;
    if order != Tables::Since615 {
        list.insert(0, (0x1_fbc0, 'A', "current_task".to_owned()));
    }
    let mut names = Vec::new();
    let mut markers = Vec::new();
    let mut offsets = Vec::new();
    for (i, (address, kind, name)) in list.iter().enumerate() {
        if i % 256 == 0 {
            markers.extend((names.len() as u32).to_le_bytes());
        }
        let text = format!("{kind}{name}");
        let length = text.len();
        if length < 0x80 {
            names.push(length as u8);
        } else {
            names.extend([0x80 | (length & 0x7f) as u8, (length >> 7) as u8]);
        }
        names.extend(text.bytes());
        let offset = match (order, address.checked_sub(base)) {
            (_, None) => *address as u32,
            (Tables::Since615, Some(up)) => up as u32,
            (_, Some(up)) => (-1 - up as i64) as u32,
        };
        offsets.extend(offset.to_le_bytes());
    }
    let tokens = (0..=255u8).map(|c| if c.is_ascii_graphic() { vec![c, 0] } else { vec![0] });
    let mut index = Vec::new();
    let mut table = Vec::new();
    for token in tokens {
        index.extend((table.len() as u16).to_le_bytes());
        table.extend(token);
    }
    let (count, base) = ((list.len() as u64).to_le_bytes().to_vec(), base.to_le_bytes().to_vec());
    let middle = [count, names, markers, table, index];
    let ends = [offsets, base];
    let parts: Vec<_> = match order {
        Tables::Before64 => ends.into_iter().chain(middle).collect(),
        _ => middle.into_iter().chain(ends).collect(),
    };
    parts.into_iter().fold(Vec::new(), |mut all, part| {
        all.extend(part);
        all.resize(all.len().next_multiple_of(8), 0);
        all
    })
}

/// Types in which every member of [`crate::layout::Layout`] exists, at an offset of its own.
pub fn btf() -> Vec<u8> {
    let mut btf = Btf::default();
    let byte = btf.record("unsigned char", 1, 0, 1, &[8]);
    let room = btf.array(byte, 128);
    let pointer = btf.array(byte, 8);
    for (strukt, members) in MEMBERS {
        // What other structs hold by value is kept small.
        let (stride, filler) = match *strukt {
            "path" | "qstr" | "vfsmount" => (8, pointer),
            _ => (128, room),
        };
        let mut own: Vec<(&str, u32)> = Vec::new();
        let mut nested: Vec<(&str, Vec<&str>)> = Vec::new();
        for names in *members {
            match names[0].split_once('.') {
                None => own.push((names[0], filler)),
                Some((outer, inner)) => match nested.iter_mut().find(|(name, _)| *name == outer) {
                    Some((_, list)) => list.push(inner),
                    None => nested.push((outer, vec![inner])),
                },
            }
        }
        for (outer, inner) in nested {
            let list: Vec<_> = inner.iter().map(|name| (*name, pointer)).collect();
            own.push((outer, btf.strukt("", 16, &list)));
        }
        btf.strukt(strukt, stride, &own);
    }
    btf.finish()
}

/// A writer of BTF, for types made by hand. Kinds and records: Documentation/bpf/btf.rst.
#[derive(Default)]
pub struct Btf {
    types: Vec<u8>,
    strings: Vec<u8>,
    count: u32,
}

impl Btf {
    fn string(&mut self, text: &str) -> u32 {
        if self.strings.is_empty() {
            self.strings.push(0);
        }
        if text.is_empty() {
            return 0;
        }
        let at = self.strings.len() as u32;
        self.strings.extend(text.bytes().chain([0]));
        at
    }

    /// A type of any kind: its name, kind, count of records (with the kind flag in bit 31), size or type, and records.
    pub fn record(&mut self, name: &str, kind: u32, vlen: u32, size_or_type: u32, words: &[u32]) -> u32 {
        let name = self.string(name);
        for word in [name, kind << 24 | vlen, size_or_type].iter().chain(words) {
            self.types.extend(word.to_le_bytes());
        }
        self.count += 1;
        self.count
    }

    /// An array.
    pub fn array(&mut self, element: u32, count: u32) -> u32 {
        self.record("", 3, 0, 0, &[element, element, count])
    }

    /// A struct whose members (name, type) lie `stride` bytes apart.
    pub fn strukt(&mut self, name: &str, stride: u32, members: &[(&str, u32)]) -> u32 {
        let mut words = Vec::new();
        for (i, (member, kind)) in members.iter().enumerate() {
            words.extend([self.string(member), *kind, i as u32 * stride * 8]);
        }
        self.record(name, 4, members.len() as u32, members.len() as u32 * stride, &words)
    }

    /// A function with these parameters (name, type).
    pub fn function(&mut self, name: &str, params: &[(&str, u32)]) -> u32 {
        let words: Vec<u32> = params.iter().flat_map(|(name, kind)| [self.string(name), *kind]).collect();
        let prototype = self.record("", 13, params.len() as u32, 0, &words);
        self.record(name, 12, 0, prototype, &[])
    }

    /// The section's bytes.
    pub fn finish(mut self) -> Vec<u8> {
        self.string("");
        let words = [24, 0, self.types.len() as u32, self.types.len() as u32, self.strings.len() as u32];
        let mut out = vec![0x9f, 0xeb, 1, 0];
        out.extend(words.iter().flat_map(|w: &u32| w.to_le_bytes()));
        out.extend(self.types);
        out.extend(self.strings);
        out
    }
}

/// A whole kernel file: banner and kallsyms in `.rodata`, types in `.BTF` (left out if `with_types` is false).
pub fn elf(order: Tables, with_types: bool) -> Vec<u8> {
    let mut rodata = b"Linux version 6.99.0-fake (lava@fake) #1 SMP\n\0".to_vec();
    rodata.resize(64, 0);
    rodata.extend(kallsyms(order));
    let names = b"\0.rodata\0.BTF\0.shstrtab\0".to_vec();
    let types = if with_types { btf() } else { Vec::new() };
    let sections = [(1u32, 1u32, RODATA, rodata), (9, 1, 0, types), (14, 3, 0, names)];
    const HEADERS: usize = 64 + 56;
    let mut body = vec![0; HEADERS];
    let mut table = vec![0; 64];
    for (name, kind, address, bytes) in sections.iter().filter(|s| !s.3.is_empty()) {
        body.resize(body.len().next_multiple_of(8), 0);
        table.extend([*name, *kind].iter().flat_map(|w| w.to_le_bytes()));
        let wide = [2, *address, body.len() as u64, bytes.len() as u64, 0, 8, 0];
        table.extend(wide.iter().flat_map(|w| w.to_le_bytes()));
        body.extend(bytes);
    }
    body.resize(body.len().next_multiple_of(8), 0);
    let section_count = (table.len() / 64) as u16;
    let mut header = b"\x7fELF\x02\x01\x01".to_vec();
    header.resize(16, 0);
    header.extend([2u16, 62].iter().flat_map(|w| w.to_le_bytes()));
    header.extend(1u32.to_le_bytes());
    header.extend([RODATA, 64, body.len() as u64].iter().flat_map(|w| w.to_le_bytes()));
    header.extend(0u32.to_le_bytes());
    header.extend([64u16, 56, 1, 64, section_count, section_count - 1].iter().flat_map(|w| w.to_le_bytes()));
    let (start, length) = (HEADERS as u64, sections[0].3.len() as u64);
    header.extend([1u32, 4].iter().flat_map(|w| w.to_le_bytes()));
    header.extend([start, RODATA, 0, length, length, 8].iter().flat_map(|w| w.to_le_bytes()));
    body[..HEADERS].copy_from_slice(&header);
    body.extend(table);
    body
}
