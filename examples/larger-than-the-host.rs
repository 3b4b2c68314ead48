//! A guest whose memory is twice as large as what its host has, and one whose memory arrives while it runs.
//!
//! `cargo run --example larger-than-the-host`
//!
//! ```text
//! 256 pages on a host with 128 frames: 768 paged in, 672 paged out
//! the first half of the guest has arrived: 128 pages are mapped
//! ```

use slat::format::ept::Ept;
use slat::test_util::MemoryPager;
use slat::{
    AddrSpace, FaultError, FaultOutcome, GuestPhysAddr, MappingFlags, PAGE_SIZE, PagerBackend, PopulateError,
};
use slat_examples::{Host, intel};

type Guest<'h> = AddrSpace<&'h Host<Ept>, Ept, PagerBackend<&'h MemoryPager>>;

const PAGES: u64 = 256;

fn page(number: u64) -> GuestPhysAddr {
    GuestPhysAddr::new(number * PAGE_SIZE)
}

fn guest<'h>(host: &'h Host<Ept>, pager: &'h MemoryPager) -> Result<Guest<'h>, Box<dyn std::error::Error>> {
    let mut guest = Guest::with_backend(host, intel(false), page(0), 1 << 30, 1, PagerBackend(pager))?;
    guest.map_paged(page(0), 0, 0, PAGES * PAGE_SIZE, MappingFlags::READ | MappingFlags::WRITE)?;
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

/// What the guest does: adds a number to the first word of each page. Returns the sum of what was there.
fn pass(host: &Host<Ept>, guest: &mut Guest<'_>, number: u64) -> Result<u64, Box<dyn std::error::Error>> {
    let mut sum = 0;
    for gpa in (0..PAGES).map(page) {
        let value = loop {
            match host.load(0, gpa) {
                Ok(value) => break value,
                Err(_) => drop(fault(guest, gpa)?),
            }
        };
        sum += value;
        while host.store(0, gpa, value + number).is_err() {
            fault(guest, gpa)?;
        }
    }
    Ok(sum)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (host, pager) = (Host::new(intel(false), PAGES / 2, 1), MemoryPager::new());
    let mut over_committed = guest(&host, &pager)?;
    host.enter(0, &over_committed);
    for number in 1..=3 {
        let sum = pass(&host, &mut over_committed, number)?;
        assert_eq!(sum, PAGES * (number - 1) * number / 2, "a page was lost");
    }
    let (ins, outs) = (pager.page_ins(), pager.page_outs());
    println!("{PAGES} pages on a host with {} frames: {ins} paged in, {outs} paged out", PAGES / 2);
    assert!(ins > PAGES as usize && outs > PAGES as usize);
    host.leave(0);
    drop(over_committed);

    // Post-copy: the guest runs here while its memory is still on another host.
    let (host, network) = (Host::new(intel(false), PAGES * 2, 1), MemoryPager::waiting());
    let mut moved = guest(&host, &network)?;
    assert_eq!(fault(&mut moved, page(0))?, FaultOutcome::Wait); // the vCPU pauses, and the page is asked for
    network.put(0, 0, &[7; PAGE_SIZE as usize]);
    assert!(matches!(fault(&mut moved, page(0))?, FaultOutcome::Populated(_)));
    assert_eq!(moved.read_obj::<u8>(page(0))?, 7);
    // In the background, as it comes.
    (1..PAGES / 2).for_each(|number| network.put(0, number * PAGE_SIZE, &[8; PAGE_SIZE as usize]));
    let missing = moved.populate(page(0), PAGES * PAGE_SIZE);
    assert_eq!(missing, Err(PopulateError::Refused(page(PAGES / 2))));
    println!("the first half of the guest has arrived: {} pages are mapped", moved.stats().table.leaves_4k);
    assert_eq!(moved.stats().table.leaves_4k, PAGES / 2);
    Ok(())
}
