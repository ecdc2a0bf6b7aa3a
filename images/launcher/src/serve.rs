//! One conversation over the port, from `ready` to the host closing it.

use std::io::{self, BufReader, Read, Write};

use crate::header::{self, Header, HeaderError, Task};
use crate::identity::Identity;
use crate::members;

/// How a task ended, or why it could not start.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It returned this code.
    Exit(i32),
    /// This signal ended it.
    Signal(i32),
    /// It could not be written or started.
    Error(String),
}

/// What the conversation does to the machine; the tests have one that does nothing.
pub trait System {
    /// Writes the task's bytes (exactly `task.size` of `bytes`) and runs its command to the end.
    ///
    /// Errors are those of the port alone; what fails in the guest is an [`Outcome::Error`].
    fn run(&self, task: &Task, bytes: &mut dyn Read) -> io::Result<Outcome>;
    /// Makes the machine one of its own.
    fn identify(&self, identity: &Identity) -> Result<(), String>;
    /// Makes programs of the machine trust an authority, whose certificate this is.
    fn trust(&self, certificate: &str) -> Result<(), String>;
    /// Restarts the machine.
    fn reboot(&self);
    /// Switches the machine off.
    fn power_off(&self);
}

/// Says `ready` and serves headers until the host closes the port.
pub fn serve<P>(port: &P, system: &dyn System) -> io::Result<()>
where
    for<'a> &'a P: Read + Write,
{
    let mut input = BufReader::new(port);
    say(port, &serde_json::json!({"ready": 1}))?;
    loop {
        match header::read(&mut input) {
            Ok(None) => return Ok(()),
            Ok(Some(Header::Task(task))) => {
                let mut bytes = input.by_ref().take(task.size);
                let outcome = system.run(&task, &mut bytes)?;
                io::copy(&mut bytes, &mut io::sink())?;
                if bytes.limit() > 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                say(port, &outcome.to_json())?;
            }
            Ok(Some(Header::Identity { identity })) => {
                say(port, &answer(system.identify(&identity), "the clone's identity"))?;
            }
            Ok(Some(Header::Trust { trust })) => say(port, &answer(system.trust(&trust), "the network's certificate"))?,
            Ok(Some(Header::Members { members })) => members::tell(&members, &mut &*port)?,
            Ok(Some(Header::Reboot { reboot: true })) => system.reboot(),
            Ok(Some(Header::Poweroff { poweroff: true })) => system.power_off(),
            Ok(Some(Header::Reboot { .. } | Header::Poweroff { .. })) => {}
            Err(error @ HeaderError::Malformed(_)) => say(port, &Outcome::Error(error.to_string()).to_json())?,
            Err(HeaderError::Port(error)) => return Err(error),
        }
    }
}

/// `ready`, or what failed and why.
fn answer(done: Result<(), String>, what: &str) -> serde_json::Value {
    match done {
        Ok(()) => serde_json::json!({"ready": 1}),
        Err(why) => Outcome::Error(format!("{what}: {why}")).to_json(),
    }
}

impl Outcome {
    fn to_json(&self) -> serde_json::Value {
        match self {
            Self::Exit(code) => serde_json::json!({"exit": code}),
            Self::Signal(number) => serde_json::json!({"signal": number}),
            Self::Error(why) => serde_json::json!({"error": why}),
        }
    }
}

fn say<P>(mut port: &P, message: &serde_json::Value) -> io::Result<()>
where
    for<'a> &'a P: Write,
{
    let mut line = message.to_string();
    line.push('\n');
    (&mut port).write_all(line.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::io::BufRead;
    use std::net::Shutdown;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[derive(Default)]
    struct Fake {
        seen: RefCell<Vec<String>>,
    }

    impl System for Fake {
        fn run(&self, task: &Task, bytes: &mut dyn Read) -> io::Result<Outcome> {
            if task.name == "refused" {
                return Ok(Outcome::Error("no".into()));
            }
            let mut text = String::new();
            bytes.read_to_string(&mut text)?;
            self.seen.borrow_mut().push(format!("{} {text}", task.name));
            Ok(if task.name == "killed" { Outcome::Signal(9) } else { Outcome::Exit(3) })
        }
        fn identify(&self, identity: &Identity) -> Result<(), String> {
            self.seen.borrow_mut().push(identity.host_name.clone());
            if identity.seed.is_empty() { Err("no seed".into()) } else { Ok(()) }
        }
        fn trust(&self, certificate: &str) -> Result<(), String> {
            self.seen.borrow_mut().push(certificate.to_owned());
            if certificate.is_empty() { Err("no certificate".into()) } else { Ok(()) }
        }
        fn reboot(&self) {
            self.seen.borrow_mut().push("reboot".into());
        }
        fn power_off(&self) {
            self.seen.borrow_mut().push("poweroff".into());
        }
    }

    fn check(input: &[u8]) -> (Vec<String>, Vec<String>) {
        let (host, guest) = UnixStream::pair().expect("socket pair");
        (&host).write_all(input).expect("input");
        host.shutdown(Shutdown::Write).expect("shutdown");
        let fake = Fake::default();
        let _closed = serve(&guest, &fake);
        drop(guest);
        let answers = io::BufReader::new(host).lines().map(|line| line.expect("answer")).collect();
        (fake.seen.into_inner(), answers)
    }

    fn header(name: &str, size: usize) -> String {
        format!("{{\"name\":\"{name}\",\"path\":\"/x\",\"size\":{size},\"command\":[\"{{task}}\"]}}\n")
    }

    #[test]
    fn tasks_follow_each_other_and_their_bytes_are_no_headers() {
        let input = format!("{}{{\"r\"}}\n{}ab{}", header("one", 6), header("killed", 2), "{\"reboot\":true}\n");
        let (seen, answers) = check(input.as_bytes());
        assert_eq!(seen, ["one {\"r\"}\n", "killed ab", "reboot"]);
        assert_eq!(answers, ["{\"ready\":1}", "{\"exit\":3}", "{\"signal\":9}"]);
    }

    #[test]
    fn an_identity_is_answered() {
        let line = |seed| {
            format!(r#"{{"identity":{{"seed":"{seed}","now_ns":5,"machine_id":"ab","host_name":"h","mac":"52"}}}}"#)
        };
        let (seen, answers) = check(format!("{}\n{}\n", line("00"), line("")).as_bytes());
        assert_eq!(seen, ["h", "h"]);
        assert_eq!(answers, ["{\"ready\":1}", "{\"ready\":1}", "{\"error\":\"the clone's identity: no seed\"}"]);
    }

    #[test]
    fn an_authority_is_answered() {
        let (seen, answers) = check(b"{\"trust\":\"pem\"}\n{\"trust\":\"\"}\n");
        assert_eq!(seen, ["pem", ""]);
        let failed = "{\"error\":\"the network's certificate: no certificate\"}";
        assert_eq!(answers, ["{\"ready\":1}", "{\"ready\":1}", failed]);
    }

    #[test]
    fn a_refused_task_s_bytes_are_skipped() {
        let input = format!("{}abc{}", header("refused", 3), "{\"poweroff\":true}\n");
        let (seen, answers) = check(input.as_bytes());
        assert_eq!(seen, ["poweroff"]);
        assert_eq!(answers, ["{\"ready\":1}", "{\"error\":\"no\"}"]);
    }

    #[test]
    fn a_malformed_header_is_answered_and_a_short_task_is_not_run_to_an_answer() {
        let (_, answers) = check(b"what\n");
        assert!(answers[1].starts_with("{\"error\":\"not a task header"));
        let (_, answers) = check(format!("{}ab", header("short", 9)).as_bytes());
        assert_eq!(answers, ["{\"ready\":1}"]);
    }
}
