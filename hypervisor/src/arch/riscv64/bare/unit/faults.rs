//! Guest-page faults, as the hart reports them and the library decodes them: every access, the walks of the guest's own tables, wide
//! and unaligned addresses.

use super::bench::{Bench, RAM, Space, ensure, ensure_eq};
use super::code::guest_code;
use super::guest::{CALL, FETCH, Guest, LOAD, Loaded, STORE, decoded, read};
use super::{Failure, UnitGuest};
use slat::format::gstage::{Mode, Trap};
use slat::{FaultError, GuestPhysAddr, MappingFlags, NestedPageFaultInfo, PAGE_SIZE};

/// Where the code lies, and a page of data behind it.
const CODE: u64 = 0x8000_0000;
const DATA: u64 = CODE + PAGE_SIZE;
/// The guest's own tables, Sv39: three pages.
const TABLES: u64 = 0x8010_0000;
/// Nothing lies here.
const HOLE: u64 = 0x9000_0000;

const READ: MappingFlags = MappingFlags::READ;
const WRITE: MappingFlags = MappingFlags::WRITE;
const EXECUTE: MappingFlags = MappingFlags::EXECUTE;

/// vsatp.MODE Sv39.
const SV39: u64 = 8 << 60;

pub(super) const GUESTS: &[UnitGuest] = &[
    UnitGuest { name: "fault-read", run: |bench| data(bench, load_8(), LOAD, READ) },
    UnitGuest { name: "fault-write", run: |bench| data(bench, store_8(), STORE, WRITE) },
    UnitGuest { name: "fault-atomic", run: |bench| data(bench, add_8(), STORE, WRITE) },
    UnitGuest { name: "fault-load-reserved", run: |bench| data(bench, load_reserved(), LOAD, READ) },
    UnitGuest { name: "fault-fetch", run: fetched },
    UnitGuest { name: "fault-read-only", run: read_only },
    UnitGuest { name: "fault-execute-only", run: execute_only },
    UnitGuest { name: "fault-misaligned", run: misaligned },
    UnitGuest { name: "fault-in-tables", run: in_tables },
    UnitGuest { name: "fault-read-only-tables", run: read_only_tables },
    UnitGuest { name: "fault-behind-tables", run: behind_tables },
    UnitGuest { name: "fault-wide-addresses", run: wide },
];

// a0 is the address, a1 a value.
guest_code!(load_8, "ld a2, (a0)", "ecall");
guest_code!(store_8, "sd a1, (a0)", "ecall");
guest_code!(add_8, ".option arch, +a", "amoadd.d a2, a1, (a0)", "ecall");
guest_code!(load_reserved, ".option arch, +a", "lr.d a2, (a0)", "ecall");
guest_code!(jump, "jr a0");
// a0 is the address, a1 vsatp.
guest_code!(load_by_tables, "csrw satp, a1", "sfence.vma", "ld a2, (a0)", "ecall");
guest_code!(store_by_tables, "csrw satp, a1", "sfence.vma", "sd a1, (a0)", "ecall");
guest_code!(jump_by_tables, "csrw satp, a1", "sfence.vma", "jr a0");

/// A space with code, a page of data and room for tables.
pub(super) fn scene(bench: &Bench, code: &[u8]) -> Result<Space, Failure> {
    let mut space = bench.space()?;
    space.map(CODE, 2 * PAGE_SIZE, RAM)?;
    space.map(TABLES, 3 * PAGE_SIZE, RAM)?;
    space.load(CODE, code)?;
    Ok(space)
}

/// The fault to which the guest has to come, decoded.
fn fault(guest: &mut Guest, scause: u64) -> Result<(Trap, NestedPageFaultInfo), Failure> {
    let trap = guest.run();
    ensure_eq!(trap.scause, scause, "scause");
    let info = decoded(&trap)?;
    Ok((trap, info))
}

/// The guest goes on to its call.
fn ends(guest: &mut Guest) -> Result<(), Failure> {
    let trap = guest.run();
    ensure_eq!(trap.scause, CALL, "scause");
    Ok(())
}

/// An access to a page that is not there; then it is, and the access is repeated.
fn data(bench: &Bench, code: &[u8], scause: u64, access: MappingFlags) -> Result<(), Failure> {
    const GPA: u64 = HOLE + 0x128;
    let mut space = scene(bench, code)?;
    let loaded = Loaded::new(&space);
    let mut guest = Guest::new(CODE, &[GPA, 5]);
    let (trap, info) = fault(&mut guest, scause)?;
    ensure_eq!((info.gpa.as_u64(), info.access, info.walk), (GPA, access, false), "the fault");
    ensure_eq!(info.gva.map(|gva| gva.as_u64()), Some(GPA), "its virtual address");
    ensure_eq!((guest.pc(), trap.stval), (CODE, GPA), "where it was");
    let nobody = space.handle_nested_fault(&info);
    ensure!(matches!(nobody, Err(FaultError::NoRegion(_))), "{nobody:?}");
    space.map(HOLE, PAGE_SIZE, RAM)?;
    space.set_word(GPA, 37)?;
    ends(&mut guest)?;
    let expected = if access == READ { (37, 37) } else { (guest.argument(2), space.word(GPA)?) };
    ensure_eq!((guest.argument(2), space.word(GPA)?), expected, "what it read, and what is there");
    if access == WRITE {
        // Stored, or added; which also returns what there was.
        let stored = (0, 5);
        let added = (37, 42);
        let found = (guest.argument(2), space.word(GPA)?);
        ensure!(found == stored || found == added, "{found:x?}");
    }
    drop(loaded);
    Ok(())
}

/// A jump to where nothing is, and to what cannot be executed.
fn fetched(bench: &Bench) -> Result<(), Failure> {
    let mut space = scene(bench, jump())?;
    space.protect_page(DATA, READ.union(WRITE))?;
    space.load(DATA, &0x73_u32.to_le_bytes())?;
    let loaded = Loaded::new(&space);
    for target in [HOLE + 0x204, DATA] {
        let mut guest = Guest::new(CODE, &[target]);
        let (_, info) = fault(&mut guest, FETCH)?;
        ensure_eq!((info.gpa.as_u64(), info.access, info.walk), (target, EXECUTE, false), "the fault");
        ensure_eq!(guest.pc(), target, "where it was");
    }
    // ECALL, as soon as it can be executed.
    let mut guest = Guest::new(CODE, &[DATA]);
    fault(&mut guest, FETCH)?;
    space.protect_page(DATA, RAM)?;
    ends(&mut guest)?;
    drop(loaded);
    Ok(())
}

/// A store to a page that forbids it; a load is fine.
fn read_only(bench: &Bench) -> Result<(), Failure> {
    let mut space = scene(bench, store_8())?;
    space.protect_page(DATA, READ)?;
    let loaded = Loaded::new(&space);
    ensure!(read(DATA).is_ok(), "the page cannot be read");
    let mut guest = Guest::new(CODE, &[DATA + 8, 5]);
    let (_, info) = fault(&mut guest, STORE)?;
    ensure_eq!((info.gpa.as_u64(), info.access, info.walk), (DATA + 8, WRITE, false), "the fault");
    let refused = space.handle_nested_fault(&info);
    ensure!(matches!(refused, Err(FaultError::Permission { .. })), "{refused:?}");
    space.protect_page(DATA, RAM)?;
    ends(&mut guest)?;
    ensure_eq!(space.word(DATA + 8)?, 5, "what is there");
    drop(loaded);
    Ok(())
}

/// Code in a page that can only be executed runs, and reads nothing of it.
fn execute_only(bench: &Bench) -> Result<(), Failure> {
    let mut space = scene(bench, load_8())?;
    space.protect_page(CODE, EXECUTE.union(MappingFlags::USER))?;
    let loaded = Loaded::new(&space);
    let mut guest = Guest::new(CODE, &[CODE]);
    let (_, info) = fault(&mut guest, LOAD)?;
    ensure_eq!((info.gpa.as_u64(), info.access, guest.pc()), (CODE, READ, CODE), "the fault");
    let refused = space.handle_nested_fault(&info);
    ensure!(matches!(refused, Err(FaultError::Permission { .. })), "{refused:?}");
    space.protect_page(CODE, RAM)?;
    ends(&mut guest)?;
    drop(loaded);
    Ok(())
}

/// An access that begins in one page and ends in the next: the fault names an address of the access, in the page that is missing.
fn misaligned(bench: &Bench) -> Result<(), Failure> {
    const LAST: u64 = DATA + PAGE_SIZE;
    for (code, scause) in [(load_8(), LOAD), (store_8(), STORE)] {
        for offset in 1..8 {
            let mut space = scene(bench, code)?;
            let loaded = Loaded::new(&space);
            let mut guest = Guest::new(CODE, &[LAST - offset, u64::MAX]);
            let (_, info) = fault(&mut guest, scause)?;
            let gpa = info.gpa.as_u64();
            // The second page is the one that is missing.
            ensure!((LAST..LAST + 8).contains(&gpa), "GPA {gpa:#x} of an access at {:#x}", LAST - offset);
            space.map(LAST, PAGE_SIZE, RAM)?;
            ends(&mut guest)?;
            if scause == STORE {
                let ones = u64::MAX >> (8 * offset);
                ensure_eq!(space.word(LAST)?, ones, "what is in the second page");
            }
            drop(loaded);
        }
    }
    Ok(())
}

/// The guest's own tables: everything from 0x80000000 on for 1 GiB, one to one, by two levels and a leaf of 2 MiB each.
fn load_tables(space: &Space, marks: u64) -> Result<u64, Failure> {
    const TABLE: u64 = 1;
    // V, R, W, X.
    const LEAF: u64 = 0xf;
    space.set_word(TABLES + 8 * 2, (TABLES + PAGE_SIZE) >> 2 | TABLE)?;
    for index in 0..512 {
        let address = CODE + (index << 21);
        space.set_word(TABLES + PAGE_SIZE + 8 * index, address >> 2 | LEAF | marks)?;
    }
    Ok(SV39 | TABLES >> 12)
}

/// Accessed and dirty.
const MARKS: u64 = 3 << 6;

/// The walk of the guest's tables comes to a page that is not there: a fault of the walk, on behalf of each kind of access.
fn in_tables(bench: &Bench) -> Result<(), Failure> {
    let cases = [(load_by_tables(), LOAD), (store_by_tables(), STORE), (jump_by_tables(), FETCH)];
    for (code, scause) in cases {
        let mut space = scene(bench, code)?;
        let vsatp = load_tables(&space, MARKS)?;
        // The root leads to a table in the hole for another GiB.
        space.set_word(TABLES + 8 * 3, HOLE >> 2 | 1)?;
        let loaded = Loaded::new(&space);
        let virtual_address = 0xc000_0000 + (3 << 21) + 0x18;
        let mut guest = Guest::new(CODE, &[virtual_address, vsatp]);
        let trap = guest.run();
        // The cause is that of the guest's access. QEMU 7.2 makes a load of all of them.
        ensure!([scause, LOAD].contains(&trap.scause), "scause: {:#x} instead of {scause:#x}", trap.scause);
        let info = decoded(&trap)?;
        ensure_eq!(trap.stval, virtual_address, "stval");
        // The entry that was looked for.
        ensure_eq!(info.gpa.as_u64() & !7, HOLE + 8 * 3, "the address");
        // Implicit accesses are told by htinst, where the hart fills it in: QEMU 7.2 leaves it 0.
        ensure!(info.walk || trap.htinst == 0, "{trap:x?} is no walk");
        if info.walk {
            ensure_eq!(info.access, READ, "the access");
        }
        space.map(HOLE, PAGE_SIZE, RAM)?;
        space.set_word(HOLE + 8 * 3, CODE >> 2 | 0xf | MARKS)?;
        if scause == FETCH {
            space.load(CODE + 0x18, &0x73_u32.to_le_bytes())?;
        }
        ends(&mut guest)?;
        drop(loaded);
    }
    Ok(())
}

/// The tables can be read and not written: that is enough, as long as the hart has nothing to mark there.
fn read_only_tables(bench: &Bench) -> Result<(), Failure> {
    let mut space = scene(bench, load_by_tables())?;
    let vsatp = load_tables(&space, MARKS)?;
    space.set_word(DATA, 77)?;
    for page in 0..2 {
        space.protect_page(TABLES + page * PAGE_SIZE, READ)?;
    }
    let loaded = Loaded::new(&space);
    let mut guest = Guest::new(CODE, &[DATA, vsatp]);
    ends(&mut guest)?;
    ensure_eq!(guest.argument(2), 77, "what it read");
    drop(loaded);
    Ok(())
}

/// The tables are there, and lead to where nothing is.
fn behind_tables(bench: &Bench) -> Result<(), Failure> {
    let mut space = scene(bench, store_by_tables())?;
    let vsatp = load_tables(&space, MARKS)?;
    // Another GiB goes to the hole, too.
    space.set_word(TABLES + 8 * 3, HOLE >> 30 << 28 | 0xf | MARKS)?;
    let loaded = Loaded::new(&space);
    let offset = HOLE & ((1 << 30) - 1) | 0x30;
    let mut guest = Guest::new(CODE, &[0xc000_0000 + offset, vsatp]);
    let (trap, info) = fault(&mut guest, STORE)?;
    ensure_eq!(trap.stval, 0xc000_0000 + offset, "stval");
    ensure_eq!((info.gpa.as_u64(), info.access, info.walk), (HOLE + 0x30, WRITE, false), "the fault");
    space.map(HOLE, PAGE_SIZE, RAM)?;
    ends(&mut guest)?;
    ensure_eq!(space.word(HOLE + 0x30)?, vsatp, "what is there");
    drop(loaded);
    Ok(())
}

/// Addresses beyond what the mode translates are errors, in the library as in the hardware, and never another address.
fn wide(bench: &Bench) -> Result<(), Failure> {
    for (mode, bits) in [(Mode::Sv39x4, 41), (Mode::Sv48x4, 50), (Mode::Sv57x4, 59)] {
        let Ok(mut space) = bench.space_in(mode, 9) else {
            ensure!(mode != Mode::Sv39x4, "there is no Sv39x4");
            continue;
        };
        // Whatever a wide address would be an alias of.
        space.map(0, PAGE_SIZE, RAM)?;
        space.map(CODE, PAGE_SIZE, RAM)?;
        space.load(CODE, load_8())?;
        space.set_word(0, 0x600d)?;
        let loaded = Loaded::new(&space);
        ensure_eq!(read(0).ok(), Some(0x600d), "address 0");
        for bit in bits..64 {
            let gpa: u64 = 1 << bit;
            let Err(trap) = read(gpa) else { return Err(alloc::format!("{gpa:#x} is an address")) };
            ensure_eq!(trap.scause, LOAD, "scause");
            let mut guest = Guest::new(CODE, &[gpa]);
            let (trap, info) = fault(&mut guest, LOAD)?;
            ensure_eq!(trap.stval, gpa, "stval");
            let outcome = space.handle_nested_fault(&info);
            ensure!(outcome.is_err(), "{gpa:#x}: {outcome:?}");
            ensure!(space.translate(GuestPhysAddr::new(gpa)).is_none(), "{gpa:#x} is mapped");
            ensure!(space.query(GuestPhysAddr::new(gpa)).is_err(), "{gpa:#x} is something");
        }
        // The last addresses with the highest bit clear, and with it set. The latter QEMU 7.2 refuses, as if addresses were signed.
        for width in [bits - 1, bits] {
            let last = (1 << width) - PAGE_SIZE;
            space.map(last, PAGE_SIZE, RAM)?;
            space.set_word(last + 8, 0x1a57)?;
            match read(last + 8) {
                Ok(found) => ensure_eq!(found, 0x1a57, "the last page"),
                Err(trap) => {
                    ensure!(width == bits, "{trap:x?}");
                    ensure_eq!(decoded(&trap)?.gpa.as_u64(), last + 8, "the fault");
                }
            }
        }
        drop(loaded);
    }
    Ok(())
}
