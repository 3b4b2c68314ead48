//! `cargo xtask run`: an unmodified Linux under slat.
//!
//! Protocol: everything about the command line and the given files is checked first; then the set-up; then the
//! guest runs under slat, then natively; then the report. With `--json` stdout carries one object and nothing
//! else. With `--machine model` there is no set-up: see [`model`].

pub(crate) mod bootargs;
mod model;
pub(crate) mod options;
mod report;

pub(crate) use options::{Options, churn};

use crate::boot::machine::{Machine, Pace};
use crate::boot::session::{self, Asking, Goal, Guest, Observed};
use crate::boot::verdict;
use crate::guests::image::{self, Image, Program};
use crate::guests::{commands, initramfs};
use crate::host::Host;
use crate::missing::MissingThings;
use crate::platform::Platform;
use crate::process;
use crate::setup::{self, Needs};
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use initramfs::sha256;
use options::{Checked, MachineKind};
use report::{Summary, Times};
use slat_hv_protocol::pause::Then;
use slat_hv_protocol::snapshot::Snapshot;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;
use tempfile::TempDir;

/// Runs of each kind with `--compare`.
const COMPARED_RUNS: usize = 3;

/// The seed of the payload that the guest has to find unharmed.
pub(crate) const PAYLOAD_SEED: u64 = 0x736c_6174;

/// Carries out `cargo xtask run`.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    if options.machine == MachineKind::Model {
        return model::run(options);
    }
    let checked = options.check()?;
    let host = Host::detect();
    let workspace = Workspace::find()?;
    let platform = checked.platform;
    let linux = checked.program == Program::Linux;
    let restores = options.pause.restore.as_deref();
    let fetched = options.fetched().filter(|_| restores.is_none());
    let own_user_space = linux && options.initrd.is_none() && restores.is_none();
    let needs = Needs { platform, kernel: fetched, busybox: own_user_space };
    let equipment = setup::prepare(&host, &workspace, &needs).map_err(|error| {
        MissingThings::hint(error, "`cargo xtask run --machine model` runs without any of these")
    })?;

    let temporary =
        tempfile::Builder::new().prefix("slat-run-").tempdir().context("no temporary directory")?;
    let (guest, image) = match restores {
        Some(snapshot) => (restored(options, snapshot), Image::default()),
        None => {
            let kernel = equipment.kernel.or(options.guest.clone()).context("there is no guest kernel")?;
            let image = match (checked.image.clone(), fetched) {
                (Some(image), _) => image,
                (None, Some(fetched)) => fetched.check(&kernel, platform)?,
                (None, None) => image::check_file(&kernel, platform)?,
            };
            let guest = guest(options, platform, &image, kernel, equipment.busybox.as_deref(), &temporary)?;
            options::check_memory(&image, guest.initrd.as_deref(), guest.memory)?;
            (guest, image)
        }
    };
    let sizes = [Some(guest.kernel.as_path()), guest.initrd.as_deref()].map(options::file_size);
    options.check_machine(sizes[0], sizes[1])?;
    if let Some(warning) = options::tight_memory(platform, &image, guest.initrd.as_deref(), guest.memory) {
        eprintln!("warning: {warning}");
    }

    let hypervisor = equipment.toolchain.build(&host, &workspace, platform.target(), ("slat-hv", &[]))?;
    let machine = Machine {
        platform,
        emulator: equipment.emulator,
        cpu: options.cpu().to_owned(),
        cpus: options.machine_cpus(),
        pace: pace(image.program),
    };
    let (seen, times) = boots(options, &checked, &machine, &hypervisor, &guest)?;

    if let (Some(file), Some(recording)) = (&options.record, &seen.recording) {
        recording.write(file)?;
        eprintln!(
            "{} events are recorded; cargo xtask replay {} repeats them on the model",
            recording.events.len(),
            file.display()
        );
    }

    if let (Some(file), Some(snapshot)) = (&options.pause.snapshot, &seen.snapshot) {
        Snapshot::read(snapshot).context("the snapshot came out of the machine as something else")?;
        std::fs::write(file, snapshot).with_context(|| format!("cannot write {}", file.display()))?;
        eprintln!("cargo xtask run --arch riscv64 --restore {} lets the guest go on", file.display());
    }

    let verdict = verdict::under_slat(&guest, &seen).and_then(|()| monitor_was_asked(&checked, &seen));
    let name = image.title().unwrap_or_else(|| guest.kernel.display().to_string());
    let churn_seed = checked.choices.churn.map(|churn| churn.seed);
    let summary = Summary {
        options,
        machine: report::Machine::Emulator(platform),
        guest: &guest,
        name,
        churn_seed,
        seen: &seen,
        times,
        checks: None,
        verdict: &verdict,
    };
    summary.write_trace()?;
    summary.print()?;
    match verdict {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => bail!(error),
    }
}

/// Whether the monitor was there for the commands that it was to answer.
fn monitor_was_asked(checked: &Checked, seen: &Observed) -> Result<(), String> {
    match checked.choices.monitor {
        Some(Asking::Script(_)) if seen.monitor.is_empty() => {
            Err("the guest ended before it could be stopped for the monitor".to_owned())
        }
        _ => Ok(()),
    }
}

/// Puts the guest together; the initial RAM disk of our own goes into `temporary`.
fn guest(
    options: &Options,
    platform: Platform,
    image: &Image,
    kernel: std::path::PathBuf,
    busybox: Option<&Path>,
    temporary: &TempDir,
) -> Result<Guest> {
    let (initrd, sha256) = match (image.program, &options.initrd, busybox) {
        (Program::Memtest | Program::UBoot, ..) => (None, None),
        (Program::Linux, Some(initrd), _) => (Some(initrd.clone()), None),
        (Program::Linux, None, Some(busybox)) => {
            let file = temporary.path().join("initramfs.cpio");
            let sha256 = write_initramfs(busybox, platform, &file)?;
            (Some(file), Some(sha256))
        }
        (Program::Linux, None, None) => bail!("there is no user space for the guest"),
    };
    let then = options.pause.then();
    let pages = options.filled_pages().filter(|_| image.program == Program::Linux);
    let append = match (then, pages) {
        (Some(_), _) => format!("{} {}", commands::VARIABLE, options.append),
        (None, Some(pages)) => format!("{} {}", commands::pages_variable(pages), options.append),
        (None, None) => options.append.clone(),
    };
    let bootargs = bootargs::of(platform, image, options.memory, options.cpus, &append)?;
    Ok(Guest {
        kernel,
        initrd,
        bootargs,
        memory: options.memory,
        sha256,
        results: match (then, pages) {
            (Some(then), _) => commands::pause(then, PAYLOAD_SEED).1,
            (None, Some(pages)) => vec![commands::pages_results(pages); options.guests as usize],
            (None, None) => Vec::new(),
        },
        goal: match then {
            Some(Then::Snapshot) => Goal::Saved,
            Some(Then::Migrate) => Goal::Moved,
            _ => goal(platform, image.program),
        },
    })
}

/// The guest in the file `snapshot`, which was checked.
fn restored(options: &Options, snapshot: &Path) -> Guest {
    Guest {
        kernel: snapshot.to_owned(),
        initrd: None,
        bootargs: String::new(),
        memory: options.memory,
        sha256: Some(sha256(&initramfs::payload(PAYLOAD_SEED))),
        results: commands::pause(Then::Restore, PAYLOAD_SEED).1,
        goal: Goal::PowerOff,
    }
}

/// How such a guest ends when all is well.
pub(crate) fn goal(platform: Platform, program: Program) -> Goal {
    match (program, platform) {
        (Program::Memtest, _) => Goal::Screen,
        (Program::UBoot, _) => Goal::Prompt,
        (Program::Linux, Platform::Arm | Platform::Riscv) => Goal::PowerOff,
        (Program::Linux, Platform::Intel | Platform::Amd) => Goal::PowerOffOrReset,
    }
}

/// How fast the clocks of a machine go for such a guest: memtest86+ waits for them.
pub(crate) fn pace(program: Program) -> Pace {
    match program {
        Program::Memtest => Pace::Waiting,
        Program::Linux | Program::UBoot => Pace::Usual,
    }
}

/// Writes our own initial RAM disk for `platform` to `file`; the checksum that the guest must find.
pub(crate) fn write_initramfs(busybox: &Path, platform: Platform, file: &Path) -> Result<String> {
    let busybox = std::fs::read(busybox).with_context(|| format!("cannot read {}", busybox.display()))?;
    let built = initramfs::build(&busybox, PAYLOAD_SEED, platform)?;
    std::fs::write(file, &built.archive).context("cannot write the initial RAM disk")?;
    Ok(built.sha256)
}

/// All boots that the options ask for: what was seen of the first under slat, and the times.
fn boots(
    options: &Options,
    checked: &Checked,
    machine: &Machine,
    hypervisor: &Path,
    guest: &Guest,
) -> Result<(Observed, Times)> {
    let timeout = Duration::from_secs(options.timeout());
    let rounds = if options.compare { COMPARED_RUNS } else { 1 };
    let (mut under_slat, mut native) = (Vec::new(), Vec::new());
    let mut first = None;
    for round in 1..=rounds {
        let mut screen: Box<dyn Write> = match (round, options.json) {
            (1, false) => Box::new(io::stdout()),
            (1, true) => Box::new(io::stderr()),
            _ => Box::new(io::sink()),
        };
        let seen =
            session::under_slat(machine, hypervisor, guest, &checked.choices, timeout, screen.as_mut())?;
        let good = verdict::under_slat(guest, &seen).is_ok();
        if rounds > 1 {
            note("under slat", round, &seen);
        }
        // Once a boot has failed there is nothing to compare, and the first failure is the one to show.
        under_slat.extend(seen.seconds_to_init());
        if first.is_none() || !good {
            first = Some(seen);
        }
        if !good {
            break;
        }
        let ends = !matches!(guest.goal, Goal::Screen | Goal::Prompt)
            && options.pause.then().is_none()
            && checked.choices.monitor.is_none();
        if !options.no_native && machine.platform.has_native() && ends && options.most_guests() == 1 {
            eprintln!("the same guest natively, to compare …");
            let machine = Machine { cpus: options.cpus, ..machine.clone() };
            let seen = session::natively(&machine, guest, timeout, &mut io::sink())?;
            if process::interrupted() {
                bail!("interrupted");
            }
            if rounds > 1 {
                note("natively", round, &seen);
            }
            if let Err(problem) = verdict::natively(guest, &seen) {
                eprintln!("warning: the native run failed: {problem}");
            } else {
                native.extend(seen.seconds_to_init());
            }
        }
    }
    let seen = first.context("nothing was booted")?;
    Ok((seen, Times { to_init: report::median(under_slat), native: report::median(native) }))
}

fn note(kind: &str, round: usize, seen: &Observed) {
    match seen.seconds_to_init() {
        Some(seconds) => eprintln!("{kind}, run {round} of {COMPARED_RUNS}: {seconds:.2} s to init"),
        None => eprintln!("{kind}, run {round} of {COMPARED_RUNS}: no init"),
    }
}
