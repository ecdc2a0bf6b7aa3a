//! TLS that ends with us: the session's authority signs for the name that the guest asks for, and what is spoken within is
//! another service.

use std::io::{Read as _, Write as _};
use std::sync::Arc;

use rustls::ServerConnection;

use super::hello::{self, Hello, Read};
use super::{Record, Service};
use crate::authority::Secrets;
use crate::world::{Context, Ends};

/// Plain bytes that are encrypted at a time.
const PIECE: usize = 16 << 10;

enum State {
    /// The hello is not whole.
    Hello(Vec<u8>),
    Running(Box<ServerConnection>),
    /// It failed; what is left of it is the alert.
    Over,
}

/// One TLS connection.
pub struct Tls {
    ends: Ends,
    state: State,
    hello: Hello,
    secrets: Arc<Secrets>,
    /// How it began was told.
    told: bool,
    inner: Box<Service>,
    /// For the guest, encrypted.
    wire: Vec<u8>,
    closed: bool,
}

impl Tls {
    pub fn new(ends: Ends) -> Self {
        Self {
            ends,
            state: State::Hello(Vec::new()),
            hello: Hello::default(),
            secrets: Arc::default(),
            told: false,
            inner: Box::new(Service::within_tls(ends)),
            wire: Vec::new(),
            closed: false,
        }
    }

    pub fn hungry(&self) -> bool {
        self.wire.len() < PIECE && self.inner.hungry()
    }

    pub fn receive(&mut self, bytes: &[u8], context: &mut Context<'_, '_>) {
        match &mut self.state {
            State::Hello(first) => {
                first.extend_from_slice(bytes);
                match hello::read(first) {
                    Read::More if first.len() <= hello::LONGEST => {}
                    Read::More | Read::Bad => self.fail("the guest's hello is none", context),
                    Read::Whole(hello) => {
                        let first = std::mem::take(first);
                        self.hello = hello;
                        self.begin(context);
                        self.take(&first, context);
                    }
                }
            }
            State::Running(_) => self.take(bytes, context),
            State::Over => {}
        }
        context.world.secrets.push_str(&self.secrets.take());
    }

    fn begin(&mut self, context: &mut Context<'_, '_>) {
        let name = match &self.hello.server_name {
            Some(name) => String::from_utf8_lossy(name).into_owned(),
            None => self.ends.destination.address.to_string(),
        };
        let Some(authority) = &mut context.world.authority else {
            return self.fail("there is no authority", context);
        };
        match authority.serve(&name, self.secrets.clone()) {
            Ok(connection) => self.state = State::Running(Box::new(connection)),
            Err(error) => self.fail(&error.to_string(), context),
        }
    }

    fn take(&mut self, mut bytes: &[u8], context: &mut Context<'_, '_>) {
        while !bytes.is_empty() {
            let State::Running(connection) = &mut self.state else { return };
            // It takes at least one byte, or says that it takes no more.
            if !matches!(connection.read_tls(&mut bytes), Ok(1..)) {
                return self.fail("more came than TLS allows", context);
            }
            let state = match connection.process_new_packets() {
                Ok(state) => state,
                Err(error) => {
                    let _ = connection.write_tls(&mut self.wire); // Into memory: it cannot fail.
                    return self.fail(&error.to_string(), context);
                }
            };
            let mut plain = vec![0; state.plaintext_bytes_to_read()];
            let _ = connection.reader().read_exact(&mut plain); // So many are there.
            if !connection.is_handshaking() && !self.told {
                let version = connection.protocol_version().and_then(|version| version.as_str()).unwrap_or_default();
                self.tell(&version.replace('_', "."), "established", context);
                self.inner.opened(context);
            }
            if !plain.is_empty() {
                self.inner.receive(&plain, context);
            }
            if state.peer_has_closed() {
                self.inner.guest_closed(context);
            }
        }
    }

    fn fail(&mut self, why: &str, context: &mut Context<'_, '_>) {
        if !self.told {
            self.tell("", why, context);
        }
        self.state = State::Over;
    }

    fn tell(&mut self, version: &str, outcome: &str, context: &mut Context<'_, '_>) {
        self.told = true;
        let kind = self.hello.told(self.ends, version, outcome, context.at.frame);
        context.tell(kind, None);
    }

    pub fn produce(&mut self, room: usize) -> Vec<u8> {
        while let State::Running(connection) = &mut self.state
            && self.wire.len() < room
        {
            if connection.wants_write() {
                // Into memory: it cannot fail.
                let _ = connection.write_tls(&mut self.wire);
                continue;
            }
            if connection.is_handshaking() {
                break;
            }
            let plain = self.inner.produce(PIECE);
            if !plain.is_empty() {
                // A piece is less than what rustls takes at a time (64 KiB).
                let _ = connection.writer().write_all(&plain);
            } else if self.inner.finished() && !self.closed {
                self.closed = true;
                connection.send_close_notify();
            } else {
                break;
            }
        }
        let rest = self.wire.split_off(room.min(self.wire.len()));
        std::mem::replace(&mut self.wire, rest)
    }

    pub fn guest_closed(&mut self, context: &mut Context<'_, '_>) {
        if !self.told {
            self.fail("the guest left before it was agreed upon", context);
        }
        self.inner.guest_closed(context);
    }

    pub fn finished(&self) -> bool {
        let over = match self.state {
            State::Running(_) => self.closed,
            State::Hello(_) => false,
            State::Over => true,
        };
        over && self.wire.is_empty()
    }

    pub fn end(mut self, context: &mut Context<'_, '_>) -> Record {
        if !self.told {
            self.fail("the guest left before it was agreed upon", context);
        }
        let record = self.inner.end(context);
        let silent = record.application == "unknown" && record.sent.is_none();
        Record { application: if silent { "tls" } else { record.application }, ..record }
    }
}
