//! `lava remediate`: what a task did to its disk is undone, and judged by hashes that the guest said before the task changed anything, by
//! e2fsprogs on the host, and by what the command itself proves.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};

use lava_event::Sha256;
use serde_json::Value;

use crate::common::{lava, play};

/// Says what is there, then does a bit of everything to it.
const TASK: &str = r#"
for file in /etc/passwd /etc/hosts /etc/debian_version /etc/host.conf /etc/issue /usr/bin/perl /bin/true /etc/crontab; do
    printf 'WAS %s %s %s\n' "$file" "$(stat -Lc '%a' "$file")" "$(sha256sum < "$file" | cut -d' ' -f1)"
done
mkdir -p /etc/made/deep && echo dropped > "/etc/made/deep/a name"
mknod /etc/made/null c 1 3 && mkfifo /etc/made/pipe && ln -s /etc/passwd /etc/made/link
echo '* * * * * root /etc/made/deep/run' > /etc/cron.d/evil
echo 'evil::0:0::/:/bin/sh' >> /etc/passwd
tr a-z A-Z < /etc/host.conf > /tmp/x && cat /tmp/x > /etc/host.conf && touch -r /etc/hosts /etc/host.conf && rm /tmp/x
rm /etc/debian_version
rm -r /etc/cron.daily
chmod 777 /etc /etc/issue && chown 1000:1000 /etc/crontab
rm /usr/bin/perl && cp /bin/false /usr/bin/perl
setcap cap_setuid+ep /bin/true
setfacl -m u:1000:rwx /etc/ssl /etc/hosts
chattr +i /etc/made/deep/a\ name
rm -r /etc/apt && ln -s /tmp /etc/apt
rm /etc/mtab /etc/localtime; echo x > /etc/localtime
printf 'odd' > "$(printf '/etc/odd\nname')"
sync
"#;

fn remediate(session: &Path, arguments: &[&str]) -> (Output, Vec<Value>) {
    let output = lava().arg("remediate").arg(session).args(["--format", "jsonl"]).args(arguments).output().unwrap();
    let lines =
        String::from_utf8_lossy(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    (output, lines)
}

/// On the partition of a disk, by debugfs.
fn debugfs(disk: &Path, command: &str) -> Vec<u8> {
    let device = format!("{}?offset={}", disk.display(), 2048 * 512);
    Command::new("/usr/sbin/debugfs").args(["-R", command, &device]).output().unwrap().stdout
}

#[test]
fn what_a_task_did_is_undone() {
    let ran = play(TASK, "observe", &["--root"]);
    let was: BTreeMap<&str, (&str, &str)> = ran
        .console
        .lines()
        .filter_map(|line| line.split_once("WAS ")?.1.trim().split_once(' '))
        .filter_map(|(path, rest)| Some((path, rest.split_once(' ')?)))
        .collect();
    assert_eq!(was.len(), 8, "{}", ran.console);
    let session = ran.session.dir();
    let (output, listed) = remediate(session, &["--list"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let action = |path: &str| listed.iter().find(|entry| entry["path"] == path).map(|entry| entry["action"].clone());
    for (path, wanted) in [
        ("/etc/made/deep/a name", "delete"),
        ("/etc/cron.d/evil", "delete"),
        ("/etc/passwd", "restore"),
        ("/etc/debian_version", "put back"),
        ("/etc/issue", "reset"),
        ("/usr/bin/true", "reset"),
        ("/etc", "reset"),
        ("/etc/ssl", "reset"),
        ("/etc/apt", "restore"),
    ] {
        assert_eq!(action(path), Some(wanted.into()), "{path}: {listed:#?}");
    }

    let place = tempfile::tempdir().unwrap();
    let disk = place.path().join("whole.raw");
    let (output, proofs) = remediate(session, &["--apply", "--to", disk.to_str().unwrap()]);
    let told = String::from_utf8_lossy(&output.stderr);
    let wrong: Vec<&Value> = proofs.iter().filter(|proof| proof["same"] != true).collect();
    assert!(wrong.is_empty() && output.status.success(), "{wrong:#?} {told}");
    assert!(proofs.len() >= listed.len(), "{} of {}", proofs.len(), listed.len());

    // Judged by others.
    let check = Command::new("/usr/sbin/e2fsck")
        .args(["-fn", &format!("{}?offset={}", disk.display(), 2048 * 512)])
        .output()
        .unwrap();
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
    for (path, (mode, hash)) in was {
        let path = path.replace("/bin/true", "/usr/bin/true").replace("/usr/usr", "/usr");
        assert_eq!(Sha256::of(&debugfs(&disk, &format!("cat {path}"))).to_string(), hash, "{path}");
        let stat = String::from_utf8_lossy(&debugfs(&disk, &format!("stat {path}"))).into_owned();
        assert!(stat.contains(&format!("Mode:  {mode:0>4}")), "{path} {mode}: {stat}");
        assert!(!stat.contains("Extended attributes"), "{path}: {stat}");
    }
    for gone in ["/etc/made", "/etc/cron.d/evil"] {
        assert!(debugfs(&disk, &format!("stat {gone}")).is_empty(), "{gone}");
    }
    assert!(!String::from_utf8_lossy(&debugfs(&disk, "ls /etc")).contains("odd"));

    // Some only; the evidence is what it was.
    let part = place.path().join("part.raw");
    let (output, proofs) = remediate(session, &["--apply", "--to", part.to_str().unwrap(), "/etc/pass*"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(proofs.iter().map(|proof| proof["path"].clone()).collect::<Vec<_>>(), ["/etc/passwd"]);
    assert!(!debugfs(&part, "stat /etc/cron.d/evil").is_empty());
    let (output, _) = remediate(session, &["--apply", "--to", part.to_str().unwrap()]);
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("exists"));
    assert!(ran.session.verify_chain().unwrap().intact());
    assert!(ran.session.manifest().files.contains_key("vda.after"));
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 2, "nothing else is left there");
}
