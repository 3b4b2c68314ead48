//! Tests of more than one module.

mod agreement;
mod codecs;
mod faults;
mod hostile;
mod model;

use crate::{Cpu, End, Format, Mapping, Root, Tables, Visitor, Words};
use core::ops::ControlFlow;
use std::vec;
use std::vec::Vec;

#[derive(Default)]
struct Leaves(Vec<Mapping>);

impl Visitor for Leaves {
    fn leaf(&mut self, mapping: &Mapping) -> ControlFlow<()> {
        self.0.push(*mapping);
        ControlFlow::Continue(())
    }
}

#[test]
fn a_small_long_mode_table() {
    let mut words = vec![0u64; 4 * 512];
    words[511] = 0x2003; // the last PML4E: the upper half
    words[512 + 510] = 0x3003;
    words[1024 + 1] = 0x8000_0000_4020_00e3; // 2 MiB
    words[1024 + 2] = 0x4003;
    words[1536 + 7] = 0x1234_5067;
    let memory = Words { base: 0x1000, words: &words };
    let tables = Tables::new(Root::new(Format::X86_64, 0x1000).unwrap(), Cpu::permissive(Format::X86_64));
    let walk = tables.walk(&memory, 0xffff_ffff_8040_7abc);
    assert_eq!(walk.output(), Some(0x1234_5abc));
    assert_eq!(walk.steps().count(), 4);
    let mut leaves = Leaves::default();
    let summary = tables.visit(&memory, 0..=u64::MAX, 100_000, &mut leaves);
    assert_eq!((summary.end, summary.entries), (End::Complete, 4 * 512));
    let seen: Vec<_> = leaves.0.iter().map(|m| (m.address, m.output, m.length)).collect();
    assert_eq!(
        seen,
        [(0xffff_ffff_8020_0000, 0x4020_0000, 1 << 21), (0xffff_ffff_8040_7000, 0x1234_5000, 1 << 12)]
    );
}
