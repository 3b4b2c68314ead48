//! The world switch: general registers, the program counter and the mode. What else a guest has stays in the hart while
//! it is bound, and the hypervisor is built without floating point.

#![expect(unsafe_code, reason = "calls the world switch, which is assembly")]

use core::arch::global_asm;
use core::mem::offset_of;

/// The guest's registers, where the assembly finds them.
#[repr(C)]
#[derive(Clone, Debug, Default)]
pub(super) struct Registers {
    /// x0 to x31; x0 is 0.
    pub(super) x: [u64; 32],
    /// sepc: the guest's program counter.
    pub(super) pc: u64,
    /// sstatus: SPP is the guest's mode, FS whether its floating-point registers are in the hart.
    pub(super) sstatus: u64,
    /// hstatus.
    pub(super) hstatus: u64,
    /// The hypervisor's stack while the guest runs.
    pub(super) host_stack: u64,
}

unsafe extern "C" {
    /// Runs the guest with `registers` until its next exit.
    fn slat_hv_enter_guest(registers: *mut Registers);
}

/// Runs the guest until its next exit; scause, stval, htval and htinst tell why.
pub(super) fn enter(registers: &mut Registers) {
    // SAFETY: the register file is exclusively borrowed for the call. The assembly keeps what the psABI wants kept.
    // The guest runs behind the G-stage, which maps nothing of the hypervisor: it cannot touch this program's memory.
    unsafe { slat_hv_enter_guest(registers) }
}

global_asm!(
    r#"
    .pushsection .text.switch, "ax"
    .macro each_register operation
    // All but x0 and x10, which holds the address of the register file.
    .irp    number, 1,2,3,4,5,6,7,8,9,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    \operation x\number, 8*\number(x10)
    .endr
    .endm

    .global slat_hv_enter_guest
slat_hv_enter_guest:
    addi    sp, sp, -128
    sd      ra, 0(sp)
    sd      s0, 8(sp)
    sd      s1, 16(sp)
    sd      s2, 24(sp)
    sd      s3, 32(sp)
    sd      s4, 40(sp)
    sd      s5, 48(sp)
    sd      s6, 56(sp)
    sd      s7, 64(sp)
    sd      s8, 72(sp)
    sd      s9, 80(sp)
    sd      s10, 88(sp)
    sd      s11, 96(sp)
    sd      gp, 104(sp)
    sd      tp, 112(sp)
    // While the guest runs sscratch is the address of its register file, and the vector that of its exits.
    csrrw   t0, sscratch, a0
    sd      t0, 120(sp)
    sd      sp, {host_stack}(a0)
    la      t0, slat_hv_guest_exit
    csrw    stvec, t0
    ld      t0, {pc}(a0)
    csrw    sepc, t0
    ld      t0, {sstatus}(a0)
    csrw    sstatus, t0
    ld      t0, {hstatus}(a0)
    csrw    hstatus, t0
    each_register ld
    ld      a0, 80(a0)
    sret

    .balign 4
slat_hv_guest_exit:
    csrrw   a0, sscratch, a0
    each_register sd
    ld      sp, {host_stack}(a0)
    // The vector of the hypervisor's own exceptions comes first: nothing before it can fail.
    ld      t1, 120(sp)
    csrrw   t0, sscratch, t1
    la      t1, slat_hv_host_trap
    csrw    stvec, t1
    sd      t0, 80(a0)
    csrr    t0, sepc
    sd      t0, {pc}(a0)
    csrr    t0, sstatus
    sd      t0, {sstatus}(a0)
    csrr    t0, hstatus
    sd      t0, {hstatus}(a0)
    ld      ra, 0(sp)
    ld      s0, 8(sp)
    ld      s1, 16(sp)
    ld      s2, 24(sp)
    ld      s3, 32(sp)
    ld      s4, 40(sp)
    ld      s5, 48(sp)
    ld      s6, 56(sp)
    ld      s7, 64(sp)
    ld      s8, 72(sp)
    ld      s9, 80(sp)
    ld      s10, 88(sp)
    ld      s11, 96(sp)
    ld      gp, 104(sp)
    ld      tp, 112(sp)
    addi    sp, sp, 128
    ret
    .popsection
"#,
    pc = const offset_of!(Registers, pc),
    sstatus = const offset_of!(Registers, sstatus),
    hstatus = const offset_of!(Registers, hstatus),
    host_stack = const offset_of!(Registers, host_stack),
);
