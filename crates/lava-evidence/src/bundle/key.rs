//! Keys and signatures, in minisign's format: Ed25519 over BLAKE2b-512 (<https://jedisct1.github.io/minisign/>).
//!
//! `minisign -V` verifies what [`Signer`] signs, and keys that `minisign -G` made sign bundles.

use std::fs::{self, OpenOptions};
use std::io::{Cursor, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use ct_codecs::{Base64, Decoder};
use minisign::{KeyPair, PublicKeyBox, SecretKey, SecretKeyBox, SignatureBox};

use crate::{Error, files};

/// Largest key or signature file, bytes.
const MAX_KEY: usize = 4096;
/// Stands, unsigned, in every signature; another text is no signature of a bundle.
const COMMENT: &str = "signature of a LAVA bundle";

/// A public key.
#[derive(Clone, PartialEq, Debug)]
pub struct PublicKey(minisign::PublicKey);

impl PublicKey {
    /// From its base64 form, or a `.pub` file's text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let found = match text.contains('\n') {
            true => minisign::PublicKey::from_box(PublicKeyBox::from_string(text).ok()?),
            false => minisign::PublicKey::from_base64(text),
        };
        found.ok().map(Self)
    }

    /// From a file, or from the text itself.
    ///
    /// # Errors
    /// If it is neither.
    pub fn load(named: &str) -> Result<Self, Error> {
        if let Some(key) = Self::parse(named) {
            return Ok(key);
        }
        let path = Path::new(named);
        let bytes = files::read_bounded(path, MAX_KEY)?;
        String::from_utf8(bytes).ok().and_then(|text| Self::parse(&text)).ok_or_else(|| {
            let problem = "is no public key of minisign's: two lines, the second begins with RW".into();
            Error::Malformed { path: path.to_path_buf(), problem }
        })
    }

    /// Its base64 form, for `minisign -P`.
    #[must_use]
    pub fn base64(&self) -> String {
        self.0.to_base64()
    }

    /// Its number, as minisign shows it.
    #[must_use]
    pub fn id(&self) -> String {
        let number = <[u8; 8]>::try_from(self.0.keynum()).map_or(0, u64::from_le_bytes);
        format!("{number:016X}")
    }

    /// Is this the text of a signature by this key over these bytes? If so, its trusted comment.
    pub(super) fn verify(&self, bytes: &[u8], signature: &str) -> Option<String> {
        let signature = parse(signature)?;
        minisign::verify(&self.0, &signature, Cursor::new(bytes), true, false, false).ok()?;
        signature.trusted_comment().ok()
    }
}

/// A signature in the one form that LAVA writes: the comment and the white space around are not signed, so there is no choice in them.
fn parse(text: &str) -> Option<SignatureBox> {
    let lines: Vec<&str> = text.lines().collect();
    let [comment, one, _, global] = lines.as_slice() else { return None };
    // 74 and 64 bytes in base64. `minisign::verify` does not look at the length of the second.
    let long = one.len() == 100 && global.len() == 88 && global.ends_with("==");
    if *comment != format!("untrusted comment: {COMMENT}") || !long {
        return None;
    }
    let signature = SignatureBox::from_string(text).ok()?;
    (signature.to_string() == text && signature.is_prehashed()).then_some(signature)
}

/// A secret key.
pub struct Signer {
    secret: SecretKey,
    public: PublicKey,
}

impl Signer {
    /// The key in this file. A password, if it has one, is asked for at the terminal.
    ///
    /// # Errors
    /// If there is none.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let bytes = files::read_bounded(path, MAX_KEY)?;
        let wrong = |problem: String| Error::Malformed { path: path.to_path_buf(), problem };
        let none = || wrong("is no secret key of minisign's: `lava key`, or `minisign -G`, makes one".into());
        let text = String::from_utf8(bytes).map_err(|_| none())?;
        // `minisign -G -W` of version 0.11 leaves the checksum of a key without a password empty, so it is not asked for: that the two
        // halves of the key fit shows when it signs.
        let coded = text.lines().nth(1).ok_or_else(none)?;
        let plain = Base64::decode_to_vec(coded.trim(), None).ok().and_then(|bytes| SecretKey::from_bytes(&bytes).ok());
        let plain = plain.ok_or_else(none)?;
        let secret = if plain.is_encrypted() {
            let locked = SecretKeyBox::from_string(&text).and_then(|locked| locked.into_secret_key(None));
            locked.map_err(|error| wrong(format!("cannot be used: {error}")))?
        } else {
            plain
        };
        Self::new(secret).ok_or_else(none)
    }

    /// Makes a key without a password: the secret one in `path`, for its owner only, the public one beside it, as `.pub`.
    ///
    /// # Errors
    /// If there is a file of this name, or the system refuses.
    pub fn create(path: &Path) -> Result<Self, Error> {
        let io = |doing, path: &Path, error| Error::io(doing, path, error);
        let random = |_| io("make", path, std::io::Error::other("the system gives no random numbers for a key"));
        let pair = KeyPair::generate_unencrypted_keypair().map_err(random)?;
        let secret = pair.sk.to_box(Some("LAVA: secret key that signs bundles")).map_err(random)?;
        let public = pair.pk.to_box().map_err(random)?;
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|error| io("create", folder, error))?;
        }
        let write = |path: &Path, mode, text: String| {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()
        };
        write(path, 0o600, secret.into_string()).map_err(|error| io("create", path, error))?;
        let beside = path.with_extension("pub");
        write(&beside, 0o644, public.into_string()).map_err(|error| io("create", &beside, error))?;
        Ok(Self { secret: pair.sk, public: PublicKey(pair.pk) })
    }

    fn new(secret: SecretKey) -> Option<Self> {
        let public = PublicKey(minisign::PublicKey::from_secret_key(&secret).ok()?);
        Some(Self { secret, public })
    }

    /// Its public half.
    #[must_use]
    pub const fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The text of a signature; the trusted comment is signed too. Two signatures of the same differ: minisign hedges with random bytes.
    pub(super) fn sign(&self, bytes: &[u8], trusted: &str) -> Option<String> {
        let signed =
            minisign::sign(Some(&self.public.0), &self.secret, Cursor::new(bytes), Some(trusted), Some(COMMENT));
        Some(signed.ok()?.into_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_for_its_owner() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/evidence.key");
        let made = Signer::create(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(Signer::create(&path).is_err(), "never overwritten");
        let read = Signer::load(&path).unwrap();
        assert_eq!(read.public(), made.public());
        let beside = path.with_extension("pub");
        assert_eq!(PublicKey::load(beside.to_str().unwrap()).unwrap(), *made.public());
        assert_eq!(PublicKey::load(&made.public().base64()).unwrap(), *made.public());
        assert!(Signer::load(&beside).err().unwrap().to_string().contains("no secret key"));
    }

    #[test]
    fn every_change_of_a_signature_shows() {
        let folder = tempfile::tempdir().unwrap();
        let signer = Signer::create(&folder.path().join("k")).unwrap();
        let signature = signer.sign(b"text", "comment").unwrap();
        assert_eq!(signer.public().verify(b"text", &signature).as_deref(), Some("comment"));
        assert_eq!(signer.public().verify(b"texT", &signature), None);
        for at in 0..signature.len() {
            for with in [b'A', b' ', b'\n', b'='] {
                let mut changed = signature.clone().into_bytes();
                if changed[at] != with {
                    changed[at] = with;
                    assert_eq!(signer.public().verify(b"text", &String::from_utf8(changed).unwrap()), None, "{at}");
                }
            }
            assert_eq!(signer.public().verify(b"text", &signature[..at]), None, "cut at {at}");
        }
        let other = Signer::create(&folder.path().join("o")).unwrap();
        assert_eq!(other.public().verify(b"text", &signature), None);
    }
}
