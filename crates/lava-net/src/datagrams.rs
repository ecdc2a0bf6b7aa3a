//! UDP that nobody answers: taken and recorded, by flow.
//!
//! Limits: [`MOST`] flows at a time, the one that was silent longest is told and forgotten first; of each the first [`KEEP`]
//! bytes are kept, datagram after datagram without borders (the capture has these).

use std::collections::BTreeMap;
use std::time::Duration;

use lava_event::{Kind, Protocol};

use crate::world::{At, Context, Ends, Kept, Report, World};

/// Flows at a time.
pub const MOST: usize = 256;
/// Bytes that are kept of a flow.
const KEEP: usize = 64 << 10;
/// A flow that was silent so long has ended.
const IDLE: Duration = Duration::from_secs(30);

#[derive(Debug)]
struct Exchange {
    kept: Kept,
    frame: u64,
    active: Duration,
}

/// All flows.
#[derive(Debug, Default)]
pub struct Datagrams(BTreeMap<Ends, Exchange>);

impl Datagrams {
    /// Takes a datagram.
    pub fn take(&mut self, ends: Ends, payload: &[u8], at: At, world: &mut World, report: &mut Report<'_>) {
        if self.0.len() >= MOST
            && !self.0.contains_key(&ends)
            && let Some(victim) = self.0.iter().min_by_key(|(_, exchange)| exchange.active).map(|(ends, _)| *ends)
        {
            self.finish(victim, "evicted", at.now, world, report);
        }
        let fresh = || Exchange { kept: Kept::new(KEEP), frame: at.frame, active: at.now };
        let exchange = self.0.entry(ends).or_insert_with(fresh);
        exchange.active = at.now;
        exchange.kept.add(payload, &mut world.budget);
    }

    /// Tells of those that have ended.
    pub fn tick(&mut self, now: Duration, world: &mut World, report: &mut Report<'_>) {
        let silent = |exchange: &Exchange| now.saturating_sub(exchange.active) > IDLE;
        let ended: Vec<Ends> = self.0.iter().filter(|(_, exchange)| silent(exchange)).map(|(ends, _)| *ends).collect();
        for ends in ended {
            self.finish(ends, "idle", now, world, report);
        }
    }

    /// Tells of all that are left.
    pub fn end(&mut self, now: Duration, world: &mut World, report: &mut Report<'_>) {
        while let Some((&ends, _)) = self.0.first_key_value() {
            self.finish(ends, "session", now, world, report);
        }
    }

    fn finish(&mut self, ends: Ends, ended: &str, now: Duration, world: &mut World, report: &mut Report<'_>) {
        let Some(exchange) = self.0.remove(&ends) else { return };
        let artifact = exchange.kept.artifact();
        let kind = Kind::NetStream {
            protocol: Protocol::Udp,
            origin: ends.origin,
            destination: ends.destination,
            application: "unknown".to_owned(),
            sent: exchange.kept.total(),
            received: 0,
            sent_sha256: artifact.as_ref().map(|artifact| artifact.sha256),
            received_sha256: None,
            complete: exchange.kept.is_whole(),
            ended: ended.to_owned(),
            frame: exchange.frame,
        };
        Context { at: At { now, frame: exchange.frame }, world, report }.tell(kind, artifact);
    }
}
