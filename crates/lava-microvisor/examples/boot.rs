//! Boots an image without tap: `boot IMAGE.raw VMLINUX [SCRIPT]`. Prints each event; allows everything.

use std::path::PathBuf;
use std::time::Duration;

use lava_event::Action;
use lava_microvisor::{Item, MachineSpec, Options, Profiles, Session, Task, machine::LAUNCHER};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(image), Some(kernel_file)) = (arguments.next(), arguments.next()) else {
        return Err("usage: boot IMAGE.raw VMLINUX [SCRIPT]".into());
    };
    let task = match arguments.next() {
        Some(path) => {
            let content = std::fs::read(&path)?;
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let profiles = Profiles::load("images/profiles".as_ref())?;
            let profile = profiles.recognise(&name, &content).ok_or("no profile recognises it")?.clone();
            Some(Task { name, content, profile, members: Profiles::default() })
        }
        None => None,
    };
    let id = std::process::id();
    let session_dir = std::env::temp_dir().join(format!("lava-boot-{id}"));
    std::fs::create_dir(&session_dir)?;
    println!("session: {}", session_dir.display());
    let spec = MachineSpec {
        image,
        kernel_file,
        kernel: "unknown".into(),
        scenario_disk: None,
        memory_mib: 512,
        vcpus: 2,
        display: false,
        tap: std::env::var_os("LAVA_TAP").map(PathBuf::from),
        launcher: LAUNCHER.into(),
        net: Some(lava_microvisor::NetMode::Refuse),
        net_content: lava_microvisor::NetContent::default(),
        api_trace: false,
        asks: Vec::new(),
        session_dir,
        runtime_dir: format!("/dev/shm/lava-boot-{id}").into(),
        scratch: Vec::new(),
        template: None,
        from: None,
        boot_timeout: Duration::from_secs(120),
        timeout: Duration::from_secs(60),
        origin: lava_microvisor::Origin::now(),
    };
    let reboot = std::env::var_os("REBOOT").is_some();
    let options = Options { reboot, linger: Duration::from_secs(1), console: true, ..Options::default() };
    let (items, handle) = Session::run(spec, task, options)?;
    for item in &items {
        match item {
            Item::Event(seen) => println!("{}", serde_json::to_string(&seen.event)?),
            Item::Ask(seen, reply) => {
                println!("ask {}", serde_json::to_string(&seen.event)?);
                reply.answer(Action::Allow, "example", None, None);
            }
        }
    }
    println!("{:#?}", handle.wait());
    Ok(())
}
