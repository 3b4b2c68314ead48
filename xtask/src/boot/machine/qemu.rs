//! QEMU's command lines.

use super::{Files, Machine, Pace, guarded};
use crate::boot::layout::Layout;
use crate::platform::Platform;
use slat_hv_protocol::MemoryMap;
use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Stdio};

/// The hypervisor at EL2. `memory` is to be a file that holds the machine's RAM, for looking at it afterwards.
pub(super) fn arm(
    machine: &Machine,
    hypervisor: &Path,
    files: &Files<'_>,
    layout: &Layout,
    memory: Option<&Path>,
) -> Command {
    debug_assert_eq!(layout.kernel.address, MemoryMap::AARCH64.blobs);
    let mut command = with_memory(machine, "virt,virtualization=on,gic-version=3,its=off", layout, memory);
    command.arg("-kernel").arg(hypervisor);
    load(&mut command, files, layout, MemoryMap::AARCH64.params);
    command
}

/// The hypervisor on a PC, with the file `payload` in its memory. It is an ELF file with a note for PVH.
pub(super) fn x86(
    machine: &Machine,
    hypervisor: &Path,
    payload: &Path,
    layout: &Layout,
    memory: Option<&Path>,
) -> Command {
    let mut command = with_memory(machine, "pc", layout, memory);
    command.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=1"]);
    command.arg("-kernel").arg(hypervisor);
    command.arg("-device").arg(loader(payload, MemoryMap::X86_64.params));
    command
}

/// The hypervisor in HS-mode, above OpenSBI.
pub(super) fn riscv(
    machine: &Machine,
    hypervisor: &Path,
    files: &Files<'_>,
    layout: &Layout,
    memory: Option<&Path>,
) -> Command {
    debug_assert_eq!(layout.kernel.address, MemoryMap::RISCV64.blobs);
    let mut command = with_memory(machine, "virt", layout, memory);
    command.args(["-bios", "default"]).arg("-kernel").arg(hypervisor);
    load(&mut command, files, layout, MemoryMap::RISCV64.params);
    command
}

/// The guest's kernel with nothing below it: at EL1, on a PC, or above OpenSBI.
pub(super) fn native(
    machine: &Machine,
    kernel: &Path,
    initrd: Option<&Path>,
    memory: u64,
    bootargs: &str,
) -> Command {
    let kind = match machine.platform {
        Platform::Arm => "virt,gic-version=3,its=off",
        Platform::Riscv => "virt",
        Platform::Intel | Platform::Amd => "pc",
    };
    let mut command = command(machine, kind, memory);
    command.arg("-kernel").arg(kernel).arg("-append").arg(bootargs);
    if let Some(initrd) = initrd {
        command.arg("-initrd").arg(initrd);
    }
    command
}

/// A socket for the monitor that speaks JSON; the machine does not wait for anybody to come.
pub(super) fn socket(path: &Path) -> OsString {
    let path = path.to_string_lossy().replace(',', ",,");
    format!("unix:{path},server=on,wait=off").into()
}

/// The first line that is more than a warning.
pub(super) fn complaint(errors: &str) -> &str {
    errors.lines().find(|line| !line.contains(": warning: ")).unwrap_or_default()
}

fn with_memory(machine: &Machine, kind: &str, layout: &Layout, memory: Option<&Path>) -> Command {
    let Some(memory) = memory else { return command(machine, kind, layout.machine_memory) };
    let mut command = command(machine, &format!("{kind},memory-backend=ram"), layout.machine_memory);
    command.arg("-object").arg(backend(memory, layout.machine_memory));
    command
}

fn command(machine: &Machine, kind: &str, memory: u64) -> Command {
    let mut command = guarded(&machine.emulator);
    command.args(["-machine", kind, "-cpu", &machine.cpu, "-m", &format!("{}K", memory >> 10)]);
    command.args(["-accel", "tcg", "-smp", &machine.cpus.to_string()]);
    // One serial port on stdio and nothing else: no monitor that a stray byte could reach.
    command.args(["-display", "none", "-monitor", "none", "-serial", "stdio", "-nic", "none"]);
    command.args(["-no-user-config", "-nodefaults", "-no-reboot"]);
    match machine.pace {
        Pace::Usual => {}
        Pace::Waiting => drop(command.args(["-icount", "shift=7,sleep=off"])),
        Pace::Counted => drop(command.args(["-icount", "shift=1,sleep=off"])),
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command
}

/// Puts the parameters at `params` and the blobs where the layout says.
fn load(command: &mut Command, files: &Files<'_>, layout: &Layout, params: u64) {
    command.arg("-device").arg(loader(files.params, params));
    let blobs =
        [(files.kernel, layout.kernel), (files.initrd, layout.initrd), (files.snapshot, layout.image)];
    for (file, span) in blobs {
        if let Some(file) = file {
            command.arg("-device").arg(loader(file, span.address));
        }
    }
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
