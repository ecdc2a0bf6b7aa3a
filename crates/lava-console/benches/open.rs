//! How long a large session takes to open in the console: what the page asks for first, and going back in time.
//!
//! `cargo bench -p lava-console --bench open -- [MILLIONS] [FOLDER]`: a session of made-up events is written as `lava run` writes one (into
//! FOLDER, which must not exist and is kept), and looked at through the server, once as it is and once as an older LAVA left it, without what
//! is kept for opening it.
//! Times are of whole requests, the first of each; memory is the whole process's (`VmRSS`).

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "../../lava-analysis/benches/made_up.rs"]
mod made_up;

use std::path::{Path, PathBuf};
use std::time::Instant;

use common::{Recording, console};

const ID: &str = "01J0000000000000000000BENA";

fn main() {
    // cargo hands `--bench` over too.
    let mut words = std::env::args().skip(1).filter(|word| !word.starts_with("--"));
    let millions: f64 = words.next().and_then(|word| word.parse().ok()).unwrap_or(1.0);
    let count = (millions * 1e6) as usize;
    let temporary = tempfile::tempdir().expect("folder");
    let folder = words.next().map_or_else(|| temporary.path().join("closed"), PathBuf::from);
    let older = temporary.path().join("older");
    let mut seq = 0;
    let mut recording = Recording::begin(&folder, ID);
    recording.events = made_up::synthetic().take(count).map(|event| made_up::numbered(event, &mut seq)).collect();
    recording.close();
    std::fs::create_dir_all(older.join(ID)).expect("folder");
    for name in ["manifest.json", "events.jsonl", "chain.txt", "findings.jsonl"] {
        std::fs::copy(folder.join(ID).join(name), older.join(ID).join(name)).expect("copy");
    }
    let log = std::fs::metadata(folder.join(ID).join("events.jsonl")).expect("log").len();
    println!("{count} events, {} MiB", log >> 20);
    for (name, folder) in [("closed", folder), ("without trace.json and processes.json", older)] {
        // A server of its own: nothing is remembered. What it does beside answering is to make the session searchable.
        let console = console(&folder, Path::new("/bin/false"));
        let base = format!("/api/sessions/{ID}");
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
