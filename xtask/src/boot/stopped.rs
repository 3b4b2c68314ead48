//! A Linux with nothing below it that is stopped once its user space has begun, and an emulator that is asked about it.
//!
//! Protocol: QEMU's monitor, QMP, on a socket: one JSON object a line each way; events come in between. What people type, and
//! all that QEMU says about page tables, goes through `human-monitor-command`.

use super::machine::Machine;
use super::session::Guest;
use crate::guests::initramfs::UP;
use crate::process::{self, Guard};
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// How long the emulator may take for an answer: a listing of a large table takes it a second.
const ANSWER: Duration = Duration::from_secs(30);

/// The stopped machine; it is gone when this value is.
pub(crate) struct Stopped {
    monitor: BufReader<UnixStream>,
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
        let stream = UnixStream::connect(&socket).context("the emulator's monitor cannot be reached")?;
        stream.set_read_timeout(Some(ANSWER)).context("the monitor's socket takes no timeout")?;
        let mut stopped = Self { monitor: BufReader::new(stream), _emulator: emulator };
        stopped.line()?;
        stopped.execute("qmp_capabilities", json!({}))?;
        stopped.execute("stop", json!({}))?;
        Ok(stopped)
    }

    /// What QEMU's monitor says to a line that a person might type, without carriage returns.
    pub(crate) fn ask(&mut self, line: &str) -> Result<String> {
        let answer = self.execute("human-monitor-command", json!({ "command-line": line }))?;
        let text = answer.as_str().with_context(|| format!("no text in answer to `{line}`"))?;
        Ok(text.replace('\r', ""))
    }

    fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let request = json!({ "execute": command, "arguments": arguments });
        writeln!(self.monitor.get_mut(), "{request}").context("the monitor takes no command")?;
        loop {
            let mut answer = self.line()?;
            if let Some(error) = answer.get("error") {
                bail!("the monitor refuses {command}: {error}");
            }
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
        }
    }

    fn line(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.monitor.read_line(&mut line).context("the monitor does not answer")?;
        serde_json::from_str(&line).context("the monitor's answer is no JSON")
    }
}
