use super::*;

#[test]
fn every_entry_is_a_block_that_maps_its_own_gibibyte() {
    for (i, entry) in IDENTITY.0.iter().enumerate() {
        assert_eq!(entry & 0b11, 0b01, "entry {i}");
        assert_eq!(entry & 0x0000_ffff_c000_0000, (i as u64) << 30, "entry {i}");
        let memory_attribute = (MAIR >> (8 * (entry >> 2 & 7))) & 0xff;
        assert_eq!(memory_attribute, if i == 0 { 0x04 } else { 0xff }, "entry {i}");
    }
}

#[test]
fn the_table_covers_what_tcr_says() {
    assert_eq!(1u64 << (64 - (TCR & 0x3f)), 512 << 30);
}
