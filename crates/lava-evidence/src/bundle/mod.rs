//! A session in one signed file: docs/bundle.md.
//!
//! A ZIP file in one canonical form (`layout.rs`). Its first member, `SHA256SUMS` (`list.rs`), says everything of the others: names,
//! sizes, hashes of content and of the deflated bytes, and the root of a Merkle tree over them (`merkle.rs`). The second is its
//! signature in minisign's format (`key.rs`). So the whole file follows from a signed text, and [`check()`] tells for every byte whether it
//! is as it was written.
//!
//! ZIP, because whoever is handed evidence can open it offline, on any system, and take out one file without the rest; a compressed tar
//! archive has to be read from its beginning, and one flipped bit loses what stands behind it. What is commonly held against ZIP, that two
//! readers may see two archives in one file, the canonical form rules out.
//!
//! *Invariants:* nothing is unpacked to the disk; a member is read from where it lies. Nothing of a file is believed before it was
//! compared; memory is bounded by the list (64 MiB), time by what the list says that the members hold.
//!
//! *Limits:* whoever has a key can sign anything: what a signature proves is in SECURITY.md.

mod archive;
mod check;
mod head;
mod key;
mod layout;
mod list;
mod merkle;
mod walk;
mod write;

pub(crate) use archive::Archive;
pub use check::{BundleReport, check};
pub use key::{PublicKey, Signer};
pub use write::{Written, write};

/// Name of the signed list.
const LIST: &str = "SHA256SUMS";
/// Name of its signature.
const SIGNATURE: &str = "SHA256SUMS.minisig";

#[cfg(test)]
mod tests {
    //! Bundles that somebody hostile made and signed, so that list and signature fit.

    use std::io::Write;

    use flate2::write::DeflateEncoder;
    use flate2::{Compression, Crc};
    use lava_event::{SessionId, Sha256};

    use super::layout::{Member, Method, tail};
    use super::list::{List, Listed};
    use super::*;

    fn deflated(content: &[u8]) -> Vec<u8> {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    /// A bundle of one member, `trace.svg`, that claims to hold `content` of `size` bytes, and whose bytes are `packed`.
    fn problems(content: &[u8], size: u64, packed: &[u8]) -> String {
        let folder = tempfile::tempdir().unwrap();
        let signer = Signer::create(&folder.path().join("k")).unwrap();
        let mut crc = Crc::new();
        crc.update(content);
        let (name, method, packed_size) = ("trace.svg".to_owned(), Method::Deflated, packed.len() as u64);
        let member = Member { name, method, size, packed: packed_size, crc: crc.sum() };
        let listed = Listed { member, sha256: Sha256::of(content), packed_sha256: Sha256::of(packed) };
        let list = List::new(SessionId("X".into()), "x".into(), signer.public().base64(), vec![listed.clone()]);
        let text = list.text();
        let signature = signer.sign(text.as_bytes(), &head::trusted_comment(&list, None)).unwrap();
        let heads = head::members(&text, &signature);
        let mut bytes = Vec::new();
        for (member, content) in heads.iter().zip([&text, &signature]) {
            bytes.extend(member.local());
            bytes.extend(content.as_bytes());
        }
        bytes.extend(listed.member.local());
        bytes.extend(packed);
        bytes.extend(tail(heads.iter().chain([&listed.member])));
        let file = folder.path().join("b");
        std::fs::write(&file, bytes).unwrap();
        let (report, session) = check(&file, None).unwrap();
        assert!(report.signed.is_some() && session.is_none() && !report.intact());
        let said = report.problems.iter().filter(|problem| problem.file == "trace.svg").map(ToString::to_string);
        said.collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn a_member_must_be_what_the_list_says() {
        let content = b"content of a member".as_slice();
        let good = deflated(content);
        assert_eq!(problems(content, 19, &good), "");
        let cases = [
            (problems(content, 5, &good), "longer than the 5 bytes"),
            (problems(content, 1 << 40, &good), "not as it was written"),
            (problems(b"other", 19, &good), "not as it was written"),
            (problems(content, 19, &[&good[..], b"hidden"].concat()), "6 bytes behind its content"),
            (problems(content, 19, &good[..good.len() - 3]), "can't be inflated"),
            (problems(b"", 0, b""), "can't be inflated"),
        ];
        for (said, expected) in cases {
            assert!(said.contains(expected), "{expected}: {said}");
        }
    }

    #[test]
    fn a_bomb_is_not_inflated() {
        let bomb = deflated(&vec![0; 64 << 20]);
        assert!(bomb.len() < 100_000);
        assert!(problems(b"", 100, &bomb).contains("longer than the 100 bytes"));
    }
}
