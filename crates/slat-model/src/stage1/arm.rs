//! Arm EL1&0 stage 1, 4 KiB granule: Arm ARM chapter D8, "Stage 1 translation table walk" and "Memory access control", and the
//! pseudocode of both. Not modelled: permission indirection and overlays, 52-bit addresses, E0PD, other granules and big-endian
//! tables (of which every access faults here).

use super::{FirstLeaf, GuestSyndrome, Progress, Refusal, Stage1, Walk};
use crate::access::{Access, Permissions};
use crate::walk::{bit, bits, field};

/// TCR_EL1.A1 says which of the two registers has the ASID, AS how wide it is.
pub(super) fn asid(tcr: u64, ttbr0: u64, ttbr1: u64) -> u64 {
    field(if bit(tcr, 22) { ttbr1 } else { ttbr0 }, if bit(tcr, 36) { 63 } else { 55 }, 48)
}

/// AArch64.AddrTop: the highest bit of an address that counts.
fn top(tcr: u64, gva: u64, access: Access) -> u32 {
    let (tbi, tbid) = if bit(gva, 55) { (38, 52) } else { (37, 51) };
    if bit(tcr, tbi) && !(access.executes() && bit(tcr, tbid)) { 55 } else { 63 }
}

/// AArch64.S1DisabledOutput: without stage 1 an address must fit the CPU.
pub(super) fn flat(stage1: &Stage1, gva: u64, access: Access) -> Progress {
    let Stage1::Arm { tcr, features, .. } = *stage1 else { unreachable!("not Arm") };
    let whole = bits(gva, top(tcr, gva, access), 0);
    if whole >> features.physical_bits != 0 {
        return stage1.refuse(gva, 3, access, Refusal::AddressSize, Permissions::default());
    }
    Progress::Done(FirstLeaf::flat(whole, stage1.asid()))
}

/// The effective width of output addresses: AArch64.PhysicalAddressSize of TCR_EL1.IPS, at most what the CPU has.
fn output_width(tcr: u64, physical_bits: u32) -> u32 {
    let width = [32, 36, 40, 42, 44, 48, 48, 48][field(tcr, 34, 32) as usize];
    width.min(physical_bits)
}

pub(super) fn start(stage1: &Stage1, gva: u64, access: Access) -> Progress {
    let Stage1::Arm { tcr, ttbr0, ttbr1, features, .. } = *stage1 else { unreachable!("not Arm") };
    let upper = bit(gva, 55);
    let (size, disabled, granule, ttbr) = if upper {
        (field(tcr, 21, 16), bit(tcr, 23), field(tcr, 31, 30) == 2, ttbr1)
    } else {
        (field(tcr, 5, 0), bit(tcr, 7), field(tcr, 15, 14) == 0, ttbr0)
    };
    let fault = |refusal| stage1.refuse(gva, 3, access, refusal, Permissions::default());
    let largest = if features.ttst { 48 } else { 39 };
    if disabled || !granule || !(16..=largest).contains(&size) {
        return fault(Refusal::NotPresent);
    }
    let width = 64 - size as u32;
    // AArch64.VAIsOutOfRange: VA<top:iasize> is all zeroes, or all ones.
    let outside = bits(gva, top(tcr, gva, access), width);
    let expected = if upper { bits(u64::MAX, top(tcr, gva, access), width) } else { 0 };
    if outside != expected {
        return fault(Refusal::NotPresent);
    }
    let level = ((width - 13) / 9) as u8;
    let shift = 12 + 9 * u32::from(level);
    // The base is aligned to the size of the table: 8 bytes for each entry.
    let base = bits(ttbr, 47, 3 + width - shift);
    if base >> output_width(tcr, features.physical_bits) != 0 {
        return fault(Refusal::AddressSize);
    }
    let index = bits(gva, width - 1, shift) >> shift;
    let mut walk = Walk::new(base + 8 * index, level);
    walk.global = true; // until a leaf says nG
    Progress::Read(walk)
}

pub(super) fn resume(stage1: &Stage1, mut walk: Walk, raw: u64, gva: u64, access: Access) -> Progress {
    let Stage1::Arm { tcr, features, .. } = *stage1 else { unreachable!("not Arm") };
    let refuse = |level, refusal| stage1.refuse(gva, level, access, refusal, Permissions::default());
    let leaf = match (raw & 3, walk.level) {
        (3, 0) | (1, 1 | 2) => true,
        (3, _) => false,
        _ => return refuse(walk.level, Refusal::NotPresent),
    };
    let shift = 12 + 9 * u32::from(walk.level);
    let address = bits(raw, 47, if leaf { shift } else { 12 });
    if address >> output_width(tcr, features.physical_bits) != 0 {
        return refuse(walk.level, Refusal::AddressSize);
    }
    if !leaf {
        // APTable, UXNTable, PXNTable; TCR_EL1.HPDn says that they are software's.
        if !(features.hpds && bit(tcr, if bit(gva, 55) { 42 } else { 41 })) {
            walk.write &= !bit(raw, 62);
            walk.user &= !bit(raw, 61);
            walk.execute[0] &= !bit(raw, 59);
            walk.execute[1] &= !bit(raw, 60);
        }
        return walk.descend(address, gva);
    }
    let hardware_access = features.hafdbs >= 1 && bit(tcr, 39);
    let hardware_dirty = features.hafdbs >= 2 && hardware_access && bit(tcr, 40);
    if !bit(raw, 10) && !hardware_access {
        return refuse(walk.level, Refusal::AccessFlag);
    }
    let clean = hardware_dirty && bit(raw, 51) && bit(raw, 7);
    let (permissions, user) = permissions(stage1, &walk, raw, clean, access);
    if !permissions.allow(access) {
        return stage1.refuse(gva, walk.level, access, Refusal::Permission, permissions);
    }
    let mut new = raw | 1 << 10;
    if clean && access.writes() {
        new &= !(1 << 7); // AP[2]
    }
    if new != raw {
        walk.update(raw, new);
    }
    Progress::Done(FirstLeaf {
        gpa: address | bits(gva, shift - 1, 0),
        size: 1 << shift,
        permissions,
        user,
        global: !bit(raw, 11),
        asid: stage1.asid(),
        dirty: !clean || access.writes(),
        updates: walk.updates,
    })
}

/// AArch64.S1DirectBasePermissions, in its order and with its names; also whether EL0 can read.
fn permissions(stage1: &Stage1, walk: &Walk, raw: u64, clean: bool, access: Access) -> (Permissions, bool) {
    let Stage1::Arm { sctlr, pan, features, .. } = *stage1 else { unreachable!("not Arm") };
    // "Descriptors marked with DBM set have the effective value of AP[2] cleared."
    let ap = if clean { field(raw, 7, 6) & 1 } else { field(raw, 7, 6) };
    let (mut pr, mut pw, mut ur, mut uw) = match ap {
        0b00 => (true, true, false, false),
        0b01 => (true, true, true, true),
        0b10 => (true, false, false, false),
        _ => (true, false, true, false),
    };
    if !walk.user {
        (ur, uw) = (false, false);
    }
    if !walk.write {
        (pw, uw) = (false, false);
    }
    // "Locations writable by unprivileged cannot be executed by privileged." AP[1] has no say in what EL0 executes.
    let mut px = !bit(raw, 53) && walk.execute[0] && !uw;
    let mut ux = !bit(raw, 54) && walk.execute[1];
    let epan = features.pan3 && bit(sctlr, 57);
    // PAN does not concern fetches, but WXN looks at what can be written.
    let writable = if access.user { uw } else { pw };
    if pan && (ur || uw || (epan && ux)) {
        (pr, pw) = (false, false);
    }
    if bit(sctlr, 19) && writable {
        (px, ux) = (false, false);
    }
    let permissions = if access.user {
        Permissions { read: ur, write: uw, execute: ux, execute_user: ux }
    } else {
        Permissions { read: pr, write: pw, execute: px, execute_user: px }
    };
    (permissions, ur)
}

/// ESR_ELx, "ISS encoding for an exception from a Data Abort": the fault of an access that gets only what is `allowed`.
pub(super) fn syndrome(
    gva: u64,
    level: u8,
    access: Access,
    refusal: Refusal,
    allowed: Permissions,
) -> GuestSyndrome {
    let class = if access.executes() { 0x20 } else { 0x24 } + u64::from(!access.user);
    let kind = match refusal {
        Refusal::AddressSize => 0,
        Refusal::AccessFlag => 0b10,
        Refusal::Permission => 0b11,
        _ => 0b01,
    };
    // "0 if a read of the location would have generated the fault" of an atomic access.
    let wnr = access.writes() && (!access.reads() || allowed.read);
    let esr = class << 26 | 1 << 25 | u64::from(wnr) << 6 | kind << 2 | (3 - u64::from(level));
    GuestSyndrome::Arm { esr, far: gva }
}
