//! What the monitor prints is what `slat-inspect` prints for a dump of the same memory, in every format.

use super::*;
use crate::monitor::Answer;
use crate::pool::Pool;
use crate::pool::tests::{Nothing, pool};
use slat::format::ept::{self, Ept};
use slat::format::gstage::{self, Gstage, Mode};
use slat::format::npt::{self, Npt};
use slat::format::stage2::{Features, Stage2};
use slat::{AllocOptions, LeafSize};
use slat_inspect::{Register, Words};
use std::format;
use std::vec::Vec;

const RAM: MappingFlags =
    MappingFlags::READ.union(MappingFlags::WRITE).union(MappingFlags::EXECUTE).union(MappingFlags::USER);

/// A space with pages, a large leaf, a device and a hole.
fn space<F: Format>(pool: &Pool<Nothing>, format: F) -> AddrSpace<&Pool<Nothing>, F> {
    let size = 1 << format.geometry().gpa_bits.min(40);
    let mut space = AddrSpace::with_format(pool, format, GuestPhysAddr::new(0), size, 0).expect("a root");
    let gpa = GuestPhysAddr::new;
    let pages = AllocOptions { largest_leaf: LeafSize::Size4K, ..AllocOptions::default() };
    space.map_alloc_with(gpa(0x8000_0000), 2 << 20, RAM, pages).expect("RAM");
    space.populate(gpa(0x8000_1000), 0x3000).expect("pages");
    let large = AllocOptions { populate: true, ..AllocOptions::default() };
    space.map_alloc_with(gpa(0xc000_0000), 4 << 20, RAM, large).expect("more RAM");
    let device = MappingFlags::READ | MappingFlags::WRITE | MappingFlags::DEVICE;
    space.map_linear(gpa(0x1000_0000), HostPhysAddr::new(0x1000_0000), 0x4000, device).expect("a device");
    space
}

/// Frames of the test's pool, which is aligned to its size.
const FRAMES: usize = 4096;

/// Whether the monitor of a space in `format` prints what the tool does that is given its root register and a copy of the memory.
fn agrees<F: Format>(format: F, register: impl Fn(u64) -> Register) {
    let pool = &pool(FRAMES, false);
    let space = space(pool, format);
    let size = FRAMES as u64 * 4096;
    let base = space.root().as_u64() & !(size - 1);
    let words: Vec<u64> = (0..size / 8).map_while(|index| pool.word(base + 8 * index)).collect();
    assert_eq!(words.len() as u64, size / 8);
    let dump = Words { base, words: &words };
    let register = register(space.root_register());
    let root = register.root().expect("the register is one");
    let tables = tables(&space).expect("the root is one");
    assert_eq!(*tables.root(), root, "what the space says and what its register says");
    let mut cpu = Cpu::permissive(root.format());
    register.apply_to(&mut cpu);
    cpu.force_write_back = tables.decoder().cpu().force_write_back;
    let tool = Tables::new(root, cpu);
    let mut lines = 0;
    let addresses =
        [0, 0x1000_0000, 0x1000_4000, 0x8000_0000, 0x8000_1008, 0xc020_0ff8, 0xffff_ffff, u64::MAX];
    for gpa in addresses {
        let text = Answer::of(|out| write_query(&space, GuestPhysAddr::new(gpa), out));
        assert_eq!(text, format!("{}\n", tool.walk(&dump, gpa)), "{gpa:#x}");
        lines += text.lines().count();
    }
    assert!(lines > 2 * addresses.len(), "{lines} lines");
    let mapped = Answer::of(|out| write_query(&space, GuestPhysAddr::new(0x8000_1008), out));
    let hpa = space.translate(GuestPhysAddr::new(0x8000_1008)).expect("it is there");
    assert!(mapped.contains(&format!("-> {hpa:#x} rwx")), "{mapped}");
    let text = Answer::of(|out| write_tables(&space, out));
    assert!(text.contains("0x0000000080001000-"), "{text}");
    assert!(text.contains(&format!("root table at {:#x}", space.root())), "{text}");
    assert!(!text.contains("malformed") && !text.contains("not in the memory"), "{text}");
    drop(space);
}

#[test]
fn ept() {
    let capabilities = ept::Capabilities {
        // Write-back tables, 2 MiB leaves, accessed and dirty marks, INVEPT of both kinds.
        ept_vpid_cap: 1 << 6 | 1 << 14 | 1 << 16 | 1 << 20 | 1 << 21 | 1 << 25 | 1 << 26,
        physical_bits: 48,
        mode_based_execute: false,
        accessed_dirty: true,
    };
    agrees(Ept::new(capabilities, 4).expect("a format"), Register::Eptp);
}

#[test]
fn npt() {
    let capabilities = npt::Capabilities {
        physical_bits: 48,
        leaf_1g: false,
        no_execute: true,
        asids: 16,
        accessed_dirty: false,
    };
    let format = Npt::new(capabilities, 4).expect("a format");
    agrees(format, |ncr3| Register::Ncr3 { ncr3, la57: false });
}

#[test]
fn stage_2() {
    for (fwb, bits) in [(false, 40), (true, 44), (false, 32)] {
        let features = Features { pa_bits: 48, fwb, ..Features::BASELINE };
        let format = Stage2::new(features, Some(bits)).expect("a format");
        let vtcr = format.vtcr_el2();
        agrees(format, |vttbr| Register::Stage2 { vttbr, vtcr });
    }
}

#[test]
fn gstage() {
    let capabilities = gstage::Capabilities { modes: gstage::Modes::all(), ..gstage::Capabilities::BASELINE };
    for mode in Mode::ALL {
        agrees(Gstage::new(mode, capabilities).expect("a mode"), Register::Hgatp);
    }
}

#[test]
fn a_long_dump_is_cut_off() {
    let pool = &pool(FRAMES, false);
    let space =
        space(pool, Stage2::new(Features { pa_bits: 48, ..Features::BASELINE }, Some(40)).expect("a format"));
    let whole = Answer::of(|out| write_tables(&space, out));
    let mut room = whole.len() - 1;
    let text = Answer::of(|out| write_tables(&space, &mut Short(out, &mut room)));
    assert!(text.ends_with("...\n") && whole.starts_with(text.trim_end_matches("...\n")), "{text}");
}

/// A text with little room.
struct Short<'t>(&'t mut dyn fmt::Write, &'t mut usize);

impl fmt::Write for Short<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        *self.1 = self.1.checked_sub(text.len()).ok_or(fmt::Error)?;
        self.0.write_str(text)
    }
}
