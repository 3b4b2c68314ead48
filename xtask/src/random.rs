//! Random numbers: a secret one per run, and a reproducible sequence for payloads and churn.

use std::hash::{BuildHasher, RandomState};

/// 128 bits as hexadecimal digits, seeded by the operating system.
pub(crate) fn nonce() -> String {
    // Every `RandomState` takes its keys from the operating system's random source.
    (0..2).map(|part| format!("{:016x}", RandomState::new().hash_one(part))).collect()
}

/// `length` bytes that depend on `seed` alone, so that the guest's file can be made again on any host.
pub(crate) fn bytes(seed: u64, length: usize) -> Vec<u8> {
    // SplitMix64: each step a fixed increment and a mix.
    let mut state = seed;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.extend_from_slice(&(word ^ (word >> 31)).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

#[cfg(test)]
mod tests;
