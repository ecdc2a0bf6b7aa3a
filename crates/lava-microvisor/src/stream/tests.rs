use std::sync::{Arc, Mutex};

use crossbeam_channel::{bounded, unbounded};
use lava_event::{Action, Event, GapCause, Kind, Outlet, Produced, Source, codec};
use proptest::prelude::*;

use super::merge::Rings;
use super::*;

#[derive(Clone, Default)]
struct Fake(Arc<Mutex<FakeState>>);

#[derive(Default)]
struct FakeState {
    frames: Vec<(u32, Vec<u8>)>,
    damaged: bool,
    closed: bool,
    answers: Vec<(u32, u64, u8)>,
}

impl Rings for Fake {
    fn drain(&mut self, take: &mut dyn FnMut(u32, &[u8])) -> Result<usize, String> {
        let mut state = self.0.lock().expect("state");
        let frames = std::mem::take(&mut state.frames);
        frames.iter().for_each(|(ring, frame)| take(*ring, frame));
        if state.damaged { Err("damaged".into()) } else { Ok(frames.len()) }
    }
    fn attached(&self) -> bool {
        true
    }
    fn closed(&self) -> bool {
        self.0.lock().expect("state").closed
    }
    fn answers(&self) -> TapAnswers {
        let state = Arc::clone(&self.0);
        TapAnswers::new(move |ring, question, code| {
            state.lock().expect("state").answers.push((ring, question, code));
        })
    }
}

fn event(time_ns: u64, source: Source) -> Event {
    Event::new(time_ns, source, Kind::ProcessExit { code: Some(0), signal: None })
}

fn frame(number: u64, event: &Event) -> Vec<u8> {
    let mut out = number.to_le_bytes().to_vec();
    codec::encode(&codec::Frame::Event(event.clone()), &mut out);
    out
}

fn ending(orderly: bool) -> Ending {
    Ending { time_ns: 0, reason: "finished".into(), orderly, detail: None, crashed: !orderly }
}

/// Merges frames, which are all there from the start, with messages; no time passes.
fn check(
    frames: Vec<(u32, Vec<u8>)>,
    messages: Vec<Message>,
    prepare: impl Fn(&Fake),
) -> (Vec<Produced>, Vec<Trouble>) {
    let fake = Fake::default();
    fake.0.lock().expect("state").frames = frames;
    fake.0.lock().expect("state").closed = true;
    prepare(&fake);
    let (out, items) = unbounded();
    let (inbox, messages_in) = unbounded();
    messages.into_iter().for_each(|message| inbox.send(message).expect("inbox"));
    inbox.send(Message::End(ending(true))).expect("inbox");
    let troubles = Mutex::new(Vec::new());
    let note = |trouble| troubles.lock().expect("troubles").push(trouble);
    let summary = Merger::new(Some(Box::new(fake)), out, &note, 0).run(&messages_in, &|| 1000);
    let items: Vec<Produced> = items
        .iter()
        .map(|item| match item {
            Item::Event(produced) | Item::Ask(produced, _) => produced,
        })
        .collect();
    assert!(items.iter().zip(1..).all(|(item, seq)| item.event.seq == seq), "seq without gaps");
    assert_eq!(summary.events, items.len() as u64);
    assert!(
        matches!(items.last().map(|last| &last.event.kind), Some(Kind::VmEnded { orderly, .. }) if *orderly == summary.orderly)
    );
    (items, troubles.into_inner().expect("troubles"))
}

fn times(items: &[Produced]) -> Vec<(u64, Source)> {
    items[..items.len() - 1].iter().map(|item| (item.event.time_ns, item.event.source)).collect()
}

fn gaps(items: &[Produced]) -> Vec<(GapCause, Option<u64>)> {
    let gap = |item: &Produced| match &item.event.kind {
        Kind::VmGap { cause, missing, .. } => Some((cause.clone(), *missing)),
        _ => None,
    };
    items.iter().filter_map(gap).collect()
}

#[test]
fn what_a_vcpu_pushed_before_its_request_comes_first() {
    let frames = vec![
        (0, frame(1, &event(5, Source::Tap))),
        (1, frame(1, &event(3, Source::Tap))),
        (0, frame(2, &event(9, Source::Tap))),
    ];
    let (send, _answer) = bounded(1);
    let ask = Message::Ask(event(6, Source::Disk).into(), send);
    let (items, _) = check(frames, vec![Message::Emit(event(4, Source::Net).into()), ask], |_| {});
    use Source::{Disk, Net, Tap};
    assert_eq!(times(&items), [(3, Tap), (4, Net), (5, Tap), (6, Disk), (9, Tap)]);
}

#[test]
fn jumps_are_gaps() {
    let e = event(5, Source::Tap);
    let frames = vec![(0, frame(1, &e)), (0, frame(5, &e)), (0, frame(6, &e)), (0, frame(2, &e))];
    let (items, troubles) = check(frames, vec![], |_| {});
    assert_eq!(gaps(&items), [(GapCause::Numbering, Some(3)), (GapCause::Numbering, None)]);
    assert!(troubles.is_empty());
    assert_eq!(items.len(), 7);
}

#[test]
fn damage_stops_the_machine() {
    let forged = Event::new(0, Source::Tap, Kind::VmEnded { reason: "finished".into(), orderly: true, detail: None });
    for bad in [
        vec![1, 2],
        frame(1, &event(1, Source::Disk)),
        frame(1, &forged),
        [frame(1, &event(1, Source::Tap)), vec![0]].concat(),
    ] {
        let (items, troubles) = check(vec![(0, bad)], vec![], |_| {});
        assert_eq!(gaps(&items), [(GapCause::Corrupt, None)]);
        assert!(matches!(troubles[..], [Trouble::Corrupt(_)]));
    }
    let (items, _) = check(vec![], vec![], |fake| fake.0.lock().expect("state").damaged = true);
    assert_eq!(gaps(&items), [(GapCause::Corrupt, None)]);
}

#[test]
fn a_tap_that_died_is_a_gap_and_not_orderly() {
    let (items, _) = check(vec![], vec![], |fake| fake.0.lock().expect("state").closed = false);
    assert_eq!(gaps(&items), [(GapCause::ProducerDied, None)]);
    assert!(matches!(&items[1].event.kind, Kind::VmEnded { orderly: false, .. }));
}

#[test]
fn a_stream_that_goes_on_is_numbered_behind_what_was_before() {
    let (out, items) = unbounded();
    let (inbox, messages) = unbounded();
    inbox.send(Message::Emit(event(1, Source::Disk).into())).expect("inbox");
    inbox.send(Message::End(ending(true))).expect("inbox");
    let summary = Merger::new(None, out, &|_| {}, 41).run(&messages, &|| 9);
    let seqs: Vec<u64> = items
        .iter()
        .map(|item| match item {
            Item::Event(produced) | Item::Ask(produced, _) => produced.event.seq,
        })
        .collect();
    assert_eq!((seqs, summary.events), (vec![42, 43], 43));
}

#[test]
fn time_goes_on_though_the_host_has_not_been_up_so_long() {
    let long = 1u64 << 62;
    let (inbox, _messages) = bounded(1);
    let feeder = Feeder::new(inbox, crate::Origin::ago(long).monotonic_ns);
    let now = feeder.now_ns();
    assert!((long..long + 3_600_000_000_000).contains(&now), "{now}");
}

#[test]
fn a_decision_names_its_event() {
    let (inbox, messages) = bounded(4);
    let (out, items) = bounded(4);
    let feeder = Arc::new(Feeder::new(inbox, lava_ring::monotonic_ns()));
    let clock = Arc::clone(&feeder);
    let merger = std::thread::spawn(move || Merger::new(None, out, &|_| {}, 0).run(&messages, &|| clock.now_ns()));
    let disk = Arc::clone(&feeder);
    let asker = std::thread::spawn(move || {
        let (one, two) = (event(1, Source::Disk), event(2, Source::Disk));
        let (first, second) = (disk.ask(one.clone().into()), disk.ask(two.clone().into()));
        disk.settle(&two, second, "nothing");
        disk.settle(&one, first, "landed");
        disk.end(ending(true));
    });
    let mut decisions = Vec::new();
    for item in items {
        match item {
            Item::Ask(asked, reply) if asked.event.seq == 1 => reply.answer(Action::Allow, "p", Some("r".into()), None),
            Item::Ask(_, reply) => drop(reply),
            Item::Event(told) => {
                if let Kind::VmDecision { subject, action, policy, .. } = told.event.kind {
                    decisions.push((subject, action, policy));
                }
            }
        }
    }
    asker.join().expect("asker");
    assert!(merger.join().expect("merger").orderly);
    assert_eq!(decisions, [(2, Action::Deny, "none".to_owned()), (1, Action::Allow, "p".to_owned())]);
}

#[test]
fn a_consumer_that_left_denies() {
    let (inbox, messages) = bounded(4);
    let (out, items) = bounded(4);
    drop(items);
    let merger = std::thread::spawn(move || Merger::new(None, out, &|_| {}, 0).run(&messages, &|| 9));
    let feeder = Feeder::new(inbox, 0);
    assert_eq!(feeder.ask(event(1, Source::Disk).into()), Action::Deny);
    feeder.end(ending(true));
    assert!(!merger.join().expect("merger").orderly);
    assert_eq!(feeder.ask(event(1, Source::Disk).into()), Action::Deny);
}

proptest! {
    #[test]
    fn each_ring_keeps_its_order_and_nothing_is_lost(
        rings in proptest::collection::vec(proptest::collection::vec(0u64..2000, 0..20), 1..4),
        disk in proptest::collection::vec(0u64..1000, 0..10),
    ) {
        let mut frames = Vec::new();
        for (ring, times) in (0u32..).zip(&rings) {
            for (number, time) in (1..).zip(times) {
                let mut event = event(*time, Source::Tap);
                event.vcpu = Some(ring);
                event.kind = Kind::ProcessExit { code: Some(number), signal: None };
                frames.push((ring, frame(u64::from(number), &event)));
            }
        }
        let count = frames.len() + disk.len() + 1;
        let messages = disk.into_iter().map(|time| Message::Emit(event(time, Source::Disk).into())).collect();
        let (items, _) = check(frames, messages, |_| {});
        prop_assert_eq!(items.len(), count);
        for (ring, times) in (0u32..).zip(&rings) {
            let numbers: Vec<u32> = items.iter().filter(|item| item.event.vcpu == Some(ring)).filter_map(|item| match item.event.kind {
                Kind::ProcessExit { code, .. } => code,
                _ => None,
            }).collect();
            prop_assert_eq!(numbers, (1..=times.len() as u32).collect::<Vec<_>>());
        }
        prop_assert!(items.iter().all(|item| item.event.time_ns <= 1000));
    }

    #[test]
    fn hostile_frames_do_not_panic(frames in proptest::collection::vec((0u32..70, any::<Vec<u8>>()), 0..5)) {
        check(frames, vec![], |_| {});
    }
}
