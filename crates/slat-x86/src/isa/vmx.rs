//! The instructions of VMX. Each takes the flags that say whether it failed in its own assembly block, before anything can
//! change them.

#![expect(unsafe_code, reason = "executes the instructions of VMX")]

use super::common;
use crate::state::GeneralRegisters;
use crate::vmx::{HostRegisters, Instructions, InveptType, InvvpidType, Processor, VmxError, field};
use core::arch::asm;
use slat::HostPhysAddr;

/// Bits of [`outcome`]'s argument: VMfailInvalid and VMfailValid.
const CARRY: u8 = 1;

/// What CF and ZF after an instruction mean.
fn outcome(carry: u8, zero: u8) -> Result<(), VmxError> {
    match (carry, zero) {
        (0, 0) => Ok(()),
        (CARRY, _) => Err(VmxError::Invalid),
        _ => Err(VmxError::Valid(instruction_error())),
    }
}

/// The VM-instruction error of the current VMCS. If even that cannot be read there is none: 0.
fn instruction_error() -> u32 {
    let value: u64;
    let carry: u8;
    let zero: u8;
    // SAFETY: reads a field; only called after a VMX instruction was executed, so VMX is on.
    unsafe {
        asm!("vmread {value}, {field}", "setc {carry}", "setz {zero}", value = out(reg) value,
            field = in(reg) u64::from(field::INSTRUCTION_ERROR.encoding()),
            carry = lateout(reg_byte) carry, zero = lateout(reg_byte) zero, options(nostack));
    }
    if carry | zero == 0 { value as u32 } else { 0 }
}

/// An instruction with a 64-bit operand in memory.
macro_rules! with_pointer {
    ($instruction:literal, $value:expr) => {{
        let value: u64 = $value;
        let carry: u8;
        let zero: u8;
        asm!(concat!($instruction, " [{value}]"), "setc {carry}", "setz {zero}", value = in(reg) &value,
            carry = lateout(reg_byte) carry, zero = lateout(reg_byte) zero, options(nostack));
        outcome(carry, zero)
    }};
}

// SAFETY: each function executes the instruction of its name on the CPU at hand.
unsafe impl Instructions for Processor {
    fn rdmsr(&self, index: u32) -> u64 {
        // SAFETY: the caller knows by other registers that the CPU has this one.
        unsafe { common::rdmsr(index) }
    }

    unsafe fn wrmsr(&self, index: u32, value: u64) {
        // SAFETY: the same contract.
        unsafe { common::wrmsr(index, value) };
    }

    fn cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        common::cpuid(leaf, subleaf)
    }

    fn cr0(&self) -> u64 {
        common::read_cr0()
    }

    fn cr4(&self) -> u64 {
        common::read_cr4()
    }

    unsafe fn set_cr0_cr4(&self, cr0: u64, cr4: u64) {
        // SAFETY: the caller's promise.
        unsafe { common::write_cr0(cr0) };
        // SAFETY: likewise.
        unsafe { common::write_cr4(cr4) };
    }

    fn host_registers(&self) -> HostRegisters {
        host_registers()
    }

    unsafe fn vmxon(&self, region: HostPhysAddr) -> Result<(), VmxError> {
        // SAFETY: the caller's promise.
        unsafe { with_pointer!("vmxon", region.as_u64()) }
    }

    unsafe fn vmxoff(&self) -> Result<(), VmxError> {
        let carry: u8;
        let zero: u8;
        // SAFETY: the caller's promise.
        unsafe {
            asm!("vmxoff", "setc {carry}", "setz {zero}", carry = lateout(reg_byte) carry,
                zero = lateout(reg_byte) zero, options(nostack));
        }
        outcome(carry, zero)
    }

    unsafe fn vmclear(&self, vmcs: HostPhysAddr) -> Result<(), VmxError> {
        // SAFETY: the caller's promise.
        unsafe { with_pointer!("vmclear", vmcs.as_u64()) }
    }

    unsafe fn vmptrld(&self, vmcs: HostPhysAddr) -> Result<(), VmxError> {
        // SAFETY: the caller's promise.
        unsafe { with_pointer!("vmptrld", vmcs.as_u64()) }
    }

    fn vmptrst(&self) -> u64 {
        let mut value: u64 = u64::MAX;
        // SAFETY: VMX is on; the operand is writable memory of the right size.
        unsafe { asm!("vmptrst [{}]", in(reg) &raw mut value, options(nostack)) };
        value
    }

    fn vmread(&self, encoding: u32) -> Result<u64, VmxError> {
        let value: u64;
        let carry: u8;
        let zero: u8;
        // SAFETY: VMX is on; reading changes nothing.
        unsafe {
            asm!("vmread {value}, {field}", "setc {carry}", "setz {zero}", value = out(reg) value,
                field = in(reg) u64::from(encoding),
                carry = lateout(reg_byte) carry, zero = lateout(reg_byte) zero, options(nostack));
        }
        outcome(carry, zero).map(|()| value)
    }

    fn vmwrite(&self, encoding: u32, value: u64) -> Result<(), VmxError> {
        let carry: u8;
        let zero: u8;
        // SAFETY: VMX is on; the field belongs to the vCPU at hand, which sees to it that what an entry does with it is
        // what the contract of `enter` says.
        unsafe {
            asm!("vmwrite {field}, {value}", "setc {carry}", "setz {zero}", value = in(reg) value,
                field = in(reg) u64::from(encoding),
                carry = lateout(reg_byte) carry, zero = lateout(reg_byte) zero, options(nostack));
        }
        outcome(carry, zero)
    }

    fn end_nmi(&self) {
        // SAFETY: IRET to the next instruction, with the same stack, segments and flags; what it pushes lies above the
        // stack pointer that it restores.
        unsafe {
            asm!(
                "mov {stack}, rsp",
                "mov {scratch:e}, ss",
                "push {scratch}",
                "push {stack}",
                "pushfq",
                "mov {scratch:e}, cs",
                "push {scratch}",
                "lea {scratch}, [rip + 2f]",
                "push {scratch}",
                "iretq",
                "2:",
                stack = out(reg) _, scratch = out(reg) _,
            );
        }
    }

    fn invept(&self, kind: InveptType) -> Result<(), VmxError> {
        let pointer = match kind {
            InveptType::SingleContext(eptp) => Some(eptp),
            InveptType::AllContexts => None,
        };
        // slat takes the flags in the same assembly block, and does not say which of the two it was.
        slat::isa::x86_64::invept(pointer).map_err(|_| match instruction_error() {
            0 => VmxError::Invalid,
            number => VmxError::Valid(number),
        })
    }

    fn invvpid(&self, kind: InvvpidType) -> Result<(), VmxError> {
        let (kind, descriptor): (u64, [u64; 2]) = match kind {
            InvvpidType::Address(vpid, address) => (0, [vpid.into(), address]),
            InvvpidType::SingleContext(vpid) => (1, [vpid.into(), 0]),
            InvvpidType::AllContexts => (2, [0, 0]),
            InvvpidType::SingleContextRetainingGlobals(vpid) => (3, [vpid.into(), 0]),
        };
        let carry: u8;
        let zero: u8;
        // SAFETY: forgetting translations is always allowed; the descriptor is readable memory of the right size.
        unsafe {
            asm!("invvpid {kind}, [{descriptor}]", "setc {carry}", "setz {zero}", kind = in(reg) kind,
                descriptor = in(reg) &descriptor, carry = lateout(reg_byte) carry,
                zero = lateout(reg_byte) zero, options(nostack));
        }
        outcome(carry, zero)
    }

    unsafe fn enter(
        &self,
        general: &mut GeneralRegisters,
        cr2: &mut u64,
        launched: bool,
    ) -> Result<(), VmxError> {
        if common::read_cr2() != *cr2 {
            // SAFETY: the host reads CR2 only in its handler of page faults, right after one.
            unsafe { common::write_cr2(*cr2) };
        }
        let (carry, zero): (u8, u8);
        // SAFETY: the caller's promise. All registers that the guest changes are named or saved on the stack; the exit
        // lands at label 3 with the stack pointer that is written to the VMCS here. Interrupts and the direction flag are
        // clear behind it.
        unsafe {
            asm!(
                "push rbx",
                "push rbp",
                "push rdi",
                "mov eax, {host_rsp}",
                "vmwrite rax, rsp",
                "jbe 4f",
                "lea rcx, [rip + 3f]",
                "mov eax, {host_rip}",
                "vmwrite rax, rcx",
                "jbe 4f",
                // MOV leaves the flags alone.
                "test sil, sil",
                "mov rax, [rdi]",
                "mov rcx, [rdi + 8]",
                "mov rdx, [rdi + 16]",
                "mov rbx, [rdi + 24]",
                "mov rbp, [rdi + 40]",
                "mov rsi, [rdi + 48]",
                "mov r8, [rdi + 64]",
                "mov r9, [rdi + 72]",
                "mov r10, [rdi + 80]",
                "mov r11, [rdi + 88]",
                "mov r12, [rdi + 96]",
                "mov r13, [rdi + 104]",
                "mov r14, [rdi + 112]",
                "mov r15, [rdi + 120]",
                "mov rdi, [rdi + 56]",
                "jnz 2f",
                "vmlaunch",
                "jmp 4f",
                "2:",
                "vmresume",
                "4:",
                "setc al",
                "setz dl",
                "pop rdi",
                "jmp 5f",
                "3:",
                "push rdi",
                "mov rdi, [rsp + 8]",
                "mov [rdi], rax",
                "mov [rdi + 8], rcx",
                "mov [rdi + 16], rdx",
                "mov [rdi + 24], rbx",
                "mov [rdi + 40], rbp",
                "mov [rdi + 48], rsi",
                "mov [rdi + 64], r8",
                "mov [rdi + 72], r9",
                "mov [rdi + 80], r10",
                "mov [rdi + 88], r11",
                "mov [rdi + 96], r12",
                "mov [rdi + 104], r13",
                "mov [rdi + 112], r14",
                "mov [rdi + 120], r15",
                "pop rax",
                "mov [rdi + 56], rax",
                "pop rdi",
                "xor eax, eax",
                "xor edx, edx",
                "5:",
                "pop rbp",
                "pop rbx",
                host_rsp = const field::HOST_RSP.encoding(),
                host_rip = const field::HOST_RIP.encoding(),
                inout("rdi") core::ptr::from_mut(general) => _,
                inout("rsi") u64::from(launched) => _,
                out("al") carry, out("dl") zero, out("rcx") _,
                out("r8") _, out("r9") _, out("r10") _, out("r11") _,
                out("r12") _, out("r13") _, out("r14") _, out("r15") _,
            );
        }
        outcome(carry, zero)?;
        *cr2 = common::read_cr2();
        Ok(())
    }
}

/// GDTR or IDTR in memory.
#[repr(C, packed)]
#[derive(Default)]
struct Pseudo {
    limit: u16,
    base: u64,
}

fn host_registers() -> HostRegisters {
    const IA32_SYSENTER_CS: u32 = 0x174;
    const IA32_SYSENTER_ESP: u32 = 0x175;
    const IA32_SYSENTER_EIP: u32 = 0x176;
    const IA32_PAT: u32 = 0x277;
    const IA32_EFER: u32 = 0xc000_0080;
    const IA32_FS_BASE: u32 = 0xc000_0100;
    const IA32_GS_BASE: u32 = 0xc000_0101;
    // SAFETY: every CPU with VMX in 64-bit mode has these.
    let msr = |index| unsafe { common::rdmsr(index) };
    let (mut gdtr, mut idtr) = (Pseudo::default(), Pseudo::default());
    let mut selectors = [0u16; 7];
    let [es, cs, ss, ds, fs, gs, tr] = &mut selectors;
    // SAFETY: stores registers to memory that is large enough.
    unsafe {
        asm!(
            "sgdt [{gdtr}]",
            "sidt [{idtr}]",
            "mov {es:x}, es",
            "mov {cs:x}, cs",
            "mov {ss:x}, ss",
            "mov {ds:x}, ds",
            "mov {fs:x}, fs",
            "mov {gs:x}, gs",
            "str {tr:x}",
            gdtr = in(reg) &raw mut gdtr, idtr = in(reg) &raw mut idtr,
            es = out(reg) *es, cs = out(reg) *cs, ss = out(reg) *ss, ds = out(reg) *ds, fs = out(reg) *fs,
            gs = out(reg) *gs, tr = out(reg) *tr, options(nostack, preserves_flags),
        );
    }
    // An exit loads null for selectors with these bits in use: they must be clear (SDM vol. 3C, "Checks on Host Segment
    // and Descriptor-Table Registers").
    let selectors = selectors.map(|selector| selector & !7);
    let descriptor = gdtr.base.wrapping_add(u64::from(selectors[6]));
    // SAFETY: TR was loaded from this descriptor, so it lies in the table; in 64-bit mode it has 16 bytes.
    let [low, high] =
        unsafe { core::ptr::with_exposed_provenance::<[u64; 2]>(descriptor as usize).read_unaligned() };
    let tr_base = low >> 16 & 0xff_ffff | low >> 56 << 24 | high << 32;
    HostRegisters {
        cr0: common::read_cr0(),
        cr3: common::read_cr3(),
        cr4: common::read_cr4(),
        selectors,
        fs_base: msr(IA32_FS_BASE),
        gs_base: msr(IA32_GS_BASE),
        tr_base,
        gdtr_base: gdtr.base,
        idtr_base: idtr.base,
        sysenter_cs: msr(IA32_SYSENTER_CS) as u32,
        sysenter_esp: msr(IA32_SYSENTER_ESP),
        sysenter_eip: msr(IA32_SYSENTER_EIP),
        pat: msr(IA32_PAT),
        efer: msr(IA32_EFER),
    }
}
