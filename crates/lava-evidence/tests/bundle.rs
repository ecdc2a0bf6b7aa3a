//! Bundles: written, read by tools that others wrote, changed in every way, and judged.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use lava_evidence::bundle::{self, BundleReport, PublicKey, Signer};
use lava_evidence::{Error, Session};
use proptest::prelude::*;
use tempfile::{TempDir, tempdir};

/// A session's folder, a key, and the bundle's bytes.
struct Made {
    folder: TempDir,
    session: Session,
    signer: Signer,
    bytes: Vec<u8>,
}

fn make() -> Made {
    let folder = tempdir().unwrap();
    let session = common::session(folder.path());
    let signer = Signer::create(&folder.path().join("evidence.key")).unwrap();
    let file = folder.path().join("s.lava.zip");
    bundle::write(&session, &signer, &file).unwrap();
    Made { session, signer, bytes: fs::read(&file).unwrap(), folder }
}

static MADE: LazyLock<Made> = LazyLock::new(make);

fn check_file(file: &Path, key: Option<&PublicKey>) -> Result<(BundleReport, Option<Session>), Error> {
    bundle::check(file, key)
}

/// What is wrong with these bytes, one line each; empty if nothing.
fn wrong(bytes: &[u8]) -> Vec<String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), bytes).unwrap();
    match check_file(file.path(), Some(MADE.signer.public())) {
        Ok((report, _)) => {
            let said: Vec<String> = report.problems.iter().map(ToString::to_string).collect();
            assert_eq!(report.intact(), said.is_empty(), "{said:?}");
            said
        }
        Err(error) => vec![error.to_string()],
    }
}

#[track_caller]
fn says(bytes: &[u8], expected: &[&str]) {
    let said = wrong(bytes);
    for expected in expected {
        assert!(said.iter().any(|line| line.starts_with(expected)), "{expected:?} is not in {said:#?}");
    }
}

/// Name, start and end of every part of the good bundle: a header with its content. Taken from the file itself, by sizes.
fn parts(bytes: &[u8]) -> Vec<(String, usize, usize)> {
    let number = |at: usize, n: usize| bytes[at..at + n].iter().rev().fold(0usize, |all, b| all << 8 | usize::from(*b));
    let (mut at, mut parts) = (0, Vec::new());
    while bytes[at..].starts_with(b"PK\x03\x04") {
        let (packed, name) = (number(at + 18, 4), number(at + 26, 2));
        let end = at + 30 + name + packed;
        parts.push((String::from_utf8(bytes[at + 30..at + 30 + name].to_vec()).unwrap(), at, end));
        at = end;
    }
    parts
}

fn part(name: &str) -> (usize, usize) {
    let (_, start, end) = parts(&MADE.bytes).into_iter().find(|(known, ..)| known == name).unwrap();
    (start, end)
}

#[test]
fn a_bundle_holds_the_whole_session() {
    let made = make();
    let file = made.folder.path().join("s.lava.zip");
    let (report, session) = check_file(&file, None).unwrap();
    assert!(report.intact(), "{:?}", report.problems);
    assert_eq!(report.signed.as_ref(), Some(made.signer.public()));
    assert_eq!(report.session, made.session.manifest().session);
    let session = session.unwrap();
    assert_eq!(session.manifest(), made.session.manifest());
    let events = |session: &Session| session.events().unwrap().map(Result::unwrap).collect::<Vec<_>>();
    assert_eq!(events(&session), events(&made.session));
    assert_eq!(session.findings().unwrap(), made.session.findings().unwrap());
    assert_eq!(session.trace().unwrap(), made.session.trace().unwrap());
    let after = lava_event::Artifact::new(&[0x33; 440]);
    assert_eq!(session.artifact(&after.sha256).unwrap().as_deref(), Some(&after.bytes[..]));
    let names: Vec<String> = parts(&made.bytes).into_iter().map(|(name, ..)| name).collect();
    assert_eq!(names[..2], ["SHA256SUMS", "SHA256SUMS.minisig"]);
    assert!(names.iter().any(|name| name == "manifest.json") && names[2..].is_sorted());
}

#[test]
fn the_same_session_gives_the_same_bytes_but_for_the_signature() {
    let made = make();
    let again = made.folder.path().join("again.zip");
    let written = bundle::write(&made.session, &made.signer, &again).unwrap();
    let again = fs::read(again).unwrap();
    assert_eq!(written.bytes, again.len() as u64);
    let (one, two) = (parts(&made.bytes), parts(&again));
    for (a, b) in one.iter().zip(&two).filter(|(a, _)| a.0 != "SHA256SUMS.minisig") {
        assert_eq!((a, &made.bytes[a.1..a.2]), (b, &again[b.1..b.2]));
    }
}

fn run(program: &str, folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new(program).current_dir(folder).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}; `cargo xtask setup` installs it"));
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    said
}

#[test]
fn others_tools_open_and_verify_it() {
    let made = make();
    let (folder, file) = (made.folder.path(), "s.lava.zip");
    run("unzip", folder, &["-t", file]);
    run("unzip", folder, &["-q", file, "-d", "out"]);
    run("7zz", folder, &["t", file]);
    let python =
        "import sys, zipfile; z = zipfile.ZipFile(sys.argv[1]); assert z.testzip() is None; print(len(z.namelist()))";
    let counted = run("python3", folder, &["-c", python, file]);
    assert_eq!(counted.trim().parse(), Ok(parts(&made.bytes).len()));
    let out = folder.join("out");
    let said = run("minisign", &out, &["-V", "-m", "SHA256SUMS", "-p", "../evidence.pub"]);
    assert!(said.contains("merkle-root") && said.contains("01JD0000000000000000000000"), "{said}");
    run("minisign", &out, &["-V", "-m", "SHA256SUMS", "-P", &made.signer.public().base64()]);
    run("sha256sum", &out, &["--check", "--strict", "--quiet", "SHA256SUMS"]);
    // What was unpacked by hand is a session like any other, and nothing in it can be executed.
    assert!(Session::open(&out).unwrap().verify_chain().unwrap().intact());
    let executable = run("find", &out, &[".", "-type", "f", "-perm", "/111"]);
    assert_eq!(executable, "");
    fs::write(out.join("trace.svg"), "changed").unwrap();
    let check = Command::new("sha256sum").current_dir(&out).args(["--check", "SHA256SUMS"]).output().unwrap();
    assert!(!check.status.success());
}

#[test]
fn keys_of_minisigns_own_sign_bundles() {
    let made = make();
    let folder = made.folder.path();
    run("minisign", folder, &["-G", "-W", "-p", "their.pub", "-s", "their.key"]);
    let signer = Signer::load(&folder.join("their.key")).unwrap();
    let file = folder.join("theirs.zip");
    bundle::write(&made.session, &signer, &file).unwrap();
    let key = PublicKey::load(folder.join("their.pub").to_str().unwrap()).unwrap();
    assert!(check_file(&file, Some(&key)).unwrap().0.intact());
    run("unzip", folder, &["-q", "theirs.zip", "SHA256SUMS*", "-d", "out"]);
    run("minisign", &folder.join("out"), &["-V", "-m", "SHA256SUMS", "-p", "../their.pub"]);
    let (report, _) = check_file(&file, Some(made.signer.public())).unwrap();
    assert!(!report.intact() && report.problems[0].to_string().contains("not signed with key"), "{report:?}");
}

/// The part that a position belongs to, as problems name it.
fn owner(at: usize) -> String {
    let found = parts(&MADE.bytes).into_iter().find(|(_, start, end)| (*start..*end).contains(&at));
    found.map_or("(file)".into(), |(name, ..)| name)
}

#[track_caller]
fn flipped(at: usize, mask: u8) {
    let mut bytes = MADE.bytes.clone();
    bytes[at] ^= mask;
    let said = wrong(&bytes);
    let owner = owner(at);
    // A change of the list or its signature makes nothing else worth saying; any other must be named, and nothing before it.
    let named = said
        .first()
        .is_some_and(|first| first.starts_with(&owner) || first.contains("SHA256SUMS") || first.contains("bundle"));
    let alone = owner.starts_with("SHA256SUMS") || said.iter().all(|line| !line.starts_with("SHA256SUMS"));
    assert!(named && alone, "byte {at} of {owner} ^ {mask:#x}: {said:#?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_flipped_byte_shows_and_is_named(at in 0..MADE.bytes.len(), mask in 1..=255u8) {
        flipped(at, mask);
    }

    #[test]
    fn a_cut_shows(at in 0..MADE.bytes.len()) {
        prop_assert!(!wrong(&MADE.bytes[..at]).is_empty());
        prop_assert!(!wrong(&MADE.bytes[MADE.bytes.len() - at..]).is_empty());
    }

    #[test]
    fn bytes_put_in_or_taken_out_show(at in 0..MADE.bytes.len(), n in 1..300usize, put in any::<bool>()) {
        let mut bytes = MADE.bytes.clone();
        let end = (at + n).min(bytes.len());
        if put { bytes.splice(at..at, vec![b'P'; n]); } else { bytes.drain(at..end); }
        prop_assert!(!wrong(&bytes).is_empty());
    }
}

#[test]
fn every_byte_of_headers_and_directory_counts() {
    let parts = parts(&MADE.bytes);
    let directory = parts.last().unwrap().2;
    let headers = parts.iter().flat_map(|(name, start, _)| *start..*start + 30 + name.len());
    headers.chain(directory..MADE.bytes.len()).for_each(|at| flipped(at, 1));
}

#[test]
fn what_was_done_is_said() {
    let good = &MADE.bytes;
    assert_eq!(wrong(good), [""; 0]);
    let (chain, events) = (part("chain.txt"), part("events.jsonl"));
    let directory = part("trace.svg").1;

    says(
        &good[..events.0 + 500],
        &["events.jsonl: was cut: the file ends", "trace.svg: is missing", "(file): the directory at the end is cut"],
    );
    says(&good[..good.len() - 5], &["(file): the directory at the end is cut: 5 bytes"]);
    says(&[good, &b"more"[..]].concat(), &["(file): 4 bytes stand behind the bundle's end"]);
    says(&[&b"\x7fELF"[..], good].concat(), &["SHA256SUMS: 4 bytes stand before the bundle"]);
    // Two whole archives in one file: a lenient reader takes the last directory, another the first.
    says(&[&good[..], &good[..]].concat(), &[&format!("(file): {} bytes stand behind", good.len())]);

    let without = [&good[..chain.0], &good[chain.1..]].concat();
    says(&without, &["chain.txt: is missing"]);
    let twice = [&good[..chain.1], &good[chain.0..]].concat();
    says(&twice, &["chain.txt: is there twice: again at byte"]);
    let moved = [&good[..chain.0], &good[chain.1..directory], &good[chain.0..chain.1], &good[directory..]].concat();
    says(&moved, &["chain.txt: was reordered: it stands behind trace.svg"]);
    assert_eq!(wrong(&moved).len(), 1);
    let mut renamed = good.clone();
    let at = directory + 46 + 3;
    renamed[at] ^= 1;
    says(&renamed, &[&format!("(file): the directory at the end is not as it was written, from byte {at} on")]);
    let taken = [&good[..events.0 + 400], &good[events.0 + 450..]].concat();
    says(&taken, &["events.jsonl: was changed: 50 bytes were cut out of it"]);
    let put = [&good[..events.0 + 400], &[b'x'; 50], &good[events.0 + 400..]].concat();
    says(&put, &["events.jsonl: was changed: 50 bytes were put into it"]);

    // A member of somebody else's, with a name that leads out of the folder.
    let mut added = good[chain.0..chain.1].to_vec();
    added[30..39].copy_from_slice(b"../../bad");
    added[60] ^= 1;
    let with = [&good[..chain.0], &added, &good[chain.0..]].concat();
    says(&with, &["../../bad: was added:"]);
    let between = [&good[..chain.0], &b"hidden"[..], &good[chain.0..]].concat();
    says(&between, &[&format!("(file): 6 bytes at byte {} belong to no member", chain.0)]);
    // Several changes: each is said.
    let mut several = without.clone();
    several[events.0 - (chain.1 - chain.0) + 200] ^= 4;
    says(&several, &["chain.txt: is missing", "events.jsonl: was changed"]);
}

#[test]
fn the_event_is_named_where_the_chain_breaks() {
    let (start, end) = part("events.jsonl");
    let mut bytes = MADE.bytes.clone();
    // Deep in the log: what stands before can still be read, and is as it was sealed.
    bytes[start + (end - start) * 9 / 10] ^= 0x10;
    let said = wrong(&bytes);
    let line = said.iter().find_map(|line| line.strip_prefix("events.jsonl, line ")).expect("a line is named");
    let number: u64 = line.split(':').next().unwrap().parse().unwrap();
    assert!((2..=13).contains(&number), "{said:?}");
}

#[test]
fn what_is_no_bundle_is_an_error() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("x");
    for bytes in [&b""[..], b"PK\x03\x04", &[0; 5000], b"#lava-bundle 1\n"] {
        fs::write(&file, bytes).unwrap();
        assert!(matches!(check_file(&file, None), Err(Error::Malformed { .. })));
    }
    assert!(check_file(folder.path(), None).is_err(), "a folder");
    assert!(check_file(Path::new("/dev/zero"), None).is_err(), "a device");
}

#[test]
fn a_changed_session_is_not_signed() {
    let made = make();
    let log = made.session.dir().join("events.jsonl");
    let text = fs::read_to_string(&log).unwrap();
    fs::write(&log, text.replacen("firefox", "chromex", 1)).unwrap();
    let refused = bundle::write(&made.session, &made.signer, &made.folder.path().join("no.zip"));
    assert!(matches!(refused, Err(Error::Tampered { .. })), "{refused:?}");
    assert!(!made.folder.path().join("no.zip").exists());
}

#[test]
fn evidence_is_never_written_over_and_odd_files_are_told() {
    let made = make();
    let out = made.folder.path().join("s.lava.zip");
    assert!(matches!(bundle::write(&made.session, &made.signer, &out), Err(Error::Exists(_))));
    let dir = made.session.dir();
    std::os::unix::fs::symlink("/etc/passwd", dir.join("link")).unwrap();
    fs::write(dir.join("vda.overlay"), "x").unwrap();
    fs::write(dir.join("odd name"), "x").unwrap();
    let written = bundle::write(&made.session, &made.signer, &made.folder.path().join("b.zip")).unwrap();
    assert_eq!(written.left_out, ["link", "odd name"]);
}

#[test]
fn a_session_that_was_interrupted_is_bundled_as_it_is() {
    let folder = tempdir().unwrap();
    let dir: PathBuf = common::writer(folder.path()).dir().into();
    let signer = Signer::create(&folder.path().join("k")).unwrap();
    let file = folder.path().join("b.zip");
    bundle::write(&Session::open(&dir).unwrap(), &signer, &file).unwrap();
    let (report, _) = check_file(&file, None).unwrap();
    assert!(report.intact() && report.problems.len() == 1, "{:?}", report.problems);
}
