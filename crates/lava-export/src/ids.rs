//! Identifiers that are the same for the same thing in every export of a session.

use lava_event::SessionId;
use uuid::{Builder, Uuid};

/// LAVA's own namespace: UUID version 5 of `lava-project.github.io` in the DNS namespace of RFC 4122.
fn namespace() -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_DNS, b"lava-project.github.io")
}

/// Of a thing of LAVA's that is no session's: `kind` and `name` tell which.
pub(crate) fn of(kind: &str, name: &str) -> Uuid {
    Uuid::new_v5(&namespace(), format!("{kind}\0{name}").as_bytes())
}

/// Of a thing of a session.
pub(crate) fn within(session: &SessionId, kind: &str, name: &str) -> Uuid {
    of(kind, &format!("{session}\0{name}"))
}

/// The same in the shape of version 4, for formats that ask for that and do not define how ids are derived.
pub(crate) fn as_v4(id: Uuid) -> Uuid {
    Builder::from_random_bytes(*id.as_bytes()).into_uuid()
}
