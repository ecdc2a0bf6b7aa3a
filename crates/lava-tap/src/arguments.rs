//! The plugin's arguments: `ring=FILE,kernel=FILE,origin=NS`.

use std::path::PathBuf;

/// What the supervisor tells the tap.
#[derive(Debug, PartialEq, Eq)]
pub struct Arguments {
    /// The ring file to attach to.
    pub ring: PathBuf,
    /// The guest kernel's own boot file, for symbols and types.
    pub kernel: PathBuf,
    /// Session time zero on the host's monotonic clock, ns.
    pub origin_ns: u64,
}

impl Arguments {
    /// Parses `key=value` words.
    pub fn parse<'a>(words: impl Iterator<Item = &'a str>) -> Result<Self, String> {
        let (mut ring, mut kernel, mut origin_ns) = (None, None, 0);
        for word in words {
            match word.split_once('=') {
                Some(("ring", value)) => ring = Some(PathBuf::from(value)),
                Some(("kernel", value)) => kernel = Some(PathBuf::from(value)),
                Some(("origin", value)) => {
                    origin_ns = value.parse().map_err(|_| format!("origin={value} is no number of nanoseconds"))?;
                }
                _ => return Err(format!("`{word}` is no argument of the tap; it takes ring=, kernel=, origin=")),
            }
        }
        Ok(Self {
            ring: ring.ok_or("the argument ring=FILE is missing")?,
            kernel: kernel.ok_or("the argument kernel=FILE is missing")?,
            origin_ns,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        let parsed = Arguments::parse(["ring=/a", "kernel=/b=c", "origin=7"].into_iter()).unwrap();
        assert_eq!(parsed, Arguments { ring: "/a".into(), kernel: "/b=c".into(), origin_ns: 7 });
        for wrong in [&["ring=/a"][..], &["kernel=/b"], &["ring=/a", "kernel=/b", "origin=x"], &["speed=3"]] {
            assert!(Arguments::parse(wrong.iter().copied()).is_err(), "{wrong:?}");
        }
    }
}
