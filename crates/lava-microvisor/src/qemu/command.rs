//! QEMU's command line. Paths are those of its cage.
//!
//! One q35 machine with virtio devices and nothing else: `-nodefaults`, no window, no user's configuration, no network
//! but our peer, no disk but ours. RAM is a shared file, so that the tap can map it.

use std::path::{Path, PathBuf};

use super::QemuError;
use crate::template::KernelPlace;

/// `sun_path` has 108 bytes, the last one NUL (unix(7)).
const SOCKET_PATH: usize = 107;
const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/// The VGA's memory: 1024x768 with four bytes a pixel is 3 MiB; a clone reads all of it from its template.
const VGA_MIB: u32 = 8;
/// What its monitor says it likes best, which the guest's X server takes.
const WIDTH: u32 = 1024;
const HEIGHT: u32 = 768;

/// The machine that QEMU is to make, and where everything lies.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub memory_mib: u32,
    pub vcpus: u32,
    /// A VGA and a pointer, for a guest that draws.
    pub display: bool,
    /// The file behind the guest's memory.
    pub ram: PathBuf,
    /// The memory is a template's, mapped privately.
    pub clone: bool,
    /// What the devices' state is, and of one that is no clone the memory too, comes over QMP.
    pub restored: bool,
    /// NBD sockets of vda, vdb...
    pub disks: Vec<PathBuf>,
    /// Socket of the network and address of the card; none: there is no card.
    pub net: Option<(PathBuf, [u8; 6])>,
    pub qmp: PathBuf,
    pub port: PathBuf,
    pub tap: Option<Tap>,
}

/// What the tap is told.
#[derive(Clone, Debug)]
pub(crate) struct Tap {
    pub plugin: PathBuf,
    pub ring: PathBuf,
    pub kernel: PathBuf,
    pub origin_ns: u64,
    /// Path in the guest of the program that starts the task.
    pub launcher: String,
    /// A file with the task's processes that live, if it has started already.
    pub task: Option<PathBuf>,
    /// Whether every system call is told.
    pub api: bool,
    /// Kinds of events that wait for the policy.
    pub asks: Vec<&'static str>,
    /// Where the kernel lies, if it runs already.
    pub place: Option<KernelPlace>,
}

impl Layout {
    pub fn ram_size(&self) -> u64 {
        u64::from(self.memory_mib) << 20
    }

    /// The arguments behind the program's name.
    pub fn arguments(&self) -> Result<Vec<String>, QemuError> {
        let mut out = Arguments::default();
        out.flag("-nodefaults").flag("-no-user-config").option("-display", "none");
        out.option("-name", "lava,debug-threads=on");
        out.option("-M", "q35,memory-backend=m0,vmport=off").option("-accel", "tcg,thread=multi");
        out.option("-cpu", "max,la57=off").option("-smp", self.vcpus).option("-m", format!("{}M", self.memory_mib));
        let (size, ram) = (self.ram_size(), text(&self.ram)?);
        let shared = if self.clone { "share=off,readonly=on,rom=off" } else { "share=on" };
        out.option("-object", format!("memory-backend-file,id=m0,size={size},mem-path={ram},{shared}"));
        if self.restored {
            out.option("-incoming", "defer").flag("-S");
        }
        // QEMU's standard output is a pipe to us: the console's length is bounded there, and QEMU opens no file for it.
        out.option("-chardev", "stdio,id=console,signal=off").option("-serial", "chardev:console");
        out.option("-device", "virtio-rng-pci").option("-device", "virtio-serial-pci");
        out.option("-chardev", format!("socket,id=task,path={},server=on,wait=off", socket(&self.port)?));
        out.option("-device", "virtserialport,chardev=task,name=lava.task");
        for (at, (disk, name)) in self.disks.iter().zip(["vda", "vdb", "vdc", "vdd"]).enumerate() {
            let path = socket(disk)?;
            out.option(
                "-blockdev",
                format!("driver=nbd,node-name={name},server.type=unix,server.path={path},export=,reconnect-delay=20"),
            );
            let boot = at + 1;
            out.option(
                "-device",
                format!("virtio-blk-pci,drive={name},serial={name},bootindex={boot},werror=report,rerror=report"),
            );
        }
        if let Some((net, mac)) = &self.net {
            let path = socket(net)?;
            out.option("-netdev", format!("stream,id=n0,server=off,addr.type=unix,addr.path={path},reconnect-ms=500"));
            let mac: Vec<String> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
            out.option("-device", format!("virtio-net-pci,netdev=n0,mac={},romfile=", mac.join(":")));
        }
        out.option("-chardev", format!("socket,id=qmp,path={},server=on,wait=off", socket(&self.qmp)?));
        out.option("-mon", "chardev=qmp,mode=control").option("-sandbox", SANDBOX);
        if self.display {
            // Last, so that the other devices have the same places with it and without.
            out.option("-device", format!("VGA,vgamem_mb={VGA_MIB},xres={WIDTH},yres={HEIGHT}"));
            // Takes places; the machine's own PS/2 keyboard is there in any case.
            out.option("-device", "virtio-tablet-pci");
            // It listens nowhere: whoever may look is handed in over QMP.
            out.option("-vnc", "none,share=force-shared");
        }
        if let Some(tap) = &self.tap {
            out.option("-plugin", tap.argument(&ram)?);
        }
        Ok(out.0)
    }
}

impl Tap {
    fn argument(&self, ram: &str) -> Result<String, QemuError> {
        let (plugin, ring, kernel) = (text(&self.plugin)?, text(&self.ring)?, text(&self.kernel)?);
        let launcher = text(Path::new(&self.launcher))?;
        let task = self.task.as_deref().map(text).transpose()?;
        let task = task.map_or(String::new(), |task| format!(",task={task}"));
        let api = if self.api { ",api=on" } else { "" };
        let asks = if self.asks.is_empty() { String::new() } else { format!(",ask={}", self.asks.join("+")) };
        let origin = self.origin_ns;
        let place = self.place.map_or(String::new(), |place| {
            format!(",slide={},direct={},phys={}", place.slide, place.direct_map, place.phys_base)
        });
        Ok(format!(
            "file={plugin},ring={ring},kernel={kernel},origin={origin},ram={ram},launcher={launcher}{task}{api}{asks}{place}"
        ))
    }
}

#[derive(Default)]
struct Arguments(Vec<String>);

impl Arguments {
    fn flag(&mut self, flag: &str) -> &mut Self {
        self.0.push(flag.to_owned());
        self
    }

    fn option(&mut self, name: &str, value: impl ToString) -> &mut Self {
        self.0.push(name.to_owned());
        self.0.push(value.to_string());
        self
    }
}

/// A path as an option's value: QEMU reads `,,` as one comma.
fn text(path: &Path) -> Result<String, QemuError> {
    let text = path.to_str().filter(|text| !text.chars().any(char::is_control));
    text.map(|text| text.replace(',', ",,")).ok_or_else(|| QemuError::Path { path: path.to_owned() })
}

fn socket(path: &Path) -> Result<String, QemuError> {
    if path.as_os_str().len() > SOCKET_PATH {
        return Err(QemuError::SocketPath { path: path.to_owned() });
    }
    text(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(folder: &str) -> Layout {
        let at = |name: &str| Path::new(folder).join(name);
        Layout {
            memory_mib: 512,
            vcpus: 2,
            display: false,
            ram: at("ram"),
            clone: false,
            restored: false,
            disks: vec![at("vda.nbd"), at("vdb.nbd")],
            net: Some((at("net"), [0x52, 0x54, 0, 0, 0, 1])),
            qmp: at("qmp"),
            port: at("task"),
            tap: Some(Tap {
                plugin: "/t.so".into(),
                ring: at("ring"),
                kernel: "/k".into(),
                origin_ns: 7,
                launcher: "/l".into(),
                task: Some("/t,x".into()),
                api: true,
                asks: vec!["process.exec", "file.open"],
                place: None,
            }),
        }
    }

    #[test]
    fn a_clone_waits_for_its_state_and_does_not_change_its_template() {
        let line = Layout { display: true, ..layout("/r") }.arguments().expect("arguments").join(" ");
        assert!(
            line.contains("-device VGA,vgamem_mb=8,xres=1024,yres=768 -device virtio-tablet-pci -vnc none,"),
            "{line}"
        );
        let blind = layout("/r").arguments().expect("arguments").join(" ");
        assert!(!blind.contains("vnc") && !blind.contains("tablet"), "{blind}");
        let line = Layout { clone: true, restored: true, ..layout("/r") }.arguments().expect("arguments").join(" ");
        assert!(line.contains("mem-path=/r/ram,share=off,readonly=on,rom=off -incoming defer -S"), "{line}");
        let line = Layout { restored: true, ..layout("/r") }.arguments().expect("arguments").join(" ");
        assert!(line.contains("mem-path=/r/ram,share=on -incoming defer -S"), "{line}");
    }

    #[test]
    fn without_a_network_there_is_no_card() {
        let line = Layout { net: None, ..layout("/r") }.arguments().expect("arguments").join(" ");
        assert!(!line.contains("net"), "{line}");
    }

    #[test]
    fn values_cannot_add_options() {
        let line = layout("/r,x=1").arguments().expect("arguments").join(" ");
        assert!(line.contains("mem-path=/r,,x=1/ram,share=on"), "{line}");
        assert!(
            line.contains("-plugin file=/t.so,ring=/r,,x=1/ring,kernel=/k,origin=7,ram=/r,,x=1/ram,launcher=/l,task=/t,,x,api=on,ask=process.exec+file.open")
        );
        assert!(line.contains("drive=vdb,serial=vdb,bootindex=2") && line.contains("mac=52:54:00:00:00:01"));
        assert!(matches!(layout("/a\nb").arguments(), Err(QemuError::Path { .. })));
        assert!(matches!(layout(&"/a".repeat(60)).arguments(), Err(QemuError::SocketPath { .. })));
    }
}
