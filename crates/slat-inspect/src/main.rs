//! The program `slat-inspect`. All of it is in `cli`; here is only what touches the machine.
#![expect(unsafe_code, reason = "dumps of tens of GiB are mapped into memory, not read")]

use memmap2::Mmap;
use slat_inspect::cli;
use std::fs::File;
use std::io::{self, IsTerminal};
use std::process::ExitCode;

fn main() -> ExitCode {
    let stdout = io::stdout();
    let is_terminal = stdout.is_terminal();
    cli::run(std::env::args_os(), map, &mut stdout.lock(), is_terminal)
}

fn map(file: &File) -> io::Result<cli::Bytes> {
    // SAFETY: the mapping is private and read-only, and no reference into it is kept while a file is waited for. That nobody
    // changes the file meanwhile cannot be made sure of: bytes that change are only ever read as integers, by copies; a file that
    // gets shorter ends the program by a signal.
    let bytes = unsafe { Mmap::map(file) }?;
    Ok(cli::Bytes::Mapped(bytes))
}
