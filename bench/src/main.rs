//! slat side by side with the crates that a hypervisor would use instead.
//!
//! Every work is written once, against the [`Contender`](contender::Contender) trait, and runs in interleaved rounds:
//! round by round every contender gets a fresh space on the same host. Invariant: the clock only sees
//! [`measured_region`](measure::measured_region), and what it timed is checked after it stopped.

mod cli;
mod contender;
mod contenders;
mod frames;
mod heap;
mod instructions;
mod measure;
mod memory;
mod notes;
mod plot;
mod report;
mod rounds;
mod sharing;
mod threads;
mod work;

use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
