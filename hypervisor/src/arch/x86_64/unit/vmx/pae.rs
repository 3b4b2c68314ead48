//! PAE paging: the CPU keeps four PDPTEs, which an exit saves in the VMCS and an entry takes from there.

use super::stage::{CODE, END, format_of, stage};
use crate::arch::x86_64::bare::Vmx;
use crate::arch::x86_64::unit::context::Context;
use crate::arch::x86_64::unit::{Failure, ensure_eq, failed, guest_code};
use slat::{GuestPhysAddr, GuestVirtAddr, MappingFlags};
use slat_x86::{CpuState, Exit, General, Vcpu as _};

/// The guest's four PDPTEs, and the directory that the first one leads to: the first GiB, one to one.
const POINTERS: u64 = 0x3_4000;
const DIRECTORY: u64 = 0x3_5000;
const PRESENT: u64 = 1;
/// What the guest reads, through its tables.
const WORD: u64 = END - 0x1000;

guest_code!(
    pae_start,
    ".code32",
    "mov eax, 0x34000",
    "mov cr3, eax",
    "mov eax, cr4",
    "or eax, 0x20",
    "mov cr4, eax",
    "mov eax, cr0",
    "or eax, 0x80000000",
    "mov cr0, eax",
    "mov ebx, [esi]",
    "hlt",
    "mov ecx, [esi]",
    "hlt",
);

/// A guest that turns PAE paging on by itself; then another vCPU that begins where it is, with and without its PDPTEs.
pub(super) fn pdptes(context: &Context<Vmx>) -> Result<(), Failure> {
    let (space, _) = stage(context, format_of(context)?, pae_start())?;
    space.load(POINTERS, &(DIRECTORY | PRESENT).to_le_bytes())?;
    for index in 0..512 {
        space.load(DIRECTORY + 8 * index, &(index << 21 | 0x87).to_le_bytes())?;
    }
    space.load(WORD, &0x1234_5678_u64.to_le_bytes())?;
    let mut state = CpuState::protected_mode(CODE as u32);
    state.general.set(General::Rsi, WORD);
    let mut vcpu = context.vcpu(&space, &state)?;
    ensure_eq!(space.enter(&mut vcpu)?, Exit::Halt, "exit");
    ensure_eq!(vcpu.general().get(General::Rbx), 0x1234_5678, "EBX");
    vcpu.advance();
    let paging = vcpu.paging();
    let slat::guest::GuestPaging::X86(registers) = paging.paging else {
        return Err("paging of another ISA".into());
    };
    let saved = [DIRECTORY | PRESENT, 0, 0, 0];
    ensure_eq!(registers.pdptes, Some(saved), "PDPTEs");
    let found = space.translate_virt(&paging, GuestVirtAddr::new(WORD), MappingFlags::READ);
    let found = found.map_err(|error| failed("translate_virt", error))?;
    ensure_eq!((found.gpa, found.page_size), (GuestPhysAddr::new(WORD), 2 << 20), "translation");
    let middle = vcpu.state().map_err(|error| failed("state", error))?;
    drop(vcpu);
    for known in [true, false] {
        let mut vcpu = context.vcpu(&space, &middle)?;
        if known {
            vcpu.set_pdptes(saved).map_err(|error| failed("set_pdptes", error))?;
        }
        // Without them no address has a translation, and there is no table of handlers either.
        let expected = if known { Exit::Halt } else { Exit::Shutdown };
        ensure_eq!(space.enter(&mut vcpu)?, expected, "exit of the second one");
        let seen = if known { 0x1234_5678 } else { 0 };
        ensure_eq!(vcpu.general().get(General::Rcx), seen, "ECX");
    }
    Ok(())
}
