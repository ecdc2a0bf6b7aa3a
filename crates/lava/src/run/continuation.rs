//! `lava run --from`: what a session goes on from.
//!
//! Its log begins with the events of the other session up to the snapshot, byte for byte, and everything is thought of anew: graph, findings
//! and verdict are of the whole. What the policy of that session decided is not asked again.
//!
//! *Boundary:* the other session's folder may come from somebody else. Its log and the snapshot must be as they were written; the log vouches
//! for the snapshot. That nobody wrote both anew only a bundle's signature could tell.

use std::collections::HashSet;
use std::path::Path;

use anyhow::{Context, Result, bail};
use lava_event::{Artifact, Event, Kind, ProcessKey, Produced, Sha256, Source, TaskTree, snapshots};
use lava_evidence::{Manifest, Parent, Session, chain};
use lava_microvisor::machine::LAUNCHER;
use lava_microvisor::qemu::Version;
use lava_microvisor::{Continuation, KernelPlace, Network, Snapshot};

use crate::prepare::Tap;
use crate::show;

/// The session before, up to its snapshot.
pub struct Before {
    session: Session,
    /// What the new session's manifest tells of it.
    pub parent: Parent,
    /// What the micro-VM needs.
    pub continuation: Continuation,
}

/// What the log tells of a snapshot, at the event that it was taken at.
struct Cut {
    number: u32,
    manifest: Sha256,
    seq: u64,
    time_ns: u64,
    /// The chain's value there, over the events as this LAVA writes them.
    chain: Sha256,
    place: KernelPlace,
    processes: Vec<ProcessKey>,
}

impl Before {
    /// Finds `SESSION` or `SESSION:N`; without a number it is the last snapshot.
    pub fn find(wanted: &str, out: Option<&Path>) -> Result<Self> {
        let numbered = wanted.rsplit_once(':').and_then(|(name, number)| Some((name, number.parse().ok()?)));
        let (name, number) = numbered.map_or((wanted, None), |(name, number)| (name, Some(number)));
        let session = show::find(name, out)?;
        let manifest = session.manifest();
        let id = &manifest.session;
        if session.dir().is_file() {
            bail!("{} is a bundle: a session goes on from another's folder", session.dir().display());
        }
        // What is still written can't be held against its end; what counts of it is held against its chain below.
        let report = if session.is_being_written() { None } else { Some(session.verify_chain()?) };
        if let Some(problem) = report.iter().flat_map(|report| &report.problems).find(|problem| problem.tampering) {
            bail!(
                "session {id} is not as it was written ({problem}), so nothing goes on from it: see `lava verify {id}`"
            );
        }
        let cut = match (cut(&session, number)?, number) {
            (Some(cut), _) => cut,
            (None, Some(number)) => {
                bail!("session {id} tells of no snapshot {number}: see `lava events {id} --kind vm.response`")
            }
            (None, None) => {
                bail!("session {id} has no snapshot: `lava ctl {id} snapshot` takes one while its task runs")
            }
        };
        let chain = session.chain_behind(cut.seq)?.context("the snapshot's event is not sealed")?;
        if chain != cut.chain {
            bail!(
                "the log of session {id} is not as it was written, or this LAVA would write its events otherwise (it was {}): nothing goes on from it",
                manifest.lava
            );
        }
        let snapshot = Snapshot::open(session.dir(), cut.number, cut.manifest)?;
        let parent = Parent {
            session: id.clone(),
            snapshot: cut.number,
            events: cut.seq,
            chain,
            until_ns: cut.time_ns,
            started: manifest.started.clone(),
            parent: manifest.parent.clone(),
        };
        let continuation = Continuation {
            session: id.clone(),
            number: cut.number,
            snapshot,
            seq: cut.seq,
            place: cut.place,
            processes: cut.processes,
        };
        Ok(Self { session, parent, continuation })
    }

    /// Of the session before.
    pub fn manifest(&self) -> &Manifest {
        self.session.manifest()
    }

    /// What is going on from what.
    pub fn sentence(&self) -> String {
        let Parent { session, snapshot, events, .. } = &self.parent;
        format!("going on from snapshot {snapshot} of session {session}, behind its event {events}")
    }

    /// Refuses if the guest would not be watched by what it was watched by, or not run in what it ran in.
    pub fn check(&self, qemu: Version, tap: &Tap) -> Result<()> {
        let (id, was) = (&self.parent.session, &self.continuation.snapshot.shape.qemu);
        if *was != qemu.to_string() {
            bail!(
                "the snapshot of session {id} was taken with QEMU {was}, here is {qemu}: devices of another version can't be restored"
            );
        }
        if self.manifest().tap != Some(tap.sha256) {
            bail!(
                "session {id} was watched by another version of the tap: it can't go on under {}",
                tap.path.display()
            );
        }
        Ok(())
    }

    /// What the network of the session before answered.
    pub fn network(&self) -> Result<Network> {
        Ok(match self.manifest().options.get("net").map(String::as_str) {
            Some("none") => Network::None,
            Some("refused") => Network::Refused,
            Some("simulated") => Network::Simulated,
            Some("egress") => Network::Egress,
            other => bail!("its manifest names no network ({}): say with --net which one", other.unwrap_or("nothing")),
        })
    }

    /// A machine goes on with the network card that it has, or without one.
    pub fn check_card(&self, network: Network) -> Result<()> {
        match (self.continuation.snapshot.shape.mac, network) {
            (None, Network::None) | (Some(_), Network::Refused | Network::Simulated | Network::Egress) => Ok(()),
            (None, _) => bail!("the snapshot's micro-VM has no network card: it goes on with --net none only"),
            (Some(_), _) => {
                bail!("the snapshot's micro-VM has a network card, which it keeps: --net refused lets nothing through")
            }
        }
    }

    /// Gives the events before, each with what was kept of it.
    pub fn feed(&self, mut take: impl FnMut(Produced) -> Result<()>) -> Result<()> {
        for event in self.session.events()?.take(usize::try_from(self.parent.events).unwrap_or(usize::MAX)) {
            let event = event?;
            let mut artifacts = Vec::new();
            for sha256 in named(&event)? {
                if let Some(bytes) = self.session.artifact(&sha256)? {
                    artifacts.push(Artifact { sha256, bytes: bytes.into() });
                }
            }
            take(Produced { event, artifacts })?;
        }
        Ok(())
    }
}

/// Finds the snapshot in the log.
fn cut(session: &Session, wanted: Option<u32>) -> Result<Option<Cut>> {
    let mut head = chain::start(&session.manifest().session);
    let (mut tree, mut place, mut found) = (TaskTree::of(LAUNCHER), None, None);
    for event in session.events()? {
        let event = event?;
        head = chain::next(&head, &serde_json::to_vec(&event)?);
        tree.take(&event);
        if let Kind::VmIntrospection { slide, direct_map, phys_base, .. } = event.kind {
            place = Some(KernelPlace { slide, direct_map, phys_base });
        }
        if matches!(event.kind, Kind::VmContinued { .. }) {
            // Snapshots before it are of the session that this one went on from.
            found = None;
        }
        let told = snapshots::told(&event.kind).filter(|_| event.source == Source::Microvisor);
        let Some((number, manifest)) = told.filter(|(number, _)| wanted.is_none_or(|wanted| wanted == *number)) else {
            continue;
        };
        found = Some(Cut {
            number,
            manifest,
            seq: event.seq,
            time_ns: event.time_ns,
            chain: head,
            place: place.context("the log does not tell where the guest's kernel lies: there is no way to watch it")?,
            processes: tree.processes().collect(),
        });
    }
    Ok(found)
}

/// The hashes that an event names.
fn named(event: &Event) -> Result<HashSet<Sha256>> {
    fn collect(value: &serde_json::Value, into: &mut HashSet<Sha256>) {
        match value {
            serde_json::Value::String(text) if text.len() == 64 => into.extend(text.parse::<Sha256>().ok()),
            serde_json::Value::Array(all) => all.iter().for_each(|value| collect(value, into)),
            serde_json::Value::Object(all) => all.values().for_each(|value| collect(value, into)),
            _ => {}
        }
    }
    let mut found = HashSet::new();
    collect(&serde_json::to_value(event)?, &mut found);
    Ok(found)
}
