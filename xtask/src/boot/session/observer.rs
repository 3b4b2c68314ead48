//! Takes down what a run prints and reports.

use super::{CONSOLE_MAX, Observed};
use crate::boot::console::Piece;
use crate::boot::printed::numbered;
use anyhow::{Context as _, Result};
use slat_hv_protocol::Message;
use slat_hv_protocol::monitor::Told;
use slat_hv_protocol::pause::{Forked, Moved};
use std::io::Write;
use std::time::Instant;

/// How the monitor asks for a command.
const PROMPT: &str = "(monitor) ";

/// What was seen until now.
pub(super) struct Observer {
    pub(super) begin: Instant,
    /// Whether the user space is ours, with our markers.
    pub(super) own: bool,
    pub(super) seen: Observed,
}

impl Observer {
    /// Takes in what was printed, and shows the guest's console on `screen`.
    pub(super) fn take(&mut self, pieces: Vec<Piece>, screen: &mut dyn Write) -> Result<()> {
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
                    Message::Started(started) => {
                        self.seen.started = Some(started);
                        self.seen.ran[0] = Some(self.begin.elapsed().as_secs_f64());
                    }
                    Message::Ended(report) => {
                        self.seen.report = Some(*report);
                        self.seen.ran[1] = Some(self.begin.elapsed().as_secs_f64());
                    }
                    Message::Failed { reason } => self.seen.failed = Some(reason),
                    Message::Unit(outcome) => {
                        self.seen.units.push((self.begin.elapsed().as_secs_f64(), outcome));
                    }
                    Message::Forked(forked) => self.forked(forked),
                    Message::Moved(moved) => self.moved(moved),
                    Message::Saved(saved) => self.seen.saved = Some(saved),
                    Message::Monitor(told) => self.told(told, screen)?,
                    Message::GuestEnded(guest) => self.seen.guests.push(*guest),
                    Message::UnitsEnded => self.seen.units_ended = true,
                },
                Piece::Garbled(line) => {
                    self.seen.failed = Some(format!("it sent an unreadable message: {line}"))
                }
            }
        }
        Ok(())
    }

    fn told(&mut self, Told { text, open }: Told, screen: &mut dyn Write) -> Result<()> {
        let prompt = if open { PROMPT } else { "" };
        // The guest may be in the middle of a line, and the terminal in that of a prompt.
        write!(screen, "\r{text}{prompt}")
            .and_then(|()| screen.flush())
            .context("cannot show the monitor")?;
        self.seen.monitor.push(text);
        self.seen.monitor_open = open;
        Ok(())
    }

    /// What the guest had printed before, its forks had printed too.
    fn forked(&mut self, forked: Forked) {
        let printed = &mut self.seen.printed;
        let before = printed.first().cloned().unwrap_or_default();
        for fork in &forked.forks {
            if let Some(printed) = printed.get_mut(fork.guest as usize) {
                printed.clone_from(&before);
            }
        }
        self.seen.forked = Some(forked);
    }

    /// It is another one now, and has printed what it had printed.
    fn moved(&mut self, moved: Moved) {
        let printed = &mut self.seen.printed;
        let before = printed.first().cloned().unwrap_or_default();
        if let Some(printed) = printed.get_mut(moved.guest as usize) {
            *printed = before;
        }
        self.seen.moved = Some(moved);
    }

    fn line(&mut self, line: &str) {
        let seen = &mut self.seen;
        if !line.trim().is_empty() {
            line.trim_end().clone_into(&mut seen.last_line);
        }
        let (guest, line) = match seen.printed.len() {
            1 => (0, line),
            _ => match numbered(line) {
                Some(numbered) => numbered,
                None => return,
            },
        };
        if let Some(printed) = seen.printed.get_mut(guest) {
            printed.take(line, self.own, self.begin.elapsed());
        }
    }
}
