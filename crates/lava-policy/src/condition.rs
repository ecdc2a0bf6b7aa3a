//! Conditions: CEL expressions over `event` and `trace`, checked when the policy is compiled.
//!
//! Bounds: an expression has at most [`MAX_LEN`] bytes, [`MAX_NODES`] nodes and [`MAX_DEPTH`] levels; a loop (`exists`,
//! `all`, `map`, `filter`) stands in no other loop, and runs over a list of at most [`MAX_LIST`] elements.

use std::net::IpAddr;
use std::ops::Range;

use cel::common::ast::{Expr, LiteralValue};
use cel::parser::{Expression, PrattParser};

use lava_event::Event;

use crate::TraceView;
use crate::error::{Code, suggestion};

pub(crate) const MAX_LEN: usize = 4096;
const MAX_NODES: usize = 512;
const MAX_DEPTH: usize = 24;
/// Longest list a loop runs over.
pub(crate) const MAX_LIST: usize = 1024;

const VARIABLES: [&str; 2] = ["event", "trace"];
const FUNCTIONS: [&str; 10] =
    ["size", "contains", "startsWith", "endsWith", "int", "uint", "double", "string", "bool", "type"];
const TRACE: [&str; 7] = ["tainted", "stages", "verdict", "task_started", "autostart", "in_baseline", "names"];
/// The kinds of events, and those that wait for an answer.
const KINDS: &[&str] = lava_event::Kind::NAMES;
const WAITING: &[&str] = lava_event::Kind::WAITING;

/// A mistake in a condition; the span counts bytes of the condition.
pub(crate) struct Mistake {
    pub(crate) code: Code,
    pub(crate) span: Range<usize>,
    pub(crate) message: String,
    pub(crate) help: Option<String>,
}

pub(crate) struct Condition {
    pub(crate) expression: Expression,
    /// It has a loop.
    pub(crate) loops: bool,
    /// The kinds of events that it can match; `None`: any.
    pub(crate) kinds: Option<Vec<String>>,
    /// The addresses that stand in it as texts.
    pub(crate) addresses: Vec<IpAddr>,
    /// What must be so, or it is false.
    needs: Vec<Need>,
}

/// A part of a conjunction that is answered without the interpreter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Need {
    /// `trace.tainted`
    Tainted,
    /// `trace.task_started`
    TaskStarted,
    /// `trace.autostart != ""`
    Autostart,
}

impl Condition {
    /// False only if it is true of no event of that kind.
    pub(crate) fn may_be_about(&self, kind: &str) -> bool {
        self.kinds.as_ref().is_none_or(|kinds| kinds.iter().any(|known| known == kind))
    }

    /// False only if the condition is: making an event a CEL value costs a hundred times this.
    pub(crate) fn may_match(&self, event: &Event, trace: &TraceView) -> bool {
        self.may_be_about(event.kind.name())
            && self.needs.iter().all(|need| match need {
                Need::Tainted => trace.tainted,
                Need::TaskStarted => trace.task_started,
                Need::Autostart => !trace.autostart.is_empty(),
            })
    }
}

pub(crate) fn compile(text: &str) -> Result<Condition, Vec<Mistake>> {
    let too_large = |what: String| {
        Err(vec![Mistake {
            code: Code::TooLarge,
            span: 0..text.len(),
            message: what,
            help: Some("split it into several rules: the first that matches decides".into()),
        }])
    };
    if text.len() > MAX_LEN {
        return too_large(format!("the condition is longer than {MAX_LEN} bytes"));
    }
    // The parser recurses; what would nest deeper than we accept never reaches it.
    if text.bytes().filter(|b| b"([{?".contains(b)).count() > 128 {
        return too_large("the condition has more than 128 brackets".into());
    }
    let parser = PrattParser::new().max_recursion_depth(24).max_expression_node_count(4 * MAX_NODES);
    let expression = match parser.parse(text) {
        Ok(expression) => expression,
        Err(errors) => return Err(errors.errors.iter().take(3).map(|e| syntax(text, e)).collect()),
    };
    let mut check = Check { text, ..Check::default() };
    check.walk(&expression, 0, false);
    match check.too_large {
        Some(what) => too_large(what.into()),
        None if check.mistakes.is_empty() => {
            let (kinds, needs) = (kinds(&expression), needs(&expression));
            Ok(Condition { expression, loops: check.loops, kinds, addresses: check.addresses, needs })
        }
        None => Err(check.mistakes),
    }
}

fn syntax(text: &str, error: &cel::ParseError) -> Mistake {
    let line = usize::try_from(error.pos.0).unwrap_or(1).max(1);
    let column = usize::try_from(error.pos.1).unwrap_or(1).max(1);
    let start: usize = text.split_inclusive('\n').take(line - 1).map(str::len).sum();
    let rest = text.get(start..).unwrap_or("");
    let at = start + rest.char_indices().nth(column - 1).map_or(rest.trim_end().len(), |(at, _)| at);
    let end = at + text.get(at..).and_then(|t| t.chars().next()).map_or(0, char::len_utf8);
    let help = "conditions are CEL: `event.kind == \"disk.write\" && trace.task_started`";
    Mistake {
        code: Code::Syntax,
        span: at..end,
        message: format!("the condition is not CEL: {}", error.msg.trim_start_matches("Syntax error: ")),
        help: Some(help.into()),
    }
}

/// The kinds of events that a condition can be true of; `None`: any. More rather than fewer: what is left out never waits.
fn kinds(node: &Expression) -> Option<Vec<String>> {
    let Expr::Call(call) = &node.expr else { return None };
    let [a, b] = call.args.as_slice() else { return None };
    match call.func_name.as_str() {
        "_&&_" => match (kinds(a), kinds(b)) {
            (Some(a), Some(b)) => Some(a.into_iter().filter(|kind| b.contains(kind)).collect()),
            (a, b) => a.or(b),
        },
        "_||_" => Some([kinds(a)?, kinds(b)?].concat()),
        "_==_" | "@in" => {
            let values = if is_kind(a) { b } else { Some(a).filter(|_| is_kind(b))? };
            elements(values).iter().map(literal).collect()
        }
        _ => None,
    }
}

/// The needs that a condition is a conjunction of, among others.
fn needs(node: &Expression) -> Vec<Need> {
    let Expr::Call(call) = &node.expr else {
        let known = [("tainted", Need::Tainted), ("task_started", Need::TaskStarted)];
        return known.into_iter().filter(|(field, _)| is_field(node, "trace", field)).map(|(_, need)| need).collect();
    };
    let [a, b] = call.args.as_slice() else { return Vec::new() };
    match call.func_name.as_str() {
        "_&&_" => [needs(a), needs(b)].concat(),
        "_!=_" if is_field(a, "trace", "autostart") && literal(b).as_deref() == Some("") => vec![Need::Autostart],
        _ => Vec::new(),
    }
}

/// `event.kind`
fn is_kind(node: &Expression) -> bool {
    is_field(node, "event", "kind")
}

/// `variable.field`, not `has(variable.field)`.
fn is_field(node: &Expression, variable: &str, field: &str) -> bool {
    matches!(&node.expr, Expr::Select(select) if select.field == field && !select.test
        && matches!(&select.operand.expr, Expr::Ident(name) if name == variable))
}

/// A list's elements, or the one value.
fn elements(node: &Expression) -> &[Expression] {
    match &node.expr {
        Expr::List(list) => &list.elements,
        _ => std::slice::from_ref(node),
    }
}

fn literal(node: &Expression) -> Option<String> {
    match &node.expr {
        Expr::Literal(LiteralValue::String(text)) => Some(text.inner().to_owned()),
        _ => None,
    }
}

#[derive(Default)]
struct Check<'a> {
    text: &'a str,
    mistakes: Vec<Mistake>,
    nodes: usize,
    loops: bool,
    addresses: Vec<IpAddr>,
    scope: Vec<String>,
    too_large: Option<&'static str>,
}

impl Check<'_> {
    /// Where `word` stands: the AST of this parser has no places.
    fn find(&self, word: &str) -> Range<usize> {
        let part = |c: char| c.is_alphanumeric() || c == '_';
        self.text
            .match_indices(word)
            .map(|(at, _)| at..at + word.len())
            .find(|r| !self.text[..r.start].ends_with(part) && !self.text[r.end..].starts_with(part))
            .unwrap_or(0..self.text.len())
    }

    fn unknown(&mut self, what: &str, name: &str, known: &[&str]) {
        let help = Some(suggestion(name, known));
        let message = format!("unknown {what} `{name}`");
        self.mistakes.push(Mistake { code: Code::UnknownName, span: self.find(name), message, help });
    }

    fn walk(&mut self, node: &Expression, depth: usize, in_loop: bool) {
        self.nodes += 1;
        if depth > MAX_DEPTH || self.nodes > MAX_NODES {
            self.too_large = Some("the condition is too large or nested too deeply");
            return;
        }
        let below = depth + 1;
        match &node.expr {
            Expr::Ident(name) => {
                if !VARIABLES.contains(&name.as_str()) && !self.scope.contains(name) {
                    self.unknown("variable", name, &VARIABLES);
                }
            }
            Expr::Select(select) => {
                if matches!(&select.operand.expr, Expr::Ident(name) if name == "trace")
                    && !TRACE.contains(&select.field.as_str())
                {
                    self.unknown("field of `trace`", &select.field, &TRACE);
                }
                self.walk(&select.operand, below, in_loop);
            }
            Expr::Call(call) => {
                let name = call.func_name.as_str();
                if name.starts_with(|c: char| c.is_ascii_alphabetic()) && !FUNCTIONS.contains(&name) {
                    self.unknown("function", name, &FUNCTIONS);
                }
                if let [a, b] = call.args.as_slice()
                    && matches!(name, "_==_" | "_!=_" | "@in")
                {
                    self.kind(a, b);
                    self.kind(b, a);
                }
                call.target.iter().for_each(|target| self.walk(target, below, in_loop));
                call.args.iter().for_each(|arg| self.walk(arg, below, in_loop));
            }
            Expr::List(list) => list.elements.iter().for_each(|e| self.walk(e, below, in_loop)),
            Expr::Comprehension(c) => {
                self.loops = true;
                if in_loop {
                    self.too_large = Some("a loop within a loop could run for very long");
                }
                self.walk(&c.iter_range, below, in_loop);
                let outer = self.scope.len();
                self.scope.extend([c.iter_var.clone(), c.accu_var.clone()]);
                self.scope.extend(c.iter_var2.clone());
                self.walk(&c.accu_init, below, in_loop);
                for body in [&c.loop_cond, &c.loop_step, &c.result] {
                    self.walk(body, below, true);
                }
                self.scope.truncate(outer);
            }
            // Their keys have no order, and a decision must not depend on one.
            Expr::Map(_) | Expr::Struct(_) => self.mistakes.push(Mistake {
                code: Code::Syntax,
                span: 0..self.text.len(),
                message: "map and struct literals are not used in conditions".into(),
                help: None,
            }),
            Expr::Literal(_) => self.addresses.extend(literal(node).and_then(|text| text.parse::<IpAddr>().ok())),
            Expr::Unspecified => {}
        }
    }

    fn kind(&mut self, field: &Expression, value: &Expression) {
        if !is_kind(field) {
            return;
        }
        for kind in elements(value).iter().filter_map(literal) {
            let kind = kind.as_str();
            if WAITING.contains(&kind) {
                continue;
            }
            let (message, help) = if KINDS.contains(&kind) {
                let all = WAITING.join(", ");
                (format!("events of the kind `{kind}` do not wait for a policy"), format!("these do: {all}"))
            } else {
                (format!("no event is of the kind `{kind}`"), suggestion(kind, KINDS))
            };
            let code = Code::UnknownKind;
            self.mistakes.push(Mistake { code, span: self.find(kind), message, help: Some(help) });
        }
    }
}
