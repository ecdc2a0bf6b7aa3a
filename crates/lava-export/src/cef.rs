//! ArcSight Common Event Format (version 0): one line for each event.
//!
//! Lengths are bounded as the CEF dictionary (revision 25) does for the fields used.

use lava_event::{Finding, Kind, NetEndpoint};

use crate::facts;
use crate::lines::{Context, Lines, base, level, program};
use crate::summary::protocol;
use crate::text;
use crate::walk::Seen;

/// Longest value of most text fields, characters.
const VALUE: usize = 1000;

/// The format.
pub(crate) struct Cef;

/// A line in the making: the header, then `key=value` pairs.
struct Line(String);

impl Line {
    fn new(context: &Context, class: &str, name: &str, severity: u8) -> Self {
        let version = context.manifest.lava.clone();
        let fields = [version.as_str(), class, name].map(header).join("|");
        Self(format!("CEF:0|LAVA|LAVA|{fields}|{severity}|"))
    }

    fn with(mut self, key: &str, value: impl AsRef<str>) -> Self {
        let value = value.as_ref();
        if !value.is_empty() {
            let space = if self.0.ends_with('|') { "" } else { " " };
            let value = lava_evidence::text::line(value, VALUE);
            self.0 += &format!("{space}{key}={}", value.replace('\\', r"\\").replace('=', r"\="));
        }
        self
    }

    fn end(self, address: &str, port: &str, end: Option<&NetEndpoint>) -> Self {
        match end {
            Some(end) => self.with(address, end.address.to_string()).with(port, end.port.to_string()),
            None => self,
        }
    }
}

/// A field of the header: a label. Its separator and escapes become `_`, for parsers that do not know them escaped; the
/// words as they are stand in `msg`.
fn header(text: &str) -> String {
    lava_evidence::text::line(text, 500).replace(['|', '\\', '='], "_")
}

impl Lines for Cef {
    fn event(&self, context: &Context, seen: &Seen<'_>) -> String {
        let (event, facts) = (seen.event, facts::of(&seen.event.kind));
        let at = context.clock.at(event.time_ns).as_millisecond();
        let mut line = Line::new(context, event.kind.name(), event.kind.name(), 1)
            .with("rt", at.to_string())
            .with("externalId", event.seq.to_string())
            .with("msg", event.kind.sentence());
        if let Some(process) = &event.process {
            line = line
                .with("sproc", program(process))
                .with("spid", process.pid.to_string())
                .with("suid", process.uid.to_string());
        } else if let Some(actor) = seen.actor {
            line = line.with("spid", actor.pid.to_string());
        }
        if let Some(other) = facts.other {
            line = line.with("dproc", text::name(&other.comm)).with("dpid", other.pid.to_string());
        }
        if let Some(path) = facts.path.map(text::name) {
            line = line.with("fname", base(&path)).with("filePath", &path);
        }
        if let Some(sha256) = facts.sha256 {
            line = line.with("fileHash", sha256.to_string());
        }
        if let Some(transport) = facts.protocol {
            line = line.with("proto", protocol(transport).to_uppercase());
        }
        line = line.end("src", "spt", facts.local).end("dst", "dpt", facts.remote);
        if let Some((sent, received)) = facts.traffic {
            line = line.with("out", sent.to_string()).with("in", received.to_string());
        }
        if let Some(question) = facts.question {
            line = line.with("dhost", text::name(question));
        }
        if let Some(application) = facts.application {
            line = line.with("app", application.to_uppercase());
        }
        if let (Some(url), Kind::NetHttp { method, user_agent, .. }) = (&facts.url, &event.kind) {
            line = line.with("request", &url.full).with("requestMethod", text::name(method));
            if let Some(user_agent) = user_agent {
                line = line.with("requestClientApplication", text::name(user_agent));
            }
        }
        let tainted = if seen.tainted { "yes" } else { "no" };
        session(context, line).with("cs3Label", "tainted").with("cs3", tainted).0
    }

    fn finding(&self, context: &Context, n: usize, finding: &Finding) -> String {
        let at = context.clock.at(finding.time_ns).as_millisecond();
        let mut line = Line::new(context, &finding.detector, &finding.title, level(finding.severity) * 2)
            .with("rt", at.to_string())
            .with("externalId", format!("finding-{n}"))
            .with("msg", &finding.title)
            .with("cat", finding.stage.name())
            .with("reason", &finding.why);
        if let Some(process) = finding.process {
            line = line.with("spid", process.pid.to_string());
        }
        session(context, line)
            .with("cs3Label", "technique")
            .with("cs3", &finding.technique.id)
            .with("cs4Label", "grade")
            .with("cs4", finding.grade.to_string())
            .0
    }
}

/// Which session, and of what.
fn session(context: &Context, line: Line) -> Line {
    line.with("cs1Label", "session")
        .with("cs1", &context.manifest.session.0)
        .with("cs2Label", "task")
        .with("cs2", context.manifest.task.sha256.to_string())
        .with("dvchost", &context.manifest.host)
}
