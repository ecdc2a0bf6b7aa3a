//! Bundles from anybody: no panic; one that is not byte for byte what was signed is not called intact.
#![no_main]

use std::path::PathBuf;
use std::sync::OnceLock;

use lava_event::{Event, Kind, Produced, SessionId, Source};
use lava_evidence::bundle::{self, PublicKey, Signer};
use lava_evidence::{Manifest, Session, SessionWriter, TaskFacts};
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

struct Good {
    folder: TempDir,
    bytes: Vec<u8>,
    key: PublicKey,
}

static GOOD: OnceLock<Good> = OnceLock::new();

fn good() -> Good {
    let folder = tempfile::tempdir_in("/dev/shm").expect("a folder in memory");
    let id = SessionId("01FUZZ".into());
    let manifest = Manifest::new(id.clone(), "0", TaskFacts::default(), "script", "2026-01-01T00:00:00Z");
    let mut writer = SessionWriter::create(folder.path(), &id, manifest).expect("a session");
    for seq in 1..20 {
        let kind = Kind::VmStarted { qemu: format!("{seq}"), kernel: "6.1".into() };
        let event = Event { seq, ..Event::new(seq, Source::Microvisor, kind) };
        writer.event(&Produced { event, artifacts: Vec::new() }).expect("an event");
    }
    let session = Session::open(writer.dir()).expect("it is there");
    let signer = Signer::create(&folder.path().join("k")).expect("a key");
    let file = folder.path().join("good");
    bundle::write(&session, &signer, &file).expect("a bundle");
    Good { bytes: std::fs::read(file).expect("it is there"), key: signer.public().clone(), folder }
}

fn intact(good: &Good, bytes: &[u8]) -> bool {
    let file: PathBuf = good.folder.path().join("case");
    std::fs::write(&file, bytes).expect("there is room");
    bundle::check(&file, Some(&good.key)).is_ok_and(|(report, _)| report.intact())
}

fuzz_target!(|data: &[u8]| {
    let good = GOOD.get_or_init(good);
    assert!(!intact(good, data));
    // Pieces of the good one, moved, cut and written over as the data says.
    let mut bytes = good.bytes.clone();
    for patch in data.chunks_exact(8) {
        if bytes.is_empty() {
            break;
        }
        let number = |at: usize| usize::from(u16::from_le_bytes([patch[at], patch[at + 1]]));
        let (from, to, len) = (number(1) % bytes.len(), number(3) % bytes.len(), number(5) % 2048);
        let piece = bytes[from..bytes.len().min(from + len)].to_vec();
        match patch[0] % 4 {
            0 => bytes[from] = patch[7],
            1 => drop(bytes.drain(from..from + piece.len())),
            2 => drop(bytes.splice(to..to, piece)),
            _ => bytes.truncate(from),
        }
    }
    assert_eq!(intact(good, &bytes), bytes == good.bytes);
});
