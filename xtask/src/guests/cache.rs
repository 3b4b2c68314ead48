//! The cache of guest files below the target directory.
//!
//! Invariant: a file in the cache is whole. It is made in a temporary directory on the same file system and
//! renamed into place; whatever ends a run before that leaves nothing that a later run would trust.

use super::archive::{Archive, PROGRAMS};
use super::image::{self, Image};
use crate::host::Host;
use crate::platform::Platform;
use anyhow::{Context, Result, bail, ensure};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

/// Another kernel for Arm, with real-time scheduling, for the tests.
pub(crate) const OTHER_KERNEL: Kernel = Kernel::Linux("linux-image-rt-arm64");

/// A kernel that can be fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kernel {
    /// The Linux on which this meta package depends.
    Linux(&'static str),
    /// memtest86+, for x86.
    Memtest,
    /// The Linux for RISC-V of Debian's installer, which is that of its kernel package.
    Installer,
    /// U-Boot, for RISC-V.
    UBoot,
}

/// Where memtest86+ lies in its package: in its own words since release 6, before that and elsewhere.
const MEMTEST: [&str; 2] = ["boot/memtest86+x64.bin", "boot/mt86+x64"];

/// The installer's package, and where the kernel lies in it.
const INSTALLER: &str = "debian-installer-13-netboot-riscv64";
const INSTALLER_KERNEL: &str =
    "usr/lib/debian-installer/images/13/riscv64/text/debian-installer/riscv64/linux";

/// The package of U-Boot, and where the one lies in it that runs in supervisor mode.
const U_BOOT: &str = "u-boot-qemu";
const U_BOOT_BINARY: &str = "usr/lib/u-boot/qemu-riscv64_smode/u-boot.bin";

impl Kernel {
    /// What it is called on the command line and in the cache.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Linux(package) => package,
            Self::Memtest => "memtest86+",
            Self::Installer => INSTALLER,
            Self::UBoot => "u-boot",
        }
    }

    /// The kernel that is fetched for this word on the command line.
    pub(crate) fn named(word: &OsStr) -> Option<Self> {
        [Self::Memtest, Self::UBoot].into_iter().find(|kernel| word == kernel.name())
    }

    /// Reads and checks the file of this kernel.
    pub(crate) fn check(self, file: &Path, platform: Platform) -> Result<Image> {
        match self {
            Self::UBoot => image::check_u_boot(file),
            Self::Linux(_) | Self::Memtest | Self::Installer => image::check_file(file, platform),
        }
    }
}

/// The cache, and the package index when something had to be fetched.
pub(crate) struct Cache {
    platform: Platform,
    directory: PathBuf,
    archive: Option<Archive>,
}

impl Cache {
    /// The cache of the guests of `platform` below the target directory.
    pub(crate) fn new(target: &Path, platform: Platform) -> Self {
        let directory = target.join("slat-guests").join(platform.arch());
        Self { platform, directory, archive: None }
    }

    /// Whether guest files can be fetched on this machine at all.
    pub(crate) fn can_fetch(host: &Host) -> bool {
        host.os.id == "debian" && PROGRAMS.iter().all(|program| host.find(program).is_some())
    }

    /// Where `kernel` lies, fetched or not.
    pub(crate) fn kernel_path(&self, kernel: Kernel) -> PathBuf {
        self.directory.join(format!("{}.Image", kernel.name()))
    }

    /// Where busybox lies, fetched or not.
    pub(crate) fn busybox_path(&self) -> PathBuf {
        self.directory.join("busybox")
    }

    /// `kernel`, fetched if need be.
    pub(crate) fn kernel(&mut self, host: &Host, kernel: Kernel) -> Result<PathBuf> {
        let cached = self.kernel_path(kernel);
        if !cached.is_file() {
            let platform = self.platform;
            let archive = self.archive(host)?;
            let file = match kernel {
                Kernel::Linux(package) => {
                    only_kernel_in(&archive.unpack(&archive.dependency(package)?)?.join("boot"))?
                }
                Kernel::Memtest => {
                    let tree = archive.unpack(kernel.name())?;
                    let file = MEMTEST.map(|path| tree.join(path)).into_iter().find(|file| file.is_file());
                    file.context("the package has no memtest86+ for x86-64")?
                }
                Kernel::Installer => only(archive.unpack(INSTALLER)?.join(INSTALLER_KERNEL))?,
                Kernel::UBoot => only(archive.unpack(U_BOOT)?.join(U_BOOT_BINARY))?,
            };
            kernel.check(&file, platform).context("the distribution's kernel cannot be used")?;
            fs::rename(&file, &cached).context("cannot keep the guest's kernel")?;
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
            None => {
                let (architecture, release) =
                    (self.platform.debian_architecture(), self.platform.debian_release());
                Archive::open(host, &self.directory, architecture, release)?
            }
        };
        Ok(self.archive.insert(archive))
    }
}

/// `file`, if it is there.
fn only(file: PathBuf) -> Result<PathBuf> {
    ensure!(file.is_file(), "the package has no {}", file.file_name().unwrap_or_default().to_string_lossy());
    Ok(file)
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
