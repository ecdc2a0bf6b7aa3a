//! Assembles the boot sector; the dropper embeds it.

use std::path::{Path, PathBuf};
use std::process::Command;

/// What lies behind it in the first sector belongs to the disk.
const LIMIT: u64 = 440;
/// Where the code moves itself; ../boot/boot.S.
const ADDRESS: &str = "0x600";

fn main() {
    let source = "../boot/boot.S";
    println!("cargo::rerun-if-changed={source}");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let (object, binary) = (out.join("boot.o"), out.join("boot.bin"));
    run(Command::new("as").args(["--32", "-o"]).arg(&object).arg(source));
    run(Command::new("ld")
        .args(["-m", "elf_i386", "-Ttext", ADDRESS, "--oformat", "binary", "-o"])
        .args([&binary, &object]));
    let length = length(&binary);
    assert!((1..=LIMIT).contains(&length), "the boot code has {length} bytes, at most {LIMIT} fit");
}

fn length(path: &Path) -> u64 {
    std::fs::metadata(path).expect("ld made a file").len()
}

fn run(command: &mut Command) {
    let program = command.get_program().to_owned();
    match command.status() {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("{}: {status}", program.display()),
        Err(error) => panic!("{}: {error}; `cargo xtask setup` installs what is missing", program.display()),
    }
}
