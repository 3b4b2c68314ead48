//! The guest's text screen: what an old display adapter would show of plain RAM.
//!
//! Reading it populates nothing and changes no region: while the guest has no page there the screen is blank.

use super::{Machine, RAM, Space, Stop};
use crate::pool::Host;
use alloc::string::String;
use alloc::vec;
use slat::format::Format;
use slat::{GuestPhysAddr, PAGE_SIZE};
use slat_hv_protocol::End;

/// Characters in a line, and lines.
const COLUMNS: usize = 80;
const LINES: usize = 25;

/// Exits between two looks at it.
const LOOK_EVERY: u64 = 64;

/// Where the screen is, and what on it ends the run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Screen {
    /// Guest-physical address of the first character, in RAM and at the beginning of a page.
    pub address: u64,
    /// Text in one line of it that ends the run.
    pub until: Option<String>,
}

impl<H: Host, F: Format> Machine<'_, H, F> {
    /// After each exit, of which there were `exits` on this CPU: ends the run if the screen shows what it is to show.
    pub(super) fn watch(&self, exits: u64) -> Result<(), Stop> {
        let Some(Screen { until: Some(until), .. }) = &self.job.screen else { return Ok(()) };
        if exits % LOOK_EVERY != 0 {
            return Ok(());
        }
        let space = self.space.read();
        let space = space.as_ref().filter(|_| !self.cpus.is_ending()).ok_or(Stop::Stopped)?;
        match self.screen(space) {
            Some(text) if text.contains(&**until) => Err(Stop::Ended(End::ScreenShows)),
            _ => Ok(()),
        }
    }

    /// The screen at the end of the run, also if churn has taken it.
    pub(super) fn last_screen(&self, space: &mut Space<'_, H, F>) -> Option<String> {
        let page = GuestPhysAddr::new(self.job.screen.as_ref()?.address);
        if space.query(page).is_err() {
            // It is RAM; if that cannot be, there is no screen.
            let _ = space.protect(page, PAGE_SIZE, RAM);
        }
        self.screen(space)
    }

    fn screen(&self, space: &Space<'_, H, F>) -> Option<String> {
        let first = GuestPhysAddr::new(self.job.screen.as_ref()?.address);
        let mut cells = vec![0; 2 * COLUMNS * LINES];
        if space.translate(first).is_some() {
            space.read(first, &mut cells).ok()?;
        }
        Some(text(&cells))
    }
}

/// The characters of `cells`, each a character and its colour, without trailing blanks in a line. What is not ASCII becomes a
/// full stop.
fn text(cells: &[u8]) -> String {
    let mut text = String::new();
    for line in cells.chunks(2 * COLUMNS) {
        let characters = line.chunks(2).map(|cell| match cell.first() {
            Some(0) | None => ' ',
            Some(&byte @ 0x20..=0x7e) => char::from(byte),
            Some(_) => '.',
        });
        let line: String = characters.collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text.pop();
    text
}
