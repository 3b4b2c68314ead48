//! Unit guests: pieces of guest code, each of which shows one thing that the hardware or the hypervisor does.
//!
//! Each runs on a host of its own, made of the same memory: what it takes and does not give back is counted and reported. It
//! turns the extension on and off, so that one leaves nothing behind for the next. **A guest that could hang is to be run
//! with something that ends it** (HLT exits, or a kick of another CPU): there is no time limit but the emulator's.
//!
//! To add one: a function and a line in the table of `common`, `vmx` or `svm`.

#![expect(unsafe_code, reason = "guest code is assembly, found by its address")]

mod code;
mod common;
mod context;
mod machine;
pub(super) mod svm;
pub(super) mod vmx;

use super::bare::{Host, Vendor, host, say};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use context::{Bench, Context};
use slat_hv_protocol::{Message, Params, UnitOutcome};

pub(super) use code::guest_code;
pub(super) use context::{ensure, ensure_eq};

/// What is wrong: one line.
pub(super) type Failure = String;

/// One unit guest; `C` is what it runs in.
pub(super) struct UnitGuest<C> {
    /// By which it is chosen.
    pub(super) name: &'static str,
    /// What the CPU lacks to run it.
    pub(super) needs: fn(&C) -> Result<(), String>,
    /// Runs it.
    pub(super) run: fn(&C) -> Result<(), Failure>,
}

/// It runs on every machine that has the extension.
pub(super) fn nothing<C>(_: &C) -> Result<(), String> {
    Ok(())
}

/// Runs those of the machine itself that are asked for.
pub(super) fn run_machine(params: &Params) {
    for guest in machine::GUESTS.iter().filter(|guest| is_chosen(&params.unit_guests, guest.name)) {
        let host = host(params);
        let bench = Bench::new(host);
        report(guest, bench, host);
    }
}

/// Runs those of vendor `V` that are asked for, the common ones and its `own`.
///
/// # Errors
/// One line if there is no such guest, or the CPU lacks what none can do without.
pub(super) fn run<V: Vendor>(own: &[UnitGuest<Context<V>>], params: &Params) -> Result<(), String> {
    if let Some(name) = unknown(own, &params.unit_guests) {
        return Err(format!("there is no unit guest {name}"));
    }
    let mut said = false;
    for guest in
        common::guests::<V>().iter().chain(own).filter(|guest| is_chosen(&params.unit_guests, guest.name))
    {
        let host = host(params);
        let context = Context::<V>::new(host)?;
        if !said {
            // For the recording: how the CPU is to be played.
            say(&Message::Started(context.vendor.started(&context.vendor.format(None)?)));
            said = true;
        }
        report(guest, context, host);
    }
    Ok(())
}

/// The first of `names` that no guest has, among those of the machine, the common ones and `own`.
fn unknown<'n, V: Vendor>(own: &[UnitGuest<Context<V>>], names: &'n [String]) -> Option<&'n str> {
    let common = common::guests::<V>();
    let known: Vec<&str> = (machine::GUESTS.iter().map(|guest| guest.name))
        .chain(common.iter().chain(own).map(|guest| guest.name))
        .collect();
    names.iter().map(|name| &**name).find(|name| *name != "all" && !known.contains(name))
}

fn is_chosen(names: &[String], name: &str) -> bool {
    names.iter().any(|chosen| chosen == "all" || chosen == name)
}

fn report<C>(guest: &UnitGuest<C>, context: C, host: Host) {
    let lacking = (guest.needs)(&context).err();
    let failure = if lacking.is_none() { (guest.run)(&context).err() } else { None };
    // What the extension itself takes comes back when it is turned off.
    drop(context);
    let counts = host.counts();
    let frames_lost = counts.taken.saturating_sub(counts.returned);
    say(&Message::Unit(UnitOutcome { name: guest.name.to_string(), failure, lacking, frames_lost }));
}

/// The failure of something that returned an error.
pub(super) fn failed(what: &str, error: impl core::fmt::Display) -> Failure {
    format!("{what}: {error}")
}
