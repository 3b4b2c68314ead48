//! A guest that moves to another machine while it works: rounds of what it has written since, then a short stop for the rest.
//!
//! `cargo run --example dirty-log-migration`
//!
//! ```text
//! round 0: all 512 pages
//! round 1: 100 pages that were written to meanwhile
//! round 2: 33 pages that were written to meanwhile
//! round 3: 11 pages that were written to meanwhile
//! the guest stops: 5 pages are not there yet
//! it goes on over there, with the same 512 pages
//! ```

use slat::format::npt::Npt;
use slat::{AddrSpace, FaultError, GuestPhysAddr, GuestPhysRange, LogUnit, MappingFlags, PAGE_SIZE};
use slat_examples::Host;

type Guest<'h> = AddrSpace<&'h Host<Npt>, Npt>;

const PAGES: u64 = 512;
const SIZE: u64 = PAGES * PAGE_SIZE;
const START: GuestPhysAddr = GuestPhysAddr::new(0);
/// So few pages are copied while the guest stands still.
const FEW: u64 = 16;

fn page(number: u64) -> GuestPhysAddr {
    GuestPhysAddr::new(number % PAGES * PAGE_SIZE)
}

fn guest(host: &Host<Npt>) -> Result<Guest<'_>, Box<dyn std::error::Error>> {
    let mut guest = Guest::with_format(host, Npt::default(), START, 1 << 30, 1)?;
    guest.map_alloc(START, SIZE, MappingFlags::READ | MappingFlags::WRITE, false)?;
    Ok(guest)
}

/// The guest writes to so many pages, beginning somewhere.
fn work(host: &Host<Npt>, guest: &Guest<'_>, first: u64, pages: u64) -> Result<(), FaultError> {
    for number in first..first + pages {
        while let Err(fault) = host.store(0, page(number), first * 1000 + number) {
            guest.handle_nested_fault(&fault)?;
        }
    }
    Ok(())
}

/// Sends the pages of `range` over, as a network would.
fn send(from: &Guest<'_>, to: &Guest<'_>, range: GuestPhysRange) -> Result<(), Box<dyn std::error::Error>> {
    from.memory().copy_to(range.start(), &to.memory(), range.start(), range.size())?;
    Ok(())
}

/// Pages that are not the same on both sides.
fn differences(one: &Guest<'_>, other: &Guest<'_>) -> Result<u64, Box<dyn std::error::Error>> {
    let mut different = 0;
    let (mut left, mut right) = ([0; PAGE_SIZE as usize], [0; PAGE_SIZE as usize]);
    for number in 0..PAGES {
        one.read(page(number), &mut left)?;
        other.read(page(number), &mut right)?;
        different += u64::from(left != right);
    }
    Ok(different)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (here, there) = (Host::new(Npt::default(), 1024, 2), Host::new(Npt::default(), 1024, 1));
    let (mut source, target) = (guest(&here)?, guest(&there)?);
    here.enter(0, &source);
    work(&here, &source, 0, PAGES)?;

    // From now on every page that is written to is known, whatever this CPU keeps by itself (here it has no dirty flags: a write
    // faults once for each page and round).
    source.start_dirty_log(START, SIZE, LogUnit::Page)?;
    send(&source, &target, GuestPhysRange::new(START, SIZE)?)?;
    println!("round 0: all {PAGES} pages");

    let mut written = 100;
    for round in 1.. {
        work(&here, &source, round * 37, written)?; // the guest runs on
        written /= 3;
        let mut dirty = Vec::new();
        // The collection makes them clean and invalidates; what is copied after it, is copied whole.
        let pages = source.collect_dirty(START, SIZE, |range| dirty.push(range))?;
        dirty.iter().try_for_each(|range| send(&source, &target, *range))?;
        println!("round {round}: {pages} pages that were written to meanwhile");
        if pages < FEW {
            break;
        }
    }

    // The last words of the guest here, then it stands still.
    work(&here, &source, 400, 5)?;
    here.leave(0);
    let different = differences(&source, &target)?;
    println!("the guest stops: {different} pages are not there yet");
    assert_eq!(different, 5, "without the last round these would be lost");
    let mut last = Vec::new();
    source.collect_dirty(START, SIZE, |range| last.push(range))?;
    last.iter().try_for_each(|range| send(&source, &target, *range))?;
    assert_eq!(differences(&source, &target)?, 0);
    source.stop_dirty_log(START, SIZE)?;

    // It goes on over there.
    there.enter(0, &target);
    assert_eq!(there.load(0, page(404)).ok(), here_value(&source, 404)?);
    println!("it goes on over there, with the same {PAGES} pages");
    there.leave(0);
    Ok(())
}

fn here_value(guest: &Guest<'_>, number: u64) -> Result<Option<u64>, Box<dyn std::error::Error>> {
    Ok(Some(guest.read_obj(page(number))?))
}
