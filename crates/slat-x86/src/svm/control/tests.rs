//! What a guest may write, and what it may not.

use super::*;

const ALLOWED: Allowed = Allowed { cr4: 0x35_17ff | CR4_PCIDE, efer: 0xd01, physical_bits: 40 };
const REAL: Controls = Controls { cr0: CR0_ET, cr3: 0, cr4: 0, efer: 0, long_code: false };
const LONG: Controls = Controls {
    cr0: CR0_PE | CR0_ET | CR0_PG,
    cr3: 0x1000,
    cr4: CR4_PAE,
    efer: EFER_LME | EFER_LMA,
    long_code: true,
};

fn write(from: Controls, control: Control, value: u64) -> Option<Controls> {
    from.with(control, value, ALLOWED)
}

#[test]
fn the_way_into_long_mode_and_back() {
    let pae = write(REAL, Control::Cr4, CR4_PAE).expect("allowed");
    let enabled = write(pae, Control::Efer, EFER_LME).expect("allowed");
    assert_eq!(enabled.efer, EFER_LME);
    let paging = write(enabled, Control::Cr0, CR0_PE | CR0_PG).expect("allowed");
    assert_eq!((paging.efer, paging.cr0), (EFER_LME | EFER_LMA, CR0_PE | CR0_PG | CR0_ET));
    // LMA is not the guest's, and LME cannot go while paging is on.
    assert_eq!(write(paging, Control::Efer, EFER_LME).map(|new| new.efer), Some(EFER_LME | EFER_LMA));
    assert_eq!(write(paging, Control::Efer, 0), None);
    let off = write(paging, Control::Cr0, CR0_PE).expect("from compatibility mode");
    assert_eq!(off.efer, EFER_LME);
    assert_eq!(write(LONG, Control::Cr0, CR0_PE), None, "not from 64-bit code");
}

#[test]
fn cr0_has_its_rules() {
    for bad in [CR0_PG, CR0_NW, CR0_NW | CR0_PE, 1 << 32 | CR0_PE, 1 << 63] {
        assert_eq!(write(REAL, Control::Cr0, bad), None, "{bad:#x}");
    }
    let without_pae = Controls { efer: EFER_LME, ..REAL };
    assert_eq!(write(without_pae, Control::Cr0, CR0_PE | CR0_PG), None);
    let long_code = Controls { cr4: CR4_PAE, long_code: true, ..without_pae };
    assert_eq!(write(long_code, Control::Cr0, CR0_PE | CR0_PG), None);
    let pcid = Controls { cr4: CR4_PAE | CR4_PCIDE, long_code: false, ..LONG };
    assert_eq!(write(pcid, Control::Cr0, CR0_PE), None);
    // Unknown bits of the lower half are ignored, and ET is always set.
    assert_eq!(write(REAL, Control::Cr0, 0x1ffa_ffc0).map(|new| new.cr0), Some(CR0_ET));
    let cached = CR0_NW | CR0_CD;
    assert_eq!(write(REAL, Control::Cr0, cached).map(|new| new.cr0), Some(cached | CR0_ET));
}

#[test]
fn cr4_and_efer_have_what_the_cpu_has() {
    for bit in 0..64 {
        // PCIDs need long mode first.
        let cr4 = ALLOWED.cr4 >> bit & 1 != 0 && bit != 17;
        assert_eq!(write(REAL, Control::Cr4, 1 << bit).is_some(), cr4, "CR4 bit {bit}");
        // LMA is left out of what is written.
        let efer = ALLOWED.efer >> bit & 1 != 0 || bit == 10;
        assert_eq!(write(REAL, Control::Efer, 1 << bit).is_some(), efer, "EFER bit {bit}");
    }
    assert_eq!(write(REAL, Control::Efer, EFER_SVME), None, "a guest has no SVM");
}

#[test]
fn cr4_cannot_change_the_mode_under_the_guest() {
    assert_eq!(write(LONG, Control::Cr4, 0), None);
    assert_eq!(write(LONG, Control::Cr4, CR4_PAE | CR4_LA57), None);
    assert!(write(REAL, Control::Cr4, CR4_LA57).is_some());
    assert!(write(LONG, Control::Cr4, CR4_PAE | CR4_PCIDE).is_some());
    let with_pcid = Controls { cr3: 0x1001, ..LONG };
    assert_eq!(write(with_pcid, Control::Cr4, CR4_PAE | CR4_PCIDE), None);
    let on = Controls { cr4: CR4_PAE | CR4_PCIDE, ..with_pcid };
    assert!(write(on, Control::Cr4, CR4_PAE | CR4_PCIDE).is_some(), "it was on already");
}

#[test]
fn cr3_has_the_width_of_physical_addresses() {
    assert_eq!(write(LONG, Control::Cr3, 0xff_ffff_f000).map(|new| new.cr3), Some(0xff_ffff_f000));
    assert_eq!(write(LONG, Control::Cr3, 1 << 40), None);
    assert_eq!(write(LONG, Control::Cr3, 1 << 63), None);
    let pcid = Controls { cr4: CR4_PAE | CR4_PCIDE, ..LONG };
    assert_eq!(write(pcid, Control::Cr3, 1 << 63 | 0x2003).map(|new| new.cr3), Some(0x2003));
}
