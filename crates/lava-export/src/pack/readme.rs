//! For people: what is in a pack and what it rests on; what to do on a machine where the same task was opened.

use std::fmt::Write as _;

use lava_event::DiskRegion;

use super::marks::{Mark, Marks};
use super::origin;
use crate::remedy::region_name;
use crate::summary::Summary;

/// A stranger's text within Markdown: in a code span, which nothing in it can end.
fn code(text: &str) -> String {
    format!("`{}`", text.replace('`', "'"))
}

/// A word for a shell.
fn shell(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// `README.md`
pub(super) fn readme(summary: &Summary, marks: &Marks, files: &[(String, String)]) -> String {
    let mut out = format!(
        "# Remediation pack\n\n{}.\n\nVerdict: {}\n\n## Files\n\n",
        code(&origin(summary)),
        code(&summary.trace.explanation)
    );
    for (name, _) in files {
        let how = match name.as_str() {
            "sigma/files.yml" | "sigma/programs.yml" | "sigma/connections.yml" => {
                "convert with `sigma-cli`; `lava replay SESSION --rules sigma` tries them"
            }
            "yara/lava.yar" => "`yara -r yara/lava.yar FOLDER`, or yara-x",
            "suricata/lava.rules" => "check with `suricata -T -S suricata/lava.rules`",
            "block/addresses.nft" => "`nft -f`; a table of its own, removed with `nft delete table inet ...`",
            "block/hosts" => "append to `/etc/hosts`",
            "block/domains.txt" => "for a resolver's block list",
            "osquery/lava-pack.json" => "an osquery query pack",
            "velociraptor/lava.yaml" => "a Velociraptor client artifact",
            "steps.md" => "what to do on a machine where the task was opened",
            _ => "everything that was seen, with what is confirmed",
        };
        let _ = writeln!(out, "* `{name}`: {how}");
    }
    out.push_str("\nA kind that is not here: the session showed nothing of it that is fit to be looked for.\n\n## What it rests on\n\nConfidence: 95 proven, 80 observed, 50 inferred, 30 seen (no finding rests on it).\n\n| mark | confidence | rests on |\n|---|---|---|\n");
    let mut row = |what: String, confidence: u8, why: &str| {
        let _ =
            writeln!(out, "| {} | {confidence} | {} |", code(&what.replace('|', "/")), code(&why.replace('|', "/")));
    };
    for mark in &marks.samples {
        row(format!("sha256 {} {}", mark.value.sha256, mark.value.path), mark.confidence, &mark.why);
    }
    marks.paths.iter().for_each(|mark| row(mark.value.clone(), mark.confidence, &mark.why));
    marks.addresses.iter().for_each(|mark| row(mark.value.to_string(), mark.confidence, &mark.why));
    marks.names.iter().for_each(|mark| row(mark.value.clone(), mark.confidence, &mark.why));
    marks.modules.iter().for_each(|mark| row(format!("module {}", mark.value), mark.confidence, &mark.why));
    marks.boot.iter().for_each(|mark| row(region_name(mark.value.region).to_owned(), mark.confidence, &mark.why));
    if !marks.unfit.is_empty() {
        out.push_str("\n## Not looked for, to be looked at\n\n");
        for (what, why) in marks.unfit.iter().take(200) {
            let _ = writeln!(out, "* {}: {why}", code(what));
        }
    }
    out
}

/// `steps.md`
pub(super) fn steps(summary: &Summary, marks: &Marks) -> String {
    let mut out = format!(
        "# Cleaning a Linux host\n\n{}.\n\nFor a machine where the same file was opened. As root; copies before removals.\n",
        code(&origin(summary))
    );
    let mut number = 0;
    let mut step = |title: &str, commands: &[String], notes: &[String]| {
        number += 1;
        let _ = writeln!(out, "\n## {number}. {title}\n");
        for note in notes {
            let _ = writeln!(out, "* {note}");
        }
        if !commands.is_empty() {
            let _ = writeln!(out, "{}```sh\n{}\n```", if notes.is_empty() { "" } else { "\n" }, commands.join("\n"));
        }
    };
    step(
        "Take it off the network, and keep what is in memory",
        &[],
        &["Isolate the machine; do not switch it off before memory is dumped, if you need it.".to_owned()],
    );
    let sums: Vec<String> = marks.samples.iter().map(|mark| mark.value.sha256.to_string()).collect();
    let sizes: Vec<String> = marks.samples.iter().map(|mark| format!("-size {}c", mark.value.size)).collect();
    step(
        "Find the file and what it dropped",
        &[
            format!("printf '%s\\n' {} > lava-sums", sums.join(" ")),
            format!(
                "find / -xdev -type f \\( {} \\) -exec sha256sum {{}} + | grep -F -f lava-sums",
                sizes.join(" -o ")
            ),
        ],
        &[],
    );
    step("Find and stop what runs", &[
        "for p in /proc/[0-9]*; do sha256sum \"$p/exe\" 2>/dev/null; done | grep -F -f lava-sums   # then: kill -STOP, copy /proc/PID/exe, kill -KILL".to_owned(),
    ], &[]);
    let at = |mark: &Mark<String>| {
        mark.value
            .split('*')
            .map(|part| if part.is_empty() { String::new() } else { shell(part) })
            .collect::<Vec<_>>()
            .join("*")
    };
    if !marks.paths.is_empty() {
        let mut commands = vec!["mkdir -m 700 /root/lava-evidence".to_owned()];
        commands.extend(
            marks.paths.iter().map(|mark| {
                format!("ls -la -- {0} && cp -a --parents -- {0} /root/lava-evidence && rm -- {0}", at(mark))
            }),
        );
        commands.push("systemctl daemon-reload".to_owned());
        step("Keep a copy of what it made, and remove it", &commands, &[]);
    }
    if !marks.modules.is_empty() {
        let commands: Vec<String> =
            marks.modules.iter().map(|mark| format!("modprobe -r {}", shell(&mark.value))).collect();
        step("Unload these kernel modules, and restart without them", &commands, &[]);
    }
    if !marks.boot.is_empty() {
        let notes: Vec<String> = marks
            .boot
            .iter()
            .map(|mark| {
                let hash =
                    |hash: Option<lava_event::Sha256>| hash.map_or("unknown".to_owned(), |hash| hash.to_string());
                format!("{}: sha256 {} is the attack's", region_name(mark.value.region), hash(mark.value.after))
            })
            .collect();
        let code = marks.boot.iter().any(|mark| mark.value.region == DiskRegion::MbrBootCode);
        let commands = if code {
            vec!["dd if=/dev/sda bs=440 count=1 status=none | sha256sum   # boot code of the disk that starts the machine".to_owned()]
        } else {
            Vec::new()
        };
        step("Look at what starts the machine; restore it from a trusted medium, or reinstall", &commands, &notes);
    }
    if !marks.unfit.is_empty() {
        let notes: Vec<String> =
            marks.unfit.iter().take(100).map(|(what, why)| format!("{} ({why})", code(what))).collect();
        step("Look at these by hand, against a backup or the package (`dpkg --verify`, `rpm -V`)", &[], &notes);
    }
    if !marks.addresses.is_empty() || !marks.names.is_empty() {
        step(
            "Block where it called, and look in flow and resolver logs for who else did",
            &[],
            &["`block/`, `suricata/`".to_owned()],
        );
    }
    step(
        "Change what may have been read",
        &[],
        &["Passwords, keys and tokens of every account that was used on the machine since the file was opened."
            .to_owned()],
    );
    step("Look again", &[], &["`osquery/`, `velociraptor/`, `yara/` must find nothing more; if a kernel or boot code was changed, only a reinstalled machine is clean.".to_owned()]);
    out
}
