use super::*;

#[test]
fn every_address_below_4_gib_is_mapped_to_itself() {
    for address in [0, 0x10_0000, MEMORY_END - 1, MEMORY_END, 0xfee0_0020, 0xffff_fff0_u64] {
        let entry = IDENTITY.0[(address >> 21) as usize];
        // Present, writable, a leaf of 2 MiB.
        assert_eq!(entry & 0x83, 0x83, "{address:#x}");
        assert_eq!(entry & 0x000f_ffff_ffe0_0000 | address & 0x1f_ffff, address);
        // PWT and PCD: uncacheable by the PAT of the reset.
        assert_eq!(entry & 0x18, if address < 0xc000_0000 { 0 } else { 0x18 }, "{address:#x}");
    }
}
