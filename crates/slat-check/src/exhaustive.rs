//! Every sequence of a few operations over a few pages and one large leaf.

use crate::driver::Settings;
use crate::operation::{BatchEnd, Command, Operation, Step};
use crate::run::{AnyPlatform, Counts, Failure};
use crate::shape::{Shape, Span};
use slat::{LeafSize, MappingFlags, PAGE_SIZE};

/// A page, and a block of 2 MiB behind it of which the first page can be had alone.
#[must_use]
pub fn shape(edge: u64) -> Shape {
    let block = 2 << 20;
    Shape {
        name: "exhaustive",
        boundaries: vec![edge - PAGE_SIZE, edge, edge + PAGE_SIZE, edge + block],
        pages: vec![edge - PAGE_SIZE, edge, edge + PAGE_SIZE, edge + block - PAGE_SIZE],
        complete: false,
        largest: LeafSize::Size2M,
        frames: 1200,
    }
}

/// The operations: those that map come first.
#[must_use]
pub fn alphabet() -> Vec<Operation> {
    let span = |first, length: u8| Span { first, length: length - 1 };
    let (before, first) = (span(0, 1), span(1, 1));
    let (pages, block, all) = (span(0, 2), span(1, 2), span(0, 3));
    let read = MappingFlags::READ;
    let rw = read | MappingFlags::WRITE;
    let rwx = rw | MappingFlags::EXECUTE | MappingFlags::USER;
    let alloc = |span, flags, populate, largest| Operation::MapAlloc {
        span,
        flags,
        populate,
        largest,
        around: LeafSize::Size4K,
    };
    let access = |cpu, page, access| Operation::Access { cpu, page, access };
    vec![
        Operation::MapLinear { span: block, flags: rwx, shift: 0 },
        alloc(all, rwx, false, LeafSize::Size4K),
        alloc(before, rw, true, LeafSize::Size4K),
        alloc(pages, rw, true, LeafSize::Size4K),
        alloc(block, rwx, false, LeafSize::Size2M),
        Operation::Unmap(all),
        Operation::Unmap(before),
        Operation::Unmap(first),
        Operation::Fork { into: 0 },
        Operation::Protect(all, read),
        Operation::Protect(first, read),
        Operation::Protect(first, MappingFlags::empty()),
        Operation::Protect(pages, rw),
        Operation::Protect(first, rw | MappingFlags::DEVICE),
        access(0, 0, MappingFlags::WRITE),
        access(1, 1, MappingFlags::WRITE),
        access(1, 0, MappingFlags::READ),
        access(0, 2, MappingFlags::WRITE),
        Operation::Migrate(pages),
        Operation::Collapse(all),
        Operation::Populate(pages),
        Operation::Batch(vec![Step::Unmap(before), Step::Protect(first, read)], BatchEnd::Forget),
        // The first one takes the snapshot.
        Operation::Reset,
        Operation::Clear,
    ]
}

/// Operations of the [`alphabet`] that map.
const MAPPING: usize = 5;

/// Runs every sequence of `length` operations of which the first one maps (others have nothing to do on an empty space).
/// Only every `parts`th of them, from `part` on, so that several threads share the work.
///
/// # Errors
/// The first violation, with the commands that led to it.
pub fn run(platform: &AnyPlatform, length: u32, part: u64, parts: u64) -> Result<Counts, Box<Failure>> {
    let shape = shape((1 << 30) + (2 << 20));
    let alphabet = alphabet();
    let letters = alphabet.len() as u64;
    let mut counts = Counts::default();
    for number in (part..MAPPING as u64 * letters.pow(length - 1)).step_by(parts as usize) {
        let settings = Settings { cpus: 2, spaces: 1, failing: false, seed: number };
        let mut rest = number;
        let mut commands = vec![];
        for place in 0..length {
            let choices = if place == 0 { MAPPING as u64 } else { letters };
            let operation = alphabet[(rest % choices) as usize].clone();
            commands.push(Command { space: 0, operation });
            rest /= choices;
        }
        counts.add(platform.run(&shape, settings, None, &commands)?);
    }
    Ok(counts)
}
