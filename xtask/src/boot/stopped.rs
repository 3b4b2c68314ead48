//! A Linux with nothing below it that is stopped once its user space has begun, and an emulator that is asked about it.

use super::machine::Machine;
use super::qmp::Qmp;
use super::session::Guest;
use crate::guests::initramfs::UP;
use crate::process::{self, Guard};
use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use std::io::Read;
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// The stopped machine; it is gone when this value is.
pub(crate) struct Stopped {
    monitor: Qmp,
    _emulator: Guard,
}

impl Stopped {
    /// Boots `guest`, whose user space is ours, until that has begun. The socket is made in `directory`; what the guest prints
    /// goes to `output`.
    pub(crate) fn boot(
        machine: &Machine,
        guest: &Guest,
        directory: &Path,
        patience: Duration,
        output: &mut String,
    ) -> Result<Self> {
        let socket = directory.join("monitor");
        let mut command = machine.native_with_monitor(guest, &socket)?;
        command.stderr(std::process::Stdio::null());
        let mut emulator = Guard::spawn(&mut command)?;
        let mut console = emulator.child().stdout.take().context("the emulator has no output")?;
        let (sender, pieces) = mpsc::channel();
        // It goes on reading when nobody listens any more: a full pipe would hold the guest up.
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = console.read(&mut buffer) {
                let _ = sender.send(buffer[..count].to_vec());
            }
        });
        let begin = Instant::now();
        let mut printed = Vec::new();
        while !String::from_utf8_lossy(&printed).contains(UP) {
            ensure!(!process::interrupted(), "interrupted");
            ensure!(begin.elapsed() < patience, "no user space after {} s", patience.as_secs());
            match pieces.recv_timeout(process::TICK) {
                Ok(piece) => printed.extend(piece),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    output.push_str(&String::from_utf8_lossy(&printed));
                    bail!("the emulator ended before there was a user space");
                }
            }
        }
        output.push_str(&String::from_utf8_lossy(&printed));
        let mut monitor = Qmp::connect(&socket)?;
        monitor.execute("stop", &json!({}))?;
        Ok(Self { monitor, _emulator: emulator })
    }

    /// What QEMU's monitor says to a line that a person might type, without carriage returns.
    pub(crate) fn ask(&mut self, line: &str) -> Result<String> {
        self.monitor.ask(line)
    }
}
