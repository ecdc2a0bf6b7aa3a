//! The plugin's arguments: `ring=FILE,kernel=FILE,origin=NS,ram=FILE,launcher=PATH,task=FILE,api=on,costs=on,ask=KIND+KIND,slide=N,
//! direct=N,phys=N`.

use std::path::PathBuf;

use crate::memory::Placement;

/// What the supervisor tells the tap.
#[derive(Debug, PartialEq, Eq)]
pub struct Arguments {
    /// The ring file to attach to.
    pub ring: PathBuf,
    /// The guest kernel's own boot file, for symbols and types.
    pub kernel: PathBuf,
    /// Session time zero on the host's monotonic clock, ns.
    pub origin_ns: u64,
    /// The file behind the guest's RAM; without it memory is read through QEMU, slowly.
    pub ram: Option<String>,
    /// Path in the guest of the program that starts the task: what it forks is the task's.
    pub launcher: String,
    /// A file with the task's processes that live ([`crate::processes::read`]), if it has started already.
    pub task: Option<PathBuf>,
    /// Whether every system call is told.
    pub api: bool,
    /// Where the kernel lies, if it runs already (a clone, a restored machine).
    pub placement: Option<Placement>,
    /// Kinds of events that wait for the policy's answer.
    pub asks: Vec<String>,
    /// Whether what each hook costs is told at the end.
    pub costs: bool,
}

impl Arguments {
    /// Parses `key=value` words.
    pub fn parse<'a>(words: impl Iterator<Item = &'a str>) -> Result<Self, String> {
        let (mut ring, mut kernel, mut origin_ns) = (None, None, 0);
        let (mut ram, mut launcher, mut task, mut api, mut costs) = (None, String::new(), None, false, false);
        let mut asks = Vec::new();
        let (mut slide, mut direct_map, mut phys_base) = (None, None, None);
        let number =
            |word: &str, value: &str| value.parse::<u64>().map(Some).map_err(|_| format!("`{word}` is no number"));
        for word in words {
            match word.split_once('=') {
                Some(("ring", value)) => ring = Some(PathBuf::from(value)),
                Some(("kernel", value)) => kernel = Some(PathBuf::from(value)),
                Some(("origin", value)) => {
                    origin_ns = value.parse().map_err(|_| format!("origin={value} is no number of nanoseconds"))?;
                }
                Some(("ram", value)) => ram = Some(value.to_owned()),
                Some(("launcher", value)) => launcher = value.to_owned(),
                Some(("task", value)) => task = Some(PathBuf::from(value)),
                Some(("ask", value)) => asks = value.split('+').map(str::to_owned).collect(),
                Some(("slide", value)) => slide = number(word, value)?,
                Some(("direct", value)) => direct_map = number(word, value)?,
                Some(("phys", value)) => phys_base = number(word, value)?,
                // QEMU writes a word without value as `word=on`.
                Some(("api", "on")) => api = true,
                Some(("costs", "on")) => costs = true,
                _ => {
                    let takes = "ring=, kernel=, origin=, ram=, launcher=, task=, api=on, costs=on, ask=, slide=, direct=, phys=";
                    return Err(format!("`{word}` is no argument of the tap; it takes {takes}"));
                }
            }
        }
        Ok(Self {
            ring: ring.ok_or("the argument ring=FILE is missing")?,
            kernel: kernel.ok_or("the argument kernel=FILE is missing")?,
            origin_ns,
            ram,
            launcher,
            task,
            api,
            asks,
            placement: match (slide, direct_map, phys_base) {
                (Some(slide), Some(direct_map), Some(phys_base)) => Some(Placement { slide, direct_map, phys_base }),
                (None, None, None) => None,
                _ => return Err("slide=, direct= and phys= belong together".into()),
            },
            costs,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        let words = [
            "ring=/a",
            "kernel=/b=c",
            "origin=7",
            "ram=/r",
            "launcher=/l",
            "task=/t",
            "api=on",
            "costs=on",
            "ask=process.exec+file.open",
            "slide=1",
            "direct=2",
            "phys=3",
        ];
        let parsed = Arguments::parse(words.into_iter()).unwrap();
        let (ring, kernel) = ("/a".into(), "/b=c".into());
        let placement = Some(Placement { slide: 1, direct_map: 2, phys_base: 3 });
        let (ram, launcher, task) = (Some("/r".into()), "/l".into(), Some("/t".into()));
        let asks = vec!["process.exec".to_owned(), "file.open".to_owned()];
        assert_eq!(
            parsed,
            Arguments { ring, kernel, origin_ns: 7, ram, launcher, task, api: true, asks, costs: true, placement }
        );
        for wrong in [
            &["ring=/a"][..],
            &["kernel=/b"],
            &["ring=/a", "kernel=/b", "origin=x"],
            &["speed=3"],
            &["ring=/a", "kernel=/b", "slide=1"],
        ] {
            assert!(Arguments::parse(wrong.iter().copied()).is_err(), "{wrong:?}");
        }
    }
}
