use super::*;
use crate::MemoryMap;

/// An image of so many bytes that begins as it must.
fn image(length: usize) -> Vec<u8> {
    let mut image: Vec<u8> = (0..length).map(|index| index as u8).collect();
    image[..8].copy_from_slice(b"slat-rom");
    image
}

fn field(rom: &[u8], offset: usize) -> u64 {
    let bytes = rom[rom.len() - CODE_SIZE + offset..][..4].try_into().expect("four bytes");
    u32::from_le_bytes(bytes).into()
}

#[test]
fn the_image_is_in_front_and_its_first_bytes_at_the_end() {
    let image = image(1001);
    let (head, tail) = image.split_at(700);
    let segments = [
        // What lies between the two is zero.
        Segment { address: 0x10_0000 + 710, bytes: tail },
        Segment { address: 0, bytes: &[] },
        Segment { address: 0x10_0000, bytes: head },
    ];
    let rom = make_rom(&segments, 0x10_0100, 5 << 20).expect("a ROM");
    assert_eq!(rom.len(), 128 << 10);
    assert_eq!((&rom[..700], &rom[700..710], &rom[710..1011]), (head, &[0; 10][..], tail));
    assert!(rom[1011..rom.len() - CODE_SIZE].iter().all(|byte| *byte == 0));
    let code = &rom[rom.len() - CODE_SIZE..];
    assert_eq!((&code[..8], &code[HEADER_SIZE..]), (&image[..8], &image[HEADER_SIZE..CODE_SIZE]));
    assert_eq!(field(&rom, SOURCE), (4 << 30) - (128 << 10));
    assert_eq!((field(&rom, TARGET), field(&rom, ENTRY)), (0x10_0000, 0x10_0100));
    assert_eq!(field(&rom, WORDS), 1012 / 4);
    assert_eq!(field(&rom, PAYLOAD_END), MemoryMap::X86_64.params + (5 << 20));
}

#[test]
fn a_rom_is_a_power_of_two_that_holds_image_and_code() {
    let size = |length| {
        let image = image(length);
        make_rom(&[Segment { address: 0x10_0000, bytes: &image }], 0x10_0100, 0).map(|rom| rom.len())
    };
    assert_eq!(size((128 << 10) - CODE_SIZE), Ok(128 << 10));
    assert_eq!(size((128 << 10) - CODE_SIZE + 1), Ok(256 << 10));
    assert_eq!(size((2 << 20) - CODE_SIZE), Ok(2 << 20));
    assert_eq!(size((2 << 20) - CODE_SIZE + 1), Err(RomError::TooLarge((2 << 20) + 4)));
}

#[test]
fn what_is_no_image_is_refused() {
    let image = image(1000);
    let segment = Segment { address: 0x10_0000, bytes: &image };
    assert_eq!(make_rom(&[], 0, 0), Err(RomError::Empty));
    assert_eq!(make_rom(&[Segment { address: 0, bytes: &[] }], 0, 0), Err(RomError::Empty));
    assert_eq!(make_rom(&[Segment { bytes: &image[1..], ..segment }], 0, 0), Err(RomError::NoCode));
    let far = Segment { address: u64::MAX - 10, ..segment };
    assert!(matches!(make_rom(&[segment, far], 0, 0), Err(RomError::TooLarge(_))));
    assert_eq!(make_rom(&[segment], 1 << 32, 0), Err(RomError::Address(1 << 32)));
    assert!(matches!(make_rom(&[segment], 0, u64::MAX), Err(RomError::Address(u64::MAX))));
}
