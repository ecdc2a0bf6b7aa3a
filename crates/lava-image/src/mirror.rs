//! Where packages come from: the recipe's sources, or the host's own mirror of the same suites.

use std::collections::BTreeMap;
use std::process::Command;

use crate::recipe::Body;

/// What the host's apt is configured with, as far as it matters here.
#[derive(Debug, Default)]
pub struct Host {
    /// Suite to mirror.
    mirrors: BTreeMap<String, String>,
    /// `Acquire::` options for proxies and clock checks, as apt.conf lines.
    pub options: Vec<String>,
}

impl Host {
    /// Asks the host's apt; a host without apt has no opinion.
    pub fn ask() -> Self {
        let ask = |program: &str, arguments: &[&str]| {
            let output = Command::new(program).args(arguments).output().ok().filter(|output| output.status.success());
            output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
        };
        Self {
            mirrors: mirrors(&ask(
                "apt-get",
                &["indextargets", "--format", "$(RELEASE)|$(REPO_URI)", "Created-By: Packages"],
            )),
            options: options(&ask("apt-config", &["dump", "Acquire"])),
        }
    }

    /// One line of sources.list for each suite.
    pub fn lines(&self, body: &Body) -> Vec<String> {
        let lines = body.source.iter().flat_map(|source| {
            source.suites.iter().map(|suite| {
                let url = self.mirrors.get(suite).unwrap_or(&source.url);
                format!("deb {url} {suite} {}", source.components.join(" "))
            })
        });
        lines.collect()
    }
}

fn mirrors(targets: &str) -> BTreeMap<String, String> {
    let lines = targets.lines().filter_map(|line| line.split_once('|'));
    lines.filter(|(suite, _)| !suite.is_empty()).map(|(suite, url)| (suite.into(), url.into())).collect()
}

fn options(dump: &str) -> Vec<String> {
    let wanted = |line: &&str| {
        let name = line.split(' ').next().unwrap_or_default();
        let parts: Vec<_> = name.split("::").collect();
        parts.contains(&"Proxy") || name == "Acquire::Check-Valid-Until" || name == "Acquire::Check-Date"
    };
    dump.lines().filter(wanted).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_s_mirror_and_proxy_are_used() {
        let found = mirrors("bookworm|http://mirror.local/debian/\n|x\nnodistro|https://other/\n");
        assert_eq!(found["bookworm"], "http://mirror.local/debian/");
        assert_eq!(found.len(), 2);
        let dump = "Acquire \"\";\nAcquire::http::Proxy \"http://p:1\";\nAcquire::Check-Date \"false\";\nAcquire::Retries \"3\";\n";
        assert_eq!(options(dump), ["Acquire::http::Proxy \"http://p:1\";", "Acquire::Check-Date \"false\";"]);
    }
}
