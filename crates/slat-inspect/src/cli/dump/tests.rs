use super::{Dump, Source, Tolerance};
use crate::PhysicalMemory as _;

/// A core file as QEMU writes it: segments of memory at addresses, and a CPU with each CR3.
pub(crate) fn core_file(segments: &[(u64, Vec<u8>)], cr3: &[u64]) -> Vec<u8> {
    let headers = 64 + 56 * (segments.len() as u64 + 1);
    let mut notes = Vec::new();
    for cr3 in cr3 {
        let mut description = vec![0; 440];
        description[..8].copy_from_slice(&[1, 0, 0, 0, 0xb8, 1, 0, 0]);
        description[392..400].copy_from_slice(&0x8000_0011_u64.to_le_bytes());
        description[416..424].copy_from_slice(&cr3.to_le_bytes());
        description[424..432].copy_from_slice(&0x20_u64.to_le_bytes());
        notes.extend([5_u32, 440, 0].map(u32::to_le_bytes).concat());
        notes.extend(b"QEMU\0\0\0\0");
        notes.extend(description);
    }
    let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
    bytes.resize(16, 0);
    bytes.extend([4, 0, 62, 0, 1, 0, 0, 0]);
    bytes.extend([0_u64, 64, 0].map(u64::to_le_bytes).concat());
    bytes.extend([0, 0, 0, 0, 64, 0, 56, 0]);
    bytes.extend((segments.len() as u16 + 1).to_le_bytes());
    bytes.resize(64, 0);
    let mut header = |kind: u32, offset: u64, address: u64, size: u64| {
        bytes.extend([kind, 0].map(u32::to_le_bytes).concat());
        bytes.extend([offset, 0, address, size, size, 0].map(u64::to_le_bytes).concat());
    };
    let mut offset = headers;
    header(4, offset, 0, notes.len() as u64);
    offset += notes.len() as u64;
    for (address, content) in segments {
        header(1, offset, *address, content.len() as u64);
        offset += content.len() as u64;
    }
    bytes.extend(notes);
    for (_, content) in segments {
        bytes.extend(content);
    }
    bytes
}

fn open(bytes: Vec<u8>) -> Result<Dump, String> {
    Dump::of_bytes(bytes, None, Tolerance::default()).map_err(|error| format!("{error:#}"))
}

fn refusal(bytes: Vec<u8>) -> String {
    open(bytes).err().expect("the dump is taken for a good one")
}

fn usual() -> Vec<u8> {
    core_file(&[(0x10_0000, vec![1; 0x2000]), (0x8000_0000, vec![2; 0x1000])], &[0x1000, 0x2000])
}

#[test]
fn a_core_file_says_where_memory_and_tables_are() {
    let dump = open(usual()).unwrap();
    assert_eq!(dump.ranges().collect::<Vec<_>>(), [(0x10_0000, 0x10_1fff), (0x8000_0000, 0x8000_0fff)]);
    assert_eq!(dump.cpus.iter().map(|cpu| cpu.cr3).collect::<Vec<_>>(), [0x1000, 0x2000]);
    assert_eq!(dump.cpus[0].cr0, 0x8000_0011);
    assert_eq!(dump.read(0x10_1ff8), Some(0x0101_0101_0101_0101));
    assert_eq!(dump.read(0x8000_0000), Some(0x0202_0202_0202_0202));
    for hole in [0, 0xf_fff8, 0x10_2000, 0x7fff_fff8, 0x8000_1000, u64::MAX - 7] {
        assert_eq!(dump.read(hole), None, "{hole:#x}");
    }
}

#[test]
fn a_raw_file_is_memory_from_its_base_on() {
    let dump = Dump::of_bytes(vec![7; 4099], Some(0x1000), Tolerance::default()).unwrap();
    assert_eq!(dump.ranges().collect::<Vec<_>>(), [(0x1000, 0x1fff)]);
    let unaligned = Dump::of_bytes(vec![7; 24], Some(0x1003), Tolerance::default()).unwrap();
    assert_eq!(unaligned.ranges().collect::<Vec<_>>(), [(0x1008, 0x1017)]);
    assert!(Dump::of_bytes(vec![7; 16], Some(u64::MAX - 8), Tolerance::default()).is_err());
    assert!(Dump::of_bytes(vec![7; 7], None, Tolerance::default()).is_err());
}

#[test]
fn what_is_cut_off_is_an_error_or_taken_for_what_there_is() {
    let whole = usual();
    for length in [4, 63, 64, 100, 400, 1200, whole.len() - 1] {
        let cut = whole[..length].to_vec();
        let refused = refusal(cut.clone());
        assert!(
            refused.contains("cut off") || refused.contains("not within the file"),
            "{length}: {refused}"
        );
    }
    let cut = whole[..whole.len() - 0x800].to_vec();
    let dump = Dump::of_bytes(cut, None, Tolerance { truncated: true }).unwrap();
    assert_eq!(dump.ranges().last(), Some((0x8000_0000, 0x8000_07ff)));
}

/// The usual core file with this number at this place.
fn with(offset: usize, number: &[u8]) -> Vec<u8> {
    let mut bytes = usual();
    bytes[offset..offset + number.len()].copy_from_slice(number);
    bytes
}

#[test]
fn absurd_headers_are_errors() {
    let max = u64::MAX.to_le_bytes();
    let second = 64 + 56;
    let cases = [
        (with(4, &[1]), "32-bit ELF file"),
        (with(5, &[2]), "big-endian"),
        (with(4, &[9]), "no class or byte order"),
        (with(16, &[2]), "no core file"),
        (with(32, &max), "not within the file"),
        (with(54, &[8]), "8 bytes each"),
        (with(56, &[0, 0]), "no segments"),
        (with(56, &[0xff, 0xff]), "section header that is not there"),
        (with(56, &[0xfe, 0xff]), "not within the file"),
        (with(second + 8, &max), "cut off"),
        (with(second + 32, &max), "cut off"),
        (with(second + 24, &(u64::MAX - 0xfff).to_le_bytes()), "beyond the end of memory"),
        // The notes follow the headers: the sizes of a name and of a description.
        (with(64 + 3 * 56, &[0xff; 4]), "longer than its segment"),
        (with(64 + 3 * 56 + 4, &[0xff; 4]), "longer than its segment"),
        // Both segments at the same address.
        (with(second + 56 + 24, &0x10_0000_u64.to_le_bytes()), "overlap"),
        (b"KDUMP   and so on".to_vec(), "compressed"),
        (core_file(&[], &[]), "no memory"),
    ];
    for (bytes, words) in cases {
        let refused = refusal(bytes);
        assert!(refused.contains(words), "`{words}` is missing in: {refused}");
    }
}

#[test]
fn the_number_of_segments_may_be_in_a_section_header() {
    let mut bytes = with(56, &[0xff, 0xff]);
    let section = bytes.len() as u64;
    bytes[40..48].copy_from_slice(&section.to_le_bytes());
    bytes.resize(bytes.len() + 64, 0);
    let info = section as usize + 44;
    bytes[info..info + 4].copy_from_slice(&3_u32.to_le_bytes());
    assert_eq!(open(bytes.clone()).unwrap().ranges().count(), 2);
    bytes[info..info + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(refusal(bytes).contains("not within the file"));
}

#[test]
fn segments_that_say_the_same_twice_are_one() {
    // As dump-guest-memory -p writes them: one by virtual addresses each, some of the same memory.
    let mut bytes = core_file(&[(0x1000, vec![3; 0x2000]), (0x2000, vec![3; 0x1000])], &[]);
    let (first, second) = (64 + 56, 64 + 2 * 56);
    let offset = u64::from_le_bytes(bytes[first + 8..first + 16].try_into().unwrap()) + 0x1000;
    bytes[second + 8..second + 16].copy_from_slice(&offset.to_le_bytes());
    assert_eq!(open(bytes).unwrap().ranges().collect::<Vec<_>>(), [(0x1000, 0x2fff)]);
}

#[test]
fn more_cpus_than_any_machine_has_are_an_error() {
    let cr3 = vec![0; 4097];
    assert!(refusal(core_file(&[(0, vec![0; 8])], &cr3)).contains("more than 4096 CPUs"));
}

#[test]
fn several_files_make_one_dump() {
    let sources = Source::parse("a@0x1000,b@4G,c", Some(0x8000_0000)).unwrap();
    let bases: Vec<_> = sources.iter().map(|source| source.base).collect();
    assert_eq!(bases, [Some(0x1000), Some(4 << 30), Some(0x8000_0000)]);
    for (text, base) in [("a@1,b@2", Some(3)), ("a,b", Some(0)), ("a@x", None), ("@1", None), ("", None)] {
        assert!(Source::parse(text, base).is_err(), "{text}");
    }
}
