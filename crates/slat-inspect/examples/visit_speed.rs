//! How long a visit of 16 Mi leaves of 4 KiB takes, in every format: `cargo run --release -p slat-inspect --example visit_speed`.
//!
//! All last-level tables are the same one, so that what is measured is the reader and not the memory.

use core::ops::ControlFlow;
use slat_inspect::{Cpu, Format, Mapping, Root, Runs, Tables, Visitor, Words};
use std::time::Instant;

struct Count(u64);

impl Visitor for Count {
    fn leaf(&mut self, mapping: &Mapping) -> ControlFlow<()> {
        self.0 += mapping.length;
        ControlFlow::Continue(())
    }
}

/// The runs, and how many are complete.
struct List(Runs, usize);

impl Visitor for List {
    fn leaf(&mut self, mapping: &Mapping) -> ControlFlow<()> {
        self.1 += usize::from(self.0.push(mapping).is_some());
        ControlFlow::Continue(())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for format in Format::ALL {
        let pointer = |table: u64| match format {
            Format::Ept => table | 7,
            Format::Npt | Format::X86_64 => table | 0x27,
            Format::Stage2 => table | 3,
            _ => table >> 2 | 1,
        };
        let leaf = |page: u64| match format {
            Format::Ept => page | 0x37,
            Format::Npt | Format::X86_64 => page | 0x67,
            Format::Stage2 => page | 0x7ff,
            _ => page >> 2 | 0xdf,
        };
        let mut words = vec![0; 16 * 512];
        // A root table at 16 KiB, of which each lower level has one table; 64 tables of level 1 with 512 pointers each.
        let root = Root::new(format, 0x4000)?;
        let mut table = 0x4000;
        for level in (1..=root.level()).rev() {
            let next = 0x8000 + 0x1000 * u64::from(level);
            let entries = if level == 2 {
                64
            } else if level == 1 {
                512
            } else {
                1
            };
            for entry in 0..entries {
                words[(table / 8) as usize + entry] = pointer(next);
            }
            table = next;
        }
        for entry in 0..512 {
            words[(table / 8) as usize + entry] = leaf(0x8000_0000 + 0x1000 * entry as u64);
        }
        let memory = Words { base: 0, words: &words };
        let tables = Tables::new(root, Cpu::permissive(format));
        let begin = Instant::now();
        let mut count = Count(0);
        let summary = tables.visit(&memory, 0..=u64::MAX, u64::MAX, &mut count);
        let visit = begin.elapsed();
        let begin = Instant::now();
        let mut list = List(Runs::new(true), 0);
        tables.visit(&memory, 0..=u64::MAX, u64::MAX, &mut list);
        let runs = list.1 + usize::from(list.0.finish().is_some());
        let listing = begin.elapsed();
        let leaves = count.0 >> 12;
        println!(
            "{format}: {leaves} leaves, {} entries; visit {:.1} ns per leaf, {runs} runs {:.1} ns per leaf",
            summary.entries,
            visit.as_nanos() as f64 / leaves as f64,
            listing.as_nanos() as f64 / leaves as f64
        );
    }
    Ok(())
}
