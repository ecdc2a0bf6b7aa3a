//! Who may ask what.
//!
//! *Invariant:* every path below `/api/` needs a user, except the login; what changes something needs an analyst, unless the table in
//! [`needed`] says otherwise. Handlers do not decide it, so a new one cannot forget it.

mod guard;
pub mod limits;
pub mod password;

pub use guard::{Client, Who, guard, headers, is_admin};

use axum::http::Method;

use crate::store::Role;

/// The least role that this request needs; none: everybody may.
pub fn needed(method: &Method, path: &str) -> Option<Role> {
    let reads = method == Method::GET || method == Method::HEAD;
    match path {
        _ if !path.starts_with("/api/") => None,
        "/api/login" => None,
        "/api/logout" | "/api/policies/check" => Some(Role::Viewer),
        _ if path == "/api/tokens" || path.starts_with("/api/tokens/") => Some(Role::Viewer),
        _ if path.starts_with("/api/searches/") => Some(Role::Viewer),
        "/api/retention" if !reads => Some(Role::Admin),
        // Whoever holds a session says why; letting it go again is not theirs alone.
        _ if method == Method::DELETE && path.starts_with("/api/sessions/") && path.ends_with("/hold") => {
            Some(Role::Admin)
        }
        _ if path == "/api/audit" || path == "/api/users" || path.starts_with("/api/users/") => Some(Role::Admin),
        // Whoever opens it moves the guest's keyboard and pointer.
        _ if path.starts_with("/api/sessions/") && path.ends_with("/screen/control") => Some(Role::Analyst),
        _ if reads => Some(Role::Viewer),
        _ => Some(Role::Analyst),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_something_needs_an_analyst() {
        let check = |method: Method, path: &str, role| assert_eq!(needed(&method, path), role, "{method} {path}");
        check(Method::GET, "/", None);
        check(Method::POST, "/api/login", None);
        check(Method::GET, "/api/sessions/x/events", Some(Role::Viewer));
        check(Method::POST, "/api/sessions", Some(Role::Analyst));
        check(Method::DELETE, "/api/anything/new", Some(Role::Analyst));
        check(Method::GET, "/api/users", Some(Role::Admin));
        check(Method::DELETE, "/api/users/eve", Some(Role::Admin));
        check(Method::GET, "/api/audit", Some(Role::Admin));
        check(Method::POST, "/api/tokens", Some(Role::Viewer));
        check(Method::PUT, "/api/searches/mine", Some(Role::Viewer));
        check(Method::PUT, "/api/retention", Some(Role::Admin));
        check(Method::GET, "/api/retention/preview", Some(Role::Viewer));
        check(Method::GET, "/api/sessions/x/screen", Some(Role::Viewer));
        check(Method::GET, "/api/sessions/x/screen/control", Some(Role::Analyst));
        check(Method::PUT, "/api/sessions/x/hold", Some(Role::Analyst));
        check(Method::DELETE, "/api/sessions/x/hold", Some(Role::Admin));
    }
}
