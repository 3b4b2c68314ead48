//! The emulated machines: the command line of each, and the files that it wants.
//!
//! Invariant: none has semihosting, a network or a disk; through semihosting a guest could reach the host's files.

mod bochs;
mod payload;
mod qemu;

pub(crate) use bochs::{MODELS as BOCHS_MODELS, model as bochs_model};

use super::layout::Layout;
use super::session::Guest;
use crate::platform::Platform;
use anyhow::{Context, Result};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The emulator and the CPUs that it emulates.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    /// What is emulated.
    pub(crate) platform: Platform,
    /// The emulator's path.
    pub(crate) emulator: PathBuf,
    /// The CPU model.
    pub(crate) cpu: String,
    /// How many CPUs; the guest has as many, unless it is told of one alone.
    pub(crate) cpus: u32,
    /// How fast its clocks go.
    pub(crate) pace: Pace,
}

/// How much of the machine's time passes while it executes an instruction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Pace {
    /// About as much as on the hardware, as far as the emulator goes.
    #[default]
    Usual,
    /// Much, for programs that wait for time to pass.
    Waiting,
    /// The same for each instruction, so that two runs of one machine are the same from the first byte to the last. In QEMU
    /// alone.
    Counted,
}

/// Files of one run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Files<'a> {
    /// The parameter block; unused natively.
    pub(crate) params: &'a Path,
    /// The guest's kernel; none for unit guests, which the hypervisor brings along.
    pub(crate) kernel: Option<&'a Path>,
    /// The guest's initial RAM disk.
    pub(crate) initrd: Option<&'a Path>,
    /// A snapshot that the guest is to go on from.
    pub(crate) snapshot: Option<&'a Path>,
}

/// A machine that can be started.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// Starts it; its serial port is the standard output, and the standard input where something is to be typed.
    pub(crate) command: Command,
    /// Where the machine connects to for its serial port instead of that.
    pub(crate) listener: Option<TcpListener>,
    /// The file in which memory is found afterwards, and at which offset there the recording begins; if it was wanted.
    pub(crate) recording: Option<(PathBuf, u64)>,
    /// The same of its trace.
    pub(crate) trace: Option<(PathBuf, u64)>,
    /// The same of the snapshot that the run is to make.
    pub(crate) snapshot: Option<(PathBuf, u64)>,
    /// Where QEMU's monitor is found while the machine runs.
    pub(crate) monitor: Option<PathBuf>,
    /// Finds what the emulator complained about in what it wrote to its standard error.
    pub(crate) complaint: fn(&str) -> &str,
}

impl Prepared {
    /// A machine that leaves nothing behind.
    pub(crate) fn new(command: Command, complaint: fn(&str) -> &str) -> Self {
        Self {
            command,
            listener: None,
            recording: None,
            trace: None,
            snapshot: None,
            monitor: None,
            complaint,
        }
    }
}

impl Machine {
    /// The hypervisor, with the files of a run in memory where `layout` says. Files that are made go into `directory`, as
    /// does the memory that is to be kept for its recording or its trace. `typed` says that something is to be typed on the serial
    /// port.
    pub(crate) fn with_hypervisor(
        &self,
        hypervisor: &Path,
        files: &Files<'_>,
        layout: &Layout,
        directory: &Path,
        typed: bool,
    ) -> Result<Prepared> {
        let (record, traced) = (layout.recording.size > 0, layout.trace.size > 0);
        if self.platform == Platform::Intel {
            payload::write(&directory.join(bochs::PAYLOAD), files, layout, &self.platform.map())?;
            let listen =
                || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no socket for the serial port");
            let listener = typed.then(listen).transpose()?;
            bochs::write_files(self, hypervisor, layout, directory, listener.as_ref())?;
            let recording = record.then(|| (directory.join(bochs::RECORDING), 0));
            let trace = traced.then(|| (directory.join(bochs::TRACE), 0));
            let command = bochs::command(self, directory);
            let complaint = bochs::complaint;
            return Ok(Prepared {
                command,
                listener,
                recording,
                trace,
                snapshot: None,
                monitor: None,
                complaint,
            });
        }
        let snapshots = layout.image.size > 0 && files.snapshot.is_none();
        let memory = (record || traced || snapshots).then(|| directory.join("memory"));
        let kept = memory.as_deref();
        let mut command = match self.platform {
            Platform::Arm => qemu::arm(self, hypervisor, files, layout, kept),
            Platform::Riscv => qemu::riscv(self, hypervisor, files, layout, kept),
            Platform::Intel | Platform::Amd => {
                let payload = directory.join("payload");
                payload::write(&payload, files, layout, &self.platform.map())?;
                qemu::x86(self, hypervisor, &payload, layout, kept)
            }
        };
        let at = |wanted: bool, span| {
            memory.clone().filter(|_| wanted).map(|memory| (memory, layout.offset(span)))
        };
        let (recording, snapshot) = (at(record, layout.recording), at(snapshots, layout.image));
        let trace = at(traced, layout.trace);
        let socket = directory.join("monitor");
        command.arg("-qmp").arg(qemu::socket(&socket));
        let (monitor, complaint) = (Some(socket), qemu::complaint);
        Ok(Prepared { command, listener: None, recording, trace, snapshot, monitor, complaint })
    }

    /// The guest's kernel with nothing below it, where that can be.
    pub(crate) fn native(&self, files: &Files<'_>, memory: u64, bootargs: &str) -> Result<Prepared> {
        let kernel = files.kernel.context("there is no kernel")?;
        anyhow::ensure!(
            self.platform.has_native(),
            "{} is too slow for that",
            self.platform.emulator_title()
        );
        let command = qemu::native(self, kernel, files.initrd, memory, bootargs);
        let complaint = qemu::complaint;
        Ok(Prepared::new(command, complaint))
    }

    /// As [`Machine::native`], with QEMU's monitor on the socket `monitor`, which is made.
    pub(crate) fn native_with_monitor(&self, guest: &Guest, monitor: &Path) -> Result<Command> {
        let (kernel, initrd) = (&guest.kernel, guest.initrd.as_deref());
        let mut command = qemu::native(self, kernel, initrd, guest.memory, &guest.bootargs);
        command.arg("-qmp").arg(qemu::socket(monitor));
        Ok(command)
    }
}

/// A command for `program` that dies with us even when we are killed outright, where the system has a tool for it.
fn guarded(program: &Path) -> Command {
    const SETPRIV: &str = "/usr/bin/setpriv";
    if Path::new(SETPRIV).is_file() {
        let mut command = Command::new(SETPRIV);
        command.args(["--pdeathsig", "KILL", "--"]).arg(program);
        command
    } else {
        Command::new(program)
    }
}

#[cfg(test)]
mod tests;
