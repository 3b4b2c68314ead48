//! Unit guests: pieces of guest code, and probes from HS-mode, each of which shows one thing that the hardware or the library does.
//!
//! Each runs on a host of its own, made of the same memory: what it takes and does not give back is counted and reported. **A guest
//! that could hang is to be run with something that ends it** (a word in its memory that it looks at): there is no time limit but
//! the emulator's.
//!
//! To add one: a function and a line in one of the tables.

#![expect(
    unsafe_code,
    reason = "guest code is assembly, found by its address; takes over the memory of the recording"
)]

mod bench;
mod code;
mod faults;
mod guest;
mod harts;
mod instructions;
mod napot;
mod probes;
mod reused;
mod second;

pub(super) use harts::serve;

use super::{finish, say};
use alloc::format;
use alloc::string::{String, ToString};
use bench::Bench;
use slat::format::gstage::Extensions;
use slat_hv_protocol::{Message, Params, UnitOutcome};

/// What is wrong: one line.
type Failure = String;

/// One unit guest.
struct UnitGuest {
    /// By which it is chosen.
    name: &'static str,
    /// Runs it.
    run: fn(&Bench) -> Result<(), Failure>,
}

const TABLES: [&[UnitGuest]; 6] =
    [probes::GUESTS, reused::GUESTS, faults::GUESTS, instructions::GUESTS, second::GUESTS, napot::GUESTS];

/// Runs those that are asked for on harts with these extensions, and ends the machine; returns if none are.
pub(super) fn run(params: &Params, extensions: Extensions) {
    if params.unit_guests.is_empty() {
        return;
    }
    if params.recording.size != 0 {
        // SAFETY: the parameters give this memory to the recording; it was checked to lie apart from everything else.
        unsafe { super::recording::start(params.recording) };
    }
    let known = || TABLES.into_iter().flatten();
    let names = &params.unit_guests;
    if let Some(name) = names.iter().find(|name| *name != "all" && known().all(|guest| guest.name != **name))
    {
        finish(&Message::Failed { reason: format!("there is no unit guest {name}") });
    }
    let mut said = false;
    for guest in known().filter(|guest| names.iter().any(|name| name == "all" || name == guest.name)) {
        let bench = match Bench::new(params, extensions) {
            Ok(bench) => bench,
            Err(reason) => finish(&Message::Failed { reason }),
        };
        if !said {
            // For the recording: what the harts are.
            say(&Message::Started(bench.started()));
            said = true;
        }
        let needs_napot = napot::GUESTS.iter().any(|napot| napot.name == guest.name);
        let lacking = (needs_napot && !extensions.contains(napot::NEEDS)).then(|| "Svnapot".to_string());
        let failure = if lacking.is_none() { (guest.run)(&bench).err() } else { None };
        let counts = bench.host.counts();
        let frames_lost = counts.taken.saturating_sub(counts.returned);
        let name = guest.name.to_string();
        say(&Message::Unit(UnitOutcome { name, failure, lacking, frames_lost }));
    }
    finish(&Message::UnitsEnded)
}

/// The failure of something that returned an error.
fn failed(what: &str, error: impl core::fmt::Display) -> Failure {
    format!("{what}: {error}")
}
