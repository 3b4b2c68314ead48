//! One run of the emulator from its start to its end, and all that was seen meanwhile.
//!
//! Invariant: when [`watch`] returns, on whatever path, the emulator is gone.

mod keyboard;
mod observer;
mod port;

use super::console::Console;
use super::layout::Layout;
use super::machine::{Files, Machine, Pace, Prepared};
use super::printed::Printed;
use super::qmp::Qmp;
use super::screen;
use crate::guests::commands;
use crate::process::{self, Guard};
use crate::random;
use crate::recording::Recording;
use crate::task_run::PAYLOAD_SEED;
use crate::trace::{self, Trace};
use anyhow::{Context, Result};
pub(crate) use keyboard::Asking;
use keyboard::Keyboard;
use observer::Observer;
use slat_hv_protocol::pause::{Forked, Moved, Pause, Then};
use slat_hv_protocol::snapshot::{self, Saved};
use slat_hv_protocol::{
    Churn, FaultPolicy, GuestReport, Leaf, Mistake, Paging, Params, Report, Span, Started, UnitOutcome,
    encode_params,
};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

/// How long the emulator may take to go after the hypervisor's report.
const GRACE: Duration = Duration::from_secs(5);

/// Asks QEMU's monitor for the registers of all CPUs.
const CPUS: &str = "info registers -a";

/// Most bytes of console that are kept.
const CONSOLE_MAX: usize = 1 << 18;

/// What is booted; the same natively and under slat.
#[derive(Clone, Debug)]
pub(crate) struct Guest {
    /// The kernel's file; the one of the snapshot where the guest goes on from one.
    pub(crate) kernel: PathBuf,
    /// The initial RAM disk's file.
    pub(crate) initrd: Option<PathBuf>,
    /// The kernel's command line.
    pub(crate) bootargs: String,
    /// Bytes of RAM.
    pub(crate) memory: u64,
    /// The checksum that our own user space must find; `None` for anybody else's.
    pub(crate) sha256: Option<String>,
    /// What each guest must print of what it was told to do, where it is told anything.
    pub(crate) results: Vec<Vec<String>>,
    /// How it ends when all is well.
    pub(crate) goal: Goal,
}

/// How a guest ends when all is well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goal {
    /// It powers itself off.
    PowerOff,
    /// It is written away.
    Saved,
    /// It goes on as another one, which powers itself off.
    Moved,
    /// It powers itself off, or resets itself where it has no means to power itself off: Linux on a PC without ACPI. A
    /// reset also follows a kernel's panic, so that what was printed has to tell.
    PowerOffOrReset,
    /// Never; the run ends when memtest86+ shows on its screen that it has come far enough.
    Screen,
    /// Never; the run ends when U-Boot asks for a command.
    Prompt,
}

/// How U-Boot asks for a command.
const PROMPT: &str = "\n=> ";

/// How many guests share a machine; more than one, and a number of CPUs that is not the machine's, on RISC-V alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sharing {
    /// Guests at once, all alike.
    pub(crate) guests: u32,
    /// CPUs of each, where those are not as many as the machine's.
    pub(crate) cpus: Option<u32>,
    /// Bytes that their memory and their tables are taken from; none for as many as they can ever take.
    pub(crate) pool: Option<u64>,
}

impl Default for Sharing {
    fn default() -> Self {
        Self { guests: 1, cpus: None, pool: None }
    }
}

/// What the hypervisor is told beside the guest.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Choices {
    pub(crate) leaf: Leaf,
    /// Width of a guest-physical address; none for all that the CPU has.
    pub(crate) gpa_bits: Option<u32>,
    pub(crate) on_fault: FaultPolicy,
    pub(crate) churn: Option<Churn>,
    pub(crate) mistake: Mistake,
    /// Whether the guest may ask for changes of its pages.
    pub(crate) page_requests: bool,
    /// Whether the run is recorded.
    pub(crate) record: bool,
    /// Whether the run is traced.
    pub(crate) trace: bool,
    pub(crate) sharing: Sharing,
    /// What is done with the guest in the middle of its work, if anything is.
    pub(crate) pause: Option<Then>,
    /// Who asks the monitor, if the guest is to be stopped for it.
    pub(crate) monitor: Option<Asking>,
    /// How RAM is paged, if it is.
    pub(crate) paging: Option<Paged>,
    /// How long nothing may be printed before the run counts as one that has no end.
    pub(crate) silence: Option<Duration>,
}

/// How RAM is paged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Paged {
    /// Bytes of the store that pages go to.
    pub(crate) store: u64,
    /// For so many scans a page is idle that goes out before there is need.
    pub(crate) idle_scans: u8,
}

/// How the emulator ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// By itself.
    Exited {
        /// With code 0.
        success: bool,
    },
    /// We had seen what we wanted.
    Enough,
    /// Killed after so many seconds.
    TimedOut(u64),
    /// Killed when nothing had been printed for so many seconds.
    Silent(u64),
    /// Killed because the user asked for it.
    Interrupted,
}

/// All that was seen of one run.
#[derive(Clone, Debug)]
pub(crate) struct Observed {
    pub(crate) ending: Ending,
    /// What each guest printed that matters, guest 0 first; there is always one.
    pub(crate) printed: Vec<Printed>,
    /// The last line on the guest's console that is not empty.
    pub(crate) last_line: String,
    /// The guest's console from its beginning.
    pub(crate) console: Vec<u8>,
    pub(crate) started: Option<Started>,
    pub(crate) report: Option<Report>,
    /// The hypervisor's reason for failing.
    pub(crate) failed: Option<String>,
    /// What the emulator itself complained about.
    pub(crate) emulator_error: String,
    /// The recording, if there was to be one and the guest was started.
    pub(crate) recording: Option<Recording>,
    /// The trace, likewise.
    pub(crate) trace: Option<Trace>,
    /// When the hypervisor said that it begins, and when its last word came, in seconds since the emulator's start.
    pub(crate) ran: [Option<f64>; 2],
    /// The unit guests that were run, each with the seconds since the emulator's start at its end, and whether all of them
    /// were.
    pub(crate) units: Vec<(f64, UnitOutcome)>,
    /// Those of several guests that have ended, in the order in which they did.
    pub(crate) guests: Vec<GuestReport>,
    pub(crate) units_ended: bool,
    /// What forks cost, if the guest was forked.
    pub(crate) forked: Option<Forked>,
    /// What a move took, if the guest has moved.
    pub(crate) moved: Option<Moved>,
    /// What the snapshot took, and the snapshot, if the guest was written away.
    pub(crate) saved: Option<Saved>,
    pub(crate) snapshot: Option<Vec<u8>>,
    /// What the monitor said, and whether it waits for a command.
    pub(crate) monitor: Vec<String>,
    pub(crate) monitor_open: bool,
}

/// Boots `guest` under the hypervisor.
pub(crate) fn under_slat(
    machine: &Machine,
    hypervisor: &Path,
    guest: &Guest,
    choices: &Choices,
    timeout: Duration,
    screen: &mut dyn Write,
) -> Result<Observed> {
    let restores = choices.pause == Some(Then::Restore);
    let kernel = Some(guest.kernel.as_path()).filter(|_| !restores);
    let snapshot = Some(guest.kernel.as_path()).filter(|_| restores);
    let initrd = guest.initrd.as_deref();
    let size = |file: Option<&Path>| file.map_or(Ok(0), size_of);
    let sizes = (size(kernel)?, size(initrd)?);
    let map = machine.platform.map();
    let Sharing { guests, cpus, pool } = choices.sharing;
    let most_guests = guests + choices.pause.map_or(0, Then::more_guests);
    let layout = match pool {
        None => Layout::new(&map, sizes.0, sizes.1, guest.memory * u64::from(most_guests)),
        Some(pool) => Layout::with_pool(&map, sizes.0, sizes.1, pool),
    };
    let layout = if choices.record { layout.with_recording() } else { layout };
    let layout = match choices.pause {
        Some(Then::Snapshot) => layout.with_image(snapshot::most_bytes(guest.memory)),
        Some(Then::Restore) => layout.with_image(size(snapshot)?),
        _ => layout,
    };
    let layout = choices.paging.map_or(layout, |paged| layout.with_store(paged.store));
    let layout = if choices.trace { layout.with_trace() } else { layout };
    let pause = choices.pause.map(|then| {
        let pause = commands::pause(then, PAYLOAD_SEED).0;
        Pause { image: layout.image, ..pause }
    });
    let params = Params {
        nonce: nonce(machine.pace),
        pool: layout.pool,
        recording: layout.recording,
        trace: layout.trace,
        kernel: layout.kernel,
        initrd: layout.initrd,
        guest_memory: guest.memory,
        cpus: cpus.unwrap_or(machine.cpus),
        guests,
        host_cpus: cpus.map(|_| machine.cpus),
        gpa_bits: choices.gpa_bits,
        bootargs: guest.bootargs.clone(),
        leaf: choices.leaf,
        on_fault: choices.on_fault,
        churn: choices.churn,
        mistake: choices.mistake,
        page_requests: choices.page_requests,
        unit_guests: Vec::new(),
        until_screen: (guest.goal == Goal::Screen).then(|| screen::FAR_ENOUGH.to_owned()),
        until_console: (guest.goal == Goal::Prompt).then(|| PROMPT.to_owned()),
        pause,
        monitor: choices.monitor.is_some(),
        paging: choices.paging.map(|Paged { idle_scans, .. }| Paging { store: layout.store, idle_scans }),
    };
    let what = Watched {
        guests: most_guests,
        own: guest.sha256.is_some(),
        stop_at_init: false,
        timeout,
        silence: choices.silence,
        monitor: choices.monitor,
    };
    hypervisor_run(machine, hypervisor, &params, &layout, [kernel, initrd, snapshot], &what, screen)
}

/// Runs the unit guests with these names, or `all` of them.
pub(crate) fn unit_guests(
    machine: &Machine,
    hypervisor: &Path,
    names: &[&str],
    choices: &Choices,
    timeout: Duration,
    screen: &mut dyn Write,
) -> Result<Observed> {
    /// Nothing of it is mapped but what a unit guest asks for.
    const MEMORY: u64 = 64 << 20;
    let layout = Layout::new(&machine.platform.map(), 0, 0, MEMORY);
    let layout = if choices.record { layout.with_recording() } else { layout };
    let params = Params {
        nonce: nonce(machine.pace),
        pool: layout.pool,
        recording: layout.recording,
        trace: layout.trace,
        kernel: Span::default(),
        initrd: Span::default(),
        guest_memory: MEMORY,
        cpus: machine.cpus,
        guests: 1,
        host_cpus: None,
        gpa_bits: choices.gpa_bits,
        bootargs: String::new(),
        leaf: choices.leaf,
        on_fault: choices.on_fault,
        churn: None,
        mistake: choices.mistake,
        page_requests: choices.page_requests,
        unit_guests: names.iter().map(|name| (*name).to_owned()).collect(),
        until_screen: None,
        until_console: None,
        pause: None,
        monitor: false,
        paging: None,
    };
    let what = Watched { guests: 1, own: false, stop_at_init: false, timeout, silence: None, monitor: None };
    hypervisor_run(machine, hypervisor, &params, &layout, [None; 3], &what, screen)
}

/// One run of the hypervisor, with a kernel, an initial RAM disk and a snapshot if there are any.
fn hypervisor_run(
    machine: &Machine,
    hypervisor: &Path,
    params: &Params,
    layout: &Layout,
    [kernel, initrd, snapshot]: [Option<&Path>; 3],
    what: &Watched,
    screen: &mut dyn Write,
) -> Result<Observed> {
    let directory = tempfile::Builder::new().prefix("slat-machine-").tempdir();
    let directory = directory.context("no temporary directory")?;
    let block = encode_params(params).map_err(anyhow::Error::msg)?;
    let params_file = directory.path().join("params");
    std::fs::write(&params_file, block).context("cannot write the parameters")?;
    let files = Files { params: &params_file, kernel, initrd, snapshot };
    let mut prepared =
        machine.with_hypervisor(hypervisor, &files, layout, directory.path(), params.monitor)?;
    let mut seen = watch(&mut prepared, &params.nonce, what, screen)?;
    if let (Some((memory, offset)), Some(saved)) = (&prepared.snapshot, &seen.saved) {
        let mut bytes = Vec::new();
        let cannot = || "the snapshot cannot be read out of the machine's memory";
        let mut memory = File::open(memory).with_context(cannot)?;
        memory.seek(SeekFrom::Start(*offset)).with_context(cannot)?;
        memory.take(saved.bytes).read_to_end(&mut bytes).with_context(cannot)?;
        seen.snapshot = Some(bytes);
    }
    if let (Some((memory, offset)), Some(started)) = (prepared.trace, &seen.started) {
        if let Ok(mut memory) = File::open(memory) {
            let words = trace::words(&mut memory, offset, layout.trace.size);
            let words = words.context("the trace cannot be read")?;
            let seconds = seen.ran[1].zip(seen.ran[0]).map(|(end, begin)| end - begin);
            seen.trace = Some(Trace::new(words, started.ticks_per_second, seconds));
        }
    }
    if let (Some((memory, offset)), Some(started)) = (prepared.recording, &seen.started) {
        // An emulator that had to be killed may have left none.
        if let Ok(mut memory) = File::open(memory) {
            let recording = Recording::from_memory(&mut memory, offset, layout, started, machine.cpus);
            seen.recording = Some(recording.context("the recording cannot be read")?);
        }
    }
    Ok(seen)
}

/// The secret of a run. Of runs that are to be the same it is no secret: with others the instruction counts, and so the guest's
/// clock, were seen to differ. Whoever runs those trusts the guest.
fn nonce(pace: Pace) -> String {
    match pace {
        Pace::Counted => "0123456789abcdef".repeat(2),
        Pace::Usual | Pace::Waiting => random::nonce(),
    }
}

/// Boots `guest` with nothing below it.
pub(crate) fn natively(
    machine: &Machine,
    guest: &Guest,
    timeout: Duration,
    screen: &mut dyn Write,
) -> Result<Observed> {
    let initrd = guest.initrd.as_deref();
    let files = Files { params: Path::new(""), kernel: Some(&guest.kernel), initrd, snapshot: None };
    let mut prepared = machine.native(&files, guest.memory, &guest.bootargs)?;
    let own = guest.sha256.is_some();
    // Somebody else's user space may run for ever, and nothing after its start is of interest.
    let what = Watched { guests: 1, own, stop_at_init: !own, timeout, silence: None, monitor: None };
    watch(&mut prepared, &random::nonce(), &what, screen)
}

fn size_of(file: &Path) -> Result<u64> {
    let metadata = std::fs::metadata(file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(metadata.len())
}

/// How a run is watched.
struct Watched {
    /// How many guests there are; the lines of several are numbered.
    guests: u32,
    /// Whether the guest's user space is ours, with our markers.
    own: bool,
    /// Whether nothing after the start of user space is of interest.
    stop_at_init: bool,
    timeout: Duration,
    /// How long nothing may be printed.
    silence: Option<Duration>,
    /// Who asks the monitor.
    monitor: Option<Asking>,
}

/// Runs the emulator, shows the guest's console on `screen` and takes down what matters.
fn watch(
    prepared: &mut Prepared,
    nonce: &str,
    &Watched { guests, own, stop_at_init, timeout, silence, monitor }: &Watched,
    screen: &mut dyn Write,
) -> Result<Observed> {
    let listener = prepared.listener.take();
    let command = &mut prepared.command;
    if monitor.is_some() && listener.is_none() {
        command.stdin(Stdio::piped());
    }
    let mut errors = tempfile::tempfile().context("no temporary file")?;
    command.stderr(errors.try_clone().context("cannot share a temporary file")?);
    let begin = Instant::now();
    let mut guard = Guard::spawn(command)?;
    let output = guard.child().stdout.take().context("the emulator has no output")?;
    let input = guard.child().stdin.take();
    let (chunks, port) = port::open(output, input, listener);
    let mut keyboard = match (monitor, port) {
        (Some(asking), Some(port)) => Keyboard::new(asking, port),
        _ => Keyboard::none(),
    };

    let mut observer = Observer { begin, own, seen: Observed::of(guests) };
    let mut console = Console::new(nonce);
    let mut deadline = begin + timeout;
    let (mut heard, mut looked) = (begin, begin);
    let ending = loop {
        let finished = match chunks.recv_timeout(process::TICK) {
            Ok(chunk) => {
                heard = Instant::now();
                observer.take(console.push(&chunk), screen)?;
                false
            }
            Err(RecvTimeoutError::Timeout) => false,
            Err(RecvTimeoutError::Disconnected) => true,
        };
        let seen = &observer.seen;
        keyboard.tick(seen, own)?;
        // Whoever thinks about an answer is not to be hurried.
        let now = Instant::now();
        if seen.monitor_open {
            deadline += now - looked;
            heard = now;
        }
        looked = now;
        if finished {
            break None;
        } else if process::interrupted() {
            break Some(Ending::Interrupted);
        } else if stop_at_init && seen.seconds_to_init().is_some() {
            break Some(Ending::Enough);
        } else if seen.is_over() && deadline > Instant::now() + GRACE {
            deadline = Instant::now() + GRACE;
        } else if Instant::now() >= deadline {
            break Some(if seen.is_over() { Ending::Enough } else { Ending::TimedOut(timeout.as_secs()) });
        } else if let Some(silence) = silence.filter(|silence| !seen.is_over() && heard.elapsed() >= *silence)
        {
            break Some(Ending::Silent(silence.as_secs()));
        }
    };
    observer.take(console.finish(), screen)?;
    let mut seen = observer.seen;
    // Where it hangs is not to be guessed.
    if let (Some(Ending::TimedOut(_) | Ending::Silent(_)), Some(monitor)) = (&ending, &prepared.monitor) {
        // Of a machine that does not answer there is nothing to be shown.
        let cpus = Qmp::connect(monitor).and_then(|mut monitor| monitor.ask(CPUS)).unwrap_or_default();
        writeln!(screen, "\nthe machine's CPUs before it was ended:\n{cpus}")
            .context("nothing can be shown")?;
    }
    seen.ending = match ending {
        Some(ending) => ending,
        // The output is closed, so the emulator is about to go.
        None => Ending::Exited { success: guard.wait(|| {})?.success() },
    };
    drop(guard);
    let mut complaints = String::new();
    if errors.rewind().and_then(|()| errors.read_to_string(&mut complaints)).is_ok() {
        (prepared.complaint)(&complaints).clone_into(&mut seen.emulator_error);
    }
    Ok(seen)
}

impl Observed {
    /// Nothing seen yet of one guest.
    pub(crate) fn new() -> Self {
        Self::of(1)
    }

    /// Nothing seen yet of so many guests.
    fn of(guests: u32) -> Self {
        Self {
            ending: Ending::Interrupted,
            printed: (0..guests.max(1)).map(|_| Printed::default()).collect(),
            last_line: String::new(),
            console: Vec::new(),
            started: None,
            report: None,
            failed: None,
            emulator_error: String::new(),
            recording: None,
            trace: None,
            ran: [None; 2],
            units: Vec::new(),
            guests: Vec::new(),
            units_ended: false,
            forked: None,
            moved: None,
            saved: None,
            snapshot: None,
            monitor: Vec::new(),
            monitor_open: false,
        }
    }

    /// Seconds from the emulator's start to the first sign of user space, of the last guest to get there; `None` if one did
    /// not.
    pub(crate) fn seconds_to_init(&self) -> Option<f64> {
        let times = self.printed.iter().map(|printed| printed.seconds_to_init);
        times.reduce(|last, next| Some(last?.max(next?))).flatten()
    }

    /// The hypervisor has said its last word.
    fn is_over(&self) -> bool {
        self.report.is_some() || self.failed.is_some() || self.units_ended
    }
}

#[cfg(test)]
mod tests;
