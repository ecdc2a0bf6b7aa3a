//! `lava doctor`: what of the host is ready, what is missing, how to fix it.

use std::path::Path;

use anyhow::Result;
use lava_microvisor::machine::Swept;

use crate::{CLEAN, FAILED, image, places};

/// Memory a micro-VM takes with the shipped profiles, MiB.
const MEMORY_MIB: u64 = 1024;
/// Room for a session and its overlay, MiB.
const DISK_MIB: u64 = 2048;

/// Prints a line per check; returns the exit code.
pub fn run(swept: &[Swept]) -> Result<u8> {
    let checks = [
        ("QEMU >= 9.2", qemu()),
        ("tap", places::tap().map(|path| path.display().to_string())),
        ("guest image", image()),
        ("memory for a micro-VM", room(Path::new("/dev/shm"), MEMORY_MIB)),
        ("room for sessions", sessions()),
        ("cage", lava_microvisor::qemu::check_cage().map_err(Into::into)),
        ("limits", Ok(lava_microvisor::qemu::check_limits())),
        ("way to the real network", passt()),
        ("left behind", left_behind(swept)),
    ];
    let mut ready = true;
    for (name, check) in checks {
        match check {
            Ok(detail) => println!("ok       {name}: {detail}"),
            Err(error) => {
                ready = false;
                println!("MISSING  {name}: {error:#}");
            }
        }
    }
    println!("{}", if ready { "This host is ready." } else { "`cargo xtask setup` installs what is missing." });
    Ok(if ready { CLEAN } else { FAILED })
}

fn left_behind(swept: &[Swept]) -> Result<String> {
    let problems: Vec<&str> = swept.iter().filter_map(|swept| swept.problem.as_deref()).collect();
    if !problems.is_empty() {
        anyhow::bail!("remove by hand what a killed session left: {}", problems.join("; "));
    }
    Ok(match swept.len() {
        0 => "nothing".to_owned(),
        count => format!("what {count} killed session(s) had left was removed now"),
    })
}

fn qemu() -> Result<String> {
    let qemu = lava_microvisor::qemu::find()?;
    Ok(format!("{} ({})", qemu.version, qemu.path.display()))
}

fn passt() -> Result<String> {
    let path = lava_microvisor::passt::find()?;
    let resolver = match lava_microvisor::passt::resolver() {
        Ok(resolver) => format!("names go to {resolver}"),
        Err(error) => format!("not usable: {error}"),
    };
    Ok(format!("passt ({}), {resolver}; only for `lava run --net egress`", path.display()))
}

fn image() -> Result<String> {
    Ok(image::find(places::ORDINARY)?.1.dir.display().to_string())
}

fn sessions() -> Result<String> {
    let wanted = places::sessions(None)?;
    // The folder is made by the first session: look at the nearest one that exists.
    let there = wanted.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
    room(there, DISK_MIB)
}

fn room(folder: &Path, needed_mib: u64) -> Result<String> {
    let facts = rustix::fs::statvfs(folder)?;
    let free = facts.f_bavail.saturating_mul(facts.f_frsize) >> 20;
    if free < needed_mib {
        anyhow::bail!("{} has {free} MiB free, {needed_mib} are needed", folder.display());
    }
    Ok(format!("{free} MiB free in {}", folder.display()))
}
