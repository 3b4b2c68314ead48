//! `slat-inspect list` beside what QEMU's own monitor says of the tables of a Linux that was stopped in the middle of its work.
//!
//! Each listing is compared line by line, out of raw memory with the root register and out of a core file; and a dump in which one
//! entry is another one must differ in just that.

use super::{Slot, Tool, optional_step, text};
use crate::boot::machine::{Machine, Pace};
use crate::boot::session::Guest;
use crate::boot::stopped::Stopped;
use crate::guests::image;
use crate::missing::MissingThings;
use crate::platform::Platform;
use crate::setup::{self, Needs};
use crate::task_run;
use crate::task_test::linux::{MEMORY, PATIENCE};
use crate::task_test::step::{Outcome, Step};
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// A machine and the tables that its Linux makes.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    platform: Platform,
    cpu: &'static str,
    /// What the kernel is told besides.
    bootargs: &'static str,
    /// The tool's name of the format, and the bits of its addresses: a kernel that chose another is a failure.
    format: (&'static str, u64),
    /// What QEMU is asked, and the style that prints the same.
    listings: &'static [(&'static str, &'static str)],
}

/// On five levels QEMU's `info mem` takes entries that are not present for those that are (`mem_info_la57` of 7.2 and later): there
/// is nothing to compare with.
const X86_FIVE_LEVELS: [(&str, &str); 1] = [("info tlb", "qemu-tlb")];
const X86: [(&str, &str); 2] = [("info tlb", "qemu-tlb"), ("info mem", "qemu-mem")];
const RISCV: [(&str, &str); 1] = [("info mem", "qemu-mem")];

const CASES: [Case; 4] = [
    Case {
        name: "x86-64 Linux on four levels as QEMU lists it",
        platform: Platform::Amd,
        cpu: "EPYC",
        bootargs: "",
        format: ("x86-64", 48),
        listings: &X86,
    },
    Case {
        name: "x86-64 Linux on five levels as QEMU lists it",
        platform: Platform::Amd,
        cpu: "max",
        bootargs: "",
        format: ("x86-64", 57),
        listings: &X86_FIVE_LEVELS,
    },
    Case {
        name: "RISC-V Linux with Sv57 as QEMU lists it",
        platform: Platform::Riscv,
        cpu: "rv64",
        bootargs: "",
        format: ("sv57", 57),
        listings: &RISCV,
    },
    Case {
        name: "RISC-V Linux with Sv39 as QEMU lists it",
        platform: Platform::Riscv,
        cpu: "rv64",
        bootargs: "no4lvl",
        format: ("sv39", 39),
        listings: &RISCV,
    },
];

pub(super) fn steps(slot: &Slot) -> Vec<Step> {
    CASES
        .into_iter()
        .map(|case| {
            optional_step(slot, case.name, move |tool, context, output| {
                let needs = Needs {
                    platform: case.platform,
                    kernel: Some(case.platform.default_kernel()),
                    busybox: true,
                };
                match setup::prepare_bare(&context.host, &context.workspace, &needs) {
                    Ok(machine) => Outcome::of(compare(case, tool, &machine, output)),
                    Err(error) => {
                        if let Some(missing) = error.downcast_ref::<MissingThings>() {
                            missing.things().iter().for_each(|thing| output.push_str(&format!("{thing}\n")));
                        }
                        Outcome::Impossible(format!("{error:#}"))
                    }
                }
            })
        })
        .collect()
}

/// What was taken of a stopped machine.
struct Taken {
    /// The root register as the tool takes it.
    register: Vec<String>,
    /// What QEMU printed, listing by listing.
    listings: Vec<String>,
}

fn compare(case: Case, tool: &Tool, equipment: &setup::BareMachine, output: &mut String) -> Result<String> {
    let directory = tempfile::Builder::new().prefix("slat-inspect-").tempdir();
    let directory = directory.context("no temporary directory")?;
    let (raw, core) = (directory.path().join("raw"), directory.path().join("core"));
    let taken = take(case, equipment, directory.path(), (&raw, &core), output)?;

    let raw_name = format!("{}@{:#x}", text(&raw)?, case.platform.map().ram);
    let register: Vec<_> = taken.register.iter().map(String::as_str).collect();
    let with_register = |dump| [&["list", dump][..], &register].concat();
    let head = tool.run(&[&with_register(&raw_name)[..], &["--json"]].concat(), output)?;
    let head: Value = serde_json::from_str(&head.stdout).context("list --json prints no JSON")?;
    let found = (&head["format"], &head["input_bits"]);
    ensure!(
        found == (&Value::from(case.format.0), &Value::from(case.format.1)),
        "the kernel uses {} with {} bits",
        found.0,
        found.1
    );
    ensure!(head["trouble_count"] == 0 && head["complete"] == true, "not all of it could be read");

    let mut lines = Vec::new();
    for ((question, style), theirs) in case.listings.iter().zip(&taken.listings) {
        let style = ["--style", *style];
        let ours = tool.run(&[&with_register(&raw_name)[..], &style].concat(), output)?.stdout;
        same_lines(&ours, theirs).with_context(|| format!("`{question}` of raw memory"))?;
        // A core file of x86 knows CR3; one of RISC-V does not know satp.
        let core = text(&core)?;
        let of_core = if case.platform == Platform::Riscv { with_register(core) } else { vec!["list", core] };
        let ours = tool.run(&[&of_core[..], &style].concat(), output)?.stdout;
        same_lines(&ours, theirs).with_context(|| format!("`{question}` of a core file"))?;
        lines.push(format!("{} lines of `{question}`", theirs.lines().count()));
    }
    let control = one_entry_less(case, tool, (&raw, &raw_name), &register, &taken, output)?;
    Ok(format!("{}; {control}", lines.join(", ")))
}

/// Boots, stops, asks and dumps.
fn take(
    case: Case,
    equipment: &setup::BareMachine,
    directory: &Path,
    (raw, core): (&Path, &Path),
    output: &mut String,
) -> Result<Taken> {
    let Case { platform, .. } = case;
    let kernel = equipment.kernel.clone().context("there is no kernel")?;
    let busybox = equipment.busybox.as_ref().context("there is no busybox")?;
    let initrd = directory.join("initramfs.cpio");
    let sha256 = task_run::write_initramfs(busybox, platform, &initrd)?;
    let image = image::check_file(&kernel, platform)?;
    let guest = Guest {
        goal: task_run::goal(platform, image.program),
        bootargs: task_run::bootargs::of(platform, &image, MEMORY, 1, case.bootargs)?,
        kernel,
        initrd: Some(initrd),
        memory: MEMORY,
        sha256: Some(sha256),
        results: Vec::new(),
    };
    let machine = Machine {
        platform,
        emulator: equipment.emulator.clone(),
        cpu: case.cpu.to_owned(),
        cpus: 1,
        pace: Pace::Usual,
    };
    let mut stopped = Stopped::boot(&machine, &guest, directory, PATIENCE, output)?;
    let registers = stopped.ask("info registers")?;
    let register = if platform == Platform::Riscv {
        vec!["--satp".to_owned(), format!("{:#x}", hex_after(&registers, "satp ")?)]
    } else {
        let mut register = vec!["--cr3".to_owned(), format!("{:#x}", hex_after(&registers, "CR3=")?)];
        if hex_after(&registers, "CR4=")? >> 12 & 1 == 1 {
            register.push("--la57".to_owned());
        }
        register
    };
    let listings = case.listings.iter().map(|(question, _)| stopped.ask(question)).collect::<Result<_>>()?;
    let base = platform.map().ram;
    for command in [
        format!("pmemsave {base:#x} {MEMORY:#x} \"{}\"", text(raw)?),
        format!("dump-guest-memory {}", text(core)?),
    ] {
        let said = stopped.ask(&command)?;
        ensure!(said.trim().is_empty(), "{command}: {said}");
    }
    Ok(Taken { register, listings })
}

/// The hexadecimal number behind `name`.
fn hex_after(text: &str, name: &str) -> Result<u64> {
    let rest = text.split_once(name).with_context(|| format!("no {} among the registers", name.trim()))?.1;
    let digits = rest.trim_start().split(|character: char| !character.is_ascii_hexdigit()).next();
    let number = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
    number.with_context(|| format!("{} has no value", name.trim()))
}

/// Whether both are the same, line by line.
fn same_lines(ours: &str, theirs: &str) -> Result<()> {
    ensure!(theirs.lines().count() > 15, "QEMU lists too little to be a Linux: {theirs}");
    for (number, (ours, theirs)) in ours.lines().zip(theirs.lines()).enumerate() {
        ensure!(ours == theirs, "line {}: `{ours}` instead of `{theirs}`", number + 1);
    }
    let (ours, theirs) = (ours.lines().count(), theirs.lines().count());
    ensure!(ours == theirs, "{ours} lines instead of {theirs}");
    Ok(())
}

/// The negative control: with the write permission of one leaf the other way round, the listing is another one, and `diff` finds
/// that leaf and nothing else.
fn one_entry_less(
    case: Case,
    tool: &Tool,
    (raw, raw_name): (&Path, &str),
    register: &[&str],
    taken: &Taken,
    output: &mut String,
) -> Result<String> {
    let list = [&["list", raw_name][..], register, &["--style", "leaves", "--json"]].concat();
    let leaves: Value =
        serde_json::from_str(&tool.run(&list, output)?.stdout).context("no JSON of leaves")?;
    let leaves = leaves["leaves"].as_array().context("there are no leaves")?;
    let number = |value: &Value| -> Result<u64> {
        let digits = value.as_str().and_then(|text| text.strip_prefix("0x")).context("no address")?;
        u64::from_str_radix(digits, 16).context("no address")
    };
    // One that is readable and no alias of another: such are the first ones, which are user mode's.
    let leaf = leaves.first().context("there are no leaves")?;
    let (entry, value) = (number(&leaf["entry"])?, number(&leaf["value"])?);
    let is_riscv = case.platform == Platform::Riscv;
    let write = if is_riscv { 1 << 2 } else { 1 << 1 };

    let changed = raw.with_file_name("changed");
    fs::copy(raw, &changed).context("cannot copy a dump")?;
    let base = case.platform.map().ram;
    let file = OpenOptions::new().write(true).open(&changed).context("cannot change a dump")?;
    file.write_all_at(&(value ^ write).to_le_bytes(), entry - base).context("cannot change a dump")?;
    let changed_name = format!("{}@{base:#x}", text(&changed)?);
    let (_, style) = case.listings[0];
    let list = [&["list", &changed_name][..], register, &["--style", style]].concat();
    let listed = tool.run(&list, output)?.stdout;
    ensure!(same_lines(&listed, &taken.listings[0]).is_err(), "a flipped permission makes no difference");

    let diff = [&["diff", raw_name, &changed_name][..], register, &["--json"]].concat();
    let captured = tool.captured(&diff, output)?;
    ensure!(!captured.success, "diff finds no difference");
    let diff: Value = serde_json::from_str(&captured.stdout).context("diff --json prints no JSON")?;
    ensure!(diff["differences"] == 1, "diff finds {} differences", diff["differences"]);
    ensure!(
        diff["changes"][0]["a"]["first"] == leaf["first"],
        "diff finds {} and not {}",
        diff["changes"][0],
        leaf["first"]
    );
    Ok("one entry that is another one is noticed".to_owned())
}
