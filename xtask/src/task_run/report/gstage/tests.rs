use super::hgatp;
use slat_hv_protocol::{Mechanism, Started};

fn shown(value: u64, vmid_bits: u32) -> Option<String> {
    hgatp(&Started { mechanism: Mechanism::Gstage, hgatp: value, vmid_bits, ..Started::default() })
}

#[test]
fn the_fields_of_hgatp_are_told_apart() {
    let value = 9 << 60 | 5 << 44 | 0x8_2000;
    assert_eq!(shown(value, 14).as_deref(), Some("0x9000500000082000: Sv48x4, VMID 5 of 14 bits"));
    assert_eq!(
        shown(8 << 60 | 1, 0).as_deref(),
        Some("0x8000000000000001: Sv39x4, VMID 0 no bits of which are there")
    );
    assert!(shown(15 << 60 | 0x3fff << 44, 14).unwrap().contains("mode 15, VMID 16383 of"));
}

#[test]
fn other_machines_have_none() {
    assert_eq!(hgatp(&Started { hgatp: 8 << 60, ..Started::default() }), None);
}
