//! Where a kernel function returns to: the addresses behind the calls to it.
//!
//! A hook at a function's entry sees what was asked; whether it succeeded is known when it returns. The addresses it can
//! return to are found in the kernel's own code: behind each direct `call` to it, and behind the calls to functions that end in a
//! jump to it (tail calls).
//!
//! Code is scanned for the bytes of a call, not disassembled: an address found within another instruction does no harm,
//! because nothing ever executes from it.
//!
//! Limits: calls through pointers and calls from modules are not found; a caller learns that from the return address on the
//! stack, which is then none of these.

use std::collections::{BTreeMap, BTreeSet};

use crate::elf::Elf;
use crate::kallsyms::Symbols;

/// `call rel32`
const CALL: u8 = 0xe8;
/// `jmp rel32`
const JUMP: u8 = 0xe9;
/// Both are an opcode and four bytes.
const LENGTH: usize = 5;
/// How many functions may hand a call on by jumping.
const MAX_TAILS: usize = 4;

/// For each of `functions` (link addresses): the addresses it returns to, in a kernel's ELF file. Nothing for a file without code.
pub fn return_addresses(elf: &[u8], symbols: &Symbols, functions: &[u64]) -> BTreeMap<u64, BTreeSet<u64>> {
    let text = Elf::parse(elf).ok().and_then(|elf| elf.section_at(".text")).unwrap_or_default();
    scan(text, symbols, functions)
}

fn scan((base, text): (u64, &[u8]), symbols: &Symbols, functions: &[u64]) -> BTreeMap<u64, BTreeSet<u64>> {
    let mut found: BTreeMap<u64, BTreeSet<u64>> = functions.iter().map(|&f| (f, BTreeSet::new())).collect();
    // Who stands for whom: a function, and those that end in a jump to it.
    let mut stands_for: BTreeMap<u64, BTreeSet<u64>> = functions.iter().map(|&f| (f, [f].into())).collect();
    let mut targets: BTreeSet<u64> = functions.iter().copied().collect();
    for _ in 0..MAX_TAILS {
        let mut jumpers: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
        for at in memchr::memchr2_iter(CALL, JUMP, text) {
            let Some(relative) = text.get(at + 1..).and_then(|rest| rest.first_chunk::<4>()) else { continue };
            let behind = base.wrapping_add((at + LENGTH) as u64);
            let target = behind.wrapping_add(i64::from(i32::from_le_bytes(*relative)) as u64);
            if !targets.contains(&target) {
                continue;
            }
            let Some(originals) = stands_for.get(&target) else { continue };
            if text[at] == CALL {
                originals.iter().filter_map(|f| found.get_mut(f).map(|sites| sites.insert(behind))).for_each(drop);
            } else if let Some(jumper) = function(symbols, behind - LENGTH as u64).filter(|&f| f != target) {
                jumpers.entry(jumper).or_default().extend(originals);
            }
        }
        // A jumper that is known already with all it stands for has had its calls looked at.
        jumpers.retain(|f, new| stands_for.get(f).is_none_or(|known| !new.is_subset(known)));
        if jumpers.is_empty() {
            break;
        }
        targets = jumpers.keys().copied().collect();
        for (f, new) in jumpers {
            stands_for.entry(f).or_default().extend(new);
        }
    }
    found
}

/// The beginning of the function that holds `address`.
fn function(symbols: &Symbols, address: u64) -> Option<u64> {
    symbols.lookup(address).map(|(_, into)| address - into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_and_tail_calls() {
        // 0: call 40; 10 (f): jmp 40; 20: call 10; 30: call 20 (nobody's business); 40: the function.
        let mut text = vec![0x90; 0x50];
        let mut put = |at: usize, opcode: u8, to: i32| {
            text[at] = opcode;
            text[at + 1..at + 5].copy_from_slice(&(to - (at as i32 + 5)).to_le_bytes());
        };
        put(0, CALL, 0x40);
        put(0x12, JUMP, 0x40);
        put(0x20, CALL, 0x10);
        put(0x30, CALL, 0x20);
        let base = 0xffff_ffff_8100_0000;
        let symbols = Symbols::from_list(
            [0, 0x10, 0x20, 0x30, 0x40].map(|at| (base + at, 't', ["a", "f", "g", "h", "target"][at as usize / 16])),
        );
        let found = scan((base, &text), &symbols, &[base + 0x40, 0]);
        assert_eq!(found[&(base + 0x40)], [base + 5, base + 0x25].into());
        assert!(found[&0].is_empty());
        assert!(return_addresses(b"junk", &symbols, &[1])[&1].is_empty());
    }
}
