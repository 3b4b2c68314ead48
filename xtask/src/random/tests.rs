use super::{bytes, nonce};

#[test]
fn nonces_are_128_bits_and_differ() {
    let (a, b) = (nonce(), nonce());
    assert_eq!(a.len(), 32);
    assert!(a.bytes().all(|digit| digit.is_ascii_hexdigit()));
    assert_ne!(a, b);
}

#[test]
fn bytes_depend_on_the_seed_alone() {
    assert_eq!(bytes(7, 1001), bytes(7, 1001));
    assert_ne!(bytes(7, 64), bytes(8, 64));
    assert_eq!(bytes(7, 1001).len(), 1001);
}
