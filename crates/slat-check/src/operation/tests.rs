use super::*;
use crate::random::Random;

#[test]
fn encoding_and_decoding_are_inverse() {
    let mut generator = Random::new(1);
    let commands: Vec<_> = (0..2000).map(|_| random(&mut generator)).collect();
    assert_eq!(decode(&encode(&commands)), commands);
}

#[test]
fn all_bytes_decode() {
    let mut generator = Random::new(2);
    for length in 0..300 {
        let bytes: Vec<u8> = (0..length).map(|_| generator.number() as u8).collect();
        let commands = decode(&bytes);
        assert!(commands.len() <= bytes.len());
        assert_eq!(decode(&encode(&commands)), commands, "{bytes:?}");
    }
}
