//! The emulated machine's command lines.
//!
//! Invariant: neither has semihosting, a network or a disk; through semihosting a guest could reach the host's
//! files.

use super::layout::Layout;
use slat_hv_protocol::MemoryMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The emulator and the CPUs that it emulates.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    /// The emulator's path.
    pub(crate) emulator: PathBuf,
    /// The CPU model.
    pub(crate) cpu: String,
    /// How many CPUs; the guest has as many.
    pub(crate) cpus: u32,
}

impl Machine {
    /// The hypervisor at EL2, with the files of a run in memory where `layout` says.
    pub(crate) fn with_hypervisor(&self, hypervisor: &Path, files: &Files<'_>, layout: &Layout) -> Command {
        debug_assert_eq!(layout.kernel.address, MemoryMap::AARCH64.blobs);
        let mut machine = "virt,virtualization=on,gic-version=3,its=off".to_owned();
        if files.memory.is_some() {
            machine.push_str(",memory-backend=ram");
        }
        let mut command = self.command(&machine, layout.machine_memory);
        if let Some(memory) = files.memory {
            command.arg("-object").arg(backend(memory, layout.machine_memory));
        }
        command.arg("-kernel").arg(hypervisor);
        command.arg("-device").arg(loader(files.params, MemoryMap::AARCH64.params));
        command.arg("-device").arg(loader(files.kernel, layout.kernel.address));
        if let Some(initrd) = files.initrd {
            command.arg("-device").arg(loader(initrd, layout.initrd.address));
        }
        command
    }

    /// The guest's kernel at EL1 with nothing below it.
    pub(crate) fn native(&self, files: &Files<'_>, memory: u64, bootargs: &str) -> Command {
        let mut command = self.command("virt,gic-version=3,its=off", memory);
        command.arg("-kernel").arg(files.kernel).arg("-append").arg(bootargs);
        if let Some(initrd) = files.initrd {
            command.arg("-initrd").arg(initrd);
        }
        command
    }

    fn command(&self, machine: &str, memory: u64) -> Command {
        let mut command = guarded(&self.emulator);
        command.args(["-machine", machine, "-cpu", &self.cpu, "-m", &format!("{}K", memory >> 10)]);
        command.args(["-smp", &self.cpus.to_string()]);
        // One serial port on stdio and nothing else: no monitor that a stray byte could reach.
        command.args(["-display", "none", "-monitor", "none", "-serial", "stdio", "-nic", "none"]);
        command.args(["-no-user-config", "-nodefaults", "-no-reboot"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        command
    }
}

/// Files of one run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Files<'a> {
    /// The parameter block; unused natively.
    pub(crate) params: &'a Path,
    /// The guest's kernel.
    pub(crate) kernel: &'a Path,
    /// The guest's initial RAM disk.
    pub(crate) initrd: Option<&'a Path>,
    /// A file that is to hold the machine's RAM, for looking at it afterwards.
    pub(crate) memory: Option<&'a Path>,
}

/// RAM that is the file `memory`.
fn backend(memory: &Path, size: u64) -> OsString {
    let memory = memory.to_string_lossy().replace(',', ",,");
    format!("memory-backend-file,id=ram,mem-path={memory},size={}K,share=on", size >> 10).into()
}

/// A loader device that puts `file` at `address` as it is.
fn loader(file: &Path, address: u64) -> OsString {
    // A comma in a path would end the property; doubled, it does not.
    let file = file.to_string_lossy().replace(',', ",,");
    format!("loader,file={file},addr={address:#x},force-raw=on").into()
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
