//! Where dedicated keys, wrapped keys and ephemeral keys come from.

use rand::Rng as _;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroize as _;

/// The system's generator, or for a test octets that a seed determines.
#[derive(Clone)]
pub(crate) enum Random {
    System,
    Seeded { seed: u64, drawn: u64 },
}

impl Random {
    pub(crate) fn fill(&mut self, octets: &mut [u8]) {
        match self {
            Self::System => rand::rng().fill_bytes(octets),
            Self::Seeded { seed, drawn } => {
                for chunk in octets.chunks_mut(32) {
                    *drawn = drawn.wrapping_add(1);
                    let mut hash = Sha256::new();
                    hash.update(seed.to_be_bytes());
                    hash.update(drawn.to_be_bytes());
                    let mut digest = hash.finalize();
                    chunk
                        .iter_mut()
                        .zip(&digest)
                        .for_each(|(octet, digest)| *octet = *digest);
                    digest.zeroize();
                }
            }
        }
    }
}
