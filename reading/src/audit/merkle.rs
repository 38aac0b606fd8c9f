//! The Merkle tree of RFC 6962, section 2.1, with SHA-256: one line can be proved without showing
//! others.

use sha2::{Digest, Sha256};

/// A node of the tree.
pub(super) type Node = [u8; 32];

/// `MTH({d}) = SHA-256(0x00 | d)`
pub(super) fn leaf(bytes: &[u8]) -> Node {
    let mut hash = Sha256::new();
    hash.update([0]);
    hash.update(bytes);
    hash.finalize().into()
}

/// `SHA-256(0x01 | left | right)`
fn inner(left: &Node, right: &Node) -> Node {
    let mut hash = Sha256::new();
    hash.update([1]);
    hash.update(left);
    hash.update(right);
    hash.finalize().into()
}

/// The largest power of two below `count`, which is at least 2.
fn split(count: usize) -> usize {
    count.next_power_of_two() / 2
}

/// The root over leaf hashes: `MTH(D[n])`.
pub(super) fn root(leaves: &[Node]) -> Node {
    match leaves {
        [] => Sha256::digest(b"").into(),
        [leaf] => *leaf,
        _ => {
            let (left, right) = leaves.split_at(split(leaves.len()));
            inner(&root(left), &root(right))
        }
    }
}

/// The inclusion path of a leaf: `PATH(m, D[n])`.
pub(super) fn path(index: usize, leaves: &[Node]) -> Vec<Node> {
    if leaves.len() < 2 {
        return Vec::new();
    }
    let at = split(leaves.len());
    let (left, right) = leaves.split_at(at);
    let (mut found, sibling) = if index < at {
        (path(index, left), root(right))
    } else {
        (path(index - at, right), root(left))
    };
    found.push(sibling);
    found
}

/// The root that a leaf, its place and its path lead to; `None`: the path is not one of a tree of
/// that size.
pub(super) fn root_of_path(leaf: Node, index: u64, size: u64, path: &[Node]) -> Option<Node> {
    if index >= size {
        return None;
    }
    let (mut at, mut last, mut node) = (index, size - 1, leaf);
    for sibling in path {
        if last == 0 {
            return None;
        }
        if at % 2 == 1 || at == last {
            node = inner(sibling, &node);
            // A right edge that has no sibling of its own on these levels.
            while at.is_multiple_of(2) && at != 0 {
                (at, last) = (at >> 1, last >> 1);
            }
        } else {
            node = inner(&node, sibling);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    (last == 0).then_some(node)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_leads_to_the_root_and_no_other_does() {
        for size in 1_u8..40 {
            let leaves: Vec<Node> = (0..size).map(|n| leaf(&[n])).collect();
            let expected = root(&leaves);
            for index in 0..size {
                let path = path(index.into(), &leaves);
                let lead = |leaf, index: u8, size: u8, path: &[Node]| {
                    root_of_path(leaf, index.into(), size.into(), path)
                };
                let own = leaves[usize::from(index)];
                assert_eq!(lead(own, index, size, &path), Some(expected), "{index} of {size}");
                assert_ne!(lead(leaf(&[99]), index, size, &path), Some(expected));
                assert_eq!(lead(own, size, size, &path), None);
                if let Some((_, shorter)) = path.split_last() {
                    assert_ne!(lead(own, index, size, shorter), Some(expected));
                }
                let longer = [path.as_slice(), &[[0; 32]]].concat();
                assert_eq!(lead(own, index, size, &longer), None);
            }
        }
    }

    #[test]
    fn the_empty_tree_is_as_the_standard_says() {
        assert_eq!(
            veilstream_keys::erasure::hex(&root(&[])),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }
}
