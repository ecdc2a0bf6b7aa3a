//! `report.html`: what the analyst reads first, and can hand on.
//!
//! One file that opens offline. Its content security policy allows inline styles and nothing else: no script, no image,
//! no request. What came from the guest passes [`crate::text`] (nothing invisible, nothing that turns the reading
//! direction, bounded) and then maud's escaping.
//!
//! *Limits:* bounded to some 2,000 events, 400 destinations, 300 processes, and 400 rows of names, requests, files...; it says what it
//! leaves out.

mod collect;
mod evidence;
mod hex;
mod network;
mod sections;

use lava_event::Stage;
use lava_graph::Trace;
use maud::{DOCTYPE, PreEscaped, html};

use crate::{Error, Session, svg};

/// The report of a session.
///
/// # Errors
/// If the log cannot be read. Broken lines in it are reported in the report.
pub fn render(session: &Session, trace: &Trace) -> Result<String, Error> {
    let all = collect::collect(session, trace)?;
    let name = crate::text::line(&session.manifest().task.name, 120);
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="referrer" content="no-referrer";
                title { (trace.verdict) ": " (name) " — LAVA report" }
                style { (PreEscaped(include_str!("report.css"))) }
            }
            body {
                a.skip href="#main" { "Skip to the findings" }
                (sections::header(session, trace))
                main #main {
                    (sections::kill_chain(trace))
                    (sections::incidents(trace))
                    (sections::faults(session, trace, &all))
                    section aria-labelledby="graph" {
                        h2 #graph { "What happened" }
                        p.mut { "From cause to effect, top to bottom. " (trace.nodes.len()) " of " (trace.graph_nodes) " nodes of the whole graph; the rest is folded into the summaries." }
                        div.scroll.graph tabindex="0" role="region" aria-label="Graph of the attack" { (PreEscaped(svg::inline(trace))) }
                    }
                    (evidence::decisions(session, trace, &all))
                    (sections::timeline(trace, &all))
                    (evidence::nodes(trace, &all))
                    (sections::processes(&all))
                    (sections::connections(&all))
                    (all.talk.files())
                    (evidence::artifacts(session)?)
                    (sections::facts(session))
                }
            }
        }
    };
    Ok(page.into_string())
}

const fn class(stage: Stage) -> &'static str {
    match stage {
        Stage::Exploit => "g0",
        Stage::Execute => "g1",
        Stage::Escalate => "g2",
        Stage::Persist => "g3",
        Stage::Propagate => "g4",
    }
}
