//! The Merkle tree of RFC 6962, section 2.1, grown one leaf at a time.

use alloc::vec::Vec;
use core::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

/// Octets of a hash.
pub const HASH_LEN: usize = 32;

/// A SHA-256 hash of a leaf, a node or a tree.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash([u8; HASH_LEN]);

impl Hash {
    /// The octets.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; HASH_LEN] {
        &self.0
    }

    /// Reads the canonical base64 form; anything else is `None`.
    #[must_use]
    pub fn from_base64(text: &[u8]) -> Option<Self> {
        let octets = STANDARD.decode(text).ok()?;
        Self::try_from(octets.as_slice()).ok()
    }
}

impl From<[u8; HASH_LEN]> for Hash {
    fn from(bytes: [u8; HASH_LEN]) -> Self {
        Self(bytes)
    }
}

impl TryFrom<&[u8]> for Hash {
    type Error = core::array::TryFromSliceError;

    fn try_from(bytes: &[u8]) -> Result<Self, Self::Error> {
        bytes.try_into().map(Self)
    }
}

/// Base64, as checkpoints write it.
impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The hash of a leaf: SHA-256(0x00 ‖ body).
#[must_use]
pub fn leaf_hash(body: &[u8]) -> Hash {
    let mut hasher = Sha256::new();
    hasher.update([0x00]);
    hasher.update(body);
    Hash(hasher.finalize().into())
}

/// The hash of a node: SHA-256(0x01 ‖ left ‖ right).
#[must_use]
pub fn node_hash(left: Hash, right: Hash) -> Hash {
    let mut hasher = Sha256::new();
    hasher.update([0x01]);
    hasher.update(left.0);
    hasher.update(right.0);
    Hash(hasher.finalize().into())
}

/// A growing tree as its compact range: one hash per perfect subtree, largest first.
/// It can say its root at any time, and cannot be made smaller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    size: u64,
    peaks: Vec<Hash>,
}

impl Tree {
    /// The empty tree.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            size: 0,
            peaks: Vec::new(),
        }
    }

    /// How many leaves it holds.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Appends a leaf hash.
    pub fn push(&mut self, leaf: Hash) {
        let mut hash = leaf;
        let mut rest = self.size;
        while rest & 1 == 1 {
            // one peak per set bit of the size, so a set bit always has its peak
            let Some(left) = self.peaks.pop() else { break };
            hash = node_hash(left, hash);
            rest >>= 1;
        }
        self.peaks.push(hash);
        // 2^64 leaves cannot be held by anything
        self.size = self.size.wrapping_add(1);
    }

    /// The root: SHA-256 of nothing for the empty tree (RFC 6962, 2.1).
    #[must_use]
    pub fn root(&self) -> Hash {
        let mut peaks = self.peaks.iter().rev().copied();
        let Some(smallest) = peaks.next() else {
            return Hash(Sha256::digest([]).into());
        };
        peaks.fold(smallest, |right, left| node_hash(left, right))
    }
}

impl Extend<Hash> for Tree {
    fn extend<I: IntoIterator<Item = Hash>>(&mut self, leaves: I) {
        for leaf in leaves {
            self.push(leaf);
        }
    }
}

impl FromIterator<Hash> for Tree {
    fn from_iter<I: IntoIterator<Item = Hash>>(leaves: I) -> Self {
        let mut tree = Self::new();
        tree.extend(leaves);
        tree
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The leaves of the reference tree of the Certificate Transparency implementations.
    pub(crate) const LEAVES: [&str; 8] = [
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    ];
    /// Its roots at sizes 1 to 8.
    pub(crate) const ROOTS: [&str; 8] = [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];

    pub(crate) fn reference_leaves() -> Vec<Hash> {
        LEAVES
            .iter()
            .map(|leaf| leaf_hash(&hex::decode(leaf).unwrap()))
            .collect()
    }

    pub(crate) fn reference_root(size: usize) -> Hash {
        Hash::try_from(hex::decode(ROOTS[size - 1]).unwrap().as_slice()).unwrap()
    }

    #[test]
    fn the_reference_roots_come_out() {
        let mut tree = Tree::new();
        for (i, leaf) in reference_leaves().into_iter().enumerate() {
            tree.push(leaf);
            assert_eq!(tree.root(), reference_root(i + 1), "size {}", i + 1);
        }
    }

    #[test]
    fn the_empty_tree_is_the_hash_of_nothing() {
        assert_eq!(
            hex::encode(Tree::new().root().bytes()),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }

    #[test]
    fn a_hash_reads_only_its_canonical_base64() {
        let hash = leaf_hash(b"x");
        let text = alloc::format!("{hash}");
        assert_eq!(Hash::from_base64(text.as_bytes()), Some(hash));
        assert_eq!(
            Hash::from_base64(text.trim_end_matches('=').as_bytes()),
            None
        );
        assert_eq!(Hash::from_base64(b"AAAA"), None);
    }
}
