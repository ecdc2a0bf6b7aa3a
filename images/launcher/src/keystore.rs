//! Java's store of trusted certificates, in its own format (JKS version 2: `sun.security.provider.JavaKeyStore` of OpenJDK).
//!
//! Starting `keytool` takes longer than most tasks do under emulation; the format is simple.
//!
//! Limits: Debian's own store, whose password is the usual one; no store in PKCS #12.

use sha1::{Digest, Sha1};

/// Where Debian has it (package ca-certificates-java).
pub const STORE: &str = "/etc/ssl/certs/java/cacerts";

const MAGIC: [u8; 8] = [0xfe, 0xed, 0xfe, 0xed, 0, 0, 0, 2];
/// Magic number, version and number of entries, bytes.
const HEAD: usize = 12;
/// SHA-1 over the password, [`WORDS`] and all before it, bytes.
const DIGEST: usize = 20;
const PASSWORD: &str = "changeit";
const WORDS: &[u8] = b"Mighty Aphrodite";
/// The tag of an entry that is a certificate alone.
const TRUSTED: u32 = 2;

/// The store with a certificate (DER) more, made at `made` (ms since 1970).
pub fn with(store: &[u8], alias: &str, certificate: &[u8], made: u64) -> Result<Vec<u8>, &'static str> {
    let (content, sum) = store.split_last_chunk::<DIGEST>().ok_or("it is too short")?;
    let entries = content.get(..HEAD).filter(|head| head.starts_with(&MAGIC)).ok_or("it is no JKS store")?;
    if digest(content) != *sum {
        return Err("it is damaged, or its password is not the usual one");
    }
    let count = u32::from_be_bytes([entries[8], entries[9], entries[10], entries[11]]);
    let mut new = [&MAGIC[..], &count.saturating_add(1).to_be_bytes(), &content[HEAD..]].concat();
    new.extend(TRUSTED.to_be_bytes());
    text(&mut new, alias)?;
    new.extend(made.to_be_bytes());
    text(&mut new, "X.509")?;
    let length = u32::try_from(certificate.len()).map_err(|_| "the certificate is too long")?;
    new.extend(length.to_be_bytes());
    new.extend(certificate);
    let sum = digest(&new);
    new.extend(sum);
    Ok(new)
}

/// ASCII text, as `DataOutputStream.writeUTF` has it.
fn text(to: &mut Vec<u8>, text: &str) -> Result<(), &'static str> {
    let length = u16::try_from(text.len()).map_err(|_| "the name is too long")?;
    to.extend(length.to_be_bytes());
    to.extend(text.as_bytes());
    Ok(())
}

fn digest(content: &[u8]) -> [u8; DIGEST] {
    let mut hash = Sha1::new();
    for unit in PASSWORD.encode_utf16() {
        hash.update(unit.to_be_bytes());
    }
    hash.update(WORDS);
    hash.update(content);
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use super::*;

    fn keytool(folder: &Path, arguments: &[&str]) -> String {
        let usual = ["-keystore", "store", "-storetype", "JKS", "-storepass", PASSWORD];
        let output = Command::new("keytool").args(arguments).args(usual).current_dir(folder).output();
        let output = output.unwrap_or_else(|error| panic!("keytool: {error}: run `cargo xtask setup`"));
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{said} {}", String::from_utf8_lossy(&output.stderr));
        said
    }

    #[test]
    fn java_reads_what_was_added() {
        let folder = tempfile::tempdir().expect("folder");
        let own = ["-genkeypair", "-alias", "own", "-dname", "CN=Root", "-keyalg", "EC", "-keypass", PASSWORD];
        keytool(folder.path(), &own);
        keytool(folder.path(), &["-exportcert", "-alias", "own", "-file", "own.der"]);
        let read = |name: &str| std::fs::read(folder.path().join(name)).expect("file");
        let (store, certificate) = (read("store"), read("own.der"));
        let added = with(&store, "network", &certificate, 1_790_000_000_000).expect("added");
        std::fs::write(folder.path().join("store"), &added).expect("store");
        let listed = keytool(folder.path(), &["-list"]);
        assert!(
            listed.contains("network") && listed.contains("trustedCertEntry") && listed.contains("own"),
            "{listed}"
        );
        keytool(folder.path(), &["-exportcert", "-alias", "network", "-file", "again.der"]);
        assert_eq!(read("again.der"), certificate);
    }

    #[test]
    fn what_is_no_store_is_left_alone() {
        assert!(with(b"", "a", b"b", 0).is_err());
        assert!(with(&[0; 40], "a", b"b", 0).is_err());
        let damaged = [&MAGIC[..], &[0; 24]].concat();
        assert_eq!(with(&damaged, "a", b"b", 0), Err("it is damaged, or its password is not the usual one"));
    }
}
