//! Accesses that second-level translation refuses, leaves of all sizes, and what changes under a guest between two entries.

use super::scene::{self, CODE, RESULT, TABLES, fault, halt};
use crate::arch::x86_64::bare::Vendor;
use crate::arch::x86_64::unit::context::{Context, RAM, Space};
use crate::arch::x86_64::unit::{Failure, UnitGuest, ensure, ensure_eq, failed, guest_code, nothing};
use slat::format::Format as _;
use slat::{
    AllocOptions, FaultCause, GuestPhysAddr, HostPhysAddr, LeafSize, MappingFlags, NestedPageFaultInfo,
    PAGE_SIZE,
};
use slat_x86::{General, NestedPageFault, Vcpu as _};

pub(super) fn guests<V: Vendor>() -> [UnitGuest<Context<V>>; 8] {
    [
        UnitGuest { name: "fault-read", needs: nothing, run: |context| access(context, &READ) },
        UnitGuest { name: "fault-write", needs: nothing, run: |context| access(context, &WRITE) },
        UnitGuest { name: "fault-read-modify-write", needs: nothing, run: |context| access(context, &BOTH) },
        UnitGuest { name: "fault-fetch", needs: nothing, run: |context| access(context, &FETCH) },
        UnitGuest { name: "leaf-2m", needs: nothing, run: leaf_2m },
        UnitGuest { name: "leaf-1g", needs: leaf_1g_exists, run: leaf_1g },
        UnitGuest { name: "read-only-page-tables", needs: marks_exist, run: read_only_page_tables },
        UnitGuest { name: "accessed-and-dirty", needs: marks_exist, run: accessed_and_dirty },
    ]
}

/// Behind the scene's memory; the guest's own tables map it.
const TARGET: u64 = 0x20_0000;
/// Into the page.
const INTO: u64 = 0x678;
const READ_ONLY: MappingFlags = MappingFlags::READ;
const READ_WRITE: MappingFlags = MappingFlags::READ.union(MappingFlags::WRITE);
const READ_EXECUTE: MappingFlags = MappingFlags::READ.union(MappingFlags::EXECUTE);

guest_code!(read, "mov rax, [rsi]", "mov [0x61000], rax", "hlt");
guest_code!(write, "mov qword ptr [rsi], 0x1234", "hlt");
guest_code!(both, "lock inc qword ptr [rsi]", "hlt");
guest_code!(fetch, "call rsi", "hlt");
/// What is fetched: RET and then INT3.
const RETURN: u64 = 0xccc3;

/// One kind of access.
struct Access {
    code: fn() -> &'static [u8],
    /// What it is called where nothing is mapped, and where the page forbids it.
    kind: MappingFlags,
    /// Whether it reads and writes.
    both: bool,
    /// Flags that forbid it, if a page that can be read can.
    forbid: Option<MappingFlags>,
    /// What the word is when the guest is through.
    word: u64,
}

const READ: Access = Access { code: read, kind: MappingFlags::READ, both: false, forbid: None, word: RETURN };
const WRITE: Access =
    Access { code: write, kind: MappingFlags::WRITE, both: false, forbid: Some(READ_EXECUTE), word: 0x1234 };
const BOTH: Access =
    Access { code: both, kind: MappingFlags::WRITE, both: true, forbid: Some(READ_ONLY), word: RETURN + 1 };
const FETCH: Access =
    Access { code: fetch, kind: MappingFlags::EXECUTE, both: false, forbid: Some(READ_WRITE), word: RETURN };

/// The guest's access meets no page, then a page that forbids it, then one that allows it.
fn access<V: Vendor>(context: &Context<V>, access: &Access) -> Result<(), Failure> {
    let mut space = scene::memory(context, (access.code)())?;
    let mut state = scene::state();
    state.general.set(General::Rsi, TARGET + INTO);
    let mut vcpu = context.vcpu(&space, &state)?;

    let absent = fault(&space, &mut vcpu)?;
    check_fault(&absent, access, FaultCause::NotPresent, MappingFlags::empty())?;
    map(&mut space, TARGET, PAGE_SIZE, LeafSize::Size4K)?;
    space.load(TARGET + INTO, &RETURN.to_le_bytes())?;
    if let Some(flags) = access.forbid {
        protect(&mut space, TARGET, flags)?;
        let forbidden = fault(&space, &mut vcpu)?;
        check_fault(&forbidden, access, FaultCause::Permission, flags)?;
        protect(&mut space, TARGET, RAM)?;
    }
    halt(&space, &mut vcpu)?;
    ensure_eq!(space.word(TARGET + INTO)?, access.word, "the word");
    if access.kind == MappingFlags::READ {
        ensure_eq!(space.word(RESULT)?, RETURN, "what was read");
    }
    vcpu.unbind();
    Ok(())
}

fn check_fault(
    fault: &NestedPageFault,
    access: &Access,
    cause: FaultCause,
    allowed: MappingFlags,
) -> Result<(), Failure> {
    let NestedPageFaultInfo { gpa, gva, access: kind, cause: told, walk, .. } = fault.info;
    ensure_eq!(gpa.as_u64(), TARGET + INTO, "GPA");
    if let Some(gva) = gva {
        ensure_eq!(gva.as_u64(), TARGET + INTO, "GVA");
    }
    let kinds = MappingFlags::READ | MappingFlags::WRITE | MappingFlags::EXECUTE;
    ensure_eq!(kind & kinds, access.kind, "access");
    ensure!(!fault.read_and_write || access.both, "a single access is called two");
    ensure_eq!(told, cause, "cause");
    ensure!(!walk, "the access is called a walk");
    // AMD tells nothing but that the page can be read.
    ensure!(
        fault.granted == allowed & kinds || fault.granted == MappingFlags::READ && !allowed.is_empty(),
        "granted {:?} of {allowed:?}",
        fault.granted
    );
    ensure_eq!(fault.interrupted, None, "interrupted event");
    Ok(())
}

fn map<V: Vendor>(space: &mut Space<V>, gpa: u64, size: u64, largest_leaf: LeafSize) -> Result<(), Failure> {
    let options = AllocOptions { populate: true, largest_leaf, fault_around: LeafSize::Size4K };
    space
        .map_alloc_with(GuestPhysAddr::new(gpa), size, RAM, options)
        .map_err(|error| failed("map_alloc", error))
}

fn protect<V: Vendor>(space: &mut Space<V>, gpa: u64, flags: MappingFlags) -> Result<(), Failure> {
    space.protect(GuestPhysAddr::new(gpa), PAGE_SIZE, flags).map_err(|error| failed("protect", error))
}

fn leaf_at<V: Vendor>(space: &Space<V>, gpa: u64) -> Result<u64, Failure> {
    let mapping = space.query(GuestPhysAddr::new(gpa)).map_err(|error| failed("query", error))?;
    Ok(mapping.size.bytes())
}

// Adds 1 to the first word of every page from RSI on, RCX pages.
guest_code!(
    touch,
    "2:",
    "mov rdi, rsi",
    "mov rdx, rcx",
    "3:",
    "inc qword ptr [rdi]",
    "add rdi, 4096",
    "dec rdx",
    "jnz 3b",
    "hlt",
    "jmp 2b",
);

/// A leaf of 2 MiB is split while the guest is at work in it, one page of it forbids writing, then it is put together again.
fn leaf_2m<V: Vendor>(context: &Context<V>) -> Result<(), Failure> {
    const SIZE: u64 = 2 << 20;
    const PAGES: u64 = SIZE / PAGE_SIZE;
    const FORBIDDEN: u64 = TARGET + 7 * PAGE_SIZE;
    let mut space = scene::memory(context, touch())?;
    map(&mut space, TARGET, SIZE, LeafSize::Size2M)?;
    ensure_eq!(leaf_at(&space, TARGET)?, SIZE, "the leaf");
    let mut state = scene::state();
    state.general.set(General::Rsi, TARGET);
    state.general.set(General::Rcx, PAGES);
    let mut vcpu = context.vcpu(&space, &state)?;
    halt(&space, &mut vcpu)?;

    protect(&mut space, FORBIDDEN, READ_ONLY)?;
    ensure_eq!(leaf_at(&space, TARGET)?, PAGE_SIZE, "the split leaf");
    let refused = fault(&space, &mut vcpu)?;
    ensure_eq!(refused.info.gpa.as_u64(), FORBIDDEN, "the page that forbids writing");
    ensure_eq!(refused.info.cause, FaultCause::Permission, "cause");
    ensure_eq!(vcpu.general().get(General::Rdi), FORBIDDEN, "how far the guest came");
    protect(&mut space, FORBIDDEN, RAM)?;
    let collapsed = space.collapse(GuestPhysAddr::new(TARGET), SIZE);
    ensure_eq!(collapsed.map_err(|error| failed("collapse", error))?, 1, "leaves put together");
    ensure_eq!(leaf_at(&space, TARGET)?, SIZE, "the leaf again");
    halt(&space, &mut vcpu)?;
    halt(&space, &mut vcpu)?;
    for page in 0..PAGES {
        ensure_eq!(space.word(TARGET + page * PAGE_SIZE)?, 3, "the count of a page");
    }
    vcpu.unbind();
    Ok(())
}

fn leaf_1g_exists<V: Vendor>(context: &Context<V>) -> Result<(), Failure> {
    let format = context.vendor.format(None)?;
    ensure!(format.largest_leaf() == LeafSize::Size1G, "the CPU has no leaves of 1 GiB");
    Ok(())
}

guest_code!(
    read_twice,
    "mov eax, [rsi]",
    "mov [0x61000], rax",
    "mov eax, [rbx]",
    "hlt",
    "mov eax, [rsi]",
    "mov [0x61008], rax",
    "mov eax, [rbx]",
    "hlt",
);

/// The last GiB below 4 GiB as one leaf, with the version of the local APIC in it; then with a hole.
fn leaf_1g<V: Vendor>(context: &Context<V>) -> Result<(), Failure> {
    const SIZE: u64 = 1 << 30;
    const HOST: u64 = 0xc000_0000;
    /// APM vol. 2, "APIC Version Register".
    const VERSION: u64 = 0xfee0_0030;
    const HOLE: u64 = 0xfef0_0000 - HOST + SIZE;
    let mut space = scene::memory(context, read_twice())?;
    // The second GiB of the guest, which its tables have to reach.
    space.load(TABLES + PAGE_SIZE + 8, &(SIZE | 0x83).to_le_bytes())?;
    let flags = READ_WRITE | MappingFlags::DEVICE;
    space
        .map_linear(GuestPhysAddr::new(SIZE), HostPhysAddr::new(HOST), SIZE, flags)
        .map_err(|error| failed("map_linear", error))?;
    ensure_eq!(leaf_at(&space, SIZE)?, SIZE, "the leaf");
    let mut state = scene::state();
    state.general.set(General::Rsi, VERSION - HOST + SIZE);
    state.general.set(General::Rbx, HOLE);
    let mut vcpu = context.vcpu(&space, &state)?;
    halt(&space, &mut vcpu)?;
    space.unmap(GuestPhysAddr::new(HOLE), PAGE_SIZE).map_err(|error| failed("unmap", error))?;
    ensure_eq!(leaf_at(&space, SIZE)?, 2 << 20, "the split leaf");
    let refused = fault(&space, &mut vcpu)?;
    ensure_eq!(refused.info.gpa.as_u64(), HOLE, "GPA");
    ensure_eq!(refused.info.cause, FaultCause::NotPresent, "cause");
    let [before, after] = [space.word(RESULT)?, space.word(RESULT + 8)?];
    // Bits 7:0 of every local APIC that is part of the CPU are 10h to 15h.
    ensure!((0x10..=0x15).contains(&(before & 0xff)), "the version of the APIC is {before:#x}");
    ensure_eq!(after, before, "the version of the APIC behind the split");
    vcpu.unbind();
    Ok(())
}

/// The hardware that walks the guest's tables writes there too. (Where it keeps no flags in EPT only the guest's own flags count, and
/// those Bochs 2.7 sets past the EPT.)
fn read_only_page_tables<V: Vendor>(context: &Context<V>) -> Result<(), Failure> {
    let mut space = scene::memory(context, write())?;
    map(&mut space, TARGET, PAGE_SIZE, LeafSize::Size4K)?;
    let mut state = scene::state();
    state.general.set(General::Rsi, TARGET + INTO);
    let mut vcpu = context.vcpu(&space, &state)?;
    // The page directory: its entries are leaves with accessed and dirty clear.
    let directory = TABLES + 2 * PAGE_SIZE;
    protect(&mut space, directory, READ_ONLY)?;
    let refused = fault(&space, &mut vcpu)?;
    ensure_eq!(refused.info.gpa.align_down(PAGE_SIZE).as_u64(), directory, "GPA");
    ensure!(refused.info.walk, "the walk is called an access");
    ensure_eq!(refused.info.cause, FaultCause::Permission, "cause");
    ensure!(refused.info.access.contains(MappingFlags::WRITE), "the walk is {:?}", refused.info.access);
    ensure_eq!(vcpu.rip(), CODE, "where the guest is");
    protect(&mut space, directory, RAM)?;
    halt(&space, &mut vcpu)?;
    ensure_eq!(space.word(TARGET + INTO)?, 0x1234, "the word");
    // Accessed, for the code; accessed and dirty, for the page.
    ensure_eq!(space.word(directory)? & 0x20, 0x20, "the mark of the code");
    ensure_eq!(space.word(directory + 8)? & 0x60, 0x60, "the marks of the page");
    vcpu.unbind();
    Ok(())
}

fn marks_exist<V: Vendor>(context: &Context<V>) -> Result<(), Failure> {
    let format = context.vendor.format(None)?;
    ensure!(format.dirty_bit() != 0, "the CPU keeps no accessed and dirty flags");
    Ok(())
}

guest_code!(read_one_write_one, "mov rax, [rsi]", "mov [rsi + 4096], rax", "hlt");

/// The CPU marks what a guest uses and writes.
fn accessed_and_dirty<V: Vendor>(context: &Context<V>) -> Result<(), Failure> {
    let mut space = scene::memory(context, read_one_write_one())?;
    map(&mut space, TARGET, 3 * PAGE_SIZE, LeafSize::Size4K)?;
    let mut state = scene::state();
    state.general.set(General::Rsi, TARGET);
    let mut vcpu = context.vcpu(&space, &state)?;
    let marks = |space: &Space<V>| {
        [0, 1, 2].map(|page| {
            let mapping = space.query(GuestPhysAddr::new(TARGET + page * PAGE_SIZE));
            mapping.map_or((true, true), |mapping| (mapping.accessed, mapping.dirty))
        })
    };
    ensure_eq!(marks(&space), [(false, false); 3], "marks before");
    halt(&space, &mut vcpu)?;
    ensure_eq!(marks(&space), [(true, false), (true, true), (false, false)], "marks");
    vcpu.unbind();
    Ok(())
}
