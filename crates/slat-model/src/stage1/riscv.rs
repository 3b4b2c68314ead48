//! RISC-V VS-stage: Privileged ISA, "Supervisor" chapter, "Virtual Address Translation Process", Svnapot, Svpbmt.

use super::{FirstLeaf, GuestSyndrome, Progress, Refusal, Stage1, Walk};
use crate::access::{Access, Permissions};
use crate::walk::{bit, bits, field};

pub(super) fn start(stage1: &Stage1, gva: u64, access: Access) -> Progress {
    let Stage1::Riscv { vsatp, .. } = *stage1 else { unreachable!("not RISC-V") };
    let mode = field(vsatp, 63, 60);
    // Sv39, Sv48, Sv57; vsatp holds no other value.
    let level = mode.clamp(8, 10) as u8 - 6;
    let width = 12 + 9 * (u32::from(level) + 1);
    let sign = (gva as i64) >> (width - 1);
    if sign != 0 && sign != -1 {
        return stage1.refuse(gva, level, access, Refusal::NotPresent, Permissions::default());
    }
    let index = gva >> (12 + 9 * u32::from(level)) & 0x1ff;
    Progress::Read(Walk::new((field(vsatp, 43, 0) << 12) + 8 * index, level))
}

pub(super) fn resume(stage1: &Stage1, mut walk: Walk, raw: u64, gva: u64, access: Access) -> Progress {
    let Stage1::Riscv { sum, mxr, adue, pbmte, svnapot, .. } = *stage1 else { unreachable!("not RISC-V") };
    let level = walk.level;
    let refuse = |refusal| stage1.refuse(gva, level, access, refusal, Permissions::default());
    if !bit(raw, 0) {
        return refuse(Refusal::NotPresent);
    }
    let (napot, memory_type) = (bit(raw, 63), field(raw, 62, 61));
    if (bit(raw, 2) && !bit(raw, 1)) || bits(raw, 60, 54) != 0 {
        return refuse(Refusal::Reserved);
    }
    walk.global |= bit(raw, 5); // of a pointer: of all below
    let mut page = field(raw, 53, 10) << 12;
    if bits(raw, 3, 1) == 0 {
        if level == 0 || raw & 0xd0 != 0 || napot || memory_type != 0 {
            return refuse(Refusal::Reserved);
        }
        return walk.descend(page, gva);
    }
    if memory_type == 3 || (memory_type != 0 && !pbmte) {
        return refuse(Refusal::Reserved);
    }
    let mut shift = 12 + 9 * u32::from(level);
    if napot {
        // "Page table entry encodings when pte.N=1": 64 KiB is the only size there is.
        if !svnapot || level != 0 || field(page, 15, 12) != 0b1000 {
            return refuse(Refusal::Reserved);
        }
        (page, shift) = (bits(page, 55, 16), 16);
    }
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
        return refuse(Refusal::Permission);
    }
    let marks = 1 << 6 | if access.writes() { 1 << 7 } else { 0 };
    if raw | marks != raw {
        if !adue {
            return refuse(Refusal::AccessFlag); // Svade
        }
        walk.update(raw, raw | marks);
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

/// "Supervisor cause register": the page faults by what the instruction does; AMOs count as stores.
pub(super) fn syndrome(gva: u64, access: Access) -> GuestSyndrome {
    let scause = match (access.executes(), access.writes()) {
        (true, _) => 12,
        (false, false) => 13,
        (false, true) => 15,
    };
    GuestSyndrome::Riscv { scause, stval: gva }
}
