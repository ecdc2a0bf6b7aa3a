//! A session followed while it is written, its lines sent over real sockets and read by the exports' validators.

#[allow(dead_code)]
mod common;

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use lava_analysis::Analysis;
use lava_event::{Finding, Grade, Produced, SessionId, Severity, Sha256, Stage, Technique};
use lava_evidence::{Manifest, Outcome, Session, SessionWriter, State, TaskFacts};
use lava_export::{Error, Follower, Format, Framing, Scope, Step, Target, TlsFiles, export};

const LINES: [Format; 4] = [Format::Ecs, Format::Ocsf, Format::Cef, Format::Syslog];
/// For what must not happen: a test waits no longer.
const PATIENCE: Duration = Duration::from_secs(30);

fn exported(session: &Session, format: Format, scope: Scope) -> Vec<String> {
    let mut out = Vec::new();
    export(session, format, scope, &mut out).unwrap();
    String::from_utf8(out).unwrap().lines().map(str::to_owned).collect()
}

fn step(follower: &mut Follower<'_>, lines: &mut Vec<String>) -> Step {
    follower
        .step(&mut |line| {
            lines.push(line.to_owned());
            Ok(())
        })
        .unwrap()
}

/// To the end. Another test that starts a program shares the log's lock with it for a moment: a session that was closed may seem to run.
fn to_the_end(follower: &mut Follower<'_>, send: &mut dyn FnMut(&str) -> Result<(), Error>) {
    while follower.step(send).unwrap() == Step::Waiting {
        thread::yield_now();
    }
}

#[test]
fn a_session_that_has_ended_is_followed_as_it_is_exported() {
    let (_folder, session) = common::record("evil.jar", &common::attack());
    for format in LINES {
        for scope in [Scope::Task, Scope::All] {
            let mut lines = Vec::new();
            let mut follower = Follower::open(&session, format, scope).unwrap();
            to_the_end(&mut follower, &mut |line| {
                lines.push(line.to_owned());
                Ok(())
            });
            assert_eq!(lines, exported(&session, format, scope), "{}", format.name());
        }
    }
    assert!(matches!(Follower::open(&session, Format::Stix, Scope::Task), Err(Error::NoLines("stix"))));
}

/// A session that is being written, and its writer.
struct Live {
    folder: tempfile::TempDir,
    id: SessionId,
    writer: SessionWriter,
    analysis: Analysis,
}

impl Live {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let id = SessionId("01M88QMT0DFH6PE5AV4DAJ3987".into());
        let task = TaskFacts { name: "evil.jar".into(), sha256: Sha256::of(b"task"), size: 4 };
        let manifest = Manifest::new(id.clone(), "0.1.0", task, "applet", "2026-11-25T06:52:44.429224634Z");
        let writer = SessionWriter::create(folder.path(), &id, manifest).unwrap();
        Self { folder, id, writer, analysis: Analysis::new() }
    }

    fn write(&mut self, events: &[lava_event::Event]) {
        for event in events {
            self.writer.event(&Produced { event: event.clone(), artifacts: vec![] }).unwrap();
            for finding in self.analysis.observe(event).findings {
                self.writer.finding(&finding).unwrap();
            }
        }
    }

    fn session(&self) -> Session {
        Session::open(&self.folder.path().join(&self.id.0)).unwrap()
    }

    fn close(self) -> (tempfile::TempDir, Session) {
        let outcome =
            Outcome { state: State::Closed, ended: "2026-11-25T06:53:07.275368918Z".into(), ..Outcome::default() };
        (self.folder, self.writer.close(&self.analysis.graph().trace(), outcome).unwrap())
    }
}

fn about(events: &[lava_event::Event]) -> Finding {
    Finding {
        detector: "test.all".into(),
        title: "all of it".into(),
        why: "for the test".into(),
        stage: Stage::Execute,
        technique: Technique { id: "T1059".into(), name: "Command and Scripting Interpreter".into() },
        severity: Severity::Low,
        grade: Grade::Inferred,
        time_ns: 1,
        process: None,
        events: events.iter().map(|event| event.seq).collect(),
        distance: None,
    }
}

#[test]
fn lines_come_as_the_session_grows() {
    let events = common::attack();
    for format in LINES {
        let mut live = Live::new();
        let session = live.session();
        let mut follower = Follower::open(&session, format, Scope::Task).unwrap();
        let mut lines = Vec::new();
        assert_eq!(step(&mut follower, &mut lines), Step::Waiting);
        let mut before = 0;
        for part in events.chunks(7) {
            live.write(part);
            assert_eq!(step(&mut follower, &mut lines), Step::Waiting);
            assert!(lines.len() >= before);
            before = lines.len();
        }
        assert!(before > 20, "they do not wait for the end");
        // A finding that rests on everything: what was not wanted until now comes with it.
        live.writer.finding(&about(&events)).unwrap();
        step(&mut follower, &mut lines);
        assert!(lines.len() > events.len(), "{} of {}", lines.len(), events.len());
        let (_folder, closed) = live.close();
        to_the_end(&mut follower, &mut |line| {
            lines.push(line.to_owned());
            Ok(())
        });
        // The same lines, each once; those that a finding told to matter come with it.
        let mut all = exported(&closed, format, Scope::Task);
        all.sort();
        lines.sort();
        assert_eq!(lines, all, "{}", format.name());
    }
}

/// Frames of octet counting (RFC 6587 section 3.4.1).
fn frames(mut from: impl BufRead) -> Vec<String> {
    let mut all = Vec::new();
    loop {
        let mut length = Vec::new();
        if from.read_until(b' ', &mut length).unwrap() == 0 {
            return all;
        }
        let length: usize = String::from_utf8(length).unwrap().trim_end().parse().unwrap();
        let mut line = vec![0; length];
        from.read_exact(&mut line).unwrap();
        all.push(String::from_utf8(line).unwrap());
    }
}

/// A collector that reads with `read` until the sender has gone.
fn collector<T: Send + 'static>(
    read: impl FnOnce(BufReader<std::net::TcpStream>) -> T + Send + 'static,
) -> (String, thread::JoinHandle<T>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp://{}", listener.local_addr().unwrap());
    (address, thread::spawn(move || read(BufReader::new(listener.accept().unwrap().0))))
}

#[test]
fn a_collector_reads_every_line_of_a_growing_session() {
    let events = common::attack();
    for (format, framing) in [(Format::Syslog, Framing::Octets), (Format::Cef, Framing::Newline)] {
        assert_eq!(Framing::of(format), framing);
        let (address, read) = collector(move |from| match framing {
            Framing::Octets => frames(from),
            Framing::Newline => from.lines().map(Result::unwrap).collect(),
        });
        let mut target = Target::new(&address, framing, PATIENCE, &TlsFiles::default()).unwrap();
        let mut live = Live::new();
        let session = live.session();
        let mut follower = Follower::open(&session, format, Scope::All).unwrap();
        for part in events.chunks(5) {
            live.write(part);
            assert_eq!(follower.step(&mut |line| target.send(line)).unwrap(), Step::Waiting);
        }
        let (_folder, closed) = live.close();
        to_the_end(&mut follower, &mut |line| target.send(line));
        target.finish().unwrap();
        let lines = read.join().unwrap();
        assert_eq!(lines.len(), exported(&closed, format, Scope::All).len());
        let file = closed.dir().join("received");
        std::fs::write(&file, lines.join("\n") + "\n").unwrap();
        println!("{}", common::judge(format.name(), &file));
    }
}

#[test]
fn a_collector_that_goes_away_is_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut target =
        Target::new(&format!("tcp://{address}"), Framing::Newline, PATIENCE, &TlsFiles::default()).unwrap();
    let (gone, is_gone) = mpsc::channel();
    let collector = thread::spawn(move || {
        let mut first = String::new();
        // It reads what was sent, closes, is not there, and comes back.
        BufReader::new(listener.accept().unwrap().0).read_line(&mut first).unwrap();
        drop(listener);
        gone.send(()).unwrap();
        let mut rest = String::new();
        let listener = TcpListener::bind(address).unwrap();
        listener.accept().unwrap().0.read_to_string(&mut rest).unwrap();
        (first, rest)
    });
    target.send("one").unwrap();
    is_gone.recv().unwrap();
    target.send("two").unwrap();
    target.send("three").unwrap();
    target.finish().unwrap();
    assert_eq!(collector.join().unwrap(), ("one\n".into(), "two\nthree\n".into()));
}

#[test]
fn a_collector_that_stays_away_is_given_up() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut target =
        Target::new(&format!("tcp://{address}"), Framing::Newline, Duration::from_millis(150), &TlsFiles::default())
            .unwrap();
    assert!(matches!(target.send("one"), Err(Error::Send { .. })));
    for bad in ["", "10.0.0.1:514", "tcp://host", "unix://relative", "http://x:1"] {
        assert!(
            matches!(Target::new(bad, Framing::Newline, PATIENCE, &TlsFiles::default()), Err(Error::Target(_))),
            "{bad}"
        );
    }
}

#[test]
fn unix_sockets_and_datagrams_take_lines() {
    let folder = tempfile::tempdir().unwrap();
    let (stream, datagram) = (folder.path().join("stream"), folder.path().join("datagram"));
    let listener = UnixListener::bind(&stream).unwrap();
    let read = thread::spawn(move || frames(BufReader::new(listener.accept().unwrap().0)));
    let mut target =
        Target::new(&format!("unix://{}", stream.display()), Framing::Octets, PATIENCE, &TlsFiles::default()).unwrap();
    target.send("<134>1 é").unwrap();
    target.finish().unwrap();
    assert_eq!(read.join().unwrap(), ["<134>1 é"]);

    let socket = UnixDatagram::bind(&datagram).unwrap();
    let mut target =
        Target::new(&format!("unix://{}", datagram.display()), Framing::Octets, PATIENCE, &TlsFiles::default())
            .unwrap();
    target.send("a line").unwrap();
    let mut bytes = [0; 100];
    let length = socket.recv(&mut bytes).unwrap();
    assert_eq!(&bytes[..length], b"a line");

    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = format!("udp://{}", socket.local_addr().unwrap());
    let mut target = Target::new(&address, Framing::Newline, PATIENCE, &TlsFiles::default()).unwrap();
    target.send(&"x".repeat(70_000)).unwrap();
    target.send("a line").unwrap();
    assert_eq!(target.too_long, 1);
    let length = socket.recv(&mut bytes).unwrap();
    assert_eq!(&bytes[..length], b"a line");
}

/// A collector of Python's (OpenSSL): writes its port, then what it was sent until the other end said that this was all. Arguments: its
/// certificate, its key, and the CA of those it lets in, or nothing.
const TLS_COLLECTOR: &str = r#"
import socket, ssl, sys
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1], sys.argv[2])
if len(sys.argv) > 3:
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(sys.argv[3])
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
try:
    connection = context.wrap_socket(listener.accept()[0], server_side=True)
    while data := connection.recv(65536):
        sys.stdout.buffer.write(data)
    connection.unwrap()
except (ssl.SSLError, OSError) as error:
    print("collector:", error, file=sys.stderr)
"#;

/// Files of a CA, and of what it has signed for `localhost` and for us.
struct Keys {
    folder: tempfile::TempDir,
}

impl Keys {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: String| std::fs::write(folder.path().join(name), text).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let mut ca = rcgen::CertificateParams::new(vec![]).unwrap();
        ca.distinguished_name.push(rcgen::DnType::CommonName, "CA");
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        ca.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::DigitalSignature];
        write("ca.pem", ca.self_signed(&key).unwrap().pem());
        let issuer = rcgen::Issuer::new(ca, key);
        for (name, usage) in [
            ("localhost", rcgen::ExtendedKeyUsagePurpose::ServerAuth),
            ("us", rcgen::ExtendedKeyUsagePurpose::ClientAuth),
        ] {
            let key = rcgen::KeyPair::generate().unwrap();
            let mut leaf = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
            leaf.distinguished_name.push(rcgen::DnType::CommonName, name);
            leaf.use_authority_key_identifier_extension = true;
            leaf.extended_key_usages = vec![usage];
            write(&format!("{name}.pem"), leaf.signed_by(&key, &issuer).unwrap().pem());
            write(&format!("{name}.key"), key.serialize_pem());
        }
        Self { folder }
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    /// A collector, and its address.
    fn collector(&self, asks: bool) -> (std::process::Child, String, BufReader<std::process::ChildStdout>) {
        let mut command = std::process::Command::new("python3");
        command.args(["-c", TLS_COLLECTOR]).args([self.file("localhost.pem"), self.file("localhost.key")]);
        if asks {
            command.arg(self.file("ca.pem"));
        }
        let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
        let (mut out, mut port) = (BufReader::new(child.stdout.take().unwrap()), String::new());
        out.read_line(&mut port).unwrap();
        (child, format!("tls://localhost:{}", port.trim()), out)
    }

    fn trusting(&self) -> TlsFiles {
        TlsFiles { ca: Some(self.file("ca.pem")), identity: None }
    }
}

#[test]
fn a_collector_is_spoken_to_in_tls() {
    let (keys, events) = (Keys::new(), common::attack());
    for asks in [false, true] {
        let (mut child, address, out) = keys.collector(asks);
        let identity = asks.then(|| (keys.file("us.pem"), keys.file("us.key")));
        let files = TlsFiles { identity, ..keys.trusting() };
        let mut target = Target::new(&address, Framing::Octets, PATIENCE, &files).unwrap();
        let (_folder, session) = common::record("evil.jar", &events);
        let mut follower = Follower::open(&session, Format::Syslog, Scope::All).unwrap();
        let read = thread::spawn(move || frames(out));
        to_the_end(&mut follower, &mut |line| target.send(line));
        target.finish().unwrap();
        assert_eq!(read.join().unwrap(), exported(&session, Format::Syslog, Scope::All));
        assert!(child.wait().unwrap().success());
    }
}

#[test]
fn who_is_not_trusted_is_told_nothing() {
    let keys = Keys::new();
    let refused = |files: &TlsFiles, asks: bool, name: &str| {
        let (mut child, address, mut out) = keys.collector(asks);
        let mut target = Target::new(&address.replace("localhost", name), Framing::Octets, PATIENCE, files).unwrap();
        let mut ended = (0..3).try_for_each(|_| target.send("a line"));
        if ended.is_ok() {
            ended = target.finish();
        }
        let mut read = String::new();
        out.read_to_string(&mut read).unwrap();
        child.wait().unwrap();
        (ended.expect_err("refused").to_string(), read)
    };
    // A CA that did not sign it; a name that is not its; a collector that wants to know who we are.
    let other = TlsFiles { ca: Some(keys.file("us.pem")), identity: None };
    for (files, asks, name, says) in [
        (&other, false, "localhost", "UnknownIssuer"),
        (&keys.trusting(), false, "127.0.0.1", "not valid for name"),
        (&keys.trusting(), true, "localhost", "CertificateRequired"),
    ] {
        let (error, read) = refused(files, asks, name);
        assert!(error.contains(says) && error.contains("--ca FILE"), "{error}");
        assert_eq!(read, "");
    }
    // Files that are none.
    let no_key = TlsFiles { identity: Some((keys.file("us.pem"), keys.file("us.pem"))), ..keys.trusting() };
    let missing = TlsFiles { ca: Some(keys.file("nothing.pem")), identity: None };
    let empty = TlsFiles { ca: Some(keys.file("us.key")), identity: None };
    for (files, says) in [(no_key, "us.pem: "), (missing, "nothing.pem: "), (empty, "us.key: ")] {
        let error = Target::new("tls://localhost:6514", Framing::Octets, PATIENCE, &files).unwrap_err().to_string();
        assert!(error.contains(says) && error.contains("PEM"), "{error}");
    }
}
