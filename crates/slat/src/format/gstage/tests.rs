//! RISC-V G-stage against the manual.

use super::*;
use crate::device::{AccessWidth, DataAccess};
use crate::format::conformance as suite;
use MappingFlags as M;

/// A hart with every mode, 14 bits of VMID and these extensions.
fn hart(extensions: Extensions) -> Capabilities {
    Capabilities { modes: Modes::all(), vmid_bits: 14, extensions, ..Capabilities::BASELINE }
}

fn of(mode: Mode, capabilities: Capabilities) -> Gstage {
    Gstage::new(mode, capabilities).expect("offered")
}

fn formats() -> Vec<Gstage> {
    let mut formats = Vec::new();
    for mode in Mode::ALL {
        for extensions in [Extensions::empty(), Extensions::SVPBMT] {
            formats.push(of(mode, hart(extensions)));
        }
    }
    formats
}

/// With accessed and dirty flags, set by the hart, which has leaves of 64 KiB, or in the answers to faults.
fn telling_formats() -> [Gstage; 2] {
    [Extensions::SVADU | Extensions::SVNAPOT, Extensions::SVADE | Extensions::SVPBMT].map(|extensions| {
        let wanted = Capabilities { accessed_dirty: true, napot_leaves: true, ..hart(extensions) };
        of(Mode::Sv48x4, wanted)
    })
}

crate::format::conformance::conformance!(formats().into_iter().chain(telling_formats()));

/// Known-good entries, put together by hand from "Sv39: Page-Based 39-bit Virtual-Memory System", "Svpbmt" and
/// "Hypervisor Guest Address Translation and Protection".
#[test]
fn entries_are_those_of_the_manual() {
    let plain = Gstage::default();
    let svpbmt = of(Mode::Sv39x4, hart(Extensions::SVPBMT));
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
                assert_eq!(entry & (ACCESSED | DIRTY), ACCESSED | DIRTY);
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

/// "Svpbmt", "Svnapot", and what the Sv modes reserve: a fault for the hart, so nothing for us.
#[test]
fn upper_bits_that_the_hart_does_not_have_are_reserved() {
    let [plain, svpbmt] = [Extensions::empty(), Extensions::SVPBMT].map(|has| of(Mode::Sv39x4, hart(has)));
    let leaf = VALID | READ | USER;
    for format in [plain, svpbmt] {
        for bit in (54..=60).chain([63]) {
            assert_eq!(format.kind(0, leaf | 1 << bit), Kind::Absent, "bit {bit}");
        }
        assert_eq!(format.kind(1, leaf | 3 << 61), Kind::Absent, "PBMT 3");
    }
    for pbmt in [1, 2] {
        assert_eq!(svpbmt.kind(1, leaf | pbmt << 61), Kind::Leaf);
        assert_eq!(plain.kind(1, leaf | pbmt << 61), Kind::Absent, "without menvcfg.PBMTE");
        assert_eq!(svpbmt.kind(1, leaf | pbmt << 61 | 1 << 54), Kind::Absent);
        assert_eq!(svpbmt.kind(0, leaf | pbmt << 61 | NAPOT | NAPOT_64K), Kind::Absent);
    }
    for bit in [4, 6, 7].into_iter().chain(54..64) {
        assert_eq!(svpbmt.kind(1, VALID | 1 << bit), Kind::Absent, "bit {bit} of a pointer");
    }
    assert_eq!(svpbmt.kind(1, VALID | 3 << 8 | 1 << 5), Kind::Table, "RSW is software's, G is ignored");
}

#[test]
fn one_of_sixteen_is_the_ordinary_leaf_of_its_index() {
    let has = Extensions::SVNAPOT | Extensions::SVPBMT;
    let wanted = Capabilities { napot_leaves: true, ..hart(has) };
    let format = of(Mode::Sv39x4, wanted);
    assert_eq!(format.group_bit(), NAPOT);
    for flags in (0..64).filter_map(M::from_bits).filter(|flags| flags.is_accessible()) {
        if format.check_flags(flags).is_err() {
            continue;
        }
        for index in 16..48 {
            let page = HostPhysAddr::new((1 << 51) + index as u64 * 0x1000);
            let leaf = format.leaf(0, page, flags);
            let grouped = format.grouped(leaf).expect("wanted");
            assert_eq!(format.kind(0, grouped), Kind::Leaf);
            assert_eq!(format.kind(1, grouped), Kind::Absent, "there are none above");
            assert_eq!(format.flags(grouped), format.flags(leaf));
            assert_eq!((format.single(index, grouped), format.single(index, leaf)), (leaf, leaf));
            let first = format.leaf(0, page.align_down(0x1_0000), flags);
            assert_eq!(format.grouped(first), Some(grouped), "all sixteen are alike");
            let gpa = GuestPhysAddr::new(index as u64 * 0x1000 + 0x123);
            let reached = format.reached(0, grouped, gpa);
            assert_eq!(reached, Some((HostPhysAddr::new(page.as_u64() + 0x123), 0x1_0000)));
            for size in (0..16).filter(|size| *size != 8) {
                let other = grouped & !NAPOT_SIZE | size << 10;
                assert_eq!(format.kind(0, other), Kind::Absent, "no other size exists: {size}");
            }
            for bit in 54..=60 {
                assert_eq!(format.kind(0, grouped | 1 << bit), Kind::Absent, "bit {bit}");
            }
            assert_eq!(format.kind(0, grouped | PBMT_MASK), Kind::Absent);
        }
    }
    let unwanted = Capabilities { napot_leaves: false, ..wanted };
    let without = Capabilities { extensions: Extensions::SVPBMT, ..wanted };
    for capabilities in [unwanted, without] {
        let format = of(Mode::Sv39x4, capabilities);
        let leaf = format.leaf(0, HostPhysAddr::new(0x8000), M::READ);
        assert_eq!((format.group_bit(), format.grouped(leaf)), (0, None));
        assert_eq!(format.kind(0, leaf | NAPOT), Kind::Absent);
    }
}

#[test]
fn sixteen_entries_of_svnapot_lead_to_one_leaf() {
    let format = of(Mode::Sv39x4, hart(Extensions::SVNAPOT | Extensions::SVPBMT));
    let leaf = |ppn: u64| ppn << 10 | VALID | READ | USER;
    let reached = |format: &Gstage, level, entry| {
        let found = format.reached(level, entry, GuestPhysAddr::new(0x1_2345_6789))?;
        Some((found.0.as_u64(), found.1))
    };
    // ppn[0] is xxxx_x1000 whichever of the sixteen it is; where in them it leads, the address says.
    let napot = leaf(0x8_0018) | NAPOT;
    assert_eq!(reached(&format, 0, napot), Some((0x8001_6789, 0x1_0000)));
    assert_eq!(reached(&format, 0, napot | PBMT_IO << PBMT_SHIFT), Some((0x8001_6789, 0x1_0000)));
    for reserved in [0x8_0010, 0x8_0014, 0x8_001c, 0x8_0019, 0x8_001f] {
        assert_eq!(reached(&format, 0, leaf(reserved) | NAPOT), None, "{reserved:#x}");
    }
    assert_eq!(reached(&format, 1, napot), None, "there are none above");
    assert_eq!(reached(&format, 0, napot | 1 << 54), None);
    assert_eq!(reached(&format, 0, napot & !VALID), None);
    assert_eq!(reached(&of(Mode::Sv39x4, hart(Extensions::empty())), 0, napot), None, "without Svnapot");
    // The others.
    assert_eq!(reached(&format, 0, leaf(0x8_0018)), Some((0x8001_8789, 0x1000)));
    assert_eq!(reached(&format, 1, leaf(0x8_0000)), Some((0x8005_6789, 0x20_0000)));
    assert_eq!(reached(&format, 1, leaf(0x8_0008)), None, "a misaligned superpage");
    assert_eq!(reached(&format, 1, 0x8_0000 << 10 | VALID), None, "a table");
}

#[test]
fn accessed_and_dirty_are_told_by_the_hart_or_by_faults() {
    let rw = M::READ | M::WRITE;
    let marks = |format: Gstage| (format.accessed_bit(), format.dirty_bit(), format.marks_by_fault());
    let [hardware, faults] = telling_formats();
    assert_eq!(marks(hardware), (1 << 6, 1 << 7, false));
    assert_eq!(marks(faults), (1 << 6, 1 << 7, true));
    for extensions in [Extensions::empty(), Extensions::SVADU, Extensions::SVADE] {
        assert_eq!(marks(of(Mode::Sv48x4, hart(extensions))), (0, 0, false), "preset");
    }
    for format in telling_formats() {
        assert_eq!(format.leaf(0, HostPhysAddr::new(0), rw) & 0xff, 0x17, "neither");
        assert_eq!(format.table(HostPhysAddr::new(0)), VALID);
    }
}

#[test]
fn new_entries_are_fenced_where_that_is_wanted_and_needed() {
    let fences = |fence_new_entries, extensions| {
        of(Mode::Sv39x4, Capabilities { fence_new_entries, ..hart(extensions) }).fences_new_entries()
    };
    assert!(fences(true, Extensions::all() - Extensions::SVVPTC));
    assert!(!fences(true, Extensions::SVVPTC), "no invalid entry is kept");
    assert!(!fences(false, Extensions::empty()));
    let features = |extensions| of(Mode::Sv39x4, hart(extensions)).tlb_features();
    assert_eq!(features(Extensions::SVINVAL), TlbFeatures::ORDERED_APART);
    assert_eq!(features(Extensions::all() - Extensions::SVINVAL), TlbFeatures::empty());
}

#[test]
fn a_mode_that_the_hart_lacks_is_refused() {
    for modes in (0..8).map(Modes::from_bits_truncate) {
        let capabilities = Capabilities { modes, ..hart(Extensions::empty()) };
        for mode in Mode::ALL {
            let made = Gstage::new(mode, capabilities);
            if modes.contains(mode.only()) {
                assert_eq!(
                    made.map(|format| (format.mode(), format.capabilities())),
                    Ok((mode, capabilities))
                );
            } else {
                assert_eq!(made, Err(ConfigError::ModeNotOffered(mode)));
            }
        }
        let offered: Vec<_> = Mode::ALL.into_iter().filter(|mode| modes.contains(mode.only())).collect();
        let widest = offered.last().copied().ok_or(ConfigError::NoModeFor(1));
        assert_eq!(Gstage::widest(capabilities).map(|format| format.mode()), widest);
        for bits in [0, 1, 40, 41, 42, 50, 51, 59, 60, 64] {
            let narrowest = offered.iter().find(|mode| mode.gpa_bits() >= bits).copied();
            let made = Gstage::narrowest(bits, capabilities).map(|format| format.mode());
            assert_eq!(made, narrowest.ok_or(ConfigError::NoModeFor(bits)), "{bits} bits of {modes:?}");
        }
    }
}

#[test]
fn widths_that_do_not_exist_are_refused() {
    let made = |vmid_bits, physical_bits| {
        let capabilities = Capabilities { vmid_bits, physical_bits, ..hart(Extensions::empty()) };
        let all = [
            Gstage::new(Mode::Sv39x4, capabilities),
            Gstage::narrowest(41, capabilities),
            Gstage::widest(capabilities),
        ];
        all.map(|made| made.map(|format| (format.tag_bits(), format.hpa_bits())))
    };
    for (vmid_bits, physical_bits, hpa_bits) in [(0, 32, 32), (7, 44, 44), (14, 52, 52), (14, 56, 52)] {
        assert_eq!(made(vmid_bits, physical_bits), [Ok((vmid_bits, hpa_bits)); 3]);
    }
    assert_eq!(made(15, 56), [Err(ConfigError::VmidBits(15)); 3]);
    assert_eq!(made(14, 31), [Err(ConfigError::PhysicalBits(31)); 3]);
    assert_eq!(made(14, 57), [Err(ConfigError::PhysicalBits(57)); 3]);
}

#[test]
fn hgatp_is_checked_with_the_bits_of_the_hart() {
    let format = of(Mode::Sv57x4, Capabilities { vmid_bits: 7, ..hart(Extensions::empty()) });
    assert_eq!(format.hgatp(HostPhysAddr::new(0x8000_4000), 5), Ok(0xa000_5000_0008_0004));
    let wide = HgatpError::VmidTooWide { vmid: 128, vmid_bits: 7 };
    assert_eq!(format.hgatp(HostPhysAddr::new(0x8000_4000), 128), Err(wide));
    let root = HostPhysAddr::new(0x8000_2000);
    assert_eq!(format.hgatp(root, 5), Err(HgatpError::UnalignedRoot(root)));
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
    let format = of(Mode::Sv48x4, hart(Extensions::empty()));
    let root = format.root_register(HostPhysAddr::new(0x8000_4000), 0x2abc);
    let fences_of = |ranges: &[GuestPhysRange], stride| -> Vec<Fence> {
        let scope = if ranges.is_empty() { Scope::Space } else { Scope::Ranges { ranges, stride } };
        let (table, features) = (TableKind::Gstage, TlbFeatures::empty());
        fences(&Invalidation { root, scope, reach: Reach::AllCpus, table, features }).collect()
    };
    let range = |start, size| GuestPhysRange::new(GuestPhysAddr::new(start), size).expect("valid");
    let vmid = 0x2abc;
    let by_address = fences_of(&[range(0x8000_0000, 0x2000), range(0x9000_0000, 0x1000)], LeafSize::Size4K);
    let addresses = [0x2000_0000, 0x2000_0400, 0x2400_0000]
        .map(|address| Fence { address: Some(address), vmid: Some(vmid) });
    assert_eq!(by_address, addresses);
    assert_eq!(
        fences_of(&[range(0x8000_0000, 0x40_0000)], LeafSize::Size2M).len(),
        2,
        "one for each large leaf"
    );
    let whole = [Fence { address: None, vmid: Some(vmid) }];
    assert_eq!(fences_of(&[], LeafSize::Size4K), whole);
    assert_eq!(fences_of(&[range(0, 65 << 12)], LeafSize::Size4K), whole, "too many to name");
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
        let fault = decode_fault(&trap).expect("a guest-page fault");
        let info = fault.info().expect("htval has the address");
        assert_eq!((info.access, info.walk), (access, walk), "{trap:x?}");
        assert_eq!((fault.access, fault.walk, fault.gva.as_u64()), (access, walk, 0x7000_0347));
        let original = [M::EXECUTE, M::READ, M::WRITE]
            [[20, 21, 23].iter().position(|code| *code == trap.scause).expect("one")];
        assert_eq!(fault.virtual_access(1 << 8), original, "VS-mode");
        assert_eq!(fault.virtual_access(!(1 << 8)), original | M::USER, "VU-mode");
        let low = if walk { 0 } else { 3 };
        assert_eq!(
            (info.gpa.as_u64(), info.gva.map(|gva| gva.as_u64())),
            (0x8000_0344 | low, Some(0x7000_0347))
        );
    }
    assert_eq!(decode_fault(&trap(22, 0)), Err(NotAGuestPageFault(22)));
}

/// "Guest-Page Faults": htval is 0 or the address. Nothing else aliases a lower one.
#[test]
fn an_address_that_is_not_reported_is_to_be_found() {
    let fault = |htval, htinst| {
        let trap = Trap { scause: 23, stval: 0x7000_0347, htval, htinst };
        decode_fault(&trap).expect("a guest-page fault")
    };
    for htinst in [0, 0x3000, 0x0062_3023] {
        let unknown = fault(0, htinst);
        assert_eq!(unknown.info(), None);
        assert_eq!((unknown.gva.as_u64(), unknown.original), (0x7000_0347, M::WRITE));
        assert_eq!(unknown.walk, htinst == 0x3000);
    }
    let address = |htval| fault(htval, 0).info().map(|info| info.gpa.as_u64());
    assert_eq!(address(1), Some(7));
    assert_eq!(address(1 << 57), Some(1 << 59 | 3), "beyond every mode, and no alias");
    assert_eq!(address((1 << 62) - 1), Some(u64::MAX));
    assert_eq!((address(1 << 62), address(1 << 63 | 1)), (None, None), "no address has these bits");
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
