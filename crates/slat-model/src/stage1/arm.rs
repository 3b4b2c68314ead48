//! Arm EL1&0 stage 1, 4 KiB granule: Arm ARM chapter D8, "Stage 1 translation table walk" and "Memory access control". Not modelled:
//! top-byte ignore, PAN, permission indirection, the output address size.

use super::{FirstLeaf, Progress, Stage1, Update, VirtualFault, Walk};
use crate::access::{Access, Permissions};
use crate::walk::{bit, bits, field};

/// TCR_EL1.A1 says which of the two registers has the ASID, AS how wide it is.
pub(super) fn asid(tcr: u64, ttbr0: u64, ttbr1: u64) -> u64 {
    field(if bit(tcr, 22) { ttbr1 } else { ttbr0 }, if bit(tcr, 36) { 63 } else { 55 }, 48)
}

pub(super) fn start(tcr: u64, ttbr0: u64, ttbr1: u64, gva: u64) -> Progress {
    let upper = bit(gva, 55);
    let (size, disabled, granule, ttbr) = if upper {
        (field(tcr, 21, 16), bit(tcr, 23), field(tcr, 31, 30) == 2, ttbr1)
    } else {
        (field(tcr, 5, 0), bit(tcr, 7), field(tcr, 15, 14) == 0, ttbr0)
    };
    let fault = |level| Progress::Fault(VirtualFault::Guest { gva, level, present: false });
    let width = 64 - size as u32;
    let sign = if upper { -1 } else { 0 };
    if disabled || !granule || !(25..=48).contains(&width) || (gva as i64) >> width != sign {
        return fault(3);
    }
    let level = ((width - 13) / 9) as u8;
    let shift = 12 + 9 * u32::from(level);
    let index = bits(gva, width - 1, shift) >> shift;
    let mut walk = Walk::new(bits(ttbr, 47, 1) + 8 * index, level);
    walk.global = true; // until a leaf says nG
    Progress::Read(walk)
}

pub(super) fn resume(stage1: &Stage1, mut walk: Walk, raw: u64, gva: u64, access: Access) -> Progress {
    let Stage1::Arm { sctlr, tcr, .. } = *stage1 else { return walk.fault(gva, false) };
    let leaf = match (raw & 3, walk.level) {
        (3, 0) | (1, 1 | 2) => true,
        (3, _) => false,
        _ => return walk.fault(gva, false),
    };
    if !leaf {
        // APTable, UXNTable, PXNTable.
        walk.write &= !bit(raw, 62);
        walk.user &= !bit(raw, 61);
        walk.execute[0] &= !bit(raw, 59);
        walk.execute[1] &= !bit(raw, 60);
        return walk.descend(bits(raw, 47, 12), gva);
    }
    let (hardware_access, hardware_dirty) = (bit(tcr, 39), bit(tcr, 39) && bit(tcr, 40));
    let clean = hardware_dirty && bit(raw, 51) && bit(raw, 7);
    let user = walk.user && bit(raw, 6);
    let write = walk.write && (!bit(raw, 7) || clean);
    let never = write && bit(sctlr, 19); // WXN
    let never_kernel = never || (user && write); // what EL0 can write, EL1 does not execute
    let execute = walk.execute[0] && !bit(raw, 53) && !never_kernel;
    let execute_user = user && walk.execute[1] && !bit(raw, 54) && !never;
    let data = !access.user || user;
    let permissions = Permissions { read: data, write: data && write, execute, execute_user };
    if (!bit(raw, 10) && !hardware_access) || !permissions.allow(access) {
        return walk.fault(gva, true);
    }
    let mut new = raw | 1 << 10;
    if clean && access.writes() {
        new &= !(1 << 7); // AP[2]
    }
    if new != raw {
        walk.updates.push(Update { entry: walk.entry, old: raw, new });
    }
    let shift = 12 + 9 * u32::from(walk.level);
    Progress::Done(FirstLeaf {
        gpa: bits(raw, 47, shift) | bits(gva, shift - 1, 0),
        size: 1 << shift,
        permissions,
        user,
        global: !bit(raw, 11),
        asid: stage1.asid(),
        dirty: !clean || access.writes(),
        updates: walk.updates,
    })
}
