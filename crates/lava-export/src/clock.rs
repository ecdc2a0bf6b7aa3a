//! Session time as time of day: the session's log counts nanoseconds from the start of the micro-VM.

use jiff::{SignedDuration, Timestamp};
use lava_evidence::Manifest;

use crate::Error;

/// Turns session time into UTC. Exact as far as the host's clock was when the session began.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    start: Timestamp,
    end: Timestamp,
    /// Sessions that this one goes on from, the latest first: up to when (session time, ns) events are theirs, and when they began.
    before: Vec<(u64, Timestamp)>,
}

impl Clock {
    pub(crate) fn of(manifest: &Manifest) -> Result<Self, Error> {
        let start = parse("started", &manifest.started)?;
        let end = manifest.ended.as_deref().map_or(Ok(start), |ended| parse("ended", ended))?;
        let mut before = Vec::new();
        let mut parent = manifest.parent.as_deref();
        while let Some(known) = parent {
            before.push((known.until_ns, parse("parent.started", &known.started)?));
            parent = known.parent.as_deref();
        }
        Ok(Self { start, end, before })
    }

    /// When the session ended; when it began, if it was not closed.
    pub(crate) const fn end(&self) -> Timestamp {
        self.end
    }

    /// When the session began.
    pub(crate) const fn start(&self) -> Timestamp {
        self.start
    }

    /// A moment of the session. What no calendar can hold (a log from a stranger) is the latest that one can.
    pub(crate) fn at(&self, ns: u64) -> Timestamp {
        let since = SignedDuration::from_nanos(i64::try_from(ns).unwrap_or(i64::MAX));
        let theirs = self.before.iter().take_while(|(until_ns, _)| ns <= *until_ns).last();
        theirs.map_or(self.start, |(_, start)| *start).checked_add(since).unwrap_or(Timestamp::MAX)
    }
}

/// RFC 3339 in UTC with microseconds.
pub(crate) fn micros(at: Timestamp) -> String {
    format!("{at:.6}")
}

/// RFC 3339 in UTC with microseconds and no zeros at the end: the one form of a time, where an identifier is made of it.
pub(crate) fn shortest(at: Timestamp) -> String {
    Timestamp::from_microsecond(at.as_microsecond()).unwrap_or(at).to_string()
}

/// RFC 3339 in UTC with milliseconds.
pub(crate) fn millis(at: Timestamp) -> String {
    format!("{at:.3}")
}

fn parse(field: &'static str, text: &str) -> Result<Timestamp, Error> {
    text.parse().map_err(|_| Error::Time { field, value: text.chars().take(80).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_time_is_time_of_day() {
        let start: Timestamp = "2026-11-25T06:52:44.429224634Z".parse().unwrap();
        let clock = Clock { start, end: start, before: Vec::new() };
        assert_eq!(micros(clock.at(1_000_000_000)), "2026-11-25T06:52:45.429224Z");
        assert_eq!(shortest(clock.at(570_776_000)), "2026-11-25T06:52:45Z");
        assert_eq!(shortest(clock.at(670_776_000)), "2026-11-25T06:52:45.1Z");
        assert_eq!(millis(clock.at(600_000_000)), "2026-11-25T06:52:45.029Z");
        assert!(micros(clock.at(u64::MAX)).starts_with("2319-"), "{}", micros(clock.at(u64::MAX)));

        // What happened before a snapshot happened when the session ran that it was taken of.
        let (day, hour) = (SignedDuration::from_hours(24), SignedDuration::from_hours(1));
        let before = vec![(9_000_000_000, start - hour), (4_000_000_000, start - day)];
        let clock = Clock { before, ..clock };
        assert_eq!(micros(clock.at(4_000_000_000)), "2026-11-24T06:52:48.429224Z");
        assert_eq!(micros(clock.at(4_000_000_001)), "2026-11-25T05:52:48.429224Z");
        assert_eq!(micros(clock.at(9_000_000_001)), "2026-11-25T06:52:53.429224Z");
    }
}
