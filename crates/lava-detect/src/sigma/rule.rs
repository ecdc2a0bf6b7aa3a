//! A rule's document, read and compiled.

use lava_event::{Severity, Stage, Technique};

use super::condition::{self, Condition};
use super::error::{Code, SigmaError};
use super::field::Field;
use super::record::{Category, Record};
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
struct Selection(Vec<Vec<Field>>);

/// A rule that can be matched.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) id: String,
    pub(super) title: String,
    pub(super) why: String,
    pub(super) stage: Stage,
    pub(super) severity: Severity,
    pub(super) technique: Technique,
    pub(super) category: Category,
    selections: Vec<Selection>,
    condition: Condition,
}

impl Rule {
    pub(super) fn matches(&self, record: &Record) -> bool {
        let mut known: Vec<Option<bool>> = vec![None; self.selections.len()];
        self.condition.holds(&mut |index| {
            let known = known.get_mut(index);
            let holds = || {
                let any = |selection: &Selection| selection.0.iter().any(|all| all.iter().all(|f| f.holds(record)));
                self.selections.get(index).is_some_and(any)
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
    for kind in ["correlation", "filter", "action"] {
        if let Some(node) = document.get(kind) {
            return Err(at(Code::OtherKind, node, format!("`{kind}`: only detection rules are supported")));
        }
    }
    let missing = |name: &str| at(Code::Missing, document, format!("the rule has no `{name}`"));
    let title = document.get("title").ok_or_else(|| missing("title"))?;
    let title = title.text().filter(|t| !t.is_empty()).ok_or_else(|| at(Code::BadValue, title, "no title".into()))?;
    let detection = document.get("detection").ok_or_else(|| missing("detection"))?;
    let severity = severity(document)?;
    let category = category(document.get("logsource").ok_or_else(|| missing("logsource"))?)?;
    let (selections, condition) = self::detection(detection, category)?;
    let tags = texts(document, "tags");
    let id = texts(document, "id").first().map_or_else(|| slug(title), |id| slug(id));
    Ok(Rule {
        why: why(document, &id),
        id: format!("sigma.{id}"),
        title: cut(title),
        stage: tags.iter().find_map(|tag| stage(tag)).unwrap_or(Stage::Execute),
        severity,
        technique: technique(&tags),
        category,
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
fn category(source: &Node) -> Result<Category, SigmaError> {
    let of = |name| source.get(name).and_then(Node::text).map(str::to_ascii_lowercase);
    let err = |code, message| Err(SigmaError::new(code, source.line, message));
    match of("product") {
        Some(product) if product != "linux" => {
            return err(Code::OtherSystem, format!("it is for {}, not for Linux", product.escape_debug()));
        }
        _ => {}
    }
    if let Some(service) = of("service") {
        let message =
            format!("its log source is the service `{}`: LAVA reads no logs of the guest", service.escape_debug());
        return err(Code::NoEvents, message);
    }
    match of("category").as_deref() {
        Some("dns_query") => err(Code::NoEvents, "name look-ups are not joined to processes yet".into()),
        Some(name) => match Category::named(name) {
            Some(category) => Ok(category),
            None => err(Code::NoEvents, format!("there are no events of the category `{}`", name.escape_debug())),
        },
        None => err(Code::NoEvents, "it says no category of log source".into()),
    }
}

fn detection(node: &Node, category: Category) -> Result<(Vec<Selection>, Condition), SigmaError> {
    let Value::Mapping(pairs) = &node.value else {
        return Err(SigmaError::new(Code::BadValue, node.line, "`detection` is a mapping"));
    };
    if pairs.len() > MAX_SELECTIONS {
        return Err(SigmaError::new(Code::TooLarge, node.line, format!("more than {MAX_SELECTIONS} selections")));
    }
    let (mut names, mut selections) = (Vec::new(), Vec::new());
    for (key, value) in pairs {
        match key.text().unwrap_or_default() {
            "condition" | "timeframe" => {}
            name => {
                names.push(name.to_owned());
                selections.push(selection(value, category)?);
            }
        }
    }
    if let Some(timeframe) = node.get("timeframe") {
        return Err(SigmaError::new(Code::Aggregation, timeframe.line, "`timeframe`: aggregations are not supported"));
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
    Ok((selections, condition))
}

fn selection(node: &Node, category: Category) -> Result<Selection, SigmaError> {
    let fields = |pairs: &[(Node, Node)]| {
        pairs
            .iter()
            .map(|(key, value)| {
                let key_text = key.text().unwrap_or_default();
                let name = key_text.split('|').next().unwrap_or_default();
                // First whether the line is right at all: a mistake is told before what we lack.
                let field = Field::parse(key_text, value)?;
                if !name.is_empty() && !category.fields().contains(&name) {
                    let message = format!("our events cannot answer the field `{}`", name.escape_debug());
                    return Err(SigmaError::new(Code::NoField, key.line, message));
                }
                Ok(field)
            })
            .collect::<Result<Vec<_>, _>>()
    };
    let bad = |node: &Node, message: &str| SigmaError::new(Code::BadValue, node.line, message);
    match &node.value {
        Value::Mapping(pairs) if !pairs.is_empty() => Ok(Selection(vec![fields(pairs)?])),
        Value::Sequence(items) if items.is_empty() => Err(bad(node, "the selection is empty")),
        Value::Sequence(items) if items.iter().all(|item| item.text().is_some()) => {
            Ok(Selection(vec![vec![Field::parse("", node)?]]))
        }
        Value::Sequence(items) if items.len() <= MAX_SELECTIONS => items
            .iter()
            .map(|item| match &item.value {
                Value::Mapping(pairs) if !pairs.is_empty() => fields(pairs),
                Value::Scalar(..) => Ok(vec![Field::parse("", item)?]),
                _ => Err(bad(item, "a selection's item is neither a mapping nor a text")),
            })
            .collect::<Result<_, _>>()
            .map(Selection),
        Value::Sequence(_) => Err(SigmaError::new(Code::TooLarge, node.line, "too many items in a selection")),
        _ => Err(bad(node, "a selection is a mapping or a list")),
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
