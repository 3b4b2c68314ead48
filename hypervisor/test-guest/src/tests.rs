use super::*;

#[test]
fn the_size_is_believed_behind_the_magic_number_only() {
    assert_eq!(device_tree_size(&[0xd0, 0x0d, 0xfe, 0xed, 0, 0, 2, 1]), Some(0x201));
    assert_eq!(device_tree_size(&[0; 8]), None);
}

#[test]
fn the_scenario_ends_at_a_blank_or_a_nul() {
    assert_eq!(word_after(b"xx scenario=hole quiet\0", b"scenario="), Some("hole"));
    assert_eq!(word_after(b"scenario=ok\0yy", b"scenario="), Some("ok"));
    assert_eq!(word_after(b"scenario=ok", b"scenario="), None);
    assert_eq!(word_after(b"nothing", b"scenario="), None);
}

#[test]
fn memory_is_found_at_a_cell_boundary() {
    let mut tree = [0; 36];
    tree[8..16].copy_from_slice(&RAM.to_be_bytes());
    tree[20..28].copy_from_slice(&RAM.to_be_bytes());
    tree[28..36].copy_from_slice(&(128_u64 << 20).to_be_bytes());
    tree[16..20].copy_from_slice(&[0; 4]);
    assert_eq!(memory_size(&tree[16..], RAM), Some(128 << 20));
    assert_eq!(memory_size(&tree[16..], RISCV_RAM), None);
    assert_eq!(memory_size(&[], RAM), None);
}
