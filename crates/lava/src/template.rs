//! Templates: made when they are first needed, listed, removed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lava_event::{Action, Kind};
use lava_image::ImageStore;
use lava_microvisor::{
    Item, KernelPlace, MachineSpec, Options, Profile, Profiles, Session, Task, Template, TemplateParts, TemplateStore,
};

use crate::prepare::{self, Guest, Tap};
use crate::run;

/// The name of a template that no profile has warmed up: every profile without `warm` shares it.
const PLAIN: &str = "plain";
/// How long warming up may take.
const WARM: Duration = Duration::from_secs(180);

/// `lava template`
#[derive(clap::Subcommand)]
pub enum Command {
    /// Boot a profile's guest once and keep it, so that tasks start in a blink. `lava run` does it by itself when needed.
    Build {
        /// A profile's name, or the path of a profile's file.
        profile: String,
        /// Guest kernel.
        #[arg(long, value_name = "6.1|6.12", default_value = "6.1")]
        kernel: String,
        /// A second disk (raw), as for `lava run`.
        #[arg(long, value_name = "FILE")]
        disk: Option<PathBuf>,
    },
    /// List the templates.
    List,
    /// Say what a template was made from.
    Show {
        /// Its name.
        name: String,
    },
    /// Remove a template.
    Remove {
        /// Its name.
        name: String,
    },
}

/// Carries the command out.
pub fn command(command: &Command) -> Result<()> {
    match command {
        Command::Build { profile, kernel, disk } => {
            let profile = prepare::profile_named(profile)?;
            let guest = prepare::guest(&profile, kernel)?;
            let template =
                ensure(&profile, &guest, &prepare::tap()?, disk.as_deref(), true, &|text| eprintln!("lava: {text}"))?;
            println!("{}", template.parts.name());
        }
        Command::List => {
            for (name, template) in store()?.list()? {
                match template {
                    Ok(t) => println!(
                        "{name:<28} {:<28} {:>4} MiB memory, {:>5} MiB on disk, built {}",
                        t.parts.kernel,
                        t.parts.memory_mib,
                        t.size() >> 20,
                        t.built
                    ),
                    Err(error) => println!("{name:<28} {error}"),
                }
            }
        }
        Command::Show { name } => {
            let found = store()?.list()?.into_iter().find(|(known, _)| known == name);
            let (_, template) =
                found.with_context(|| format!("there is no template `{name}`: see `lava template list`"))?;
            let template = template?;
            println!("{}", serde_json::to_string_pretty(&template.parts)?);
            println!("folder: {}", template.dir.display());
        }
        Command::Remove { name } => {
            if !store()?.remove(name)? {
                bail!("there is no template `{name}`: see `lava template list`");
            }
        }
    }
    Ok(())
}

fn store() -> Result<TemplateStore> {
    let cache =
        ImageStore::user_cache().context("neither XDG_CACHE_HOME nor HOME is set: nowhere to keep templates")?;
    Ok(TemplateStore::new(&cache))
}

/// The template for this profile on this guest; it is made now if there is none.
pub fn ensure(
    profile: &Profile,
    guest: &Guest,
    tap: &Tap,
    disk: Option<&Path>,
    network: bool,
    tell: &dyn Fn(&str),
) -> Result<Template> {
    let store = store()?;
    let parts = TemplateParts {
        profile: if profile.warm.is_empty() { PLAIN.to_owned() } else { profile.name.clone() },
        warm: profile.warm.clone(),
        image: guest.image.manifest.recipe.clone(),
        kernel: guest.release.clone(),
        qemu: lava_microvisor::qemu::find()?.version.to_string(),
        tap: tap.sha256,
        scenario_disk: disk.map(prepare::hash).transpose()?,
        memory_mib: profile.memory_mib,
        vcpus: run::VCPUS,
        display: profile.display,
        pointer: profile.display,
        network,
    };
    if let Ok(Some(template)) = store.find(&parts) {
        return Ok(template);
    }
    let lock = store.lock(&parts, || tell(&format!("waiting for the template {}: it is being made", parts.name())))?;
    match store.find(&parts) {
        Ok(Some(template)) => return Ok(template),
        Ok(None) => {}
        Err(damaged) => {
            tell(&damaged.to_string());
            store.remove(&parts.name())?;
        }
    }
    tell(&format!("making the template {} (once; the guest boots)", parts.name()));
    let draft = store.draft(&parts)?;
    let built = build(&parts, profile, guest, disk, tap.path.clone(), &draft)
        .and_then(|place| Ok(store.finish(&draft, &parts, place, &run::now())?));
    if built.is_err() {
        // What a failed build leaves is of no use; its reason is told.
        let _ = std::fs::remove_dir_all(&draft);
    }
    drop(lock);
    built.context("the template could not be made")
}

fn build(
    parts: &TemplateParts,
    profile: &Profile,
    guest: &Guest,
    disk: Option<&Path>,
    tap: PathBuf,
    draft: &Path,
) -> Result<KernelPlace> {
    let id = lava_event::SessionId(ulid::Ulid::new().to_string());
    let kernel_file = draft.join(lava_microvisor::template::KERNEL);
    std::fs::write(&kernel_file, guest.kernel_elf()?).with_context(|| kernel_file.display().to_string())?;
    let spec = MachineSpec {
        image: guest.disk.clone(),
        kernel_file,
        kernel: guest.release.clone(),
        scenario_disk: disk.map(Path::to_path_buf),
        memory_mib: parts.memory_mib,
        display: parts.display,
        vcpus: parts.vcpus,
        tap: Some(tap),
        launcher: lava_microvisor::machine::LAUNCHER.to_owned(),
        net: parts.network.then_some(lava_microvisor::NetMode::Refuse),
        net_content: lava_microvisor::NetContent::default(),
        api_trace: false,
        asks: Vec::new(),
        session_dir: draft.to_path_buf(),
        runtime_dir: lava_control::runtime(&id),
        scratch: vec![draft.to_path_buf()],
        template: None,
        from: None,
        boot_timeout: run::BOOT_TIMEOUT,
        timeout: WARM,
        origin: lava_microvisor::Origin::now(),
    };
    // The program that warms up reads nothing of its file: it is opened as an empty task.
    let mut warm = profile.clone();
    warm.command.clone_from(&parts.warm);
    let settle = Task { name: "warm-up".into(), content: Vec::new(), profile: warm, members: Profiles::default() };
    let task = (!parts.warm.is_empty()).then_some(settle);
    let options = Options { save_to: Some(draft.to_path_buf()), ..Options::default() };
    let (items, handle) = Session::run(spec, task, options)?;
    let mut place = None;
    for item in items {
        match item {
            Item::Event(produced) => {
                if let Kind::VmIntrospection { slide, direct_map, phys_base, .. } = produced.event.kind {
                    place = Some(KernelPlace { slide, direct_map, phys_base });
                }
            }
            // Nothing untrusted has run yet.
            Item::Ask(_, reply) => reply.answer(Action::Allow, "template", None, None),
        }
    }
    let report = handle.wait();
    if !report.orderly || !report.faults.is_empty() {
        let detail: Vec<String> = report.detail.into_iter().chain(report.faults).collect();
        bail!("the guest's boot {}: {}", report.reason, detail.join("; "));
    }
    place.context("the tap did not find the guest's kernel")
}
