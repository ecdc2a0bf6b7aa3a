//! A rule's document, read and compiled.

use lava_event::{Severity, Stage, Technique};

use super::auditd;
use super::condition::{self, Condition};
use super::error::{Code, SigmaError};
use super::field::Field;
use super::record::Record;
use super::source::Source;
use crate::attack;
use lava_yaml::{Node, Value};

/// Selections of one rule, and mappings of one selection.
const MAX_SELECTIONS: usize = 256;
/// Longest text of a rule that is shown with a match, characters.
const MAX_SHOWN: usize = 600;
/// References and authors' names are shown up to here.
const MAX_REFERENCES: usize = 4;

/// Any of the mappings, and all fields of it.
#[derive(Debug)]
struct Selection {
    mappings: Vec<Vec<Field>>,
    /// Why others of its mappings, or all, never hold.
    never: Option<SigmaError>,
}

/// A rule that can be matched.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) id: String,
    pub(super) title: String,
    pub(super) why: String,
    pub(super) stage: Stage,
    pub(super) severity: Severity,
    pub(super) technique: Technique,
    pub(super) source: Source,
    /// What is not matched as the rule's author meant it.
    pub(super) notes: Vec<String>,
    /// Mere reading concerns it: the note on auditd in [`super::log_sources`].
    reads: bool,
    selections: Vec<Selection>,
    condition: Condition,
}

impl Rule {
    pub(super) fn matches(&self, record: &Record) -> bool {
        if !self.source.takes(record.source) || (record.read && !self.reads) {
            return false;
        }
        let mut known: Vec<Option<bool>> = vec![None; self.selections.len()];
        self.condition.holds(&mut |index| {
            let known = known.get_mut(index);
            let holds = || {
                let all = |all: &Vec<Field>| all.iter().all(|field| field.holds(record));
                self.selections.get(index).is_some_and(|selection| selection.mappings.iter().any(all))
            };
            known.map_or_else(holds, |known| *known.get_or_insert_with(holds))
        })
    }
}

fn cut(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match text.char_indices().nth(MAX_SHOWN) {
        Some((at, _)) => format!("{}…", text.get(..at).unwrap_or_default()),
        None => text,
    }
}

/// The title of a document, for lists; empty if it has none.
pub(super) fn title(document: &Node) -> String {
    cut(document.get("title").and_then(Node::text).unwrap_or_default())
}

/// Texts of a list, or the one text.
fn texts<'a>(document: &'a Node, name: &str) -> Vec<&'a str> {
    match document.get(name).map(|node| (&node.value, node.text())) {
        Some((Value::Sequence(items), _)) => items.iter().filter_map(Node::text).collect(),
        Some((_, Some(text))) => vec![text],
        _ => Vec::new(),
    }
}

/// Compiles the rule of a document.
pub(super) fn compile(document: &Node) -> Result<Rule, SigmaError> {
    let at = |code, node: &Node, message: String| SigmaError::new(code, node.line, message);
    if !matches!(document.value, Value::Mapping(_)) {
        return Err(at(Code::BadValue, document, "a rule is a mapping".into()));
    }
    for (kind, what) in [("correlation", "correlations of rules"), ("filter", "filters of other rules")] {
        if let Some(node) = document.get(kind) {
            return Err(at(Code::OtherKind, node, format!("`{kind}`: {what} are not supported, detection rules are")));
        }
    }
    let missing = |name: &str| at(Code::Missing, document, format!("the rule has no `{name}`"));
    let title = document.get("title").ok_or_else(|| missing("title"))?;
    let title = title.text().filter(|t| !t.is_empty()).ok_or_else(|| at(Code::BadValue, title, "no title".into()))?;
    let detection = document.get("detection").ok_or_else(|| missing("detection"))?;
    let severity = severity(document)?;
    let source = source(document.get("logsource").ok_or_else(|| missing("logsource"))?)?;
    let (names, selections, condition) = self::detection(detection, source)?;
    let notes = usable(&names, &selections, &condition, source)?;
    let tags = texts(document, "tags");
    let id = texts(document, "id").first().map_or_else(|| slug(title), |id| slug(id));
    Ok(Rule {
        why: why(document, &id),
        id: format!("sigma.{id}"),
        title: cut(title),
        stage: tags.iter().find_map(|tag| stage(tag)).unwrap_or(Stage::Execute),
        severity,
        technique: technique(&tags),
        source,
        notes,
        reads: tags.iter().any(|tag| is_about_reading(tag)),
        selections,
        condition,
    })
}

fn severity(document: &Node) -> Result<Severity, SigmaError> {
    let Some(level) = document.get("level") else { return Ok(Severity::Medium) };
    Ok(match level.text().unwrap_or_default() {
        "informational" => Severity::Info,
        "low" => Severity::Low,
        "medium" => Severity::Medium,
        "high" => Severity::High,
        "critical" => Severity::Critical,
        other => {
            let message =
                format!("`{}` is no level: informational, low, medium, high or critical", other.escape_debug());
            return Err(SigmaError::new(Code::BadValue, level.line, message));
        }
    })
}

/// What the rule looks at, if there are events for it.
fn source(source: &Node) -> Result<Source, SigmaError> {
    let of = |name| source.get(name).and_then(Node::text).map(str::to_ascii_lowercase);
    let err = |code, message| Err(SigmaError::new(code, source.line, message));
    if let Some(product) = of("product").filter(|product| product != "linux") {
        return err(Code::OtherSystem, format!("it is for {}, not for Linux", product.escape_debug()));
    }
    match (of("category"), of("service")) {
        (None, Some(service)) if service == "auditd" => Ok(Source::Auditd),
        (_, Some(service)) => err(
            Code::NoEvents,
            format!("its log source is the service `{}`: LAVA reads no logs of the guest", service.escape_debug()),
        ),
        (Some(name), None) => match Source::of_category(&name) {
            Some(source) => Ok(source),
            None => err(Code::NoEvents, format!("there are no events of the category `{}`", name.escape_debug())),
        },
        (None, None) if of("product").is_some() => Ok(Source::Any),
        (None, None) => err(Code::NoEvents, "it says neither product, category nor service of its log source".into()),
    }
}

type Detection = (Vec<String>, Vec<Selection>, Condition);

fn detection(node: &Node, source: Source) -> Result<Detection, SigmaError> {
    let Value::Mapping(pairs) = &node.value else {
        return Err(SigmaError::new(Code::BadValue, node.line, "`detection` is a mapping"));
    };
    if pairs.len() > MAX_SELECTIONS {
        return Err(SigmaError::new(Code::TooLarge, node.line, format!("more than {MAX_SELECTIONS} selections")));
    }
    let (mut names, mut selections) = (Vec::new(), Vec::new());
    for (key, value) in pairs {
        match key.text().unwrap_or_default() {
            // A time frame belongs to an aggregation: without one it says nothing.
            "condition" | "timeframe" => {}
            name => {
                names.push(name.to_owned());
                selections.push(selection(value, source)?);
            }
        }
    }
    let missing = || SigmaError::new(Code::Missing, node.line, "the detection has no `condition`");
    let condition = node.get("condition").ok_or_else(missing)?;
    let one = |node: &Node| match node.text() {
        Some(text) => condition::parse(text, &names, node.line),
        None => Err(SigmaError::new(Code::BadValue, node.line, "a condition is a text")),
    };
    let condition = match &condition.value {
        Value::Sequence(items) if !items.is_empty() && items.len() <= MAX_SELECTIONS => {
            Condition::Any(items.iter().map(one).collect::<Result<_, _>>()?)
        }
        _ => one(condition)?,
    };
    Ok((names, selections, condition))
}

/// Whether the rule can match although parts of it never hold; what is to be said of these.
fn usable(
    names: &[String],
    selections: &[Selection],
    condition: &Condition,
    source: Source,
) -> Result<Vec<String>, SigmaError> {
    let never = |index: usize| selections.get(index).is_some_and(|selection| selection.mappings.is_empty());
    let why = |index: usize| selections.get(index).and_then(|selection| selection.never.as_ref());
    let (mut notes, mut refused, mut used) = (Vec::new(), None, vec![false; selections.len()]);
    condition.each(false, &mut |index, negated| {
        let Some(error) = why(index) else { return };
        let name = names.get(index).map_or("", String::as_str);
        if negated {
            // It would match what its author left out.
            let message = format!("{}, and `{}` is what the rule leaves out", error.message, name.escape_debug());
            refused.get_or_insert_with(|| SigmaError::new(error.code, error.line, message));
        } else if used.get_mut(index).is_some_and(|used| !std::mem::replace(used, true)) {
            let part = if never(index) { "" } else { "a part of " };
            notes.push(format!("{part}`{}` never matches: {}", name.escape_debug(), error.message));
        }
    });
    if let Some(error) = refused {
        return Err(error);
    }
    if !condition.possible(&never).0 {
        let first = selections.iter().find_map(|selection| selection.never.clone());
        return Err(first.unwrap_or_else(|| SigmaError::new(Code::Condition, 1, "the condition can never hold")));
    }
    let traced = |field: &Field| {
        let proven = || auditd::PROVEN.iter().map(|(name, _)| *name);
        let numbers: Vec<String> = auditd::PROVEN.iter().map(|(_, number)| number.to_string()).collect();
        field.excludes("SYSCALL", proven())
            || field.excludes("syscall", proven().chain(numbers.iter().map(String::as_str)))
    };
    if source == Source::Auditd
        && selections.iter().flat_map(|selection| selection.mappings.iter().flatten()).any(traced)
    {
        notes.push("a system call that it names is seen with `--trace api` only".to_owned());
    }
    if source == Source::Any {
        notes.push("it is for any log: LAVA's events are searched, the guest's logs are not read".to_owned());
    }
    Ok(notes)
}

/// The fields of a mapping; or, as the inner result, why they never hold together.
fn fields(pairs: &[(Node, Node)], source: Source) -> Result<Result<Vec<Field>, SigmaError>, SigmaError> {
    let (mut fields, mut never) = (Vec::with_capacity(pairs.len()), None);
    for (key, value) in pairs {
        // First whether the line is right at all: a mistake is told before what we lack.
        let field = Field::parse(key.text().unwrap_or_default(), value)?;
        let unknown = field.names().find(|name| !source.answers(name));
        let reason = match unknown {
            Some(name) => Some(format!("our events cannot answer the field `{}`", name.escape_debug())),
            None if source == Source::Auditd && field.excludes("type", auditd::TYPES.into_iter()) => {
                Some("our events make no audit records of that type".to_owned())
            }
            None => None,
        };
        if let Some(message) = reason {
            never.get_or_insert_with(|| SigmaError::new(Code::NoField, key.line, message));
        }
        fields.push(field);
    }
    Ok(never.map_or(Ok(fields), Err))
}

fn selection(node: &Node, source: Source) -> Result<Selection, SigmaError> {
    let bad = |node: &Node, message: &str| SigmaError::new(Code::BadValue, node.line, message);
    let keywords = |node: &Node| Field::parse("", node).map(|field| vec![field]);
    let mut out = Selection { mappings: Vec::new(), never: None };
    match &node.value {
        Value::Scalar(_) if !node.is_null() => out.mappings.push(keywords(node)?),
        Value::Mapping(pairs) if !pairs.is_empty() => out.take(fields(pairs, source)?),
        Value::Sequence(items) if items.is_empty() => return Err(bad(node, "the selection is empty")),
        Value::Sequence(items) if items.iter().all(|item| item.text().is_some()) => out.mappings.push(keywords(node)?),
        Value::Sequence(items) if items.len() <= MAX_SELECTIONS => {
            for item in items {
                match &item.value {
                    Value::Mapping(pairs) if !pairs.is_empty() => out.take(fields(pairs, source)?),
                    Value::Scalar(..) => out.mappings.push(keywords(item)?),
                    _ => return Err(bad(item, "a selection's item is neither a mapping nor a text")),
                }
            }
        }
        Value::Sequence(_) => return Err(SigmaError::new(Code::TooLarge, node.line, "too many items in a selection")),
        Value::Mapping(_) | Value::Scalar(_) => return Err(bad(node, "a selection is a mapping, a list or a text")),
    }
    Ok(out)
}

impl Selection {
    fn take(&mut self, fields: Result<Vec<Field>, SigmaError>) {
        match fields {
            Ok(fields) => self.mappings.push(fields),
            Err(error) => {
                self.never.get_or_insert(error);
            }
        }
    }
}

/// Letters, digits and dashes of a text: it becomes part of a detector's name.
fn slug(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars().take(100) {
        match c.to_ascii_lowercase() {
            c if c.is_ascii_alphanumeric() => out.push(c),
            _ if !out.is_empty() && !out.ends_with('-') => out.push('-'),
            _ => {}
        }
    }
    out.trim_end_matches('-').to_owned()
}

/// What the rule says of itself. The Detection Rule Licence wants the author with every match.
fn why(document: &Node, id: &str) -> String {
    let one = |name: &str| document.get(name).and_then(Node::text).map(cut).filter(|text| !text.is_empty());
    let mut out = one("description").unwrap_or_else(|| "A Sigma rule matches.".to_owned());
    let author = one("author").unwrap_or_else(|| "an author it does not name".to_owned());
    out.push_str(&format!(" [Sigma rule {id}, by {author}"));
    let references = texts(document, "references");
    if !references.is_empty() {
        let shown: Vec<String> = references.iter().take(MAX_REFERENCES).map(|text| cut(text)).collect();
        out.push_str(&format!("; see {}", shown.join(", ")));
    }
    let falses: Vec<String> = texts(document, "falsepositives").iter().take(MAX_REFERENCES).map(|t| cut(t)).collect();
    if !falses.is_empty() {
        out.push_str(&format!("; false positives: {}", falses.join(", ")));
    }
    out.push(']');
    out
}

/// `attack.t1059.004` -> T1059.004: the first one counts, a finding has one technique.
fn technique(tags: &[&str]) -> Technique {
    let id = tags.iter().find_map(|tag| {
        let id = tag.strip_prefix("attack.t").or_else(|| tag.strip_prefix("attack.T"))?;
        let digits = id.len() >= 4 && id.len() <= 8 && id.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        digits.then(|| format!("T{id}"))
    });
    id.map_or_else(attack::unnamed_technique, |id| attack::technique(&id))
}

/// True for tactics of those who only look.
fn is_about_reading(tag: &str) -> bool {
    matches!(tag, "attack.discovery" | "attack.collection" | "attack.reconnaissance")
}

/// The stage of the kill chain that a tactic belongs to.
fn stage(tag: &str) -> Option<Stage> {
    let tactic = tag.strip_prefix("attack.")?.replace('_', "-");
    Some(match tactic.as_str() {
        "initial-access" => Stage::Exploit,
        "privilege-escalation" | "credential-access" => Stage::Escalate,
        "persistence" => Stage::Persist,
        "lateral-movement" | "command-and-control" | "exfiltration" => Stage::Propagate,
        "execution"
        | "stealth"
        | "defense-evasion"
        | "defense-impairment"
        | "discovery"
        | "collection"
        | "impact"
        | "reconnaissance"
        | "resource-development" => Stage::Execute,
        _ => return None,
    })
}
