//! A guest with 1 GiB on a host with 4 MiB: a frame is taken when the guest first touches a page, and comes back when the page goes.
//!
//! `cargo run --example lazy-guest`
//!
//! ```text
//! mapped 1024 MiB, 2 frames are in use: the root, and one for the list of regions
//! three stores of the guest: 2 pages, 8 frames in use
//! a store beyond its memory: address 0x100000000 is outside of the space 0x0..0x40000000
//! after unmapping the first page: 6 frames in use
//! after the end of the guest: 0 frames in use
//! ```

use slat::format::ept::Ept;
use slat::{AddrSpace, FaultError, FaultOutcome, GuestPhysAddr, MappingFlags, PAGE_SIZE};
use slat_examples::{Host, intel};

type Guest<'h> = AddrSpace<&'h Host<Ept>, Ept>;

const MIB: u64 = 1 << 20;
const FRAMES: u64 = 1024;

/// What a hypervisor does for each store of its guest: enter it, and answer the exits. Returns the pages that were populated.
fn guest_stores(host: &Host<Ept>, guest: &Guest<'_>, gpa: u64, value: u64) -> Result<usize, FaultError> {
    let mut populated = 0;
    // Each round is an entry of the guest; `Err` is an exit for an EPT violation, as the CPU reports it.
    while let Err(fault) = host.store(0, GuestPhysAddr::new(gpa), value) {
        // Other outcomes, such as that another CPU was faster, want nothing but the next round.
        if let FaultOutcome::Populated(_) = guest.handle_nested_fault(&fault)? {
            populated += 1;
        }
    }
    Ok(populated)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let host = Host::new(intel(false), FRAMES, 1);
    let in_use = || FRAMES as usize - host.free_frames();

    let start = GuestPhysAddr::new(0);
    let mut guest = Guest::with_format(&host, intel(false), start, 1024 * MIB, 1)?;
    let ram = MappingFlags::READ | MappingFlags::WRITE | MappingFlags::EXECUTE;
    guest.map_alloc(start, 1024 * MIB, ram, false)?;
    host.enter(0, &guest);
    println!("mapped 1024 MiB, {} frames are in use: the root, and one for the list of regions", in_use());
    assert_eq!(in_use(), 2);

    // Two words in one page, then one at the other end: two pages, with the tables that lead there.
    let mut faults = 0;
    for gpa in [0x10_0000, 0x10_0008, 1024 * MIB - 8] {
        faults += guest_stores(&host, &guest, gpa, gpa)?;
    }
    println!("three stores of the guest: {faults} pages, {} frames in use", in_use());
    assert_eq!((faults, in_use()), (2, 2 + 2 + 4));
    assert_eq!(host.load(0, GuestPhysAddr::new(0x10_0008)), Ok(0x10_0008));
    assert_eq!(host.load(0, GuestPhysAddr::new(0x10_0010)), Ok(0), "fresh pages read as zero");

    // What no region covers is the guest's own fault, and the answer says so.
    let outside = guest_stores(&host, &guest, 4096 * MIB, 0);
    println!("a store beyond its memory: {}", outside.expect_err("no region is there"));

    // The page comes back after the invalidation; the host of the examples panics if a CPU could still reach it.
    guest.unmap(GuestPhysAddr::new(0x10_0000), PAGE_SIZE)?;
    println!("after unmapping the first page: {} frames in use", in_use());
    assert!(guest_stores(&host, &guest, 0x10_0000, 1).is_err());

    host.leave(0);
    drop(guest);
    println!("after the end of the guest: {} frames in use", in_use());
    assert_eq!(in_use(), 0);
    Ok(())
}
