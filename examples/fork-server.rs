//! A server that boots a guest once and forks it for each job, in time that does not grow with the guest; and a fuzzer's loop, which
//! goes back to one state again and again.
//!
//! `cargo run --example fork-server`
//!
//! ```text
//! the parent has booted: 2056 frames
//! job 0: invalidations 1, frames for the fork 3, pages copied by its first write 1, frames 4
//! job 1: invalidations 0, frames for the fork 2, pages copied by its first write 1, frames 4
//! job 2: invalidations 0, frames for the fork 2, pages copied by its first write 1, frames 4
//! job 3: invalidations 0, frames for the fork 2, pages copied by its first write 1, frames 4
//! without the jobs: 2056 frames
//! three rounds, and each began with the same memory: 2062 frames
//! ```

use slat::format::ept::Ept;
use slat::{AddrSpace, FaultError, FaultOutcome, GuestPhysAddr, MappingFlags, PAGE_SIZE};
use slat_examples::{Host, intel};

type Guest<'h> = AddrSpace<&'h Host<Ept>, Ept>;

const FRAMES: u64 = 4096;
const PAGES: u64 = 2048;
const JOB: GuestPhysAddr = GuestPhysAddr::new(0x5000);

/// The guest on the CPU stores a word. Returns how many pages were copied for it.
fn store(host: &Host<Ept>, guest: &Guest<'_>, gpa: GuestPhysAddr, value: u64) -> Result<usize, FaultError> {
    let mut copied = 0;
    host.enter(0, guest);
    while let Err(fault) = host.store(0, gpa, value) {
        if let FaultOutcome::Copied(_) = guest.handle_nested_fault(&fault)? {
            copied += 1;
        }
    }
    host.leave(0);
    Ok(copied)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let host = Host::new(intel(false), FRAMES, 1);
    let in_use = || FRAMES as usize - host.free_frames();
    let (start, ram) = (GuestPhysAddr::new(0), MappingFlags::READ | MappingFlags::WRITE);
    let mut parent = Guest::with_format(&host, intel(false), start, 1 << 30, 1)?;
    parent.map_alloc(start, PAGES * PAGE_SIZE, ram, false)?;

    // "Boots": every page is written to.
    for page in 0..PAGES {
        store(&host, &parent, GuestPhysAddr::new(page * PAGE_SIZE), page)?;
    }
    let booted = in_use();
    println!("the parent has booted: {booted} frames");

    // Each job runs in a fork, which has all of the parent's memory and pays for what it writes.
    let mut children = Vec::new();
    for job in 0..4_u64 {
        let (before, invalidations) = (in_use(), host.invalidations());
        let child = parent.fork(2 + job as u16)?;
        let forked = in_use() - before;
        let invalidated = host.invalidations() - invalidations;
        let copied = store(&host, &child, JOB, 100 + job)?;
        println!(
            "job {job}: invalidations {invalidated}, frames for the fork {forked}, pages copied by its first write {copied}, frames {}",
            in_use() - before - forked
        );
        assert!(forked <= 4 && invalidated <= 1 && copied == 1);
        children.push(child);
    }
    // Everybody sees what is theirs.
    assert_eq!(parent.read_obj::<u64>(JOB)?, 5);
    for (job, child) in children.iter().enumerate() {
        assert_eq!(child.read_obj::<u64>(JOB)?, 100 + job as u64);
        assert_eq!(child.read_obj::<u64>(GuestPhysAddr::new(0x9000))?, 9);
    }
    drop(children);
    parent.consolidate();
    println!("without the jobs: {} frames", in_use());
    assert!(in_use() <= booted + 4);

    // A fuzzer's loop: run, go back, run again. What it costs is what was written.
    let snapshot = parent.snapshot()?;
    for round in 0..3_u64 {
        for page in 0..8 {
            store(&host, &parent, GuestPhysAddr::new(page * PAGE_SIZE), round)?;
        }
        parent.reset(&snapshot)?;
        assert_eq!(parent.read_obj::<u64>(GuestPhysAddr::new(0x7000))?, 7);
    }
    println!("three rounds, and each began with the same memory: {} frames", in_use());
    drop(snapshot);
    drop(parent);
    assert_eq!(in_use(), 0);
    Ok(())
}
