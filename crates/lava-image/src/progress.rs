//! How a long build tells that it is alive.

use std::time::Duration;

/// Hears of a build's stages.
pub trait Progress {
    /// A stage begins.
    fn begin(&mut self, stage: &str);
    /// The stage goes on; called every two seconds or so.
    fn tick(&mut self, stage: &str, elapsed: Duration);
    /// The stage is done.
    fn end(&mut self, stage: &str, elapsed: Duration);
}

/// Says nothing.
pub struct Silent;

impl Progress for Silent {
    fn begin(&mut self, _: &str) {}
    fn tick(&mut self, _: &str, _: Duration) {}
    fn end(&mut self, _: &str, _: Duration) {}
}

/// Writes one line for each report.
pub struct Lines<W>(pub W);

impl<W: std::io::Write> Progress for Lines<W> {
    // Progress that can't be shown is no reason to stop a build: write errors are passed over.
    fn begin(&mut self, stage: &str) {
        let _shown = writeln!(self.0, "{stage} ...");
    }
    fn tick(&mut self, stage: &str, elapsed: Duration) {
        let _shown = writeln!(self.0, "{stage} ... {:.0} s", elapsed.as_secs_f64());
    }
    fn end(&mut self, stage: &str, elapsed: Duration) {
        let _shown = writeln!(self.0, "{stage}: done in {:.1} s", elapsed.as_secs_f64());
    }
}
