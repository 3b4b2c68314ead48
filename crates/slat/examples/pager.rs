//! A guest whose memory is twice as large as what its host has, and one whose memory arrives while it runs.
//!
//! `cargo run --release -p slat --example pager`; on any host, with frames from the heap.

use slat::format::ept::Ept;
use slat::test_util::{HeapHal, MemoryPager};
use slat::{
    AddrSpace, FaultError, FaultOutcome, GuestPhysAddr, MappingFlags, PAGE_SIZE, PagerBackend, PopulateError,
};

type Guest<'h> = AddrSpace<&'h HeapHal, Ept, PagerBackend<&'h MemoryPager>>;

const RW: MappingFlags = MappingFlags::READ.union(MappingFlags::WRITE);
const PAGES: u64 = 2048;

fn guest<'h>(host: &'h HeapHal, pager: &'h MemoryPager) -> Result<Guest<'h>, Box<dyn std::error::Error>> {
    let (start, format) = (GuestPhysAddr::new(0), Ept::default());
    let mut guest = Guest::with_backend(host, format, start, 1 << 30, 1, PagerBackend(pager))?;
    guest.map_paged(start, 0, 0, PAGES * PAGE_SIZE, RW)?;
    Ok(guest)
}

/// The exit handler: where there is no frame, some other pages give theirs up.
fn fault(guest: &mut Guest<'_>, gpa: GuestPhysAddr) -> Result<FaultOutcome, FaultError> {
    loop {
        match guest.handle_page_fault(gpa, MappingFlags::WRITE) {
            Err(FaultError::OutOfMemory(_)) if guest.evict(32, u64::MAX).pages > 0 => {}
            answer => return answer,
        }
    }
}

/// What the guest does: adds a number to the first word of each page.
fn pass(guest: &mut Guest<'_>, number: u64) -> Result<u64, Box<dyn std::error::Error>> {
    let mut sum = 0;
    for page in 0..PAGES {
        let gpa = GuestPhysAddr::new(page * PAGE_SIZE);
        if guest.translate(gpa).is_none() {
            fault(guest, gpa)?;
        }
        let value: u64 = guest.read_obj(gpa)?;
        sum += value;
        guest.write_obj(gpa, value + number)?;
    }
    Ok(sum)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (host, pager) = (HeapHal::new(), MemoryPager::new());
    let mut over_committed = guest(&host, &pager)?;
    host.limit_in_use(Some(PAGES as usize / 2));
    for number in 1..=3 {
        let sum = pass(&mut over_committed, number)?;
        assert_eq!(sum, PAGES * (number - 1) * number / 2, "a page was lost");
    }
    let (ins, outs) = (pager.page_ins(), pager.page_outs());
    println!("{PAGES} pages in {} frames: {ins} paged in, {outs} paged out", host.in_use());

    // Post-copy: the guest runs here while its memory is still on another host.
    let (host, network) = (HeapHal::new(), MemoryPager::waiting());
    let mut moved = guest(&host, &network)?;
    let first = GuestPhysAddr::new(0);
    assert_eq!(fault(&mut moved, first)?, FaultOutcome::Wait); // the vCPU pauses, and the page is asked for
    network.put(0, 0, &[7; PAGE_SIZE as usize]);
    assert!(matches!(fault(&mut moved, first)?, FaultOutcome::Populated(_)));
    assert_eq!(moved.read_obj::<u8>(first)?, 7);
    // In the background, as it comes.
    (1..PAGES / 2).for_each(|page| network.put(0, page * PAGE_SIZE, &[8; PAGE_SIZE as usize]));
    let missing = GuestPhysAddr::new(PAGES / 2 * PAGE_SIZE);
    assert_eq!(moved.populate(first, PAGES * PAGE_SIZE), Err(PopulateError::Refused(missing)));
    println!("the first half of the guest is here: {} frames", host.in_use());
    Ok(())
}
