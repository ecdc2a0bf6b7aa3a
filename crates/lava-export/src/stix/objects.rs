//! STIX cyber-observable objects and their identifiers (STIX 2.1, sections 2.9 and 6).

use std::collections::BTreeMap;

use lava_event::{NetEndpoint, SessionId};
use serde_json::{Map, Value, json};
use uuid::{Uuid, uuid};

use crate::clock::{Clock, micros, shortest};
use crate::ids;
use crate::summary::{About, Content, Key, Thing};

/// The namespace of observables' identifiers (STIX 2.1, section 2.9).
const OASIS: Uuid = uuid!("00abedb4-aa42-466c-9c01-fed23315a9b7");

/// Observables, each once, in the order of their making.
pub(super) struct Observables<'a> {
    session: &'a SessionId,
    clock: Clock,
    things: &'a BTreeMap<Key, Thing>,
    pub(super) made: Vec<Value>,
    known: BTreeMap<String, usize>,
}

impl<'a> Observables<'a> {
    pub(super) fn new(session: &'a SessionId, clock: Clock, things: &'a BTreeMap<Key, Thing>) -> Self {
        Self { session, clock, things, made: Vec::new(), known: BTreeMap::new() }
    }

    /// The observables that a thing is; made if need be. None for what STIX has no observable for.
    pub(super) fn thing(&mut self, key: &Key) -> Vec<String> {
        let Some(thing) = self.things.get(key) else { return Vec::new() };
        match (key, &thing.about) {
            (Key::Program(..), _) => vec![self.process(key, thing)],
            (Key::File(path), About::File { contents, .. }) if contents.is_empty() => vec![self.file(path, None)],
            (Key::File(path), About::File { contents, .. }) => {
                contents.iter().map(|content| self.file(path, Some(content))).collect()
            }
            (Key::Address(address, port, protocol), About::Address { source, sent, received, .. }) => {
                let to = self.address(*address);
                // Traffic has both ports; where ours is not known, that the address was reached for is all there is to say.
                let Some(from) = source.filter(|source| source.port != 0 && *port != 0) else { return vec![to] };
                let family = if address.is_ipv4() { "ipv4" } else { "ipv6" };
                let to = NetEndpoint { address: *address, port: *port };
                let contributing = self.traffic(thing, from, to, protocols(family, protocol));
                let mut rest = Map::new();
                for (name, bytes) in [("src_byte_count", *sent), ("dst_byte_count", *received)] {
                    if bytes > 0 {
                        rest.insert(name.to_owned(), bytes.into());
                    }
                }
                vec![self.add("network-traffic", contributing, rest)]
            }
            (Key::Url(full), About::Url { .. }) => {
                vec![self.add("url", one("value", full), Map::new()), self.request(thing)]
            }
            (Key::Name(name), _) if is_domain(name) => {
                vec![self.add("domain-name", one("value", name), Map::new())]
            }
            _ => Vec::new(),
        }
    }

    /// The traffic with a request by HTTP (STIX 2.1, section 6.12.2).
    fn request(&mut self, thing: &Thing) -> String {
        let About::Url { url, method, user_agent, source, destination, .. } = &thing.about else {
            return String::new();
        };
        let mut headers = json!({"Host": [url.host]});
        if let Some(user_agent) = user_agent {
            headers["User-Agent"] = json!([user_agent]);
        }
        let value = url.query.as_ref().map_or_else(|| url.path.clone(), |query| format!("{}?{query}", url.path));
        let value = if value.is_empty() { "/".to_owned() } else { value };
        let extension =
            json!({"request_method": method.to_lowercase(), "request_value": value, "request_header": headers});
        let family = if destination.address.is_ipv4() { "ipv4" } else { "ipv6" };
        let spoken =
            if url.scheme == "https" { json!([family, "tcp", "tls", "http"]) } else { json!([family, "tcp", "http"]) };
        let mut contributing = self.traffic(thing, *source, *destination, spoken);
        contributing.insert("extensions".into(), json!({"http-request-ext": extension}));
        self.add("network-traffic", contributing, Map::new())
    }

    /// What makes the identifier of traffic.
    fn traffic(&mut self, thing: &Thing, from: NetEndpoint, to: NetEndpoint, protocols: Value) -> Map<String, Value> {
        Map::from_iter([
            ("start".to_owned(), shortest(self.clock.at(thing.first_ns)).into()),
            ("src_ref".to_owned(), self.address(from.address).into()),
            ("src_port".to_owned(), from.port.into()),
            ("dst_ref".to_owned(), self.address(to.address).into()),
            ("dst_port".to_owned(), to.port.into()),
            ("protocols".to_owned(), protocols),
        ])
    }

    /// An address.
    pub(super) fn address(&mut self, address: std::net::IpAddr) -> String {
        let kind = if address.is_ipv4() { "ipv4-addr" } else { "ipv6-addr" };
        self.add(kind, one("value", &address.to_string()), Map::new())
    }

    /// A file, by path, with what it held.
    pub(super) fn file(&mut self, path: &str, content: Option<&Content>) -> String {
        let mut contributing = Map::new();
        let name = match path.rsplit_once('/') {
            Some((folder, name)) if !name.is_empty() => {
                let folder = if folder.is_empty() { "/" } else { folder };
                let parent = self.add("directory", one("path", folder), Map::new());
                contributing.insert("parent_directory_ref".into(), parent.into());
                name
            }
            _ => path,
        };
        contributing.insert("name".into(), name.into());
        let mut rest = Map::new();
        if let Some(content) = content {
            contributing.insert("hashes".into(), json!({"SHA-256": content.sha256.to_string()}));
            rest.insert("size".into(), content.size.into());
        }
        self.add("file", contributing, rest)
    }

    /// What the task was opened in.
    pub(super) fn kernel(&mut self, release: &str) -> String {
        let mut contributing = one("name", "Linux");
        contributing.insert("version".into(), release.into());
        self.add("software", contributing, Map::new())
    }

    fn user(&mut self, uid: u32) -> String {
        let mut contributing = one("account_type", "unix");
        contributing.insert("user_id".into(), uid.to_string().into());
        let rest = if uid == 0 { Map::from_iter([("is_privileged".to_owned(), true.into())]) } else { Map::new() };
        self.add("user-account", contributing, rest)
    }

    fn process(&mut self, key: &Key, thing: &Thing) -> String {
        let (Key::Program(process, seq), About::Program { path, command, cwd, uid, parent }) = (key, &thing.about)
        else {
            return String::new();
        };
        let name = format!("{}\0{}\0{seq}", process.pid, process.start_ns);
        // STIX names nothing that a process's id could be made of, and wants version 4 then.
        let id = format!("process--{}", ids::as_v4(ids::within(self.session, "process", &name)));
        if self.known.contains_key(&id) {
            return id;
        }
        let at = self.made.len();
        self.known.insert(id.clone(), at);
        self.made.push(Value::Null);
        let mut object = json!({
            "type": "process", "spec_version": "2.1", "id": id,
            "pid": process.pid,
            "created_time": micros(self.clock.at(thing.first_ns)),
            "creator_user_ref": self.user(*uid),
        });
        for (name, text) in [("command_line", command), ("cwd", cwd)] {
            if !text.is_empty() {
                object[name] = text.as_str().into();
            }
        }
        if !path.is_empty() {
            object["image_ref"] = self.image(path).into();
        }
        if let Some((parent, thing)) = parent.as_ref().and_then(|key| self.things.get_key_value(key)) {
            object["parent_ref"] = self.process(parent, thing).into();
        }
        self.made[at] = object;
        id
    }

    /// The program's file: with its content, if it is one that the task had written.
    fn image(&mut self, path: &str) -> String {
        let content = match self.things.get(&Key::File(path.to_owned())).map(|thing| &thing.about) {
            Some(About::File { contents, .. }) => contents.last(),
            _ => None,
        };
        self.file(path, content)
    }

    /// An object whose id follows from its contributing properties: UUID version 5 of their canonical JSON (RFC 8785). These
    /// hold only text, small numbers and lists, and their names are ASCII: sorted output is canonical for them.
    fn add(&mut self, kind: &str, contributing: Map<String, Value>, rest: Map<String, Value>) -> String {
        let mut canonical = Value::Object(contributing.clone());
        // Without it they stand as they were inserted, if any crate of the program wants serde_json to keep that order (yara-x does).
        canonical.sort_all_objects();
        let canonical = canonical.to_string();
        let id = format!("{kind}--{}", Uuid::new_v5(&OASIS, canonical.as_bytes()));
        if !self.known.contains_key(&id) {
            self.known.insert(id.clone(), self.made.len());
            let mut object = json!({"type": kind, "spec_version": "2.1", "id": id});
            for (name, value) in contributing.into_iter().chain(rest) {
                object[&name] = value;
            }
            self.made.push(object);
        }
        id
    }
}

fn one(name: &str, value: &str) -> Map<String, Value> {
    Map::from_iter([(name.to_owned(), value.into())])
}

fn protocols(family: &str, protocol: &str) -> Value {
    if protocol == "ip" { json!([family]) } else { json!([family, protocol]) }
}

/// True for a name that is one by the rules for host names; a guest can ask for anything.
pub(crate) fn is_domain(name: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= 253 && name.contains('.') && name.split('.').all(label)
}
