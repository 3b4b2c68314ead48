//! Entering a guest by VMRUN, with what VMRUN itself leaves out.

#![expect(unsafe_code, reason = "runs guests")]

use crate::isa::common;
use crate::state::GeneralRegisters;
use crate::svm::TlbControl;
use slat::HostPhysAddr;

const EFER: u32 = 0xc000_0080;
const EFER_SVME: u64 = 1 << 12;
const VM_HSAVE_PA: u32 = 0xc001_0117;

/// One entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The guest's VMCB.
    pub vmcb: HostPhysAddr,
    /// A page in the layout of a VMCB where the host's half of VMSAVE waits.
    pub host: HostPhysAddr,
    /// Lets external interrupts end the guest's run whatever its RFLAGS.IF: the host's is set at the entry. They are taken by the
    /// host only when it sets its own again.
    pub take_interrupts: bool,
    /// What of the VMCB decides about translation, for whoever records entries: nCR3,
    pub root: u64,
    /// the ASID,
    pub asid: u16,
    /// and what the CPU drops.
    pub tlb_control: TlbControl,
}

/// What a vCPU needs of the CPU. [`Native`] is the CPU itself; a host that wants to see every entry, or tests, bring
/// another.
pub trait Instructions {
    /// Whether EFER.SVME of this CPU is set.
    fn is_on(&self) -> bool;

    /// VM_HSAVE_PA of this CPU, by which it can be told from all others whose SVM is on: the page belongs to it alone.
    fn save_area(&self) -> u64;

    /// Runs the guest until it exits: all its general registers but RAX and RSP, which are in the VMCB, come from `general`
    /// and go there.
    ///
    /// The global interrupt flag is clear from before the host's state is saved until it is back, so that no interrupt and no
    /// NMI meets a half of it.
    ///
    /// # Safety
    /// SVM is on on this CPU, with a host state-save area; both addresses are frames of the caller's; what the guest's
    /// VMCB says it may do, it may do; the host has an IDT that takes NMIs.
    unsafe fn enter(&self, entry: &Entry, general: &mut GeneralRegisters);
}

/// The CPU on which this runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Native;

impl Instructions for Native {
    fn is_on(&self) -> bool {
        // SAFETY: every CPU in 64-bit mode has it.
        unsafe { common::rdmsr(EFER) & EFER_SVME != 0 }
    }

    fn save_area(&self) -> u64 {
        // SAFETY: only asked on a CPU with SVM, where it exists.
        unsafe { common::rdmsr(VM_HSAVE_PA) }
    }

    unsafe fn enter(&self, entry: &Entry, general: &mut GeneralRegisters) {
        // SAFETY: the caller's promise.
        unsafe { enter(entry, general) };
    }
}

/// Where SVM is off VMRUN does not enter: the VMCB stays as it is.
#[cfg(not(all(target_arch = "x86_64", target_os = "none")))]
unsafe fn enter(_entry: &Entry, _general: &mut GeneralRegisters) {}

/// # Safety
/// As [`Instructions::enter`].
#[cfg(all(target_arch = "x86_64", target_os = "none"))]
unsafe fn enter(entry: &Entry, general: &mut GeneralRegisters) {
    // VMRUN saves and loads RAX, RSP, RIP, RFLAGS, CS, SS, DS, ES, the control registers and the tables; VMSAVE and VMLOAD do
    // FS, GS, TR, LDTR and the MSRs of SYSCALL and SYSENTER. After the exit RAX is again the VMCB's address.
    //
    // SAFETY: the caller's promise. All that the guest leaves in registers is saved or declared; RBX and RBP, which cannot
    // be, and the flags are on the stack.
    unsafe {
        core::arch::asm!(
            "push rbx",
            "push rbp",
            "pushfq",
            "push rdi",
            "push rsi",
            "clgi",
            "cli",
            "test edx, edx",
            "jz 2f",
            "sti",
            "2:",
            "mov rcx, rax",
            "mov rax, rsi",
            "vmsave rax",
            "mov rax, rcx",
            "vmload rax",
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
            "vmrun rax",
            "xchg rdi, [rsp + 8]",
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
            "mov rcx, [rsp + 8]",
            "mov [rdi + 56], rcx",
            "vmsave rax",
            "pop rax",
            "vmload rax",
            "pop rcx",
            // An interrupt that ended the run waits until the host lets it in.
            "cli",
            "stgi",
            "popfq",
            "pop rbp",
            "pop rbx",
            inout("rax") entry.vmcb.as_u64() => _,
            inout("rdx") u64::from(entry.take_interrupts) => _,
            inout("rdi") core::ptr::from_mut(general) => _,
            inout("rsi") entry.host.as_u64() => _,
            out("rcx") _,
            out("r8") _,
            out("r9") _,
            out("r10") _,
            out("r11") _,
            out("r12") _,
            out("r13") _,
            out("r14") _,
            out("r15") _,
        );
    }
}
