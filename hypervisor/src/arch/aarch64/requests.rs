//! The hypercalls of a guest that tests the hypervisor: SMCCC's range of vendor-specific hypervisor services.
//!
//! Not offered to any other guest. x1 is the address of a page of guest RAM, and x0 on return 0, or INVALID_PARAMETERS
//! if that is no page which the request could be carried out on.

use crate::vcpu::Request;

/// [`Request::Move`].
pub const MOVE: u32 = 0xc600_0001;
/// [`Request::WriteProtect`].
pub const WRITE_PROTECT: u32 = 0xc600_0002;
/// [`Request::Renew`].
pub const RENEW: u32 = 0xc600_0003;

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

/// x0 on return.
#[must_use]
pub const fn answer(done: bool) -> u64 {
    const INVALID_PARAMETERS: i64 = -2;
    if done { 0 } else { INVALID_PARAMETERS as u64 }
}
