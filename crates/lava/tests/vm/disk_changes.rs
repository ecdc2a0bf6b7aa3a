//! `lava files`, held against what `stat` and `sha256sum` in the guest said of the same files.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::common::{lava, play};

/// Does each thing once, then says what is there: path, type, rights, owner, size, and the hash of a regular file.
const TASK: &str = r#"
mkdir /etc/made
echo dropped > /etc/made/added
cp /bin/true /usr/local/bin/tool && chmod 4755 /usr/local/bin/tool
ln -s /etc/made/added /etc/made/link
echo 'evil::0:0::/:/bin/sh' >> /etc/passwd
echo 10.0.0.1 update.example.com >> /etc/hosts
chmod 600 /etc/fstab
chown 1000 /etc/issue
rm /etc/debian_version
echo short-lived > /etc/gone && rm /etc/gone
# As long as before, and as old.
cp -p /etc/host.conf /tmp/times
tr a-z A-Z < /tmp/times > /etc/host.conf && touch -r /tmp/times /etc/host.conf && rm /tmp/times
cp /etc/ssl/certs/ca-certificates.crt /etc/made/ca && echo '# mine' >> /etc/ssl/certs/ca-certificates.crt
sync
for file in /etc/made /etc/made/added /etc/made/ca /etc/made/link /usr/local/bin/tool /etc/passwd /etc/hosts /etc/fstab /etc/issue \
    /etc/host.conf /etc/ssl/certs/ca-certificates.crt; do
    printf 'STATE %s %s ' "$file" "$(stat -c '%a %u:%g %s' "$file")"
    if test -f "$file" && ! test -L "$file"; then sha256sum < "$file" | cut -d' ' -f1; else echo -; fi
done
"#;

#[test]
fn the_disk_tells_what_the_task_changed() {
    let ran = play(TASK, "observe", &["--root"]);
    let said: BTreeMap<&str, &str> =
        ran.console.lines().filter_map(|line| line.split_once("STATE ")?.1.trim().split_once(' ')).collect();
    assert_eq!(said.len(), 11, "{}", ran.console);
    let output = lava().arg("files").arg(ran.session.dir()).args(["--format", "jsonl"]).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let listed: Vec<Value> =
        String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let listed: BTreeMap<&str, &Value> = listed.iter().map(|entry| (entry["path"].as_str().unwrap(), entry)).collect();

    let mut wanted: BTreeMap<&str, &str> = said.keys().map(|path| (*path, "changed")).collect();
    wanted.extend(
        ["/etc/made", "/etc/made/added", "/etc/made/ca", "/etc/made/link", "/usr/local/bin/tool"]
            .map(|path| (path, "added")),
    );
    wanted.extend([("/etc/fstab", "attributes"), ("/etc/issue", "attributes"), ("/etc/debian_version", "removed")]);
    let mut found: BTreeMap<&str, &str> =
        listed.iter().map(|(path, entry)| (*path, entry["change"].as_str().unwrap())).collect();
    // The task itself, which the launcher put there.
    found.retain(|path, _| !path.ends_with("/task.sh"));
    assert_eq!(found, wanted);

    for (path, said) in said {
        let after = &listed[path]["after"];
        let mode = after["mode"].as_str().unwrap().trim_start_matches('0');
        // A folder's blocks are no content.
        let hash = after["sha256"].as_str().unwrap_or("-");
        let ours = format!("{mode} {}:{} {} {hash}", after["uid"], after["gid"], after["size"]);
        assert_eq!(ours, said, "{path}");
        assert!(listed[path]["by"]["process"]["comm"].is_string(), "{path}: {}", listed[path]);
    }
    assert_eq!(listed["/etc/made/link"]["after"]["target"], "/etc/made/added");
    let forged = listed["/etc/host.conf"];
    assert_eq!(forged["before"]["modified"], forged["after"]["modified"]);
    for side in ["before", "after"] {
        let sha256 = listed["/etc/passwd"][side]["sha256"].as_str().unwrap().parse().unwrap();
        let content = ran.session.artifact(&sha256).unwrap().expect("kept");
        assert_eq!(String::from_utf8_lossy(&content).contains("evil"), side == "after");
    }
    assert!(ran.session.verify_chain().unwrap().intact());
    assert!(ran.session.manifest().files.contains_key("filesystem.json"));
}
