//! Child processes that never outlive the task: a [`Guard`] kills its child when it is dropped, and every wait
//! looks at the interrupt flag.

use anyhow::{Context, Result, bail, ensure};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Seek};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// How often a wait looks at the child and at the interrupt flag.
pub(crate) const TICK: Duration = Duration::from_millis(40);

/// Turns Ctrl-C, SIGTERM and SIGHUP into a flag, so that guards and temporary files are dropped in order.
pub(crate) fn catch_interrupts() -> Result<()> {
    ctrlc::set_handler(|| INTERRUPTED.store(true, Ordering::Relaxed)).context("cannot catch Ctrl-C")
}

/// Whether the user asked for the end.
pub(crate) fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// A child process that is killed and reaped when this value goes.
pub(crate) struct Guard(Child);

impl Guard {
    /// Starts `command`.
    pub(crate) fn spawn(command: &mut Command) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        command.spawn().map(Self).with_context(|| format!("cannot start {name}"))
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.0
    }

    /// Waits for the end of the child; an interrupt kills it.
    pub(crate) fn wait(&mut self, mut tick: impl FnMut()) -> Result<ExitStatus> {
        self.wait_while(&mut || {
            tick();
            Ok(())
        })
    }

    /// As [`Guard::wait`]; gives up when `tick` fails.
    fn wait_while(&mut self, tick: &mut dyn FnMut() -> Result<()>) -> Result<ExitStatus> {
        loop {
            if let Some(status) = self.0.try_wait().context("cannot wait for a child process")? {
                return Ok(status);
            }
            if interrupted() {
                bail!("interrupted");
            }
            tick()?;
            thread::sleep(TICK);
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // Both fail only when the child is already gone.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a finished command printed.
pub(crate) struct Captured {
    /// Whether it ended with code 0.
    pub(crate) success: bool,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Captured {
    /// The line that says best why a command failed: the first that looks like an error, else the last one.
    pub(crate) fn complaint(&self) -> String {
        let lines =
            || self.stderr.lines().chain(self.stdout.lines()).map(str::trim).filter(|line| !line.is_empty());
        let error = lines().find(|line| line.starts_with("E:") || line.starts_with("error"));
        error.or_else(|| lines().next_back()).unwrap_or("it said nothing").to_owned()
    }
}

/// Runs `command` without a terminal and keeps what it prints.
pub(crate) fn capture(command: &mut Command) -> Result<Captured> {
    capture_with(command, || {})
}

/// As [`capture`]; `tick` is called while the command runs.
pub(crate) fn capture_with(command: &mut Command, mut tick: impl FnMut()) -> Result<Captured> {
    capture_while(command, || {
        tick();
        Ok(())
    })
}

/// As [`capture`], for a command that is killed if it takes longer than this.
pub(crate) fn capture_within(command: &mut Command, patience: Duration) -> Result<Captured> {
    let begin = Instant::now();
    let name = describe(command);
    capture_while(command, || {
        ensure!(begin.elapsed() < patience, "{name} took longer than {} s", patience.as_secs());
        Ok(())
    })
}

/// As [`capture`]; the command is killed when `tick` fails.
fn capture_while(command: &mut Command, mut tick: impl FnMut() -> Result<()>) -> Result<Captured> {
    // Files instead of pipes: nothing can block however much the command prints.
    let mut stdout = tempfile::tempfile().context("cannot make a temporary file")?;
    let mut stderr = tempfile::tempfile().context("cannot make a temporary file")?;
    command.stdin(Stdio::null());
    command.stdout(stdout.try_clone().context("cannot share a temporary file")?);
    command.stderr(stderr.try_clone().context("cannot share a temporary file")?);
    let status = Guard::spawn(command)?.wait_while(&mut tick)?;
    Ok(Captured {
        success: status.success(),
        stdout: read_back(&mut stdout)?,
        stderr: read_back(&mut stderr)?,
    })
}

/// The standard output of a command that must succeed.
pub(crate) fn output_of(command: &mut Command) -> Result<String> {
    let captured = capture(command)?;
    if !captured.success {
        bail!("{} failed: {}", describe(command), captured.complaint());
    }
    Ok(captured.stdout)
}

/// Runs `command` with its own progress on our stderr. Its stdout goes there too: ours may carry JSON.
pub(crate) fn run_visibly(command: &mut Command) -> Result<()> {
    command.stdin(Stdio::null()).stdout(std::io::stderr());
    let status = Guard::spawn(command)?.wait(|| {})?;
    if !status.success() {
        bail!("{} failed", describe(command));
    }
    Ok(())
}

/// The command as a reader would type it, shortened to its first few words.
fn describe(command: &Command) -> String {
    let program = std::path::Path::new(command.get_program()).file_name().unwrap_or_default();
    let words: Vec<_> =
        std::iter::once(program).chain(command.get_args().take(3)).map(OsStr::to_string_lossy).collect();
    format!("`{}`", words.join(" "))
}

fn read_back(file: &mut File) -> Result<String> {
    let mut bytes = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut bytes)).context("cannot read a temporary file")?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
