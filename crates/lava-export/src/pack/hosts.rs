//! Questions to real machines: an osquery pack and a Velociraptor artifact. Each asks for files, running programs, open connections
//! and kernel modules.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::marks::{Mark, Marks};
use super::{double, name, origin, single};
use crate::Error;
use crate::summary::Summary;

/// Seconds between two runs of a query.
const INTERVAL: u32 = 3600;

fn values<T: ToString>(marks: &[Mark<T>], quote: fn(&str) -> String) -> String {
    marks.iter().map(|mark| quote(&mark.value.to_string())).collect::<Vec<_>>().join(", ")
}

fn hashes(marks: &Marks, quote: fn(&str) -> String) -> String {
    marks.samples.iter().map(|mark| quote(&mark.value.sha256.to_string())).collect::<Vec<_>>().join(", ")
}

/// A condition on `file.path`: osquery reads `%` as one level.
fn paths(marks: &Marks) -> String {
    let one = |mark: &Mark<String>| match mark.value.contains('*') {
        true => format!("f.path LIKE {}", single(&mark.value.replace('*', "%"))),
        false => format!("f.path = {}", single(&mark.value)),
    };
    marks.paths.iter().map(one).collect::<Vec<_>>().join(" OR ")
}

/// An osquery pack (<https://osquery.readthedocs.io/en/stable/deployment/configuration/>, *Query Packs*).
pub(super) fn osquery(marks: &Marks) -> Result<Option<String>, Error> {
    let mut queries = Map::new();
    let mut add = |name: &str, description: &str, query: String| {
        let about = json!({ "query": query, "interval": INTERVAL, "platform": "linux", "description": description, "snapshot": true });
        queries.insert(format!("lava_{name}"), about);
    };
    if !marks.paths.is_empty() {
        let files = format!(
            "SELECT f.path, f.size, f.uid, f.mtime, h.sha256 FROM file f LEFT JOIN hash h ON h.path = f.path WHERE {};",
            paths(marks)
        );
        add("files", "files that the task made", files);
    }
    if !marks.samples.is_empty() {
        let running = format!(
            "SELECT p.pid, p.parent, p.uid, p.path, p.cmdline, h.sha256 FROM processes p JOIN hash h ON h.path = p.path WHERE h.sha256 IN ({});",
            hashes(marks, single)
        );
        add("running", "running programs with the content of the task's or of what it dropped", running);
    }
    if !marks.addresses.is_empty() {
        let sockets = format!(
            "SELECT s.pid, p.path, s.remote_address, s.remote_port FROM process_open_sockets s LEFT JOIN processes p ON p.pid = s.pid WHERE s.remote_address IN ({});",
            values(&marks.addresses, single)
        );
        add("connections", "connections to addresses that the task reached for", sockets);
    }
    if !marks.modules.is_empty() {
        let modules = format!(
            "SELECT name, size, status, address FROM kernel_modules WHERE name IN ({});",
            values(&marks.modules, single)
        );
        add("modules", "kernel modules that the task loaded", modules);
    }
    if queries.is_empty() {
        return Ok(None);
    }
    let pack = json!({ "platform": "linux", "version": "5.0.0", "queries": Value::Object(queries) });
    Ok(Some(format!("{}\n", serde_json::to_string_pretty(&pack)?)))
}

/// A Velociraptor client artifact (<https://docs.velociraptor.app/docs/artifacts/>).
pub(super) fn velociraptor(summary: &Summary, marks: &Marks) -> Option<String> {
    let mut sources = String::new();
    let mut add = |name: &str, lines: &[String]| {
        let _ = writeln!(sources, "  - name: {name}\n    query: |");
        for line in lines {
            let _ = writeln!(sources, "      {line}");
        }
    };
    let sums = format!("LET Sums <= ({},)", hashes(marks, double));
    if !marks.paths.is_empty() {
        add(
            "Files",
            &[
                "SELECT OSPath, Size, Mtime, hash(path=OSPath, hashselect=\"SHA256\").SHA256 AS SHA256".to_owned(),
                format!("FROM glob(globs=[{}])", values(&marks.paths, double)),
            ],
        );
    }
    if !marks.samples.is_empty() {
        add("Programs", &[
            sums,
            "LET Running = SELECT Pid, Ppid, Name, Exe, CommandLine, hash(path=Exe, hashselect=\"SHA256\").SHA256 AS SHA256 FROM pslist()".to_owned(),
            "SELECT * FROM Running WHERE SHA256 IN Sums".to_owned(),
        ]);
    }
    if !marks.addresses.is_empty() {
        add(
            "Connections",
            &[
                "SELECT Pid, Name, Laddr, Raddr, Status FROM netstat()".to_owned(),
                format!("WHERE Raddr.IP IN ({},)", values(&marks.addresses, double)),
            ],
        );
    }
    if !marks.modules.is_empty() {
        let pattern = "(?P<Name>^[^ ]+) (?P<Size>[0-9]+)";
        add(
            "Modules",
            &[
                format!(
                    "SELECT Name, Size FROM parse_records_with_regex(file=\"/proc/modules\", regex='''{pattern}''')"
                ),
                format!("WHERE Name IN ({},)", values(&marks.modules, double)),
            ],
        );
    }
    if sources.is_empty() {
        return None;
    }
    Some(format!(
        "name: Custom.Linux.Lava.S{}\ndescription: {}\nauthor: LAVA\ntype: CLIENT\nprecondition: SELECT OS FROM info() WHERE OS = 'linux'\nsources:\n{sources}",
        name(summary),
        single(&origin(summary))
    ))
}
