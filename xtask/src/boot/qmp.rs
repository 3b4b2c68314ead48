//! QEMU's monitor.
//!
//! Protocol: QMP, on a socket: one JSON object a line each way; events come in between. What people type, and all that QEMU says
//! about page tables, goes through `human-monitor-command`.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// How long the emulator may take for an answer: a listing of a large table takes it a second.
const ANSWER: Duration = Duration::from_secs(30);

/// The monitor of a machine that runs.
pub(super) struct Qmp(BufReader<UnixStream>);

impl Qmp {
    /// The monitor on `socket`, ready for commands.
    pub(super) fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket).context("the emulator's monitor cannot be reached")?;
        stream.set_read_timeout(Some(ANSWER)).context("the monitor's socket takes no timeout")?;
        let mut monitor = Self(BufReader::new(stream));
        monitor.line()?;
        monitor.execute("qmp_capabilities", &json!({}))?;
        Ok(monitor)
    }

    /// What the monitor says to a line that a person might type, without carriage returns.
    pub(super) fn ask(&mut self, line: &str) -> Result<String> {
        let answer = self.execute("human-monitor-command", &json!({ "command-line": line }))?;
        let text = answer.as_str().with_context(|| format!("no text in answer to `{line}`"))?;
        Ok(text.replace('\r', ""))
    }

    /// Carries out `command`; what it returns.
    pub(super) fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let request = json!({ "execute": command, "arguments": arguments });
        writeln!(self.0.get_mut(), "{request}").context("the monitor takes no command")?;
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
        self.0.read_line(&mut line).context("the monitor does not answer")?;
        serde_json::from_str(&line).context("the monitor's answer is no JSON")
    }
}
