//! What is typed on the machine's serial port: the monitor's key and commands.
//!
//! Protocol: that of [`slat_hv_protocol::monitor`]. From a terminal lines go on as they come, to the guest or to the monitor, whichever
//! reads. A script is sent when the guest's user space has begun (of somebody else's: when the guest has), with the key before it; at
//! its end, and at the end of the input, the monitor is closed.

use super::Observed;
use anyhow::{Context, Result};
use slat_hv_protocol::monitor::{END, ESCAPE};
use std::io::{self, IsTerminal, Read, Write};
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::thread;

/// Where the commands for the monitor come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asking {
    /// From whoever sits at the terminal, if standard input is one; or else all of standard input is a script.
    Input,
    /// These, separated by semicolons or line ends.
    Script(&'static str),
}

/// What is still to be typed.
enum Source {
    Nothing,
    Script(String),
    Lines(Receiver<Vec<u8>>),
    /// A script that is still being read.
    Collected(Receiver<Vec<u8>>, Vec<u8>),
    /// The input is over: the monitor is closed whenever it is open.
    Over,
}

/// The other end of the serial port.
pub(super) struct Keyboard {
    source: Source,
    port: Option<Box<dyn Write + Send>>,
    /// Answers until the last time that the monitor was closed from here.
    closed_at: usize,
}

impl Keyboard {
    /// Nothing is typed.
    pub(super) fn none() -> Self {
        Self { source: Source::Nothing, port: None, closed_at: 0 }
    }

    /// What `asking` says is typed on `port`.
    pub(super) fn new(asking: Asking, port: Box<dyn Write + Send>) -> Self {
        let source = match asking {
            Asking::Script(script) => Source::Script(script.to_owned()),
            Asking::Input if io::stdin().is_terminal() => Source::Lines(lines(io::stdin())),
            Asking::Input => Source::Collected(lines(io::stdin()), Vec::new()),
        };
        Self { source, port: Some(port), closed_at: 0 }
    }

    /// Types what is to be typed now; `own` says whether the guest's user space tells that it has begun.
    pub(super) fn tick(&mut self, seen: &Observed, own: bool) -> Result<()> {
        let ready = if own { seen.seconds_to_init().is_some() } else { seen.started.is_some() };
        match &mut self.source {
            Source::Nothing => {}
            Source::Script(script) if ready => {
                let close = if closes(script) { "" } else { "\ncontinue" };
                let typed = [&[ESCAPE], script.as_bytes(), close.as_bytes(), b"\n"].concat();
                self.source = Source::Nothing;
                self.send(&typed)?;
            }
            Source::Script(_) => {}
            Source::Collected(input, script) => match input.try_recv() {
                Ok(part) => script.extend(part),
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => {
                    self.source = Source::Script(String::from_utf8_lossy(script).into_owned());
                }
            },
            Source::Lines(lines) => match lines.try_recv() {
                // Before it has started nobody would read it.
                Ok(line) if seen.started.is_some() => self.send(&line)?,
                Ok(_) | Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => self.source = Source::Over,
            },
            Source::Over if seen.monitor_open && seen.monitor.len() > self.closed_at => {
                self.closed_at = seen.monitor.len();
                self.send(&[END])?;
            }
            Source::Over => {}
        }
        Ok(())
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(port) = &mut self.port else { return Ok(()) };
        match port.write_all(bytes).and_then(|()| port.flush()) {
            // The machine is gone, which is told elsewhere.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.port = None;
                Ok(())
            }
            result => result.context("nothing can be typed"),
        }
    }
}

/// Whether the last command of `script` closes the monitor. What came behind that would be the guest's.
fn closes(script: &str) -> bool {
    let mut commands = script.split([';', '\n']).map(str::trim).filter(|command| !command.is_empty());
    matches!(commands.next_back(), Some("continue" | "quit"))
}

/// Reads without making anybody wait. The thread ends with the input, or with this program.
fn lines(mut input: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut buffer = [0; 1024];
        while let Ok(length @ 1..) = input.read(&mut buffer) {
            if sender.send(buffer[..length].to_vec()).is_err() {
                break;
            }
        }
    });
    receiver
}

#[cfg(test)]
mod tests;
