//! How RAM fills up: what is mapped of each part of it at each time.

use super::{BINS, Bins, kind_of};
use crate::trace::Trace;
use serde::Serialize;
use slat::trace::{FaultAnswer, Operation, What};
use slat::{HostPhysAddr, LeafSize, PAGE_SIZE};

/// Rows of the map over time, at the most.
const ROWS: usize = 64;

/// Cells of the map of all pages, at the most: 32 rows of 64.
const CELLS: usize = 2048;

/// RAM of one space.
#[derive(Debug, Serialize)]
pub(super) struct Memory {
    /// First guest-physical address, as text, and bytes.
    start: String,
    size: u64,
    /// Bytes of a row, and for each row what is mapped of it at the end of each bin, in parts of 255.
    row: u64,
    rows: Vec<Vec<u8>>,
    /// Bytes of a cell; for each cell when something of it was mapped first, by which leaf (its level), and for which kind of
    /// access (0 read, 1 write, 2 fetch); nothing if nothing ever was.
    cell: u64,
    cells: Vec<Option<(f64, u8, usize)>>,
    /// Bytes mapped at the end of each bin.
    mapped: Vec<u64>,
}

/// Follows the space with this root through the trace.
pub(super) fn fill(
    trace: &Trace,
    (start, size): (u64, u64),
    root: Option<HostPhysAddr>,
    time: &Bins,
) -> Memory {
    let pages = (size / PAGE_SIZE) as usize;
    let row_pages = pages.div_ceil(ROWS).max(1).next_power_of_two();
    let cell_pages = pages.div_ceil(CELLS).max(1).next_power_of_two();
    let mut memory = Memory {
        start: format!("{start:#x}"),
        size,
        row: row_pages as u64 * PAGE_SIZE,
        rows: vec![Vec::new(); pages.div_ceil(row_pages)],
        cell: cell_pages as u64 * PAGE_SIZE,
        cells: vec![None; pages.div_ceil(cell_pages)],
        mapped: Vec::new(),
    };
    let mut there = vec![false; pages];
    // The pages of RAM in a range of guest-physical addresses.
    let range = |from: u64, bytes: u64| {
        let page = |address: u64| (address.saturating_sub(start) / PAGE_SIZE).min(pages as u64) as usize;
        page(from)..page(from.saturating_add(bytes).max(start))
    };
    let mut last = (LeafSize::Size4K, 0);
    let mut changes = changes(trace, root);
    changes.sort_by(|one, other| one.at.total_cmp(&other.at));
    let mut changes = changes.into_iter().peekable();
    for bin in 0..BINS {
        while let Some(change) = changes.next_if(|change| time.of(change.at) <= bin) {
            if let Some(by) = change.by {
                last = by;
            }
            let pages = range(change.start, change.bytes);
            there[pages.clone()].fill(change.mapped);
            if change.mapped {
                for cell in pages.start / cell_pages..pages.end.div_ceil(cell_pages) {
                    memory.cells[cell].get_or_insert((change.at, last.0.level(), last.1));
                }
            }
        }
        for (row, pages) in memory.rows.iter_mut().zip(there.chunks(row_pages)) {
            let mapped = pages.iter().filter(|there| **there).count();
            row.push((mapped * 255).div_ceil(pages.len()) as u8);
        }
        memory.mapped.push(there.iter().filter(|there| **there).count() as u64 * PAGE_SIZE);
    }
    memory
}

/// Something was mapped or taken away.
struct Change {
    at: f64,
    start: u64,
    bytes: u64,
    mapped: bool,
    /// The leaf, and the kind of access that wanted it; those of the last one where a window around a fault was mapped.
    by: Option<(LeafSize, usize)>,
}

fn changes(trace: &Trace, root: Option<HostPhysAddr>) -> Vec<Change> {
    let of_space = trace.events.iter().filter(|event| Some(event.root) == root);
    of_space
        .filter_map(|event| {
            match event.what {
                What::Fault { gpa, access, answer: FaultAnswer::Populated, leaf: Some(leaf) } => {
                    let start = gpa.align_down(leaf.bytes()).as_u64();
                    let by = Some((leaf, kind_of(access)));
                    // Before the window around it, which ends before the fault does.
                    let at = trace.microseconds(event.begin);
                    Some(Change { at, start, bytes: leaf.bytes(), mapped: true, by })
                }
                What::Operation { operation, start, size, result: Ok(_) } => {
                    let mapped = match operation {
                        Operation::PopulateAround | Operation::Populate => true,
                        // The end of the space is the end of the story, and no part of it.
                        Operation::Unmap | Operation::Discard => false,
                        _ => return None,
                    };
                    let at = trace.microseconds(event.end);
                    Some(Change { at, start: start.as_u64(), bytes: size, mapped, by: None })
                }
                _ => None,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests;
