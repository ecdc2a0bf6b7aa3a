//! A mail server that takes everything (RFC 5321), for whoever sends spam, or mails away what it found.
//!
//! Limits: no STARTTLS; of a mail the first [`KEEP`] bytes are kept, of its receivers the first [`RECEIVERS`] are told.

use lava_event::{GuestText, Kind};

use super::{Lines, Talk};
use crate::world::{Context, Ends, Kept};

/// Where it is spoken at once, and where within TLS.
pub const PORTS: &[u16] = &[25, 587, 2525];
pub const PORT_TLS: u16 = 465;
/// What it says first.
pub const GREETING: &str = "220 mail.local ESMTP\r\n";
const KEEP: usize = 8 << 20;
const RECEIVERS: usize = 64;
const LONGEST_ADDRESS: usize = 256;

/// What comes next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Command,
    /// Lines of an AUTH exchange that are still to come.
    Secret(u8),
    Mail,
}

/// A mail that is being handed over.
struct Mail {
    from: Vec<u8>,
    to: Vec<GuestText>,
    receivers: u64,
    body: Kept,
    subject: Option<Vec<u8>>,
    in_head: bool,
}

impl Default for Mail {
    fn default() -> Self {
        Self { from: Vec::new(), to: Vec::new(), receivers: 0, body: Kept::new(KEEP), subject: None, in_head: true }
    }
}

/// One connection's.
pub struct Smtp {
    ends: Ends,
    lines: Lines,
    next: Next,
    mail: Mail,
}

impl Smtp {
    pub fn new(ends: Ends) -> Self {
        Self { ends, lines: Lines::default(), next: Next::Command, mail: Mail::default() }
    }

    pub fn receive(&mut self, bytes: &[u8], talk: &mut Talk, context: &mut Context<'_, '_>) {
        for line in self.lines.add(bytes) {
            let reply = match self.next {
                Next::Command => self.command(&line, talk),
                Next::Secret(left) => self.secret(left),
                Next::Mail => self.line(&line, context),
            };
            talk.say(reply.as_bytes(), &mut context.world.budget);
        }
    }

    fn command(&mut self, line: &[u8], talk: &mut Talk) -> &'static str {
        let word = line.split(|byte| *byte == b' ').next().unwrap_or_default().to_ascii_uppercase();
        match word.as_slice() {
            b"EHLO" => "250-mail.local\r\n250-AUTH PLAIN LOGIN\r\n250 8BITMIME\r\n",
            b"HELO" | b"NOOP" | b"VRFY" => "250 OK\r\n",
            b"RSET" => {
                self.mail = Mail::default();
                "250 OK\r\n"
            }
            b"MAIL" => {
                self.mail = Mail { from: address(line), ..Mail::default() };
                "250 OK\r\n"
            }
            b"RCPT" => {
                self.mail.receivers += 1;
                if self.mail.to.len() < RECEIVERS {
                    self.mail.to.push(address(line).into());
                }
                "250 OK\r\n"
            }
            b"DATA" => {
                self.next = Next::Mail;
                "354 Go ahead\r\n"
            }
            b"AUTH" => self.auth(line),
            b"QUIT" => {
                talk.closes = true;
                "221 Bye\r\n"
            }
            _ => "502 Command not implemented\r\n",
        }
    }

    /// Any name and password is right (RFC 4954); what they are stands in what is kept of the conversation.
    fn auth(&mut self, line: &[u8]) -> &'static str {
        let words: Vec<Vec<u8>> = line.split(|byte| *byte == b' ').map(<[u8]>::to_ascii_uppercase).collect();
        let (way, given) = (words.get(1).map_or(&b""[..], Vec::as_slice), words.len() > 2);
        match (way, given) {
            (b"PLAIN", true) => "235 Authenticated\r\n",
            (b"PLAIN", false) => {
                self.next = Next::Secret(1);
                "334 \r\n"
            }
            (b"LOGIN", given) => {
                self.next = Next::Secret(if given { 1 } else { 2 });
                if given { "334 UGFzc3dvcmQ6\r\n" } else { "334 VXNlcm5hbWU6\r\n" }
            }
            _ => "504 Unknown mechanism\r\n",
        }
    }

    fn secret(&mut self, left: u8) -> &'static str {
        if left > 1 {
            self.next = Next::Secret(left - 1);
            return "334 UGFzc3dvcmQ6\r\n";
        }
        self.next = Next::Command;
        "235 Authenticated\r\n"
    }

    /// A line of the mail; a dot alone ends it, and one more in front of a dot is not of the mail (RFC 5321 section 4.5.2).
    fn line(&mut self, line: &[u8], context: &mut Context<'_, '_>) -> &'static str {
        if line == b"." {
            self.next = Next::Command;
            self.tell(true, context);
            return "250 OK: queued\r\n";
        }
        let line = if line.starts_with(b".") { &line[1..] } else { line };
        let mail = &mut self.mail;
        mail.in_head &= !line.is_empty();
        if mail.in_head && mail.subject.is_none() && line.to_ascii_lowercase().starts_with(b"subject:") {
            let subject = line[b"subject:".len()..].trim_ascii();
            mail.subject = Some(subject[..subject.len().min(LONGEST_ADDRESS)].to_vec());
        }
        mail.body.add(line, &mut context.world.budget);
        mail.body.add(b"\r\n", &mut context.world.budget);
        ""
    }

    fn tell(&mut self, whole: bool, context: &mut Context<'_, '_>) {
        let mail = std::mem::take(&mut self.mail);
        let artifact = mail.body.artifact();
        let kind = Kind::NetMail {
            origin: self.ends.origin,
            destination: self.ends.destination,
            from: mail.from.into(),
            to: mail.to,
            receivers: mail.receivers,
            subject: mail.subject.map(Into::into),
            bytes: mail.body.total(),
            sha256: artifact.as_ref().map(|artifact| artifact.sha256),
            complete: whole && mail.body.is_whole(),
            frame: context.at.frame,
        };
        context.tell(kind, artifact);
    }

    /// The connection has ended: a mail in the middle is told.
    pub fn end(mut self, context: &mut Context<'_, '_>) {
        if self.next == Next::Mail {
            self.tell(false, context);
        }
    }
}

/// What stands between angle brackets, or behind the colon.
fn address(line: &[u8]) -> Vec<u8> {
    let behind = line.iter().position(|byte| *byte == b':').map_or(&[][..], |at| &line[at + 1..]);
    let address = match behind.iter().position(|byte| *byte == b'<') {
        Some(at) => behind[at + 1..].split(|byte| *byte == b'>').next().unwrap_or_default(),
        None => behind.trim_ascii().split(|byte| *byte == b' ').next().unwrap_or_default(),
    };
    address[..address.len().min(LONGEST_ADDRESS)].to_vec()
}
