use super::*;
use crate::arch::x86_64::linux;

fn word(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(bytes[offset..offset + 4].try_into().unwrap())
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

/// The table at a guest-physical address.
fn at(all: &[u8], address: u32) -> &[u8] {
    let start = (u64::from(address) - TABLES) as usize;
    assert_eq!(start % 8, 0);
    let length = word(all, start + 4) as usize;
    let table = &all[start..start + length];
    assert_eq!(sum(table), 0, "checksum");
    table
}

#[test]
fn every_table_is_found_from_the_root_pointer() {
    let all = tables(2);
    assert_eq!(&all[..8], b"RSD PTR ");
    assert_eq!(sum(&all[..20]), 0);
    assert_eq!(all[15], 0, "ACPI 1.0");
    let root = at(&all, word(&all, 16));
    assert_eq!(&root[..4], b"RSDT");
    assert_eq!(root.len(), 36 + 2 * 4);
    let fixed = at(&all, word(root, 40));
    assert_eq!((&fixed[..4], fixed.len()), (&b"FACP"[..], 116));
    assert_eq!(fixed[46..48], [9, 0]);
    let differentiated = at(&all, word(fixed, 40));
    assert_eq!((&differentiated[..4], differentiated.len()), (&b"DSDT"[..], 36));
    let apics = at(&all, word(root, 36));
    assert_eq!(&apics[..4], b"APIC");
    assert_eq!(word(apics, 36), 0xfee0_0000);
    assert!(TABLES % 16 == 0 && TABLES >= linux::WINDOW && TABLES + all.len() as u64 <= 1 << 20);
}

#[test]
fn the_apics_are_those_of_the_machine() {
    for cpus in [1, 2] {
        let all = tables(cpus);
        let root = at(&all, word(&all, 16));
        let mut rest = &at(&all, word(root, 36))[44..];
        let (mut found, mut timer, mut nmi) = (Vec::new(), None, None);
        while let [kind, length, ..] = *rest {
            let (entry, behind) = rest.split_at(length.into());
            match kind {
                0 => found.push((entry[2], entry[3], word(entry, 4))),
                1 => assert_eq!((entry[2], word(entry, 4), word(entry, 8)), (cpus as u8, 0xfec0_0000, 0)),
                2 => timer = Some((entry[3], word(entry, 4))),
                4 => nmi = Some((entry[2], entry[5])),
                other => panic!("an entry of kind {other}"),
            }
            rest = behind;
        }
        assert_eq!(found, (0..cpus as u8).map(|cpu| (cpu, cpu, 1)).collect::<Vec<_>>());
        assert_eq!((timer, nmi), (Some((0, 2)), Some((0xff, 1))));
    }
}
