//! x86 paging with 4 or 5 levels: SDM volume 3A, "4-Level Paging and 5-Level Paging"; APM volume 2, "Page Translation and
//! Protection". Not modelled: 32-bit and PAE paging, protection keys, shadow stacks, address bits beyond MAXPHYADDR.

use super::{FirstLeaf, Progress, Stage1, Update, VirtualFault, Walk};
use crate::access::{Access, Permissions};
use crate::walk::{bit, bits};

pub(super) fn start(cr3: u64, cr4: u64, gva: u64) -> Progress {
    let level = if bit(cr4, 12) { 4 } else { 3 };
    let width = 12 + 9 * (u32::from(level) + 1);
    let sign = (gva as i64) >> (width - 1);
    if sign != 0 && sign != -1 {
        return Progress::Fault(VirtualFault::Guest { gva, level, present: false });
    }
    let index = gva >> (12 + 9 * u32::from(level)) & 0x1ff;
    Progress::Read(Walk::new(bits(cr3, 51, 12) + 8 * index, level))
}

pub(super) fn resume(stage1: &Stage1, mut walk: Walk, raw: u64, gva: u64, access: Access) -> Progress {
    let Stage1::X86 { cr0, cr4, efer, ac, .. } = *stage1 else { return walk.fault(gva, false) };
    if !bit(raw, 0) {
        return walk.fault(gva, false);
    }
    let large = (1..=2).contains(&walk.level) && bit(raw, 7);
    let reserved = (bit(raw, 63) && !bit(efer, 11))
        || match walk.level {
            0 => false,
            1 => large && bits(raw, 20, 13) != 0,
            2 => large && bits(raw, 29, 13) != 0,
            _ => bit(raw, 7),
        };
    if reserved {
        return walk.fault(gva, true);
    }
    walk.write &= bit(raw, 1);
    walk.user &= bit(raw, 2);
    walk.execute = walk.execute.map(|execute| execute && !bit(raw, 63));
    let leaf = walk.level == 0 || large;
    let permissions = if access.user {
        let [_, execute] = walk.execute;
        let execute = walk.user && execute;
        Permissions { read: walk.user, write: walk.user && walk.write, execute, execute_user: execute }
    } else {
        let data = !(walk.user && bit(cr4, 21) && !ac); // SMAP
        let execute = walk.execute[0] && !(walk.user && bit(cr4, 20)); // SMEP
        let write = data && (walk.write || !bit(cr0, 16)); // WP
        Permissions { read: data, write, execute, execute_user: execute }
    };
    if leaf && !permissions.allow(access) {
        return walk.fault(gva, true);
    }
    let marks = 1 << 5 | if leaf && access.writes() { 1 << 6 } else { 0 };
    if raw | marks != raw {
        walk.updates.push(Update { entry: walk.entry, old: raw, new: raw | marks });
    }
    if !leaf {
        return walk.descend(bits(raw, 51, 12), gva);
    }
    let shift = 12 + 9 * u32::from(walk.level);
    Progress::Done(FirstLeaf {
        gpa: bits(raw, 51, shift) | bits(gva, shift - 1, 0),
        size: 1 << shift,
        permissions,
        user: walk.user,
        global: bit(raw, 8) && bit(cr4, 7),
        asid: stage1.asid(),
        dirty: bit(raw | marks, 6),
        updates: walk.updates,
    })
}
