//! Accessed and dirty flags, and the log of pages that became dirty.

use super::stage::{CODE, DATA, LAZY, NOW, TABLES, Vcpu, format_of, map, stage};
use crate::arch::x86_64::bare::{Intercepts, Vmx};
use crate::arch::x86_64::unit::context::{Context, RAM};
use crate::arch::x86_64::unit::{Failure, ensure, ensure_eq, failed, guest_code};
use alloc::collections::BTreeSet;
use alloc::format;
use slat::{AllocOptions, GuestPhysAddr, LeafSize};
use slat_x86::{Exit, General, Vcpu as _};

guest_code!(mark_read_and_write, "mov rax, [rsi]", "mov [rsi + 0x1000], rax", "hlt");
// Writes RCX to the beginning of RCX pages from RSI on.
guest_code!(mark_pages, "2:", "mov [rsi], rcx", "add rsi, 0x1000", "dec rcx", "jnz 2b", "hlt");

/// Each page has the flags of what was done to it; the guest's tables count as written.
pub(super) fn accessed_dirty(context: &Context<Vmx>) -> Result<(), Failure> {
    for flags in [true, false] {
        let format = context.vendor.format_with(flags)?;
        let (mut space, state) = stage(context, format, mark_read_and_write())?;
        map(&mut space, DATA, 0x3000, RAM, NOW)?;
        // What the host itself has written to is marked already.
        for page in [CODE, TABLES, DATA] {
            super::stage::protect(&mut space, page, RAM)?;
        }
        let mut vcpu = context.vcpu(&space, &state)?;
        ensure_eq!(space.enter(&mut vcpu)?, Exit::Halt, "exit");
        let marks = |gpa| {
            let (_, entry) = super::stage::entry(context.host, &space, gpa, 0);
            (entry >> 8 & 1 == 1, entry >> 9 & 1 == 1)
        };
        ensure_eq!(marks(DATA), (flags, false), "what was read");
        ensure_eq!(marks(DATA + 0x1000), (flags, flags), "what was written");
        ensure_eq!(marks(DATA + 0x2000), (false, false), "what was not touched");
        ensure_eq!(marks(TABLES + 0x2000).0, flags, "the guest's table");
        if flags {
            ensure!(marks(TABLES + 0x2000).1, "the guest's table is not dirty");
            let query = space.query(GuestPhysAddr::new(DATA)).map_err(|error| failed("query", error))?;
            ensure_eq!((query.accessed, query.dirty), (true, false), "what slat says");
        }
    }
    Ok(())
}

/// Empties the log into `logged`: how many entries it had.
fn drain(vcpu: &mut Vcpu, logged: &mut BTreeSet<u64>) -> Result<usize, Failure> {
    let log = vcpu.drain_log().map_err(|error| failed("log", error))?;
    let length = log.len();
    for gpa in log {
        ensure!(logged.insert(gpa.as_u64()), "{gpa:#x} is in the log twice");
    }
    Ok(length)
}

/// The log fills up in front of the 513th page, whose access has not happened yet, and has each page once.
pub(super) fn log(context: &Context<Vmx>) -> Result<(), Failure> {
    const PAGES: u64 = 600;
    let (mut space, mut state) = stage(context, format_of(context)?, mark_pages())?;
    map(&mut space, DATA, PAGES << 12, RAM, LAZY)?;
    space.populate(GuestPhysAddr::new(DATA), PAGES << 12).map_err(|error| failed("populate", error))?;
    state.general.set(General::Rcx, PAGES);
    let intercepts = Intercepts { halt: true, log_modifications: true, ..Intercepts::default() };
    let mut vcpu = context.vcpu_with(&intercepts, &space, &state)?;
    let mut logged = BTreeSet::new();
    ensure_eq!(space.enter(&mut vcpu)?, Exit::ModificationLogFull, "exit");
    let stopped = vcpu.general().get(General::Rsi);
    ensure_eq!(space.word(stopped)?, 0, "the access that found the log full");
    ensure_eq!(drain(&mut vcpu, &mut logged)?, 512, "entries");
    ensure_eq!(space.enter(&mut vcpu)?, Exit::Halt, "exit");
    let rest = drain(&mut vcpu, &mut logged)?;
    ensure_eq!(drain(&mut vcpu, &mut logged)?, 0, "entries of an empty log");
    for page in 0..PAGES {
        ensure!(logged.remove(&(DATA + (page << 12))), "page {page} is not in the log");
        ensure_eq!(space.word(DATA + (page << 12))?, PAGES - page, "memory");
    }
    // The rest are tables of the guest's that were clean, and nothing else.
    let tables = TABLES..TABLES + 0x3000;
    ensure!(logged.iter().all(|gpa| tables.contains(gpa)), "{logged:x?} are in the log");
    ensure_eq!(512 + rest as u64, PAGES + logged.len() as u64, "entries");
    // Dirty already, a page is not logged again.
    vcpu.set_rip(CODE);
    vcpu.general_mut().set(General::Rsi, DATA);
    vcpu.general_mut().set(General::Rcx, 8);
    ensure_eq!(space.enter(&mut vcpu)?, Exit::Halt, "exit");
    ensure_eq!(drain(&mut vcpu, &mut logged)?, 0, "entries for dirty pages");
    Ok(())
}

/// A large leaf is logged by the page of the access.
pub(super) fn log_of_a_large_leaf(context: &Context<Vmx>) -> Result<(), Failure> {
    let (mut space, mut state) = stage(context, format_of(context)?, mark_pages())?;
    map(&mut space, DATA, 0x20_0000, RAM, AllocOptions { largest_leaf: LeafSize::Size2M, ..NOW })?;
    state.general.set(General::Rsi, DATA + 0x5678);
    state.general.set(General::Rcx, 3);
    let intercepts = Intercepts { halt: true, log_modifications: true, ..Intercepts::default() };
    let mut vcpu = context.vcpu_with(&intercepts, &space, &state)?;
    ensure_eq!(space.enter(&mut vcpu)?, Exit::Halt, "exit");
    let log = vcpu.drain_log().map_err(|error| failed("log", error))?;
    let data: BTreeSet<u64> = log.map(|gpa| gpa.as_u64()).filter(|gpa| *gpa >= DATA).collect();
    ensure!(data.iter().eq([&(DATA + 0x5000)]), "{data:x?}");
    let dirty = space.query(GuestPhysAddr::new(DATA)).map_err(|error| failed("query", error))?;
    ensure_eq!((dirty.size, dirty.dirty), (LeafSize::Size2M, true), format!("leaf"));
    Ok(())
}
