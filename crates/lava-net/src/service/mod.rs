//! What is spoken over a connection: the first bytes tell, or the port where the host speaks first.
//!
//! A service is a state machine: bytes of the guest go in, bytes for the guest come out, events are told on the way. No I/O, no
//! clock. Whatever is not understood is recorded and never answered.
//!
//! Limits: of each direction the first [`KEEP`] bytes are kept; what waits to be sent is bounded by not taking more from the
//! guest meanwhile (TCP holds it back).

pub mod hello;
mod http;
mod irc;
mod names;
mod smtp;
mod telnet;
mod tls;

use std::collections::VecDeque;
use std::sync::Arc;

use lava_event::Artifact;

use crate::world::{Budget, Context, Ends, Kept};
use http::Http;
use irc::Irc;
use names::Names;
use smtp::Smtp;
use telnet::Telnet;
use tls::Tls;

/// Bytes of each direction that are kept.
pub const KEEP: usize = 1 << 20;
/// Pieces that may wait to be sent before more is taken from the guest.
const MOST_WAITING: usize = 16;

/// Bytes that are looked at before a protocol counts as unknown.
const SNIFFED: usize = 16;

/// What a host says first, by port: enough for a client to go on, and for a scanner to believe it.
const BANNERS: &[(u16, &str, &str)] = &[
    (21, "ftp", "220 FTP server ready.\r\n"),
    (22, "ssh", "SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n"),
    (110, "pop3", "+OK POP3 server ready.\r\n"),
    (143, "imap", "* OK IMAP4rev1 server ready.\r\n"),
];

/// What waits to be sent.
#[derive(Debug, Default)]
pub struct Output(VecDeque<(Arc<[u8]>, usize)>);

impl Output {
    /// Adds a piece.
    pub fn push(&mut self, bytes: impl Into<Arc<[u8]>>) {
        let bytes = bytes.into();
        if !bytes.is_empty() {
            self.0.push_back((bytes, 0));
        }
    }

    /// Takes at most `room` bytes.
    pub fn take(&mut self, room: usize) -> Vec<u8> {
        let mut taken = Vec::new();
        while let Some((bytes, at)) = self.0.front_mut() {
            let count = (room - taken.len()).min(bytes.len() - *at);
            taken.extend_from_slice(&bytes[*at..*at + count]);
            *at += count;
            if *at < bytes.len() {
                break;
            }
            self.0.pop_front();
        }
        taken
    }

    /// True if nothing waits.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What is known at a conversation's end.
pub struct Record {
    /// What was spoken.
    pub application: &'static str,
    /// The first of what the guest sent.
    pub sent: Option<Artifact>,
    /// The first of what it was sent.
    pub received: Option<Artifact>,
    /// Both are all there was.
    pub complete: bool,
}

/// What is said in a conversation that is kept, both ways.
pub struct Talk {
    output: Output,
    closes: bool,
    sent: Kept,
    received: Kept,
}

impl Talk {
    /// Says something to the guest.
    fn say(&mut self, bytes: &[u8], budget: &mut Budget) {
        self.received.add(bytes, budget);
        self.output.push(bytes);
    }
}

/// What is spoken.
enum Protocol {
    /// Not known yet: the first bytes.
    Unsure(Vec<u8>),
    /// Taken and never answered.
    Silent,
    Http(Http),
    Tls(Box<Tls>),
    Smtp(Smtp),
    Irc(Irc),
    Telnet(Telnet),
    Names(Names),
}

/// One side of a conversation: ours.
pub struct Service {
    ends: Ends,
    within_tls: bool,
    application: &'static str,
    protocol: Protocol,
    talk: Talk,
    greeting: &'static str,
}

impl Service {
    /// For a connection to `ends.destination`.
    pub fn new(ends: Ends) -> Self {
        Self::with(ends, false)
    }

    /// For what is spoken within a TLS connection.
    fn within_tls(ends: Ends) -> Self {
        Self::with(ends, true)
    }

    fn with(ends: Ends, within_tls: bool) -> Self {
        let port = ends.destination.port;
        let known = BANNERS.iter().find(|(known, _, _)| *known == port);
        let (mut application, mut greeting) = known.map_or(("unknown", ""), |(_, name, text)| (*name, *text));
        let mut protocol = if known.is_some() { Protocol::Silent } else { Protocol::Unsure(Vec::new()) };
        if smtp::PORTS.contains(&port) || (within_tls && port == smtp::PORT_TLS) {
            (application, greeting, protocol) = ("smtp", smtp::GREETING, Protocol::Smtp(Smtp::new(ends)));
        } else if port == telnet::PORT {
            (application, greeting, protocol) = ("telnet", telnet::GREETING, Protocol::Telnet(Telnet::default()));
        } else if port == names::PORT {
            (application, protocol) = ("dns", Protocol::Names(Names::new(ends)));
        }
        let talk = Talk { output: Output::default(), closes: false, sent: Kept::new(KEEP), received: Kept::new(KEEP) };
        Self { ends, within_tls, application, protocol, talk, greeting }
    }

    /// The connection is there.
    pub fn opened(&mut self, context: &mut Context<'_, '_>) {
        self.talk.say(self.greeting.as_bytes(), &mut context.world.budget);
    }

    /// True if more may come from the guest.
    pub fn hungry(&self) -> bool {
        match &self.protocol {
            Protocol::Tls(tls) => tls.hungry(),
            _ => self.talk.output.0.len() < MOST_WAITING,
        }
    }

    /// Bytes of the guest.
    pub fn receive(&mut self, bytes: &[u8], context: &mut Context<'_, '_>) {
        let talk = &mut self.talk;
        match &mut self.protocol {
            Protocol::Unsure(first) => {
                first.extend_from_slice(bytes);
                if let Some((application, protocol)) = recognise(first, self.ends, self.within_tls) {
                    let first = std::mem::take(first);
                    (self.application, self.protocol) = (application, protocol);
                    self.receive(&first, context);
                }
                return;
            }
            Protocol::Http(http) => {
                http.receive(bytes, &mut talk.output, context);
                talk.closes |= http.is_over();
                return;
            }
            Protocol::Tls(tls) => return tls.receive(bytes, context),
            _ => talk.sent.add(bytes, &mut context.world.budget),
        }
        match &mut self.protocol {
            Protocol::Smtp(smtp) => smtp.receive(bytes, talk, context),
            Protocol::Irc(irc) => irc.receive(bytes, talk, context),
            Protocol::Telnet(telnet) => telnet.receive(bytes, talk, context),
            Protocol::Names(names) => names.receive(bytes, talk, context),
            _ => {}
        }
    }

    /// Bytes for the guest, at most `room`.
    pub fn produce(&mut self, room: usize) -> Vec<u8> {
        match &mut self.protocol {
            Protocol::Tls(tls) => tls.produce(room),
            _ => self.talk.output.take(room),
        }
    }

    /// The guest says no more.
    pub fn guest_closed(&mut self, context: &mut Context<'_, '_>) {
        match &mut self.protocol {
            Protocol::Tls(tls) => tls.guest_closed(context),
            _ => self.talk.closes = true,
        }
    }

    /// True if we say no more: the connection is to be closed.
    pub fn finished(&self) -> bool {
        match &self.protocol {
            Protocol::Tls(tls) => tls.finished(),
            _ => self.talk.closes && self.talk.output.is_empty(),
        }
    }

    /// The conversation has ended.
    pub fn end(mut self, context: &mut Context<'_, '_>) -> Record {
        match self.protocol {
            Protocol::Tls(tls) => return tls.end(context),
            Protocol::Http(http) => http.end(context),
            Protocol::Smtp(smtp) => smtp.end(context),
            Protocol::Unsure(first) => self.talk.sent.add(&first, &mut context.world.budget),
            _ => {}
        }
        Record {
            application: self.application,
            complete: self.talk.sent.is_whole() && self.talk.received.is_whole(),
            sent: self.talk.sent.artifact(),
            received: self.talk.received.artifact(),
        }
    }
}

/// What the first bytes are the beginning of; `None` while that is not sure.
fn recognise(first: &[u8], ends: Ends, within_tls: bool) -> Option<(&'static str, Protocol)> {
    // Content type 22 and major version 3 (RFC 8446 section 5.1).
    let tls = !within_tls && b"\x16\x03".starts_with(&first[..first.len().min(2)]);
    match http::sniff(first) {
        Some(true) => Some(("http", Protocol::Http(Http::new(ends, within_tls)))),
        _ if tls => (first.len() > 1).then(|| ("tls", Protocol::Tls(Box::new(Tls::new(ends))))),
        _ if irc::sniff(first) => Some(("irc", Protocol::Irc(Irc::default()))),
        None if first.len() < SNIFFED => None,
        _ if irc::may_be(first) => None,
        _ => Some(("unknown", Protocol::Silent)),
    }
}

/// Whole lines out of a stream of bytes, without their ends. What is longer than `LONGEST` comes in parts.
#[derive(Debug, Default)]
struct Lines(Vec<u8>);

impl Lines {
    /// Longest line, bytes: SMTP's and IRC's are shorter (RFC 5321 section 4.5.3.1, RFC 2812 section 2.3).
    const LONGEST: usize = 4096;

    /// Adds bytes and gives the lines that are whole now.
    fn add(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut lines = Vec::new();
        for &byte in bytes {
            if byte == b'\n' || self.0.len() >= Self::LONGEST {
                let mut line = std::mem::take(&mut self.0);
                if line.last() == Some(&b'\r') {
                    line.pop();
                }
                lines.push(line);
            }
            if byte != b'\n' {
                self.0.push(byte);
            }
        }
        lines
    }
}
