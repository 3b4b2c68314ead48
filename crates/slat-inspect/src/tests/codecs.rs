//! What slat's codecs make decodes to what it meant.

use crate::{Access, AccessKind, Cacheability, Cpu, Decoder, Entry, Format, LeafFlags, MemoryType, Register};
use slat::format::{Format as Codec, ept, gstage, npt, stage2};
use slat::{HostPhysAddr, LeafSize, MappingFlags, MemoryType as Meant};

/// Whether a decoded memory type is what was meant. AMD cannot say non-cacheable without leaving the guest its choice (UC-).
fn is_as_meant(memory: MemoryType, meant: Meant) -> bool {
    // RISC-V: the physical memory attributes decide; that memory is cached, and devices are not, is theirs to say.
    matches!(
        (memory, memory.cacheability(), meant),
        (_, Cacheability::Cacheable, Meant::WriteBack)
            | (_, Cacheability::Device, Meant::Device | Meant::StronglyOrdered)
            | (_, Cacheability::Uncached, Meant::NonCacheable)
            | (MemoryType::Pat { .. }, Cacheability::Device, Meant::NonCacheable)
            | (MemoryType::Pbmt(_), Cacheability::Elsewhere, _)
    )
}

/// All leaves, table pointers and roots that a codec makes, as this decoder sees them. How many leaves were compared.
fn compare<C: Codec>(codec: &C, decoder: &Decoder, register: impl Fn(u64) -> Register) -> u32 {
    let mut leaves = 0;
    for level in 0..=codec.largest_leaf().level() {
        let size = LeafSize::from_level(level).unwrap().bytes();
        let hpa = (1u64 << (codec.hpa_bits().min(48) - 1)) | (5 * size);
        for bits in 0..64u8 {
            let flags = MappingFlags::from_bits_truncate(bits);
            if flags.permissions().is_empty() || codec.check_flags(flags).is_err() {
                continue;
            }
            let raw = codec.leaf(level, HostPhysAddr::new(hpa), flags);
            if codec.kind(level, raw) == slat::format::Kind::Absent {
                continue; // permissions that this CPU knows nothing of
            }
            let Entry::Leaf(leaf) = decoder.decode(level, raw) else {
                panic!("{flags:?} at level {level}: {raw:#x} is {:?}", decoder.decode(level, raw));
            };
            assert_eq!((leaf.address, leaf.size), (hpa, size), "{flags:?} at level {level}: {raw:#x}");
            assert!(
                is_as_meant(leaf.memory, flags.memory_type()),
                "{flags:?}: {raw:#x} is {:?}",
                leaf.memory
            );
            let user_fetch =
                if codec.separates_user_execute() { MappingFlags::USER } else { MappingFlags::EXECUTE };
            let marks = leaf.flags | LeafFlags::ACCESSED | LeafFlags::DIRTY;
            for (kind, user, needed) in [
                (AccessKind::Read, false, MappingFlags::READ),
                (AccessKind::Write, true, MappingFlags::WRITE),
                (AccessKind::Execute, false, MappingFlags::EXECUTE),
                (AccessKind::Execute, true, user_fetch),
            ] {
                let passes = decoder.check(leaf.permissions, marks, Access { kind, user }).is_ok();
                assert_eq!(passes, flags.contains(needed), "{kind:?} (user: {user}), {flags:?}: {raw:#x}");
            }
            leaves += 1;
        }
    }
    let hpa = 1u64 << (codec.hpa_bits().min(48) - 1) | 0x7_0000;
    for level in 1..codec.geometry().levels {
        let raw = codec.table(HostPhysAddr::new(hpa));
        let Entry::Table(table) = decoder.decode(level, raw) else { panic!("{raw:#x} at level {level}") };
        assert_eq!(table.address, hpa);
        assert!(table.permissions.bits() & 15 == 15, "{raw:#x}");
    }
    let root = register(codec.root_register(HostPhysAddr::new(hpa), 3)).root().unwrap();
    assert_eq!((root.table(), root.level()), (hpa, codec.geometry().root_level()));
    assert_eq!(root.input_bits(), codec.geometry().gpa_bits);
    leaves
}

#[test]
fn ept() {
    for (levels, mode_based_execute) in [(4, false), (4, true), (5, false), (5, true)] {
        let capabilities = ept::Capabilities {
            ept_vpid_cap: 0x0f01_0633_41c1,
            physical_bits: 46,
            mode_based_execute,
            accessed_dirty: true,
        };
        let codec = ept::Ept::new(capabilities, levels).unwrap();
        let cpu = Cpu { physical_bits: 46, mode_based_execute, ..Cpu::permissive(Format::Ept) };
        assert!(compare(&codec, &Decoder::new(Format::Ept, cpu), Register::Eptp) > 60);
    }
}

#[test]
fn npt() {
    for levels in [4, 5] {
        let capabilities = npt::Capabilities {
            physical_bits: 48,
            leaf_1g: true,
            no_execute: true,
            asids: 100,
            accessed_dirty: true,
        };
        let codec = npt::Npt::new(capabilities, levels).unwrap();
        let cpu = Cpu { physical_bits: 48, ..Cpu::permissive(Format::Npt) };
        let register = |ncr3| Register::Ncr3 { ncr3, la57: levels == 5 };
        assert!(compare(&codec, &Decoder::new(Format::Npt, cpu), register) > 40);
    }
}

#[test]
fn stage2() {
    for (fwb, xnx, bits) in [(false, false, 40), (false, true, 39), (true, false, 36), (true, true, 44)] {
        let features = stage2::Features { pa_bits: 48, fwb, xnx, ..stage2::Features::BASELINE };
        let codec = stage2::Stage2::new(features, Some(bits)).unwrap();
        let mut cpu = Cpu { force_write_back: fwb, ..Cpu::permissive(Format::Stage2) };
        cpu.execute_never_per_level = xnx;
        let vtcr = codec.vtcr_el2();
        let register = |vttbr| Register::Stage2 { vttbr, vtcr };
        register(0).apply_to(&mut cpu);
        assert!(compare(&codec, &Decoder::new(Format::Stage2, cpu), register) > 40);
    }
}

#[test]
fn gstage() {
    for (mode, format) in [
        (gstage::Mode::Sv39x4, Format::Sv39x4),
        (gstage::Mode::Sv48x4, Format::Sv48x4),
        (gstage::Mode::Sv57x4, Format::Sv57x4),
    ] {
        for svpbmt in [false, true] {
            let mut capabilities =
                gstage::Capabilities { modes: mode.only(), vmid_bits: 14, ..gstage::Capabilities::BASELINE };
            if svpbmt {
                capabilities.extensions |= gstage::Extensions::SVPBMT;
            }
            let codec = gstage::Gstage::new(mode, capabilities).unwrap();
            let cpu = Cpu { svpbmt, svnapot: false, svrsw60t59b: false, ..Cpu::permissive(format) };
            assert!(compare(&codec, &Decoder::new(format, cpu), Register::Hgatp) > 20);
        }
    }
}
