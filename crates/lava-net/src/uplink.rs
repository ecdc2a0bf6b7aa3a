//! The cable to passt: a connected Unix socket, with the framing that QEMU has (`stream`).
//!
//! Limits: what passt does not take waits here; [`Uplink::is_full`] says when the guest has to be held back for it.

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use rustix::event::PollFlags;

use crate::stream::{Deframer, Read};

/// Bytes that may wait for passt before the guest is held back.
const FULL: usize = 1 << 20;
const READ_SIZE: usize = 64 << 10;

/// Our end.
#[derive(Debug)]
pub struct Uplink {
    stream: UnixStream,
    deframer: Deframer,
    waiting: Vec<u8>,
}

impl Uplink {
    /// Over a socket whose other end passt has.
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self { stream, deframer: Deframer::default(), waiting: Vec::new() })
    }

    /// True if no more should come before passt has taken some.
    pub const fn is_full(&self) -> bool {
        self.waiting.len() >= FULL
    }

    /// What to wait for.
    pub fn wants(&self) -> PollFlags {
        if self.waiting.is_empty() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT }
    }

    /// Sends frames, now or later. It fails if passt is gone.
    pub fn send(&mut self, frames: &[Vec<u8>]) -> io::Result<()> {
        for frame in frames {
            self.waiting.extend(u32::try_from(frame.len()).map_err(io::Error::other)?.to_be_bytes());
            self.waiting.extend(frame);
        }
        let mut done = 0;
        while done < self.waiting.len() {
            match self.stream.write(&self.waiting[done..]) {
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        self.waiting.drain(..done);
        Ok(())
    }

    /// Sends what waits, and gives the frames that have come. It fails if passt is gone.
    pub fn exchange(&mut self) -> io::Result<Vec<Vec<u8>>> {
        self.send(&[])?;
        let mut buffer = vec![0; READ_SIZE];
        match self.stream.read(&mut buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => self.deframer.push(&buffer[..count]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
        let mut frames = Vec::new();
        loop {
            match self.deframer.next() {
                Read::More => return Ok(frames),
                Read::Frame(frame) => frames.push(frame.to_vec()),
                Read::Broken { claimed, .. } => {
                    return Err(io::Error::other(format!("it sent no frame, but {claimed:#x}")));
                }
            }
        }
    }
}

impl AsFd for Uplink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
