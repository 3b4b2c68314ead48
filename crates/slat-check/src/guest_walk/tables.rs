//! The memory of a guest whose tables are walked, and what is in it.
//!
//! A page for everything that a pointer of a guest's can hit. Tables lie in the first ten; each of them can be a table of any
//! level, also of itself. Only the entries that the walk for one address can come to are filled.

use super::page;
use super::state::State;
use crate::host::Host;
use crate::platform::Platform;
use crate::random::Random;
use slat::device::DeviceId;
use slat::{AddrSpace, HostPhysAddr, MappingFlags, PAGE_SIZE};

/// Pages with tables, the first of all; the last two of them are read-only at the second level.
const TABLES: u64 = 10;
const READ_ONLY: u64 = 8;
/// The table that the guest has only read, where that is told.
const UNWRITTEN: u64 = 7;
const LAZY: u64 = 10;
/// Nothing is mapped in pages 12 and 13.
const TRAP: u64 = 14;
const LINEAR: u64 = 16;
const DATA: u64 = 17;
/// Pages of the space.
const PAGES: u64 = 24;

/// The memory of a guest.
pub(super) struct Memory<'h, P: Platform> {
    host: &'h Host<P>,
    pub(super) space: AddrSpace<&'h Host<P>, P>,
}

impl<'h, P: Platform> Memory<'h, P> {
    pub(super) fn new(host: &'h Host<P>) -> Result<Self, String> {
        let (read, write, execute) = (MappingFlags::READ, MappingFlags::WRITE, MappingFlags::EXECUTE);
        let all = MappingFlags::PERMISSIONS;
        let failed = |error: &dyn std::error::Error| error.to_string();
        let mut space = AddrSpace::with_format(host, *host.platform(), page(0), PAGES * PAGE_SIZE, 1)
            .map_err(|error| failed(&error))?;
        // Pages of data differ in what the second level allows; the last ones are not there at all.
        let mut regions = vec![(0, READ_ONLY, all, true), (READ_ONLY, 2, read, true), (LAZY, 2, all, false)];
        let kinds = [read | write, read, read | execute, execute, read | execute | MappingFlags::USER];
        for (n, flags) in (DATA..).zip(kinds) {
            let flags = if host.platform().check_flags(flags).is_ok() { flags } else { read };
            regions.push((n, 1, flags, true));
        }
        for (first, count, flags, populate) in regions {
            space
                .map_alloc(page(first), count * PAGE_SIZE, flags, populate)
                .map_err(|error| failed(&error))?;
        }
        space.map_trap(page(TRAP), 2 * PAGE_SIZE, DeviceId(1)).map_err(|error| failed(&error))?;
        let elsewhere = HostPhysAddr::new(0x20_0000_0000);
        space.map_linear(page(LINEAR), elsewhere, PAGE_SIZE, all).map_err(|error| failed(&error))?;
        let memory = Self { host, space };
        if host.platform().marks_by_fault() {
            memory.leave_marks();
        }
        Ok(memory)
    }

    /// As a guest that has used its pages by faults: written where it may, but for one table and one page of data.
    fn leave_marks(&self) {
        let (read, write, execute) = (MappingFlags::READ, MappingFlags::WRITE, MappingFlags::EXECUTE);
        for n in (0..PAGES).filter(|n| self.space.translate(page(*n)).is_some()) {
            let unwritten = n == UNWRITTEN || n == DATA;
            let accesses = if unwritten { &[read][..] } else { &[write, read, execute] };
            let _ = accesses.iter().find(|access| self.space.handle_page_fault(page(n), **access).is_ok());
        }
    }

    pub(super) fn is_trap(&self, gpa: u64) -> bool {
        (TRAP..TRAP + 2).contains(&(gpa / PAGE_SIZE))
    }

    pub(super) fn is_linear(&self, gpa: u64) -> bool {
        gpa / PAGE_SIZE == LINEAR
    }

    fn hpa(&self, gpa: u64) -> Option<u64> {
        self.space.translate(slat::GuestPhysAddr::new(gpa)).map(HostPhysAddr::as_u64)
    }

    pub(super) fn read(&self, gpa: u64) -> Option<u64> {
        self.host.ram().read(self.hpa(gpa)?)
    }

    /// Fills every entry that a walk for `gva` can come to. Returns the words that hold them, with their values.
    pub(super) fn fill(&self, state: &State, gva: u64, random: &mut Random) -> Vec<(u64, u64)> {
        let mut words = Vec::with_capacity(64);
        let (short, places) = places(state, gva);
        // Rows of one kind: hostile ones are rare enough that many walks get to their end.
        let hostile = random.choose(&[0, 16, 64]);
        for table in 0..TABLES {
            for &(level, offset) in &places {
                let Some(hpa) = self.hpa(table * PAGE_SIZE + offset) else { continue };
                let entry = random_entry(state, level, hostile, random);
                let (hpa, value) = if short {
                    let (word, shift) = (hpa & !7, 8 * (hpa & 4));
                    let other = self.host.ram().read(word).unwrap_or(0) & !(0xffff_ffff << shift);
                    (word, other | (entry & 0xffff_ffff) << shift)
                } else {
                    (hpa, entry)
                };
                assert!(self.host.ram().write(hpa, value), "guest memory is RAM");
                words.retain(|&(other, _)| other != hpa);
                words.push((hpa, value));
            }
        }
        words
    }
}

/// Where entries for an address stand in a table: the level, and the offset in a page. Whether they have 4 bytes.
fn places(state: &State, gva: u64) -> (bool, Vec<(u8, u64)>) {
    let long = (0..5_u8).map(|level| (level, (gva >> (12 + 9 * u32::from(level)) & 0x1ff) * 8));
    let mut places: Vec<_> = long.collect();
    match *state {
        State::X86 { cr4, .. } if cr4 >> 5 & 1 == 0 => {
            return (true, vec![(0, (gva >> 12 & 0x3ff) * 4), (1, (gva >> 22 & 0x3ff) * 4)]);
        }
        State::X86 { cr3, efer, .. } if efer >> 10 & 1 == 0 => {
            // PDPTEs, of which the CPU may hold all four.
            places.truncate(2);
            places.extend((0..4).map(|n| (2, (cr3 & 0xfe0) + 8 * n)));
        }
        State::Arm { tcr, .. } => {
            // The first table may be smaller than a page.
            let size = if gva >> 55 & 1 == 1 { tcr >> 16 & 0x3f } else { tcr & 0x3f };
            let width = 64 - size as u32;
            if let level @ 0..=3 = width.saturating_sub(13) / 9 {
                let shift = 12 + 9 * level;
                let mask = (1_u64 << width.saturating_sub(shift).min(9)) - 1;
                places.push((level as u8, (gva >> shift & mask) * 8));
            }
        }
        _ => {}
    }
    (false, places)
}

/// An address that is translated in this mode, mostly, and whose large pages begin at 0.
pub(super) fn random_address(state: &State, random: &mut Random) -> u64 {
    let width = match *state {
        State::X86 { cr0, cr4, efer, .. } => {
            match (cr0 >> 31 & 1, cr4 >> 5 & 1, efer >> 10 & 1, cr4 >> 12 & 1) {
                (1, 1, 1, 1) => 57,
                (1, 1, 1, _) => 48,
                // Without paging or with 32 bits nothing is above.
                _ => return small_page(random.number() & 0xffff_ffff, random),
            }
        }
        State::Arm { tcr, .. } => 64 - (tcr & 0x3f) as u32,
        State::Riscv { vsatp, .. } => 12 + 9 * (vsatp >> 60).clamp(8, 10) as u32 - 45,
    };
    let width = width.clamp(16, 57);
    let low = small_page(random.number() << 7 & ((1 << width) - 1), random);
    let half = random.one_in(2);
    let mut address = match *state {
        State::Arm { tcr, .. } if half => {
            let width = (64 - (tcr >> 16 & 0x3f) as u32).clamp(16, 57);
            u64::MAX << width | low & ((1 << width) - 1)
        }
        State::Arm { .. } => low,
        _ => (low << (64 - width)).cast_signed_shift(64 - width),
    };
    if random.one_in(16) {
        address ^= 1 << (width + random.below(u64::from(64 - width)) as u32).min(63);
    }
    if matches!(state, State::Arm { .. }) && random.one_in(8) {
        address ^= random.below(256) << 56;
    }
    address
}

trait SignExtend {
    fn cast_signed_shift(self, bits: u32) -> u64;
}

impl SignExtend for u64 {
    /// An arithmetic shift to the right.
    fn cast_signed_shift(self, bits: u32) -> u64 {
        ((self as i64) >> bits) as u64
    }
}

/// Mostly, the lower bits of an address name a page of the guest's memory.
fn small_page(address: u64, random: &mut Random) -> u64 {
    let offset = random.below(PAGE_SIZE);
    let kept = random.choose(&[12, 21, 22, 30, 39]);
    if random.one_in(4) {
        return address;
    }
    address >> kept << kept | if kept > 12 { random.below(PAGES) << 12 } else { 0 } | offset
}

/// Once in how many entries something strange is in it; 0: never.
fn strange(hostile: u64, random: &mut Random) -> bool {
    hostile != 0 && random.one_in(hostile)
}

fn random_entry(state: &State, level: u8, hostile: u64, random: &mut Random) -> u64 {
    // Pointers go to tables, leaves anywhere, and either to what it should not now and then.
    let pointer = level > 0 && !(level <= 2 && random.one_in(4));
    let target = match (pointer, strange(hostile, random)) {
        (_, true) => random.below(PAGES),
        (true, false) => random.below(READ_ONLY),
        (false, false) if level > 0 => 0,
        (false, false) => match random.below(3) {
            0 => random.below(READ_ONLY),
            1 => DATA + random.below(6),
            _ => random.below(PAGES),
        },
    };
    let mut entry = match state {
        State::X86 { .. } => x86_entry(level, pointer, target << 12, random),
        State::Arm { .. } => arm_entry(level, pointer, target << 12, random),
        State::Riscv { .. } => riscv_entry(pointer, target << 12, random),
    };
    if strange(hostile, random) {
        entry ^= 1 << random.below(64);
    }
    if strange(4 * hostile, random) {
        entry = random.number() << 7 ^ random.number();
    }
    entry
}

fn x86_entry(level: u8, pointer: bool, address: u64, random: &mut Random) -> u64 {
    let mut entry = address | 1;
    // R/W, U/S, A, D, G, XD.
    for (bit, often) in [(1, 6), (2, 6), (5, 4), (6, 4), (8, 4)] {
        entry |= u64::from(random.below(8) < often) << bit;
    }
    entry |= u64::from(random.one_in(10)) << 63;
    entry | u64::from(!pointer && level > 0) << 7
}

fn arm_entry(level: u8, pointer: bool, address: u64, random: &mut Random) -> u64 {
    let mut entry = address | if pointer || level == 0 { 3 } else { 1 };
    if pointer {
        // APTable, UXNTable, PXNTable.
        for bit in 59..63 {
            entry |= u64::from(random.one_in(10)) << bit;
        }
        return entry;
    }
    for (bit, often) in [(6, 4), (7, 4), (10, 6), (11, 4), (51, 4), (53, 3), (54, 3)] {
        entry |= u64::from(random.below(8) < often) << bit;
    }
    entry
}

fn riscv_entry(pointer: bool, address: u64, random: &mut Random) -> u64 {
    let mut entry = address >> 2 | 1;
    if pointer {
        return entry | u64::from(random.one_in(8)) << 5;
    }
    // R is mostly there, W never without it.
    entry |= random.choose(&[1, 3, 3, 7, 7, 7, 4, 4, 5]) << 1;
    for (bit, often) in [(4, 4), (6, 6), (7, 6)] {
        entry |= u64::from(random.below(8) < often) << bit;
    }
    match random.below(24) {
        0 => entry | random.below(4) << 61,
        // 64 KiB from 0 on.
        1 => entry & !(0xfff_ffff << 10) | 8 << 10 | 1 << 63,
        _ => entry,
    }
}
