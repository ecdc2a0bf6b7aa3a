//! Names of ATT&CK techniques, from `data/attack.toml`.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use lava_event::Technique;
use serde::Deserialize;

#[derive(Deserialize, Default)]
struct Table {
    version: String,
    techniques: BTreeMap<String, String>,
    #[serde(default)]
    aliases: BTreeMap<String, String>,
}

// A table that does not parse is found by the test below, not by a user.
static TABLE: LazyLock<Table> =
    LazyLock::new(|| toml::from_str(include_str!("../data/attack.toml")).unwrap_or_default());

/// The version of ATT&CK that the names are of.
#[must_use]
pub fn attack_version() -> &'static str {
    &TABLE.version
}

/// The technique of that identifier, aliases resolved. One that is not in the table has its identifier for a name.
#[must_use]
pub fn technique(id: &str) -> Technique {
    let id = TABLE.aliases.get(id).map_or(id, String::as_str);
    let name = TABLE.techniques.get(id).map_or(id, String::as_str);
    Technique { id: id.to_owned(), name: name.to_owned() }
}

/// What a user's rule has that names no technique.
#[must_use]
pub fn unnamed_technique() -> Technique {
    Technique { id: "-".to_owned(), name: "not said by the rule".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_behaviour_has_a_named_technique() {
        assert!(!attack_version().is_empty());
        for about in crate::behaviours() {
            assert_ne!(technique(about.technique).name, about.technique, "{}", about.id);
        }
        for id in crate::behaviour::asep_techniques().into_iter().chain(crate::behaviour::port_techniques()) {
            assert_ne!(technique(id).name, id);
        }
    }
}
