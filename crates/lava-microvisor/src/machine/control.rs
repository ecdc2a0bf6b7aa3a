//! The control socket of a running session: what an analyst at another terminal may ask of it.
//!
//! What is asked and how it is written is `lava-control`'s. The socket lies in the supervisor's folder (`owner.rs`), because the runtime
//! folder belongs to QEMU's user, who could put another socket in its place.
//!
//! QEMU's cage does not hold that folder.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crossbeam_channel::{Sender, bounded};
use lava_control::{Answer, Command, Line, PATIENCE, REQUEST, folder, hand_over};

use super::life::Happening;
use super::questions::Questions;

/// Connections at a time.
const CONNECTIONS: usize = 4;
/// Listens until it is dropped.
pub(super) struct Control {
    socket: PathBuf,
    over: Arc<AtomicBool>,
}

impl Control {
    pub(super) fn start(runtime_dir: &Path, tell: Sender<Happening>, questions: &Arc<Questions>) -> io::Result<Self> {
        let control = Self { socket: folder(runtime_dir).join("socket"), over: Arc::default() };
        let listener = UnixListener::bind(&control.socket)?;
        let over = Arc::clone(&control.over);
        let questions = Arc::clone(questions);
        let listen = move || {
            let open = Arc::new(AtomicUsize::new(0));
            for stream in listener.incoming() {
                if over.load(Ordering::SeqCst) {
                    break;
                }
                let Ok(stream) = stream else { continue };
                if open.fetch_add(1, Ordering::SeqCst) >= CONNECTIONS {
                    open.fetch_sub(1, Ordering::SeqCst);
                    continue;
                }
                let (tell, served, questions) = (tell.clone(), Arc::clone(&open), Arc::clone(&questions));
                let serve = move || {
                    // A client that hangs up gets no more.
                    let _ = serve(&stream, &tell, &questions);
                    served.fetch_sub(1, Ordering::SeqCst);
                };
                if std::thread::Builder::new().name("control".into()).spawn(serve).is_err() {
                    open.fetch_sub(1, Ordering::SeqCst);
                }
            }
        };
        std::thread::Builder::new().name("control".into()).spawn(listen)?;
        Ok(control)
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        // Wakes the listener. What fails here is gone already.
        let _ = UnixStream::connect(&self.socket);
        let _ = fs::remove_file(&self.socket);
    }
}

fn serve(stream: &UnixStream, tell: &Sender<Happening>, questions: &Questions) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut from = BufReader::new(stream);
    let mut to = stream;
    let mut line = Vec::new();
    loop {
        line.clear();
        if from.by_ref().take(REQUEST).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        let whole = line.last() == Some(&b'\n');
        let answer = match serde_json::from_slice::<Command>(&line) {
            _ if !whole => Err(format!("a request is one line of at most {REQUEST} bytes")),
            Err(error) => Err(format!("no request: {error}")),
            // These do not wait for the machine, which may wait for them.
            Ok(Command::Questions) => serde_json::to_string(&questions.waiting()).map_err(|error| error.to_string()),
            Ok(Command::Decide { seq, action }) => questions.decide(seq, action),
            Ok(Command::Watch) => {
                let (view, end) = UnixStream::pair()?;
                let answer = machine(tell, |reply| Happening::Watch(end.into(), reply));
                if answer.is_ok() {
                    hand_over(stream, &line_of(answer)?, &OwnedFd::from(view))?;
                    continue;
                }
                answer
            }
            Ok(command) => machine(tell, |reply| Happening::Command(command, who(stream), reply)),
        };
        to.write_all(line_of(answer)?.as_bytes())?;
        if !whole {
            return Ok(());
        }
    }
}

/// Asks the machine's thread, and waits for what it answers.
fn machine(tell: &Sender<Happening>, what: impl FnOnce(Sender<Answer>) -> Happening) -> Answer {
    let (reply, answer) = bounded(1);
    let told = tell.send(what(reply)).is_ok();
    let answer = if told { answer.recv().ok() } else { None };
    answer.unwrap_or_else(|| Err("the session is over".to_owned()))
}

fn line_of(answer: Answer) -> io::Result<String> {
    Ok(format!("{}\n", serde_json::to_string(&Line::from(answer))?))
}

/// Who asks, as the kernel tells it.
fn who(stream: &UnixStream) -> String {
    rustix::net::sockopt::socket_peercred(stream)
        .map_or_else(|_| "analyst".to_owned(), |peer| format!("analyst (user {})", peer.uid.as_raw()))
}

#[cfg(test)]
mod tests {
    use lava_control::ask;

    use super::super::owner;
    use super::*;

    /// What comes back for these bytes, from a session that does everything it is asked.
    fn check(request: &[u8], expect: &str) {
        let (ours, theirs) = UnixStream::pair().expect("pair");
        let (tell, happened) = bounded(4);
        let server = std::thread::spawn(move || serve(&theirs, &tell, &Questions::default()));
        let session = std::thread::spawn(move || {
            for happening in happened {
                let Happening::Command(command, _, reply) = happening else { continue };
                let _ = reply.send(Ok(command.name().to_owned()));
            }
        });
        (&ours).write_all(request).expect("write");
        ours.shutdown(std::net::Shutdown::Write).expect("shutdown");
        let mut got = String::new();
        // A line that is too long is not read to its end, which the kernel reports as a reset after the reply.
        let _ = (&ours).read_to_string(&mut got);
        assert!(got.contains(expect), "{got}");
        let _ = server.join().expect("server");
        session.join().expect("session");
    }

    #[test]
    fn requests_are_carried_out_and_nonsense_is_refused() {
        check(b"{\"command\":\"pause\"}\n", "{\"done\":\"pause\"}\n");
        check(b"{\"command\":\"fly\"}\n{\"command\":\"status\"}\n", "{\"done\":\"status\"}\n");
        check(b"{\"command\":\"questions\"}\n", "{\"done\":\"[]\"}\n");
        check(b"{\"command\":\"decide\",\"seq\":7,\"action\":\"deny\"}\n", "event 7 does not wait");
        check(b"{\"command\":\"decide\",\"seq\":7,\"action\":\"fly\"}\n", "unknown variant");
        check(b"{\"command\":\"fly\"}\n", "unknown variant");
        check(b"\xff\xfe[[[[\n", "no request");
        check(b"{\"command\":\"pause\"}", "at most 4096 bytes");
        check(&[b'a'; 4096], "at most 4096 bytes");
    }

    #[test]
    fn a_view_comes_with_its_socket() {
        let place = tempfile::tempdir().expect("folder");
        let runtime = place.path().join("r");
        let _owner = owner::Owner::new(&runtime, &[]).expect("owner");
        let (tell, happened) = bounded(4);
        let _control = Control::start(&runtime, tell, &Arc::default()).expect("control");
        let session = std::thread::spawn(move || {
            let Ok(Happening::Watch(end, reply)) = happened.recv() else { panic!("no view was asked for") };
            UnixStream::from(end).write_all(b"RFB").expect("write");
            reply.send(Ok("a view".to_owned())).expect("answer");
            let Ok(Happening::Watch(_, reply)) = happened.recv() else { panic!("no view was asked for") };
            reply.send(Err("no screen".to_owned())).expect("answer");
        });
        let mut seen = String::new();
        let mut view = lava_control::watch(&runtime).expect("reply").expect("view");
        view.read_to_string(&mut seen).expect("what the other end wrote");
        assert_eq!(seen, "RFB");
        assert_eq!(lava_control::watch(&runtime).expect("reply").expect_err("refused"), "no screen");
        session.join().expect("session");
    }

    #[test]
    fn a_socket_goes_with_its_session() {
        let place = tempfile::tempdir().expect("folder");
        let runtime = place.path().join("r");
        let owner = owner::Owner::new(&runtime, &[]).expect("owner");
        let (tell, happened) = bounded(4);
        let control = Control::start(&runtime, tell, &Arc::default()).expect("control");
        drop(happened);
        assert_eq!(ask(&runtime, Command::Stop).expect("reply"), Err("the session is over".to_owned()));
        drop(control);
        assert!(ask(&runtime, Command::Stop).is_err());
        drop(owner);
        assert!(!owner::is_running(&runtime));
    }
}
