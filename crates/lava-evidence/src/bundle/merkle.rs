//! The Merkle tree over the members: RFC 6962, section 2.1.
//!
//! A leaf is SHA-256(0x00, data), a node SHA-256(0x01, left, right); a tree of n leaves has on its left the largest power of two below n.
//! The different first bytes keep a node from being passed off as a leaf.

use lava_event::Sha256;
use sha2::Digest;

/// The hash of a leaf's data.
pub(super) fn leaf(data: &[u8]) -> Sha256 {
    Sha256(sha2::Sha256::new().chain_update([0]).chain_update(data).finalize().into())
}

/// The root over leaves; of none: the hash of nothing.
pub(super) fn root(leaves: &[Sha256]) -> Sha256 {
    match leaves {
        [] => Sha256::of(b""),
        [one] => *one,
        many => {
            // Largest power of two smaller than their number; as deep as its logarithm.
            let split = 1 << (many.len() - 1).ilog2();
            let (left, right) = (root(&many[..split]), root(&many[split..]));
            Sha256(sha2::Sha256::new().chain_update([1]).chain_update(left.0).chain_update(right.0).finalize().into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reference values that Certificate Transparency's implementations share (certificate-transparency-go,
    /// `merkletree/merkle_tree_test.go`; transparency-dev/merkle, `testonly/constants.go`).
    #[test]
    fn roots_are_those_of_rfc_6962() {
        let inputs: [&[u8]; 8] = [
            b"",
            b"\x00",
            b"\x10",
            b"\x20\x21",
            b"\x30\x31",
            b"\x40\x41\x42\x43",
            b"\x50\x51\x52\x53\x54\x55\x56\x57",
            b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
        ];
        let known = [
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
            "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
            "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ];
        let leaves: Vec<Sha256> = inputs.iter().map(|input| leaf(input)).collect();
        for (n, known) in known.iter().enumerate() {
            assert_eq!(root(&leaves[..n]).to_string(), *known, "{n} leaves");
        }
    }
}
