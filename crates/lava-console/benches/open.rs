//! How long a large session takes to open in the console: what the page asks for first, and going back in time.
//!
//! `cargo bench -p lava-console --bench open -- [MILLIONS]`: a session of made-up events is written as `lava run` writes one, and looked at
//! through the server, once as it is and once as an older LAVA (or one that was killed) left it, without what is kept for opening it.
//! Times are of whole requests, the first of each; memory is the whole process's (`VmRSS`).

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "../../lava-analysis/benches/made_up.rs"]
mod made_up;

use std::path::Path;
use std::time::Instant;

use common::{Recording, console};
use lava_event::Event;

const CLOSED: &str = "01J0000000000000000000BENA";
const OLDER: &str = "01J0000000000000000000BENB";

fn main() {
    // cargo hands `--bench` over too.
    let mut words = std::env::args().skip(1).filter(|word| !word.starts_with("--"));
    let millions: f64 = words.next().and_then(|word| word.parse().ok()).unwrap_or(1.0);
    let count = (millions * 1e6) as usize;
    let folder = tempfile::tempdir().expect("folder");
    let mut seq = 0;
    let events: Vec<Event> = made_up::synthetic().take(count).map(|event| made_up::numbered(event, &mut seq)).collect();
    let mut recording = Recording::begin(folder.path(), CLOSED);
    recording.events = events;
    recording.close();
    let (closed, older) = (folder.path().join(CLOSED), folder.path().join(OLDER));
    std::fs::create_dir(&older).expect("folder");
    for name in ["events.jsonl", "chain.txt", "findings.jsonl"] {
        std::fs::hard_link(closed.join(name), older.join(name)).expect("link");
    }
    let manifest = std::fs::read_to_string(closed.join("manifest.json")).expect("manifest");
    std::fs::write(older.join("manifest.json"), manifest.replace(CLOSED, OLDER)).expect("manifest");
    let log = std::fs::metadata(closed.join("events.jsonl")).expect("log").len();
    println!("{count} events, {} MiB", log >> 20);
    for (name, id) in [("closed", CLOSED), ("without trace.json and processes.json", OLDER)] {
        // A server of its own: nothing is remembered.
        let console = console(folder.path(), Path::new("/bin/false"));
        let base = format!("/api/sessions/{id}");
        println!("{name}:");
        for (what, path) in [
            ("session", base.clone()),
            ("trace", format!("{base}/trace")),
            ("processes", format!("{base}/processes")),
            ("trace at its middle", format!("{base}/trace?until={}", count / 2)),
            ("processes then", format!("{base}/processes?until={}", count / 2)),
            ("trace a little later", format!("{base}/trace?until={}", count / 2 + 1000)),
            ("trace at three quarters", format!("{base}/trace?until={}", count * 3 / 4)),
        ] {
            let begin = Instant::now();
            console.get(&path);
            println!("  {what:<26} {:>6} ms   {:>5} MiB", begin.elapsed().as_millis(), resident_mib());
        }
    }
}

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) / 1024
}
