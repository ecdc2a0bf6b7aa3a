//! The guest's memory, kept as an ELF core that memory forensics tools read.
//!
//! QEMU's cage holds no folder of the session's, so it is handed the open file. The guest is held meanwhile, and the task's time stands
//! still.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;

use lava_event::{MAX_DUMPS, memory_dumps};

use super::Life;
use super::respond::Failed;

impl Life {
    /// Writes the memory into the session's folder; returns the file's name and size.
    pub(super) fn dump(&mut self) -> Result<String, Failed> {
        let refused = Failed::No;
        let Some(name) = memory_dumps().nth(self.dumps) else {
            return Err(refused(format!("{MAX_DUMPS} dumps are kept of a session, and there are as many")));
        };
        let folder = self.machine.session_dir.clone();
        let (path, part) = (folder.join(&name), folder.join(format!("{name}.part")));
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part);
        let file = file.map_err(|error| refused(format!("cannot create {}: {error}", part.display())))?;
        self.freeze().inspect_err(|_| drop(fs::remove_file(&part)))?;
        let Some(qmp) = &mut self.qmp else { return Err(refused("the micro-VM is ending".to_owned())) };
        let written = qmp.dump(file.as_fd());
        // Half a dump is none.
        let kept: io::Result<u64> = match &written {
            Ok(()) => file.sync_all().and_then(|()| fs::rename(&part, &path)).and_then(|()| Ok(file.metadata()?.len())),
            Err(_) => fs::remove_file(&part).map(|()| 0),
        };
        self.thaw()?;
        written?;
        let bytes = kept.map_err(|error| refused(format!("cannot keep {}: {error}", path.display())))?;
        self.dumps += 1;
        Ok(format!("{name}: {} MiB", bytes >> 20))
    }
}
