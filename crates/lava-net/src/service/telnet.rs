//! Telnet (RFC 854), as far as a worm goes: any name and password are taken, and what is typed then is recorded at a prompt that
//! runs nothing.
//!
//! Limits: options are neither offered nor answered. Of commands two are known: `exit`, and an applet that busybox does not have, by which
//! worms tell a shell from a trap.

use super::{Lines, Talk};
use crate::world::Context;

/// Where it is spoken.
pub const PORT: u16 = 23;
/// What the host says first.
pub const GREETING: &str = "login: ";
const PROMPT: &str = "# ";
/// "Interpret as command" (RFC 854), and the commands that an option follows: WILL to DONT.
const IAC: u8 = 255;
const WILL: u8 = 251;
const DONT: u8 = 254;

/// What is expected next.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum Step {
    #[default]
    Name,
    Password,
    Shell,
}

/// Where in the stream of bytes it is.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum At {
    #[default]
    Text,
    /// A line has ended: a line feed or NUL that follows belongs to that.
    Return,
    Command,
    Option,
}

/// One connection's.
#[derive(Default)]
pub struct Telnet {
    at: At,
    step: Step,
    lines: Lines,
}

impl Telnet {
    pub fn receive(&mut self, bytes: &[u8], talk: &mut Talk, context: &mut Context<'_, '_>) {
        let text: Vec<u8> = bytes.iter().filter_map(|byte| self.text(*byte)).collect();
        for line in self.lines.add(&text) {
            let line = String::from_utf8_lossy(&line).into_owned();
            let reply = self.reply(line.trim());
            talk.closes |= reply.is_none();
            talk.say(reply.unwrap_or_default().as_bytes(), &mut context.world.budget);
        }
    }

    /// The byte as text, with line feeds as the only line ends; `None`: it is none.
    fn text(&mut self, byte: u8) -> Option<u8> {
        let (next, text) = match (self.at, byte) {
            (At::Command, WILL..=DONT) => (At::Option, None),
            (At::Command | At::Option, _) => (At::Text, None),
            (_, IAC) => (At::Command, None),
            (At::Return, b'\n' | 0) => (At::Text, None),
            (_, b'\r') => (At::Return, Some(b'\n')),
            (_, byte) => (At::Text, Some(byte)),
        };
        self.at = next;
        text
    }

    /// What is said to a line; `None`: it was the last.
    fn reply(&mut self, line: &str) -> Option<String> {
        match self.step {
            Step::Name if line.is_empty() => Some(GREETING.to_owned()),
            Step::Name => {
                self.step = Step::Password;
                Some("Password: ".to_owned())
            }
            Step::Password => {
                self.step = Step::Shell;
                Some(format!("\r\n{PROMPT}"))
            }
            Step::Shell if line == "exit" => None,
            Step::Shell => match line.strip_prefix("/bin/busybox ") {
                Some(applet) => {
                    let applet: String = applet.chars().filter(char::is_ascii_alphanumeric).take(64).collect();
                    Some(format!("{applet}: applet not found\r\n{PROMPT}"))
                }
                None => Some(PROMPT.to_owned()),
            },
        }
    }
}
