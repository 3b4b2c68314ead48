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
    for address in [u64::MAX - 10, 1 << 40] {
        let far = Segment { address, ..segment };
        assert!(matches!(make_rom(&[segment, far], 0, 0), Err(RomError::TooLarge(_))));
    }
    assert_eq!(make_rom(&[segment], 1 << 32, 0), Err(RomError::Address(1 << 32)));
    assert!(matches!(make_rom(&[segment], 0, u64::MAX), Err(RomError::Address(u64::MAX))));
}

/// An ELF file with a note and one loadable segment at 1 MiB, which holds `image`.
fn elf(image: &[u8]) -> Vec<u8> {
    const HEADER: usize = 64;
    const PROGRAM_HEADER: usize = 56;
    let start = HEADER + 2 * PROGRAM_HEADER;
    let mut elf = vec![0; start];
    elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
    let mut set = |offset: usize, value: u64, length: usize| {
        elf[offset..offset + length].copy_from_slice(&value.to_le_bytes()[..length]);
    };
    let fields = [(24, 0x10_0100, 8), (32, HEADER as u64, 8), (54, PROGRAM_HEADER as u64, 2), (56, 2, 2)];
    fields.into_iter().for_each(|(offset, value, length)| set(offset, value, length));
    // A note that lies nowhere.
    set(HEADER, 4, 4);
    set(HEADER + 8, u64::MAX, 8);
    let second = HEADER + PROGRAM_HEADER;
    let fields = [(0, 1), (8, start as u64), (24, 0x10_0000), (32, image.len() as u64)];
    fields
        .into_iter()
        .for_each(|(offset, value)| set(second + offset, value, if offset == 0 { 4 } else { 8 }));
    elf.extend_from_slice(image);
    elf
}

#[test]
fn a_rom_is_made_of_what_an_elf_file_says_is_to_be_loaded() {
    let image = image(1000);
    let segment = Segment { address: 0x10_0000, bytes: &image };
    assert_eq!(build(&elf(&image), 77), make_rom(&[segment], 0x10_0100, 77));
}

#[test]
fn no_prefix_of_an_elf_file_is_one() {
    let elf = elf(&image(300));
    for length in 0..elf.len() {
        assert_eq!(build(&elf[..length], 0), Err(RomError::NoElf), "{length} bytes");
    }
    for changed in [0, 4, 5] {
        let mut other = elf.clone();
        other[changed] ^= 3;
        assert_eq!(build(&other, 0), Err(RomError::NoElf));
    }
}
