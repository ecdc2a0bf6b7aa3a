//! What is spoken over a connection: the first bytes tell, or the port where the host speaks first.
//!
//! A service is a state machine: bytes of the guest go in, bytes for the guest come out, events are told on the way. No I/O, no
//! clock. Whatever is not understood is recorded and never answered.
//!
//! Limits: of each direction the first [`KEEP`] bytes are kept; what waits to be sent is bounded by not taking more from the
//! guest meanwhile (TCP holds it back).

use std::collections::VecDeque;
use std::sync::Arc;

use lava_event::Artifact;

use crate::world::{Context, Ends, Kept};

/// Bytes of each direction that are kept.
pub const KEEP: usize = 1 << 20;
/// Pieces that may wait to be sent before more is taken from the guest.
const MOST_WAITING: usize = 16;

/// What a host says first, by port: enough for a client to go on, and for a scanner to believe it.
const BANNERS: &[(u16, &str, &str)] = &[
    (21, "ftp", "220 FTP server ready.\r\n"),
    (22, "ssh", "SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n"),
    (23, "telnet", "login: "),
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

/// One side of a conversation: ours.
pub struct Service {
    application: &'static str,
    output: Output,
    closes: bool,
    sent: Kept,
    received: Kept,
    greeting: &'static str,
}

impl Service {
    /// For a connection to `ends.destination`.
    pub fn new(ends: Ends) -> Self {
        let known = BANNERS.iter().find(|(port, _, _)| *port == ends.destination.port);
        let (application, greeting) = known.map_or(("unknown", ""), |(_, name, text)| (*name, *text));
        Self {
            application,
            output: Output::default(),
            closes: false,
            sent: Kept::new(KEEP),
            received: Kept::new(KEEP),
            greeting,
        }
    }

    /// The connection is there.
    pub fn opened(&mut self) {
        self.output.push(self.greeting.as_bytes());
    }

    /// True if more may come from the guest.
    pub fn hungry(&self) -> bool {
        self.output.0.len() < MOST_WAITING
    }

    /// Bytes of the guest.
    pub fn receive(&mut self, bytes: &[u8], context: &mut Context<'_>) {
        self.sent.add(bytes, &mut context.world.budget);
    }

    /// Bytes for the guest, at most `room`.
    pub fn produce(&mut self, room: usize) -> Vec<u8> {
        self.output.take(room)
    }

    /// The guest says no more.
    pub fn guest_closed(&mut self, _: &mut Context<'_>) {
        self.closes = true;
    }

    /// True if we say no more: the connection is to be closed.
    pub fn finished(&self) -> bool {
        self.closes && self.output.is_empty()
    }

    /// The conversation has ended.
    pub fn end(self, _: &mut Context<'_>) -> Record {
        Record {
            application: self.application,
            complete: self.sent.is_whole() && self.received.is_whole(),
            sent: self.sent.artifact(),
            received: self.received.artifact(),
        }
    }
}
