//! The guest's memory, kept as an ELF core that memory forensics tools read.
//!
//! QEMU's cage holds no folder of the session's, so it is handed the open file. The guest is held meanwhile, and the task's time stands
//! still.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::time::Instant;

use lava_event::{MAX_DUMPS, memory_dumps};

use super::Life;
use crate::qmp::QmpError;

impl Life {
    /// Writes the memory into the session's folder; returns the file's name and size.
    pub(super) fn dump(&mut self) -> Result<String, QmpError> {
        let refused = |why: String| QmpError::Refused { command: "dump".to_owned(), why };
        let Some(name) = memory_dumps().nth(self.dumps) else {
            return Err(refused(format!("{MAX_DUMPS} dumps are kept of a session, and there are as many")));
        };
        let folder = self.machine.session_dir.clone();
        let (path, part) = (folder.join(&name), folder.join(format!("{name}.part")));
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part);
        let file = file.map_err(|error| refused(format!("cannot create {}: {error}", part.display())))?;
        let Some(qmp) = &mut self.qmp else { return Err(refused("the micro-VM is ending".to_owned())) };
        let begun = Instant::now();
        let held_by_analyst = self.paused.is_some();
        let written = qmp.stop().and_then(|()| qmp.dump(file.as_fd()));
        // Half a dump is none.
        let kept: io::Result<u64> = match &written {
            Ok(()) => file.sync_all().and_then(|()| fs::rename(&part, &path)).and_then(|()| Ok(file.metadata()?.len())),
            Err(_) => fs::remove_file(&part).map(|()| 0),
        };
        if !held_by_analyst {
            qmp.cont()?;
            self.held += begun.elapsed();
        }
        written?;
        let bytes = kept.map_err(|error| refused(format!("cannot keep {}: {error}", path.display())))?;
        self.dumps += 1;
        Ok(format!("{name}: {} MiB", bytes >> 20))
    }
}
