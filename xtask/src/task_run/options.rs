//! The command line of `cargo xtask run`, and all checks that can be made before anything is installed or started.

use crate::boot::layout::{self, BLOCK, MOST_MEMORY};
use crate::boot::session::Choices;
use crate::guests::image::{self, Image};
use anyhow::{Context, Result, bail, ensure};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde::de::DeserializeOwned;
use slat_hv_model::Cpu;
use slat_hv_model::guest::{LEAST_MEMORY, MOST_CPUS, MOST_MEMORY as MOST_MEMORY_OF_MODEL};
use slat_hv_protocol::{CPUS_MAX, Churn, FaultPolicy, Leaf, Mistake, PARAMS_MAX};
use slat_model::Policy;
use std::fs::File;
use std::path::{Path, PathBuf};

/// What every guest is told; `--append` comes behind it.
pub(crate) const BOOTARGS: &str = "earlycon console=ttyAMA0 panic=-1";

/// What a guest with less than [`SMALL`] memory is told as well. A kernel that is locked down does without tracefs,
/// whose thousands of files take 8 MiB while it boots.
const SMALL_BOOTARGS: &str = " lockdown=confidentiality";
const SMALL: u64 = 64 << 20;

/// Churn after each exit of the guest, and in all.
const CHURN_PER_EXIT: u32 = 6;
const CHURN_LIMIT: u64 = 20_000;

/// Churn in all where each change is looked for in the TLBs of all CPUs.
const MODEL_CHURN_LIMIT: u64 = 3_000;

/// The CPU that QEMU emulates, and the seconds that it has.
const DEFAULT_CPU: &str = "cortex-a72";
const DEFAULT_TIMEOUT: u64 = 60;

/// Boots an unmodified Linux at EL1 under slat in QEMU and reports what stage 2 did.
///
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

    /// Architecture of host and guest; aarch64 is the only one of the emulator so far [default: aarch64]
    #[arg(long, value_parser = parse_arch)]
    pub(crate) arch: Option<String>,

    /// Guest kernel: any arm64 Linux Image [default: Debian's linux-image-cloud-arm64]
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

    /// Guest RAM, a multiple of 2M; suffixes K, M and G; 64M on the model
    #[arg(long, value_name = "SIZE", default_value = "128M", value_parser = parse_size)]
    #[arg(default_value_if("machine", "model", "64M"))]
    pub(crate) memory: u64,

    /// What a fault populates: a 4K leaf, a 2M leaf, or (auto) 2M in the leaves that suit the emulator, which are 4K
    #[arg(long, default_value = "auto", value_parser = one_of::<Leaf>(&["4k", "2m", "auto"]))]
    pub(crate) leaf: Leaf,

    /// Width of a guest-physical address in bits [default: all that the CPU has]
    #[arg(long, value_name = "BITS", value_parser = clap::value_parser!(u32).range(32..=48))]
    pub(crate) gpa_bits: Option<u32>,

    /// Unmap, move and write-protect random pages while the guest runs
    #[arg(long)]
    pub(crate) churn: bool,

    /// Seed of the random sequence of --churn
    #[arg(long, value_name = "N", default_value_t = 1, requires = "churn")]
    pub(crate) churn_seed: u64,

    /// Make a mistake in TLB maintenance on purpose
    #[arg(long, hide = true, default_value = "none", value_parser = one_of::<Mistake>(&MISTAKES))]
    pub(crate) mistake: Mistake,

    /// What becomes of a guest access that nobody answers: end the run, or give the guest an abort
    #[arg(long, value_name = "ACTION", default_value = "stop", value_parser = one_of::<FaultPolicy>(&["stop", "inject"]))]
    pub(crate) on_fault: FaultPolicy,

    /// Seconds after which a boot is given up [default: 60]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: Option<u64>,

    /// Boot three times under slat and three times natively, in turn, and take the medians
    #[arg(long, conflicts_with = "no_native")]
    pub(crate) compare: bool,

    /// Leave out the native boot of the same guest, which the time is compared with
    #[arg(long)]
    pub(crate) no_native: bool,

    /// CPUs of the machine and of the guest: up to 2, and up to 8 on the model
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=MOST_CPUS as i64))]
    pub(crate) cpus: u32,

    /// CPU that QEMU emulates [default: cortex-a72]
    #[arg(long, value_name = "MODEL")]
    cpu: Option<String>,

    /// Record every table entry, invalidation and entry of the run, for `cargo xtask replay`
    #[arg(long, value_name = "FILE", conflicts_with = "compare")]
    pub(crate) record: Option<PathBuf>,

    /// Print the report as one JSON object on stdout, and everything else on stderr
    #[arg(long)]
    pub(crate) json: bool,
}

/// The protocol's names of mistakes.
pub(crate) const MISTAKES: [&str; 10] = [
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
];

/// What the guest runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum MachineKind {
    /// Linux in QEMU
    Emulator,
    /// A synthetic guest on the model of the hardware
    Model,
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
    /// The kernel that was given, if one was.
    pub(crate) image: Option<Image>,
    /// The guest's whole command line.
    pub(crate) bootargs: String,
    /// What the hypervisor is told.
    pub(crate) choices: Choices,
}

impl Options {
    /// Checks everything that can be checked without set-up.
    pub(crate) fn check(&self) -> Result<Checked> {
        refuse(
            "emulator",
            &[
                ("--format", self.format.is_some()),
                ("--seed", self.seed.is_some()),
                ("--tlb", self.tlb.is_some()),
            ],
        )?;
        ensure!(self.cpus as usize <= CPUS_MAX, "--cpus: the emulated machine has at most {CPUS_MAX}");
        if let Some(initrd) = &self.initrd {
            let bytes = std::fs::read(initrd);
            let bytes =
                bytes.with_context(|| format!("cannot read the initial RAM disk {}", initrd.display()))?;
            ensure!(!bytes.is_empty(), "the initial RAM disk {} is empty", initrd.display());
        }
        let image = self.guest.as_deref().map(image::check_file).transpose()?;
        if let Some(file) = &self.record {
            File::create(file).with_context(|| format!("--record: cannot write {}", file.display()))?;
        }
        check_size(self.memory)?;
        // A kernel that is still to be fetched is checked again once it is there.
        let unknown = Image { memory: 8 << 20, release: None };
        check_memory(image.as_ref().unwrap_or(&unknown), self.initrd.as_deref(), self.memory)?;
        Ok(Checked { image, bootargs: bootargs(&self.append, self.memory)?, choices: self.choices() })
    }

    /// Checks the options for the model.
    pub(crate) fn check_model(&self) -> Result<ModelChoices> {
        refuse(
            "model",
            &[
                ("--arch", self.arch.is_some()),
                ("--guest", self.guest.is_some()),
                ("--initrd", self.initrd.is_some()),
                ("--append", !self.append.is_empty()),
                ("--gpa-bits", self.gpa_bits.is_some()),
                ("--on-fault", self.on_fault != FaultPolicy::Stop),
                ("--timeout", self.timeout.is_some()),
                ("--compare", self.compare),
                ("--no-native", self.no_native),
                ("--cpu", self.cpu.is_some()),
                ("--record", self.record.is_some()),
            ],
        )?;
        check_size(self.memory)?;
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
        Ok(ModelChoices { cpu, seed, policy: if random { Policy::Seeded(seed) } else { Policy::Everything } })
    }

    /// The architecture of the emulated machine.
    pub(crate) fn arch(&self) -> &str {
        self.arch.as_deref().unwrap_or("aarch64")
    }

    /// The CPU of the emulated machine.
    pub(crate) fn cpu(&self) -> &str {
        self.cpu.as_deref().unwrap_or(DEFAULT_CPU)
    }

    /// Seconds after which a boot is given up.
    pub(crate) fn timeout(&self) -> u64 {
        self.timeout.unwrap_or(DEFAULT_TIMEOUT)
    }

    fn choices(&self) -> Choices {
        Choices {
            leaf: self.leaf,
            gpa_bits: self.gpa_bits,
            on_fault: self.on_fault,
            churn: self.churn.then(|| churn(self.churn_seed)),
            mistake: self.mistake,
            page_requests: false,
            record: self.record.is_some(),
        }
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

/// Refuses the options that were given and have no meaning on this machine.
fn refuse(machine: &str, options: &[(&str, bool)]) -> Result<()> {
    let given: Vec<_> = options.iter().filter(|(_, given)| *given).map(|(name, _)| *name).collect();
    ensure!(given.is_empty(), "{}: not with --machine {machine}", given.join(", "));
    Ok(())
}

/// The command line of a guest with `memory` bytes, with `append` behind it.
pub(crate) fn bootargs(append: &str, memory: u64) -> Result<String> {
    ensure!(!append.contains(['\n', '\0']), "--append: the text has a line break or a zero byte in it");
    // The kernel has room for 2048 bytes and cuts the rest off without a word.
    ensure!(
        append.len() + BOOTARGS.len() + SMALL_BOOTARGS.len() < 2047.min(PARAMS_MAX),
        "--append: the text is too long"
    );
    let small = if memory < SMALL { SMALL_BOOTARGS } else { "" };
    Ok(format!("{BOOTARGS}{small} {append}").trim_end().to_owned())
}

/// Whether the guest fits into `memory` bytes.
pub(crate) fn check_memory(image: &Image, initrd: Option<&Path>, memory: u64) -> Result<()> {
    let least = layout::least_memory(image.memory, file_size(initrd));
    if memory < least {
        bail!("--memory: {} is too little for this guest, which needs {}", size(memory), size(least));
    }
    Ok(())
}

/// A warning where the guest starts but will hardly get far.
pub(crate) fn tight_memory(image: &Image, initrd: Option<&Path>, memory: u64) -> Option<String> {
    let comfortable = layout::comfortable_memory(image.memory, file_size(initrd));
    (memory < comfortable).then(|| {
        format!("{} may be too little for this guest; {} should do", size(memory), size(comfortable))
    })
}

fn file_size(file: Option<&Path>) -> u64 {
    file.and_then(|file| std::fs::metadata(file).ok()).map_or(0, |metadata| metadata.len())
}

fn check_size(memory: u64) -> Result<()> {
    ensure!(memory % BLOCK == 0, "--memory: {memory} bytes are no multiple of 2M");
    ensure!(memory <= MOST_MEMORY, "--memory: {} is too much; at most {}", size(memory), size(MOST_MEMORY));
    Ok(())
}

fn size(bytes: u64) -> String {
    format!("{}M", bytes >> 20)
}

/// Reads `64M`, `1G`, `65536K` or a plain number of bytes.
fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|last: char| !last.is_ascii_digit());
    let unit: u64 = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" => 1,
        "K" | "KIB" => 1 << 10,
        "M" | "MIB" => 1 << 20,
        "G" | "GIB" => 1 << 30,
        _ => return Err("a number with a suffix K, M or G is needed, such as 128M".to_owned()),
    };
    let number: u64 = digits.parse().map_err(|_| "a number such as 128M is needed".to_owned())?;
    number.checked_mul(unit).ok_or_else(|| "the number is too large".to_owned())
}

fn parse_arch(text: &str) -> Result<String, String> {
    if text == "aarch64" {
        Ok(text.to_owned())
    } else {
        Err("aarch64 is the only architecture so far".to_owned())
    }
}

fn parse_format(text: &str) -> Result<Cpu, String> {
    let named = Cpu::ALL.into_iter().find(|cpu| cpu.format() == text);
    named.ok_or_else(|| format!("one of {} is needed", Cpu::ALL.map(Cpu::format).join(", ")))
}

/// A parser for an enumeration of the protocol, by the names that the protocol itself uses.
fn one_of<T>(names: &'static [&'static str]) -> impl TypedValueParser<Value = T>
where
    T: DeserializeOwned + Clone + Send + Sync + 'static,
{
    PossibleValuesParser::new(names)
        .try_map(|name: String| serde_json::from_value::<T>(serde_json::Value::String(name)))
}

#[cfg(test)]
mod tests;
