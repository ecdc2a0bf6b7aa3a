//! Several rules in one file: separate documents, and the old collections (`action: global`, `reset`, `repeat`).

use lava_yaml::{Node, Value};

use super::error::{Code, SigmaError};

/// Largest part that others are laid over, bytes: it is copied for each of them.
const MAX_GLOBAL: usize = 16 << 10;

/// Calls it for each rule of a file, in order.
pub(super) fn each<T>(documents: Vec<Node>, mut call: impl FnMut(Result<&Node, SigmaError>) -> T) -> Vec<T> {
    let (mut global, mut last): (Option<Node>, Option<Node>) = (None, None);
    // Only a collection needs copies.
    let collection = documents.iter().any(|document| document.get("action").is_some());
    let mut out = Vec::new();
    for document in documents {
        let action = document.get("action").map(|node| (node.line, node.text().unwrap_or_default().to_owned()));
        let base = match action.as_ref().map(|(_, action)| action.as_str()) {
            None if collection && document.get("correlation").is_none() && document.get("filter").is_none() => {
                global.as_ref()
            }
            None => None,
            Some("global") => {
                let document = without_action(document);
                if document.span.len() > MAX_GLOBAL {
                    let message = format!("the global part of a collection is larger than {MAX_GLOBAL} bytes");
                    return vec![call(Err(SigmaError::new(Code::TooLarge, document.line, message)))];
                }
                last = Some(document.clone());
                global = Some(document);
                continue;
            }
            Some("reset") => {
                global = None;
                continue;
            }
            Some("repeat") => last.as_ref(),
            Some(other) => {
                let line = action.as_ref().map_or(document.line, |(line, _)| *line);
                let message = format!("`{}` is no action: global, reset or repeat", other.escape_debug());
                out.push(call(Err(SigmaError::new(Code::BadValue, line, message))));
                continue;
            }
        };
        // Of a global part and a rule the global part's values hold; of a rule and what repeats it, the latter's.
        let repeats = action.is_some();
        let merged = match base {
            None => document,
            Some(base) if repeats => merge(base.clone(), &without_action(document)),
            Some(base) => merge(document, base),
        };
        out.push(call(Ok(&merged)));
        if collection {
            last = (merged.span.len() <= MAX_GLOBAL).then_some(merged);
        }
    }
    out
}

fn without_action(mut document: Node) -> Node {
    if let Value::Mapping(pairs) = &mut document.value {
        pairs.retain(|(key, _)| key.text() != Some("action"));
    }
    document
}

/// Lays a mapping over another: mappings are merged, everything else is taken from above.
fn merge(mut below: Node, above: &Node) -> Node {
    let Value::Mapping(over) = &above.value else { return above.clone() };
    let Value::Mapping(pairs) = &mut below.value else { return above.clone() };
    for (key, value) in over {
        match pairs.iter_mut().find(|(known, _)| known.text() == key.text()) {
            Some((_, known)) => {
                let old = std::mem::replace(&mut known.value, Value::Sequence(Vec::new()));
                *known = merge(Node { value: old, ..known.clone() }, value);
            }
            None => pairs.push((key.clone(), value.clone())),
        }
    }
    below
}
