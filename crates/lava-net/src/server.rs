//! The thread that serves QEMU: waits, reads frames, records, reports, answers.
//!
//! Everything waits in `poll`, with [`NetServer::stop`](crate::NetServer::stop) as one of the things waited for; the
//! [`Outlet`] alone may hold the thread up, which holds the guest up: its frames wait in QEMU.
//!
//! Limits: one connection at a time; another one waits until the first has ended.

use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use lava_event::{Action, Event, GapCause, Kind, Outlet, Protocol, Source};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::capture::{Capture, Direction};
use crate::peer::{Handled, Peer};
use crate::stream::{Deframer, Read};
use crate::{NetConfig, NetError, NetSummary, lan};

/// How old a recorded frame may be before it is in the file.
const FLUSH_EVERY: Duration = Duration::from_secs(1);
const FLUSH_TIMEOUT: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };
const READ_SIZE: usize = 64 << 10;

/// What a wait brought.
#[derive(PartialEq, Eq)]
enum Woken {
    Ready,
    Stop,
}

pub struct Server {
    listener: UnixListener,
    stop: UnixStream,
    peer: Peer,
    recorder: Recorder,
}

/// The capture and the outlet: what has to happen before an answer.
struct Recorder {
    capture: Capture,
    outlet: Arc<dyn Outlet>,
    fault: Option<String>,
    flushed: Instant,
}

impl Server {
    pub fn new(config: NetConfig, outlet: Arc<dyn Outlet>, stop: UnixStream) -> Result<Self, NetError> {
        let NetConfig { socket, capture: path, mac_of_guest, mode } = config;
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let start = u64::try_from(unix.as_nanos()).unwrap_or(0).saturating_sub(outlet.now_ns());
        let capture = Capture::create(&path, start).map_err(|source| NetError::Capture { path, source })?;
        let listener = UnixListener::bind(&socket)
            .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
            .map_err(|source| NetError::Socket { path: socket, source })?;
        let recorder = Recorder { capture, outlet, fault: None, flushed: Instant::now() };
        Ok(Self { listener, stop, peer: Peer::new(mac_of_guest, mode), recorder })
    }

    pub fn run(mut self) -> NetSummary {
        while let Ok(Woken::Ready) = wait(&self.listener, PollFlags::IN, &self.stop, &mut self.recorder) {
            let Ok((stream, _)) = self.listener.accept() else { continue };
            if let Ok(Woken::Stop) = self.serve(stream) {
                break;
            }
            // The connection broke: QEMU comes back by itself.
        }
        self.recorder.finish()
    }

    /// Serves one connection to its end.
    fn serve(&mut self, mut stream: UnixStream) -> io::Result<Woken> {
        stream.set_nonblocking(true)?;
        let mut deframer = Deframer::default();
        let mut buffer = vec![0; READ_SIZE];
        loop {
            if wait(&stream, PollFlags::IN, &self.stop, &mut self.recorder)? == Woken::Stop {
                self.torn(&deframer);
                return Ok(Woken::Stop);
            }
            match stream.read(&mut buffer) {
                Ok(0) => {
                    self.torn(&deframer);
                    return Ok(Woken::Ready);
                }
                Ok(count) => deframer.push(&buffer[..count]),
                Err(error) if again(&error) => continue,
                Err(error) => {
                    self.torn(&deframer);
                    return Err(error);
                }
            }
            loop {
                let answer = match deframer.next() {
                    Read::More => break,
                    Read::Frame(frame) => self.recorder.inbound(&mut self.peer, frame),
                    Read::Broken { claimed, head } => {
                        self.recorder.record(head, claimed, Direction::Inbound);
                        return Ok(Woken::Ready);
                    }
                };
                let Some(answer) = answer else { continue };
                if self.send(&mut stream, &answer)? == Woken::Stop {
                    return Ok(Woken::Stop);
                }
            }
        }
    }

    /// Records the frame that the connection's end tore.
    fn torn(&mut self, deframer: &Deframer) {
        if let Some((claimed, head)) = deframer.remainder() {
            self.recorder.record(head, claimed, Direction::Inbound);
        }
    }

    fn send(&mut self, stream: &mut UnixStream, frame: &[u8]) -> io::Result<Woken> {
        let length = u32::try_from(frame.len()).map_err(io::Error::other)?;
        let message = [&length.to_be_bytes(), frame].concat();
        let mut rest = message.as_slice();
        while !rest.is_empty() {
            match stream.write(rest) {
                Ok(count) => rest = &rest[count..],
                Err(error) if again(&error) => {
                    if wait(stream, PollFlags::OUT, &self.stop, &mut self.recorder)? == Woken::Stop {
                        return Ok(Woken::Stop);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Woken::Ready)
    }
}

impl Recorder {
    /// Records and reports a frame of the guest, and returns the answer, recorded too.
    fn inbound(&mut self, peer: &mut Peer, frame: &[u8]) -> Option<Vec<u8>> {
        let number = self.record(frame, u32::try_from(frame.len()).unwrap_or(u32::MAX), Direction::Inbound)?;
        let handled = peer.handle(frame);
        let answer = self.report(handled, number)?;
        let length = u32::try_from(answer.len()).ok()?;
        self.record(&answer, length, Direction::Outbound).map(|_| answer)
    }

    /// Puts a frame into the capture; `None` if there is none any more.
    fn record(&mut self, frame: &[u8], length: u32, way: Direction) -> Option<u64> {
        if self.fault.is_some() {
            return None;
        }
        let recorded = self.capture.record(frame, length, way, self.outlet.now_ns());
        let number = recorded.map_err(|error| self.fail(&error)).ok();
        if self.flushed.elapsed() >= FLUSH_EVERY {
            self.flush();
        }
        number.filter(|_| self.fault.is_none())
    }

    /// Sends the events, and lets the answer through if all of them were admitted.
    fn report(&mut self, handled: Handled, frame: u64) -> Option<Vec<u8>> {
        let Handled { flow, lease, name, answer } = handled;
        let flow = flow.map(|((protocol, origin, destination), verdict)| Kind::NetFlow {
            protocol,
            origin,
            destination,
            answer: verdict.word().into(),
            frame,
        });
        let lease = lease.map(|lease| Kind::NetLease {
            address: lan::GUEST.into(),
            host_name: lease.host_name.map(Into::into),
            frame,
        });
        let name = name.map(|(origin, asked)| Kind::NetDns {
            protocol: Protocol::Udp,
            origin,
            question: asked.name.into(),
            qtype: asked.qtype,
            addresses: asked.address.into_iter().map(Into::into).collect(),
            frame,
        });
        if flow.is_some() || lease.is_some() || name.is_some() {
            self.flush(); // The frame an event names is in the file before the event leaves.
        }
        for kind in [flow, lease, name].into_iter().flatten() {
            if self.fault.is_some() || self.admit(kind) == Action::Deny {
                return None;
            }
        }
        answer
    }

    /// The one place where a flow or a lease can be made to wait for the policy ([`Outlet::ask`]). Today all pass.
    fn admit(&self, kind: Kind) -> Action {
        self.emit(kind);
        Action::Allow
    }

    fn emit(&self, kind: Kind) {
        self.outlet.emit(Event::new(self.outlet.now_ns(), Source::Net, kind).into());
    }

    fn flush(&mut self) {
        self.flushed = Instant::now();
        if self.fault.is_none() {
            self.capture.flush().unwrap_or_else(|error| self.fail(&error));
        }
    }

    fn fail(&mut self, error: &io::Error) {
        let fault = format!("traffic capture ended early: {error}; the network was silent from then on");
        let detail = fault.clone();
        self.fault = Some(fault);
        self.emit(Kind::VmGap { at: Source::Net, cause: GapCause::ProducerDied, missing: None, detail });
    }

    fn finish(mut self) -> NetSummary {
        if self.fault.is_none() {
            self.capture.finish().unwrap_or_else(|error| self.fail(&error));
        }
        let (frames, bytes) = self.capture.counts();
        NetSummary { frames, bytes, fault: self.fault }
    }
}

fn again(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// Waits until `what` is ready (or broken, which reading or writing will tell) or the server is to stop; keeps the
/// capture fresh meanwhile.
fn wait(what: &impl AsFd, flags: PollFlags, stop: &UnixStream, recorder: &mut Recorder) -> io::Result<Woken> {
    loop {
        let mut fds = [PollFd::new(what, flags), PollFd::new(stop, PollFlags::IN)];
        match poll(&mut fds, Some(&FLUSH_TIMEOUT)) {
            Ok(0) => recorder.flush(),
            Ok(_) if !fds[1].revents().is_empty() => return Ok(Woken::Stop),
            Ok(_) => return Ok(Woken::Ready),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
