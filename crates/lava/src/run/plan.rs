//! What a run opens, and in what: a task that was given, or one that goes on from a snapshot.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};
use lava_event::{SessionId, Sha256};
use lava_evidence::{ImageFacts, Manifest, TaskFacts};
use lava_microvisor::{MachineSpec, NetContent, Network, Origin, Task, Template};

use super::continuation::Before;
use super::{BOOT_TIMEOUT, Run, Trace, VCPUS, overlays};
use crate::prepare::{self, Guest, Tap, TaskFile};
use crate::terminal::Live;
use crate::{places, template};

/// What is opened, and in what.
pub struct Plan {
    /// What is opened.
    pub task: TaskFacts,
    /// The profile's name.
    pub profile: String,
    /// What the guest's network answers.
    pub network: Network,
    /// The guest.
    pub guest: Guest,
    /// Its kernel, as it is asked for.
    kernel: String,
    /// The second disk, and its hash.
    disk: Option<(PathBuf, Sha256)>,
    /// How it begins.
    pub start: Start,
}

/// How a session begins.
pub enum Start {
    /// With a task.
    Task(Box<Task>),
    /// Where a snapshot of another one was taken.
    Snapshot(Box<Before>),
}

/// The second disk, which must be there.
fn second(path: &Path) -> Result<(PathBuf, Sha256)> {
    if !path.is_file() {
        bail!("the disk {}: no such file", path.display());
    }
    Ok((path.to_path_buf(), prepare::hash(path)?))
}

impl Run {
    /// Finds all that the session needs.
    pub(super) fn plan(&self) -> Result<Plan> {
        match (&self.task, &self.from) {
            (Some(path), _) => self.plan_task(path),
            (None, Some(from)) => self.plan_continuation(from),
            (None, None) => bail!("neither a task nor a snapshot to go on from is given"),
        }
    }

    fn plan_task(&self, path: &Path) -> Result<Plan> {
        let file = prepare::task(path)?;
        let profile = prepare::profile(self.profile.as_deref(), &file)?.with_password(&self.password);
        let TaskFile { name, content, sha256 } = file;
        let (profile, members) = prepare::in_image(profile, self.image.as_deref())?;
        let members = members.with_password(&self.password);
        let disk = self.disk.as_deref().map(second).transpose()?;
        if profile.scenario_disk && disk.is_none() {
            bail!("the profile {} needs the programs of its scenario's disk: give it with --disk", profile.name);
        }
        let guest = prepare::guest(&profile, &self.kernel)?;
        Ok(Plan {
            task: TaskFacts { name: name.clone(), sha256, size: content.len() as u64 },
            profile: profile.name.clone(),
            network: self.net.map(Network::from).or(profile.network).unwrap_or_default(),
            guest,
            kernel: self.kernel.clone(),
            disk,
            start: Start::Task(Box::new(Task { name, content, profile, members })),
        })
    }

    fn plan_continuation(&self, from: &str) -> Result<Plan> {
        let before = Before::find(from, self.out.as_deref())?;
        let was = before.manifest();
        let (image, kernel) = prepare::recorded_image(was)?;
        let guest = Guest::of(image, &kernel, was.image.kernel.clone())?;
        let option = |name: &str| was.options.get(name).map(String::as_str).filter(|value| !value.is_empty());
        let disk = match (option("disk"), self.disk.as_deref()) {
            (None, None) => None,
            (None, Some(_)) => bail!("the micro-VM of session {} had no second disk: leave --disk out", was.session),
            (Some(then), given) => {
                let disk = second(given.unwrap_or(Path::new(then)))?;
                if was.hashes.get("disk") != Some(&disk.1) {
                    let shown = disk.0.display();
                    bail!("{shown} is not the second disk that session {} had: give that with --disk", was.session);
                }
                Some(disk)
            }
        };
        let network = match self.net {
            Some(net) => net.into(),
            None => before.network()?,
        };
        before.check_card(network)?;
        Ok(Plan {
            task: was.task.clone(),
            profile: was.profile.clone(),
            network,
            guest,
            kernel,
            disk,
            start: Start::Snapshot(Box::new(before)),
        })
    }
}

impl Plan {
    /// What will be done, in a sentence's end.
    pub fn sentence(&self, boot: bool) -> String {
        match &self.start {
            Start::Task(_) if boot => {
                format!("opening {} as {} (the guest boots first)", self.task.name, self.profile)
            }
            Start::Task(_) => format!("opening {} as {}", self.task.name, self.profile),
            Start::Snapshot(before) => before.sentence(),
        }
    }

    /// The template that the guest is a clone of; it is made now if there is none.
    pub fn template(&self, boot: bool, tap: &Tap, live: &Live) -> Result<Option<Template>> {
        let Start::Task(task) = &self.start else { return Ok(None) };
        if boot {
            return Ok(None);
        }
        let disk = self.disk.as_ref().map(|(path, _)| path.as_path());
        let network = self.network.mode().is_some();
        template::ensure(&task.profile, &self.guest, tap, disk, network, &|text| live.progress(text)).map(Some)
    }

    pub(super) fn manifest(&self, run: &Run, id: &SessionId, origin: Origin) -> Manifest {
        let started = jiff::Timestamp::try_from(origin.time).unwrap_or_default().to_string();
        let mut manifest =
            Manifest::new(id.clone(), env!("CARGO_PKG_VERSION"), self.task.clone(), &self.profile, &started);
        let known = self.guest.image.manifest.kernels.get(&self.kernel);
        manifest.image = ImageFacts {
            recipe: self.guest.image.manifest.recipe.parse().ok(),
            kernel: self.guest.release.clone(),
            disk: known.and_then(|known| known.disk_sha256.parse().ok()),
        };
        manifest.host = places::host();
        let shown = |path: Option<&Path>| path.map(|path| path.display().to_string()).unwrap_or_default();
        manifest.options = [
            ("kernel", self.kernel.clone()),
            ("timeout", run.timeout.to_string()),
            ("reboot", run.reboot.to_string()),
            ("boot", run.boot.to_string()),
            ("root", run.root.to_string()),
            ("net", format!("{:?}", self.network).to_lowercase()),
            ("net_content", shown(run.net_content.as_deref())),
            ("dry_run", run.dry_run.to_string()),
            ("yara", shown(run.yara.as_deref())),
            ("rules", shown(run.rules.as_deref())),
            ("disk", shown(self.disk.as_ref().map(|(path, _)| path.as_path()))),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        manifest.hashes.extend(self.disk.as_ref().map(|(_, sha256)| ("disk".to_owned(), *sha256)));
        if let Start::Snapshot(before) = &self.start {
            manifest.parent = Some(Box::new(before.parent.clone()));
            for name in ["boot", "root"] {
                let was = before.manifest().options.get(name);
                manifest.options.extend(was.map(|value| (name.to_owned(), value.clone())));
            }
        }
        manifest
    }

    pub(super) fn machine(
        &self,
        run: &Run,
        id: &SessionId,
        dir: &Path,
        (tap, kernel_file): (PathBuf, PathBuf),
        origin: Origin,
    ) -> MachineSpec {
        let (memory_mib, vcpus, display, from) = match &self.start {
            Start::Task(task) => (task.profile.memory_mib, VCPUS, task.profile.display, None),
            Start::Snapshot(before) => {
                let shape = &before.continuation.snapshot.shape;
                (shape.memory_mib, shape.vcpus, shape.display, Some(before.continuation.clone()))
            }
        };
        MachineSpec {
            image: self.guest.disk.clone(),
            scratch: overlays(dir).into_iter().chain([lava_microvisor::snapshot::scratch(dir)]).collect(),
            kernel_file,
            kernel: self.guest.release.clone(),
            scenario_disk: self.disk.as_ref().map(|(path, _)| path.clone()),
            memory_mib,
            display,
            vcpus,
            tap: Some(tap),
            launcher: lava_microvisor::machine::LAUNCHER.to_owned(),
            net: self.network.mode(),
            net_content: NetContent::default(),
            api_trace: run.trace == Some(Trace::Api),
            asks: Vec::new(),
            session_dir: dir.to_path_buf(),
            runtime_dir: lava_control::runtime(id),
            template: None,
            from,
            boot_timeout: BOOT_TIMEOUT,
            timeout: Duration::from_secs(run.timeout),
            origin,
        }
    }
}
