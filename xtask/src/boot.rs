//! One boot of a guest in the emulator, under slat or natively: the machine, its memory map, what it prints, and
//! what is concluded from that. `cargo xtask run` and the emulator tests share this.

pub(crate) mod console;
pub(crate) mod layout;
pub(crate) mod machine;
pub(crate) mod printed;
mod qmp;
pub(crate) mod screen;
pub(crate) mod session;
pub(crate) mod stopped;
pub(crate) mod verdict;
