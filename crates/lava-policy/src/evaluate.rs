//! Evaluates conditions. What goes wrong becomes a fault in our words: the interpreter's own would print guest values.

use std::cell::OnceCell;
use std::sync::{Arc, LazyLock};

use cel::objects::Map;
use cel::{Context, Env, ExecutionError, Value};
use lava_event::{Action, Decision, Event, GuestText, Stage};

use crate::condition::MAX_LIST;
use crate::{EvaluationFault, Rule, TraceView};

static ENV: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));

pub(crate) fn decide(
    default: Action,
    rules: &[Arc<Rule>],
    counts: &dyn Fn(&Rule) -> bool,
    event: &Event,
    trace: &TraceView,
) -> (Decision, Vec<EvaluationFault>) {
    let mut faults = Vec::new();
    // A policy without rules costs nothing.
    let prepared = OnceCell::new();
    for rule in rules.iter().filter(|rule| rule.condition.may_match(event, trace) && counts(rule)) {
        let matched = match prepared.get_or_init(|| prepare(event, trace)) {
            Err(why) => Err(why.clone()),
            Ok((_, longest)) if rule.condition.loops && *longest > MAX_LIST => {
                Err(format!("the event holds a list of {longest} elements, loops run over {MAX_LIST} at most"))
            }
            Ok((context, _)) => match Value::resolve(&rule.condition.expression, context) {
                Ok(Value::Bool(matched)) => Ok(matched),
                Ok(other) => Err(format!("the condition gave a {}, not true or false", other.type_of())),
                Err(error) => Err(explain(&error)),
            },
        };
        match matched {
            Ok(true) => {
                let decision =
                    Decision { action: rule.action, rule: Some(rule.name.clone()), reason: rule.reason.clone() };
                return (decision, faults);
            }
            Ok(false) => {}
            Err(message) => faults.push(EvaluationFault { rule: rule.name.clone(), message }),
        }
    }
    (Decision { action: default, rule: None, reason: None }, faults)
}

type Prepared = Result<(Context<'static, 'static>, usize), String>;

fn prepare(event: &Event, trace: &TraceView) -> Prepared {
    let mut longest = 0;
    let event = cel::to_value(event).map_err(|_| "the event has no CEL form".to_owned())?;
    let event = plain(event, &mut longest);
    let stages: Vec<Value> = trace.stages.iter().copied().map(Stage::name).map(Value::from).collect();
    let trace = std::collections::HashMap::from([
        ("tainted".to_owned(), Value::Bool(trace.tainted)),
        ("stages".to_owned(), Value::from(stages)),
        ("verdict".to_owned(), Value::from(trace.verdict.to_string())),
        ("task_started".to_owned(), Value::Bool(trace.task_started)),
        ("autostart".to_owned(), Value::from(trace.autostart)),
        ("in_baseline".to_owned(), Value::Bool(trace.in_baseline)),
        ("names".to_owned(), Value::from(trace.names.clone())),
    ]);
    let mut context = Context::with_env(Arc::clone(&ENV));
    context.add_variable_from_value("event", event);
    context.add_variable_from_value("trace", Value::from(trace));
    Ok((context, longest))
}

/// Whole numbers as `int` where they fit, so that arithmetic with literals works.
fn plain(value: Value, longest: &mut usize) -> Value {
    match value {
        Value::UInt(n) => i64::try_from(n).map_or(Value::UInt(n), Value::Int),
        Value::List(items) => {
            *longest = (*longest).max(items.len());
            let items = Arc::unwrap_or_clone(items);
            Value::List(Arc::new(items.into_iter().map(|v| plain(v, longest)).collect()))
        }
        Value::Map(map) => {
            let map = Arc::unwrap_or_clone(map.map);
            Value::Map(Map { map: Arc::new(map.into_iter().map(|(k, v)| (k, plain(v, longest))).collect()) })
        }
        other => other,
    }
}

fn explain(error: &ExecutionError) -> String {
    let text = match error {
        ExecutionError::NoSuchKey(name) => {
            format!("the event has no `{name}`; test with has() first if it is optional")
        }
        ExecutionError::UndeclaredReference(name) => format!("there is no `{name}`"),
        ExecutionError::NoSuchOverload(overload) => overload.to_string(),
        ExecutionError::IndexOutOfBounds(_) => "the list has no element of that number".to_owned(),
        ExecutionError::DivisionByZero(_) | ExecutionError::RemainderByZero(_) => "division by zero".to_owned(),
        ExecutionError::Overflow(..) => "a number became too large".to_owned(),
        _ => "an operator or function was used on values that it is not for".to_owned(),
    };
    // A key can be computed from what the guest chose.
    GuestText::from(text.as_str()).to_string().chars().take(300).collect()
}
