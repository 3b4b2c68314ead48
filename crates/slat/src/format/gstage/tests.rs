//! RISC-V G-stage against the manual.

use super::*;
use crate::device::{AccessWidth, DataAccess};
use crate::format::conformance as suite;
use MappingFlags as M;

fn formats() -> Vec<Gstage> {
    let mut formats = Vec::new();
    for mode in [Mode::Sv39x4, Mode::Sv48x4, Mode::Sv57x4] {
        for svpbmt in [false, true] {
            formats.push(Gstage::new(mode, Capabilities { svpbmt, vmid_bits: 14 }));
        }
    }
    formats
}

crate::format::conformance::conformance!(formats());

/// Known-good entries, put together by hand from "Sv39: Page-Based 39-bit Virtual-Memory System", "Svpbmt" and
/// "Hypervisor Guest Address Translation and Protection".
#[test]
fn entries_are_those_of_the_manual() {
    let plain = Gstage::default();
    let svpbmt = Gstage::new(Mode::Sv39x4, Capabilities { svpbmt: true, vmid_bits: 14 });
    let rw = M::READ | M::WRITE;
    let cases = [
        // PPN 0x123456 << 10, D A - U X W R V.
        (plain, 0x1_2345_6000, rw | M::EXECUTE | M::USER, 0x48d1_58df),
        (plain, 0x1_2345_6000, M::READ, 0x48d1_58d3),
        (plain, 0x1_2345_6000, M::EXECUTE, 0x48d1_58d9),
        // No PBMT without Svpbmt: the type is that of the physical memory; RSW remembers the wish.
        (plain, 0x1000_0000, rw | M::DEVICE, 0x0400_02d7),
        // PBMT in 62:61: 1 is NC, 2 is IO.
        (svpbmt, 0x1000_0000, rw | M::UNCACHED, 0x2000_0000_0400_00d7),
        (svpbmt, 0x1000_0000, rw | M::DEVICE, 0x4000_0000_0400_00d7),
        (svpbmt, 0x1000_0000, rw | M::DEVICE | M::UNCACHED, 0x4000_0000_0400_02d7),
    ];
    for (format, hpa, flags, entry) in cases {
        assert_eq!(format.check_flags(flags), Ok(()), "{flags}");
        let got = format.leaf(0, HostPhysAddr::new(hpa), flags);
        assert_eq!(got, entry, "{flags}: {got:#x}, not {entry:#x}");
    }
    assert_eq!(plain.table(HostPhysAddr::new(0x8000_4000)), 0x2000_1001);
}

#[test]
fn no_entry_faults_by_itself() {
    for format in formats() {
        for flags in (0..64).filter_map(M::from_bits).filter(|flags| flags.is_accessible()) {
            if format.check_flags(flags).is_err() {
                continue;
            }
            for hpa in [0, (1 << 52) - (1 << 30)] {
                let entry = format.leaf(2, HostPhysAddr::new(hpa), flags);
                assert_ne!(entry & USER, 0, "every access is checked as a user access");
                assert_eq!(entry >> 54 & 0x7f, 0, "bits 60:54 are reserved");
                assert_eq!(entry >> 63, 0, "not NAPOT");
                assert_ne!(entry & PBMT_MASK, PBMT_MASK, "PBMT 3 is reserved");
                assert!(entry & WRITE == 0 || entry & READ != 0);
                assert_ne!(entry & ACCESSED, 0);
                assert_ne!(entry & DIRTY, 0);
            }
        }
        let table = format.table(HostPhysAddr::new((1 << 52) - 0x1000));
        assert_eq!(table & (ACCESSED | DIRTY | USER | PBMT_MASK | 0x7f << 54), 0);
    }
}

#[test]
fn reserved_encodings_are_absent() {
    let format = Gstage::default();
    assert_eq!(format.kind(0, VALID), Kind::Absent, "a pointer in the last level");
    assert_eq!(format.kind(1, VALID), Kind::Table);
    assert_eq!(format.kind(0, VALID | WRITE), Kind::Absent, "W without R");
    assert_eq!(format.kind(0, VALID | WRITE | EXECUTE), Kind::Absent, "W without R");
    assert_eq!(format.kind(0, VALID | EXECUTE), Kind::Leaf, "X alone is fine");
}

#[test]
fn the_root_register_is_hgatp() {
    let hgatp = |format: Gstage| format.root_register(HostPhysAddr::new(0x8000_4000), 5);
    assert_eq!(
        formats().into_iter().step_by(2).map(hgatp).collect::<Vec<_>>(),
        [0x8000_5000_0008_0004, 0x9000_5000_0008_0004, 0xa000_5000_0008_0004,]
    );
    let widths = formats().into_iter().map(|format| format.geometry());
    assert_eq!(widths.map(|geometry| geometry.gpa_bits).collect::<Vec<_>>(), [41, 41, 50, 50, 59, 59]);
    assert!(formats().iter().all(|format| format.geometry().root_tables == 4));
}

#[test]
fn what_the_hart_lacks_is_refused() {
    let plain = Gstage::default();
    for flags in
        [M::WRITE, M::WRITE | M::EXECUTE, M::USER, M::READ | M::UNCACHED, M::READ | M::DEVICE | M::UNCACHED]
    {
        assert!(plain.check_flags(flags).is_err(), "{flags}");
    }
    assert_eq!(plain.tag_bits(), 0);
}

#[test]
fn fences_take_shifted_addresses_and_the_vmid() {
    use crate::addr::{GuestPhysAddr, GuestPhysRange};
    use crate::tlb::{Invalidation, Reach, Scope, TableKind, TlbFeatures};
    let format = Gstage::new(Mode::Sv48x4, Capabilities { svpbmt: false, vmid_bits: 14 });
    let root = format.root_register(HostPhysAddr::new(0x8000_4000), 0x2abc);
    let of = |ranges: &[GuestPhysRange], stride| -> Vec<Fence> {
        let scope = if ranges.is_empty() { Scope::Space } else { Scope::Ranges { ranges, stride } };
        let (table, features) = (TableKind::Gstage, TlbFeatures::empty());
        fences(&Invalidation { root, scope, reach: Reach::AllCpus, table, features }).collect()
    };
    let range = |start, size| GuestPhysRange::new(GuestPhysAddr::new(start), size).expect("valid");
    let vmid = 0x2abc;
    let by_address = of(&[range(0x8000_0000, 0x2000), range(0x9000_0000, 0x1000)], LeafSize::Size4K);
    let addresses = [0x2000_0000, 0x2000_0400, 0x2400_0000]
        .map(|address| Fence { address: Some(address), vmid: Some(vmid) });
    assert_eq!(by_address, addresses);
    assert_eq!(of(&[range(0x8000_0000, 0x40_0000)], LeafSize::Size2M).len(), 2, "one for each large leaf");
    let whole = [Fence { address: None, vmid: Some(vmid) }];
    assert_eq!(of(&[], LeafSize::Size4K), whole);
    assert_eq!(of(&[range(0, 65 << 12)], LeafSize::Size4K), whole, "too many to name");
    let (table, features) = (TableKind::Gstage, TlbFeatures::empty());
    let all = Invalidation { root, scope: Scope::AllSpaces, reach: Reach::ThisCpu, table, features };
    assert_eq!(fences(&all).collect::<Vec<_>>(), [Fence { address: None, vmid: None }]);
}

/// Registers put together by hand from "Guest-Page Faults" and the table of htinst's pseudoinstructions.
#[test]
fn traps_say_what_the_guest_did() {
    let trap = |scause, htinst| Trap { scause, stval: 0x7000_0347, htval: 0x8000_0345 >> 2, htinst };
    let cases = [
        (trap(20, 0), M::EXECUTE, false),
        (trap(21, 0), M::READ, false),
        (trap(23, 0), M::WRITE, false),
        // A transformed load, which has bit 0 set, is an access of the guest's own.
        (trap(21, 0x3003), M::READ, false),
        (trap(23, 0x3000), M::READ, true),
        (trap(23, 0x2000), M::READ, true),
        (trap(21, 0x3020), M::WRITE, true),
        (trap(20, 0x2020), M::WRITE, true),
    ];
    for (trap, access, walk) in cases {
        let info = decode_fault(&trap).expect("a guest-page fault");
        assert_eq!((info.access, info.walk), (access, walk), "{trap:x?}");
        let low = if walk { 0 } else { 3 };
        assert_eq!(
            (info.gpa.as_u64(), info.gva.map(|gva| gva.as_u64())),
            (0x8000_0344 | low, Some(0x7000_0347))
        );
    }
    assert_eq!(decode_fault(&trap(22, 0)), Err(NotAGuestPageFault(22)));
}

/// Instructions assembled by hand, with the offset zeroed as "Transformed Instruction or Pseudoinstruction for mtinst or
/// htinst" tells it.
#[test]
fn a_transformed_instruction_says_what_it_moves() {
    use AccessWidth::{Byte, Dword, Qword, Word};
    let access = |htinst| Trap { scause: 21, htinst, ..Trap::default() }.data_access();
    let width = |htinst| {
        let trap = Trap { scause: 23, htinst, ..Trap::default() };
        decode_fault(&trap).expect("a guest-page fault").width
    };
    let of =
        |width, register, sign_extend| Some(DataAccess { width, register, sign_extend, sixty_four: true });
    let load = |funct3: u64, rd: u64| funct3 << 12 | rd << 7 | 0x03;
    let loads = [(0, Byte, true), (1, Word, true), (2, Dword, true), (3, Qword, true)];
    let unsigned = [(4, Byte, false), (5, Word, false), (6, Dword, false)];
    for (funct3, size, signed) in loads.into_iter().chain(unsigned) {
        assert_eq!(access(load(funct3, 17)), of(size, Some(17), signed));
        assert_eq!(width(load(funct3, 17)), Some(size));
        // Compressed: bit 1 is clear.
        assert_eq!(access(load(funct3, 17) & !2), of(size, Some(17), signed));
    }
    for rd in 1..32 {
        assert_eq!(access(load(2, rd)), of(Dword, Some(rd as u8), true));
    }
    assert_eq!(access(load(2, 0)), of(Dword, None, true), "x0");
    assert_eq!((access(load(7, 17)), width(load(7, 17))), (None, None));

    let store = |funct3: u64, rs2: u64| rs2 << 20 | funct3 << 12 | 0x23;
    for (funct3, size) in (0..4).zip(AccessWidth::ALL) {
        assert_eq!(access(store(funct3, 30)), of(size, Some(30), false));
        assert_eq!(width(store(funct3, 30)), Some(size));
    }
    assert_eq!(access(store(3, 0)), of(Qword, None, false), "x0");
    assert_eq!(access(store(4, 1)), None);

    // FLH, FLW, FLD, FLQ, and a vector load of bytes; the stores likewise. AMOADD.W and .D, with aq and rl.
    for opcode in [0x07, 0x27] {
        let widths = [0, 1, 2, 3, 4, 5].map(|funct3: u64| width(funct3 << 12 | 8 << 7 | opcode));
        assert_eq!(widths, [None, Some(Word), Some(Dword), Some(Qword), None, None]);
        assert_eq!(access(2 << 12 | 8 << 7 | opcode), None);
    }
    let atomic = [0, 1, 2, 3, 4].map(|funct3: u64| width(3 << 25 | 5 << 20 | funct3 << 12 | 8 << 7 | 0x2f));
    assert_eq!(atomic, [Some(Byte), Some(Word), Some(Dword), Some(Qword), None]);
    assert_eq!(access(2 << 12 | 8 << 7 | 0x2f), None);

    // Nothing, a table walk, another opcode (HLV.W), and the second part of a misaligned access.
    for htinst in
        [0, 0x3000, 0x2020, 0x6c00_4073, load(2, 17) & !1, load(2, 17) | 1 << 15, load(2, 17) | 1 << 19]
    {
        assert_eq!((access(htinst), width(htinst)), (None, None), "{htinst:#x}");
    }
}

#[test]
fn an_instruction_is_as_long_as_it_was_before_it_was_expanded() {
    let length = |htinst| Trap { htinst, ..Trap::default() }.instruction_length();
    assert_eq!([0, 0x3000, 0x2083, 0x2081].map(length), [None, None, Some(4), Some(2)]);
}

#[test]
fn a_vmid_has_as_many_bits_as_the_hart_holds_and_not_more_than_hgatp() {
    let bits = |vmid_bits| Gstage::new(Mode::Sv39x4, Capabilities { svpbmt: false, vmid_bits }).tag_bits();
    assert_eq!([0, 7, 14, 15].map(bits), [0, 7, 14, 14]);
    assert_eq!(Gstage::new(Mode::Sv57x4, Capabilities { svpbmt: false, vmid_bits: 0 }).mode(), Mode::Sv57x4);
}

#[test]
fn instructions_are_fetched_anew_where_they_can_be_executed() {
    let format = Gstage::default();
    let to_guest = |flags| format.cache_actions(CacheEvent::ToGuest(flags));
    assert_eq!(to_guest(M::READ | M::EXECUTE), CacheActions::INVALIDATE_INSTRUCTIONS);
    assert_eq!(to_guest(M::READ | M::WRITE), CacheActions::empty());
    let from_guest = format.cache_actions(CacheEvent::FromGuest(MemoryType::WriteBack));
    assert_eq!(from_guest, CacheActions::empty());
}

#[test]
fn a_table_and_a_leaf_take_each_others_place_at_once() {
    formats().into_iter().for_each(suite::a_table_and_a_leaf_take_each_others_place_at_once);
}

#[test]
fn the_hardware_keeps_its_caches_coherent_for_data() {
    formats().into_iter().for_each(suite::the_hardware_keeps_its_caches_coherent_for_data);
}
