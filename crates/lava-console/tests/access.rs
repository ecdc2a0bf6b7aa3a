//! Who may ask what.

mod common;

use std::path::Path;

use common::{console, recorded};
use lava_console::Role;
use reqwest::blocking::Client;
use reqwest::header::{HOST, ORIGIN, SET_COOKIE};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tempfile::tempdir;

const ID: &str = "01J0000000000000000000000A";

fn nobody() -> &'static Path {
    Path::new("/bin/false")
}

/// Every route of the OpenAPI document, its parameters filled in.
fn routes() -> Vec<(Method, String)> {
    let api: Value = serde_json::to_value(lava_console::openapi()).unwrap();
    let paths = api["paths"].as_object().unwrap();
    let of = |(path, methods): (&String, &Value)| {
        let path = path
            .replace("{id}", ID)
            .replace("{number}", "999999")
            .replace("{format}", "stix")
            .replace("{sha256}", &"a".repeat(64))
            .replace("{name}", "x");
        assert!(!path.contains('{'), "{path}: a parameter that this test does not know");
        let methods: Vec<String> = methods.as_object().unwrap().keys().cloned().collect();
        methods.into_iter().map(move |method| (method.to_uppercase().parse().unwrap(), path.clone()))
    };
    paths.iter().flat_map(of).collect()
}

#[test]
fn no_route_without_authorisation() {
    let root = tempdir().unwrap();
    recorded(root.path(), ID);
    let console = console(root.path(), nobody());
    let all = routes();
    assert!(all.len() > 25, "{}", all.len());
    for (method, path) in all.iter().filter(|(_, path)| path != "/api/login") {
        let status = console.bare(method.clone(), path).send().unwrap().status();
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{method} {path}");
        let wrong = console.bare(method.clone(), path).bearer_auth("lava_0000").header("cookie", "lava=0000");
        assert_eq!(wrong.send().unwrap().status(), StatusCode::UNAUTHORIZED, "{method} {path}");
    }
    let viewers =
        ["/api/logout", "/api/tokens", "/api/tokens/999999", "/api/searches/x", "/api/policies/check", "/api/login"];
    for (method, path) in &all {
        let admins = path.starts_with("/api/users")
            || path.starts_with("/api/audit")
            || (path == "/api/retention" && method != Method::GET)
            || (path.ends_with("/hold") && method == Method::DELETE);
        let touches = path.ends_with("/screen/control");
        let changes = touches || (method != Method::GET && !viewers.contains(&path.as_str()));
        let forbidden =
            |role| console.ask(role, method.clone(), path).send().unwrap().status() == StatusCode::FORBIDDEN;
        assert_eq!(forbidden(Role::Viewer), admins || changes, "a viewer: {method} {path}");
        assert_eq!(forbidden(Role::Analyst), admins, "an analyst: {method} {path}");
    }
    assert_eq!(console.bare(Method::GET, "/api/openapi.json").send().unwrap().status(), StatusCode::UNAUTHORIZED);
    assert_eq!(console.bare(Method::GET, "/api/nothing").send().unwrap().status(), StatusCode::UNAUTHORIZED);
    assert_eq!(console.ask(Role::Admin, Method::GET, "/api/nothing").send().unwrap().status(), StatusCode::NOT_FOUND);
}

#[test]
fn a_link_lets_in_once_and_its_cookie_needs_the_header() {
    let root = tempdir().unwrap();
    recorded(root.path(), ID);
    let console = console(root.path(), nobody());
    let browser = Client::builder().cookie_store(true).build().unwrap();
    let login = || browser.post(console.url("/api/login")).json(&json!({"token": console.link})).send().unwrap();
    let answer = login();
    assert_eq!(answer.status(), 200);
    let cookie = answer.headers()[SET_COOKIE].to_str().unwrap().to_owned();
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict") && cookie.contains("Path=/"), "{cookie}");
    let me: Value = browser.get(console.url("/api/me")).send().unwrap().json().unwrap();
    assert_eq!((&me["user"], &me["role"]), (&json!("analyst"), &json!("analyst")));
    assert_eq!(login().status(), 401, "a link works once");

    let csrf = me["csrf"].as_str().unwrap();
    let respond = |csrf: &str| {
        let request = browser.post(console.url(&format!("/api/sessions/{ID}/respond"))).header("x-lava-csrf", csrf);
        request.json(&json!({"command": "stop"})).send().unwrap()
    };
    assert_eq!(respond("").status(), 403);
    assert_eq!(respond(&"0".repeat(csrf.len())).status(), 403);
    let refused: Value = respond(csrf).json().unwrap();
    assert_eq!(refused["error"]["code"], "conflict", "let through: the session is over");

    let out = browser.post(console.url("/api/logout")).header("x-lava-csrf", csrf).send().unwrap();
    assert_eq!(out.status(), 204);
    let old = cookie.split(';').next().unwrap();
    let stolen = Client::new().get(console.url("/api/me")).header("cookie", old).send().unwrap();
    assert_eq!(stolen.status(), 401, "the cookie is worth nothing after the logout");
}

#[test]
fn passwords_let_in_and_tries_are_counted() {
    let root = tempdir().unwrap();
    let console = console(root.path(), nobody());
    let form = json!({"role": "viewer", "password": "correct horse battery"});
    let put = |name: &str, form: &Value| {
        console.ask(Role::Admin, Method::PUT, &format!("/api/users/{name}")).json(form).send().unwrap().status()
    };
    assert_eq!(put("eve", &form), 204);
    assert_eq!(put("bob", &json!({"role": "viewer", "password": "short"})), 400);
    assert_eq!(put("%3Cb%3E", &form), 400, "a name has no markup");
    let try_in = |password: &str| {
        let form = json!({"user": "eve", "password": password});
        console.bare(Method::POST, "/api/login").json(&form).send().unwrap()
    };
    assert_eq!(try_in("wrong").status(), 401);
    assert_eq!(try_in("correct horse battery").status(), 200);
    let tried: Vec<u16> = (0..10).map(|_| try_in("wrong").status().as_u16()).collect();
    assert_eq!(tried[..8], [401; 8]);
    assert_eq!(tried[8..], [429; 2]);
    assert_eq!(try_in("correct horse battery").status(), 429, "for the right one too");

    let log: Value = console.ask(Role::Admin, Method::GET, "/api/audit?limit=500").send().unwrap().json().unwrap();
    let entries: Vec<_> = log["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| (e["user"].as_str().unwrap(), e["what"].as_str().unwrap()))
        .collect();
    assert_eq!(entries.iter().filter(|entry| **entry == ("-", "login.failed")).count(), 9);
    assert!(entries.contains(&("eve", "login")) && entries.contains(&("admin", "user.put")), "{entries:?}");
}

#[test]
fn only_our_name_and_our_pages_are_answered() {
    let root = tempdir().unwrap();
    let console = console(root.path(), nobody());
    let get = |host: &str, origin: Option<&str>| {
        let request = console.ask(Role::Viewer, Method::GET, "/api/me").header(HOST, host);
        origin.map_or(request.try_clone().unwrap(), |origin| request.header(ORIGIN, origin)).send().unwrap().status()
    };
    let port = console.address.port();
    let (ours, name) = (console.address.to_string(), format!("localhost:{port}"));
    assert_eq!(get(&ours, None), 200);
    assert_eq!(get(&name, Some(&format!("http://{name}"))), 200);
    assert_eq!(get(&format!("evil.example:{port}"), None), 403, "a name that was made to lead here");
    assert_eq!(get(&ours, Some("http://evil.example")), 403);
    assert_eq!(get(&ours, Some("null")), 403);
    let page = console.bare(Method::GET, "/").header(HOST, "evil.example").send().unwrap();
    assert_eq!(page.status(), 403);
}

#[test]
fn every_answer_says_what_a_browser_may_do_with_it() {
    let root = tempdir().unwrap();
    recorded(root.path(), ID);
    let console = console(root.path(), nobody());
    for path in ["/", "/login", "/sessions/some/view", "/api/sessions", "/api/nothing", "/nothing.js"] {
        let answer = console.ask(Role::Viewer, Method::GET, path).send().unwrap();
        let headers = answer.headers().clone();
        let policy = headers["content-security-policy"].to_str().unwrap();
        assert!(
            policy.contains("default-src 'none'")
                && policy.contains("frame-ancestors 'none'")
                && !policy.contains("unsafe"),
            "{path}: {policy}"
        );
        assert_eq!(headers["x-content-type-options"], "nosniff", "{path}");
        if path.starts_with("/api/") {
            assert_eq!(
                (&headers["content-type"], &headers["cache-control"]),
                (&"application/json".parse().unwrap(), &"no-store".parse().unwrap())
            );
        }
        let status = if path.contains("nothing") { 404 } else { 200 };
        assert_eq!(answer.status(), status, "{path}");
    }
    let page = console.bare(Method::GET, "/login").send().unwrap().text().unwrap();
    assert!(
        page.contains("<!doctype html>") && !page.contains("onclick") && !page.contains("<script>"),
        "no script in the page itself"
    );
}

#[test]
fn bodies_are_bounded() {
    let root = tempdir().unwrap();
    let console = console(root.path(), nobody());
    let long = json!({"text": "x".repeat(3 << 20)});
    let check = console.ask(Role::Viewer, Method::POST, "/api/policies/check").json(&long).send();
    assert_eq!(check.unwrap().status(), 413);
    let odd = console
        .ask(Role::Viewer, Method::POST, "/api/policies/check")
        .body("{")
        .header("content-type", "application/json");
    assert_eq!(odd.send().unwrap().status(), 400);
    let mistake = json!({"text": "policy: x\ndefault: maybe\n"});
    let checked: Value =
        console.ask(Role::Viewer, Method::POST, "/api/policies/check").json(&mistake).send().unwrap().json().unwrap();
    assert_eq!((&checked["ok"], &checked["diagnostics"][0]["code"]), (&json!(false), &json!("lava::policy::E0003")));
}
