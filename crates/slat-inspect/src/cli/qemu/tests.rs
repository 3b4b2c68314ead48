use super::{Listing, Printer};
use crate::cli::output::Output;
use crate::{Cpu, Format, Mapping, Root, Tables, Visitor, Words};
use std::ops::ControlFlow;

struct Printed<'a, 'o> {
    root: &'a Root,
    printer: Printer,
    output: Output<'o>,
}

impl Visitor for Printed<'_, '_> {
    fn leaf(&mut self, mapping: &Mapping) -> ControlFlow<()> {
        self.printer.leaf(self.root, mapping, &mut self.output).unwrap();
        ControlFlow::Continue(())
    }
}

/// The listing of tables that lie from 0x1000 on, with these entries: table, index, value.
fn list(format: Format, listing: Listing, entries: &[(usize, usize, u64)]) -> Vec<String> {
    let mut words = vec![0; 8 * 512];
    for (table, index, value) in entries {
        words[512 * table + index] = *value;
    }
    let tables = Tables::new(Root::new(format, 0x1000).unwrap(), Cpu::permissive(format));
    let mut text = Vec::new();
    print(&tables, listing, &words, &mut text);
    String::from_utf8(text).unwrap().lines().map(str::to_owned).collect()
}

fn print(tables: &Tables, listing: Listing, words: &[u64], text: &mut Vec<u8>) {
    let mut output = Output::new(text, false, false);
    let printer = Printer::new(listing, tables, &mut output).unwrap();
    let mut printed = Printed { root: tables.root(), printer, output };
    tables.visit(&Words { base: 0x1000, words }, 0..=u64::MAX, 1 << 20, &mut printed);
    let Printed { mut printer, mut output, .. } = printed;
    printer.finish(&mut output).unwrap();
    output.finish().unwrap();
}

/// x86-64: two pages in the lowest 2 MiB, a page of 2 MiB behind them, and the last page of all.
const X86: [(usize, usize, u64); 9] = [
    (0, 0, 0x2007),
    (1, 0, 0x3007),
    (2, 0, 0x4005),
    (3, 510, 0x8000_0000_0900_0063),
    (3, 511, 0x0080_00e3),
    (2, 1, 0x0060_01e7),
    (0, 511, 0x5003),
    (4, 511, 0x6003),
    (5, 511, 0x0020_0083),
];

#[test]
fn info_tlb_shows_each_leaf_with_its_own_flags() {
    let expected = [
        "00000000001fe000: 0000000009000000 X--DA---W",
        "00000000001ff000: 0000000000800000 ---DA---W",
        "0000000000200000: 0000000000600000 -GPDA--UW",
        "ffffffffffe00000: 0000000000200000 --P-----W",
    ];
    assert_eq!(list(Format::X86_64, Listing::Tlb, &X86), expected);
}

#[test]
fn info_mem_of_x86_merges_what_is_protected_alike() {
    let expected = [
        "00000000001fe000-0000000000200000 0000000000002000 -r-",
        "0000000000200000-0000000000400000 0000000000200000 urw",
        "ffffffffffe00000-0001000000000000 0000000000200000 -rw",
    ];
    assert_eq!(list(Format::X86_64, Listing::Memory, &X86), expected);
}

#[test]
fn info_mem_of_risc_v_ends_a_run_with_its_table() {
    const POINTER: u64 = 1;
    const PAGE: u64 = 0xcf;
    let page = |frame: u64, flags: u64| (frame << 10) | flags;
    let expected = [
        "vaddr            paddr            size             attr",
        "---------------- ---------------- ---------------- -------",
        "00000000001fe000 0000000080000000 0000000000002000 rwx--ad",
        "0000000000200000 0000000080002000 0000000000001000 rwx--ad",
        "0000000000201000 0000000080003000 0000000000001000 rw---ad",
        "ffffffffc0000000 0000000040000000 0000000040000000 rwx--ad",
    ];
    let entries = [
        (0, 0, (2 << 10) | POINTER),
        (1, 0, (3 << 10) | POINTER),
        (1, 1, (4 << 10) | POINTER),
        (2, 510, page(0x8_0000, PAGE)),
        (2, 511, page(0x8_0001, PAGE)),
        (3, 0, page(0x8_0002, PAGE)),
        (3, 1, page(0x8_0003, PAGE & !8)),
        (0, 511, page(0x4_0000, PAGE)),
    ];
    assert_eq!(list(Format::Sv39, Listing::Memory, &entries), expected);
}

#[test]
fn what_qemu_does_not_list_is_an_error() {
    let mut text = Vec::new();
    let mut output = Output::new(&mut text, false, false);
    for (listing, format) in
        [(Listing::Tlb, Format::Sv39), (Listing::Memory, Format::Ept), (Listing::Tlb, Format::Stage2)]
    {
        let tables = Tables::new(Root::new(format, 0x1000).unwrap(), Cpu::permissive(format));
        assert!(Printer::new(listing, &tables, &mut output).is_err(), "{format}");
    }
}
