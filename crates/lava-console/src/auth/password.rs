//! Passwords: argon2id, with the parameters that the crate's authors recommend (19 MiB, two passes; OWASP's too).

use argon2::Argon2;
use argon2::password_hash::{PasswordHasher, PasswordVerifier, phc::PasswordHash};

use crate::error::{Answer, ApiError};

/// Shortest password, characters.
pub const SHORTEST: usize = 12;
/// Longest, bytes: hashing is work.
pub const LONGEST: usize = 1024;

/// Hashes a password for the store.
///
/// # Errors
/// If it is too short or too long.
pub fn hash(password: &str) -> Answer<String> {
    if password.chars().count() < SHORTEST || password.len() > LONGEST {
        return Err(ApiError::bad(format!("a password has {SHORTEST} to {LONGEST} characters")));
    }
    Argon2::default().hash_password(password.as_bytes()).map(|hash| hash.to_string()).map_err(ApiError::internal)
}

/// Whether it is the one of this hash. With no hash it takes as long, and it is not.
pub fn verify(password: &str, hash: Option<&str>) -> bool {
    if password.len() > LONGEST {
        return false;
    }
    /// Of a password that nobody has.
    const NOBODY: &str =
        "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$Jb3PSs5rXAuFCjXgJMgDrhyHjQnHbBBSmUF7sVLvmf8";
    let Ok(parsed) = PasswordHash::new(hash.unwrap_or(NOBODY)) else { return false };
    let right = Argon2::default().verify_password(password.as_bytes(), &parsed).is_ok();
    right && hash.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_password_fits() {
        let known = hash("correct horse battery").expect("hash");
        assert!(known.starts_with("$argon2id$"), "{known}");
        assert_ne!(known, hash("correct horse battery").expect("hash"), "salted");
        assert!(verify("correct horse battery", Some(&known)));
        assert!(!verify("correct horse batterz", Some(&known)));
        assert!(!verify("", None));
        assert!(!verify("correct horse battery", Some("nonsense")));
        assert!(hash("short").is_err() && hash(&"x".repeat(2000)).is_err());
    }
}
