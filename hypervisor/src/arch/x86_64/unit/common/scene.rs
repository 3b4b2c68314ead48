//! What most unit guests need: code in 64-bit mode with its tables, descriptor tables, a stack, and handlers that count.

use crate::arch::x86_64::bare::Vendor;
use crate::arch::x86_64::unit::context::{Context, Space};
use crate::arch::x86_64::unit::{Failure, failed, guest_code};
use alloc::vec::Vec;
use slat::format::Format;
use slat::{GuestPhysAddr, TableKind};
use slat_x86::isa::common;
use slat_x86::{CpuState, Exit, General, NestedPageFault, TableRegister, Vcpu as _};

/// Bytes of RAM from 0 on, all of it populated.
pub(super) const MEMORY: u64 = 1 << 20;
/// Where the code lies.
pub(super) const CODE: u64 = 0x1_0000;
const HANDLER: u64 = 0x2_0000;
const HANDLER_WITH_ERROR_CODE: u64 = 0x2_0800;
/// The guest's own tables: three pages that map the first GiB one to one in leaves of 2 MiB.
pub(super) const TABLES: u64 = 0x3_0000;
/// The interrupt descriptor table, a page.
pub(super) const IDT: u64 = 0x4_0000;
const GDT: u64 = 0x4_1000;
/// The page of the stack.
pub(super) const STACK: u64 = 0x5_0000;
/// Where the handlers leave what they saw: how often they ran,
pub(super) const HANDLED: u64 = 0x6_0008;
/// where they returned to (before RDI was added),
pub(super) const RETURN: u64 = 0x6_0010;
/// and the error code.
pub(super) const ERROR_CODE: u64 = 0x6_0018;
/// Where code leaves a result.
pub(super) const RESULT: u64 = 0x6_1000;
/// The last vector with a gate.
const LAST_VECTOR: u64 = 0x4f;

guest_code!(
    handler,
    "push rax",
    "mov rax, [rsp + 8]",
    "mov [0x60010], rax",
    "inc qword ptr [0x60008]",
    "add [rsp + 8], rdi",
    "pop rax",
    "iretq",
);
guest_code!(
    handler_with_error_code,
    "push rax",
    "mov rax, [rsp + 8]",
    "mov [0x60018], rax",
    "mov rax, [rsp + 16]",
    "mov [0x60010], rax",
    "inc qword ptr [0x60008]",
    "add [rsp + 16], rdi",
    "pop rax",
    "add rsp, 8",
    "iretq",
);

/// A gate to 64-bit code at `handler` (APM vol. 2, "Interrupt-Gate Descriptors").
fn gate(handler: u64) -> [u8; 16] {
    let low = handler & 0xffff | 0x10 << 16 | 0x8e << 40 | (handler >> 16 & 0xffff) << 48;
    (u128::from(low) | u128::from(handler >> 32) << 64).to_le_bytes()
}

/// RAM with `code`, everything that it needs, and handlers for vectors 0 to 0x4f. They go on RDI bytes behind where they were
/// called from.
pub(super) fn memory<V: Vendor>(context: &Context<V>, code: &[u8]) -> Result<Space<V>, Failure> {
    let space = context.ram(MEMORY)?;
    space.populate(GuestPhysAddr::new(0), MEMORY).map_err(|error| failed("populate", error))?;
    space.load(CODE, code)?;
    space.load(HANDLER, handler())?;
    space.load(HANDLER_WITH_ERROR_CODE, handler_with_error_code())?;
    space.load_identity_tables(TABLES)?;
    let handler_of = |vector| match vector {
        8 | 10..=14 | 17 | 21 => HANDLER_WITH_ERROR_CODE,
        _ => HANDLER,
    };
    let gates: Vec<u8> = (0..=LAST_VECTOR).flat_map(|vector| gate(handler_of(vector))).collect();
    space.load(IDT, &gates)?;
    // Null, null, 64-bit code, data.
    for (place, descriptor) in (0..).zip([0, 0, 0x00af_9b00_0000_ffff_u64, 0x00cf_9300_0000_ffff]) {
        space.load(GDT + 8 * place, &descriptor.to_le_bytes())?;
    }
    Ok(space)
}

/// The state in which the code begins: RDI is 0.
pub(super) fn state() -> CpuState {
    let mut state = CpuState::long_mode(CODE, TABLES);
    state.gdtr = TableRegister { base: GDT, limit: 31 };
    state.idtr = TableRegister { base: IDT, limit: (16 * (LAST_VECTOR + 1) - 1) as u16 };
    state.general.set(General::Rsp, STACK + 0x1000);
    state
}

/// Whether the vendor is AMD.
pub(super) const fn is_svm<V: Vendor>() -> bool {
    matches!(<V::Format as Format>::TABLE, TableKind::Npt)
}

/// Whether this is Bochs under SVM, which does some things as no CPU does. QEMU names itself.
pub(super) fn is_svm_of_bochs<V: Vendor>() -> bool {
    let [_, ebx, ..] = common::cpuid(0x4000_0000, 0);
    is_svm::<V>() && ebx != u32::from_le_bytes(*b"TCGT")
}

/// Enters the guest until it exits for something else than an NMI of the host's.
pub(super) fn enter<V: Vendor>(space: &Space<V>, vcpu: &mut V::Vcpu) -> Result<Exit, Failure> {
    loop {
        match space.enter(vcpu)? {
            Exit::Nmi => {}
            exit => return Ok(exit),
        }
    }
}

/// The nested page fault to which the guest has to come next.
pub(super) fn fault<V: Vendor>(space: &Space<V>, vcpu: &mut V::Vcpu) -> Result<NestedPageFault, Failure> {
    match enter(space, vcpu)? {
        Exit::NestedPageFault(fault) => Ok(fault),
        exit => Err(alloc::format!("{exit:x?} at {:#x} instead of a fault", vcpu.rip())),
    }
}

/// The HLT to which the guest has to come next; it goes on behind it.
pub(super) fn halt<V: Vendor>(space: &Space<V>, vcpu: &mut V::Vcpu) -> Result<(), Failure> {
    match enter(space, vcpu)? {
        Exit::Halt => {
            vcpu.advance();
            Ok(())
        }
        exit => Err(alloc::format!("{exit:x?} at {:#x} instead of HLT", vcpu.rip())),
    }
}
