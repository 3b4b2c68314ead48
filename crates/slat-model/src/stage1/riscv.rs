//! RISC-V VS-stage: Privileged ISA, "Supervisor" chapter, "Virtual Address Translation Process". Not modelled: Svpbmt and Svnapot of
//! the guest (their bits are reserved here).

use super::{FirstLeaf, Progress, Stage1, Update, VirtualFault, Walk};
use crate::access::{Access, Permissions};
use crate::walk::{bit, bits, field};

pub(super) fn start(vsatp: u64, gva: u64) -> Progress {
    let mode = field(vsatp, 63, 60);
    // Sv39, Sv48, Sv57; vsatp holds no other value.
    let level = mode.clamp(8, 10) as u8 - 6;
    let width = 12 + 9 * (u32::from(level) + 1);
    let sign = (gva as i64) >> (width - 1);
    if sign != 0 && sign != -1 {
        return Progress::Fault(VirtualFault::Guest { gva, level, present: false });
    }
    let index = gva >> (12 + 9 * u32::from(level)) & 0x1ff;
    Progress::Read(Walk::new((field(vsatp, 43, 0) << 12) + 8 * index, level))
}

pub(super) fn resume(stage1: &Stage1, mut walk: Walk, raw: u64, gva: u64, access: Access) -> Progress {
    let Stage1::Riscv { sum, mxr, adue, .. } = *stage1 else { return walk.fault(gva, false) };
    if !bit(raw, 0) || (bit(raw, 2) && !bit(raw, 1)) || bits(raw, 63, 54) != 0 {
        return walk.fault(gva, bit(raw, 0));
    }
    walk.global |= bit(raw, 5); // of a pointer: of all below
    let page = field(raw, 53, 10) << 12;
    if bits(raw, 3, 1) == 0 {
        if walk.level == 0 || raw & 0xd0 != 0 {
            return walk.fault(gva, true);
        }
        return walk.descend(page, gva);
    }
    let shift = 12 + 9 * u32::from(walk.level);
    let user = bit(raw, 4);
    // "S-mode is not permitted to execute from user pages", and reads them with SUM only.
    let (data, fetch) = if access.user { (user, user) } else { (!user || sum, !user) };
    let execute = fetch && bit(raw, 3);
    let permissions = Permissions {
        read: data && (bit(raw, 1) || (mxr && bit(raw, 3))),
        write: data && bit(raw, 2),
        execute,
        execute_user: execute,
    };
    if !permissions.allow(access) || bits(page, shift - 1, 0) != 0 {
        return walk.fault(gva, true);
    }
    let marks = 1 << 6 | if access.writes() { 1 << 7 } else { 0 };
    if raw | marks != raw {
        if !adue {
            return walk.fault(gva, true); // Svade
        }
        walk.updates.push(Update { entry: walk.entry, old: raw, new: raw | marks });
    }
    Progress::Done(FirstLeaf {
        gpa: page | bits(gva, shift - 1, 0),
        size: 1 << shift,
        permissions,
        user,
        global: walk.global,
        asid: stage1.asid(),
        dirty: bit(raw | marks, 7),
        updates: walk.updates,
    })
}
