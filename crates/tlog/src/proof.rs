//! Inclusion and consistency proofs (RFC 6962, 2.1.1 and 2.1.2).
//!
//! Proofs are made from all leaf hashes of a tree; they are verified from nothing but roots.

use alloc::vec::Vec;

use crate::error::Error;
use crate::tree::{Hash, Tree, node_hash};

/// The proof that leaf `index` is in the tree of `leaves`: sibling hashes from the leaf up.
///
/// # Errors
/// [`Error::Range`] if there is no such leaf.
pub fn inclusion(leaves: &[Hash], index: u64) -> Result<Vec<Hash>, Error> {
    let mut index = usize::try_from(index).map_err(|_| Error::Range("leaf beyond the tree"))?;
    if index >= leaves.len() {
        return Err(Error::Range("leaf beyond the tree"));
    }
    let mut path = Vec::new();
    let mut subtree = leaves;
    while let Some((left, right)) = split(subtree) {
        if index < left.len() {
            path.push(root_of(right));
            subtree = left;
        } else {
            path.push(root_of(left));
            subtree = right;
            index = index.saturating_sub(left.len());
        }
    }
    path.reverse();
    Ok(path)
}

/// The proof that the tree of the first `old_size` leaves is a prefix of the tree of `leaves`.
/// Empty when there is nothing to prove: `old_size` is 0 or the size of the tree.
///
/// # Errors
/// [`Error::Range`] if the older tree is the larger one.
pub fn consistency(leaves: &[Hash], old_size: u64) -> Result<Vec<Hash>, Error> {
    let mut old = usize::try_from(old_size).map_err(|_| Error::Range("older tree is larger"))?;
    if old > leaves.len() {
        return Err(Error::Range("older tree is larger"));
    }
    let mut path = Vec::new();
    if old == 0 {
        return Ok(path);
    }
    // SUBPROOF(m, D, b): b says that the verifier knows this subtree's root already
    let mut known = true;
    let mut subtree = leaves;
    while old < subtree.len() {
        let Some((left, right)) = split(subtree) else {
            break;
        };
        if old <= left.len() {
            path.push(root_of(right));
            subtree = left;
        } else {
            path.push(root_of(left));
            subtree = right;
            old = old.saturating_sub(left.len());
            known = false;
        }
    }
    if !known {
        path.push(root_of(subtree));
    }
    path.reverse();
    Ok(path)
}

/// Checks that `leaf` is leaf `index` of the tree of `size` leaves with root `root` (RFC 9162, 2.1.3.2).
///
/// # Errors
/// [`Error::Range`] if there can be no such leaf, [`Error::Proof`] if the proof does not hold.
pub fn verify_inclusion(
    leaf: Hash,
    index: u64,
    size: u64,
    path: &[Hash],
    root: Hash,
) -> Result<(), Error> {
    let last = size
        .checked_sub(1)
        .filter(|last| index <= *last)
        .ok_or(Error::Range("leaf beyond the tree"))?;
    let mut place = Place { node: index, last };
    let mut hash = leaf;
    for sibling in path {
        if place.last == 0 {
            return Err(Error::Proof);
        }
        if place.has_left_sibling() {
            hash = node_hash(*sibling, hash);
            place.skip_to_right_child();
        } else {
            hash = node_hash(hash, *sibling);
        }
        place.up();
    }
    if place.last == 0 && hash == root {
        Ok(())
    } else {
        Err(Error::Proof)
    }
}

/// A tree as a verifier knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// How many leaves it holds.
    pub size: u64,
    /// Its root.
    pub root: Hash,
}

/// Checks that the tree `old` is a prefix of the tree `new` (RFC 9162, 2.1.4.2).
///
/// # Errors
/// [`Error::Range`] if the older tree is the larger one, [`Error::Proof`] if the proof does not hold.
pub fn verify_consistency(old: Head, new: Head, path: &[Hash]) -> Result<(), Error> {
    if old.size > new.size {
        return Err(Error::Range("older tree is larger"));
    }
    if old.size == new.size || old.size == 0 {
        // nothing to prove: equal trees have equal roots, and every tree grows from the empty one
        let expected = if old.size == 0 {
            Tree::new().root()
        } else {
            new.root
        };
        let holds = path.is_empty() && old.root == expected;
        return if holds { Ok(()) } else { Err(Error::Proof) };
    }
    let mut place = Place {
        node: old.size.saturating_sub(1),
        last: new.size.saturating_sub(1),
    };
    place.skip_to_left_child();
    let mut path = path.iter().copied();
    let first = if old.size.is_power_of_two() {
        old.root
    } else {
        path.next().ok_or(Error::Proof)?
    };
    let (mut old_hash, mut new_hash) = (first, first);
    for sibling in path {
        if place.last == 0 {
            return Err(Error::Proof);
        }
        if place.has_left_sibling() {
            old_hash = node_hash(sibling, old_hash);
            new_hash = node_hash(sibling, new_hash);
            place.skip_to_right_child();
        } else {
            new_hash = node_hash(new_hash, sibling);
        }
        place.up();
    }
    if place.last == 0 && old_hash == old.root && new_hash == new.root {
        Ok(())
    } else {
        Err(Error::Proof)
    }
}

/// A node and the last node of its level: `fn` and `sn` of RFC 9162.
struct Place {
    node: u64,
    last: u64,
}

impl Place {
    const fn up(&mut self) {
        self.node >>= 1;
        self.last >>= 1;
    }

    const fn has_left_sibling(&self) -> bool {
        self.node & 1 == 1 || self.node == self.last
    }

    /// A last node without sibling is its own parent, up to where it is a right child.
    const fn skip_to_right_child(&mut self) {
        while self.node & 1 == 0 && self.node != 0 {
            self.up();
        }
    }

    const fn skip_to_left_child(&mut self) {
        while self.node & 1 == 1 {
            self.up();
        }
    }
}

/// Splits before the largest power of two smaller than the length; a single leaf does not split.
fn split(leaves: &[Hash]) -> Option<(&[Hash], &[Hash])> {
    let last = leaves.len().checked_sub(1)?;
    let power = last.checked_ilog2()?;
    leaves.split_at_checked(1_usize.checked_shl(power)?)
}

fn root_of(leaves: &[Hash]) -> Hash {
    leaves.iter().copied().collect::<Tree>().root()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::leaf_hash;
    use crate::tree::tests::{reference_leaves, reference_root};

    fn hashes(hex_list: &[&str]) -> Vec<Hash> {
        hex_list
            .iter()
            .map(|h| Hash::try_from(hex::decode(h).unwrap().as_slice()).unwrap())
            .collect()
    }

    #[test]
    fn the_reference_proofs_come_out() {
        let leaves = reference_leaves();
        assert_eq!(inclusion(&leaves[..1], 0), Ok(Vec::new()));
        assert_eq!(
            inclusion(&leaves[..3], 2).unwrap(),
            hashes(&["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"])
        );
        assert_eq!(
            consistency(&leaves, 6).unwrap(),
            hashes(&[
                "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
                "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
                "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            ])
        );
        assert_eq!(
            consistency(&leaves[..5], 2).unwrap(),
            hashes(&[
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            ])
        );
    }

    #[test]
    fn what_is_not_there_has_no_proof() {
        let leaves = reference_leaves();
        assert!(matches!(inclusion(&leaves, 8), Err(Error::Range(_))));
        assert!(matches!(inclusion(&[], 0), Err(Error::Range(_))));
        assert!(matches!(consistency(&leaves, 9), Err(Error::Range(_))));
        let root = reference_root(8);
        assert!(matches!(
            verify_inclusion(leaves[0], 8, 8, &[], root),
            Err(Error::Range(_))
        ));
        assert!(matches!(
            verify_inclusion(leaves[0], 0, 0, &[], root),
            Err(Error::Range(_))
        ));
    }

    fn leaves_of(size: u64) -> Vec<Hash> {
        (0..size).map(|i| leaf_hash(&i.to_be_bytes())).collect()
    }

    #[test]
    fn every_inclusion_proof_of_every_small_tree_holds_and_no_other_leaf_passes() {
        for size in 1..=33_u64 {
            let leaves = leaves_of(size);
            let root = root_of(&leaves);
            for index in 0..size {
                let path = inclusion(&leaves, index).unwrap();
                let leaf = leaves[usize::try_from(index).unwrap()];
                assert_eq!(verify_inclusion(leaf, index, size, &path, root), Ok(()));
                let other = leaf_hash(b"other");
                assert!(verify_inclusion(other, index, size, &path, root).is_err());
                for wrong in (0..size).filter(|i| *i != index) {
                    assert!(verify_inclusion(leaf, wrong, size, &path, root).is_err());
                }
                let mut longer = path.clone();
                longer.push(root);
                assert!(verify_inclusion(leaf, index, size, &longer, root).is_err());
                if !path.is_empty() {
                    assert!(
                        verify_inclusion(leaf, index, size, &path[1..], root).is_err(),
                        "{index} of {size}, one hash missing"
                    );
                }
            }
        }
    }

    #[test]
    fn every_consistency_proof_of_every_small_tree_holds_and_no_other_root_passes() {
        for size in 0..=33_u64 {
            let leaves = leaves_of(size);
            let new = Head {
                size,
                root: root_of(&leaves),
            };
            for old_size in 0..=size {
                let old = Head {
                    size: old_size,
                    root: root_of(&leaves[..usize::try_from(old_size).unwrap()]),
                };
                let path = consistency(&leaves, old_size).unwrap();
                assert_eq!(
                    verify_consistency(old, new, &path),
                    Ok(()),
                    "{old_size} in {size}"
                );
                let forged = Head {
                    root: leaf_hash(b"forged"),
                    ..old
                };
                assert!(verify_consistency(forged, new, &path).is_err());
                let forged = Head {
                    root: leaf_hash(b"forged"),
                    ..new
                };
                // from the empty tree every tree may grow
                assert_eq!(
                    verify_consistency(old, forged, &path).is_err(),
                    old_size != 0
                );
                let mut longer = path.clone();
                longer.push(new.root);
                assert!(verify_consistency(old, new, &longer).is_err());
            }
        }
    }
}
