//! x86 paging: SDM volume 3A, "32-Bit Paging", "PAE Paging", "4-Level Paging and 5-Level Paging"; APM volume 2, "Page Translation
//! and Protection". Not modelled: protection keys, shadow stacks, linear-address masking.

use super::{FirstLeaf, GuestSyndrome, Progress, Refusal, Stage1, Walk};
use crate::access::{Access, Permissions};
use crate::walk::{bit, bits, field};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Paging {
    Bits32,
    Pae,
    Long,
}

fn paging(cr4: u64, efer: u64) -> Paging {
    match (bit(cr4, 5), bit(efer, 10)) {
        (false, _) => Paging::Bits32,
        (true, false) => Paging::Pae,
        (true, true) => Paging::Long,
    }
}

pub(super) fn start(stage1: &Stage1, gva: u64, access: Access) -> Progress {
    let Stage1::X86 { cr3, cr4, efer, pdptes, .. } = *stage1 else { unreachable!("not x86") };
    match paging(cr4, efer) {
        Paging::Bits32 => {
            let mut walk = Walk::new(bits(cr3, 31, 12) + 4 * field(gva, 31, 22), 1);
            walk.short = true;
            Progress::Read(walk)
        }
        Paging::Pae => {
            let index = field(gva, 31, 30);
            let walk = Walk::new(bits(cr3, 31, 5) + 8 * index, 2);
            match pdptes {
                Some(registers) => resume(stage1, walk, registers[index as usize], gva, access),
                None => Progress::Read(walk),
            }
        }
        Paging::Long => {
            let level = if bit(cr4, 12) { 4 } else { 3 };
            let width = 12 + 9 * (u32::from(level) + 1);
            let sign = (gva as i64) >> (width - 1);
            if sign != 0 && sign != -1 {
                return stage1.refuse(gva, level, access, Refusal::NotCanonical, Permissions::default());
            }
            let index = gva >> (12 + 9 * u32::from(level)) & 0x1ff;
            Progress::Read(Walk::new(bits(cr3, 51, 12) + 8 * index, level))
        }
    }
}

/// Whether a present entry has a reserved bit set: the tables of formats in the SDM, row by row.
fn is_reserved(stage1: &Stage1, level: u8, large: bool, raw: u64) -> bool {
    let Stage1::X86 { cr4, efer, features, .. } = *stage1 else { unreachable!("not x86") };
    let width = features.physical_bits;
    let any = |high, low| low <= high && bits(raw, high, low) != 0;
    match paging(cr4, efer) {
        Paging::Bits32 => {
            // "21:(M-19) Reserved", M being 32 without PSE-36 and else at most 40.
            let m = if features.pse36 { width.min(40) } else { 32 };
            large && any(21, m - 19)
        }
        // A PDPTE has "2:1", "8:5" and "63:M".
        Paging::Pae if level == 2 => any(2, 1) || any(8, 5) || any(63, width),
        Paging::Pae => any(62, width) || (bit(raw, 63) && !bit(efer, 11)) || (large && any(20, 13)),
        Paging::Long => {
            any(51, width)
                || (bit(raw, 63) && !bit(efer, 11))
                || match level {
                    0 => false,
                    1 => large && any(20, 13),
                    2 => large && (!features.page_1g || any(29, 13)),
                    _ => bit(raw, 7),
                }
        }
    }
}

pub(super) fn resume(stage1: &Stage1, mut walk: Walk, raw: u64, gva: u64, access: Access) -> Progress {
    let Stage1::X86 { cr0, cr4, efer, ac, .. } = *stage1 else { unreachable!("not x86") };
    let (paging, level) = (paging(cr4, efer), walk.level);
    let refuse = |refusal| stage1.refuse(gva, level, access, refusal, Permissions::default());
    if !bit(raw, 0) {
        return refuse(Refusal::NotPresent);
    }
    let large = bit(raw, 7)
        && match paging {
            Paging::Bits32 => level == 1 && bit(cr4, 4),
            Paging::Pae => level == 1,
            Paging::Long => level == 1 || level == 2,
        };
    if is_reserved(stage1, level, large, raw) {
        return refuse(Refusal::Reserved);
    }
    if paging == Paging::Pae && level == 2 {
        // A PDPTE has no access rights and no accessed flag.
        return walk.descend(bits(raw, 51, 12), gva);
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
        return refuse(Refusal::Permission);
    }
    let marks = 1 << 5 | if leaf && access.writes() { 1 << 6 } else { 0 };
    if raw | marks != raw {
        walk.update(raw, raw | marks);
    }
    if !leaf {
        return walk.descend(bits(raw, 51, 12), gva);
    }
    let shift = walk.shift();
    let page = match (paging, large) {
        // Bits 39:32 of the address are in 20:13, as far as they are not reserved.
        (Paging::Bits32, true) => bits(raw, 31, 22) | field(raw, 20, 13) << 32,
        _ => bits(raw, 51, shift),
    };
    Progress::Done(FirstLeaf {
        gpa: page | bits(gva, shift - 1, 0),
        size: 1 << shift,
        permissions,
        user: walk.user,
        global: bit(raw, 8) && bit(cr4, 7),
        asid: stage1.asid(),
        dirty: bit(raw | marks, 6),
        updates: walk.updates,
    })
}

/// "Page-Fault Exceptions": the error code.
pub(super) fn syndrome(stage1: &Stage1, gva: u64, access: Access, refusal: Refusal) -> GuestSyndrome {
    let Stage1::X86 { cr4, efer, .. } = *stage1 else { unreachable!("not x86") };
    if refusal == Refusal::NotCanonical {
        return GuestSyndrome::X86NonCanonical;
    }
    let flags = [
        refusal != Refusal::NotPresent,
        access.writes(),
        access.user,
        refusal == Refusal::Reserved,
        access.executes() && (bit(cr4, 20) || (bit(cr4, 5) && bit(efer, 11))),
    ];
    let error_code = flags.iter().enumerate().map(|(n, &set)| u32::from(set) << n).sum();
    GuestSyndrome::X86 { error_code, cr2: gva }
}
