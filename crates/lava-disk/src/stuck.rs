//! Reads whose replies QEMU cannot take.
//!
//! QEMU receives what is read straight into the guest's memory. Where the tap keeps that from being written (the kernel's code, its read-only
//! data), the system call fails (`EFAULT`): QEMU hangs up, connects again and asks the same again, without end. A guest that has a device
//! read into such a page would lose its disk by it, and nobody would hear of it.
//!
//! So after a connection has broken, replies to reads go out one by one, each once the client has taken the one before. The one that is on its
//! way, alone, when the connection breaks again is the one: it is answered with an I/O error the next time, and told.

use std::os::fd::AsFd;
use std::sync::Mutex;
use std::time::Duration;

use lava_event::Range;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt;

use crate::lock;

/// Replies that go out one by one after a break.
const CAREFUL: u32 = 256;
/// How long a client may take for one of them. It is not the guest that takes it, but QEMU.
const PATIENCE: Duration = Duration::from_secs(10);

/// A socket's buffer as it mostly is (`net.core.wmem_default`), half of it.
const BUFFER: usize = 104 << 10;

/// What is known of one disk's.
#[derive(Default)]
pub(crate) struct Stuck(Mutex<State>);

#[derive(Default)]
struct State {
    /// Replies that still go out one by one.
    careful: u32,
    /// The read that is to be refused.
    found: Option<Range>,
}

impl Stuck {
    /// A connection broke while the reply to that read was on its way alone, or none.
    pub(crate) fn broke(&self, alone: Option<Range>) {
        let mut state = lock(&self.0);
        state.careful = CAREFUL;
        state.found = alone.or(state.found);
    }

    /// True if the next reply to a read is to go out alone.
    pub(crate) fn is_careful(&self) -> bool {
        lock(&self.0).careful > 0
    }

    /// One that went out alone was taken.
    pub(crate) fn taken(&self) {
        let mut state = lock(&self.0);
        state.careful = state.careful.saturating_sub(1);
        if state.careful == 0 {
            // It was not asked again.
            state.found = None;
        }
    }

    /// True, once, for the read that was found.
    pub(crate) fn refuses(&self, range: Range) -> bool {
        let mut state = lock(&self.0);
        state.found.take_if(|found| *found == range).is_some()
    }
}

/// Sees whether the other end of a stream takes what it is sent.
pub(crate) trait Taken {
    /// True once all that was sent is taken, or if that can't be known; false if the other end hung up without.
    fn all_taken(&self) -> bool;
    /// Makes that known from here on, or lets it be.
    fn watch(&self, on: bool);
}

impl<F: AsFd> Taken for F {
    /// A Unix socket can be written to while a quarter of its buffer is used at most (Linux, net/unix/af_unix.c: `unix_writable`), and the
    /// smallest buffer is not four times the shortest message: so it can be if all is taken. Who closes the other end before that leaves an
    /// error here (`unix_release_sock`); who only shuts it down, what is not taken.
    fn all_taken(&self) -> bool {
        let mut this = [PollFd::new(self, PollFlags::OUT)];
        let timeout = Timespec { tv_sec: PATIENCE.as_secs().cast_signed(), tv_nsec: 0 };
        loop {
            match poll(&mut this, Some(&timeout)) {
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return true,
                Ok(0) => return true,
                Ok(_) => {
                    let seen = this[0].revents();
                    return seen.contains(PollFlags::OUT) && !seen.contains(PollFlags::ERR);
                }
            }
        }
    }

    fn watch(&self, on: bool) {
        // The kernel makes it the smallest it has (SOCK_MIN_SNDBUF), and of the other the double. If it refuses, what is on its way is not
        // known, and nothing is refused.
        let _ = sockopt::set_socket_send_buffer_size(self, if on { 1 } else { BUFFER });
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn one_read_is_refused_once() {
        let stuck = Stuck::default();
        let (one, other) = (Range { start: 512, end: 1024 }, Range { start: 512, end: 2048 });
        assert!(!stuck.is_careful() && !stuck.refuses(one));
        stuck.broke(None);
        assert!(stuck.is_careful() && !stuck.refuses(one));
        stuck.broke(Some(one));
        stuck.broke(None);
        assert!(!stuck.refuses(other) && stuck.refuses(one) && !stuck.refuses(one));
        stuck.broke(Some(one));
        (0..CAREFUL).for_each(|_| stuck.taken());
        assert!(!stuck.is_careful() && !stuck.refuses(one), "it was not asked again");
    }

    #[test]
    fn a_socket_tells_when_all_is_taken() {
        for size in [528usize, 4096, 100_000] {
            let (mut ours, mut theirs) = UnixStream::pair().unwrap();
            ours.watch(true);
            // Before the other thread's sleep may begin: this one may be kept waiting on a busy machine.
            let begun = std::time::Instant::now();
            let taking = std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(30));
                let mut bytes = vec![0; size];
                theirs.read_exact(&mut bytes).unwrap();
                std::thread::sleep(Duration::from_millis(30));
                theirs
            });
            ours.write_all(&vec![7; size]).unwrap();
            assert!(ours.all_taken());
            assert!(begun.elapsed() >= Duration::from_millis(30), "not before it was: {size}");
            drop(taking.join().unwrap());
            assert!(ours.all_taken(), "who hangs up then has taken all");

            for closes in [true, false] {
                let (mut ours, mut theirs) = UnixStream::pair().unwrap();
                ours.watch(true);
                let hanging_up = std::thread::spawn(move || {
                    theirs.read_exact(&mut [0; 16]).unwrap();
                    std::thread::sleep(Duration::from_millis(30));
                    theirs.shutdown(std::net::Shutdown::Both).unwrap();
                    if closes { None } else { Some(theirs) }
                });
                assert!(ours.write_all(&vec![7; size]).is_err() || !ours.all_taken(), "{size}");
                hanging_up.join().unwrap();
            }
        }
    }
}
