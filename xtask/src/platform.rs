//! The machines that slat-hv runs on, by ISA and vendor, and what depends on that: the emulator, the target that it is built
//! for, Debian's name of the architecture, the memory map.

use crate::guests::cache::Kernel;
use crate::toolchain;
use slat_hv_protocol::{Mechanism, MemoryMap};

/// An ISA and, where it decides the kind of table, the vendor of the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Platform {
    /// Arm at EL2, in QEMU.
    Arm,
    /// Intel VMX with EPT, in Bochs.
    Intel,
    /// AMD SVM with nested page tables, in QEMU.
    Amd,
    /// RISC-V with the hypervisor extension, in QEMU.
    Riscv,
}

/// What Bochs can emulate at all.
const BOCHS_MEMORY: u64 = 2 << 30;

impl Platform {
    /// The ISA, as the command line and the report name it.
    pub(crate) fn arch(self) -> &'static str {
        match self {
            Self::Arm => "aarch64",
            Self::Intel | Self::Amd => "x86_64",
            Self::Riscv => "riscv64",
        }
    }

    /// The vendor, where there is a choice.
    pub(crate) fn vendor(self) -> Option<&'static str> {
        match self {
            Self::Arm | Self::Riscv => None,
            Self::Intel => Some("intel"),
            Self::Amd => Some("amd"),
        }
    }

    /// The kind of second-level table.
    pub(crate) fn mechanism(self) -> Mechanism {
        match self {
            Self::Arm => Mechanism::Stage2,
            Self::Intel => Mechanism::Ept,
            Self::Amd => Mechanism::Npt,
            Self::Riscv => Mechanism::Gstage,
        }
    }

    /// What the bare-metal programs are built for.
    pub(crate) fn target(self) -> &'static str {
        match self {
            Self::Arm => toolchain::AARCH64,
            Self::Intel | Self::Amd => toolchain::X86_64,
            Self::Riscv => toolchain::RISCV64,
        }
    }

    /// Where things lie in its memory.
    pub(crate) fn map(self) -> MemoryMap {
        match self {
            Self::Arm => MemoryMap::AARCH64,
            Self::Intel | Self::Amd => MemoryMap::X86_64,
            Self::Riscv => MemoryMap::RISCV64,
        }
    }

    /// Debian's name of the architecture.
    pub(crate) fn debian_architecture(self) -> &'static str {
        match self {
            Self::Arm => "arm64",
            Self::Intel | Self::Amd => "amd64",
            Self::Riscv => "riscv64",
        }
    }

    /// The release of Debian that its guest files are of, where the machine's own may not have the architecture: the first
    /// one with it. The mirror and its keys are the machine's.
    pub(crate) fn debian_release(self) -> Option<&'static str> {
        (self == Self::Riscv).then_some("trixie")
    }

    /// What kernels for it are called.
    pub(crate) fn kernel_format(self) -> &'static str {
        match self {
            Self::Arm => "arm64 Linux Image",
            Self::Intel | Self::Amd => "x86 bzImage",
            Self::Riscv => "RISC-V Linux Image",
        }
    }

    /// The kernel that guests run unless another is given: the smallest of the distribution, in the smallest package that has
    /// it. (For RISC-V there is but one, in a package of 107 MiB with its modules and in one of 50 MiB of the installer.)
    pub(crate) fn default_kernel(self) -> Kernel {
        match self {
            Self::Arm => Kernel::Linux("linux-image-cloud-arm64"),
            Self::Intel | Self::Amd => Kernel::Linux("linux-image-cloud-amd64"),
            Self::Riscv => Kernel::Installer,
        }
    }

    /// The CPU that is emulated unless another is given.
    pub(crate) fn default_cpu(self) -> &'static str {
        match self {
            Self::Arm => "cortex-a72",
            Self::Intel => "corei7_haswell_4770",
            Self::Amd => "EPYC",
            Self::Riscv => "rv64,h=true",
        }
    }

    /// Seconds after which a boot is given up: several times what one takes.
    pub(crate) fn default_timeout(self) -> u64 {
        match self {
            Self::Arm | Self::Amd | Self::Riscv => 60,
            Self::Intel => 120,
        }
    }

    /// What every guest with so many CPUs is told.
    pub(crate) fn bootargs(self, cpus: u32) -> &'static str {
        match (self, cpus) {
            (Self::Arm, _) => "earlycon console=ttyAMA0 panic=-1",
            // The kernel has no console driver that needs the firmware alone, so that the early one has to stay.
            (Self::Riscv, _) => "earlycon=sbi keep_bootcon panic=-1",
            // One CPU needs neither ACPI nor the APICs; the kernel's own tests of its ciphers would take half of the time on
            // Bochs.
            (Self::Intel | Self::Amd, 1) => {
                "console=ttyS0,115200 acpi=off noapic nolapic nokaslr mitigations=off reboot=k panic=-1 cryptomgr.notests"
            }
            // The second one is found by the tables of ACPI.
            (Self::Intel | Self::Amd, _) => {
                "console=ttyS0,115200 nokaslr mitigations=off reboot=k panic=-1 cryptomgr.notests"
            }
        }
    }

    /// Bytes that its Linux takes in one piece when it begins: on RISC-V for the list of all pieces of memory that there may be.
    pub(crate) fn kernel_takes_at_once(self) -> u64 {
        if self == Self::Riscv { 40 << 20 } else { 0 }
    }

    /// Bytes of memory that the emulated machine can have, all of it in one piece.
    pub(crate) fn most_machine_memory(self) -> u64 {
        let map = self.map();
        let most = map.end - map.ram;
        if self == Self::Intel { most.min(BOCHS_MEMORY) } else { most }
    }

    /// The name of the emulator.
    pub(crate) fn emulator_title(self) -> &'static str {
        match self {
            Self::Arm | Self::Amd | Self::Riscv => "QEMU",
            Self::Intel => "Bochs",
        }
    }

    /// Whether a guest runs natively in the same emulator, in a way that its time can be compared with.
    pub(crate) fn has_native(self) -> bool {
        self != Self::Intel
    }
}

#[cfg(test)]
mod tests;
