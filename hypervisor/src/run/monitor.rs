//! The monitor's answers about one guest, and the dialogue on the console while the guest is stopped.
//!
//! The vCPU that finds the key stops where its exit left it, and stays on its CPU. **The others** go on until their next exit, and wait
//! there; they take no lock of this one's meanwhile. While the monitor is open nothing changes the space but faults and the guests'
//! vCPUs that have not left yet.

use super::{Machine, Space, Stop};
use crate::monitor::faults::{Answered, Fault};
use crate::monitor::terminal::{ESCAPE, Line, Terminal};
use crate::monitor::{Answer, Command, tables, write_help, write_names};
use crate::pool::Host;
use crate::vcpu::Vcpu;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::hint::spin_loop;
use slat::format::Format;
use slat::{Audit, AuditRecord, AuditedSpace, FaultOutcome, NestedPageFaultInfo};
use slat_hv_protocol::End;

/// Violations that are listed; the others are counted.
const VIOLATIONS_MAX: usize = 32;

impl<H: Host, F: Format> Machine<'_, H, F> {
    /// The answer to `command` of the guest itself, by the debug port.
    pub(super) fn debug<V: Vcpu>(&self, vcpu: &V, command: Command) -> Result<String, Stop> {
        match command {
            Command::Help | Command::Unknown | Command::Continue | Command::Quit => {
                Ok(Answer::of(|out| write_names(out)))
            }
            command => self.tell(vcpu, command),
        }
    }

    /// The answer to a question.
    fn tell<V: Vcpu>(&self, vcpu: &V, command: Command) -> Result<String, Stop> {
        let statistics = self.statistics();
        let space = self.space.read();
        let space = space.as_ref().filter(|_| !self.cpus.is_ending()).ok_or(Stop::Stopped)?;
        Ok(Answer::of(|out| match command {
            Command::Registers => vcpu.write_registers(out),
            Command::Map => write!(out, "{}", space.dump()),
            Command::Query(gpa) => {
                tables::write_query(space, gpa, out)?;
                match space.region(gpa) {
                    Some(region) => writeln!(out, "region {} {}", region.range, region.flags),
                    None => writeln!(out, "in no region"),
                }
            }
            Command::Dump => tables::write_tables(space, out),
            Command::Statistics => write!(out, "{statistics}{}", space.stats()),
            Command::Faults => write!(out, "{}", self.faults.lock()),
            Command::Audit => write_audit(space, out),
            Command::Flushes => {
                let counts = space.hal().invalidations();
                counts.iter().try_for_each(|(kind, count)| writeln!(out, "{kind:<24}{count}"))?;
                writeln!(out, "{:<24}{}", "all", counts.values().sum::<u64>())
            }
            Command::Help | Command::Continue | Command::Quit | Command::Unknown => write_help(out),
        }))
    }

    /// After each exit: if the key was pressed, the guest is stopped until the monitor lets it go on. Whatever else came is typed in.
    pub(super) fn attend<V: Vcpu>(&self, cpu: usize, vcpu: &V) -> Result<(), Stop> {
        let Some(terminal) = self.job.terminal else { return Ok(()) };
        // Who comes while it is open waits here.
        let _open = self.monitor.lock();
        while let Some(byte) = terminal.poll() {
            if byte == ESCAPE {
                return self.converse(cpu, vcpu, terminal);
            }
            self.uart.lock().type_in(&[byte]);
        }
        Ok(())
    }

    fn converse<V: Vcpu>(&self, cpu: usize, vcpu: &V, terminal: &dyn Terminal) -> Result<(), Stop> {
        let pc = vcpu.program_counter();
        terminal.tell(
            &Answer::of(|out| {
                writeln!(out, "vCPU {cpu} is stopped at PC {pc:#x}. `help` lists the commands, `continue` lets it go on.")
            }),
            true,
        );
        let mut line = Line::default();
        loop {
            // Another vCPU may have ended the run, and waits for this one to leave.
            if self.cpus.is_ending() {
                terminal.tell("the guest has ended\n", false);
                return Err(Stop::Stopped);
            }
            let Some(byte) = terminal.take() else {
                spin_loop();
                continue;
            };
            for command in line.push(byte).unwrap_or_default() {
                match command {
                    Command::Continue => {
                        terminal.tell("the guest goes on\n", false);
                        return Ok(());
                    }
                    Command::Quit => {
                        terminal.tell("the run ends\n", false);
                        return Err(Stop::Ended(End::Quit));
                    }
                    command => terminal.tell(&self.tell(vcpu, command)?, true),
                }
            }
        }
    }

    /// Remembers a fault and what became of it. An access to a device that is emulated is none.
    pub(super) fn note_fault<V: Vcpu>(
        &self,
        cpu: usize,
        vcpu: &V,
        info: &NestedPageFaultInfo,
        answered: Answered,
    ) {
        if matches!(answered, Answered::Library(Ok(FaultOutcome::Trap(_)))) {
            return;
        }
        let fault = Fault { cpu, pc: vcpu.program_counter(), info: *info, answered };
        self.faults.lock().add(fault);
    }
}

/// The library's audit of one space; that guests write where they execute is the rule here, and no violation.
fn write_audit<H: Host, F: Format>(space: &Space<'_, H, F>, out: &mut dyn fmt::Write) -> fmt::Result {
    let spaces = [AuditedSpace { space, write_xor_execute: false }];
    let audit = Audit { spaces: &spaces, reserved: &[], shared: &[] };
    // Faults of other vCPUs may add some between the two passes.
    let needed = audit.records() + 16;
    let mut scratch = Vec::new();
    if scratch.try_reserve_exact(needed).is_err() {
        return writeln!(out, "there is no memory for an audit of {needed} records");
    }
    scratch.resize(needed, AuditRecord::default());
    let (mut listed, mut written) = (0, Ok(()));
    let found = audit.run(&mut scratch, |violation| {
        if listed < VIOLATIONS_MAX && written.is_ok() {
            written = writeln!(out, "{violation}");
        }
        listed += 1;
    });
    written?;
    match found {
        Ok(0) => writeln!(out, "no violation in {} records", needed - 16),
        Ok(count) => writeln!(out, "{count} violations"),
        Err(error) => writeln!(out, "{error}"),
    }
}
