//! Probes from HS-mode: what a hart still uses after a change, with and without its fence.

use super::bench::{Bench, Fencing, POISON, RAM, Space, ensure, ensure_eq, fence};
use super::guest::{LOAD, Loaded, STORE, decoded, read, write};
use super::{Failure, UnitGuest, failed};
use slat::format::gstage::{Fence, Trap};
use slat::{GuestPhysAddr, LeafSize, MappingFlags, PAGE_SIZE};

/// Where the page lies that changes.
pub(super) const TARGET: u64 = 0x8020_0000;
/// Pages that are mapped from there on.
pub(super) const PAGES: u64 = 8;
/// What is in it.
const VALUE: u64 = 0x0123_4567_89ab_cdef;

const READ_ONLY: MappingFlags = MappingFlags::READ.union(MappingFlags::EXECUTE).union(MappingFlags::USER);

pub(super) const GUESTS: &[UnitGuest] = &[
    UnitGuest { name: "hlv-move", run: |bench| moved(bench, Fencing::Right) },
    UnitGuest { name: "hlv-move-without-fence", run: |bench| moved(bench, Fencing::None) },
    UnitGuest { name: "hlv-unmap", run: |bench| unmapped(bench, Fencing::Right) },
    UnitGuest { name: "hlv-unmap-without-fence", run: |bench| unmapped(bench, Fencing::None) },
    UnitGuest { name: "hlv-protect", run: |bench| protected(bench, Fencing::Right) },
    UnitGuest { name: "hlv-protect-without-fence", run: |bench| protected(bench, Fencing::None) },
    UnitGuest { name: "hlv-protect-several", run: several_protected },
    UnitGuest { name: "hlv-retired-table", run: |bench| retired(bench, Fencing::Right) },
    UnitGuest { name: "hlv-retired-table-without-fence", run: |bench| retired(bench, Fencing::None) },
    // QEMU drops everything at an address, too: what this leaves behind only the model sees.
    UnitGuest { name: "hlv-retired-table-by-address", run: |bench| retired(bench, Fencing::ByAddress) },
    UnitGuest { name: "hlv-split-and-collapse", run: split_and_collapse },
    UnitGuest { name: "hlv-populate-and-relax", run: populated_and_relaxed },
];

/// A space with pages at the target, whose first word is [`VALUE`].
pub(super) fn scene(bench: &Bench) -> Result<Space, Failure> {
    let mut space = bench.space()?;
    space.map(TARGET, PAGES * PAGE_SIZE, RAM)?;
    space.set_word(TARGET, VALUE)?;
    Ok(space)
}

/// The value, which has to be there.
fn value(found: Result<u64, Trap>) -> Result<u64, Failure> {
    found.map_err(|trap| alloc::format!("{trap:x?}"))
}

/// The fault that a probe has to end in, at the target.
fn refused<T>(found: Result<T, Trap>, scause: u64) -> Result<(), Failure> {
    let Err(trap) = found else { return Err("there is no fault".into()) };
    ensure_eq!(trap.scause, scause, "scause");
    let info = decoded(&trap)?;
    ensure_eq!((info.gpa.as_u64(), info.walk), (TARGET, false), "the fault");
    Ok(())
}

/// The page moves, and its old frame is poisoned.
fn moved(bench: &Bench, fencing: Fencing) -> Result<(), Failure> {
    let mut space = scene(bench)?;
    let loaded = Loaded::new(&space);
    ensure_eq!(value(read(TARGET))?, VALUE, "before");
    bench.set_fencing(fencing);
    space.move_page(TARGET)?;
    bench.set_fencing(Fencing::Right);
    let expected = if fencing == Fencing::Right { VALUE } else { POISON };
    ensure_eq!(value(read(TARGET))?, expected, "after");
    // And with a fence it is always right.
    fence(Fence { address: Some(TARGET >> 2), vmid: Some(space.tag()) });
    ensure_eq!(value(read(TARGET))?, VALUE, "after a fence");
    drop(loaded);
    Ok(())
}

/// The page goes, and its frame is poisoned.
fn unmapped(bench: &Bench, fencing: Fencing) -> Result<(), Failure> {
    let mut space = scene(bench)?;
    let loaded = Loaded::new(&space);
    ensure_eq!(value(read(TARGET))?, VALUE, "before");
    bench.set_fencing(fencing);
    space.unmap_page(TARGET)?;
    bench.set_fencing(Fencing::Right);
    if fencing == Fencing::Right {
        refused(read(TARGET), LOAD)?;
        refused(write(TARGET, 0), STORE)?;
    } else {
        ensure_eq!(value(read(TARGET))?, POISON, "after");
    }
    drop(loaded);
    Ok(())
}

/// The page becomes read-only.
fn protected(bench: &Bench, fencing: Fencing) -> Result<(), Failure> {
    let mut space = scene(bench)?;
    let loaded = Loaded::new(&space);
    ensure!(write(TARGET, VALUE + 1).is_ok(), "the page cannot be written to");
    bench.set_fencing(fencing);
    space.protect_page(TARGET, READ_ONLY)?;
    bench.set_fencing(Fencing::Right);
    let written = write(TARGET, VALUE + 2);
    let expected = if fencing == Fencing::Right {
        refused(written, STORE)?;
        VALUE + 1
    } else {
        ensure!(written.is_ok(), "there is a fault although nobody has fenced");
        VALUE + 2
    };
    ensure_eq!(value(read(TARGET))?, expected, "what is there");
    ensure_eq!(space.word(TARGET)?, expected, "what the host finds");
    drop(loaded);
    Ok(())
}

/// Several pages become read-only at once: few enough for a fence each, which Svinval orders all at once.
fn several_protected(bench: &Bench) -> Result<(), Failure> {
    let mut space = scene(bench)?;
    let loaded = Loaded::new(&space);
    let pages = || (0..PAGES / 2).map(|page| TARGET + page * PAGE_SIZE);
    for page in pages() {
        ensure!(write(page, VALUE).is_ok(), "the page cannot be written to");
    }
    space
        .protect(GuestPhysAddr::new(TARGET), PAGES / 2 * PAGE_SIZE, READ_ONLY)
        .map_err(|error| failed("protect", error))?;
    for page in pages() {
        ensure_eq!(value(read(page))?, VALUE, "what is there");
        ensure_eq!(write(page, 0).err().map(|trap| trap.scause), Some(STORE), "scause");
    }
    drop(loaded);
    Ok(())
}

/// All that a table maps goes, and the table with it.
fn retired(bench: &Bench, fencing: Fencing) -> Result<(), Failure> {
    let mut space = scene(bench)?;
    let loaded = Loaded::new(&space);
    ensure_eq!(value(read(TARGET))?, VALUE, "before");
    let tables = space.stats().table.table_frames;
    bench.set_fencing(fencing);
    space.unmap(GuestPhysAddr::new(TARGET), PAGES * PAGE_SIZE).map_err(|error| failed("unmap", error))?;
    bench.set_fencing(Fencing::Right);
    ensure!(space.stats().table.table_frames < tables, "no table was retired");
    match fencing {
        Fencing::None => ensure_eq!(value(read(TARGET))?, POISON, "after"),
        _ => refused(read(TARGET), LOAD)?,
    }
    drop(loaded);
    Ok(())
}

/// A large leaf is split, changed in one page, and put together again.
fn split_and_collapse(bench: &Bench) -> Result<(), Failure> {
    const SIZE: u64 = 2 << 20;
    const FAR: u64 = TARGET + 300 * PAGE_SIZE;
    let mut space = bench.space()?;
    space.map_in(TARGET, SIZE, RAM, LeafSize::Size2M)?;
    space.set_word(TARGET, VALUE)?;
    space.set_word(FAR, VALUE)?;
    let loaded = Loaded::new(&space);
    for round in 0..3 {
        ensure!(write(FAR, round).is_ok(), "the page cannot be written to");
        space.protect_page(FAR, READ_ONLY)?;
        ensure!(write(FAR, 99).is_err(), "the page can be written to");
        ensure_eq!(value(read(FAR))?, round, "what is there");
        ensure_eq!(value(read(TARGET))?, VALUE, "what is in the rest");
        space.protect_page(FAR, RAM)?;
        let leaves = space.collapse(GuestPhysAddr::new(TARGET), SIZE);
        ensure_eq!(leaves.map_err(|error| failed("collapse", error))?, 1, "leaves put together");
        // In another frame of 2 MiB, if the library took one.
        ensure_eq!((value(read(FAR))?, value(read(TARGET))?), (round, VALUE), "what is there");
    }
    drop(loaded);
    Ok(())
}

/// What is mapped anew, and what is allowed anew, is there at once or after the answer to the fault.
fn populated_and_relaxed(bench: &Bench) -> Result<(), Failure> {
    let mut space = bench.space()?;
    let options = slat::AllocOptions { populate: false, ..slat::AllocOptions::default() };
    space
        .map_alloc_with(GuestPhysAddr::new(TARGET), PAGES * PAGE_SIZE, READ_ONLY, options)
        .map_err(|error| failed("map_alloc", error))?;
    let loaded = Loaded::new(&space);
    for page in 0..PAGES {
        let gpa = TARGET + page * PAGE_SIZE;
        let Err(trap) = read(gpa) else { return Err("the page is there before its time".into()) };
        let info = decoded(&trap)?;
        ensure_eq!(info.gpa.as_u64(), gpa, "the fault");
        let outcome = space.handle_nested_fault(&info);
        ensure!(outcome.is_ok(), "{outcome:?}");
        ensure_eq!(value(read(gpa))?, 0, "a fresh page");
        ensure!(write(gpa, VALUE).is_err(), "a read-only page can be written to");
        space.protect_page(gpa, RAM)?;
        ensure!(write(gpa, VALUE).is_ok(), "the page still is read-only");
        ensure_eq!(space.word(gpa)?, VALUE, "what the host finds");
    }
    drop(loaded);
    Ok(())
}
