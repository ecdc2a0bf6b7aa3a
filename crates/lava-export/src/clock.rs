//! Session time as time of day: the session's log counts nanoseconds from the start of the micro-VM.

use jiff::{SignedDuration, Timestamp};
use lava_evidence::Manifest;

use crate::Error;

/// Turns session time into UTC. Exact as far as the host's clock was when the session began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Timestamp,
    end: Timestamp,
}

impl Clock {
    pub(crate) fn of(manifest: &Manifest) -> Result<Self, Error> {
        let start = parse("started", &manifest.started)?;
        let end = manifest.ended.as_deref().map_or(Ok(start), |ended| parse("ended", ended))?;
        Ok(Self { start, end })
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
        self.start.checked_add(since).unwrap_or(Timestamp::MAX)
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
        let clock = Clock { start, end: start };
        assert_eq!(micros(clock.at(1_000_000_000)), "2026-11-25T06:52:45.429224Z");
        assert_eq!(shortest(clock.at(570_776_000)), "2026-11-25T06:52:45Z");
        assert_eq!(shortest(clock.at(670_776_000)), "2026-11-25T06:52:45.1Z");
        assert_eq!(millis(clock.at(600_000_000)), "2026-11-25T06:52:45.029Z");
        assert!(micros(clock.at(u64::MAX)).starts_with("2319-"), "{}", micros(clock.at(u64::MAX)));
    }
}
