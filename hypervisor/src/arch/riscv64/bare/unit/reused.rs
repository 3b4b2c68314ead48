//! VMIDs that get a new owner, and tags that roll over.

use super::super::this_hart;
use super::bench::{Bench, Fencing, RAM, Space, VMID, ensure, ensure_eq, fence};
use super::guest::{Loaded, read};
use super::probes::TARGET;
use super::{Failure, UnitGuest, failed};
use alloc::vec::Vec;
use slat::format::gstage::Fence;
use slat::{PAGE_SIZE, TagPool};

pub(super) const GUESTS: &[UnitGuest] = &[
    UnitGuest { name: "hlv-reused-vmid", run: |bench| reused(bench, true) },
    UnitGuest { name: "hlv-reused-vmid-without-fence", run: |bench| reused(bench, false) },
    UnitGuest { name: "hlv-two-vmids", run: two_vmids },
    UnitGuest { name: "hlv-tags-roll-over", run: |bench| roll_over(bench, true) },
    UnitGuest { name: "hlv-tags-roll-over-without-fence", run: |bench| roll_over(bench, false) },
];

fn with_page(bench: &Bench, vmid: u16, value: u64) -> Result<Space, Failure> {
    let mut space = bench.space_under(vmid)?;
    space.map(TARGET, PAGE_SIZE, RAM)?;
    space.set_word(TARGET, value)?;
    Ok(space)
}

/// A space is gone, without a fence of its own; the next one has its VMID.
fn reused(bench: &Bench, with_fence: bool) -> Result<(), Failure> {
    let first = with_page(bench, VMID, 1)?;
    let second = with_page(bench, VMID, 2)?;
    let loaded = Loaded::new(&first);
    ensure_eq!(read(TARGET).ok(), Some(1), "in the first one");
    drop(loaded);
    let loaded = if with_fence { Loaded::new(&second) } else { Loaded::without_fence(&second) };
    ensure_eq!(read(TARGET).ok(), Some(if with_fence { 2 } else { 1 }), "in the second one");
    drop(loaded);
    // Now for everybody.
    fence(Fence { address: None, vmid: None });
    Ok(())
}

/// Two spaces take turns, each under its own VMID.
fn two_vmids(bench: &Bench) -> Result<(), Failure> {
    let spaces = [with_page(bench, VMID, 1)?, with_page(bench, VMID + 1, 2)?];
    for round in 0..6 {
        let space = &spaces[round % 2];
        // QEMU does not tell VMIDs apart, and drops everything here; the hardware need not.
        let loaded = Loaded::new(space);
        ensure_eq!(read(TARGET).ok(), Some(1 + round as u64 % 2), "under its own VMID");
        drop(loaded);
    }
    Ok(())
}

/// More spaces than tags: with tags of two bits the library says when the hart has to drop everything, and has it do so.
fn roll_over(bench: &Bench, with_fence: bool) -> Result<(), Failure> {
    const SPACES: u64 = 5;
    let pool = TagPool::new(bench.host, 2, bench.harts).map_err(|error| failed("tags", error))?;
    let mut spaces = Vec::new();
    for number in 0..SPACES {
        spaces.push(with_page(bench, 0, number)?);
    }
    bench.set_fencing(if with_fence { Fencing::Right } else { Fencing::None });
    let mut wrong = 0;
    for (space, number) in spaces.iter().zip(0..).cycle().take(3 * SPACES as usize) {
        let root = space.activate(&pool, this_hart()).map_err(|error| failed("activate", error))?;
        ensure_eq!(root, space.root_register(), "hgatp");
        let loaded = Loaded::without_fence(space);
        wrong += u64::from(read(TARGET).ok() != Some(number));
        drop(loaded);
    }
    bench.set_fencing(Fencing::Right);
    pool.deactivate(this_hart()).map_err(|error| failed("deactivate", error))?;
    // QEMU does not tell VMIDs apart, so that only the hart's first space of a generation is sure to be seen right.
    if !with_fence {
        ensure!(wrong > 0, "nothing of another space was seen");
    }
    fence(Fence { address: None, vmid: None });
    Ok(())
}
