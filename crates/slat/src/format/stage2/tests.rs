//! Arm stage 2 against the manual: entries, registers, maintenance sequences, syndromes.

use super::*;
use crate::addr::{GuestPhysAddr, GuestPhysRange, PAGE_SIZE};
use crate::device::{AccessWidth, DataAccess};
use crate::fault::FaultCause;
use crate::tlb::{Invalidation, Reach, Scope, TableKind, TlbFeatures};
use MappingFlags as M;

/// A CPU with everything: 48 bits, FWB, XNX, TLBI by range.
const RICH: Features = Features {
    pa_bits: 48,
    vmid_bits: 16,
    granule_4k: true,
    fwb: true,
    xnx: true,
    range_tlbi: true,
    idc: true,
    dic: true,
};

fn formats() -> Vec<Stage2> {
    let mut formats = vec![Stage2::default()];
    for (fwb, xnx) in [(false, false), (true, false), (false, true), (true, true)] {
        for gpa_bits in [25, 30, 32, 34, 35, 39, 40, 43, 44, 48] {
            formats.push(Stage2::new(Features { fwb, xnx, ..RICH }, Some(gpa_bits)).expect("in range"));
        }
    }
    formats
}

crate::format::conformance::conformance!(formats());

fn plain() -> Stage2 {
    Stage2::new(Features { pa_bits: 44, ..Features::BASELINE }, None).expect("in range")
}

/// Known-good descriptors, put together by hand from D8.3 "Stage 2 translation table descriptor formats", D8.4
/// "Memory access control" and D8.5 "Memory region attributes".
#[test]
fn entries_are_those_of_the_manual() {
    let hpa = HostPhysAddr::new(0x1_2345_6000);
    let block = HostPhysAddr::new(0x1_2340_0000);
    let rw = M::READ | M::WRITE;
    let rich = Stage2::new(RICH, None).expect("in range");
    let cases = [
        // Page: 0b11, MemAttr 1111, S2AP 11, SH 11, AF, XN 00.
        (plain(), 0, hpa, rw | M::EXECUTE | M::USER, 0x0000_0001_2345_67ff),
        (plain(), 0, hpa, rw | M::EXECUTE, 0x0000_0001_2345_67ff),
        // XN[1] = bit 54.
        (plain(), 0, hpa, rw, 0x0040_0001_2345_67ff),
        // S2AP 01: read only.
        (plain(), 0, hpa, M::READ, 0x0040_0001_2345_677f),
        // S2AP 10: write only, legal at stage 2.
        (plain(), 0, hpa, M::WRITE, 0x0040_0001_2345_67bf),
        // Block: 0b01.
        (plain(), 1, block, rw | M::EXECUTE, 0x0000_0001_2340_07fd),
        // Device-nGnRE 0001, Device-nGnRnE 0000, Normal Non-cacheable 0101.
        (plain(), 0, hpa, rw | M::DEVICE, 0x0040_0001_2345_67c7),
        (plain(), 0, hpa, rw | M::DEVICE | M::UNCACHED, 0x0040_0001_2345_67c3),
        (plain(), 0, hpa, rw | M::UNCACHED, 0x0040_0001_2345_67d7),
        // FWB: MemAttr 0110 forces write-back. XNX: XN 00 for both, 11 for EL1 alone, 01 for EL0 alone.
        (rich, 0, hpa, rw | M::EXECUTE | M::USER, 0x0000_0001_2345_67db),
        (rich, 0, hpa, rw | M::EXECUTE, 0x0060_0001_2345_67db),
        (rich, 0, hpa, rw | M::USER, 0x0020_0001_2345_67db),
        (rich, 0, hpa, rw, 0x0040_0001_2345_67db),
    ];
    for (format, level, hpa, flags, entry) in cases {
        assert_eq!(format.check_flags(flags), Ok(()));
        let got = format.leaf(level, hpa, flags);
        assert_eq!(got, entry, "{flags} at level {level}: {got:#018x}, not {entry:#018x}");
    }
    assert_eq!(plain().table(hpa), 0x1_2345_6003);
}

#[test]
fn reserved_encodings_are_absent() {
    let format = plain();
    assert_eq!(format.kind(0, 0b01), Kind::Absent, "0b01 is reserved at the last level");
    assert_eq!(format.kind(3, 0b01), Kind::Absent, "a 512 GiB block needs LPA2");
    assert_eq!(format.kind(1, 0b10), Kind::Absent);
    assert_eq!(format.kind(2, u64::MAX - 1), Kind::Absent, "an invalid descriptor ignores all other bits");
}

#[test]
fn unusable_flags_are_refused() {
    let (plain, rich) = (plain(), Stage2::new(RICH, None).expect("in range"));
    for format in [plain, rich] {
        for flags in [M::EXECUTE, M::EXECUTE | M::WRITE, M::READ | M::EXECUTE | M::DEVICE] {
            assert!(format.check_flags(flags).is_err(), "{flags}");
        }
        assert!(format.check_flags(M::empty()).is_ok(), "no access at all is fine");
    }
    assert!(rich.check_flags(M::READ | M::USER | M::DEVICE).is_err());
    assert!(plain.check_flags(M::READ | M::WRITE | M::USER | M::DEVICE).is_ok(), "USER says nothing here");
}

#[test]
fn break_before_make_follows_the_rule_table() {
    let format = plain();
    let rw = M::READ | M::WRITE;
    let leaf = |hpa: u64, flags| format.leaf(1, HostPhysAddr::new(hpa), flags);
    let old = leaf(0x20_0000, rw);
    assert!(format.needs_break(1, old, leaf(0x40_0000, rw)), "another address");
    assert!(format.needs_break(1, old, leaf(0x20_0000, rw | M::UNCACHED)), "another memory type");
    assert!(
        format.needs_break(1, old, format.table(HostPhysAddr::new(0x20_0000))),
        "a block becomes a table"
    );
    assert!(format.needs_break(1, old, 0), "an invalid entry is the break itself");
    assert!(!format.needs_break(1, old, leaf(0x20_0000, M::READ | M::EXECUTE)), "permissions");
    assert!(!format.needs_break(1, old, old | Stage2::OWNED), "software bits");
}

/// VTCR_EL2 for the widths at which the start level or the number of root tables changes.
#[test]
fn the_registers_go_with_the_geometry() {
    let cases = [
        // gpa_bits, levels, root tables, SL0
        (25, 2, 1, 0),
        (30, 2, 1, 0),
        (31, 2, 2, 0),
        (34, 2, 16, 0),
        (35, 3, 1, 1),
        (39, 3, 1, 1),
        (40, 3, 2, 1),
        (43, 3, 16, 1),
        (44, 4, 1, 2),
        (48, 4, 1, 2),
    ];
    for (gpa_bits, levels, root_tables, sl0) in cases {
        let format = Stage2::new(RICH, Some(gpa_bits)).expect("in range");
        assert_eq!(format.geometry(), Geometry { levels, gpa_bits, root_tables }, "{gpa_bits} bits");
        let vtcr = format.vtcr_el2();
        assert_eq!(vtcr & 0x3f, 64 - u64::from(gpa_bits), "T0SZ");
        assert_eq!(vtcr >> 6 & 3, sl0, "SL0 for {gpa_bits} bits");
        // IRGN0 = ORGN0 = 1, SH0 = 3, TG0 = 0, PS = 5 (48 bits), VS = 1 (16-bit VMIDs), bit 31 RES1, HA = HD = 0.
        assert_eq!(vtcr & !0xff, 0x800d_3500);
    }
    assert_eq!(plain().vtcr_el2(), (64 - 44) | (2 << 6) | 0x8004_3500);
    assert_eq!(plain().hcr_el2(), 1);
    assert_eq!(Stage2::new(RICH, None).map(|format| format.hcr_el2()), Ok(1 | 1 << 46));
    assert_eq!(plain().root_register(HostPhysAddr::new(0x4_5000), 0xab), 0x00ab_0000_0004_5000);
}

#[test]
fn widths_out_of_range_are_refused() {
    for gpa_bits in [0, 24, 45, 64] {
        let got = Stage2::new(Features { pa_bits: 44, ..RICH }, Some(gpa_bits));
        assert_eq!(got, Err(ConfigError::Width { asked: gpa_bits, most: 44 }));
    }
    assert_eq!(Stage2::new(Features { granule_4k: false, ..RICH }, None), Err(ConfigError::NoGranule));
    let wide = Stage2::new(Features { pa_bits: 52, ..RICH }, None).expect("48 of the 52 bits");
    assert_eq!((wide.geometry().gpa_bits, wide.hpa_bits()), (48, 48));
}

#[test]
fn id_registers_of_real_cpus() {
    // Cortex-A72: 44 bits, 8-bit VMIDs, nothing optional.
    let a72 = IdRegisters { mmfr0: 0x1124, mmfr1: 0, mmfr2: 0, isar0: 0x1_1120, ctr: 0x8444_c004 };
    assert_eq!(Features::from_id_registers(&a72), Features { pa_bits: 44, ..Features::BASELINE });
    // A CPU of v8.4 and later: XNX, 16-bit VMIDs, FWB, TLBI by range, TGran4_2 stated, IDC and DIC.
    let new = IdRegisters {
        mmfr0: 2 << 40 | 5,
        mmfr1: 1 << 28 | 2 << 4,
        mmfr2: 1 << 40,
        isar0: 2 << 56,
        ctr: 3 << 28,
    };
    assert_eq!(Features::from_id_registers(&new), RICH);
    let granule = |mmfr0: u64| Features::from_id_registers(&IdRegisters { mmfr0, ..new }).granule_4k;
    assert!(!granule(0xf << 28), "TGran4 = 0xf, TGran4_2 defers to it");
    assert!(!granule(1 << 40), "TGran4_2 = 1: none at stage 2");
    let bits =
        |mmfr0: u64| Features::from_id_registers(&IdRegisters { mmfr0: mmfr0 | 2 << 40, ..new }).pa_bits;
    assert_eq!([0, 1, 2, 3, 4, 5, 6, 15].map(bits), [32, 36, 40, 42, 44, 48, 52, 52]);
}

fn range(start: u64, size: u64) -> GuestPhysRange {
    GuestPhysRange::new(GuestPhysAddr::new(start), size).expect("valid")
}

fn invalidation(scope: Scope<'_>, reach: Reach, by_range: bool) -> Invalidation<'_> {
    let features = if by_range { TlbFeatures::RANGE } else { TlbFeatures::empty() };
    Invalidation { root: 0, scope, reach, table: TableKind::Stage2, features }
}

fn sequence(ranges: &[GuestPhysRange], stride: LeafSize, reach: Reach, by_range: bool) -> Vec<Instruction> {
    instructions(&invalidation(Scope::Ranges { ranges, stride }, reach, by_range)).collect()
}

use Instruction as I;

#[test]
fn one_page_takes_both_halves_in_order() {
    let got = sequence(&[range(0x4_5000, 0x1000)], LeafSize::Size4K, Reach::AllCpus, false);
    assert_eq!(got, [I::DsbIshst, I::Ipas2e1is(0x45), I::DsbIsh, I::Vmalle1is, I::DsbIsh, I::Isb]);
    let local = sequence(&[range(0x4_5000, 0x1000)], LeafSize::Size4K, Reach::ThisCpu, false);
    assert_eq!(local, [I::DsbNshst, I::Ipas2e1(0x45), I::DsbNsh, I::Vmalle1, I::DsbNsh, I::Isb]);
}

#[test]
fn several_ranges_share_the_second_half() {
    let ranges = [range(0x1000, 0x2000), range(0x9000, 0x1000)];
    let got = sequence(&ranges, LeafSize::Size4K, Reach::AllCpus, false);
    let by_address = [I::Ipas2e1is(1), I::Ipas2e1is(2), I::Ipas2e1is(9)];
    assert_eq!(got[1..4], by_address);
    assert_eq!(got[4..], [I::DsbIsh, I::Vmalle1is, I::DsbIsh, I::Isb]);
}

#[test]
fn a_large_leaf_takes_one_and_a_large_range_drops_the_space() {
    let got = sequence(&[range(0x4000_0000, 0x40_0000)], LeafSize::Size2M, Reach::AllCpus, false);
    assert_eq!(got[1..3], [I::Ipas2e1is(0x4_0000), I::Ipas2e1is(0x4_0200)]);
    assert_eq!(got.len(), 7);
    let whole = [I::DsbIshst, I::Vmalls12e1is, I::DsbIsh, I::Isb];
    let limit = crate::tlb::BY_ADDRESS_LIMIT * PAGE_SIZE;
    assert_eq!(sequence(&[range(0, limit + PAGE_SIZE)], LeafSize::Size4K, Reach::AllCpus, false), whole);
    assert_eq!(sequence(&[range(0, limit)], LeafSize::Size4K, Reach::AllCpus, false).len(), 64 + 5);
    let space = invalidation(Scope::Space, Reach::AllCpus, true);
    assert_eq!(instructions(&space).collect::<Vec<_>>(), whole);
    let local = Invalidation { reach: Reach::ThisCpu, ..space };
    let local: Vec<_> = instructions(&local).collect();
    assert_eq!(local, [I::DsbNshst, I::Vmalls12e1, I::DsbNsh, I::Isb]);
    let all = |reach| instructions(&invalidation(Scope::AllSpaces, reach, true)).collect::<Vec<_>>();
    assert_eq!(all(Reach::ThisCpu), [I::DsbNshst, I::Alle1, I::DsbNsh, I::Isb]);
    assert_eq!(all(Reach::AllCpus), [I::DsbIshst, I::Alle1is, I::DsbIsh, I::Isb]);
}

/// The pages that a RIPAS2E1IS operand covers, decoded by the formula of "TLBI RIPAS2E1IS".
fn covered(operand: u64) -> (u64, u64) {
    let (num, scale) = (operand >> 39 & 0x1f, operand >> 44 & 3);
    assert_eq!(operand >> 46 & 3, 1, "TG says 4 KiB");
    assert_eq!(operand >> 37 & 3, 0, "no level hint");
    (operand & ((1 << 37) - 1), (num + 1) << (5 * scale + 1))
}

#[test]
fn range_instructions_cover_exactly_the_range() {
    for pages in [1, 2, 3, 63, 64, 65, 512, 513, 4096, 65_535, 262_144, 1_048_577, 2_097_152] {
        let start = 0x12_3000;
        let got = sequence(&[range(start, pages * PAGE_SIZE)], LeafSize::Size4K, Reach::AllCpus, true);
        let mut next = start / PAGE_SIZE;
        for instruction in &got[1..got.len() - 4] {
            let (first, count) = match instruction {
                I::Ripas2e1is(operand) => covered(*operand),
                I::Ipas2e1is(operand) => (*operand, 1),
                other => panic!("{other:?}"),
            };
            assert_eq!(first, next, "{pages} pages");
            next += count;
        }
        assert_eq!(next, start / PAGE_SIZE + pages, "{pages} pages");
        assert!(got.len() < 20, "{pages} pages take {} instructions", got.len());
    }
    let too_many = sequence(&[range(0, 2_097_153 * PAGE_SIZE)], LeafSize::Size4K, Reach::AllCpus, true);
    assert_eq!(too_many[1], I::Vmalls12e1is);
}

const DATA_ABORT: u64 = 0x24 << 26;
const INSTRUCTION_ABORT: u64 = 0x20 << 26;
const EL1H: u64 = 5;

#[test]
fn a_translation_fault_takes_its_page_from_hpfar() {
    // HPFAR bits 43:4 are IPA[51:12]; the offset comes from FAR.
    let syndrome = Syndrome {
        esr: DATA_ABORT | 1 << 6 | 0b00_0111,
        far: 0xffff_8000_1234_5678,
        hpfar: 0x4_5670 << 4,
        spsr: EL1H,
    };
    let info = decode_fault(&syndrome).expect("a fault").info().expect("HPFAR is valid");
    assert_eq!(info.gpa, GuestPhysAddr::new(0x4567_0678));
    assert_eq!(info.gva.map(|gva| gva.as_u64()), Some(0xffff_8000_1234_5678));
    assert_eq!((info.access, info.cause, info.walk), (M::WRITE, FaultCause::NotPresent, false));
}

#[test]
fn a_permission_fault_must_ask_stage_1() {
    let esr = DATA_ABORT | 1 << 6 | 0b00_1111;
    let syndrome = Syndrome { esr, far: 0x1_0abc, hpfar: 0xdead_bee0, spsr: EL1H };
    let fault = decode_fault(&syndrome).expect("a fault");
    assert_eq!(fault.info(), None, "HPFAR is UNKNOWN");
    let info = fault.with_par(0xff00_0000_4000_0b80).expect("PAR.F is clear");
    assert_eq!(info.gpa, GuestPhysAddr::new(0x4000_0abc));
    assert_eq!(fault.with_par(1), None, "stage 1 changed meanwhile");
    // Unless the guest's walk faulted: then HPFAR holds the descriptor's page, and FAR's offset is not its own.
    let walk = decode_fault(&Syndrome { esr: esr | 1 << 7, hpfar: 0x1_2340, ..syndrome }).expect("a fault");
    let info = walk.info().expect("HPFAR is valid");
    assert_eq!((info.gpa, info.walk, info.access), (GuestPhysAddr::new(0x123_4000), true, M::WRITE));
}

#[test]
fn accesses_are_told_apart() {
    let access = |esr, spsr| {
        let fault = decode_fault(&Syndrome { esr: esr | 0b00_0110, far: 0, hpfar: 0, spsr });
        fault.expect("a fault").access
    };
    assert_eq!(access(DATA_ABORT, EL1H), M::READ);
    assert_eq!(access(DATA_ABORT | 1 << 6, 0), M::WRITE);
    assert_eq!(
        access(DATA_ABORT | 1 << 6 | 1 << 8, EL1H),
        M::READ,
        "cache maintenance sets WnR but only reads"
    );
    let refused = Syndrome { esr: DATA_ABORT | 1 << 6 | 1 << 8 | 0b00_1111, far: 0, hpfar: 0, spsr: EL1H };
    assert_eq!(decode_fault(&refused).map(|fault| fault.access), Ok(M::WRITE), "DC IVAC of a read-only page");
    assert_eq!(access(INSTRUCTION_ABORT, EL1H), M::EXECUTE);
    assert_eq!(access(INSTRUCTION_ABORT, 0), M::EXECUTE | M::USER);
    assert_eq!(access(INSTRUCTION_ABORT | 1 << 7, EL1H), M::READ, "the walk for a fetch reads");
}

/// Syndromes put together by hand: ISV 24, SAS 23:22, SSE 21, SRT 20:16, SF 15.
#[test]
fn a_decoded_load_or_store_says_what_it_moves() {
    const ISV: u64 = 1 << 24;
    let access = |esr| Syndrome { esr, ..Syndrome::default() }.data_access();
    let plain =
        DataAccess { width: AccessWidth::Byte, register: Some(0), sign_extend: false, sixty_four: false };
    assert_eq!(access(DATA_ABORT | ISV | 0b111), Some(plain));
    for (sas, width) in (0..4).zip(AccessWidth::ALL) {
        assert_eq!(access(DATA_ABORT | ISV | sas << 22), Some(DataAccess { width, ..plain }));
    }
    let signed = Some(DataAccess { sign_extend: true, ..plain });
    assert_eq!(access(DATA_ABORT | ISV | 1 << 21), signed);
    let sixty_four = Some(DataAccess { sixty_four: true, ..plain });
    assert_eq!(access(DATA_ABORT | ISV | 1 << 15), sixty_four);
    for srt in 0..31 {
        assert_eq!(
            access(DATA_ABORT | ISV | srt << 16),
            Some(DataAccess { register: Some(srt as u8), ..plain })
        );
    }
    assert_eq!(access(DATA_ABORT | ISV | 31 << 16), Some(DataAccess { register: None, ..plain }));
    // Acquire/release, write, 32-bit instruction, status: none of that changes it.
    let others = 1 << 14 | 1 << 6 | 1 << 25 | 0x3f;
    assert_eq!(access(DATA_ABORT | ISV | others), Some(plain));
    let not_decoded = 0xff << 16 | 1 << 15;
    for esr in [
        DATA_ABORT | not_decoded & !ISV,
        DATA_ABORT | ISV | 1 << 7,
        INSTRUCTION_ABORT | ISV,
        DATA_ABORT | 1 << 26 | ISV,
        DATA_ABORT ^ (1 << 31) | ISV,
        0,
        u64::MAX,
    ] {
        assert_eq!(access(esr), None, "{esr:#x}");
    }
}

#[test]
fn a_fault_has_the_width_that_the_syndrome_has() {
    let width = |iss| {
        let syndrome = Syndrome { esr: DATA_ABORT | 0b111 | iss, ..Syndrome::default() };
        let fault = decode_fault(&syndrome).expect("a fault");
        assert_eq!(fault.info().map(|info| info.width), Some(fault.width));
        assert_eq!(fault.with_par(0).map(|info| info.width), Some(fault.width));
        fault.width
    };
    assert_eq!(width(0b10 << 22), None);
    assert_eq!(width(1 << 24 | 0b10 << 22), Some(AccessWidth::Dword));
    assert_eq!(width(1 << 24 | 0b10 << 22 | 1 << 7), None, "a table walk");
}

#[test]
fn causes_and_other_exceptions_are_told_apart() {
    let decode = |esr| decode_fault(&Syndrome { esr, ..Syndrome::default() });
    let cause = |status| decode(DATA_ABORT | status).map(|fault| fault.cause);
    assert_eq!(cause(0b00_0000), Ok(FaultCause::AddressSize));
    assert_eq!(cause(0b00_0101), Ok(FaultCause::NotPresent));
    assert_eq!(cause(0b10_1011), Ok(FaultCause::NotPresent), "level -1");
    assert_eq!(cause(0b00_1001), Ok(FaultCause::AccessFlag));
    assert_eq!(cause(0b00_1110), Ok(FaultCause::Permission));
    for status in [0b01_0000, 0b11_0000, 0b10_0001, 0b11_1111] {
        assert_eq!(cause(status), Err(NotAStage2Fault::Status(status)));
    }
    assert_eq!(decode(0x16 << 26), Err(NotAStage2Fault::Class(0x16)));
    assert_eq!(decode(0x25 << 26 | 0b101), Err(NotAStage2Fault::Class(0x25)), "an abort of EL2 itself");
}

#[test]
fn cache_maintenance_follows_the_id_registers() {
    use CacheActions as A;
    let format = |fwb, idc, dic| Stage2::new(Features { fwb, idc, dic, ..RICH }, None).expect("in range");
    let code = CacheEvent::ToGuest(M::READ | M::EXECUTE);
    let data = CacheEvent::ToGuest(M::READ | M::WRITE);
    let back = CacheEvent::FromGuest(MemoryType::WriteBack);
    let cases = [
        (format(false, false, false), data, A::CLEAN_INVALIDATE_TO_POC),
        (format(false, false, false), code, A::CLEAN_INVALIDATE_TO_POC | A::INVALIDATE_INSTRUCTIONS),
        (format(false, true, true), code, A::CLEAN_INVALIDATE_TO_POC),
        (format(true, false, false), code, A::CLEAN_TO_POU | A::INVALIDATE_INSTRUCTIONS),
        (format(true, true, false), code, A::INVALIDATE_INSTRUCTIONS),
        (format(true, true, true), code, A::empty()),
        (format(true, true, true), data, A::empty()),
        (format(true, true, true), CacheEvent::ToGuest(M::READ | M::UNCACHED), A::CLEAN_INVALIDATE_TO_POC),
        (format(false, true, true), back, A::CLEAN_INVALIDATE_TO_POC),
        (format(true, true, true), back, A::empty()),
        (
            format(true, true, true),
            CacheEvent::FromGuest(MemoryType::NonCacheable),
            A::CLEAN_INVALIDATE_TO_POC,
        ),
    ];
    for (format, event, actions) in cases {
        assert_eq!(format.cache_actions(event), actions, "{format:?} {event:?}");
    }
}

/// D8.7 "Contiguous bit": set by accident, it makes sixteen unrelated entries one.
#[test]
fn the_contiguous_bit_is_never_set() {
    let mut leaves = 0;
    for format in formats() {
        for level in 0..=format.largest_leaf().level() {
            for flags in
                (0..=u8::MAX).filter_map(MappingFlags::from_bits).filter(|flags| flags.is_accessible())
            {
                let top = HostPhysAddr::new((1 << format.hpa_bits()) - crate::flags::level_bytes(level));
                assert_eq!(
                    (format.leaf(level, top, flags) | Stage2::OWNED) >> 52 & 1,
                    0,
                    "{flags} at level {level}"
                );
                leaves += 1;
            }
        }
        assert_eq!(format.table(HostPhysAddr::new((1 << format.hpa_bits()) - 0x1000)) >> 52 & 1, 0);
    }
    assert!(leaves > 500, "{leaves} leaves");
}

#[test]
fn each_cache_bit_of_ctr_counts_by_itself() {
    let ids = IdRegisters { mmfr0: 0x1124, mmfr1: 0, mmfr2: 0, isar0: 0, ctr: 0 };
    let of = |ctr| {
        let features = Features::from_id_registers(&IdRegisters { ctr, ..ids });
        (features.idc, features.dic)
    };
    assert_eq!(
        [0, 1 << 28, 1 << 29, 3 << 28].map(of),
        [(false, false), (true, false), (false, true), (true, true)]
    );
    assert_eq!(of(!(3 << 28)), (false, false));
}

#[test]
fn the_physical_address_size_in_vtcr_is_the_largest_that_the_cpu_has() {
    let ps = |pa_bits| {
        let features = Features { pa_bits, ..Features::BASELINE };
        Stage2::new(features, Some(32)).expect("in range").vtcr_el2() >> 16 & 7
    };
    assert_eq!([32, 36, 40, 42, 44, 48, 52].map(ps), [0, 1, 2, 3, 4, 5, 5]);
}

/// D8.16 "Using break-before-make when updating translation table entries", bit by bit.
#[test]
fn what_needs_a_break_is_the_list_of_the_manual() {
    let format = plain();
    let page = format.leaf(0, HostPhysAddr::new(0x1234_5000), M::READ | M::WRITE);
    let block = format.leaf(1, HostPhysAddr::new(0x1220_0000), M::READ | M::WRITE);
    let table = format.table(HostPhysAddr::new(0x1234_5000));
    let breaks = |level, entry: u64| -> Vec<u32> {
        (0..64).filter(|bit| format.needs_break(level, entry, entry ^ 1 << bit)).collect()
    };
    // Valid and type, MemAttr, SH, the address, Contiguous. Not: S2AP, AF, XN, what is software's.
    let leaf: Vec<u32> = [0..6, 8..10, 12..48, 52..53].into_iter().flatten().collect();
    assert_eq!(breaks(0, page), leaf);
    assert_eq!(breaks(1, block), leaf);
    let pointer: Vec<u32> = [0..2, 12..48, 52..53].into_iter().flatten().collect();
    let of_table: Vec<u32> = breaks(1, table).into_iter().filter(|bit| !(2..10).contains(bit)).collect();
    assert_eq!(of_table, pointer);
    assert!(!format.needs_break(1, table, table | 0xf << 2 | 3 << 8), "a pointer has no attributes there");
    assert!(format.needs_break(1, block, table) && format.needs_break(1, table, block));
}

#[test]
fn user_alone_wants_xnx_and_read() {
    let with = |xnx| Stage2::new(Features { xnx, ..RICH }, None).expect("in range");
    for xnx in [false, true] {
        assert!(with(xnx).check_flags(M::USER).is_err());
    }
    assert_eq!(with(true).check_flags(M::USER | M::READ), Ok(()));
}

#[test]
fn ranges_are_invalidated_at_once_where_the_cpu_can() {
    let of =
        |range_tlbi| Stage2::new(Features { range_tlbi, ..RICH }, None).expect("in range").tlb_features();
    assert_eq!([false, true].map(of), [TlbFeatures::empty(), TlbFeatures::RANGE]);
}

#[test]
fn an_instruction_is_called_as_in_the_manual() {
    use super::tlbi::Instruction::*;
    let names = [
        (DsbIshst, "dsb ishst"),
        (DsbNsh, "dsb nsh"),
        (Isb, "isb"),
        (Ipas2e1is(0), "tlbi ipas2e1is"),
        (Ripas2e1(0), "tlbi ripas2e1"),
        (Vmalls12e1is, "tlbi vmalls12e1is"),
        (Alle1, "tlbi alle1"),
    ];
    for (instruction, name) in names {
        assert_eq!(instruction.mnemonic(), name);
    }
}
