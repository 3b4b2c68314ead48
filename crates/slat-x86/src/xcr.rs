//! XCR0, checked as the CPU does: XSETBV with anything else is a general protection exception (Intel SDM vol. 1, "Enabling
//! the XSAVE Feature Set and XSAVE-Enabled Features"). The CPU of the hypervisor must never execute a guest's bad value.

use thiserror::Error;

/// The guest is to get a general protection exception.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("XCR{index} cannot be {value:#x}")]
pub struct BadXcr {
    /// ECX.
    pub index: u32,
    /// EDX:EAX.
    pub value: u64,
}

const X87: u64 = 1 << 0;
const SSE: u64 = 1 << 1;
const AVX: u64 = 1 << 2;
/// Bound registers and their configuration: both or none.
const MPX: u64 = 3 << 3;
/// Opmask, upper halves of ZMM0 to 15, ZMM16 to 31: all or none, and only with AVX.
const AVX512: u64 = 7 << 5;
/// Tile configuration and data: both or none.
const AMX: u64 = 3 << 17;

/// Whether XSETBV may set register `index` to `value` on a CPU with the components of `supported`.
///
/// # Errors
/// [`BadXcr`].
pub const fn check(index: u32, value: u64, supported: u64) -> Result<(), BadXcr> {
    let good = index == 0
        && value & !supported == 0
        && value & X87 != 0
        && (value & AVX == 0 || value & SSE != 0)
        && (value & AVX512 == 0 || value & AVX != 0)
        && matches!(value & MPX, 0 | MPX)
        && matches!(value & AVX512, 0 | AVX512)
        && matches!(value & AMX, 0 | AMX);
    if good { Ok(()) } else { Err(BadXcr { index, value }) }
}

#[cfg(all(test, not(loom)))]
mod tests;
