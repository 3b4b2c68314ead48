//! The registers of the RISC-V hypervisor extension, as a report shows them.

use slat_hv_protocol::{Mechanism, Started};

/// What hgatp says, and how many bits of its VMID the hart has; `None` on other machines.
///
/// (RISC-V Privileged Architecture, "Hypervisor Guest Address Translation and Protection Register (hgatp)": MODE in bits 63 to
/// 60, VMID in bits 57 to 44.)
pub(super) fn hgatp(started: &Started) -> Option<String> {
    if started.mechanism != Mechanism::Gstage {
        return None;
    }
    let mode = match started.hgatp >> 60 {
        0 => "Bare".to_owned(),
        8 => "Sv39x4".to_owned(),
        9 => "Sv48x4".to_owned(),
        10 => "Sv57x4".to_owned(),
        other => format!("mode {other}"),
    };
    let vmid = started.hgatp >> 44 & 0x3fff;
    let bits = match started.vmid_bits {
        0 => "no bits of which are there".to_owned(),
        bits => format!("of {bits} bits"),
    };
    Some(format!("{:#x}: {mode}, VMID {vmid} {bits}", started.hgatp))
}

#[cfg(test)]
mod tests;
