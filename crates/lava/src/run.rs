//! `lava run`: one task, one micro-VM, one session.

mod continuation;
mod plan;

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use lava_analysis::Analysis;
use lava_control::Question;
use lava_detect::Detector;
use lava_event::{Action, Decision, Event, Finding, Produced, SessionId, Verdict};
use lava_evidence::{Outcome, PolicyFacts, SessionWriter, State};
use lava_microvisor::{
    Handle, Item, Items, MachineReport, MachineSpec, NetContent, Network, Options, Origin, Reply, Session,
};
use lava_policy::Policy;
use lava_yara::Scanner;

use crate::files;
use crate::prepare;
use crate::terminal::{self, Live, Style};
use crate::{CLEAN, FAILED, Format, THREAT, places};
use crate::{baseline, egress, remediate, rules, yara};
use plan::Start;

/// How long a guest may take to start: under emulation on a busy machine that is long.
pub const BOOT_TIMEOUT: Duration = Duration::from_secs(240);
/// How long to watch on after the task's end.
const LINGER: Duration = Duration::from_secs(3);
/// vCPUs of a micro-VM.
pub const VCPUS: u32 = 2;

/// What is told besides the semantic events.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum Trace {
    /// Every system call, with arguments and result.
    Api,
}

/// Options of `lava run`.
#[derive(clap::Args)]
pub struct Run {
    /// The untrusted file, or an address (http://..., https://...).
    #[arg(value_name = "FILE|URL", required_unless_present = "from")]
    task: Option<PathBuf>,
    /// Go on where a snapshot of another session was taken (`lava ctl SESSION snapshot`), the last one or number N: the same micro-VM, which may be
    /// answered otherwise from there on. No task is given: it is the other session's.
    #[arg(
        long,
        value_name = "SESSION[:N]",
        conflicts_with_all = ["task", "profile", "image", "password", "kernel", "root", "boot", "console"]
    )]
    from: Option<String>,
    /// How to open it: a profile's name, or the path of a profile's file. Recognised by content if not given.
    #[arg(long, value_name = "P")]
    profile: Option<String>,
    /// The guest image, if not the one that the profile names: an archive with office documents in it needs `office`.
    #[arg(long, value_name = "NAME")]
    image: Option<String>,
    /// The password of a protected archive.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    password: String,
    /// What answers the attack: observe, protect, remediate, or a file of your own.
    #[arg(long, value_name = "FILE", default_value = "observe")]
    policy: String,
    /// Allow everything, and record what the policy would have answered.
    #[arg(long)]
    dry_run: bool,
    /// Folder of Sigma rules that are matched too; `lava rules check` says which can be used.
    #[arg(long, value_name = "DIR")]
    rules: Option<PathBuf>,
    #[command(flatten)]
    baseline: baseline::Choice,
    /// Folder of YARA rules (*.yar, *.yara), or one file: the task, what it writes, sends and is sent are searched.
    #[arg(long, value_name = "DIR")]
    yara: Option<PathBuf>,
    /// Guest kernel.
    #[arg(long, value_name = "6.1|6.12", default_value = "6.1")]
    kernel: String,
    /// Seconds the task may take.
    #[arg(long, value_name = "S", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
    /// Restart the guest after the task: what it changed on the disk is seen to run, or not.
    #[arg(long)]
    reboot: bool,
    /// A second disk (raw), which the guest mounts on /opt/scenario. It is not changed.
    #[arg(long, value_name = "FILE")]
    disk: Option<PathBuf>,
    /// Send the task's own output to the guest's console, which is kept as console.log.
    #[arg(long)]
    console: bool,
    /// Start the task as root in the guest: an installer, or what expects to have won already.
    #[arg(long)]
    root: bool,
    /// Boot the guest instead of cloning a template that has booted: slower, and the boot is seen too.
    #[arg(long)]
    boot: bool,
    /// Tell more than the semantic events: `api` tells every system call.
    #[arg(long, value_enum, value_name = "WHAT")]
    trace: Option<Trace>,
    /// What the guest's network answers. `simulated`: every name has an address, every connection is accepted, HTTP, TLS and
    /// mail are answered. `refused`: no name and no connection. `none`: no network card. Nothing leaves the host in these.
    /// `egress`: the real network, through passt, for the names and connections that a rule of the policy allows; all else is refused.
    /// Default: the profile's, or `simulated`; with --from as it was.
    #[arg(long, value_enum, value_name = "MODE")]
    net: Option<Net>,
    /// Folder with what the simulated web has: DIR/host/path, or DIR/_/path for any host. For all else something is made up.
    #[arg(long, value_name = "DIR")]
    net_content: Option<PathBuf>,
    /// The session's id, for a program that has to know it before (`lava serve`).
    #[arg(long, value_name = "ULID", hide = true)]
    id: Option<ulid::Ulid>,
    /// Where the session's folder is made.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// What is printed: the growing trace, or every event as JSON.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// What the guest's network answers.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Net {
    None,
    Refused,
    Simulated,
    Egress,
}

impl From<Net> for Network {
    fn from(net: Net) -> Self {
        match net {
            Net::None => Self::None,
            Net::Refused => Self::Refused,
            Net::Simulated => Self::Simulated,
            Net::Egress => Self::Egress,
        }
    }
}

impl Run {
    /// The run of an honest task that a baseline is learned from: no baseline has a part in it.
    pub fn to_learn(task: &Path, profile: &str, id: ulid::Ulid) -> Result<Self> {
        #[derive(clap::Parser)]
        struct Alone {
            #[command(flatten)]
            run: Run,
        }
        let id = id.to_string();
        let options = ["lava", "--baseline", "none", "--profile", profile, "--id", &id, "--"].map(OsString::from);
        Ok(Alone::try_parse_from(options.into_iter().chain([task.into()]))?.run)
    }

    /// Runs the session; returns the exit code.
    pub fn run(&self) -> Result<u8> {
        let (policy, policy_hash) = prepare::policy(&self.policy)?;
        let checked = rules::load_any(self.rules.as_deref())?;
        let loaded = yara::load_any(self.yara.as_deref())?;
        let plan = self.plan()?;
        let usual = self.baseline.load(&plan.profile)?;
        let policy = policy.for_profile(&plan.profile);
        let policy = if self.dry_run { policy.with_dry_run(true) } else { policy };
        let (policy, nearby) = match plan.network {
            Network::Egress => egress::bound(policy).map(|(policy, nearby)| (policy, Some(nearby)))?,
            _ => (policy, None),
        };
        let content = self.net_content.as_deref().map(NetContent::load).transpose()?.unwrap_or_default();
        let qemu = lava_microvisor::qemu::find()?;
        let tap = prepare::tap()?;
        if let Start::Snapshot(before) = &plan.start {
            before.check(qemu.version, &tap)?;
        }

        let live = Live::new(self.format == Format::Jsonl);
        if let (Some(dir), Some(loaded)) = (&self.yara, &loaded) {
            live.progress(&format!("YARA rules of {}: {}", dir.display(), loaded.summary()));
        }
        if let Some(dir) = &self.rules {
            live.progress(&format!("Sigma rules of {}: {}", dir.display(), checked.summary()));
        }
        let template = plan.template(self.boot, &tap, &live)?;

        let id = SessionId(self.id.map_or_else(|| ulid::Ulid::new().to_string(), |id| id.to_string()));
        let origin = match &plan.start {
            Start::Task(_) => Origin::now(),
            // Time goes on where it stood.
            Start::Snapshot(before) => Origin::ago(before.parent.until_ns),
        };
        let mut manifest = plan.manifest(self, &id, origin);
        manifest.policy = PolicyFacts { name: policy.name().to_owned(), sha256: Some(policy_hash) };
        // Whoever decides the session anew has to know it.
        manifest.options.extend(nearby.map(|nearby| ("nearby".to_owned(), nearby.to_string())));
        manifest.qemu = qemu.version.to_string();
        manifest.tap = Some(tap.sha256);
        manifest.template = template.as_ref().map(|template| template.parts.name());
        manifest
            .hashes
            .extend(loaded.as_ref().and_then(|loaded| loaded.sha256).map(|sha256| ("yara".to_owned(), sha256)));
        manifest.hashes.extend(checked.sha256.map(|sha256| ("rules".to_owned(), sha256)));
        manifest.hashes.extend(usual.as_ref().map(|chosen| ("baseline".to_owned(), chosen.sha256)));
        let mut evidence = SessionWriter::create(&places::sessions(self.out.as_deref())?, &id, manifest)?;

        // Beside the session: tens of megabytes, and the task need not wait for them.
        let programs = [
            ("lava", std::env::current_exe().ok()),
            ("qemu", Some(qemu.path)),
            ("vmlinuz", Some(plan.guest.vmlinuz.clone())),
        ];
        let hashes = std::thread::spawn(move || prepare::hashes(programs));
        live.progress(&format!("session {id}: {}", plan.sentence(self.boot)));
        let asks = policy.waits_for().collect();
        // A template has it unpacked.
        let (kernel_file, unpacked) = match &template {
            Some(template) => (template.kernel(), None),
            None => {
                let file = plan.guest.kernel_file(evidence.dir())?;
                (file.path().to_path_buf(), Some(file))
            }
        };
        let machine = plan.machine(self, &id, evidence.dir(), (tap.path, kernel_file), origin);
        let mut spec = MachineSpec { template, asks, net_content: content, ..machine };
        spec.scratch.extend(unpacked.as_ref().map(|file| file.path().to_path_buf()));
        let options =
            Options { reboot: self.reboot, linger: LINGER, console: self.console, root: self.root, save_to: None };
        let mut analysis = Analysis::with_detector(Detector::with_rules(checked.rules))
            .with_baseline(usual.map(|chosen| chosen.baseline));
        let mut scanner = loaded.as_ref().map(|loaded| Scanner::new(&loaded.rules));
        let started = match plan.start {
            Start::Task(task) => Ok(Some(*task)),
            Start::Snapshot(before) => {
                let fed = before
                    .feed(|produced| self.observe(&produced, (&mut analysis, scanner.as_mut()), &mut evidence, &live));
                fed.map(|()| None)
            }
        };
        let started = started.and_then(|task| Ok(Session::run(spec, task, options)?));
        let (ended, report) = match started {
            Ok((items, handle)) => {
                let stop = handle.stopper();
                // Only the first Ctrl-C is ours; it ends the session in order.
                let _ = ctrlc::set_handler(move || stop("interrupted"));
                let ended = self.consume(items, &handle, (&mut analysis, scanner, &policy), &mut evidence, &live);
                (ended, handle.wait())
            }
            Err(error) => {
                let report = MachineReport {
                    reason: "not started".into(),
                    detail: Some(error.to_string()),
                    ..Default::default()
                };
                (Err(error), report)
            }
        };
        evidence.manifest_mut().hashes.extend(hashes.join().unwrap_or_default());
        self.finish(ended, &report, &analysis, evidence)
    }

    /// Prints an event, keeps it, and thinks about it.
    fn observe(
        &self,
        produced: &Produced,
        minds: (&mut Analysis, Option<&mut Scanner<'_>>),
        evidence: &mut SessionWriter,
        live: &Live,
    ) -> Result<()> {
        self.print(produced);
        live.event(&produced.event);
        take(produced, minds, evidence, live)?.iter().for_each(|finding| live.finding(finding));
        Ok(())
    }

    /// Takes the stream to its end. If the evidence can't be written any more, the session is stopped, and what still
    /// waits is denied.
    fn consume(
        &self,
        items: Items,
        handle: &Handle,
        (analysis, mut scanner, policy): (&mut Analysis, Option<Scanner<'_>>, &Policy),
        evidence: &mut SessionWriter,
        live: &Live,
    ) -> Result<()> {
        let mut failure = None;
        for item in items {
            let (produced, reply) = match item {
                Item::Event(produced) => (produced, None),
                Item::Ask(produced, reply) => (produced, Some(reply)),
            };
            if failure.is_some() {
                if let Some(reply) = reply {
                    reply.answer(Action::Deny, policy.name(), None, Some("the session is ending".into()));
                }
                continue;
            }
            if let Err(error) = self.observe(&produced, (analysis, scanner.as_mut()), evidence, live) {
                handle.stop("the evidence could not be written");
                failure = Some(error);
            }
            if let Some(reply) = reply {
                let (decision, faults) = policy.decide(&produced.event, &analysis.view(&produced.event));
                for fault in faults {
                    live.progress(&format!("rule {} could not be evaluated: {}", fault.rule, fault.message));
                }
                answer(reply, decision, &produced.event, policy, handle, live);
            }
        }
        failure.map_or(Ok(()), Err)
    }

    fn print(&self, produced: &Produced) {
        if self.format == Format::Jsonl
            && let Ok(line) = serde_json::to_string(&produced.event)
        {
            let _ = writeln!(std::io::stdout(), "{line}");
        }
    }

    /// Closes the evidence, says what came out, and chooses the exit code.
    fn finish(
        &self,
        ended: Result<()>,
        report: &MachineReport,
        analysis: &Analysis,
        mut evidence: SessionWriter,
    ) -> Result<u8> {
        let dir = evidence.dir().to_path_buf();
        let trace = analysis.graph().trace();
        let manifest = evidence.manifest_mut();
        manifest.mbr_before = report.mbr_sha256_before;
        if let Some(ready) = report.ready_ns {
            manifest.options.insert("ready_ns".into(), ready.to_string());
        }
        if let Some(sent) = report.task_sent_ns {
            manifest.options.insert("task_sent_ns".into(), sent.to_string());
        }
        let limits = report.unbounded.as_ref().map_or("control group".to_owned(), |why| format!("per process: {why}"));
        manifest.options.insert("limits".into(), limits);
        let whole = ended.is_ok() && report.orderly;
        let mut detail: Vec<String> = report.detail.iter().chain(&report.faults).cloned().collect();
        detail.extend(ended.as_ref().err().map(|error| format!("{error:#}")));
        let outcome = Outcome {
            state: if whole { State::Closed } else { State::Aborted },
            ended: now(),
            mbr_after: report.mbr_sha256_after,
            detail: (!detail.is_empty()).then(|| detail.join("; ")),
        };
        let mut unwritten = files::record(&report.disks, &mut evidence);
        unwritten.extend(remediate::keep(&report.disks, &dir));
        if let Err(error) = evidence.timeline(&analysis.graph().timeline()) {
            unwritten
                .push(format!("the processes were not kept, the console will read the whole log for them: {error}"));
        }
        let closed = evidence.close(&trace, outcome);
        // What matters of them is kept.
        for overlay in overlays(&dir) {
            let _ = std::fs::remove_file(overlay);
        }
        ended.with_context(|| format!("the session was closed early; what was recorded is in {}", dir.display()))?;
        closed?;
        let style = Style::of_stdout();
        let mut out: Box<dyn Write> =
            if self.format == Format::Text { Box::new(std::io::stdout()) } else { Box::new(std::io::stderr()) };
        terminal::summary(&trace, style, &mut out)?;
        for fault in report.faults.iter().chain(&unwritten) {
            writeln!(out, "note: {fault}")?;
        }
        writeln!(out, "session: {}\nreport:  {}", dir.display(), dir.join("report.html").display())?;
        if !report.orderly {
            let detail = report.detail.as_deref().unwrap_or("no more is known");
            eprintln!(
                "lava: the micro-VM did not end in order ({}): {detail}; what was recorded is kept",
                report.reason
            );
        }
        if let Some(why) = &report.unopened {
            eprintln!("lava: {why}");
        }
        Ok(match trace.verdict {
            Verdict::Malicious | Verdict::Suspicious => THREAT,
            Verdict::Clean if report.orderly && report.unopened.is_none() => CLEAN,
            Verdict::Clean => FAILED,
        })
    }
}

/// Answers, or leaves it to the analyst for a while.
fn answer(reply: Reply, decision: Decision, event: &Event, policy: &Policy, handle: &Handle, live: &Live) {
    let Some(within) = policy.asks(&decision) else {
        return reply.answer(decision.action, policy.name(), decision.rule, decision.reason);
    };
    live.progress(&format!(
        "event {} waits {} s for an answer, then: {} (lava ctl SESSION decide {} allow|deny|remediate)",
        event.seq,
        within.as_secs(),
        decision.action,
        event.seq
    ));
    let within_ns = u64::try_from(within.as_nanos()).unwrap_or(u64::MAX);
    let question = Question {
        seq: event.seq,
        policy: policy.name().to_owned(),
        rule: decision.rule,
        reason: decision.reason,
        otherwise: decision.action,
        deadline_ns: event.time_ns.saturating_add(within_ns),
    };
    handle.questions().put(reply, question, within);
}

/// Takes one event: it is on disk before anybody thinks about it. Returns what was thought.
fn take(
    produced: &Produced,
    (analysis, scanner): (&mut Analysis, Option<&mut Scanner<'_>>),
    evidence: &mut SessionWriter,
    live: &Live,
) -> Result<Vec<Finding>> {
    evidence.event(produced)?;
    let mut findings = analysis.observe(&produced.event).findings;
    let of_content = yara::scan(scanner, produced, live);
    of_content.iter().for_each(|finding| analysis.take_in(finding));
    findings.extend(of_content);
    findings.iter().try_for_each(|finding| evidence.finding(finding))?;
    Ok(findings)
}

/// Where a session's disks keep what the guest writes.
fn overlays(dir: &Path) -> [PathBuf; 2] {
    ["vda.overlay", "vdb.overlay"].map(|name| dir.join(name))
}

/// RFC 3339, UTC.
pub fn now() -> String {
    jiff::Timestamp::now().to_string()
}
