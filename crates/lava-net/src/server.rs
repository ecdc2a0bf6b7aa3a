//! The thread that serves QEMU: waits, reads frames, records, reports, answers.
//!
//! Everything waits in `poll`, with [`NetServer::stop`](crate::NetServer::stop) as one of the things waited for; the
//! [`Outlet`] alone may hold the thread up, which holds the guest up: its frames wait in QEMU.
//!
//! In egress mode passt's frames are waited for too (`uplink`), and go the same way: reported and recorded before the guest has them.
//!
//! Limits: one connection at a time; another one waits until the first has ended.

use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use lava_event::{Action, Event, GapCause, Kind, Outlet, Produced, Source};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::capture::{Capture, Direction};
use crate::gate::{Gate, Outcomes, Waits};
use crate::peer::{Handled, Peer};
use crate::stream::{Deframer, Read};
use crate::uplink::Uplink;
use crate::world::{At, Told, World};
use crate::{Mode, NetConfig, NetError, NetSummary};

/// How old a recorded frame may be before it is in the file.
const FLUSH_EVERY: Duration = Duration::from_secs(1);
const READ_SIZE: usize = 64 << 10;

/// What a wait brought.
#[derive(PartialEq, Eq)]
enum Woken {
    Ready,
    /// The real network has something, or takes something.
    Outside,
    Stop,
    Time,
}

pub struct Server {
    listener: UnixListener,
    stop: UnixStream,
    peer: Peer,
    recorder: Recorder,
    /// The cable to the real network, as long as it is there.
    uplink: Option<Uplink>,
}

/// Frames that may leave: what they rest on is recorded and told.
struct Outgoing {
    /// For the guest, recorded.
    answers: Vec<Vec<u8>>,
    /// For the real network.
    onward: Vec<Vec<u8>>,
}

/// The capture and the outlet: what has to happen before an answer.
struct Recorder {
    capture: Capture,
    outlet: Arc<dyn Outlet>,
    fault: Option<String>,
    /// Why there is no way to the real network any more.
    outage: Option<String>,
    flushed: Instant,
    /// When time alone last did something.
    ticked: Duration,
    waits: Waits,
    /// What the policy answered, and what becomes of it, until the guest's answers are recorded.
    unsettled: Vec<(Event, Action, &'static str)>,
}

/// The gate for one frame, or for the passing of time.
struct Desk<'a> {
    recorder: &'a mut Recorder,
    /// The frame, and when it came, until it is recorded.
    frame: Option<(&'a [u8], Duration)>,
}

impl Desk<'_> {
    /// Records the frame, if it is not yet; false if there is no capture any more.
    fn record(&mut self) -> bool {
        let Some((frame, now)) = self.frame.take() else { return self.recorder.fault.is_none() };
        let length = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        self.recorder.record(frame, length, Direction::Inbound, now).is_some()
    }
}

impl Gate for Desk<'_> {
    fn waits(&self) -> Waits {
        self.recorder.waits
    }

    fn ask(&mut self, kind: Kind, outcomes: Outcomes) -> Action {
        if !self.record() {
            return Action::Deny;
        }
        self.recorder.flush(); // The frame an event names is in the file before the event leaves.
        let outlet = &self.recorder.outlet;
        let event = Event::new(outlet.now_ns(), Source::Net, kind);
        let action = outlet.ask(event.clone().into());
        self.recorder.unsettled.push((event, action, outcomes.of(action)));
        action
    }
}

impl Server {
    pub fn new(
        config: NetConfig,
        world: Option<World>,
        outlet: Arc<dyn Outlet>,
        stop: UnixStream,
    ) -> Result<Self, NetError> {
        let NetConfig { socket, capture: path, mac_of_guest, waits, mode, uplink, .. } = config;
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let start = u64::try_from(unix.as_nanos()).unwrap_or(0).saturating_sub(outlet.now_ns());
        let capture = Capture::create(&path, start).map_err(|source| NetError::Capture { path, source })?;
        let uplink = match (mode, uplink) {
            (Mode::Egress, Some(uplink)) => Some(Uplink::new(uplink).map_err(NetError::Uplink)?),
            (Mode::Egress, None) => return Err(NetError::Uplink(io::Error::other("none was given"))),
            _ => None,
        };
        let peer = match world {
            Some(world) if uplink.is_some() => Peer::with_egress(mac_of_guest, world, seed()),
            world => Peer::new(mac_of_guest, world, seed()),
        };
        let listener = UnixListener::bind(&socket)
            .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
            .map_err(|source| NetError::Socket { path: socket, source })?;
        let recorder = Recorder {
            capture,
            outlet,
            fault: None,
            outage: None,
            flushed: Instant::now(),
            ticked: Duration::ZERO,
            waits,
            unsettled: Vec::new(),
        };
        Ok(Self { listener, stop, peer, recorder, uplink })
    }

    pub fn run(mut self) -> NetSummary {
        loop {
            match wait(&self.listener, PollFlags::IN, &self.stop, None, &mut self.recorder, FLUSH_EVERY) {
                Ok(Woken::Ready) => {}
                Ok(Woken::Time | Woken::Outside) => continue,
                Ok(Woken::Stop) | Err(_) => break,
            }
            let Ok((stream, _)) = self.listener.accept() else { continue };
            if let Ok(Woken::Stop) = self.serve(stream) {
                break;
            }
            // The connection broke: QEMU comes back by itself.
        }
        let left = self.peer.end(self.recorder.now());
        self.recorder.tell(left);
        self.recorder.finish()
    }

    /// Serves one connection to its end.
    fn serve(&mut self, mut stream: UnixStream) -> io::Result<Woken> {
        stream.set_nonblocking(true)?;
        let mut deframer = Deframer::default();
        let mut buffer = vec![0; READ_SIZE];
        loop {
            let due = self.peer.deadline(self.recorder.now()).map_or(FLUSH_EVERY, |due| due.min(FLUSH_EVERY));
            // Who sends more than the real network takes is held back.
            let hold = self.uplink.as_ref().is_some_and(Uplink::is_full);
            let flags = if hold { PollFlags::empty() } else { PollFlags::IN };
            match wait(&stream, flags, &self.stop, self.uplink.as_ref(), &mut self.recorder, due)? {
                Woken::Ready => {}
                Woken::Outside => {
                    if self.outside(&mut stream)? == Woken::Stop {
                        return Ok(Woken::Stop);
                    }
                    // Who sends without end must not keep the guest from being heard.
                    if hold {
                        continue;
                    }
                }
                Woken::Time => {
                    if self.tick(&mut stream)? == Woken::Stop {
                        return Ok(Woken::Stop);
                    }
                    continue;
                }
                Woken::Stop => {
                    self.torn(&deframer);
                    return Ok(Woken::Stop);
                }
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
                let outgoing = match deframer.next() {
                    Read::More => break,
                    Read::Frame(frame) => self.recorder.inbound(&mut self.peer, frame),
                    Read::Broken { claimed, head } => {
                        self.recorder.record(head, claimed, Direction::Inbound, self.recorder.now());
                        return Ok(Woken::Ready);
                    }
                };
                if self.deliver(&mut stream, &outgoing)? == Woken::Stop {
                    return Ok(Woken::Stop);
                }
            }
            // A guest that never pauses must not keep time from passing.
            if self.tick(&mut stream)? == Woken::Stop {
                return Ok(Woken::Stop);
            }
        }
    }

    /// Does what is due by now.
    fn tick(&mut self, stream: &mut UnixStream) -> io::Result<Woken> {
        let now = self.recorder.now();
        if self.peer.deadline(now).is_none_or(|due| due > Duration::ZERO) && !self.recorder.late(now) {
            return Ok(Woken::Ready);
        }
        let handled = self.peer.tick(now, &mut Desk { recorder: &mut self.recorder, frame: None });
        let outgoing = self.recorder.report(handled);
        self.deliver(stream, &outgoing)
    }

    /// Takes what the real network has, and gives it what waits.
    fn outside(&mut self, stream: &mut UnixStream) -> io::Result<Woken> {
        let Some(uplink) = &mut self.uplink else { return Ok(Woken::Ready) };
        let frames = match uplink.exchange() {
            Ok(frames) => frames,
            Err(error) => return self.lost(stream, &error),
        };
        for frame in frames {
            let outgoing = self.recorder.arrived(&mut self.peer, &frame);
            if self.deliver(stream, &outgoing)? == Woken::Stop {
                return Ok(Woken::Stop);
            }
        }
        self.tick(stream)
    }

    /// passt is gone: what went through it has ended.
    fn lost(&mut self, stream: &mut UnixStream, error: &io::Error) -> io::Result<Woken> {
        self.uplink = None;
        let now = self.recorder.now();
        self.recorder.outage = Some(format!(
            "the way to the real network was gone after {:.1} s ({error}): its connections were reset, and no more were let through",
            now.as_secs_f64()
        ));
        let handled = self.peer.lost(now, &mut Desk { recorder: &mut self.recorder, frame: None });
        let outgoing = self.recorder.report(handled);
        self.send_all(stream, &outgoing.answers)
    }

    fn deliver(&mut self, stream: &mut UnixStream, Outgoing { answers, onward }: &Outgoing) -> io::Result<Woken> {
        if self.recorder.fault.is_some() {
            // Nothing more is recorded, so nothing more goes on: passt ends what is open.
            self.uplink = None;
        }
        if let Some(uplink) = self.uplink.as_mut().filter(|_| !onward.is_empty())
            && let Err(error) = uplink.send(onward)
            && self.lost(stream, &error)? == Woken::Stop
        {
            return Ok(Woken::Stop);
        }
        self.send_all(stream, answers)
    }

    fn send_all(&mut self, stream: &mut UnixStream, frames: &[Vec<u8>]) -> io::Result<Woken> {
        for frame in frames {
            if self.send(stream, frame)? == Woken::Stop {
                return Ok(Woken::Stop);
            }
        }
        Ok(Woken::Ready)
    }

    /// Records the frame that the connection's end tore.
    fn torn(&mut self, deframer: &Deframer) {
        if let Some((claimed, head)) = deframer.remainder() {
            self.recorder.record(head, claimed, Direction::Inbound, self.recorder.now());
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
                    let woken = wait(stream, PollFlags::OUT, &self.stop, None, &mut self.recorder, FLUSH_EVERY)?;
                    if woken == Woken::Stop {
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
    /// The session's clock.
    fn now(&self) -> Duration {
        Duration::from_nanos(self.outlet.now_ns())
    }

    /// True if nothing was done for a second by the passing of time alone.
    fn late(&mut self, now: Duration) -> bool {
        let late = now.saturating_sub(self.ticked) >= FLUSH_EVERY;
        if late {
            self.ticked = now;
        }
        late
    }

    /// Reports a frame of the real network's, and returns it for the guest, recorded, if it may have it.
    fn arrived(&mut self, peer: &mut Peer, frame: &[u8]) -> Outgoing {
        if self.fault.is_some() {
            return self.settled(Vec::new(), Vec::new());
        }
        let now = self.now();
        let handled = peer.arrived(frame, now, &mut Desk { recorder: self, frame: None });
        self.report(handled)
    }

    /// Records and reports a frame of the guest, and returns the answers, recorded too.
    fn inbound(&mut self, peer: &mut Peer, frame: &[u8]) -> Outgoing {
        if self.fault.is_some() {
            return self.settled(Vec::new(), Vec::new());
        }
        let at = At { now: self.now(), frame: self.capture.counts().0 + 1 };
        let mut desk = Desk { recorder: self, frame: Some((frame, at.now)) };
        let mut handled = peer.handle(frame, at, &mut desk);
        // Keys that a frame brings (TLS 1.2) open the frame itself, and readers want them first.
        desk.recorder.secrets(&std::mem::take(&mut handled.secrets));
        match desk.record() {
            true => self.report(handled),
            false => self.settled(Vec::new(), Vec::new()),
        }
    }

    /// Puts a frame into the capture; `None` if there is none any more.
    fn record(&mut self, frame: &[u8], length: u32, way: Direction, now: Duration) -> Option<u64> {
        if self.fault.is_some() {
            return None;
        }
        let recorded = self.capture.record(frame, length, way, u64::try_from(now.as_nanos()).unwrap_or(u64::MAX));
        let number = recorded.map_err(|error| self.fail(&error)).ok();
        if self.flushed.elapsed() >= FLUSH_EVERY {
            self.flush();
        }
        number.filter(|_| self.fault.is_none())
    }

    /// Puts keys into the capture.
    fn secrets(&mut self, lines: &str) {
        if !lines.is_empty() && self.fault.is_none() {
            self.capture.secrets(lines).unwrap_or_else(|error| self.fail(&error));
        }
    }

    /// Sends the events, and lets the answers through if all of them were sent; they are recorded.
    fn report(&mut self, handled: Handled) -> Outgoing {
        let Handled { told, secrets, mut answers, mut onward } = handled;
        self.secrets(&secrets);
        if !self.tell(told) {
            answers.clear();
            onward.clear();
        }
        answers.retain(|answer| {
            let length = u32::try_from(answer.len()).unwrap_or(u32::MAX);
            self.record(answer, length, Direction::Outbound, self.now()).is_some()
        });
        self.settled(answers, onward)
    }

    /// Says what became of what the policy was asked, now that the answers are recorded.
    fn settled(&mut self, answers: Vec<Vec<u8>>, mut onward: Vec<Vec<u8>>) -> Outgoing {
        if self.fault.is_some() {
            onward.clear();
        }
        for (event, action, outcome) in self.unsettled.drain(..) {
            let outcome =
                if self.fault.is_none() { outcome } else { "nothing: the network was silent, its capture had ended" };
            self.outlet.settle(&event, action, outcome);
        }
        Outgoing { answers, onward }
    }

    /// Sends events; true if all were sent.
    fn tell(&mut self, told: Vec<Told>) -> bool {
        if !told.is_empty() {
            self.flush(); // The frame an event names is in the file before the event leaves.
        }
        told.into_iter().all(|told| {
            let records = self.fault.is_none();
            if records {
                self.emit(told);
            }
            records
        })
    }

    fn emit(&self, (kind, artifacts): Told) {
        self.outlet.emit(Produced { event: Event::new(self.outlet.now_ns(), Source::Net, kind), artifacts });
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
        self.emit((Kind::VmGap { at: Source::Net, cause: GapCause::ProducerDied, missing: None, detail }, Vec::new()));
    }

    fn finish(mut self) -> NetSummary {
        if self.fault.is_none() {
            self.capture.finish().unwrap_or_else(|error| self.fail(&error));
        }
        let (frames, bytes) = self.capture.counts();
        NetSummary { frames, bytes, fault: self.fault, outage: self.outage }
    }
}

fn again(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// Something that differs from session to session.
fn seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::hash::RandomState::new().build_hasher().finish()
}

/// Waits until `what` is ready (or broken, which reading or writing will tell), the cable to the real network is, the server is to
/// stop, or `limit` has passed; keeps the capture fresh.
fn wait(
    what: &impl AsFd,
    flags: PollFlags,
    stop: &UnixStream,
    uplink: Option<&Uplink>,
    recorder: &mut Recorder,
    limit: Duration,
) -> io::Result<Woken> {
    let limit = Timespec { tv_sec: i64::try_from(limit.as_secs()).unwrap_or(1), tv_nsec: limit.subsec_nanos().into() };
    loop {
        let mut fds = vec![PollFd::new(what, flags), PollFd::new(stop, PollFlags::IN)];
        fds.extend(uplink.map(|uplink| PollFd::new(uplink, uplink.wants())));
        match poll(&mut fds, Some(&limit)) {
            Ok(0) => {
                if recorder.flushed.elapsed() >= FLUSH_EVERY {
                    recorder.flush();
                }
                return Ok(Woken::Time);
            }
            Ok(_) if !fds[1].revents().is_empty() => return Ok(Woken::Stop),
            Ok(_) if fds.get(2).is_some_and(|outside| !outside.revents().is_empty()) => return Ok(Woken::Outside),
            Ok(_) => return Ok(Woken::Ready),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
