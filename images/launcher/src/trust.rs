//! Making the guest trust the authority of its simulated network.
//!
//! The certificate is added to the one file that curl, Python, Perl and everything else on OpenSSL or GnuTLS reads, to Java's
//! store, and put where Firefox is told to look for it (`images/browser.toml`).
//!
//! Limits: programs that bring their certificates with them do not know of it. `update-ca-certificates` would ask all of them, and take
//! some seconds under emulation.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::time::SystemTime;

use crate::keystore;

/// Where Debian has all certificates in one file (package ca-certificates).
const BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Where an administrator puts those of the house.
const LOCAL: &str = "/usr/local/share/ca-certificates/network-root-ca.crt";
const ALIAS: &str = "debian:network-root-ca.pem";

/// Makes programs under `root` trust a certificate, PEM. What is not installed is left out.
pub fn add(root: &Path, certificate: &str) -> Result<(), String> {
    let at = |path: &str| root.join(path.trim_start_matches('/'));
    let failed = |path: &'static str| move |error: io::Error| format!("{path}: {error}");
    bundle(&at(BUNDLE), certificate).map_err(failed(BUNDLE))?;
    alone(&at(LOCAL), certificate).map_err(failed(LOCAL))?;
    java(&at(keystore::STORE), certificate).map_err(failed(keystore::STORE))
}

fn bundle(path: &Path, certificate: &str) -> io::Result<()> {
    let mut file = File::options().append(true).open(path)?;
    file.write_all(format!("\n{}\n", certificate.trim()).as_bytes())
}

fn alone(path: &Path, certificate: &str) -> io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)?;
    fs::write(path, format!("{}\n", certificate.trim()))
}

fn java(path: &Path, certificate: &str) -> io::Result<()> {
    let store = match fs::read(path) {
        Ok(store) => store,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let der = pem::parse(certificate).map_err(io::Error::other)?;
    let made = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
    let made = u64::try_from(made).unwrap_or_default();
    let new = keystore::with(&store, ALIAS, der.contents(), made).map_err(io::Error::other)?;
    fs::write(path, new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_added_to_those_that_are_there() {
        let root = tempfile::tempdir().expect("folder");
        let at = |path: &str| root.path().join(path.trim_start_matches('/'));
        assert!(add(root.path(), "x").is_err(), "a guest without certificates has no use for one");
        fs::create_dir_all(at("etc/ssl/certs/java")).expect("folders");
        fs::write(at(BUNDLE), "one").expect("bundle");
        add(root.path(), "two\n").expect("there need be no Java");
        assert_eq!(fs::read_to_string(at(BUNDLE)).expect("bundle"), "one\ntwo\n");
        assert_eq!(fs::read_to_string(at(LOCAL)).expect("alone"), "two\n");
        fs::write(at(keystore::STORE), "no store").expect("store");
        let told = add(root.path(), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
        assert!(told.is_err_and(|why| why.ends_with("cacerts: it is too short")));
    }
}
