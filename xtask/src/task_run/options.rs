//! The command line of `cargo xtask run`, and all checks that can be made before anything is installed or started.

mod monitor;
pub(crate) mod paging;
mod parsers;
mod pause;

use super::bootargs;
use crate::boot::layout::{self, BLOCK, Layout, MOST_MEMORY};
use crate::boot::machine::{BOCHS_MODELS, bochs_model};
use crate::boot::session::{Choices, Sharing};
use crate::guests::cache::Kernel;
use crate::guests::image::{self, Image, Program};
use crate::platform::Platform;
use anyhow::{Context, Result, bail, ensure};
use clap::builder::PossibleValuesParser;
use monitor::MonitorOptions;
use paging::PagingOptions;
use parsers::{one_of, parse_format, parse_size};
use pause::PauseOptions;
use slat_hv_model::Cpu;
use slat_hv_model::guest::{LEAST_MEMORY, MOST_CPUS, MOST_MEMORY as MOST_MEMORY_OF_MODEL};
use slat_hv_protocol::{CPUS_MAX, Churn, FaultPolicy, GUESTS_MAX, Leaf, Mistake};
use slat_model::Policy;
use std::fs::File;
use std::path::{Path, PathBuf};

/// Churn after each exit of the guest, and in all.
const CHURN_PER_EXIT: u32 = 6;
const CHURN_LIMIT: u64 = 20_000;

/// Churn in all where each change is looked for in the TLBs of all CPUs.
const MODEL_CHURN_LIMIT: u64 = 3_000;

/// Boots an unmodified Linux under slat in an emulator and reports what the second level of its translation did.
///
/// On Arm that is stage 2, in QEMU; with `--arch x86_64` EPT under VMX, in Bochs, and with `--vendor amd` nested page tables
/// under SVM, in QEMU; with `--arch riscv64` the G-stage of the hypervisor extension, in QEMU, for up to eight guests at once.
/// Without options this fetches Debian's kernel and busybox, builds the reference hypervisor (slat-hv), boots,
/// lets the guest check a file and do some work, and waits for its power-off. What the machine lacks is
/// installed when that is possible (Debian and root) and named when it is not. Everything lands below the
/// target directory, packages apart.
///
/// With `--machine model` the same run loop works on a model of the hardware instead, whose TLBs keep everything that the
/// architecture allows, with a synthetic guest. That needs nothing installed, on any system.
///
/// The exit code is 0 only if the guest reached its own end, found its memory unharmed, and every frame that
/// was taken came back; on the model also, if no access was stale and no frame reachable after its return.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// What the guest runs on: Linux in the emulator, or a synthetic guest on the model of the hardware
    #[arg(long, value_name = "KIND", default_value = "emulator")]
    pub(crate) machine: MachineKind,

    /// Second-level format of the model: stage2 (Arm), ept (Intel), npt (AMD), gstage (RISC-V) [default: stage2]
    #[arg(long, value_parser = parse_format)]
    pub(crate) format: Option<Cpu>,

    /// Seed of the model's guest, and of which CPU goes on when [default: 1]
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,

    /// TLBs of the model: the stalest result always, or any of the possible ones by the seed [default: stalest]
    #[arg(long, value_parser = PossibleValuesParser::new(["stalest", "random"]))]
    pub(crate) tlb: Option<String>,

    /// Architecture of host and guest in the emulator: aarch64, x86_64 or riscv64 [default: aarch64, and x86_64 with --vendor]
    #[arg(long)]
    pub(crate) arch: Option<Arch>,

    /// Vendor of the emulated x86 CPU: intel (VMX and EPT, in Bochs) or amd (SVM and NPT, in QEMU) [default: intel]
    #[arg(long)]
    pub(crate) vendor: Option<Vendor>,

    /// Guest kernel: any arm64 or RISC-V Linux Image, or x86 bzImage; memtest86+ and (for riscv64) u-boot stand for Debian's
    /// [default: Debian's linux-image-cloud-arm64 or -amd64, the kernel of its installer for riscv64]
    #[arg(long, value_name = "IMAGE")]
    pub(crate) guest: Option<PathBuf>,

    /// Guest's initial RAM disk [default: one with busybox that checks a file, works and powers off]
    #[arg(long, value_name = "FILE")]
    pub(crate) initrd: Option<PathBuf>,

    /// Text for the end of the guest's command line
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true,
        allow_hyphen_values = true
    )]
    pub(crate) append: String,

    /// Guest RAM, a multiple of 2M; suffixes K, M and G; 64M on the model, 6M for memtest86+, which tests all of it
    #[arg(long, value_name = "SIZE", default_value = "128M", value_parser = parse_size)]
    #[arg(default_value_if("machine", "model", "64M"))]
    #[arg(default_value_if("guest", "memtest86+", "6M"))]
    pub(crate) memory: u64,

    /// What a fault populates: a 4K leaf, a 2M leaf, or (auto) 2M in the leaves that suit the emulator, which are 4K on Arm
    #[arg(long, default_value = "auto", value_parser = one_of::<Leaf>(&["4k", "2m", "auto"]))]
    pub(crate) leaf: Leaf,

    /// Width of a guest-physical address in bits [default: all that the CPU has]
    #[arg(long, value_name = "BITS", value_parser = clap::value_parser!(u32).range(32..=59))]
    pub(crate) gpa_bits: Option<u32>,

    /// Unmap, move and write-protect random pages while the guest runs
    #[arg(long)]
    pub(crate) churn: bool,

    /// Seed of the random sequence of --churn
    #[arg(long, value_name = "N", default_value_t = 1, requires = "churn")]
    pub(crate) churn_seed: u64,

    /// Operations of --churn after each exit of the guest
    #[arg(long, value_name = "N", default_value_t = CHURN_PER_EXIT, requires = "churn")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1000))]
    churn_per_exit: u32,

    /// Operations of --churn in all
    #[arg(long, value_name = "N", default_value_t = CHURN_LIMIT, requires = "churn")]
    churn_limit: u64,

    /// Make a mistake on purpose, in TLB maintenance for the most part
    #[arg(long, hide = true, default_value = "none", value_parser = one_of::<Mistake>(&MISTAKES))]
    pub(crate) mistake: Mistake,

    /// What becomes of a guest access that nobody answers: end the run, or give the guest an abort
    #[arg(long, value_name = "ACTION", default_value = "stop", value_parser = one_of::<FaultPolicy>(&["stop", "inject"]))]
    pub(crate) on_fault: FaultPolicy,

    /// Seconds after which a boot is given up [default: 60, on Bochs 120]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: Option<u64>,

    /// Boot three times under slat and three times natively, in turn, and take the medians
    #[arg(long, conflicts_with = "no_native")]
    pub(crate) compare: bool,

    /// Leave out the native boot of the same guest, which the time is compared with
    #[arg(long)]
    pub(crate) no_native: bool,

    /// CPUs of the machine and of the guest: up to 2, and up to 8 on the model; on x86, with --churn, one that the guest does not
    /// use churns while the other one runs the guest; of each guest where there are several
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=MOST_CPUS as i64))]
    pub(crate) cpus: u32,

    /// Guests at once on one machine, all alike, up to 8; with --arch riscv64, or on the model
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=GUESTS_MAX as i64))]
    pub(crate) guests: u32,

    /// CPUs of the machine, where those are not as many as each guest has; with --arch riscv64, or on the model [default: that of --cpus]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=CPUS_MAX as i64))]
    pub(crate) host_cpus: Option<u32>,

    /// Memory that the guests' memory and tables are taken from, as they need it; a guest that needs more than is left is ended
    /// [default: as much as all of them can ever take; with --page-out three eighths of their memory]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) pool: Option<u64>,

    #[command(flatten)]
    pub(crate) paging: PagingOptions,

    /// CPU that is emulated; of Bochs's names a part is enough [default: cortex-a72, corei7_haswell_4770, EPYC, rv64,h=true]
    #[arg(long, value_name = "MODEL")]
    cpu: Option<String>,

    /// Record every table entry, invalidation and entry of the run, for `cargo xtask replay`
    #[arg(long, value_name = "FILE", conflicts_with = "compare")]
    pub(crate) record: Option<PathBuf>,

    /// Write what happened when, fault by fault, in the trace event format of Chrome, which ui.perfetto.dev shows
    #[arg(long, value_name = "FILE", conflicts_with = "compare")]
    pub(crate) trace: Option<PathBuf>,

    /// Draw the story of the boot: a page of HTML that needs nothing else
    #[arg(long, value_name = "FILE", conflicts_with = "compare")]
    pub(crate) report: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) pause: PauseOptions,

    #[command(flatten)]
    pub(crate) monitor: MonitorOptions,

    /// Print the report as one JSON object on stdout, and everything else on stderr
    #[arg(long)]
    pub(crate) json: bool,
}

/// The protocol's names of mistakes.
pub(crate) const MISTAKES: [&str; 14] = [
    "none",
    "no-tlbi",
    "ipas2-alone",
    "vmalle1-alone",
    "wrong-address",
    "el2-instruction",
    "local-tlbi",
    "no-kick",
    "no-redelivery",
    "skipped-copies",
    "shared-frame",
    "lost-dirty-page",
    "lost-page-out",
    "damaged-page-out",
];

/// What the guest runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum MachineKind {
    /// Linux in QEMU or Bochs
    Emulator,
    /// A synthetic guest on the model of the hardware
    Model,
}

/// The architecture of host and guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Arch {
    /// Arm
    #[value(name = "aarch64")]
    Aarch64,
    /// Intel and AMD
    #[value(name = "x86_64")]
    X86_64,
    /// RISC-V
    #[value(name = "riscv64")]
    Riscv64,
}

/// The vendor of an x86 CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Vendor {
    /// VMX and EPT
    Intel,
    /// SVM and NPT
    Amd,
}

/// What is chosen for the model.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ModelChoices {
    pub(crate) cpu: Cpu,
    pub(crate) seed: u64,
    pub(crate) policy: Policy,
}

/// What the checks found out.
pub(crate) struct Checked {
    /// What is emulated.
    pub(crate) platform: Platform,
    /// What the guest is.
    pub(crate) program: Program,
    /// The kernel that was given, if one was.
    pub(crate) image: Option<Image>,
    /// What the hypervisor is told.
    pub(crate) choices: Choices,
}

impl Options {
    /// Checks everything that can be checked without set-up.
    pub(crate) fn check(&self) -> Result<Checked> {
        refuse(
            "--machine emulator",
            &[
                ("--format", self.format.is_some()),
                ("--seed", self.seed.is_some()),
                ("--tlb", self.tlb.is_some()),
            ],
        )?;
        let platform = self.platform();
        ensure!(
            self.vendor.is_none() || platform.vendor().is_some(),
            "--vendor: not with --arch {}, where there is none",
            platform.arch()
        );
        self.check_sharing(platform)?;
        self.check_pause(platform)?;
        self.check_monitor()?;
        self.check_paging(platform)?;
        let widest = if platform == Platform::Riscv { 59 } else { 48 };
        ensure!(
            self.gpa_bits.is_none_or(|bits| bits <= widest),
            "--gpa-bits: at most {widest} with --arch {}",
            platform.arch()
        );
        ensure!(self.cpus as usize <= CPUS_MAX, "--cpus: the emulated machine has at most {CPUS_MAX}");
        ensure!(
            !self.compare || platform.has_native(),
            "--compare: there is nothing to compare with, {} is too slow to boot it natively",
            platform.emulator_title()
        );
        if let (Platform::Intel, Some(cpu)) = (platform, &self.cpu) {
            let known = BOCHS_MODELS.join(", ");
            ensure!(bochs_model(cpu).is_some(), "--cpu: Bochs has no single CPU {cpu}; it has {known}");
        }
        if let Some(initrd) = &self.initrd {
            let bytes = std::fs::read(initrd);
            let bytes =
                bytes.with_context(|| format!("cannot read the initial RAM disk {}", initrd.display()))?;
            ensure!(!bytes.is_empty(), "the initial RAM disk {} is empty", initrd.display());
        }
        let memtest = self.fetched() == Some(Kernel::Memtest);
        let u_boot = self.fetched() == Some(Kernel::UBoot);
        let x86 = matches!(platform, Platform::Intel | Platform::Amd);
        ensure!(!memtest || x86, "--guest: memtest86+ is for --arch x86_64");
        ensure!(!u_boot || platform == Platform::Riscv, "--guest: u-boot is for --arch riscv64");
        ensure!(!u_boot || self.guests == 1, "--guests: u-boot is alone, as it ends the run");
        let given = self.guest.as_deref().filter(|_| self.fetched().is_none());
        let image = given.map(|file| image::check_file(file, platform)).transpose()?;
        let memtest = memtest || image.as_ref().is_some_and(|image| image.program == Program::Memtest);
        ensure!(!memtest || self.initrd.is_none(), "--initrd: memtest86+ takes none");
        ensure!(!u_boot || self.initrd.is_none(), "--initrd: u-boot takes none");
        check_size(self.memory)?;
        // A kernel that is still to be fetched is checked again once it is there.
        let (program, least) = match (memtest, u_boot) {
            (true, _) => (Program::Memtest, 2 << 20),
            (_, true) => (Program::UBoot, 8 << 20),
            _ => (Program::Linux, 8 << 20),
        };
        let unknown = Image { program, memory: least, ..Image::default() };
        check_memory(image.as_ref().unwrap_or(&unknown), self.initrd.as_deref(), self.memory)?;
        let size = given.map_or(0, |file| file_size(Some(file)));
        self.check_machine(size, file_size(self.initrd.as_deref()))?;
        bootargs::check(&self.append)?;
        self.check_files()?;
        Ok(Checked { platform, program, image, choices: self.choices() })
    }

    /// Whether everything that is to be written can be. The last check, for it makes files; what they hold stays until the run has ended.
    fn check_files(&self) -> Result<()> {
        let files = [
            ("--record", &self.record),
            ("--trace", &self.trace),
            ("--report", &self.report),
            ("--snapshot", &self.pause.snapshot),
        ];
        for (name, file) in files.into_iter().filter_map(|(name, file)| Some((name, file.as_ref()?))) {
            let opened = File::options().append(true).create(true).open(file);
            opened.with_context(|| format!("{name}: cannot write {}", file.display()))?;
        }
        Ok(())
    }

    /// Whether the run is traced.
    pub(crate) fn is_traced(&self) -> bool {
        self.trace.is_some() || self.report.is_some()
    }

    /// Checks the options for the model.
    pub(crate) fn check_model(&self) -> Result<ModelChoices> {
        refuse("--machine model", &self.pause.given())?;
        refuse("--machine model", &self.monitor.given())?;
        refuse("--machine model", &self.paging.given())?;
        refuse(
            "--machine model",
            &[
                ("--arch", self.arch.is_some()),
                ("--vendor", self.vendor.is_some()),
                ("--guest", self.guest.is_some()),
                ("--initrd", self.initrd.is_some()),
                ("--append", !self.append.is_empty()),
                ("--gpa-bits", self.gpa_bits.is_some()),
                ("--on-fault", self.on_fault != FaultPolicy::Stop),
                ("--timeout", self.timeout.is_some()),
                ("--compare", self.compare),
                ("--no-native", self.no_native),
                ("--cpu", self.cpu.is_some()),
                ("--churn-per-exit", self.churn_per_exit != CHURN_PER_EXIT),
                ("--churn-limit", self.churn_limit != CHURN_LIMIT),
                ("--record", self.record.is_some()),
            ],
        )?;
        check_size(self.memory)?;
        check_pool(self.pool)?;
        let fits = (LEAST_MEMORY..=MOST_MEMORY_OF_MODEL).contains(&self.memory);
        let (least, most) = (size(LEAST_MEMORY), size(MOST_MEMORY_OF_MODEL));
        ensure!(
            fits,
            "--memory: {} is not between {least} and {most}, which the model can hold",
            size(self.memory)
        );
        let cpu = self.format.unwrap_or(Cpu::Arm);
        let everywhere = matches!(self.mistake, Mistake::None | Mistake::NoTlbi | Mistake::LocalTlbi);
        ensure!(everywhere || cpu == Cpu::Arm, "--mistake: this one can be made with --format stage2 alone");
        let seed = self.seed.unwrap_or(1);
        let random = self.tlb.as_deref() == Some("random");
        self.check_files()?;
        Ok(ModelChoices { cpu, seed, policy: if random { Policy::Seeded(seed) } else { Policy::Everything } })
    }

    /// Whether guests can share this machine in the way that was asked for.
    fn check_sharing(&self, platform: Platform) -> Result<()> {
        let alone = platform != Platform::Riscv;
        ensure!(!alone || self.guests == 1, "--guests: several guests run with --arch riscv64 only");
        ensure!(
            !alone || self.host_cpus.is_none(),
            "--host-cpus: with --arch riscv64 only; elsewhere the guest has all CPUs of the machine"
        );
        ensure!(
            !self.compare || self.guests == 1,
            "--compare: natively there is one guest, not {}",
            self.guests
        );
        check_pool(self.pool)
    }

    /// Whether the emulated machine can have as much memory as the guests, blobs of these sizes and the hypervisor take.
    pub(crate) fn check_machine(&self, kernel: u64, initrd: u64) -> Result<()> {
        let platform = self.platform();
        let (map, most) = (platform.map(), platform.most_machine_memory());
        let layout = match self.pool() {
            None => Layout::new(&map, kernel, initrd, self.memory * u64::from(self.most_guests())),
            Some(pool) => Layout::with_pool(&map, kernel, initrd, pool),
        };
        let layout = layout.with_recording();
        let layout = self.paged().map_or(layout, |paged| layout.with_store(paged.store)).with_trace();
        let takes = layout.machine_memory;
        ensure!(
            takes <= most,
            "--memory: {} is too much: the machine would need {}, and {} emulates {} in one piece at most",
            size(self.memory),
            size(takes),
            platform.emulator_title(),
            size(most)
        );
        Ok(())
    }

    /// What is emulated.
    pub(crate) fn platform(&self) -> Platform {
        match (self.arch, self.vendor) {
            (Some(Arch::Aarch64), _) | (None, None) => Platform::Arm,
            (Some(Arch::Riscv64), _) => Platform::Riscv,
            (_, Some(Vendor::Amd)) => Platform::Amd,
            (Some(Arch::X86_64), None) | (_, Some(Vendor::Intel)) => Platform::Intel,
        }
    }

    /// The kernel that has to be fetched, if none is given.
    pub(crate) fn fetched(&self) -> Option<Kernel> {
        match &self.guest {
            None => Some(self.platform().default_kernel()),
            Some(name) => Kernel::named(name.as_os_str()),
        }
    }

    /// The CPU of the emulated machine.
    pub(crate) fn cpu(&self) -> &str {
        let platform = self.platform();
        match &self.cpu {
            None => platform.default_cpu(),
            Some(cpu) if platform == Platform::Intel => bochs_model(cpu).unwrap_or(cpu),
            Some(cpu) => cpu,
        }
    }

    /// Seconds after which a boot is given up.
    pub(crate) fn timeout(&self) -> u64 {
        self.timeout.unwrap_or(self.platform().default_timeout())
    }

    fn choices(&self) -> Choices {
        Choices {
            leaf: self.leaf,
            gpa_bits: self.gpa_bits,
            on_fault: self.on_fault,
            churn: self.churn.then_some(Churn {
                seed: self.churn_seed,
                per_exit: self.churn_per_exit,
                limit: self.churn_limit,
            }),
            mistake: self.mistake,
            page_requests: false,
            record: self.record.is_some(),
            trace: self.is_traced(),
            sharing: Sharing {
                guests: self.guests,
                cpus: self.host_cpus.map(|_| self.cpus),
                pool: self.pool(),
            },
            pause: self.pause.then(),
            monitor: self.monitor.asking(),
            paging: self.paged(),
            silence: None,
        }
    }

    /// CPUs of the emulated machine.
    pub(crate) fn machine_cpus(&self) -> u32 {
        self.host_cpus.unwrap_or(self.cpus)
    }
}

/// Churn with this seed.
pub(crate) fn churn(seed: u64) -> Churn {
    Churn { seed, per_exit: CHURN_PER_EXIT, limit: CHURN_LIMIT }
}

/// Churn with this seed on the model.
pub(crate) fn churn_on_the_model(seed: u64) -> Churn {
    Churn { limit: MODEL_CHURN_LIMIT, ..churn(seed) }
}

/// Refuses the options that were given and have no meaning with `what`.
fn refuse(what: &str, options: &[(&str, bool)]) -> Result<()> {
    let given: Vec<_> = options.iter().filter(|(_, given)| *given).map(|(name, _)| *name).collect();
    ensure!(given.is_empty(), "{}: not with {what}", given.join(", "));
    Ok(())
}

/// Whether the guest fits into `memory` bytes.
pub(crate) fn check_memory(image: &Image, initrd: Option<&Path>, memory: u64) -> Result<()> {
    let least = match image.program {
        Program::Linux | Program::UBoot => layout::least_memory(image.memory, file_size(initrd)),
        // It unpacks nothing, and what it lies in itself it tests as well.
        Program::Memtest => (image.memory + (2 << 20)).next_multiple_of(BLOCK),
    };
    if memory < least {
        bail!("--memory: {} is too little for this guest, which needs {}", size(memory), size(least));
    }
    Ok(())
}

/// A warning where the guest starts but will hardly get far.
pub(crate) fn tight_memory(
    platform: Platform,
    image: &Image,
    initrd: Option<&Path>,
    memory: u64,
) -> Option<String> {
    if image.program != Program::Linux {
        return None;
    }
    let comfortable =
        layout::comfortable_memory(image.memory, file_size(initrd), platform.kernel_takes_at_once());
    (memory < comfortable).then(|| {
        format!("{} may be too little for this guest; {} should do", size(memory), size(comfortable))
    })
}

pub(crate) fn file_size(file: Option<&Path>) -> u64 {
    file.and_then(|file| std::fs::metadata(file).ok()).map_or(0, |metadata| metadata.len())
}

fn check_size(memory: u64) -> Result<()> {
    ensure!(memory % BLOCK == 0, "--memory: {memory} bytes are no multiple of 2M");
    ensure!(memory <= MOST_MEMORY, "--memory: {} is too much; at most {}", size(memory), size(MOST_MEMORY));
    Ok(())
}

fn check_pool(pool: Option<u64>) -> Result<()> {
    let Some(pool) = pool else { return Ok(()) };
    ensure!(pool % BLOCK == 0 && pool > 0, "--pool: {pool} bytes are no multiple of 2M");
    ensure!(pool <= MOST_MEMORY, "--pool: {} is too much; at most {}", size(pool), size(MOST_MEMORY));
    Ok(())
}

fn size(bytes: u64) -> String {
    format!("{}M", bytes >> 20)
}

#[cfg(test)]
mod tests;
