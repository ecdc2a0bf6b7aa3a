//! The live view of a screen: who may look, who may touch, and what is told of it.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};

use common::{Console, Recording, console};
use lava_console::Role;
use lava_event::SessionId;
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::tempdir;
use tungstenite::client::IntoClientRequest;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Message, WebSocket};

const VERSION: &[u8] = b"RFB 003.008\n";
const KEY: [u8; 8] = [4, 1, 0, 0, 0, 0, 0, b'a'];
const UPDATE: [u8; 10] = [3, 0, 0, 0, 0, 0, 4, 0, 3, 0];

/// A running session's control socket, behind which there is no machine: it hands out views, or says why not.
struct Machine {
    folder: PathBuf,
    views: Receiver<UnixStream>,
    asked: Receiver<String>,
}

impl Machine {
    fn new(id: &str, refuses: Option<&'static str>) -> Self {
        let folder = lava_control::folder(&lava_control::runtime(&SessionId(id.into())));
        std::fs::create_dir(&folder).expect("the supervisor's folder");
        let listener = UnixListener::bind(folder.join("socket")).expect("socket");
        let ((view, views), (ask, asked)) = (channel(), channel());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // Whoever asked may have hung up.
                let _ = Self::serve(stream, refuses, &view, &ask);
            }
        });
        Self { folder, views, asked }
    }

    fn serve(
        mut stream: UnixStream,
        refuses: Option<&str>,
        view: &Sender<UnixStream>,
        ask: &Sender<String>,
    ) -> Option<()> {
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).ok()?;
        if line.contains("status") {
            return stream.write_all(b"{\"done\":\"running\"}\n").ok();
        }
        if line.contains("watch") && refuses.is_none() {
            let (guest, end) = UnixStream::pair().ok()?;
            lava_control::hand_over(&stream, "{\"done\":\"a view\"}\n", &OwnedFd::from(end)).ok()?;
            return view.send(guest).ok();
        }
        ask.send(line.trim().to_owned()).ok()?;
        let answer = refuses.map_or_else(|| json!({"done": ""}), |why| json!({"error": why}));
        stream.write_all(format!("{answer}\n").as_bytes()).ok()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

type Browser = WebSocket<TcpStream>;

/// Opens a view; or the status that refuses it.
fn open(console: &Console, role: Role, path: &str, origin: Option<&str>) -> Result<Browser, u16> {
    let mut request = format!("ws://{}{path}", console.address).into_client_request().expect("request");
    let headers = request.headers_mut();
    headers.insert("authorization", format!("Bearer {}", console.token(role)).parse().expect("token"));
    if let Some(origin) = origin {
        headers.insert("origin", origin.parse().expect("origin"));
    }
    let stream = TcpStream::connect(console.address).expect("connect");
    match tungstenite::client(request, stream) {
        Ok((browser, _)) => Ok(browser),
        Err(tungstenite::HandshakeError::Failure(tungstenite::Error::Http(answer))) => Err(answer.status().as_u16()),
        Err(error) => panic!("{error}"),
    }
}

fn send(browser: &mut Browser, bytes: &[u8]) {
    browser.send(Message::binary(bytes.to_vec())).expect("send");
}

/// The next bytes of the picture, or how it ended.
fn next(browser: &mut Browser) -> Result<Vec<u8>, (u16, String)> {
    loop {
        match browser.read() {
            Ok(Message::Binary(bytes)) => return Ok(bytes.to_vec()),
            Ok(Message::Close(Some(frame))) => return Err((frame.code.into(), frame.reason.to_string())),
            Ok(_) => {}
            Err(error) => return Err((0, error.to_string())),
        }
    }
}

fn take(guest: &mut UnixStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    guest.read_exact(&mut bytes).expect("bytes for the guest");
    bytes
}

fn audit(console: &Console) -> Vec<String> {
    let list: Value = console.ask(Role::Admin, Method::GET, "/api/audit").send().unwrap().json().unwrap();
    let what = |entry: &Value| format!("{} {}", entry["user"].as_str().unwrap(), entry["what"].as_str().unwrap());
    list["entries"].as_array().unwrap().iter().map(what).filter(|what| what.contains("control")).collect()
}

#[test]
fn whoever_looks_does_not_touch_and_whoever_touches_is_told() {
    const ID: &str = "01J0000000000000000000SCR1";
    let root = tempdir().unwrap();
    let mut recording = Recording::begin(root.path(), ID);
    recording.write(10);
    let machine = Machine::new(ID, None);
    let console = console(root.path(), Path::new("/bin/false"));
    let (look, touch) = (format!("/api/sessions/{ID}/screen"), format!("/api/sessions/{ID}/screen/control"));

    let own = format!("http://{}", console.address);
    let mut viewer = open(&console, Role::Viewer, &look, Some(&own)).expect("a viewer looks");
    let mut guest = machine.views.recv().unwrap();
    guest.write_all(VERSION).unwrap();
    assert_eq!(next(&mut viewer).unwrap(), VERSION);
    // One message of the browser may hold several of RFB, and the other way round.
    send(&mut viewer, &[VERSION, &[1, 0], &KEY, &UPDATE[..4]].concat());
    send(&mut viewer, &UPDATE[4..]);
    assert_eq!(take(&mut guest, 24), [VERSION, &[1, 1], &UPDATE].concat(), "its key stays here");
    // More than one piece, in order.
    let picture: Vec<u8> = (0..200_000u32).map(|at| (at % 251) as u8).collect();
    let (sent, mut to) = (picture.clone(), guest.try_clone().unwrap());
    let writes = std::thread::spawn(move || to.write_all(&sent).unwrap());
    let mut got = Vec::new();
    while got.len() < picture.len() {
        got.extend(next(&mut viewer).unwrap());
    }
    writes.join().unwrap();
    assert!(got == picture);
    assert_eq!(audit(&console), [""; 0], "looking is not told");

    assert_eq!(open(&console, Role::Viewer, &touch, None).err(), Some(403), "a viewer takes no control");
    let mut analyst = open(&console, Role::Analyst, &touch, None).expect("an analyst does");
    let mut touched = machine.views.recv().unwrap();
    send(&mut analyst, &[VERSION, &[1, 0], &KEY].concat());
    assert_eq!(take(&mut touched, 22), [VERSION, &[1, 1], &KEY].concat());
    assert_eq!(machine.asked.recv().unwrap(), r#"{"command":"control","taken":true}"#, "the session's log tells it");
    analyst.close(None).unwrap();
    assert_eq!(machine.asked.recv().unwrap(), r#"{"command":"control","taken":false}"#);
    assert_eq!(audit(&console), ["analyst session.control.given_back", "analyst session.control"]);
    assert_eq!(touched.read(&mut [0; 8]).unwrap(), 0, "QEMU's end is closed");

    // The guest's end is gone: the page is told.
    drop(guest);
    let (code, why) = next(&mut viewer).unwrap_err();
    assert!(code == 1000 && why.contains("no screen any more"), "{code} {why}");
}

#[test]
fn what_can_t_be_shown_is_refused_with_its_reason() {
    const ID: &str = "01J0000000000000000000SCR2";
    let root = tempdir().unwrap();
    let mut recording = Recording::begin(root.path(), ID);
    recording.write(10);
    let console = console(root.path(), Path::new("/bin/false"));
    let look = format!("/api/sessions/{ID}/screen");
    let refused = |role, path: &str, origin| open(&console, role, path, origin).err();
    assert_eq!(refused(Role::Viewer, &look, Some("http://evil.example")), Some(403), "another's page");
    assert_eq!(refused(Role::Viewer, "/api/sessions/none/screen", None), Some(404));
    assert_eq!(refused(Role::Admin, "/api/sessions/none/screen/control", None), Some(404));
    let plain = console.ask(Role::Viewer, Method::GET, &look).send().unwrap();
    assert!([400, 426].contains(&plain.status().as_u16()), "{}", plain.status());
    assert!(plain.json::<Value>().unwrap()["error"]["message"].is_string());

    // Nobody answers, then somebody who has no screen.
    let ended = |role, path: &str| next(&mut open(&console, role, path, None).unwrap()).unwrap_err();
    let (code, why) = ended(Role::Viewer, &look);
    assert!(code == 4503 && why.contains("only one that runs"), "{code} {why}");
    let machine = Machine::new(ID, Some("this micro-VM has no screen: its profile wants none"));
    let (code, why) = ended(Role::Analyst, &format!("{look}/control"));
    assert!(code == 4409 && why.contains("wants none"), "{code} {why}");
    assert_eq!(audit(&console), [""; 0], "nothing was controlled");
    drop(machine);

    let machine = Machine::new(ID, None);
    for nonsense in [Message::text("RFB 003.008"), Message::binary(b"GET / HTTP/1.1\r\n".to_vec())] {
        let mut browser = open(&console, Role::Viewer, &look, None).unwrap();
        let _guest = machine.views.recv().unwrap();
        browser.send(nonsense).unwrap();
        assert_eq!(next(&mut browser).unwrap_err().0, u16::from(CloseCode::Protocol));
    }
}
