//! The merger: the one place where `seq` is given.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use lava_event::codec::{self, Frame};
use lava_event::{Artifact, Event, GapCause, Kind, Produced, Source};
use lava_ring::Consumer;

use super::owners::Owners;
use super::{Asker, Item, Message, Reply, TapAnswers};

/// How long an event may be overtaken, ns.
const WINDOW_NS: u64 = 2_000_000;
/// How long the rings may lie untouched.
const TICK: Duration = Duration::from_millis(2);
/// How often to look if there is no tap.
const IDLE: Duration = Duration::from_millis(50);
/// Longest content of one file that the tap may send, bytes.
const MAX_CONTENT: usize = 64 << 20;

/// Where the tap's frames come from.
pub(crate) trait Rings: Send {
    /// Gives each frame with its ring's number; an error is damage that cannot be repaired.
    fn drain(&mut self, take: &mut dyn FnMut(u32, &[u8])) -> Result<usize, String>;
    /// True once a tap has been there.
    fn attached(&self) -> bool;
    /// True if it left in order.
    fn closed(&self) -> bool;
    /// The way back.
    fn answers(&self) -> TapAnswers;
}

impl Rings for Consumer {
    fn drain(&mut self, take: &mut dyn FnMut(u32, &[u8])) -> Result<usize, String> {
        Self::drain(self, take).map_err(|error| error.to_string())
    }
    fn attached(&self) -> bool {
        Self::attached(self)
    }
    fn closed(&self) -> bool {
        Self::closed(self)
    }
    fn answers(&self) -> TapAnswers {
        let answerer = self.answerer();
        TapAnswers::new(move |ring, question, code| answerer.answer(ring, question, code))
    }
}

/// Why the machine must be stopped.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Trouble {
    /// The rings hold what is no event.
    Corrupt(String),
    /// The consumer has gone.
    Abandoned,
}

/// How the session ended, for the last event.
#[derive(Clone, Debug)]
pub(crate) struct Ending {
    pub time_ns: u64,
    pub reason: String,
    pub orderly: bool,
    pub detail: Option<String>,
    /// QEMU went without being asked to.
    pub crashed: bool,
}

/// What the merger did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Summary {
    pub events: u64,
    pub gaps: u64,
    pub orderly: bool,
}

type Key = Reverse<(u64, u64)>;

pub(crate) struct Merger<'a> {
    rings: Option<Box<dyn Rings>>,
    out: Sender<Item>,
    trouble: &'a dyn Fn(Trouble),
    /// Next number and time of the last event of each ring.
    numbers: BTreeMap<u32, (u64, u64)>,
    answers: Option<TapAnswers>,
    /// Content that came so far, by ring.
    content: BTreeMap<u32, Vec<u8>>,
    order: BinaryHeap<Key>,
    pending: BTreeMap<u64, Produced>,
    arrivals: u64,
    owners: Owners,
    seq: u64,
    gaps: u64,
    corrupt: bool,
    abandoned: bool,
}

impl<'a> Merger<'a> {
    /// `seq`: number of the last event before, 0 if the stream begins.
    pub fn new(rings: Option<Box<dyn Rings>>, out: Sender<Item>, trouble: &'a dyn Fn(Trouble), seq: u64) -> Self {
        Self {
            answers: rings.as_ref().map(|rings| rings.answers()),
            content: BTreeMap::new(),
            rings,
            out,
            trouble,
            numbers: BTreeMap::new(),
            order: BinaryHeap::new(),
            pending: BTreeMap::new(),
            arrivals: 0,
            owners: Owners::default(),
            seq,
            gaps: 0,
            corrupt: false,
            abandoned: false,
        }
    }

    /// Merges until [`Message::End`], or until all feeders are gone.
    pub fn run(mut self, inbox: &Receiver<Message>, now: &dyn Fn() -> u64) -> Summary {
        let tick = if self.rings.is_some() { TICK } else { IDLE };
        loop {
            let wait = if self.pending.is_empty() { tick } else { TICK };
            match inbox.recv_timeout(wait) {
                Ok(Message::End(ending)) => return self.end(ending, now()),
                Ok(message) => self.take(message, now()),
                Err(RecvTimeoutError::Timeout) => {
                    self.drain(now());
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let why = "the supervisor's thread is gone".to_owned();
                    let (time_ns, reason) = (now(), "crashed".to_owned());
                    return self
                        .end(Ending { time_ns, reason, orderly: false, detail: Some(why), crashed: true }, now());
                }
            }
            self.release(now().saturating_sub(WINDOW_NS));
        }
    }

    pub fn take(&mut self, message: Message, now: u64) {
        self.drain(now);
        match message {
            Message::Emit(produced) => {
                self.add(produced, now, 0);
            }
            Message::Ask(produced, to) => self.ask(produced, now, Asker::Thread(to)),
            Message::End(_) => {}
        }
    }

    /// A question overtakes the window: everything up to its time goes first, then it.
    fn ask(&mut self, mut produced: Produced, now: u64, to: Asker) {
        produced.event.time_ns = produced.event.time_ns.min(now);
        self.release(produced.event.time_ns);
        self.number(&mut produced.event);
        let reply = Reply { seq: self.seq, to: Some(to) };
        self.send(Item::Ask(produced, reply));
    }

    /// Puts an event in its place. No event is from the future: a time beyond now is not the clock's.
    fn add(&mut self, mut produced: Produced, now: u64, not_before: u64) -> u64 {
        produced.event.time_ns = produced.event.time_ns.min(now);
        let key = produced.event.time_ns.max(not_before);
        self.arrivals += 1;
        self.order.push(Reverse((key, self.arrivals)));
        self.pending.insert(self.arrivals, produced);
        key
    }

    /// Gives out what is at most that old.
    pub fn release(&mut self, until: u64) {
        while let Some(&Reverse((key, arrival))) = self.order.peek() {
            if key > until {
                return;
            }
            self.order.pop();
            if let Some(mut produced) = self.pending.remove(&arrival) {
                self.number(&mut produced.event);
                self.send(Item::Event(produced));
            }
        }
    }

    fn number(&mut self, event: &mut Event) {
        self.seq += 1;
        event.seq = self.seq;
        self.owners.join(event);
    }

    /// Waits for the consumer. If it is gone the item is dropped, and with it a question: that denies it.
    fn send(&mut self, item: Item) {
        if self.out.send(item).is_err() && !self.abandoned {
            self.abandoned = true;
            (self.trouble)(Trouble::Abandoned);
        }
    }

    /// Takes over what the tap has pushed.
    pub fn drain(&mut self, now: u64) -> usize {
        if self.corrupt {
            return 0;
        }
        let Some(mut rings) = self.rings.take() else { return 0 };
        let mut bad = None;
        let mut taken = 0;
        let drained = rings.drain(&mut |ring, frame| {
            if bad.is_none() {
                taken += 1;
                bad = self.frame(ring, frame, now).err();
            }
        });
        self.rings = Some(rings);
        if let Some(detail) = bad.or(drained.err()) {
            self.corrupt = true;
            self.gap(now, Source::Tap, GapCause::Corrupt, None, detail.clone());
            (self.trouble)(Trouble::Corrupt(detail));
        }
        taken
    }

    fn frame(&mut self, ring: u32, frame: &[u8], now: u64) -> Result<(), String> {
        let (number, body) = frame.split_first_chunk().ok_or_else(|| format!("ring {ring}: a frame without number"))?;
        let number = u64::from_le_bytes(*number);
        let frame = codec::decode(body).map_err(|error| format!("ring {ring}, frame {number}: {error}"))?;
        if let Frame::Event(event) | Frame::Ask(event) = &frame
            && !of_tap(event)
        {
            return Err(format!("ring {ring}, frame {number}: {} is nothing the tap says", event.kind.name()));
        }
        let (expected, last) = self.numbers.get(&ring).copied().unwrap_or((1, 0));
        if number != expected {
            let missing = number.checked_sub(expected);
            let detail = format!("ring {ring}: frame {expected} was expected, {number} came");
            self.gap(now, Source::Tap, GapCause::Numbering, missing, detail);
        }
        let key = match frame {
            Frame::Event(event) => {
                let produced = self.with_content(ring, event);
                self.add(produced, now, last)
            }
            Frame::Ask(event) => {
                let key = event.time_ns.min(now).max(last);
                if let Some(answers) = self.answers.clone() {
                    self.release(key);
                    self.ask(event.into(), now, Asker::Tap { ring, question: number, answers });
                }
                key
            }
            Frame::Settled(outcome) => match self.answers.as_ref().and_then(|answers| answers.settled(ring)) {
                Some(super::Answer { seq: subject, action, policy, rule, reason }) => {
                    let kind = Kind::VmDecision { subject, action, policy, rule, reason, outcome };
                    self.add(Event::new(now, Source::Microvisor, kind).into(), now, last)
                }
                None => last,
            },
            Frame::Content(piece) => {
                let content = self.content.entry(ring).or_default();
                if content.len() + piece.len() > MAX_CONTENT {
                    return Err(format!("ring {ring}, frame {number}: content longer than {MAX_CONTENT} bytes"));
                }
                content.extend_from_slice(&piece);
                last
            }
        };
        self.numbers.insert(ring, (number.saturating_add(1), key));
        Ok(())
    }

    /// Puts the content that came before a `file.content` event beside it.
    fn with_content(&mut self, ring: u32, mut event: Event) -> Produced {
        let Kind::FileContent { sha256, kept, .. } = &mut event.kind else { return event.into() };
        let artifact = Artifact::new(&self.content.remove(&ring).unwrap_or_default());
        (*sha256, *kept) = (artifact.sha256, artifact.bytes.len() as u64);
        Produced { event, artifacts: vec![artifact] }
    }

    fn gap(&mut self, now: u64, at: Source, cause: GapCause, missing: Option<u64>, detail: String) {
        self.gaps += 1;
        let kind = Kind::VmGap { at, cause, missing, detail };
        self.add(Event::new(now, Source::Microvisor, kind).into(), now, 0);
    }

    fn end(mut self, ending: Ending, now: u64) -> Summary {
        // QEMU is gone: what is in the rings is all there will be.
        while self.drain(now) > 0 {}
        let lost = match &self.rings {
            Some(_) if self.corrupt => None,
            Some(rings) if !rings.attached() => Some("the tap never began to report"),
            Some(rings) if !rings.closed() => Some("the tap ended without taking its leave"),
            _ if ending.crashed => Some("QEMU ended without being asked to"),
            _ => None,
        };
        if let Some(detail) = lost {
            let at = if self.rings.is_some() { Source::Tap } else { Source::Microvisor };
            self.gap(now, at, GapCause::ProducerDied, None, detail.to_owned());
        }
        self.release(u64::MAX);
        let orderly = ending.orderly && self.gaps == 0 && !self.abandoned;
        let kind = Kind::VmEnded { reason: ending.reason, orderly, detail: ending.detail };
        let mut last = Event::new(ending.time_ns.max(now), Source::Microvisor, kind);
        self.number(&mut last);
        self.send(Item::Event(last.into()));
        Summary { events: self.seq, gaps: self.gaps, orderly }
    }
}

/// True for what the tap may say. QEMU taken over by its guest must not forge what the other seams see.
fn of_tap(event: &Event) -> bool {
    let vm = event.kind.name().starts_with("vm.");
    let device = matches!(
        event.kind,
        Kind::DiskWrite { .. }
            | Kind::NetFlow { .. }
            | Kind::NetLease { .. }
            | Kind::NetDns { .. }
            | Kind::NetStream { .. }
            | Kind::NetHttp { .. }
            | Kind::NetTls { .. }
            | Kind::NetMail { .. }
    );
    let own = matches!(event.kind, Kind::VmIntrospection { .. } | Kind::VmGap { at: Source::Tap, .. });
    event.source == Source::Tap && !device && (!vm || own)
}
