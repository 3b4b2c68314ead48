//! Mistakes on the command line of `cargo xtask run`: each must be refused at once, with one line on stderr,
//! nothing on stdout, and a non-zero exit code.

use super::Context;
use super::step::{Outcome, Step};
use crate::process;
use anyhow::{Context as _, Result, ensure};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// A refusal takes no longer than this.
const AT_ONCE: Duration = Duration::from_secs(1);

/// A command line (`IMAGE`, `TEXT` and so on stand for files that are made) and words of the answer.
type Case = (&'static str, &'static str, &'static str);

const CASES: [Case; 57] = [
    ("no such guest", "--guest /nonexistent/Image", "cannot read the guest kernel /nonexistent/Image"),
    ("guest is a text file", "--guest TEXT", "not an arm64 Linux Image"),
    ("guest of another architecture", "--guest X86", "it is an x86 bzImage"),
    ("guest is compressed", "--guest GZIP", "gunzip it first"),
    ("too little memory", "--guest IMAGE --memory 16M", "too little"),
    ("no such initrd", "--guest IMAGE --initrd /nonexistent/initrd", "cannot read the initial RAM disk"),
    ("empty initrd", "--guest IMAGE --initrd EMPTY", "is empty"),
    ("another architecture", "--arch riscv32", "invalid value 'riscv32' for '--arch"),
    ("a vendor of Arm", "--arch aarch64 --vendor amd", "--vendor: not with --arch aarch64"),
    ("guest of another architecture on x86", "--arch x86_64 --guest IMAGE", "an arm64 Image"),
    ("a kernel that is too old", "--vendor amd --guest OLD", "boot protocol is 2.09"),
    ("too little memory on x86", "--vendor amd --guest X86 --memory 64M", "too little"),
    ("more memory than Bochs has", "--arch x86_64 --memory 4G", "Bochs emulates 2048M in one piece"),
    (
        "more memory than the PC has in one piece",
        "--vendor amd --memory 4G",
        "QEMU emulates 3072M in one piece",
    ),
    ("a CPU that Bochs has not", "--arch x86_64 --cpu EPYC", "Bochs has no single CPU EPYC"),
    ("memtest86+ on Arm", "--guest memtest86+", "memtest86+ is for --arch x86_64"),
    ("recording into nowhere", "--record /nonexistent/file", "--record: cannot write /nonexistent/file"),
    ("tracing into nowhere", "--trace /nonexistent/file", "--trace: cannot write /nonexistent/file"),
    ("a report into nowhere", "--machine model --report /nonexistent/file", "--report: cannot write"),
    ("a vendor of RISC-V", "--arch riscv64 --vendor intel", "--vendor: not with --arch riscv64"),
    ("guest of another architecture on RISC-V", "--arch riscv64 --guest IMAGE", "an arm64 Image"),
    ("too little memory on RISC-V", "--arch riscv64 --guest RISCV --memory 32M", "too little"),
    ("several guests on Arm", "--guests 3", "several guests run with --arch riscv64 only"),
    (
        "CPUs of the machine alone on x86",
        "--arch x86_64 --host-cpus 2",
        "--host-cpus: with --arch riscv64 only",
    ),
    ("nine guests", "--arch riscv64 --guests 9", "9 is not in 1..=8"),
    ("three CPUs in the machine", "--arch riscv64 --host-cpus 3", "3 is not in 1..=2"),
    ("an odd pool", "--arch riscv64 --pool 3M", "--pool: 3145728 bytes are no multiple of 2M"),
    (
        "several guests natively",
        "--arch riscv64 --guests 2 --compare",
        "--compare: natively there is one guest",
    ),
    ("a fork on Arm", "--fork 2", "--fork: with --arch riscv64 only"),
    ("eight forks", "--arch riscv64 --fork 8", "8 is not in 1..8"),
    ("a fork of two CPUs", "--arch riscv64 --fork 2 --cpus 2", "--cpus: not with --fork"),
    (
        "a fork under churn",
        "--arch riscv64 --fork 2 --churn --guests 2",
        "--guests, --churn: not with --fork",
    ),
    ("a fork of another user space", "--arch riscv64 --fork 2 --initrd TEXT", "--initrd, as the user space"),
    ("a fork on the model", "--machine model --fork 2", "--fork: not with --machine model"),
    ("a fork that is written away", "--arch riscv64 --fork 2 --snapshot TEXT", "--fork: not with --snapshot"),
    ("a move on Arm", "--migrate", "--migrate: with --arch riscv64 only"),
    ("a move under churn", "--arch riscv64 --migrate --churn", "--churn: not with --migrate"),
    ("paging on Arm", "--page-out", "--page-out: with --arch riscv64 only"),
    ("paging under churn", "--arch riscv64 --page-out --churn", "--churn: not with --page-out"),
    ("paging and a fork", "--arch riscv64 --page-out --fork 2", "--fork: not with --page-out"),
    ("a store without paging", "--arch riscv64 --store 64M", "--page-out"),
    ("an odd store", "--arch riscv64 --page-out --store 3M", "--store: 3145728 bytes are no multiple of 2M"),
    ("paging on the model", "--machine model --page-out", "--page-out: not with --machine model"),
    ("a snapshot into nowhere", "--arch riscv64 --snapshot /nonexistent/file", "--snapshot: cannot write"),
    ("a snapshot on x86", "--arch x86_64 --snapshot TEXT", "--snapshot: with --arch riscv64 only"),
    ("a snapshot that is none", "--arch riscv64 --restore TEXT", "it is no snapshot of a guest"),
    ("no such snapshot", "--arch riscv64 --restore /nonexistent/file", "--restore: cannot read"),
    (
        "a kernel for a snapshot",
        "--arch riscv64 --restore TEXT --guest RISCV --append a",
        "--guest, --append: not with --restore",
    ),
    ("U-Boot on Arm", "--guest u-boot", "u-boot is for --arch riscv64"),
    ("a RAM disk for U-Boot", "--arch riscv64 --guest u-boot --initrd TEXT", "--initrd: u-boot takes none"),
    ("an address that is too wide", "--arch riscv64 --gpa-bits 60", "60 is not in 32..=59"),
    ("odd memory size", "--memory 3M", "multiple of 2M"),
    ("unknown leaf size", "--leaf 3k", "invalid value '3k'"),
    ("three CPUs in the emulator", "--cpus 3", "at most 2"),
    ("a format in the emulator", "--format ept", "--format: not with --machine emulator"),
    (
        "a kernel on the model",
        "--machine model --guest IMAGE --timeout 9 --compare",
        "--guest, --timeout, --compare: not with --machine model",
    ),
    ("too much memory on the model", "--machine model --memory 1G", "is not between 16M and 512M"),
];

/// One step for each case.
pub(crate) fn steps() -> Vec<Step> {
    CASES
        .into_iter()
        .map(|(name, line, words)| {
            Step::new(format!("run refuses: {name}"), move |_: &Context, _| Outcome::of(refuses(line, words)))
        })
        .collect()
}

fn refuses(line: &str, words: &str) -> Result<String> {
    let directory = tempfile::tempdir().context("no temporary directory")?;
    let arguments = line.split(' ').map(|word| match file(word) {
        Some(bytes) => {
            let path = directory.path().join(word);
            std::fs::write(&path, bytes).context("cannot write a temporary file")?;
            Ok(path.display().to_string())
        }
        None => Ok(word.to_owned()),
    });
    let arguments = arguments.collect::<Result<Vec<_>>>()?;
    let program = std::env::current_exe().context("this program has no path")?;
    check(&program, &arguments, words)
}

/// `run` with these arguments is refused at once, in one line with these words in it.
pub(super) fn check(program: &Path, arguments: &[String], words: &str) -> Result<String> {
    let begin = Instant::now();
    let captured = process::capture(Command::new(program).args(["run", "--json"]).args(arguments))?;
    let time = begin.elapsed();
    let lines: Vec<_> = captured.stderr.lines().collect();
    ensure!(!captured.success, "the exit code is 0");
    ensure!(captured.stdout.is_empty(), "stdout is not empty: {}", captured.stdout);
    ensure!(lines.len() == 1, "not one line on stderr: {lines:?}");
    ensure!(lines[0].starts_with("error: "), "no error line: {}", lines[0]);
    ensure!(lines[0].contains(words), "`{words}` is missing in: {}", lines[0]);
    ensure!(time < AT_ONCE, "it took {:.1} s", time.as_secs_f64());
    Ok(String::new())
}

/// The content of a file that a case stands for.
fn file(name: &str) -> Option<Vec<u8>> {
    let mut bytes = vec![0; 4096];
    match name {
        "IMAGE" => {
            bytes[16..24].copy_from_slice(&(32_u64 << 20).to_le_bytes());
            bytes[56..60].copy_from_slice(b"ARM\x64");
        }
        "RISCV" => {
            bytes[8..16].copy_from_slice(&(2_u64 << 20).to_le_bytes());
            bytes[16..24].copy_from_slice(&(30_u64 << 20).to_le_bytes());
            bytes[56..60].copy_from_slice(b"RSC\x05");
        }
        "TEXT" => bytes = b"just a text\n".to_vec(),
        "X86" | "OLD" => {
            bytes[0x202..0x206].copy_from_slice(b"HdrS");
            // Protocol 2.15 or 2.9, loaded high, to run in 48 MiB from 16 MiB on.
            bytes[0x206..0x208].copy_from_slice(if name == "X86" { &[15, 2] } else { &[9, 2] });
            bytes[0x211] = 1;
            bytes[0x258..0x25c].copy_from_slice(&(16_u32 << 20).to_le_bytes());
            bytes[0x260..0x264].copy_from_slice(&(48_u32 << 20).to_le_bytes());
        }
        "GZIP" => bytes[..2].copy_from_slice(b"\x1f\x8b"),
        "EMPTY" => bytes.clear(),
        _ => return None,
    }
    Some(bytes)
}
