//! A running session, asked over its control socket: what waits for the analyst, and their answers.

use lava_control::{Command, Question};
use lava_event::{Action, Event, SessionId};
use lava_evidence::{Follow, Session};
use serde::Serialize;
use utoipa::ToSchema;

use crate::error::{Answer, ApiError};

/// Something that does not happen before the analyst has answered.
#[derive(Serialize, ToSchema)]
pub struct Pending {
    /// The event that waits.
    seq: u64,
    /// It, as in `events.jsonl`.
    #[schema(value_type = Object)]
    event: Event,
    policy: String,
    /// The rule that asks.
    rule: Option<String>,
    /// Its reason.
    reason: Option<String>,
    /// What happens if nobody answers: `allow`, `deny` or `remediate`.
    #[schema(value_type = String)]
    default: Action,
    /// When that is, session time in ns.
    deadline_ns: u64,
}

/// Asks a running session.
///
/// # Errors
/// If it does not answer, or refuses.
pub fn ask(id: &SessionId, command: Command) -> Answer<String> {
    match lava_control::ask(&lava_control::runtime(id), command) {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(why)) => Err(ApiError::conflict(why)),
        Err(_) => Err(ApiError::conflict("the session does not answer: only one that runs can be asked")),
    }
}

/// What waits for the analyst.
///
/// # Errors
/// If the session's log cannot be read.
pub fn pending(session: &Session) -> Answer<Vec<Pending>> {
    if !session.is_being_written() {
        return Ok(Vec::new());
    }
    // At its beginning and its end a session does not answer, and nothing waits.
    let Ok(list) = ask(&session.manifest().session, Command::Questions) else { return Ok(Vec::new()) };
    let mut pending = Vec::new();
    for question in serde_json::from_str::<Vec<Question>>(&list).map_err(ApiError::internal)? {
        let Question { seq, policy, rule, reason, otherwise: default, deadline_ns } = question;
        if let Some(event) = event(session, seq)? {
            pending.push(Pending { seq, event, policy, rule, reason, default, deadline_ns });
        }
    }
    Ok(pending)
}

/// The event of this number.
///
/// # Errors
/// If the session's log cannot be read.
pub fn event(session: &Session, seq: u64) -> Answer<Option<Event>> {
    let event: Option<Event> = Follow::from_seq(&session.dir().join("events.jsonl"), seq)?.read()?;
    Ok(event.filter(|event| event.seq == seq))
}
