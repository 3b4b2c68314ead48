//! The hypervisor's own hypercalls: SMCCC's range of vendor-specific hypervisor services, on x86 too (VMCALL or VMMCALL at
//! privilege level 0), where RAX, RBX and RCX stand for x0, x1 and x2. On RISC-V they are an extension of SBI, with registers of its own: see
//! [`sbi`](crate::arch::riscv64::sbi).
//!
//! **Buffers,** for any guest: x1 is a guest-physical address and x2 a length in bytes. On return x0 is 0 or a negative
//! number, and x1 how many bytes were done, from the first one on; a buffer of no bytes is done wherever it is.
//!
//! | x0 on return | |
//! |---|---|
//! | 0 | done |
//! | -1 | there is no such call |
//! | -2 | more bytes than a call may be about |
//! | -3 | the guest itself may not read or write there |
//! | -9 | nothing lies there, or the buffer wraps around |
//! | -10 | the registers of a device lie there |
//! | -11 | the host has no frame left |
//! | -12 | the page is being replaced: to be repeated from there on |
//!
//! **Changes of pages,** for a guest that tests the hypervisor: x1 is the address of a page of guest RAM, and x0 on
//! return 0, or -2 if that is no page which the request could be carried out on.

use crate::vcpu::{BufferCall, BufferError, Request};

/// [`Request::Move`].
pub const MOVE: u32 = 0xc600_0001;
/// [`Request::WriteProtect`].
pub const WRITE_PROTECT: u32 = 0xc600_0002;
/// [`Request::Renew`].
pub const RENEW: u32 = 0xc600_0003;
/// [`BufferCall::Print`].
pub const PRINT: u32 = 0xc600_0010;
/// [`BufferCall::Statistics`].
pub const STATISTICS: u32 = 0xc600_0011;

/// The answer to a call that there is not.
pub const UNKNOWN: u64 = (-1_i64) as u64;

const INVALID_PARAMETERS: i64 = -2;
const DENIED: i64 = -3;
const INVALID_ADDRESS: i64 = -9;
const DEVICE: i64 = -10;
const OUT_OF_FRAMES: i64 = -11;
const BUSY: i64 = -12;

/// The request that a call with this x0 makes, if it is one.
#[must_use]
pub const fn decode(x0: u64) -> Option<Request> {
    match x0 as u32 {
        MOVE => Some(Request::Move),
        WRITE_PROTECT => Some(Request::WriteProtect),
        RENEW => Some(Request::Renew),
        _ => None,
    }
}

/// What a call with this x0 wants to be done with a buffer, if it is such a call.
#[must_use]
pub const fn decode_buffer(x0: u64) -> Option<BufferCall> {
    match x0 as u32 {
        PRINT => Some(BufferCall::Print),
        STATISTICS => Some(BufferCall::Statistics),
        _ => None,
    }
}

/// x0 on return.
#[must_use]
pub const fn answer(done: bool) -> u64 {
    if done { 0 } else { INVALID_PARAMETERS as u64 }
}

/// x0 on return from a call about a buffer.
#[must_use]
pub const fn status(status: Result<(), BufferError>) -> u64 {
    (match status {
        Ok(()) => 0,
        Err(BufferError::TooLong) => INVALID_PARAMETERS,
        Err(BufferError::Denied) => DENIED,
        Err(BufferError::NoMemory) => INVALID_ADDRESS,
        Err(BufferError::Device) => DEVICE,
        Err(BufferError::OutOfFrames) => OUT_OF_FRAMES,
        Err(BufferError::Busy) => BUSY,
    }) as u64
}

#[cfg(test)]
mod tests;
