//! What guests are told on their command lines.

use crate::guests::image::{Image, Program};
use crate::platform::Platform;
use anyhow::{Result, ensure};

/// What a Linux on Arm with less than [`SMALL`] memory is told as well. A kernel that is locked down does without tracefs,
/// whose thousands of files take 8 MiB while it boots.
const SMALL_BOOTARGS: &str = " lockdown=confidentiality";
const SMALL: u64 = 64 << 20;

/// What memtest86+ is told: not to look for other CPUs and for keyboards on USB, and not to ask the memory modules for
/// their names.
const MEMTEST_BOOTARGS: &str = "nosmp nosm keyboard=legacy";

/// Whether `append` can stand on a command line at all.
pub(crate) fn check(append: &str) -> Result<()> {
    ensure!(!append.contains(['\n', '\0']), "--append: the text has a line break or a zero byte in it");
    // No kernel takes more; those that take less are asked once they are there.
    ensure!(append.len() < 2047, "--append: the text is too long");
    Ok(())
}

/// The command line of a guest with `memory` bytes and so many CPUs, with `append` behind it.
pub(crate) fn of(platform: Platform, image: &Image, memory: u64, cpus: u32, append: &str) -> Result<String> {
    check(append)?;
    let words = match image.program {
        Program::Linux => platform.bootargs(cpus),
        Program::Memtest => MEMTEST_BOOTARGS,
        // Its commands come from what it was built with.
        Program::UBoot => "",
    };
    let is_small = platform == Platform::Arm && memory < SMALL;
    let small = if is_small { SMALL_BOOTARGS } else { "" };
    let whole = format!("{words}{small} {append}").trim().to_owned();
    let most = image.bootargs_max;
    ensure!(
        whole.len() <= most,
        "--append: the text is too long: with it the command line has {} bytes, and this kernel takes {most}",
        whole.len()
    );
    Ok(whole)
}

#[cfg(test)]
mod tests;
