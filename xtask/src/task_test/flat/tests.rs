use super::flatten;

/// An ELF file with the given loadable segments: physical address, file bytes, size in memory.
fn elf(segments: &[(u64, &[u8], u64)]) -> Vec<u8> {
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    let count = u16::try_from(segments.len()).unwrap();
    file.extend([2_u16, 183].iter().flat_map(|half| half.to_le_bytes()));
    file.extend(1_u32.to_le_bytes());
    for word in [0_u64, 64, 0] {
        file.extend(word.to_le_bytes());
    }
    file.extend(0_u32.to_le_bytes());
    for half in [64_u16, 56, count, 64, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    let mut offset = 64 + 56 * u64::from(count);
    for (address, bytes, memory) in segments {
        file.extend(1_u32.to_le_bytes());
        file.extend(5_u32.to_le_bytes());
        let size = bytes.len() as u64;
        for word in [offset, *address, *address, size, *memory, 1] {
            file.extend(word.to_le_bytes());
        }
        offset += size;
    }
    for (_, bytes, _) in segments {
        file.extend(*bytes);
    }
    file
}

#[test]
fn segments_lie_at_their_distances() {
    let flat = flatten(&elf(&[(0x1008, b"world", 8), (0x1000, b"hello", 5)])).unwrap();
    assert_eq!(flat, b"hello\0\0\0world\0\0\0");
}

#[test]
fn nonsense_is_refused() {
    assert!(flatten(b"not an ELF file").is_err());
    assert!(flatten(&elf(&[])).is_err());
    assert!(flatten(&elf(&[(0, b"x", 1), (1 << 40, b"y", 1)])).unwrap_err().to_string().contains("spreads"));
    assert!(flatten(&elf(&[(0, b"too long", 2)])).is_err());
}
