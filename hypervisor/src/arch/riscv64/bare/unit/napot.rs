//! Leaves of 64 KiB (Svnapot): memory of the caller, through which a guest and probes get to each of sixteen pages, and which a
//! change of one page takes apart without a guest that notices elsewhere.

#![expect(unsafe_code, reason = "takes frames that are no space's, and looks at them and at a table")]

use super::bench::{Bench, Fencing, Host, RAM, Space, ensure, ensure_eq};
use super::code::guest_code;
use super::guest::{CALL, Guest, LOAD, Loaded, STORE, decoded, read, write};
use super::probes::TARGET;
use super::{Failure, UnitGuest, failed};
use slat::format::Format as _;
use slat::format::gstage::{Extensions, Trap};
use slat::{GuestPhysAddr, Hal as _, HostPhysAddr, MappingFlags, PAGE_SIZE};

/// Where the code lies.
const CODE: u64 = 0x8000_0000;
/// Leaves of 64 KiB, and the pages in each of them.
const LEAVES: u64 = 3;
const PAGES: u64 = 16;
const SIZE: u64 = LEAVES * PAGES * PAGE_SIZE;
/// What the memory allows.
const DATA: MappingFlags = MappingFlags::READ.union(MappingFlags::WRITE);

/// They are run only where there are such leaves.
pub(super) const NEEDS: Extensions = Extensions::SVNAPOT;

pub(super) const GUESTS: &[UnitGuest] = &[
    UnitGuest { name: "napot-guest", run: walked_through },
    UnitGuest { name: "napot-unmap", run: |bench| unmapped(bench, Fencing::Right) },
    UnitGuest { name: "napot-unmap-without-fence", run: |bench| unmapped(bench, Fencing::None) },
    UnitGuest { name: "napot-protect", run: |bench| protected(bench, Fencing::Right) },
    UnitGuest { name: "napot-protect-without-fence", run: |bench| protected(bench, Fencing::None) },
];

// a0 is the first page, a1 the address after the last one, a2 the size of a page: adds 1 to the first word of each.
guest_code!(
    add_on,
    "1: ld t0, (a0)",
    "addi t0, t0, 1",
    "sd t0, (a0)",
    "add a0, a0, a2",
    "bltu a0, a1, 1b",
    "ecall",
);

/// Memory that no space owns, aligned to 64 KiB.
struct Memory {
    host: Host,
    start: HostPhysAddr,
}

impl Memory {
    const FRAMES: usize = (LEAVES * PAGES) as usize;

    /// Page `n` begins with the word `n`.
    fn new(host: Host) -> Result<Self, Failure> {
        let start = host.alloc_frames(Self::FRAMES, PAGES as usize).ok_or("no frames")?;
        let memory = Self { host, start };
        for page in 0..LEAVES * PAGES {
            // SAFETY: frames that were just taken, and that nobody else knows; all memory is mapped.
            unsafe { memory.pointer(page).write_volatile(page) };
        }
        Ok(memory)
    }

    fn pointer(&self, page: u64) -> *mut u64 {
        self.host.phys_to_virt(HostPhysAddr::new(self.start.as_u64() + page * PAGE_SIZE)).cast()
    }

    /// The first word of a page.
    fn word(&self, page: u64) -> u64 {
        // SAFETY: the frames are taken; a guest that writes there is not running.
        unsafe { self.pointer(page).read_volatile() }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: taken in `new`; whoever mapped them is gone by now.
        unsafe { self.host.dealloc_frames(self.start, Self::FRAMES) };
    }
}

/// A space with code, and with the memory in leaves of 64 KiB. The memory outlives it: fields are dropped in this order.
struct Scene {
    space: Space,
    memory: Memory,
}

impl Scene {
    fn new(bench: &Bench) -> Result<Self, Failure> {
        let memory = Memory::new(bench.host)?;
        let mut space = bench.space()?;
        space.map(CODE, PAGE_SIZE, RAM)?;
        space.load(CODE, add_on())?;
        space
            .map_linear(GuestPhysAddr::new(TARGET), memory.start, SIZE, DATA)
            .map_err(|error| failed("map_linear", error))?;
        let scene = Self { space, memory };
        scene.are_leaves_of_64k([true; LEAVES as usize])?;
        Ok(scene)
    }

    /// Whether each of the leaves still is one, which all of its entries say.
    fn are_leaves_of_64k(&self, expected: [bool; LEAVES as usize]) -> Result<(), Failure> {
        for page in 0..LEAVES * PAGES {
            let gpa = page_at(page);
            let mut table = self.space.root();
            let levels = self.space.format().geometry().levels;
            let mut entry = 0;
            for level in (0..levels).rev() {
                let index = self.space.format().geometry().index(level, GuestPhysAddr::new(gpa)) as u64;
                let at = HostPhysAddr::new(table.as_u64() + 8 * index);
                // SAFETY: an entry of a table of the space; harts change nothing in it, for accessed and dirty are set.
                entry = unsafe { self.memory.host.phys_to_virt(at).cast::<u64>().read_volatile() };
                table = self.space.format().address(entry);
            }
            let one = entry >> 63 == 1;
            let wanted = expected.get((page / PAGES) as usize) == Some(&one);
            ensure!(wanted, "page {page} has the entry {entry:#x}");
            let reached = self.space.format().reached(0, entry, GuestPhysAddr::new(gpa));
            let frame = self.memory.start.as_u64() + page * PAGE_SIZE;
            if let Some((hpa, bytes)) = reached {
                let size = if one { PAGES * PAGE_SIZE } else { PAGE_SIZE };
                ensure_eq!((hpa.as_u64(), bytes), (frame, size), "where the entry leads");
                ensure_eq!(
                    self.space.translate(GuestPhysAddr::new(gpa)),
                    Some(hpa),
                    "where slat says that it leads"
                );
            }
        }
        Ok(())
    }
}

fn page_at(page: u64) -> u64 {
    TARGET + page * PAGE_SIZE
}

/// The trap by which the guest leaves that adds to the pages from `page` on.
fn runs_from(page: u64) -> (Trap, Guest) {
    let mut guest = Guest::new(CODE, &[page_at(page), TARGET + SIZE, PAGE_SIZE]);
    (guest.run(), guest)
}

fn faulted(trap: &Trap, scause: u64, page: u64) -> Result<(), Failure> {
    ensure_eq!(trap.scause, scause, "how the guest left");
    ensure_eq!(decoded(trap)?.gpa.as_u64(), page_at(page), "where");
    Ok(())
}

/// A guest reads and writes each page; where one is taken away or made read-only it faults there, and nowhere else.
fn walked_through(bench: &Bench) -> Result<(), Failure> {
    const GONE: u64 = 19;
    const READ_ONLY: u64 = 3;
    let mut scene = Scene::new(bench)?;
    let loaded = Loaded::new(&scene.space);
    let (trap, _) = runs_from(0);
    ensure_eq!(trap.scause, CALL, "how the guest left");
    for page in 0..LEAVES * PAGES {
        ensure_eq!(scene.memory.word(page), page + 1, "what it wrote");
    }
    scene.space.unmap_page(page_at(GONE))?;
    scene.are_leaves_of_64k([true, false, true])?;
    faulted(&runs_from(0).0, LOAD, GONE)?;
    let (trap, guest) = runs_from(GONE + 1);
    ensure_eq!((trap.scause, guest.argument(0)), (CALL, TARGET + SIZE), "how the guest left, and where");
    scene.space.protect_page(page_at(READ_ONLY), MappingFlags::READ)?;
    scene.are_leaves_of_64k([false, false, true])?;
    faulted(&runs_from(0).0, STORE, READ_ONLY)?;
    for page in 0..LEAVES * PAGES {
        let times = match page {
            GONE => 1,
            READ_ONLY => 2,
            page if page < READ_ONLY => 3,
            _ => 2,
        };
        ensure_eq!(scene.memory.word(page), page + times, "what is there in the end");
    }
    // All of a leaf at once: it stays one, until it goes.
    let last = GuestPhysAddr::new(page_at(2 * PAGES));
    scene
        .space
        .protect(last, PAGES * PAGE_SIZE, MappingFlags::READ)
        .map_err(|error| failed("protect", error))?;
    scene.are_leaves_of_64k([false, false, true])?;
    faulted(&runs_from(2 * PAGES).0, STORE, 2 * PAGES)?;
    scene.space.unmap(last, PAGES * PAGE_SIZE).map_err(|error| failed("unmap", error))?;
    faulted(&runs_from(2 * PAGES + 5).0, LOAD, 2 * PAGES + 5)?;
    drop(loaded);
    Ok(())
}

/// A page goes that the hart has used, and its neighbours stay.
fn unmapped(bench: &Bench, fencing: Fencing) -> Result<(), Failure> {
    let mut scene = Scene::new(bench)?;
    let loaded = Loaded::new(&scene.space);
    for page in [4, 5, 6] {
        ensure_eq!(read(page_at(page)).ok(), Some(page), "before");
    }
    bench.set_fencing(fencing);
    scene.space.unmap_page(page_at(5))?;
    bench.set_fencing(Fencing::Right);
    match (fencing, read(page_at(5))) {
        (Fencing::Right, Err(trap)) => faulted(&trap, LOAD, 5)?,
        (Fencing::Right, Ok(_)) => return Err("the page is still there".into()),
        (_, found) => ensure_eq!(found.ok(), Some(5), "after"),
    }
    for page in [0, 4, 6, 15, 16] {
        ensure_eq!(read(page_at(page)).ok(), Some(page), "a neighbour");
    }
    drop(loaded);
    Ok(())
}

/// A page becomes read-only that the hart has written to, and its neighbours do not.
fn protected(bench: &Bench, fencing: Fencing) -> Result<(), Failure> {
    let mut scene = Scene::new(bench)?;
    let loaded = Loaded::new(&scene.space);
    for page in [4, 5, 6] {
        ensure!(write(page_at(page), 100 + page).is_ok(), "page {page} cannot be written to");
    }
    bench.set_fencing(fencing);
    scene.space.protect_page(page_at(5), MappingFlags::READ)?;
    bench.set_fencing(Fencing::Right);
    match (fencing, write(page_at(5), 0)) {
        (Fencing::Right, Err(trap)) => faulted(&trap, STORE, 5)?,
        (Fencing::Right, Ok(())) => return Err("the page can still be written to".into()),
        (_, found) => ensure!(found.is_ok(), "there is a fault although nobody has fenced"),
    }
    let expected = if fencing == Fencing::Right { 105 } else { 0 };
    ensure_eq!((read(page_at(5)).ok(), scene.memory.word(5)), (Some(expected), expected), "what is there");
    for page in [4, 6] {
        ensure!(write(page_at(page), 200 + page).is_ok(), "page {page} cannot be written to");
        ensure_eq!(scene.memory.word(page), 200 + page, "a neighbour");
    }
    drop(loaded);
    Ok(())
}
