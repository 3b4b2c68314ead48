//! What is written of a run that was traced.

use super::{Machine, Summary};
use crate::trace::{chrome, story};
use anyhow::{Context, Result};
use slat_hv_protocol::MemoryMap;
use std::fs::File;
use std::io::{BufWriter, Write};

impl Summary<'_> {
    /// Writes the files that the options ask for, and says so on stderr.
    pub(crate) fn write_trace(&self) -> Result<()> {
        let Some(trace) = &self.seen.trace else {
            if self.options.is_traced() {
                eprintln!("warning: the run has left no trace");
            }
            return Ok(());
        };
        if trace.overwritten + trace.dropped > 0 {
            let (first, dropped) = (trace.overwritten, trace.dropped);
            eprintln!(
                "warning: the first {first} events are not in the trace any more, and {dropped} never were"
            );
        }
        if let Some(file) = &self.options.trace {
            let cannot = || format!("cannot write the trace {}", file.display());
            let mut writer = BufWriter::new(File::create(file).with_context(cannot)?);
            chrome::write(trace, &self.title(), &mut writer).with_context(cannot)?;
            writer.flush().with_context(cannot)?;
            eprintln!(
                "{} events are in {}: https://ui.perfetto.dev shows it",
                trace.events.len(),
                file.display()
            );
        }
        if let Some(file) = &self.options.report {
            let subject = story::Subject {
                title: self.title(),
                machine: self.machine_words(),
                faults: self.machine.faults(),
                ram: self.ram(),
                report: self.seen.report.as_ref(),
                verdict: self.verdict.as_ref().err().map(String::as_str),
            };
            let page = story::page(trace, &subject)?;
            std::fs::write(file, page).with_context(|| format!("cannot write {}", file.display()))?;
            eprintln!("the story of the run is drawn in {}", file.display());
        }
        Ok(())
    }

    /// The guest and what it ran on, in a line.
    fn title(&self) -> String {
        let on = match self.machine {
            Machine::Emulator(platform) => format!("{} in {}", platform.arch(), platform.emulator_title()),
            Machine::Model(cpu) => format!("a {}", cpu.description()),
        };
        format!("{} under slat on {on}", self.name)
    }

    /// The machine, in a line.
    fn machine_words(&self) -> String {
        let cpu = match self.machine {
            Machine::Emulator(_) => self.options.cpu(),
            Machine::Model(_) => "a model",
        };
        let (cpus, memory) = (self.options.machine_cpus(), self.guest.memory >> 20);
        let guests =
            if self.options.guests > 1 { format!("{} guests, ", self.options.guests) } else { String::new() };
        let plural = if cpus == 1 { "CPU" } else { "CPUs" };
        format!("{guests}{memory} MiB of RAM, {cpus} {plural} ({cpu})")
    }

    /// First address and bytes of the guest's RAM.
    fn ram(&self) -> (u64, u64) {
        let start = match self.machine {
            Machine::Emulator(platform) => platform.map().guest_ram,
            Machine::Model(_) => MemoryMap::AARCH64.guest_ram,
        };
        (start, self.guest.memory)
    }
}
