//! The API held against its own description by schemathesis, which makes requests up from it: sound ones and broken ones.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::{console, recorded};
use lava_console::Role;
use tempfile::tempdir;

/// Requests per operation and phase.
const EXAMPLES: &str = "15";
/// Operations that could take the right to ask, or what is asked for, from the one who asks; `access.rs` and `retention.rs` have them.
const LEFT_OUT: [&str; 5] = ["logout", "remove_token", "put_user", "remove_user", "set_retention"];
/// No answer is a server's fault, or another than the description says.
const CHECKS: &str =
    "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,ignored_auth";

fn schemathesis() -> PathBuf {
    let python = std::env::var_os("LAVA_TEST_VALIDATORS").unwrap_or_else(|| {
        panic!(
            "LAVA_TEST_VALIDATORS is not set: run `cargo xtask test`, or set it to what `cargo xtask validators` prints"
        )
    });
    Path::new(&python).with_file_name("schemathesis")
}

#[test]
fn the_api_is_what_its_description_says() {
    let root = tempdir().unwrap();
    recorded(root.path(), "01J0000000000000000000000A");
    let console = console(root.path(), Path::new("/bin/false"));
    let description = root.path().join("openapi.json");
    std::fs::write(&description, serde_json::to_vec(&lava_console::openapi()).unwrap()).unwrap();
    let mut command = Command::new(schemathesis());
    command.arg("run").arg(&description).args(["--url", &console.url("")]).current_dir(root.path());
    command.args(["-H", &format!("Authorization: Bearer {}", console.token(Role::Admin))]);
    command.args(["--phases", "coverage,fuzzing", "--max-examples", EXAMPLES, "--seed", "1", "--checks", CHECKS]);
    command.args(["--continue-on-failure", "--generation-database", "none", "--no-color"]);
    for name in LEFT_OUT {
        command.args(["--exclude-operation-id", name]);
    }
    let output = command.output().expect("schemathesis");
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
