//! Syslog lines (RFC 5424): facility local0; what there is to know as structured data, a sentence as the message.
//!
//! The identifier of the structured data, `lava@32473`, is of the number that RFC 5612 keeps for examples: LAVA has none of its own.

use lava_event::{Finding, NetEndpoint};
use lava_evidence::text::line as cut;

use crate::clock::micros;
use crate::facts;
use crate::lines::{Context, Lines, level};
use crate::text;
use crate::walk::Seen;

/// `local0`.
const FACILITY: u8 = 16;
/// Longest parameter and message, characters: RFC 5424 asks receivers for 2048 bytes, most take 8192.
const VALUE: usize = 1024;

/// The format.
pub(crate) struct Syslog;

struct Data(String);

impl Data {
    fn with(mut self, name: &str, value: impl AsRef<str>) -> Self {
        let value = cut(value.as_ref(), VALUE);
        if !value.is_empty() {
            let value = value.replace('\\', r"\\").replace('"', "\\\"").replace(']', r"\]");
            self.0 += &format!(" {name}=\"{value}\"");
        }
        self
    }

    fn end(self, name: &str, end: Option<&NetEndpoint>) -> Self {
        match end {
            Some(end) => self.with(name, end.to_string()),
            None => self,
        }
    }
}

fn line(context: &Context, severity: u8, time_ns: u64, id: &str, data: Data, message: &str) -> String {
    let priority = FACILITY * 8 + severity;
    let printable = |c: &char| c.is_ascii_graphic();
    let host: String = context.manifest.host.chars().filter(printable).take(255).collect();
    let host = if host.is_empty() { "-" } else { &host };
    let at = micros(context.clock.at(time_ns));
    let session = &context.manifest.session;
    let data = format!("[lava@32473 session=\"{session}\"{}]", data.0);
    // The mark says that the message is UTF-8.
    format!("<{priority}>1 {at} {host} lava - {id} {data} {}{}", '\u{feff}', cut(message, VALUE))
}

impl Lines for Syslog {
    fn event(&self, context: &Context, seen: &Seen<'_>) -> String {
        let (event, facts) = (seen.event, facts::of(&seen.event.kind));
        let tainted = if seen.tainted { "yes" } else { "no" };
        let mut data = Data(String::new()).with("seq", event.seq.to_string()).with("tainted", tainted);
        if let Some(process) = &event.process {
            data = data
                .with("pid", process.pid.to_string())
                .with("ppid", process.ppid.to_string())
                .with("uid", process.uid.to_string())
                .with("exe", text::name(&process.exe));
        } else if let Some(actor) = seen.actor {
            data = data.with("pid", actor.pid.to_string());
        }
        if let Some(path) = facts.path {
            data = data.with("path", text::name(path));
        }
        if let Some((argv, _)) = facts.exec {
            data = data.with("command", text::command(argv));
        }
        if let Some(sha256) = facts.sha256 {
            data = data.with("sha256", sha256.to_string());
        }
        if let Some(question) = facts.question {
            data = data.with("question", text::name(question));
        }
        if let Some(url) = &facts.url {
            data = data.with("url", &url.full);
        }
        data = data.end("source", facts.local).end("destination", facts.remote);
        line(context, 6, event.time_ns, event.kind.name(), data, &event.kind.sentence())
    }

    fn finding(&self, context: &Context, n: usize, finding: &Finding) -> String {
        let data = Data(String::new())
            .with("finding", n.to_string())
            .with("detector", &finding.detector)
            .with("stage", finding.stage.name())
            .with("technique", &finding.technique.id)
            .with("grade", finding.grade.to_string())
            .with("task", context.manifest.task.sha256.to_string());
        // 6 informational, 5 notice, 4 warning, 3 error, 2 critical.
        line(context, 7 - level(finding.severity), finding.time_ns, "finding", data, &finding.title)
    }
}
