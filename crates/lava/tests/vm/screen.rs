//! Keyboard, pointer and the live view of a guest's screen: `lava ctl SESSION type|key|click`, and what the console looks through.

use std::io::{Read, Write};
use std::path::Path;

use lava_event::{Event, Kind, SessionId};

use crate::common::{begin, ctl, lava, log, read, turn, until, with_screen};

/// Reads a line from the guest's own keyboard, then a click from its tablet, and says what it got.
const TASK: &str = r#"#!/bin/sh
exec 3< /dev/tty1
: > /tmp/reads-keys
read -r line <&3
echo "TYPED $line"
python3 -c '
import glob, struct
[path] = [p for p in glob.glob("/sys/class/input/event*") if open(p + "/device/name").read().strip() == "QEMU Virtio Tablet"]
events = open("/dev/input/" + path.rsplit("/", 1)[1], "rb", buffering=0)
open("/tmp/reads-clicks", "w").close()
place = {}
while True:
    _, _, kind, code, value = struct.unpack("llHHi", events.read(24))
    if kind == 3: place[code] = value
    if kind == 1 and value == 1:
        print("CLICKED", hex(code), place[0], place[1])
        break
'
"#;

/// Looks through the view as far as the picture's size, as RFC 6143 has it (7.1 to 7.3).
fn look(id: &SessionId) -> (u16, u16) {
    let mut view = lava_control::watch(&lava_control::runtime(id)).unwrap().expect("a view");
    let mut take = |send: &[u8], expect: usize| {
        view.write_all(send).unwrap();
        let mut got = vec![0; expect];
        view.read_exact(&mut got).unwrap();
        got
    };
    assert_eq!(take(b"", 12), b"RFB 003.008\n");
    assert_eq!(take(b"RFB 003.008\n", 2), [1, 1], "no authentication, and nothing else");
    assert_eq!(take(&[1], 4), [0; 4]);
    let init = take(&[1], 24);
    (u16::from_be_bytes([init[0], init[1]]), u16::from_be_bytes([init[2], init[3]]))
}

fn made(out: &Path, name: &str) -> bool {
    let is = |event: &Event| matches!(&event.kind, Kind::FileCreate { path, .. } if path.to_string() == name);
    log(out).iter().any(is)
}

#[test]
fn what_is_typed_and_clicked_arrives() {
    let _turn = turn();
    let (out, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let profile = with_screen("script", place.path());
    let further = ["--root", "--console", "--profile", profile.to_str().unwrap()];
    let child = begin(out.path(), place.path(), TASK, &further);

    until("it reads keys", || made(out.path(), "/tmp/reads-keys"));
    let id = std::fs::read_dir(out.path()).unwrap().next().unwrap().unwrap().file_name().into_string().unwrap();
    let (width, height) = look(&SessionId(id));
    assert!(width >= 640 && height >= 400, "{width} x {height}");

    let ask = |arguments: &[&str]| {
        let output = lava().args(["ctl", "latest"]).args(arguments).arg("--out").arg(out.path()).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let refused = |arguments: &[&str], why: &str| {
        let (done, told) = ask(arguments);
        assert!(!done && told.contains(why), "{arguments:?}: {told}");
    };
    refused(&["type", "straße"], "US keyboard");
    refused(&["key", "no_such_key"], "no_such_key");
    refused(&["key", "a;b"], "names of keys");
    refused(&["click", "5000", "1"], &format!("{width} x {height}"));
    refused(&["click", "1"], "click X Y [left|middle|right]");
    ctl(out.path(), "pause");
    refused(&["type", "x"], "resume it first");
    ctl(out.path(), "resume");

    assert!(ask(&["type", r#"Grr! {a_b}~"|\?* 09"#]).0);
    ctl(out.path(), "key backspace");
    ctl(out.path(), "key shift-z");
    ctl(out.path(), "key ret");
    until("it reads clicks", || made(out.path(), "/tmp/reads-clicks"));
    ctl(out.path(), "click 100 50 right");
    let output = child.wait_with_output().unwrap();

    let ran = read(&output, out);
    assert!(ran.console.contains(r#"TYPED Grr! {a_b}~"|\?* 0Z"#), "{}", ran.console);
    // 0x111: BTN_RIGHT (input-event-codes.h).
    let clicked = ran.console.lines().find_map(|line| line.split_once("CLICKED 0x111 "));
    let at: Vec<u32> = clicked.expect("a click").1.split_whitespace().map(|part| part.parse().unwrap()).collect();
    let pixel = |at: u32, of: u16| at * u32::from(of) / 0x8000;
    assert_eq!((pixel(at[0], width), pixel(at[1], height)), (100, 50));

    let told = ran.responses();
    let done: Vec<&str> =
        told.iter().filter(|(_, outcome, _)| *outcome == "done").map(|(command, ..)| *command).collect();
    let typed = r#"type "Grr! {a_b}~\"|\\?* 09""#;
    assert_eq!(
        done,
        ["pause", "resume", typed, "key backspace", "key shift-z", "key ret", "click 100 50 right"],
        "looking changes nothing and is not told"
    );
    assert_eq!(told.len() - done.len(), 5, "what was refused is told too: {told:?}");
}

#[test]
fn a_guest_without_a_screen_is_not_typed_to() {
    let _turn = turn();
    let (out, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let child = begin(out.path(), place.path(), "#!/bin/sh\n: > /tmp/waits\nsleep 600\n", &[]);
    until("it waits", || made(out.path(), "/tmp/waits"));
    for arguments in [&["type", "x"][..], &["key", "ret"], &["click", "1", "1"]] {
        let output = lava().args(["ctl", "latest"]).args(arguments).arg("--out").arg(out.path()).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && told.contains("no screen"), "{arguments:?}: {told}");
    }
    let id = std::fs::read_dir(out.path()).unwrap().next().unwrap().unwrap().file_name().into_string().unwrap();
    let view = lava_control::watch(&lava_control::runtime(&SessionId(id))).unwrap();
    assert!(view.expect_err("no view").contains("no screen"));
    ctl(out.path(), "stop");
    let ran = read(&child.wait_with_output().unwrap(), out);
    assert_eq!(ran.session.manifest().state, lava_evidence::State::Closed, "it ended in order: {}", ran.stderr);
}
