//! What a fuzzer drives: any bytes as a dump, any of them as a root register, through everything that looks at tables.

use super::draw::{Colour, Picture};
use super::dump::{Dump, Tolerance};
use super::input::CpuOptions;
use super::output::Output;
use super::qemu::{Listing, Printer};
use super::runs;
use crate::{Cpu, Format, Mapping, Register, Root, RunLine, Tables, Visitor};
use std::io;
use std::ops::ControlFlow;

/// Entries that one input may cost.
const LIMIT: u64 = 1 << 14;

/// Takes the first bytes for choices and the rest for a dump. Whatever they are, there is an end to it, and no panic.
pub fn fuzz(data: &[u8]) {
    let Some((choices, bytes)) = data.split_first_chunk::<18>() else { return };
    let word =
        |index: usize| choices[index..].first_chunk().map_or(0, |bytes: &[u8; 8]| u64::from_le_bytes(*bytes));
    let (first, second) = (word(2), word(10));
    let tolerance = Tolerance { truncated: choices[0] & 1 == 1 };
    let base = (choices[0] & 2 == 2).then_some(second & 0xffff_f000);
    let Ok(dump) = Dump::of_bytes(bytes.to_vec(), base, tolerance) else { return };
    let la57 = choices[0] & 4 == 4;
    let format = Format::ALL[usize::from(choices[1]) % Format::ALL.len()];
    let register = match choices[0] >> 4 {
        0 => Register::Cr3 { cr3: first, la57 },
        1 => Register::Ncr3 { ncr3: first, la57 },
        2 => Register::Eptp(first),
        3 => Register::Stage2 { vttbr: first, vtcr: second },
        4 => Register::Hgatp(first),
        5 => Register::Satp(first),
        6 => match dump.cpus.first() {
            Some(cpu) => Register::Cr3 { cr3: cpu.cr3, la57 },
            None => return,
        },
        _ => {
            if let Ok(root) = Root::new(format, first & 0xffff_f000) {
                everything(&dump, &Tables::new(root, Cpu::permissive(format)), first, second);
            }
            return;
        }
    };
    register.fields().for_each(|field| drop(field.to_string()));
    if let Ok(root) = register.root() {
        let mut cpu = Cpu::permissive(root.format());
        register.apply_to(&mut cpu);
        CpuOptions::default().apply_to(&mut cpu);
        everything(&dump, &Tables::new(root, cpu), first, second);
    }
}

fn everything(dump: &Dump, tables: &Tables, first: u64, second: u64) {
    for address in [0, first, second, u64::MAX] {
        let walk = tables.walk(dump, address);
        drop(walk.to_string());
        for step in walk.steps() {
            tables.decoder().fields(step.at.level, step.at.raw).for_each(|field| drop(field.to_string()));
        }
    }
    let (from, to) = (first.min(second), first.max(second));
    for range in [0..=u64::MAX, from..=to] {
        if let Ok((found, troubles)) = runs::collect((dump, tables), range.clone(), LIMIT, first & 1 == 1) {
            found.iter().for_each(|run| drop(RunLine(tables.root().format(), run).to_string()));
            troubles.first.iter().for_each(|trouble| drop(trouble.to_string()));
            if let Ok(picture) = Picture::new(String::new(), tables.clone(), &found, troubles) {
                // A sink takes everything.
                let _ = picture.write_page(&mut io::sink());
                let _ = picture.write_svg(Colour::Memory, &mut io::sink());
            }
        }
        for listing in [Listing::Tlb, Listing::Memory] {
            let mut sink = io::sink();
            let mut output = Output::new(&mut sink, false, false);
            let Ok(printer) = Printer::new(listing, tables, &mut output) else { continue };
            let mut printed = Printed { tables, printer, output };
            tables.visit(dump, range.clone(), LIMIT, &mut printed);
            let Printed { mut printer, mut output, .. } = printed;
            let _ = printer.finish(&mut output);
        }
    }
}

struct Printed<'a, 'o> {
    tables: &'a Tables,
    printer: Printer,
    output: Output<'o>,
}

impl Visitor for Printed<'_, '_> {
    fn leaf(&mut self, mapping: &Mapping) -> ControlFlow<()> {
        let _ = self.printer.leaf(self.tables.root(), mapping, &mut self.output);
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests;
