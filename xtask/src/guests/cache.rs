//! The cache of guest files below the target directory.
//!
//! Invariant: a file in the cache is whole. It is made in a temporary directory on the same file system and
//! renamed into place; whatever ends a run before that leaves nothing that a later run would trust.

use super::archive::{Archive, PROGRAMS};
use super::image;
use crate::host::Host;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};

/// Debian's name of the guest's architecture.
const ARCHITECTURE: &str = "arm64";

/// The kernel that guests run unless another is given: the smallest of the distribution.
pub(crate) const DEFAULT_KERNEL: &str = "linux-image-cloud-arm64";

/// Another kernel, with real-time scheduling, for the tests.
pub(crate) const OTHER_KERNEL: &str = "linux-image-rt-arm64";

/// The cache, and the package index when something had to be fetched.
pub(crate) struct Cache {
    directory: PathBuf,
    archive: Option<Archive>,
}

impl Cache {
    /// The cache below the target directory.
    pub(crate) fn new(target: &Path) -> Self {
        Self { directory: target.join("slat-guests").join("aarch64"), archive: None }
    }

    /// Whether guest files can be fetched on this machine at all.
    pub(crate) fn can_fetch(host: &Host) -> bool {
        host.os.id == "debian" && PROGRAMS.iter().all(|program| host.find(program).is_some())
    }

    /// Where the kernel of the meta package `package` lies, fetched or not.
    pub(crate) fn kernel_path(&self, package: &str) -> PathBuf {
        self.directory.join(package).with_extension("Image")
    }

    /// Where busybox lies, fetched or not.
    pub(crate) fn busybox_path(&self) -> PathBuf {
        self.directory.join("busybox")
    }

    /// The kernel of the meta package `package`, fetched if need be.
    pub(crate) fn kernel(&mut self, host: &Host, package: &str) -> Result<PathBuf> {
        let cached = self.kernel_path(package);
        if !cached.is_file() {
            let archive = self.archive(host)?;
            let tree = archive.unpack(&archive.dependency(package)?)?;
            let kernel = only_kernel_in(&tree.join("boot"))?;
            image::check_file(&kernel).context("the distribution's kernel cannot be used")?;
            fs::rename(&kernel, &cached).context("cannot keep the guest's kernel")?;
        }
        Ok(cached)
    }

    /// The guest's statically linked busybox, fetched if need be.
    pub(crate) fn busybox(&mut self, host: &Host) -> Result<PathBuf> {
        let cached = self.busybox_path();
        if !cached.is_file() {
            let tree = self.archive(host)?.unpack("busybox-static")?;
            let program = ["bin/busybox", "usr/bin/busybox"].map(|path| tree.join(path));
            let program =
                program.iter().find(|file| file.is_file()).context("busybox-static has no busybox")?;
            fs::rename(program, &cached).context("cannot keep busybox")?;
        }
        Ok(cached)
    }

    fn archive(&mut self, host: &Host) -> Result<&Archive> {
        let archive = match self.archive.take() {
            Some(archive) => archive,
            None => Archive::open(host, &self.directory, ARCHITECTURE)?,
        };
        Ok(self.archive.insert(archive))
    }
}

/// The one file `vmlinuz-*` of `directory`.
fn only_kernel_in(directory: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(directory).context("the kernel package has no /boot")?;
    let is_kernel = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("vmlinuz-"))
    };
    let kernels: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(is_kernel).collect();
    match kernels.as_slice() {
        [kernel] => Ok(kernel.clone()),
        _ => bail!("the kernel package has {} kernels", kernels.len()),
    }
}
