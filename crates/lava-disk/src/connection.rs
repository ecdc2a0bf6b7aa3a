//! One client: its requests in, its replies out.
//!
//! The connection's thread reads and answers. A change of a watched region goes to a second thread, because it may wait
//! for the policy: reads go on meanwhile (NBD lets replies come in any order). Replies gather in one buffer, which is
//! sent when no further request is waiting to be read: a client with many requests in flight gets many replies with one
//! system call.

use std::io::{BufReader, ErrorKind, Read, Write};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use lava_event::Range;

use crate::gate::Gate;
use crate::lock;
use crate::protocol::{Command, MOST, NbdError, REPLY_LEN, REQUEST_LEN, Request, WireError, reply_header};
use crate::storage::{Fill, Storage};
use crate::stuck::{Stuck, Taken};

/// Read from the socket at once, bytes; also when gathered replies are sent at the latest.
const BUFFER: usize = 256 << 10;

/// A change that may have to wait.
struct Waiting {
    cookie: u64,
    range: Range,
    /// The bytes of a WRITE.
    payload: Vec<u8>,
    /// For TRIM and WRITE_ZEROES: whether the space may be given back.
    zeroes: Option<bool>,
}

/// Replies that are not sent yet: `bytes[..used]`. The buffer only grows, so that it is not zeroed again and again.
struct Replies<W> {
    to: W,
    bytes: Vec<u8>,
    used: usize,
}

impl<W: Write> Replies<W> {
    fn add(&mut self, cookie: u64, result: Result<(), NbdError>) -> Result<(), WireError> {
        self.room(REPLY_LEN).copy_from_slice(&reply_header(cookie, result));
        self.used += REPLY_LEN;
        if self.used >= BUFFER { self.send() } else { Ok(()) }
    }

    /// Answers a READ with what `read` puts into the buffer.
    fn add_data(
        &mut self,
        cookie: u64,
        len: usize,
        read: impl FnOnce(&mut [u8]) -> Result<(), NbdError>,
    ) -> Result<(), WireError> {
        let (header, data) = self.room(REPLY_LEN + len).split_at_mut(REPLY_LEN);
        let result = read(data);
        header.copy_from_slice(&reply_header(cookie, result));
        self.used += if result.is_ok() { REPLY_LEN + len } else { REPLY_LEN };
        if self.used >= BUFFER { self.send() } else { Ok(()) }
    }

    fn room(&mut self, len: usize) -> &mut [u8] {
        let end = self.used + len;
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        &mut self.bytes[self.used..end]
    }

    fn send(&mut self) -> Result<(), WireError> {
        let used = std::mem::take(&mut self.used);
        Ok(self.to.write_all(&self.bytes[..used])?)
    }
}

/// The disk that a connection is about.
#[derive(Clone, Copy)]
pub(crate) struct Disk<'a> {
    pub(crate) storage: &'a Storage,
    pub(crate) gate: &'a Gate,
    pub(crate) stuck: &'a Stuck,
}

/// Serves requests until the client says goodbye, hangs up or breaks the rules.
pub(crate) fn serve(from: impl Read + Taken, to: impl Write + Send, disk: Disk<'_>) -> Result<(), WireError> {
    let replies = Mutex::new(Replies { to, bytes: Vec::new(), used: 0 });
    let gate = disk.gate;
    let goodbye = std::thread::scope(|scope| {
        // One waiting, one at the gate, one being read: that bounds the memory.
        let (waiting, at_the_gate) = sync_channel(1);
        let to_reply = &replies;
        scope.spawn(move || wait_at_the_gate(&at_the_gate, gate, to_reply));
        let from = BufReader::with_capacity(BUFFER, from);
        let mut connection = Connection { from, replies: &replies, disk, waiting, payload: Vec::new(), alone: None };
        let ended = connection.run();
        if !matches!(ended, Ok(true)) {
            disk.stuck.broke(connection.alone);
        }
        // Then it is known why.
        if connection.alone.is_some() { Ok(false) } else { ended }
    })?;
    if goodbye { lock(&replies).send() } else { Ok(()) }
}

fn wait_at_the_gate<W: Write>(waiting: &Receiver<Waiting>, gate: &Gate, replies: &Mutex<Replies<W>>) {
    for Waiting { cookie, range, payload, zeroes } in waiting {
        let fill = zeroes.map_or(Fill::Bytes(&payload), |hole| Fill::Zeroes { hole });
        let result = gate.change(range, fill);
        let mut replies = lock(replies);
        // A reply that cannot be sent: the connection is broken, and the reading thread finds that out too.
        let _ = replies.add(cookie, result).and_then(|()| replies.send());
    }
}

struct Connection<'a, R, W> {
    from: BufReader<R>,
    replies: &'a Mutex<Replies<W>>,
    disk: Disk<'a>,
    waiting: SyncSender<Waiting>,
    payload: Vec<u8>,
    /// The read whose reply is on its way, and no other's.
    alone: Option<Range>,
}

impl<R: Read + Taken, W: Write> Connection<'_, R, W> {
    /// True if the client said goodbye.
    fn run(&mut self) -> Result<bool, WireError> {
        while let Some(header) = self.header()? {
            let request = Request::parse(&header)?;
            if request.payload {
                self.payload.resize(request.length as usize, 0);
                self.send_before_waiting_for(request.length as usize)?;
                self.from.read_exact(&mut self.payload)?;
            }
            if request.command == Some(Command::Disconnect) {
                return Ok(true);
            }
            self.answer(&request)?;
        }
        Ok(false)
    }

    /// The next header; `None` if the client hung up between two requests.
    fn header(&mut self) -> Result<Option<[u8; REQUEST_LEN]>, WireError> {
        self.send_before_waiting_for(REQUEST_LEN)?;
        let mut header = [0; REQUEST_LEN];
        loop {
            match self.from.read(&mut header[..1]) {
                Ok(0) => return Ok(None),
                Ok(_) => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
        self.from.read_exact(&mut header[1..])?;
        Ok(Some(header))
    }

    fn send_before_waiting_for(&self, len: usize) -> Result<(), WireError> {
        if self.from.buffer().len() >= len {
            return Ok(());
        }
        let mut replies = lock(self.replies);
        if replies.used > 0 { replies.send() } else { Ok(()) }
    }

    fn answer(&mut self, request: &Request) -> Result<(), WireError> {
        let range = request.range(self.disk.storage.size());
        match request.command {
            Some(Command::Read) => self.read(request),
            Some(Command::Write) => self.change(request, range, None),
            Some(Command::Trim) => self.change(request, range, Some(true)),
            Some(Command::WriteZeroes { hole }) => self.change(request, range, Some(hole)),
            Some(Command::Flush) => {
                // The overlay is not synced: it has no use once the host is down.
                self.disk.gate.tick();
                self.reply(request, Ok(()))
            }
            Some(Command::Disconnect) | None => self.reply(request, Err(NbdError::Invalid)),
        }
    }

    fn reply(&self, request: &Request, result: Result<(), NbdError>) -> Result<(), WireError> {
        lock(self.replies).add(request.cookie, result)
    }

    fn read(&mut self, request: &Request) -> Result<(), WireError> {
        let range = request.range(self.disk.storage.size()).filter(|_| request.length <= MOST);
        let Some(range) = range else { return self.reply(request, Err(NbdError::Invalid)) };
        let Disk { storage, gate, stuck } = self.disk;
        if stuck.refuses(range) {
            gate.read_refused(range);
            return self.reply(request, Err(NbdError::Io));
        }
        let careful = stuck.is_careful();
        let mut replies = lock(self.replies);
        if careful {
            replies.send()?;
            self.from.get_ref().watch(true);
            self.alone = Some(range);
        }
        replies.add_data(request.cookie, request.length as usize, |data| {
            storage.read(range.start, data).map_err(|error| NbdError::from(&error))
        })?;
        if careful {
            replies.send()?;
            if !self.from.get_ref().all_taken() {
                return Err(std::io::Error::from(ErrorKind::BrokenPipe).into());
            }
            self.alone = None;
            stuck.taken();
            self.from.get_ref().watch(stuck.is_careful());
        }
        Ok(())
    }

    fn change(&mut self, request: &Request, range: Option<Range>, zeroes: Option<bool>) -> Result<(), WireError> {
        let Some(range) = range else {
            // Section "Error values": ENOSPC for a write behind the end, EINVAL for a trim.
            let trim = request.command == Some(Command::Trim);
            return self.reply(request, Err(if trim { NbdError::Invalid } else { NbdError::NoSpace }));
        };
        if range.is_empty() {
            return self.reply(request, Ok(()));
        }
        if self.disk.gate.is_watched(range) {
            let payload = if zeroes.is_none() { std::mem::take(&mut self.payload) } else { Vec::new() };
            let sent = self.waiting.send(Waiting { cookie: request.cookie, range, payload, zeroes });
            // The other thread ends before this one only if it panicked.
            return sent.map_err(|_| std::io::Error::other("the gate is gone").into());
        }
        let fill = zeroes.map_or(Fill::Bytes(&self.payload), |hole| Fill::Zeroes { hole });
        let result = self.disk.gate.change(range, fill);
        self.reply(request, result)
    }
}
