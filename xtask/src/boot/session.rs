//! One run of the emulator from its start to its end, and all that was seen meanwhile.
//!
//! Invariant: when [`watch`] returns, on whatever path, the emulator is gone.

use super::console::{Console, Piece};
use super::layout::Layout;
use super::machine::{Files, Machine};
use crate::guests::initramfs;
use crate::process::{self, Guard};
use crate::random;
use crate::recording::Recording;
use anyhow::{Context, Result};
use slat_hv_protocol::{Churn, FaultPolicy, Leaf, Message, Mistake, Params, Report, Started, encode_params};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::NamedTempFile;

/// How long the emulator may take to go after the hypervisor's report.
const GRACE: Duration = Duration::from_secs(5);

/// Most bytes of console that are kept.
const CONSOLE_MAX: usize = 1 << 18;

/// What is booted; the same natively and under slat.
#[derive(Clone, Debug)]
pub(crate) struct Guest {
    /// The kernel's file.
    pub(crate) kernel: PathBuf,
    /// The initial RAM disk's file.
    pub(crate) initrd: Option<PathBuf>,
    /// The kernel's command line.
    pub(crate) bootargs: String,
    /// Bytes of RAM.
    pub(crate) memory: u64,
    /// The checksum that our own user space must find; `None` for anybody else's.
    pub(crate) sha256: Option<String>,
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
    /// Killed because the user asked for it.
    Interrupted,
}

/// All that was seen of one run.
#[derive(Clone, Debug)]
pub(crate) struct Observed {
    pub(crate) ending: Ending,
    /// From the emulator's start to the first sign of user space.
    pub(crate) seconds_to_init: Option<f64>,
    /// The checksum that the guest printed.
    pub(crate) sha256: Option<String>,
    /// The guest printed its end marker.
    pub(crate) reached_end: bool,
    /// The guest's own complaint.
    pub(crate) guest_error: Option<String>,
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
    let nonce = random::nonce();
    let layout =
        Layout::new(size_of(&guest.kernel)?, guest.initrd.as_deref().map_or(Ok(0), size_of)?, guest.memory);
    let layout = if choices.record { layout.with_recording() } else { layout };
    let params = Params {
        nonce: nonce.clone(),
        pool: layout.pool,
        recording: layout.recording,
        kernel: layout.kernel,
        initrd: layout.initrd,
        guest_memory: guest.memory,
        cpus: machine.cpus,
        gpa_bits: choices.gpa_bits,
        bootargs: guest.bootargs.clone(),
        leaf: choices.leaf,
        on_fault: choices.on_fault,
        churn: choices.churn,
        mistake: choices.mistake,
        page_requests: choices.page_requests,
        unit_guests: Vec::new(),
        until_screen: None,
    };
    let block = encode_params(&params).map_err(anyhow::Error::msg)?;
    let mut file = tempfile::Builder::new().prefix("slat-params-").tempfile().context("no temporary file")?;
    file.write_all(&block).context("cannot write the parameters")?;
    let memory = choices.record.then(|| tempfile::Builder::new().prefix("slat-memory-").tempfile());
    let memory = memory.transpose().context("no temporary file")?;
    let files = Files {
        params: file.path(),
        kernel: &guest.kernel,
        initrd: guest.initrd.as_deref(),
        memory: memory.as_ref().map(NamedTempFile::path),
    };
    let mut command = machine.with_hypervisor(hypervisor, &files, &layout);
    let mut seen = watch(&mut command, &nonce, guest, timeout, false, screen)?;
    if let (Some(mut memory), Some(started)) = (memory, &seen.started) {
        let recording = Recording::from_memory(memory.as_file_mut(), &layout, started, machine.cpus);
        seen.recording = Some(recording.context("the recording cannot be read")?);
    }
    Ok(seen)
}

/// Boots `guest` with nothing below it.
pub(crate) fn natively(
    machine: &Machine,
    guest: &Guest,
    timeout: Duration,
    screen: &mut dyn Write,
) -> Result<Observed> {
    let initrd = guest.initrd.as_deref();
    let files = Files { params: Path::new(""), kernel: &guest.kernel, initrd, memory: None };
    let mut command = machine.native(&files, guest.memory, &guest.bootargs);
    // Somebody else's user space may run for ever, and nothing after its start is of interest.
    watch(&mut command, &random::nonce(), guest, timeout, guest.sha256.is_none(), screen)
}

fn size_of(file: &Path) -> Result<u64> {
    let metadata = std::fs::metadata(file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(metadata.len())
}

/// Runs the emulator, shows the guest's console on `screen` and takes down what matters.
fn watch(
    command: &mut Command,
    nonce: &str,
    guest: &Guest,
    timeout: Duration,
    stop_at_init: bool,
    screen: &mut dyn Write,
) -> Result<Observed> {
    let mut errors = tempfile::tempfile().context("no temporary file")?;
    command.stderr(errors.try_clone().context("cannot share a temporary file")?);
    let begin = Instant::now();
    let mut guard = Guard::spawn(command)?;
    let output = guard.child().stdout.take().context("the emulator has no output")?;
    let chunks = read_in_background(output);

    let mut observer = Observer { begin, own: guest.sha256.is_some(), seen: Observed::new() };
    let mut console = Console::new(nonce);
    let mut deadline = begin + timeout;
    let ending = loop {
        let finished = match chunks.recv_timeout(process::TICK) {
            Ok(chunk) => {
                observer.take(console.push(&chunk), screen)?;
                false
            }
            Err(RecvTimeoutError::Timeout) => false,
            Err(RecvTimeoutError::Disconnected) => true,
        };
        let seen = &observer.seen;
        if finished {
            break None;
        } else if process::interrupted() {
            break Some(Ending::Interrupted);
        } else if stop_at_init && seen.seconds_to_init.is_some() {
            break Some(Ending::Enough);
        } else if seen.is_over() && deadline > Instant::now() + GRACE {
            deadline = Instant::now() + GRACE;
        } else if Instant::now() >= deadline {
            break Some(if seen.is_over() { Ending::Enough } else { Ending::TimedOut(timeout.as_secs()) });
        }
    };
    observer.take(console.finish(), screen)?;
    let mut seen = observer.seen;
    seen.ending = match ending {
        Some(ending) => ending,
        // The output is closed, so the emulator is about to go.
        None => Ending::Exited { success: guard.wait(|| {})?.success() },
    };
    drop(guard);
    let mut complaints = String::new();
    if errors.rewind().and_then(|()| errors.read_to_string(&mut complaints)).is_ok() {
        complaints.lines().next().unwrap_or_default().clone_into(&mut seen.emulator_error);
    }
    Ok(seen)
}

/// Reads without ever making the watcher wait. The thread ends with the emulator, which closes the pipe.
fn read_in_background(mut output: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = output.read(&mut buffer) {
            if sender.send(buffer[..length].to_vec()).is_err() {
                break;
            }
        }
    });
    receiver
}

struct Observer {
    begin: Instant,
    /// Whether the user space is ours, with our markers.
    own: bool,
    seen: Observed,
}

impl Observer {
    fn take(&mut self, pieces: Vec<Piece>, screen: &mut dyn Write) -> Result<()> {
        for piece in pieces {
            match piece {
                Piece::Console(bytes) => {
                    screen
                        .write_all(&bytes)
                        .and_then(|()| screen.flush())
                        .context("cannot show the console")?;
                    let room = CONSOLE_MAX.saturating_sub(self.seen.console.len());
                    self.seen.console.extend(bytes.iter().take(room));
                }
                Piece::Line(line) => self.line(&line),
                Piece::Message(message) => match *message {
                    Message::Started(started) => self.seen.started = Some(started),
                    Message::Ended(report) => self.seen.report = Some(*report),
                    Message::Failed { reason } => self.seen.failed = Some(reason),
                    Message::Unit(_) | Message::UnitsEnded => {}
                },
                Piece::Garbled(line) => {
                    self.seen.failed = Some(format!("it sent an unreadable message: {line}"))
                }
            }
        }
        Ok(())
    }

    fn line(&mut self, line: &str) {
        let seen = &mut self.seen;
        if !line.trim().is_empty() {
            line.trim_end().clone_into(&mut seen.last_line);
        }
        let after = |marker: &str| line.split_once(marker).map(|(_, rest)| rest.trim().to_owned());
        let init = if self.own {
            line.contains(initramfs::UP)
        } else {
            line.contains("Run /") && line.contains("as init process")
        };
        if init && seen.seconds_to_init.is_none() {
            seen.seconds_to_init = Some(self.begin.elapsed().as_secs_f64());
        }
        if !self.own {
            return;
        }
        if let Some(sum) = after(initramfs::SHA256) {
            seen.sha256 = Some(sum);
        } else if let Some(error) = after(initramfs::ERROR) {
            seen.guest_error = Some(error);
        } else if line.contains(initramfs::END) {
            seen.reached_end = true;
        }
    }
}

impl Observed {
    /// Nothing seen yet.
    pub(crate) fn new() -> Self {
        Self {
            ending: Ending::Interrupted,
            seconds_to_init: None,
            sha256: None,
            reached_end: false,
            guest_error: None,
            last_line: String::new(),
            console: Vec::new(),
            started: None,
            report: None,
            failed: None,
            emulator_error: String::new(),
            recording: None,
        }
    }

    /// The hypervisor has said its last word.
    fn is_over(&self) -> bool {
        self.report.is_some() || self.failed.is_some()
    }
}

#[cfg(test)]
mod tests;
