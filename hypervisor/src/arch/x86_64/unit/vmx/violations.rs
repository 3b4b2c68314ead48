//! EPT violations, each with the qualification and the addresses that the manual says (SDM vol. 3C, "Exit Qualification for
//! EPT Violations").

use super::stage::{DATA, LAZY, NOW, TABLES, answer, fault, format_of, map, protect, stage};
use crate::arch::x86_64::bare::Vmx;
use crate::arch::x86_64::unit::context::{Context, RAM};
use crate::arch::x86_64::unit::{Failure, ensure, ensure_eq, guest_code};
use slat::{FaultCause, GuestPhysAddr, GuestVirtAddr, MappingFlags};
use slat_x86::{CpuState, Exit, General, Vcpu as _};

guest_code!(ept_read, "mov rax, [rsi + 0x123]", "hlt");
guest_code!(ept_write, "mov byte ptr [rsi + 0x123], 7", "hlt");
guest_code!(ept_read_modify_write, "lock inc byte ptr [rsi + 0x123]", "hlt");
guest_code!(ept_exchange, "mov eax, 7", "xchg byte ptr [rsi + 0x123], al", "hlt");
guest_code!(ept_fetch, "add rsi, 0x123", "jmp rsi");
guest_code!(ept_halt, "hlt");
guest_code!(ept_call_and_read, "call rsi", "mov rdx, [rsi]", "hlt");
guest_code!(ept_constant, "mov eax, 0x1234", "ret");
guest_code!(ept_read_16, ".code16", "mov ax, word ptr [0x0123]", "hlt");

const READ: MappingFlags = MappingFlags::READ;
const WRITE: MappingFlags = MappingFlags::WRITE;
const EXECUTE: MappingFlags = MappingFlags::EXECUTE;

/// Linear address valid, and the access itself.
const FINAL: u64 = 0x180;

struct Case {
    code: fn() -> &'static [u8],
    /// What the page allows; `None`: it is not present yet.
    granted: Option<MappingFlags>,
    access: MappingFlags,
    read_and_write: bool,
    /// Of the exit qualification, the lowest 9 bits; bit 0 is left out where the CPU model decides.
    qualification: u64,
    /// What the access leaves of a HLT (F4H).
    byte: u64,
}

/// Each access to a page that is not present, and to one that does not allow it.
pub(super) fn accesses(context: &Context<Vmx>) -> Result<(), Failure> {
    let cases = [
        Case {
            code: ept_read,
            granted: None,
            access: READ,
            read_and_write: false,
            qualification: FINAL | 1,
            byte: 0xf4,
        },
        Case {
            code: ept_write,
            granted: None,
            access: WRITE,
            read_and_write: false,
            qualification: FINAL | 2,
            byte: 7,
        },
        Case {
            code: ept_read_modify_write,
            granted: None,
            access: WRITE,
            read_and_write: true,
            qualification: FINAL | 3,
            byte: 0xf5,
        },
        Case {
            code: ept_exchange,
            granted: None,
            access: WRITE,
            read_and_write: true,
            qualification: FINAL | 3,
            byte: 7,
        },
        Case {
            code: ept_fetch,
            granted: None,
            access: EXECUTE,
            read_and_write: false,
            qualification: FINAL | 4,
            byte: 0xf4,
        },
        Case {
            code: ept_write,
            granted: Some(READ),
            access: WRITE,
            read_and_write: false,
            qualification: FINAL | 2 | 1 << 3,
            byte: 7,
        },
        Case {
            code: ept_read_modify_write,
            granted: Some(READ.union(EXECUTE)),
            access: WRITE,
            read_and_write: true,
            qualification: FINAL | 3 | 5 << 3,
            byte: 0xf5,
        },
        Case {
            code: ept_fetch,
            granted: Some(READ.union(WRITE)),
            access: EXECUTE,
            read_and_write: false,
            qualification: FINAL | 4 | 3 << 3,
            byte: 0xf4,
        },
    ];
    for (number, case) in cases.iter().enumerate() {
        check(context, case).map_err(|failure| alloc::format!("case {number}: {failure}"))?;
    }
    Ok(())
}

fn check(context: &Context<Vmx>, case: &Case) -> Result<(), Failure> {
    let (mut space, state) = stage(context, format_of(context)?, (case.code)())?;
    let page = DATA;
    match case.granted {
        None => map(&mut space, page, 0x1000, RAM, LAZY)?,
        Some(granted) => {
            map(&mut space, page, 0x1000, RAM, NOW)?;
            space.load(page + 0x123, ept_halt())?;
            protect(&mut space, page, granted)?;
        }
    }
    let mut vcpu = context.vcpu(&space, &state)?;
    let found = fault(space.enter(&mut vcpu)?)?;
    let (_, qualification) = vcpu.exit_numbers();
    // Whether a read and a write in one is told as a read, too, is the model's.
    let told = qualification & 0x1ff | if case.read_and_write { 1 } else { 0 };
    ensure_eq!(told, case.qualification, "qualification");
    ensure_eq!(found.info.gpa, GuestPhysAddr::new(page + 0x123), "GPA");
    ensure_eq!(found.info.gva, Some(GuestVirtAddr::new(page + 0x123)), "GVA");
    ensure_eq!(found.info.access, case.access, "access");
    let cause = if case.granted.is_some() { FaultCause::Permission } else { FaultCause::NotPresent };
    ensure_eq!(found.info.cause, cause, "cause");
    ensure_eq!(found.granted, case.granted.unwrap_or(MappingFlags::empty()), "granted");
    ensure_eq!((found.info.walk, found.read_and_write), (false, qualification & 3 == 3), "kind");
    ensure_eq!((found.nmi_unblocked, found.interrupted), (false, None), "events");
    // Answered, the access happens, once.
    match case.granted {
        None => {
            answer(&space, &found)?;
            space.load(page + 0x123, ept_halt())?;
        }
        Some(_) => protect(&mut space, page, RAM)?,
    }
    ensure_eq!(space.run(&mut vcpu)?, Exit::Halt, "exit");
    ensure_eq!(space.word(page + 0x123)? & 0xff, case.byte, "memory");
    Ok(())
}

/// Walks of the guest's tables fault in them: with the address of the entry, and as writes if the CPU keeps flags.
pub(super) fn walks(context: &Context<Vmx>) -> Result<(), Failure> {
    for accessed_dirty in [false, true] {
        if accessed_dirty && !context.vendor.capabilities.accessed_dirty() {
            continue;
        }
        let format = context.vendor.format_with(accessed_dirty)?;
        let (mut space, mut state) = stage(context, format, ept_halt())?;
        // Tables elsewhere, whose contents come with the fault.
        map(&mut space, DATA, 0x1000, RAM, LAZY)?;
        state.cr3 = DATA;
        let mut vcpu = context.vcpu(&space, &state)?;
        let found = fault(space.enter(&mut vcpu)?)?;
        let (_, qualification) = vcpu.exit_numbers();
        // The entry of the root for the code, which lies in the first 512 GiB.
        ensure_eq!(found.info.gpa, GuestPhysAddr::new(DATA), "GPA");
        ensure_eq!(qualification & 0x1fc, 1 << 7, "qualification");
        // Bit 0 of what counts as a write is the model's.
        let told = if accessed_dirty { qualification & 3 | 1 } else { qualification & 3 };
        ensure_eq!(told, if accessed_dirty { 3 } else { 1 }, "access in the qualification");
        ensure_eq!(found.info.walk, true, "walk");
        ensure_eq!(found.read_and_write, false, "kind");
        ensure_eq!(found.info.access, if accessed_dirty { WRITE } else { READ }, "access");
        answer(&space, &found)?;
        space.load(DATA, &(TABLES + 0x1007).to_le_bytes())?;
        ensure_eq!(space.run(&mut vcpu)?, Exit::Halt, "exit");
    }
    Ok(())
}

/// Tables of the guest's that it may only read: the CPU cannot set its flags in them, nor treat them as written.
pub(super) fn read_only_tables(context: &Context<Vmx>) -> Result<(), Failure> {
    for accessed_dirty in [false, true] {
        if accessed_dirty && !context.vendor.capabilities.accessed_dirty() {
            continue;
        }
        let format = context.vendor.format_with(accessed_dirty)?;
        let (mut space, state) = stage(context, format, ept_halt())?;
        // Without the guest's accessed flags in the entries, they have to be set; with them they are only read.
        for marked in [false, true] {
            if !marked && !accessed_dirty {
                // A violation by the manual; Bochs 2.7 sets the guest's flag past the EPT.
                continue;
            }
            protect(&mut space, TABLES, RAM)?;
            let mark = if marked { 1 << 5 } else { 0 };
            space.load(TABLES, &((TABLES + 0x1000 + 7) | mark).to_le_bytes())?;
            protect(&mut space, TABLES, READ)?;
            let mut vcpu = context.vcpu(&space, &state)?;
            let exit = space.enter(&mut vcpu)?;
            if marked && !accessed_dirty {
                ensure_eq!(exit, Exit::Halt, "exit");
                continue;
            }
            let found = fault(exit)?;
            ensure_eq!(found.info.gpa, GuestPhysAddr::new(TABLES), "GPA");
            ensure_eq!((found.info.access, found.info.walk), (WRITE, true), "access");
            ensure_eq!(found.granted, READ, "granted");
            ensure!(space.handle_nested_fault(&found.info).is_err(), "the region allows no write");
            protect(&mut space, TABLES, RAM)?;
            ensure_eq!(space.run(&mut vcpu)?, Exit::Halt, "exit");
            ensure_eq!(space.word(TABLES)? >> 5 & 1, 1, "the guest's accessed flag");
        }
    }
    Ok(())
}

/// Code that can be executed and not read.
pub(super) fn execute_only(context: &Context<Vmx>) -> Result<(), Failure> {
    let (mut space, state) = stage(context, format_of(context)?, ept_call_and_read())?;
    map(&mut space, DATA, 0x1000, RAM, NOW)?;
    space.load(DATA, ept_constant())?;
    protect(&mut space, DATA, EXECUTE)?;
    let mut vcpu = context.vcpu(&space, &state)?;
    let found = fault(space.enter(&mut vcpu)?)?;
    ensure_eq!(vcpu.general().get(General::Rax), 0x1234, "RAX");
    ensure_eq!(vcpu.exit_numbers().1 & 0x1ff, FINAL | 1 | 4 << 3, "qualification");
    ensure_eq!((found.info.access, found.granted), (READ, EXECUTE), "access");
    protect(&mut space, DATA, READ | EXECUTE)?;
    ensure_eq!(space.run(&mut vcpu)?, Exit::Halt, "exit");
    ensure_eq!(vcpu.general().get(General::Rdx), space.word(DATA)?, "RDX");
    Ok(())
}

/// The same in real mode, where linear addresses are segments' own.
pub(super) fn real_mode(context: &Context<Vmx>) -> Result<(), Failure> {
    let (mut space, _) = stage(context, format_of(context)?, ept_read_16())?;
    map(&mut space, 0x8_0000, 0x1000, RAM, LAZY)?;
    let mut state = CpuState::real_mode(0x1000, 0);
    state.segments[slat_x86::SegmentName::Ds as usize] = slat_x86::Segment::real(0x8000, false);
    let mut vcpu = context.vcpu(&space, &state)?;
    let found = fault(space.enter(&mut vcpu)?)?;
    ensure_eq!(vcpu.exit_numbers().1 & 0x1ff, FINAL | 1, "qualification");
    ensure_eq!(found.info.gpa, GuestPhysAddr::new(0x8_0123), "GPA");
    ensure_eq!(found.info.gva, Some(GuestVirtAddr::new(0x8_0123)), "GVA");
    answer(&space, &found)?;
    ensure_eq!(space.run(&mut vcpu)?, Exit::Halt, "exit");
    Ok(())
}
