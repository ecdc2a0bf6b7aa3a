//! What the simulated web has: files of a folder, by host and path; for all else something plausible is made up.
//!
//! `DIR/host/path` answers `http(s)://host/path`; `DIR/_/path` answers that path of any host; a path that ends in `/` is that
//! folder's `index.html`. The folder is read once, before the guest starts: nothing a guest asks for touches the file system.
//!
//! Limits: [`MOST_FILES`] files, [`MOST_BYTES`] bytes; queries are not looked at; symbolic links are not followed.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use lava_event::Artifact;

/// Files of a content folder.
const MOST_FILES: usize = 10_000;
/// Their length in all, bytes.
const MOST_BYTES: u64 = 256 << 20;
/// The folder for any host.
const ANY: &str = "_";

/// Why a folder cannot be content.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// It cannot be read.
    #[error("the network's content: cannot read {}: {source}", path.display())]
    Io {
        /// What of it.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is too much.
    #[error("the network's content: {} has more than {MOST_FILES} files or {} MiB", path.display(), MOST_BYTES >> 20)]
    TooMuch {
        /// The folder.
        path: PathBuf,
    },
}

/// What is answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// HTTP's status.
    pub status: u16,
    /// Type of the body.
    pub content_type: &'static str,
    /// The body.
    pub body: Artifact,
    /// Whether it comes from the folder.
    pub given: bool,
}

/// The files, by `host/path`.
#[derive(Clone, Default, Debug)]
pub struct Content(BTreeMap<String, Artifact>);

impl Content {
    /// Reads a folder.
    ///
    /// # Errors
    /// It cannot be read, or is too much.
    pub fn load(folder: &Path) -> Result<Self, ContentError> {
        let mut content = Self::default();
        let mut left = MOST_BYTES;
        content.add(folder, "", folder, &mut left)?;
        Ok(content)
    }

    fn add(&mut self, folder: &Path, prefix: &str, root: &Path, left: &mut u64) -> Result<(), ContentError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| ContentError::Io { path, source }
        };
        for entry in fs::read_dir(folder).map_err(failed(folder))? {
            let entry = entry.map_err(failed(folder))?;
            let path = entry.path();
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            let kind = entry.file_type().map_err(failed(&path))?;
            if kind.is_dir() {
                self.add(&path, &format!("{name}/"), root, left)?;
            } else if kind.is_file() {
                let length = entry.metadata().map_err(failed(&path))?.len();
                let rest = left.checked_sub(length).filter(|_| self.0.len() < MOST_FILES);
                *left = rest.ok_or_else(|| ContentError::TooMuch { path: root.to_owned() })?;
                self.0.insert(name, Artifact::new(&fs::read(&path).map_err(failed(&path))?));
            }
        }
        Ok(())
    }

    /// What `host` (without port) has under `path` (with query).
    pub fn answer(&self, host: &[u8], path: &[u8]) -> Answer {
        let host = String::from_utf8_lossy(host).to_lowercase();
        let path = String::from_utf8_lossy(path);
        let path = path.split(['?', '#']).next().unwrap_or_default().trim_start_matches('/');
        let file = if path.is_empty() || path.ends_with('/') { format!("{path}index.html") } else { path.to_owned() };
        let found = [host.as_str(), ANY].iter().find_map(|host| self.0.get(&format!("{host}/{file}")));
        match found {
            Some(body) => Answer { status: 200, content_type: kind_of(&file), body: body.clone(), given: true },
            None => made_up(&host, path),
        }
    }
}

/// The last extension, lower case.
fn extension(path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or_default();
    name.rsplit_once('.').map_or(String::new(), |(_, extension)| extension.to_ascii_lowercase())
}

fn kind_of(path: &str) -> &'static str {
    match extension(path).as_str() {
        "" | "htm" | "html" | "php" | "asp" | "aspx" | "jsp" => "text/html; charset=utf-8",
        "txt" | "log" | "md" | "sh" | "py" | "pl" | "conf" => "text/plain; charset=utf-8",
        "json" => "application/json",
        "js" => "application/javascript",
        "css" => "text/css",
        "xml" => "application/xml",
        "png" => "image/png",
        "gif" => "image/gif",
        "ico" => "image/x-icon",
        "zip" | "jar" => "application/zip",
        "gz" | "tgz" => "application/gzip",
        _ => "application/octet-stream",
    }
}

/// The smallest program that Linux on x86-64 runs: it exits with 0 (exit_group). ELF header, one program header, code.
const PROGRAM: &[u8] = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0\x78\0\x40\0\0\0\0\0\x40\0\0\0\0\0\0\0\
\0\0\0\0\0\0\0\0\0\0\0\0\x40\0\x38\0\x01\0\0\0\0\0\0\0\x01\0\0\0\x05\0\0\0\0\0\0\0\0\0\0\0\0\0\x40\0\0\0\0\0\0\0\x40\0\0\0\0\0\
\x81\0\0\0\0\0\0\0\x81\0\0\0\0\0\0\0\0\x10\0\0\0\0\0\0\x31\xff\xb8\xe7\0\0\0\x0f\x05";
/// An empty ZIP archive: the end of its directory (APPNOTE.TXT section 4.3.16).
const ARCHIVE: &[u8] = b"PK\x05\x06\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
/// An empty gzip member (RFC 1952).
const GZIP: &[u8] = b"\x1f\x8b\x08\0\0\0\0\0\0\x03\x03\0\0\0\0\0\0\0\0\0";
/// One transparent pixel.
const PIXEL: &[u8] =
    b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff!\xf9\x04\x01\0\0\0\0,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;";
const PAGE: &str = "<!DOCTYPE html>\n<html><head><title>Welcome</title></head><body><h1>It works!</h1></body></html>\n";
/// What the guest is told that its address on the Internet is (TEST-NET-3, RFC 5737).
const OUTSIDE: &str = "203.0.113.24";
/// Hosts that are asked for that.
const MIRRORS: &[&str] =
    &["api.ipify.org", "checkip.amazonaws.com", "icanhazip.com", "ifconfig.io", "ifconfig.me", "ident.me", "ipinfo.io"];

fn made_up(host: &str, path: &str) -> Answer {
    let answer =
        |status, content_type, body: &[u8]| Answer { status, content_type, body: Artifact::new(body), given: false };
    let text = "text/plain; charset=utf-8";
    if MIRRORS.contains(&host) {
        return answer(200, text, format!("{OUTSIDE}\n").as_bytes());
    }
    // What operating systems ask to know whether they are on the Internet.
    match path {
        "generate_204" => return answer(204, text, b""),
        "connecttest.txt" => return answer(200, text, b"Microsoft Connect Test"),
        "ncsi.txt" => return answer(200, text, b"Microsoft NCSI"),
        "robots.txt" => return answer(200, text, b"User-agent: *\nDisallow:\n"),
        _ => {}
    }
    let body = match extension(path).as_str() {
        "" | "htm" | "html" | "php" | "asp" | "aspx" | "jsp" => PAGE.as_bytes(),
        "sh" => b"#!/bin/sh\nexit 0\n",
        "py" => b"#!/usr/bin/env python3\n",
        "pl" => b"#!/usr/bin/perl\nexit 0;\n",
        "json" => b"{}\n",
        "js" | "css" | "txt" | "log" | "md" | "conf" => b"\n",
        "xml" => b"<?xml version=\"1.0\"?>\n<root/>\n",
        "zip" | "jar" => ARCHIVE,
        "gz" | "tgz" => GZIP,
        "gif" | "png" | "jpg" | "jpeg" | "ico" => PIXEL,
        _ => PROGRAM,
    };
    answer(200, kind_of(path), body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_found_by_host_and_path_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let secret = folder.path().join("secret");
        fs::write(&secret, "no").unwrap();
        let root = folder.path().join("web");
        for (path, body) in
            [("evil.example/stage2", "two"), ("evil.example/a/index.html", "page"), ("_/any.txt", "any")]
        {
            fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
            fs::write(root.join(path), body).unwrap();
        }
        std::os::unix::fs::symlink(&secret, root.join("evil.example/link")).unwrap();
        let content = Content::load(&root).unwrap();
        let ask = |host: &str, path: &str| content.answer(host.as_bytes(), path.as_bytes());
        assert_eq!(&ask("Evil.Example", "/stage2?id=1").body.bytes[..], b"two");
        assert_eq!(&ask("evil.example", "/a/").body.bytes[..], b"page");
        assert_eq!(&ask("else.example", "/any.txt").body.bytes[..], b"any");
        for path in ["/../secret", "/link", "/evil.example/../../secret", "//secret"] {
            assert!(!ask("evil.example", path).given, "{path}");
        }
        assert!(Content::load(&root.join("missing")).is_err());
    }

    #[test]
    fn the_made_up_program_runs_and_archives_are_whole() {
        let content = Content::default();
        let answer = content.answer(b"x", b"/payload.bin");
        assert_eq!((answer.status, answer.content_type), (200, "application/octet-stream"));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("program");
        fs::write(&file, &answer.body.bytes[..]).unwrap();
        fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        assert!(std::process::Command::new(&file).status().unwrap().success());
        for (name, code) in [
            ("/a.zip", "import sys,zipfile;zipfile.ZipFile(sys.argv[1]).testzip()"),
            ("/a.tgz", "import sys,gzip;assert gzip.open(sys.argv[1]).read()==b''"),
        ] {
            fs::write(&file, &content.answer(b"x", name.as_bytes()).body.bytes[..]).unwrap();
            let python = std::process::Command::new("python3").args(["-c", code]).arg(&file).status().unwrap();
            assert!(python.success(), "{name}");
        }
        assert_eq!(content.answer(b"x", b"/generate_204").status, 204);
        assert_eq!(content.answer(b"ifconfig.me", b"/").body.bytes[..], *b"203.0.113.24\n");
    }
}
