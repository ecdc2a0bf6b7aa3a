//! From the text of a policy file to a [`Policy`], with every mistake reported.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use lava_event::Action;
use lava_yaml::{Limits, Node, Value};

use crate::error::{Code, Report, suggestion};
use crate::{BUILTIN, MAX_FILE, MAX_RULES, Override, Policy, PolicyError, Rule, builtin, condition, layered};

/// A policy has no use for more: rules of a profile's override nest deepest.
const LIMITS: Limits = Limits { depth: 8, nodes: 100_000, plain: true };
const POLICY: [&str; 7] = ["policy", "description", "extends", "default", "dry_run", "rules", "profiles"];
const OVERRIDE: [&str; 3] = ["default", "dry_run", "rules"];
const RULE: [&str; 6] = ["name", "when", "action", "reason", "within", "otherwise"];
/// The action of a rule that leaves the answer to the analyst.
const ASK: &str = "ask";
/// How long the analyst has, seconds, if the rule does not say.
const WITHIN: u32 = 60;
/// How long a rule may give them: the guest stands still meanwhile.
const MAX_WITHIN: u32 = 3600;

pub(crate) fn compile(source: &str, text: &str) -> Result<Policy, Vec<PolicyError>> {
    if text.len() > MAX_FILE {
        let mut report = Report::new(source, "");
        report.push(Code::TooLarge, 0..0, format!("the file is longer than {MAX_FILE} bytes"), "", None);
        return Err(report.errors);
    }
    let mut report = Report::new(source, text);
    let root = match lava_yaml::documents(text, &LIMITS).map(|mut documents| documents.pop()) {
        Ok(Some(root)) => root,
        Ok(None) => {
            report.push(Code::MissingField, 0..0, "the file is empty", "a policy is expected", None);
            return Err(report.errors);
        }
        Err(bad) => {
            let code = if bad.too_large { Code::TooLarge } else { Code::NotYaml };
            report.push(code, bad.span, format!("this cannot be read: {}", bad.message), "here", None);
            return Err(report.errors);
        }
    };
    let policy = policy(&root, &mut report);
    match policy {
        Some(policy) if report.errors.is_empty() => Ok(policy),
        _ => Err(report.errors),
    }
}

/// The fields of a mapping, unknown and repeated ones reported.
fn fields<'a>(node: &'a Node, what: &str, known: &[&str], report: &mut Report) -> Option<Vec<(&'a str, &'a Node)>> {
    let Value::Mapping(pairs) = &node.value else {
        wrong(node, what, "a mapping", report);
        return None;
    };
    let mut found: Vec<(&str, &Node)> = Vec::new();
    for (key, value) in pairs {
        let Some(name) = key.text() else {
            wrong(key, "a field's name", "a text", report);
            continue;
        };
        if !known.contains(&name) {
            let help = Some(suggestion(name, known));
            report.push(Code::UnknownField, key.span.clone(), format!("{what} has no field `{name}`"), "unknown", help);
        } else if found.iter().any(|(n, _)| *n == name) {
            report.push(Code::Duplicate, key.span.clone(), format!("`{name}` is given twice"), "again", None);
        } else {
            found.push((name, value));
        }
    }
    Some(found)
}

fn wrong(node: &Node, what: &str, wanted: &str, report: &mut Report) {
    let message = format!("{what} has to be {wanted}, this is {}", node.what());
    report.push(Code::BadValue, node.span.clone(), message, format!("{wanted} is expected"), None);
}

fn get<'a>(fields: &[(&str, &'a Node)], name: &str) -> Option<&'a Node> {
    fields.iter().find(|(n, _)| *n == name).map(|(_, node)| *node)
}

fn text<'a>(node: Option<&'a Node>, name: &str, report: &mut Report) -> Option<&'a str> {
    let found = node?.text();
    if found.is_none() {
        wrong(node?, &format!("`{name}`"), "a text", report);
    }
    found
}

fn required<'a>(
    fields: &[(&str, &'a Node)],
    name: &str,
    what: &str,
    at: &Range<usize>,
    report: &mut Report,
) -> Option<&'a Node> {
    let node = get(fields, name);
    if node.is_none() {
        let help = Some(format!("add `{name}: ...`"));
        let at = at.start..at.end.min(at.start + 1);
        report.push(Code::MissingField, at, format!("{what} has no `{name}`"), "missing in here", help);
    }
    node
}

fn action(node: Option<&Node>, name: &str, report: &mut Report) -> Option<Action> {
    let value = text(node, name, report)?;
    let known: &[&str] = match name {
        "action" => &["allow", "deny", "remediate", ASK],
        _ => &["allow", "deny", "remediate"],
    };
    let found = [Action::Allow, Action::Deny, Action::Remediate].into_iter().find(|a| a.to_string() == value);
    if found.is_none() {
        let help = Some(suggestion(value, known));
        report.push(Code::BadValue, node?.span.clone(), format!("`{value}` is no action"), "no action", help);
    }
    found
}

fn policy(root: &Node, report: &mut Report) -> Option<Policy> {
    let fields = fields(root, "a policy", &POLICY, report)?;
    let at = &root.span;
    let name = required(&fields, "policy", "the policy", at, report);
    let name = text(name, "policy", report);
    let description = text(get(&fields, "description"), "description", report);
    let base = get(&fields, "extends").map(|node| extended(node, report));
    // What is extended gives what is not said here.
    let wanted = |name: &str, report: &mut Report| match base {
        Some(_) => get(&fields, name),
        None => required(&fields, name, "the policy", at, report),
    };
    let default = wanted("default", report).map(|node| action(Some(node), "default", report));
    let own = wanted("rules", report).map(|node| rules(node, report)).unwrap_or_default();
    let dry_run = flag(get(&fields, "dry_run"), "dry_run", report);
    let profiles = get(&fields, "profiles").map(|node| profiles(node, report)).unwrap_or_default();
    let base = base.flatten();
    let default = match default {
        Some(default) => default,
        None => base.as_ref().map(|base| base.default),
    };
    let policy = Policy {
        name: name?.to_owned(),
        description: description.unwrap_or("").to_owned(),
        default: default?,
        dry_run: dry_run.unwrap_or(false),
        rules: layered(&own, base.as_ref().map_or(&[], |base| &base.rules)),
        profiles: base.map(|base| base.profiles).unwrap_or_default(),
        real: None,
    };
    Some(policy.with_profiles(profiles))
}

/// The shipped policy that is extended. Files are not: a policy that is handed on is whole, or stands on what every LAVA has.
fn extended(node: &Node, report: &mut Report) -> Option<Policy> {
    let name = text(Some(node), "extends", report)?;
    let Some(base) = builtin(name) else {
        let help = Some(suggestion(name, &BUILTIN));
        let message = format!("`{name}` is no policy that comes with LAVA, and only these can be extended");
        report.push(Code::UnknownPolicy, node.span.clone(), message, "unknown", help);
        return None;
    };
    compile(name, base).ok()
}

fn flag(node: Option<&Node>, name: &str, report: &mut Report) -> Option<bool> {
    let found = match text(node, name, report)? {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    };
    if found.is_none() {
        wrong(node?, &format!("`{name}`"), "true or false", report);
    }
    found
}

fn rules(node: &Node, report: &mut Report) -> Vec<Arc<Rule>> {
    let Value::Sequence(items) = &node.value else {
        wrong(node, "`rules`", "a list", report);
        return Vec::new();
    };
    if items.len() > MAX_RULES {
        let at = node.span.start..node.span.start;
        report.push(Code::TooLarge, at, format!("more than {MAX_RULES} rules"), "here", None);
        return Vec::new();
    }
    let mut names = HashSet::new();
    items.iter().filter_map(|item| rule(item, &mut names, report)).map(Arc::new).collect()
}

/// What is other for the tasks of some profiles.
fn profiles(node: &Node, report: &mut Report) -> BTreeMap<String, Override> {
    let Value::Mapping(pairs) = &node.value else {
        wrong(node, "`profiles`", "a mapping", report);
        return BTreeMap::new();
    };
    let mut found = BTreeMap::new();
    for (key, value) in pairs {
        let Some(name) = text(Some(key), "a profile's name", report) else { continue };
        let Some(fields) = fields(value, "a profile's override", &OVERRIDE, report) else { continue };
        let over = Override {
            default: get(&fields, "default").and_then(|node| action(Some(node), "default", report)),
            dry_run: flag(get(&fields, "dry_run"), "dry_run", report),
            rules: get(&fields, "rules").map(|node| rules(node, report)).unwrap_or_default(),
        };
        if found.insert(name.to_owned(), over).is_some() {
            report.push(Code::Duplicate, key.span.clone(), format!("`{name}` is given twice"), "again", None);
        }
    }
    found
}

fn rule<'a>(node: &'a Node, names: &mut HashSet<&'a str>, report: &mut Report) -> Option<Rule> {
    let fields = fields(node, "a rule", &RULE, report)?;
    let at = &node.span;
    let name_node = required(&fields, "name", "the rule", at, report);
    let name = text(name_node, "name", report);
    if let (Some(name), Some(node)) = (name, name_node)
        && !names.insert(name)
    {
        report.push(Code::Duplicate, node.span.clone(), format!("there are two rules `{name}`"), "the second", None);
    }
    let answer = required(&fields, "action", "the rule", at, report);
    let (answer, ask) = answered(answer, &fields, report);
    let reason = text(get(&fields, "reason"), "reason", report);
    let when = required(&fields, "when", "the rule", at, report)?;
    let source = text(Some(when), "when", report)?;
    let literal = matches!(&when.value, Value::Scalar(scalar) if scalar.literal);
    let condition = match condition::compile(source) {
        Ok(condition) => condition,
        Err(mistakes) => {
            for m in mistakes {
                // Folded and escaped texts differ from the file: then all of it is underlined.
                let start = when.span.start;
                let span = if literal { start + m.span.start..start + m.span.end } else { when.span.clone() };
                report.push(m.code, span, m.message, "in this condition", m.help);
            }
            return None;
        }
    };
    Some(Rule { name: name?.to_owned(), condition, action: answer?, ask, reason: reason.map(str::to_owned) })
}

/// The rule's action, and how long the analyst is asked before it holds.
fn answered(node: Option<&Node>, fields: &[(&str, &Node)], report: &mut Report) -> (Option<Action>, Option<Duration>) {
    let asks = node.and_then(Node::text) == Some(ASK);
    let (within, otherwise) = (get(fields, "within"), get(fields, "otherwise"));
    if !asks {
        for (name, node) in [("within", within), ("otherwise", otherwise)] {
            if let Some(node) = node {
                let help = Some(format!("it says what happens if nobody answers: use it with `action: {ASK}`"));
                report.push(Code::BadValue, node.span.clone(), format!("`{name}` without `{ASK}`"), "not here", help);
            }
        }
        return (action(node, "action", report), None);
    }
    let seconds = match text(within, "within", report) {
        None => WITHIN,
        Some(value) => value.parse().ok().filter(|seconds| (1..=MAX_WITHIN).contains(seconds)).unwrap_or_else(|| {
            let span = within.map(|node| node.span.clone()).unwrap_or_default();
            let message = format!("`within` is a number of seconds from 1 to {MAX_WITHIN}, not `{value}`");
            report.push(Code::BadValue, span, message, "no such time", None);
            WITHIN
        }),
    };
    // Nobody to answer means no, unless the rule says otherwise.
    let action = if otherwise.is_none() { Some(Action::Deny) } else { action(otherwise, "otherwise", report) };
    (action, Some(Duration::from_secs(seconds.into())))
}
