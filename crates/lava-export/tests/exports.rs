//! Every format, of an attack, of a hostile guest and of a clean session, judged by validators that others wrote
//! (`tests/validators`, run in the environment that `cargo xtask validators` makes).

mod common;

use lava_evidence::Session;
use lava_export::{Format, Scope, export};

fn exported(session: &Session, format: Format, scope: Scope) -> Vec<u8> {
    let mut out = Vec::new();
    let told = export(session, format, scope, &mut out).unwrap();
    assert_eq!((told.unreadable, told.left_out), (0, 0));
    out
}

/// Nothing that acts on a terminal or deceives a reader may be in any format, whatever the guest chose. Of those that are no text the
/// validators say it.
fn is_harmless(format: Format, bytes: &[u8]) {
    if matches!(format, Format::Png | Format::Pdf) {
        return;
    }
    let text = std::str::from_utf8(bytes).unwrap_or_else(|error| panic!("{}: {error}", format.name()));
    let bad = |c: char| {
        c.is_control() && c != '\n' || matches!(c, '\u{202e}' | '\u{200b}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
    };
    // RFC 5424 wants a mark in front of a message that is UTF-8, and RFC 4180 ends lines by CR LF.
    let text = match format {
        Format::Syslog => text.replace("] \u{feff}", "] "),
        Format::IndicatorsCsv => text.replace("\"\r\n", "\"\n"),
        _ => text.to_owned(),
    };
    if let Some(at) = text.find(bad) {
        let around: String = text[..at].chars().rev().take(40).collect::<Vec<_>>().into_iter().rev().collect();
        panic!("{}: {:?} behind {around:?}", format.name(), text[at..].chars().next());
    }
}

fn check(session: &Session, format: Format, scope: Scope) -> String {
    let bytes = exported(session, format, scope);
    assert_eq!(bytes, exported(session, format, scope), "{}: the same session, the same bytes", format.name());
    is_harmless(format, &bytes);
    let file = session.dir().join(format!("export.{}", format.extension()));
    std::fs::write(&file, &bytes).unwrap();
    common::judge(format.name(), &file)
}

fn each(format: Format) {
    for (name, events) in [
        ("evil.jar", common::attack()),
        ("<script>=cmd|'\u{202e}\u{1b}[2J\n", common::hostile()),
        ("good.jar", common::clean()),
    ] {
        let (_folder, session) = common::record(name, &events);
        for scope in [Scope::Task, Scope::All] {
            println!("{} of {name:?}, {scope:?}: {}", format.name(), check(&session, format, scope));
        }
    }
}

macro_rules! formats {
    ($($test:ident $Format:ident,)*) => {
        $(#[test] fn $test() { each(Format::$Format); })*

        #[test]
        fn every_format_is_judged() {
            assert_eq!(Format::ALL, [$(Format::$Format),*]);
        }
    };
}

formats! {
    stix Stix,
    misp Misp,
    navigator Navigator,
    indicators_csv IndicatorsCsv,
    indicators_json IndicatorsJson,
    ecs Ecs,
    ocsf Ocsf,
    cef Cef,
    syslog Syslog,
    graphml GraphMl,
    dot Dot,
    cytoscape Cytoscape,
    png Png,
    pdf Pdf,
}
