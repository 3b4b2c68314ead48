//! The modes in which a guest can begin.

use crate::arch::x86_64::bare::Vendor;
use crate::arch::x86_64::unit::context::Context;
use crate::arch::x86_64::unit::{Failure, UnitGuest, ensure_eq, guest_code, nothing};
use alloc::string::{String, ToString};
use slat_x86::{CpuState, Exit, General, Vcpu as _};

pub(super) fn guests<V: Vendor>() -> [UnitGuest<Context<V>>; 3] {
    [
        UnitGuest { name: "real-mode", needs: no_paging, run: real_mode },
        UnitGuest { name: "protected-mode", needs: no_paging, run: protected_mode },
        UnitGuest { name: "long-mode", needs: nothing, run: long_mode },
    ]
}

/// A guest can begin without paging.
pub(super) fn no_paging<V: Vendor>(context: &Context<V>) -> Result<(), String> {
    context.vendor.lacks_without_paging().map_or(Ok(()), |lacking| Err(lacking.to_string()))
}

guest_code!(
    store_16,
    ".code16",
    "mov ax, 0x2000",
    "mov ds, ax",
    "mov dword ptr [0x10], 0x12345678",
    "mov ebx, dword ptr [0x10]",
    "hlt",
);
guest_code!(
    store_32,
    ".code32",
    "mov dword ptr [0x20010], 0x12345678",
    "mov ebx, dword ptr [0x20010]",
    "hlt",
);
guest_code!(
    store_64,
    "mov edi, 0x20010",
    "mov rax, 0x1122334455667788",
    "mov [rdi], rax",
    "mov rbx, [rdi]",
    "hlt",
);

fn real_mode<V: Vendor>(context: &Context<V>) -> Result<(), Failure> {
    check(context, store_16(), &CpuState::real_mode(0x1000, 0), 0x1234_5678)
}

fn protected_mode<V: Vendor>(context: &Context<V>) -> Result<(), Failure> {
    check(context, store_32(), &CpuState::protected_mode(0x1_0000), 0x1234_5678)
}

fn long_mode<V: Vendor>(context: &Context<V>) -> Result<(), Failure> {
    check(context, store_64(), &CpuState::long_mode(0x1_0000, 0x3_0000), 0x1122_3344_5566_7788)
}

/// Runs code that stores `value` at 0x20010, loads it again into RBX, and halts.
fn check<V: Vendor>(context: &Context<V>, code: &[u8], state: &CpuState, value: u64) -> Result<(), Failure> {
    let space = context.ram(1 << 20)?;
    space.load(0x1_0000, code)?;
    space.load_identity_tables(0x3_0000)?;
    let mut vcpu = context.vcpu(&space, state)?;
    let exit = space.run(&mut vcpu)?;
    ensure_eq!(exit, Exit::Halt, "exit");
    ensure_eq!(vcpu.general().get(General::Rbx), value, "RBX");
    ensure_eq!(space.word(0x2_0010)?, value, "memory");
    vcpu.unbind();
    Ok(())
}
