//! The emulators, as data: what they are called, which packages they come in, how they are started from where they were
//! unpacked.

use crate::host::Package;
use crate::platform::Platform;

/// One emulator.
#[derive(Debug)]
pub(super) struct Emulator {
    /// What it is called.
    pub(super) name: &'static str,
    /// Names of its program, the best first.
    pub(super) programs: &'static [&'static str],
    /// The packages that it comes in.
    pub(super) package: Package,
    /// Arguments by which it does nothing but say something, to see that it works at all.
    pub(super) probe: &'static [&'static str],
    /// Its program as the package has it, below `usr/bin`.
    pub(super) unpacked: &'static str,
    /// Lines of a shell script that come before it is started from `$root`, where its package was unpacked.
    pub(super) environment: &'static str,
    /// Arguments for that.
    pub(super) arguments: &'static str,
}

const QEMU_DATA: &str = "-L \"$root/usr/share/qemu\" -L \"$root/usr/share/seabios\" ";

static QEMU_ARM: Emulator = Emulator {
    name: "qemu-system-aarch64",
    programs: &["qemu-system-aarch64"],
    package: Package {
        debian: "qemu-system-arm",
        fedora: "qemu-system-aarch64-core",
        arch: "qemu-system-aarch64",
        suse: "qemu-arm",
        brew: "qemu",
    },
    probe: &["--version"],
    unpacked: "qemu-system-aarch64",
    environment: "",
    arguments: QEMU_DATA,
};

static QEMU_X86: Emulator = Emulator {
    name: "qemu-system-x86_64",
    programs: &["qemu-system-x86_64"],
    package: Package {
        debian: "qemu-system-x86",
        fedora: "qemu-system-x86-core",
        arch: "qemu-system-x86",
        suse: "qemu-x86",
        brew: "qemu",
    },
    probe: &["--version"],
    unpacked: "qemu-system-x86_64",
    environment: "",
    arguments: QEMU_DATA,
};

/// OpenSBI comes with it. (In Debian 13 the emulator of RISC-V is in a package of its own, on which this one depends.)
static QEMU_RISCV: Emulator = Emulator {
    name: "qemu-system-riscv64",
    programs: &["qemu-system-riscv64"],
    package: Package {
        debian: "qemu-system-misc",
        fedora: "qemu-system-riscv-core",
        arch: "qemu-system-riscv",
        suse: "qemu-extra",
        brew: "qemu",
    },
    probe: &["--version"],
    unpacked: "qemu-system-riscv64",
    environment: "",
    arguments: QEMU_DATA,
};

/// With its built-in debugger, through which a run ends with code 0 and its memory is looked at.
static BOCHS: Emulator = Emulator {
    name: "bochs",
    programs: &["bochs-debugger", "bochs"],
    package: Package {
        debian: "bochs bochs-term",
        fedora: "bochs bochs-debugger",
        arch: "bochs",
        suse: "bochs",
        brew: "bochs",
    },
    probe: &["-help", "cpu"],
    // `bochs` itself is a script that looks for this one where programs are installed.
    unpacked: "bochs-bin",
    environment: "\
        for directory in \"$root\"/usr/lib/*-linux-gnu*/bochs/plugins; do\n\
        \x20   export LTDL_LIBRARY_PATH=$directory\n\
        done\n\
        export BXSHARE=\"$root/usr/share/bochs\"\n",
    arguments: "-q ",
};

impl Emulator {
    /// The emulator of `platform`.
    pub(super) fn of(platform: Platform) -> &'static Self {
        match platform {
            Platform::Arm => &QEMU_ARM,
            Platform::Amd => &QEMU_X86,
            Platform::Intel => &BOCHS,
            Platform::Riscv => &QEMU_RISCV,
        }
    }
}
