//! Making the guest trust the authority of its simulated network.
//!
//! The certificate is added to the one file that curl, Python, Perl and everything else on OpenSSL or GnuTLS reads.
//!
//! Limits: what has a store of its own does not know of it: Java (`/etc/ssl/certs/java/cacerts`), Firefox, programs that bring
//! their certificates with them. `update-ca-certificates` would ask all of them, and take some seconds under emulation.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// Where Debian has all certificates in one file (package ca-certificates).
pub const BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Adds a certificate, PEM, to a file of them.
pub fn add(bundle: &Path, certificate: &str) -> io::Result<()> {
    let mut file = File::options().append(true).open(bundle)?;
    file.write_all(format!("\n{}\n", certificate.trim()).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_added_to_those_that_are_there() {
        let folder = tempfile::tempdir().expect("folder");
        let bundle = folder.path().join("bundle");
        assert!(add(&bundle, "x").is_err(), "a guest without certificates has no use for one");
        std::fs::write(&bundle, "one").expect("bundle");
        add(&bundle, "two\n").expect("added");
        assert_eq!(std::fs::read_to_string(&bundle).expect("bundle"), "one\ntwo\n");
    }
}
