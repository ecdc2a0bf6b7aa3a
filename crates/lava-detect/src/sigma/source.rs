//! Which log sources there are events for, and which fields these answer: one table, for the rules and for the documentation.

/// What a rule looks at, as its `logsource` says.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Source {
    ProcessCreation,
    FileEvent,
    FileDelete,
    FileRename,
    NetworkConnection,
    Dns,
    Proxy,
    Auditd,
    /// `product: linux` and nothing else: any log of the machine.
    Any,
}

/// A log source, the events that stand for it, and the fields these answer.
#[derive(Clone, Copy, Debug)]
pub struct LogSource {
    pub(super) source: Source,
    /// As it stands in a rule: `category: process_creation`.
    pub name: &'static str,
    /// The kinds of our events.
    pub events: &'static [&'static str],
    /// Names of fields, each with what it holds.
    pub fields: &'static [(&'static str, &'static str)],
    /// What else there is to know; may be empty.
    pub note: &'static str,
}

/// Who acts; every source of Sysmon's taxonomy has these.
const IMAGE: (&str, &str) = ("Image", "path of the acting program");
const COMMAND_LINE: (&str, &str) = ("CommandLine", "its arguments, a space between them");
const USER: (&str, &str) = (
    "User",
    "name of its effective user, where the distribution gives it a fixed one (root, www-data...), else the number",
);
const PROCESS_ID: (&str, &str) = ("ProcessId", "its pid in the guest");

/// Fields that `auditd` records can have besides `a0`, `a1`...
const AUDITD: &[(&str, &str)] = &[
    ("type", "`SYSCALL`, `EXECVE`, `PATH`, `CWD`, `PROCTITLE`, `KERN_MODULE`"),
    ("aN", "EXECVE: the arguments. SYSCALL: hexadecimal; from the API trace, and `a0` of socket"),
    ("argc", "EXECVE: how many arguments"),
    ("proctitle", "EXECVE, PROCTITLE: the arguments, a space between them"),
    ("syscall", "SYSCALL: number, and name"),
    ("SYSCALL", "SYSCALL: name"),
    ("arch", "SYSCALL: `c000003e`, or `40000003` for a 32-bit call"),
    ("success", "SYSCALL: `yes`, or `no`"),
    ("exit", "SYSCALL: what it returned"),
    ("name", "PATH: the file. KERN_MODULE: the module"),
    ("nametype", "PATH: `NORMAL`, `CREATE`, `DELETE`"),
    ("inode", "PATH: its number"),
    ("mode", "PATH: type and permission bits, octal"),
    ("ouid", "PATH: its owner"),
    ("ogid", "PATH: its group"),
    ("cwd", "CWD, and with an execve: the working directory"),
    ("exe", "path of the acting program"),
    ("comm", "name of the acting thread"),
    ("pid", "of the acting process"),
    ("ppid", "of its parent"),
    ("uid", "its effective user, as a number"),
    ("euid", "the same"),
];

const SOURCES: &[LogSource] = &[
    LogSource {
        source: Source::ProcessCreation,
        name: "category: process_creation",
        events: &["process.exec"],
        fields: &[
            IMAGE,
            COMMAND_LINE,
            ("CurrentDirectory", "working directory"),
            ("ParentImage", "path of the program that forked it, as it was then"),
            ("ParentCommandLine", "arguments of that, where it was started while watched"),
            ("ParentProcessId", "pid of the parent"),
            USER,
            PROCESS_ID,
        ],
        note: "",
    },
    LogSource {
        source: Source::FileEvent,
        name: "category: file_event",
        events: &["file.create", "file.write", "file.rename"],
        fields: &[
            ("TargetFilename", "path of the file; of a rename, the new one"),
            IMAGE,
            COMMAND_LINE,
            USER,
            PROCESS_ID,
        ],
        note: "Regular files and symbolic links; a write to a file that was there counts too.",
    },
    LogSource {
        source: Source::FileDelete,
        name: "category: file_delete",
        events: &["file.unlink"],
        fields: &[("TargetFilename", "path that was removed"), IMAGE, COMMAND_LINE, USER, PROCESS_ID],
        note: "",
    },
    LogSource {
        source: Source::FileRename,
        name: "category: file_rename",
        events: &["file.rename"],
        fields: &[
            ("SourceFilename", "old path"),
            ("TargetFilename", "new path"),
            IMAGE,
            COMMAND_LINE,
            USER,
            PROCESS_ID,
        ],
        note: "",
    },
    LogSource {
        source: Source::NetworkConnection,
        name: "category: network_connection",
        events: &["net.connect", "net.accept", "net.flow_owner"],
        fields: &[
            ("Initiated", "`true` if the guest asked for it, `false` if it was accepted"),
            ("Protocol", "`tcp`, `udp`..."),
            ("SourceIp", "of who began: known for what was accepted, and for UDP"),
            ("SourcePort", "likewise"),
            ("DestinationIp", "of the other end; of what was accepted, of the guest's"),
            ("DestinationPort", "likewise"),
            ("DestinationHostname", "the name whose address the guest was told that is, last"),
            IMAGE,
            COMMAND_LINE,
            USER,
            PROCESS_ID,
        ],
        note: "UDP without connect: the first packet of a flow.",
    },
    LogSource {
        source: Source::Dns,
        name: "category: dns_query, category: dns",
        events: &["net.dns"],
        fields: &[
            ("QueryName", "the name asked for, in lower case"),
            ("QueryResults", "addresses of the answer, `;` behind each"),
            ("query", "the name asked for, in lower case"),
            ("answer", "each address of the answer"),
            ("record_type", "`A`, `AAAA`, `TXT`, `NULL`..., or the type's number"),
            ("qtype_name", "the same"),
            ("qtype", "the type's number"),
            ("src_ip", "the guest's address"),
            IMAGE,
            COMMAND_LINE,
            USER,
            PROCESS_ID,
        ],
        note: "Of questions whose asker is known. Answers are our network's, which never gives TXT and the like.",
    },
    LogSource {
        source: Source::Proxy,
        name: "category: proxy",
        events: &["net.http"],
        fields: &[
            ("c-uri", "the address asked for: `http://host/path?query`"),
            ("c-uri-query", "what stands behind its `?`"),
            ("c-uri-extension", "what stands behind the last dot of its file's name"),
            ("c-uri-stem", "its path"),
            ("c-useragent", "the User-Agent header; empty if there was none"),
            ("cs-host", "whom it asked"),
            ("cs-method", "`GET`, `POST`..."),
            ("sc-status", "status of our network's answer"),
            ("dst_ip", "the other end"),
            ("dst_port", "the other end"),
            ("src_ip", "the guest's address"),
            IMAGE,
            COMMAND_LINE,
            USER,
            PROCESS_ID,
        ],
        note: "What the guest asked our simulated network by HTTP, or within TLS that it let us end.",
    },
    LogSource {
        source: Source::Auditd,
        name: "service: auditd",
        events: &[
            "process.exec",
            "file.open",
            "file.create",
            "file.rename",
            "file.unlink",
            "file.attributes",
            "file.truncate",
            "file.xattr",
            "net.socket",
            "net.connect",
            "net.bind",
            "net.listen",
            "process.memfd",
            "process.ptrace",
            "file.unmount",
            "kernel.module_load",
            "kernel.module_unload",
            "kernel.bpf_load",
            "kernel.kexec",
            "memory.remote_write",
            "api.call",
        ],
        fields: AUDITD,
        note: "The records that auditd would write of these. An open to read makes a PATH record only for rules of the tactics discovery, \
               collection and reconnaissance: what a host's audit rules (`-p wa`, `-p r`) decide, the rule's tactic decides here. System \
               calls without an event of their own are seen with `--trace api`. Who a `key` or `auid` stands for is a host's affair: not \
               answered.",
    },
    LogSource {
        source: Source::Any,
        name: "product: linux, and neither category nor service",
        events: &[
            "process.exec",
            "file.create",
            "file.write",
            "file.rename",
            "file.unlink",
            "net.connect",
            "net.dns",
            "net.http",
        ],
        fields: &[],
        note: "Keywords, looked for in all fields of the categories above. The guest's own logs are not read.",
    },
];

/// Every log source that rules can be about.
#[must_use]
pub const fn log_sources() -> &'static [LogSource] {
    SOURCES
}

impl Source {
    /// The source of a category.
    pub(super) fn of_category(name: &str) -> Option<Self> {
        Some(match name {
            "process_creation" => Self::ProcessCreation,
            "file_event" => Self::FileEvent,
            "file_delete" => Self::FileDelete,
            "file_rename" => Self::FileRename,
            "network_connection" => Self::NetworkConnection,
            "dns_query" | "dns" => Self::Dns,
            "proxy" => Self::Proxy,
            _ => return None,
        })
    }

    /// True if its records can have a field of that name.
    pub(super) fn answers(self, field: &str) -> bool {
        let known = |source: &LogSource| source.fields.iter().any(|(name, _)| *name == field);
        match self {
            Self::Any => SOURCES.iter().any(|source| source.source != Self::Auditd && known(source)),
            Self::Auditd if is_argument(field) => true,
            _ => SOURCES.iter().any(|source| source.source == self && known(source)),
        }
    }

    /// True if rules of this source look at records of that one.
    pub(super) fn takes(self, record: Self) -> bool {
        self == record || (self == Self::Any && record != Self::Auditd)
    }
}

/// `a0`, `a1`...: how auditd names a program's, or a system call's, arguments.
fn is_argument(field: &str) -> bool {
    field.strip_prefix('a').is_some_and(|n| !n.is_empty() && n.len() <= 4 && n.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_events_are_kinds_of_events() {
        for source in log_sources() {
            for event in source.events {
                assert!(lava_event::Kind::NAMES.contains(event), "{}: {event}", source.name);
            }
        }
    }

    #[test]
    fn arguments_are_answered() {
        for (field, expect) in
            [("a0", true), ("a12", true), ("a", false), ("ab", false), ("aN", false), ("auid", false)]
        {
            assert_eq!(is_argument(field), expect, "{field}");
        }
        assert!(Source::Any.answers("QueryName") && !Source::Any.answers("nametype"));
    }
}
