//! Bochs: its configuration, the script of its debugger, its command line.
//!
//! Protocol: the hypervisor is the ROM, and the payload is in memory from the start. The serial port is a file that is the
//! standard output of the command, so that it is read as it comes; what Bochs itself prints there is dropped. The end is
//! an instruction that stops in the debugger (`xchg bx, bx`), whose script then writes the recording and the trace to files, and quits.

use super::{Machine, Pace, guarded};
use crate::boot::layout::Layout;
use anyhow::{Context, Result};
use slat_hv_protocol::{MemoryMap, rom};
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

/// The payload's file.
pub(super) const PAYLOAD: &str = "payload";

/// The file that the debugger writes the recording to.
pub(super) const RECORDING: &str = "recording";

/// The same for the trace.
pub(super) const TRACE: &str = "trace";

const CONFIGURATION: &str = "bochsrc";
const SCRIPT: &str = "script";

/// There is no picture, but Bochs insists on the ROM of a graphics card.
const NO_ROM: &[u8] = &[0; 512];

/// The models of CPUs that Bochs 2.7 emulates and that are or may be told to run a hypervisor of 64 bits.
pub(crate) const MODELS: [&str; 19] = [
    "core_duo_t2400_yonah",
    "core2_penryn_t9600",
    "corei5_lynnfield_750",
    "corei5_arrandale_m520",
    "corei7_sandy_bridge_2600k",
    "corei7_ivy_bridge_3770k",
    "corei7_haswell_4770",
    "broadwell_ult",
    "corei7_skylake_x",
    "corei3_cnl",
    "corei7_icelake_u",
    "tigerlake",
    "athlon64_clawhammer",
    "athlon64_venice",
    "turion64_tyler",
    "phenom_8650_toliman",
    "zambezi",
    "trinity_apu",
    "ryzen",
];

/// The model that `name` stands for, which is its whole name or a part of it that no other has.
pub(crate) fn model(name: &str) -> Option<&'static str> {
    let mut found = MODELS.into_iter().filter(|model| model.contains(name));
    let whole = MODELS.into_iter().find(|model| *model == name);
    whole.or_else(|| found.next().filter(|_| found.next().is_none()))
}

/// Writes what the command wants in `directory`, but for the payload. The serial port is connected to `listener`, if there is one.
pub(super) fn write_files(
    machine: &Machine,
    hypervisor: &Path,
    layout: &Layout,
    directory: &Path,
    listener: Option<&TcpListener>,
) -> Result<()> {
    let elf = fs::read(hypervisor).with_context(|| format!("cannot read {}", hypervisor.display()))?;
    let payload = layout.pool.address - MemoryMap::X86_64.params;
    let rom = rom::build(&elf, payload).map_err(|error| anyhow::anyhow!("no ROM can be made: {error}"))?;
    let write = |name: &str, bytes: &[u8]| {
        fs::write(directory.join(name), bytes).context("cannot write a temporary file")
    };
    write("rom", &rom)?;
    write("vgarom", NO_ROM)?;
    let port = match listener {
        None => "mode=file, dev=/dev/fd/3".to_owned(),
        Some(listener) => {
            let address = listener.local_addr().context("the socket has no address")?;
            format!("mode=socket-client, dev={address}")
        }
    };
    write(CONFIGURATION, configuration(machine, layout, &port).as_bytes())?;
    write(SCRIPT, script(layout).as_bytes())
}

/// Starts Bochs in `directory`.
pub(super) fn command(machine: &Machine, directory: &Path) -> Command {
    // The shell moves the pipe away from where Bochs would print.
    let mut command = guarded(Path::new("/bin/sh"));
    command.args(["-c", "exec 3>&1 >/dev/null; exec \"$0\" \"$@\""]).arg(&machine.emulator);
    command.args(["-q", "-f", CONFIGURATION, "-rc", SCRIPT]);
    command.current_dir(directory).env("TERM", "vt100");
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command
}

/// The text that a Bochs which gives up prints between two lines.
pub(super) fn complaint(errors: &str) -> &str {
    let mut lines = errors.lines().skip_while(|line| !line.contains("exiting with the following message"));
    lines.nth(1).unwrap_or_default()
}

fn configuration(machine: &Machine, layout: &Layout, port: &str) -> String {
    let Machine { cpu, cpus, .. } = machine;
    let memory = layout.machine_memory >> 20;
    let address = MemoryMap::X86_64.params;
    let ips = match machine.pace {
        Pace::Usual | Pace::Counted => 50_000_000,
        Pace::Waiting => 4_000_000,
    };
    // Without `speaker=0` it wants a sound card of the host. A fixed time makes two runs the same.
    format!(
        "config_interface: textconfig\n\
         display_library: term\n\
         plugin_ctrl: speaker=0\n\
         cpu: model={cpu}, count={cpus}, ips={ips}, reset_on_triple_fault=0, ignore_bad_msrs=1\n\
         memory: guest={memory}, host={memory}\n\
         romimage: file=rom\n\
         vgaromimage: file=vgarom\n\
         optramimage1: file={PAYLOAD}, address={address:#x}\n\
         com1: enabled=1, {port}\n\
         panic: action=fatal\n\
         error: action=report\n\
         magic_break: enabled=1\n\
         clock: sync=none, time0=1704067200\n\
         log: log\n"
    )
}

fn script(layout: &Layout) -> String {
    let kept =
        [(RECORDING, layout.recording), (TRACE, layout.trace)].into_iter().filter(|(_, span)| span.size > 0);
    let keep: String = kept
        .map(|(file, span)| format!("writemem \"{file}\" {:#x} {:#x}\n", span.address, span.size))
        .collect();
    format!("c\n{keep}q\n")
}

#[cfg(test)]
mod tests;
