//! `cargo xtask setup`: what the host needs from Debian.
//!
//! Lists what it will install before it does, does nothing that is done already, and asks nothing.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::shell;

/// Packages with what they are for. A JDK is chosen by release: Debian 12 has 17, Debian 13 has 21.
const PACKAGES: &[(&str, &str)] = &[
    ("gcc", "links Rust programs; builds the scenario's boot sector"),
    ("g++", "compiles libFuzzer for the fuzz targets"),
    ("libc6-dev", "links Rust programs, static ones for the guest"),
    ("binutils", "assembles the scenario's boot sector"),
    ("qemu-utils", "the disk's tests use qemu-img and qemu-io as clients"),
    ("mmdebstrap", "builds the guest image"),
    ("uidmap", "builds the guest image without root"),
    ("e2fsprogs", "makes and edits the guest's file systems"),
    ("fdisk", "partitions the guest's disk"),
    ("bubblewrap", "makes the cage that QEMU runs in"),
    ("util-linux", "setpriv demotes QEMU to an unprivileged user"),
    ("passt", "is the way to the real network, for `lava run --net egress`"),
    ("iproute2", "makes the network that tests of it reach"),
    ("tshark", "judges the network's captures in tests"),
    ("default-jdk-headless", "compiles the scenario's applet"),
    ("python3", "helps the tests"),
    ("7zip", "makes the archives that tests open"),
    ("python3-reportlab", "makes the PDF documents that tests open"),
    ("minisign", "judges the signatures of bundles in tests"),
    ("unzip", "opens bundles in tests"),
    ("nftables", "judges block lists in tests"),
    ("suricata", "judges network rules in tests"),
    ("nodejs", "builds the console's page"),
    ("npm", "fetches what the page is made of"),
    ("chromium", "shows the console's page in tests"),
    ("python3-venv", "holds the validators of exports in tests"),
    ("graphviz", "judges exported graphs in tests"),
    ("poppler-utils", "pdftotext judges exported reports in tests"),
];

/// The package of QEMU, and where Debian 12 has a new enough one.
const QEMU: &str = "qemu-system-x86";
const BACKPORTS: &str = "bookworm-backports";
/// Packages that Debian 12 has in backports only, and what they depend on there.
const BACKPORTED: [&str; 2] = ["suricata", "libhtp2"];
/// Oldest QEMU with plugin API 4.
const OLDEST_QEMU: (u32, u32) = (9, 2);

/// Installs what is missing.
pub fn run() -> Result<()> {
    if !Path::new("/etc/debian_version").exists() {
        bail!(
            "this is no Debian; install by hand: QEMU >= 9.2 and {}",
            PACKAGES.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
        );
    }
    let mut missing: Vec<&str> = PACKAGES.iter().map(|(name, _)| *name).filter(|name| !is_there(name)).collect();
    let qemu = !qemu_is_new_enough();
    if missing.is_empty() && !qemu {
        return Ok(());
    }
    eprintln!("xtask: these Debian packages are missing and will be installed:");
    for (name, purpose) in PACKAGES.iter().filter(|(name, _)| missing.contains(name)) {
        eprintln!("  {name:<22} {purpose}");
    }
    let bookworm = std::fs::read_to_string("/etc/os-release").unwrap_or_default().contains("VERSION_CODENAME=bookworm");
    if qemu {
        let from = if bookworm { BACKPORTS } else { "Debian" };
        eprintln!("  {QEMU:<22} runs the micro-VMs (>= 9.2, from {from})");
    }
    let suricata = missing.contains(&"suricata");
    if (qemu || suricata) && bookworm {
        add_backports()?;
    }
    apt(&["update", "-q"])?;
    if qemu {
        let mut arguments = vec!["install", "-y", "-q", "--no-install-recommends"];
        if bookworm {
            arguments.extend(["-t", BACKPORTS]);
            // The tools come from the same source, or apt would have to mix two versions.
            missing.retain(|name| *name != "qemu-utils");
            arguments.push("qemu-utils");
        }
        arguments.push(QEMU);
        apt(&arguments)?;
    }
    if suricata && bookworm {
        missing.retain(|name| *name != "suricata");
        let install = ["install", "-y", "-q", "--no-install-recommends", "-t", BACKPORTS];
        apt(&[&install[..], &BACKPORTED].concat())?;
    }
    if !missing.is_empty() {
        apt(&[&["install", "-y", "-q", "--no-install-recommends"], missing.as_slice()].concat())?;
    }
    if suricata {
        stop_suricata()?;
    }
    if !qemu_is_new_enough() {
        bail!("QEMU is still missing or older than 9.2 after the installation: see `apt-cache policy {QEMU}`");
    }
    Ok(())
}

/// Its package starts a service that listens on the host's network: tests need the program only.
fn stop_suricata() -> Result<()> {
    if !Path::new("/run/systemd/system").exists() {
        return Ok(());
    }
    shell::run("stop the suricata service", as_root("systemctl", &["disable", "--now", "suricata"])?)
}

fn is_there(package: &str) -> bool {
    // Another source than Debian serves as well: any JDK, and Node.js which brings its own npm.
    let program = match package {
        "default-jdk-headless" => Some(("javac", "-version")),
        "nodejs" => Some(("node", "--version")),
        "npm" => Some(("npm", "--version")),
        _ => None,
    };
    if program.is_some_and(|(name, version)| Command::new(name).arg(version).output().is_ok()) {
        return true;
    }
    let asked = Command::new("dpkg-query").args(["-W", "-f", "${db:Status-Status}", package]).output();
    asked.is_ok_and(|output| output.stdout == b"installed")
}

fn qemu_is_new_enough() -> bool {
    let Ok(output) = Command::new("qemu-system-x86_64").arg("--version").output() else { return false };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut numbers = text.split("version ").nth(1).unwrap_or_default().split('.');
    let mut number = || numbers.next().and_then(|word| word.parse::<u32>().ok()).unwrap_or(0);
    (number(), number()) >= OLDEST_QEMU
}

/// Makes backports known to apt, unless they are. Uses the mirror that the host uses.
fn add_backports() -> Result<()> {
    let known = shell::output(shell::command("apt-get", ["indextargets", "--format", "$(SUITE) $(CODENAME)"]))?;
    if known.contains(BACKPORTS) {
        return Ok(());
    }
    let mirrors =
        shell::output(shell::command("apt-get", ["indextargets", "--format", "$(SITE) $(CODENAME) $(REPO_URI)"]))?;
    let mirror = mirrors
        .lines()
        .filter_map(|line| line.split(' ').nth_back(0).filter(|_| line.contains(" bookworm ")))
        .find(|uri| uri.trim_end_matches('/').ends_with("/debian"))
        .unwrap_or("http://deb.debian.org/debian");
    let list = format!("deb {mirror} {BACKPORTS} main\n");
    let file = "/etc/apt/sources.list.d/lava-backports.list";
    eprintln!("xtask: adding {file}: {}", list.trim());
    let quoted = format!("printf '%s' '{list}' > {file}");
    shell::run("add backports", as_root("sh", &["-c", &quoted])?)
}

fn apt(arguments: &[&str]) -> Result<()> {
    let mut command = as_root("env", &[&["DEBIAN_FRONTEND=noninteractive", "apt-get"], arguments].concat())?;
    command.stdin(std::process::Stdio::null());
    shell::run(&format!("apt-get {}", arguments.join(" ")), command)
}

/// A command as root: as it is, or through sudo.
fn as_root(program: &str, arguments: &[&str]) -> Result<Command> {
    let uid = shell::output(shell::command("id", ["-u"])).context("who am I?")?;
    if uid.trim() == "0" {
        return Ok(shell::command(program, arguments));
    }
    if Command::new("sudo").arg("-V").output().is_err() {
        bail!("not root, and there is no sudo: run `cargo xtask setup` as root once");
    }
    Ok(shell::command("sudo", [&[program], arguments].concat()))
}
