//! The screen: its picture is looked at while the task runs, and kept when it is a new one.
//!
//! QEMU writes the picture into its runtime folder. It may have been taken over by its guest, so what lies there is taken for bytes:
//! no link is followed, [`MAX_BYTES`] are read, and they are never decoded but for their width and height.
//!
//! Limits: a look every [`EVERY`], [`MAX_PICTURES`] pictures a session. What shows between two looks is not seen.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use lava_event::{Artifact, Event, Kind, Outlet, Produced, Sha256, Source};
use rustix::fs::OFlags;

use super::{End, Life};
use crate::qmp::QmpError;

/// Between two looks. One takes some 50 ms of the guest's time.
const EVERY: Duration = Duration::from_secs(3);
/// Pictures kept of a session, unless the analyst asks for more.
const MAX_PICTURES: usize = 100;
/// A picture of 1024x768 has at most 3 MiB.
const MAX_BYTES: u64 = 16 << 20;

/// What is known of the screen.
#[derive(Default)]
pub(super) struct Screen {
    looked: Option<Instant>,
    /// The last picture's width and height.
    size: Option<(u32, u32)>,
    /// The pictures that were told.
    told: BTreeSet<Sha256>,
}

impl Screen {
    /// Width and height of the last picture.
    pub(super) const fn size(&self) -> Option<(u32, u32)> {
        self.size
    }
}

impl Life {
    /// The next moment at which there is something to do: to look at the screen, or the end of the wait.
    pub(super) fn look_at(&self, deadline: Instant) -> Instant {
        let due = self.screen.as_ref().filter(|screen| self.task_runs && screen.told.len() < MAX_PICTURES);
        due.map_or(deadline, |screen| screen.looked.map_or_else(Instant::now, |last| last + EVERY).min(deadline))
    }

    /// Looks at the screen unasked, if there is one. What QEMU refuses is a fault, and ends the looking.
    pub(super) fn look(&mut self) -> Result<(), End> {
        if self.screen.is_none() {
            return Ok(());
        }
        match self.picture() {
            Ok(_) => Ok(()),
            Err(error @ QmpError::Refused { .. }) => {
                self.fault(format!("the screen: {error}"));
                self.screen = None;
                Ok(())
            }
            Err(error) => Err(self.crashed(&error.to_string())),
        }
    }

    /// The picture on the screen; told if it is a new one.
    pub(super) fn picture(&mut self) -> Result<Sha256, QmpError> {
        let refused = |why: &str| QmpError::Refused { command: "screen".to_owned(), why: why.to_owned() };
        let (Some(screen), Some(qmp)) = (&mut self.screen, &mut self.qmp) else {
            return Err(refused("this micro-VM has no screen: its profile wants none"));
        };
        let file = self.machine.qmp.with_file_name("screen.png");
        screen.looked = Some(Instant::now());
        qmp.screendump(&file)?;
        let bytes = read(&file).map_err(|error| refused(&error.to_string()))?;
        screen.size = size(&bytes);
        let picture = Artifact::new(&bytes);
        let sha256 = picture.sha256;
        if screen.told.insert(sha256) {
            let event =
                Event::new(self.machine.feeder.now_ns(), Source::Microvisor, Kind::VmScreen { picture: sha256 });
            self.machine.feeder.emit(Produced { event, artifacts: vec![picture] });
        }
        Ok(sha256)
    }
}

/// Width and height, as the header says: the first chunk of a PNG (ISO/IEC 15948, 11.2.2).
fn size(png: &[u8]) -> Option<(u32, u32)> {
    let header = png.strip_prefix(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")?;
    let (width, height) = (header.first_chunk()?, header.get(4..)?.first_chunk()?);
    Some((u32::from_be_bytes(*width), u32::from_be_bytes(*height)))
}

/// Reads what QEMU wrote, and removes it.
fn read(file: &Path) -> io::Result<Vec<u8>> {
    let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).unwrap_or(0);
    let mut bytes = Vec::new();
    let from = File::options().read(true).custom_flags(flags).open(file)?;
    if !from.metadata()?.is_file() {
        return Err(io::Error::other("the picture is no regular file"));
    }
    from.take(MAX_BYTES).read_to_end(&mut bytes)?;
    fs::remove_file(file)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_tells_the_size() {
        let png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x04\0\0\0\x03\0\x08\x02";
        assert_eq!(size(png), Some((1024, 768)));
        assert_eq!((size(&png[..20]), size(b"GIF89a"), size(b"")), (None, None, None));
    }

    #[test]
    fn a_picture_is_read_and_removed_and_a_link_is_not_followed() {
        let place = tempfile::tempdir().expect("temporary directory");
        let (picture, link) = (place.path().join("screen.png"), place.path().join("link"));
        fs::write(&picture, "png").expect("picture");
        std::os::unix::fs::symlink(&picture, &link).expect("link");
        assert!(read(&link).is_err());
        assert_eq!(read(&picture).expect("bytes"), b"png");
        assert!(!picture.exists() && read(&picture).is_err());
        assert!(read(place.path()).is_err());
    }
}
