//! An emulator of the distribution without installing it: its packages, unpacked below the target directory.
//!
//! For machines on which apt refuses to install it, because something that somebody else installed would have to go
//! (for example `qemu-utils` of a newer release than the emulator that the machine's sources offer).
//! Invariant: the directory is whole; it is made under another name and then renamed.

use super::apt::apt_get;
use super::emulators::Emulator;
use crate::process;
use crate::progress::Step;
use anyhow::{Context, Result, bail};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the emulator lies if it was unpacked before.
pub(super) fn find(target: &Path, emulator: &Emulator) -> Option<PathBuf> {
    let name = emulator.name;
    Some(target.join("slat-unpacked").join(name).join(name)).filter(|program| program.is_file())
}

/// Fetches and unpacks the packages of the emulator and what they need beyond what is installed; the path of its program.
pub(super) fn obtain(target: &Path, emulator: &Emulator) -> Result<PathBuf> {
    let (name, package) = (emulator.name, emulator.package.debian);
    let parent = target.join("slat-unpacked");
    fs::create_dir_all(&parent).with_context(|| format!("cannot create {}", parent.display()))?;
    let directory = tempfile::Builder::new().prefix(".fetch-").tempdir_in(&parent);
    let directory = directory.with_context(|| format!("cannot write to {}", parent.display()))?;
    let (download, root) = (directory.path().join("download"), directory.path().join("root"));
    fs::create_dir(&download).and_then(|()| fs::create_dir(&root)).context("cannot create a directory")?;

    let step = Step::new(format!("Unpacking {package}, which cannot be installed here"));
    // A simulation may remove what it likes.
    let simulate = ["install", "-s", "--no-install-recommends"];
    let simulated = process::output_of(apt_get().args(simulate).args(emulator.package.of_debian()))?;
    let packages = to_be_installed(&simulated);
    if packages.is_empty() {
        bail!("apt-get does not say what {package} consists of");
    }
    let as_ourselves = ["-o", "APT::Sandbox::User=", "download"];
    process::output_of(apt_get().args(as_ourselves).args(&packages).current_dir(&download))?;
    for entry in fs::read_dir(&download).context("cannot read a directory")? {
        let file = entry.context("cannot read a directory")?.path();
        process::output_of(Command::new("dpkg-deb").arg("-x").arg(file).arg(&root))?;
    }
    if !root.join("usr/bin").join(emulator.unpacked).is_file() {
        bail!("{package} has no {}", emulator.unpacked);
    }
    let wrapper = directory.path().join(name);
    fs::write(&wrapper, script(emulator)).context("cannot write a file")?;
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755))
        .context("cannot make a file executable")?;
    fs::remove_dir_all(&download).context("cannot remove a directory")?;
    // The program has to work before anybody trusts it.
    process::output_of(Command::new(&wrapper).args(emulator.probe))?;
    let kept = parent.join(name);
    if find(target, emulator).is_none() {
        fs::rename(directory.keep(), &kept).context("cannot keep what was unpacked")?;
    }
    step.done("unpacked");
    Ok(kept.join(name))
}

/// The names in the lines `Inst NAME ...` of a simulated installation.
fn to_be_installed(simulated: &str) -> Vec<&str> {
    let rest = simulated.lines().filter_map(|line| line.strip_prefix("Inst "));
    rest.filter_map(|rest| rest.split_whitespace().next()).collect()
}

/// Starts the program in place of itself, with the libraries and the data beside it.
fn script(emulator: &Emulator) -> String {
    let Emulator { unpacked, environment, arguments, .. } = emulator;
    format!(
        "#!/bin/sh\n\
         root=$(dirname \"$0\")/root\n\
         for directory in \"$root\"/usr/lib/*-linux-gnu* \"$root\"/lib/*-linux-gnu*; do\n\
         \x20   LD_LIBRARY_PATH=$directory${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}\n\
         done\n\
         export LD_LIBRARY_PATH\n\
         {environment}\
         exec \"$root/usr/bin/{unpacked}\" {arguments}\"$@\"\n"
    )
}

#[cfg(test)]
mod tests;
