//! What the tests share: a disk with everything watched on it, an outlet that answers as told, an NBD client of our own.
#![allow(dead_code, unreachable_pub)] // Each test file uses its part.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use lava_disk::{DiskConfig, DiskServer};
use lava_event::{Action, DiskRegion, Event, Kind, Outlet, Produced};
use tempfile::TempDir;

pub const SIZE: u64 = 8 << 20;
/// Where the only partition begins, bytes.
pub const PARTITION: u64 = 1 << 20;

/// Answers by region, remembers everything.
#[derive(Default)]
pub struct Fake {
    pub now: AtomicU64,
    pub answers: Mutex<BTreeMap<DiskRegion, Action>>,
    pub asked: Mutex<Vec<Produced>>,
    pub emitted: Mutex<Vec<Produced>>,
    pub settled: Mutex<Vec<(Event, Action, String)>>,
}

pub fn region(event: &Event) -> DiskRegion {
    let Kind::DiskWrite { region, .. } = event.kind else { panic!("no disk.write: {event:?}") };
    region
}

impl Outlet for Fake {
    fn now_ns(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }

    fn emit(&self, produced: Produced) {
        self.emitted.lock().unwrap().push(produced);
    }

    fn ask(&self, produced: Produced) -> Action {
        let action = self.answers.lock().unwrap().get(&region(&produced.event)).copied().unwrap_or(Action::Allow);
        self.asked.lock().unwrap().push(produced);
        action
    }

    fn settle(&self, event: &Event, action: Action, outcome: &str) {
        self.settled.lock().unwrap().push((event.clone(), action, outcome.to_owned()));
    }
}

pub struct Setup {
    pub folder: TempDir,
    pub outlet: Arc<Fake>,
    pub server: DiskServer,
    pub base: Vec<u8>,
}

/// 8 MiB, no two sectors the same, an MBR with one partition at 1 MiB.
pub fn image() -> Vec<u8> {
    let mut base: Vec<u8> = (0..SIZE).map(|at| (at / 512 * 7 + at % 509) as u8).collect();
    base[446..510].fill(0);
    base[450] = 0x83;
    base[454..458].copy_from_slice(&2048u32.to_le_bytes());
    base[458..462].copy_from_slice(&8192u32.to_le_bytes());
    base[510..512].copy_from_slice(&[0x55, 0xaa]);
    base
}

pub fn config(folder: &Path) -> DiskConfig {
    DiskConfig {
        name: "vda".to_owned(),
        layer: None,
        kept: None,
        base: folder.join("base"),
        overlay: folder.join("overlay"),
        socket: folder.join("socket"),
    }
}

pub fn setup(answers: &[(DiskRegion, Action)]) -> Setup {
    let folder = tempfile::tempdir().unwrap();
    let base = image();
    std::fs::write(folder.path().join("base"), &base).unwrap();
    let outlet = Arc::new(Fake::default());
    outlet.answers.lock().unwrap().extend(answers.iter().copied());
    let server = DiskServer::start(config(folder.path()), outlet.clone()).unwrap();
    Setup { folder, outlet, server, base }
}

impl Setup {
    pub fn client(&self) -> Client {
        Client::connect(&self.folder.path().join("socket"))
    }

    /// Through the view.
    pub fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        self.server.view().read_at(offset, len).unwrap()
    }

    pub fn uri(&self) -> String {
        format!("nbd+unix:///?socket={}", self.folder.path().join("socket").display())
    }

    pub fn assert_base_untouched(&self) {
        assert!(std::fs::read(self.folder.path().join("base")).unwrap() == self.base, "the base was written");
    }
}

/// Runs one of QEMU's tools.
pub fn tool(name: &str, arguments: &[&str]) -> Output {
    match Command::new(name).args(arguments).output() {
        Ok(output) => output,
        Err(error) => panic!("{name} cannot be run ({error}): run `cargo xtask setup`"),
    }
}

/// As [`tool`]; it must succeed. Gives its standard output.
pub fn tool_ok(name: &str, arguments: &[&str]) -> String {
    let output = tool(name, arguments);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{name} {arguments:?}: {text} {}", String::from_utf8_lossy(&output.stderr));
    text
}

pub const READ: u16 = 0;
pub const WRITE: u16 = 1;
pub const DISC: u16 = 2;
pub const FLUSH: u16 = 3;
pub const TRIM: u16 = 4;
pub const WRITE_ZEROES: u16 = 6;

/// A plain NBD client: the errors are the protocol's numbers.
pub struct Client(pub UnixStream);

impl Client {
    pub fn connect(socket: &Path) -> Self {
        let mut stream = UnixStream::connect(socket).unwrap();
        let mut hello = [0; 18];
        stream.read_exact(&mut hello).unwrap();
        stream.write_all(&3u32.to_be_bytes()).unwrap();
        stream.write_all(&[&b"IHAVEOPT"[..], &1u32.to_be_bytes(), &0u32.to_be_bytes()].concat()).unwrap();
        let mut export = [0; 10];
        stream.read_exact(&mut export).unwrap();
        Self(stream)
    }

    pub fn send(&mut self, command: u16, offset: u64, len: u32, payload: &[u8]) {
        self.0.write_all(&request(command, 77, offset, len)).unwrap();
        self.0.write_all(payload).unwrap();
    }

    pub fn reply(&mut self) -> Result<(), u32> {
        let mut reply = [0; 16];
        self.0.read_exact(&mut reply).unwrap();
        assert_eq!(reply[..4], 0x6744_6698_u32.to_be_bytes());
        match u32::from_be_bytes(reply[4..8].try_into().unwrap()) {
            0 => Ok(()),
            error => Err(error),
        }
    }

    pub fn command(&mut self, command: u16, offset: u64, len: u32) -> Result<(), u32> {
        self.send(command, offset, len, &[]);
        self.reply()
    }

    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), u32> {
        self.send(WRITE, offset, bytes.len() as u32, bytes);
        self.reply()
    }

    pub fn read(&mut self, offset: u64, len: usize) -> Result<Vec<u8>, u32> {
        self.command(READ, offset, len as u32)?;
        let mut bytes = vec![0; len];
        self.0.read_exact(&mut bytes).unwrap();
        Ok(bytes)
    }
}

pub fn request(command: u16, cookie: u64, offset: u64, len: u32) -> Vec<u8> {
    let mut header = 0x2560_9513_u32.to_be_bytes().to_vec();
    header.extend(0u16.to_be_bytes());
    header.extend(command.to_be_bytes());
    header.extend(cookie.to_be_bytes());
    header.extend(offset.to_be_bytes());
    header.extend(len.to_be_bytes());
    header
}
