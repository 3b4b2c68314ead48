//! The fields of the VMCS, as types: how wide a field is and whether software may write it (SDM vol. 3D, appendix "Field
//! Encoding in VMCS").
//!
//! The encoding itself says both, in bits 14:13 and 11:10, and a constant that says otherwise does not compile. Nor does a
//! write to a field that the CPU writes:
//!
//! ```
//! use slat_x86::vmx::{Instructions, VmxError, field, write};
//! fn skip<P: Instructions>(cpu: &P) -> Result<(), VmxError> {
//!     write(cpu, field::GUEST_RIP, 0x1000)
//! }
//! ```
//!
//! ```compile_fail,E0308
//! use slat_x86::vmx::{Instructions, VmxError, field, write};
//! fn pretend<P: Instructions>(cpu: &P) -> Result<(), VmxError> {
//!     write(cpu, field::EXIT_REASON, 48)
//! }
//! ```

use super::instructions::{Instructions, VmxError};
use crate::state::SegmentName;
use core::fmt::Debug;
use core::marker::PhantomData;

mod sealed {
    pub trait Sealed {}
}

/// How wide a field is.
pub trait Width: sealed::Sealed {
    /// The type of its values.
    type Value: Copy + Debug + Into<u64>;
    /// Bits 14:13 of the encoding.
    const CODE: u32;
    /// The value in the lower bits of what VMREAD gave; above them VMREAD gives zeroes.
    fn from_u64(value: u64) -> Self::Value;
}

macro_rules! width {
    ($(#[$doc:meta])* $name:ident, $value:ty, $code:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $name;
        impl sealed::Sealed for $name {}
        impl Width for $name {
            type Value = $value;
            const CODE: u32 = $code;
            fn from_u64(value: u64) -> $value {
                value as $value
            }
        }
    };
}

width!(
    /// 16 bits.
    Bits16, u16, 0);
width!(
    /// 64 bits.
    Bits64, u64, 1);
width!(
    /// 32 bits.
    Bits32, u32, 2);
width!(
    /// As wide as a register: 64 bits on a CPU with 64-bit mode.
    Natural, u64, 3);

/// Who writes a field.
pub trait Access: sealed::Sealed {
    /// Whether only the CPU does.
    const READ_ONLY: bool;
}

/// Software may write the field.
#[derive(Clone, Copy, Debug)]
pub struct ReadWrite;
/// Only the CPU writes the field (type 1, "VM-exit information").
#[derive(Clone, Copy, Debug)]
pub struct ReadOnly;

impl sealed::Sealed for ReadWrite {}
impl sealed::Sealed for ReadOnly {}
impl Access for ReadWrite {
    const READ_ONLY: bool = false;
}
impl Access for ReadOnly {
    const READ_ONLY: bool = true;
}

/// A field of the VMCS.
#[derive(Debug)]
pub struct Field<W, A> {
    encoding: u32,
    kind: PhantomData<(W, A)>,
}

impl<W, A> Clone for Field<W, A> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<W, A> Copy for Field<W, A> {}

impl<W: Width, A: Access> Field<W, A> {
    /// The field with this encoding, of which the width and the type are those of `W` and `A`: otherwise this panics, and
    /// in a constant it does not compile.
    const fn new(encoding: u32) -> Self {
        assert!(encoding >> 13 & 3 == W::CODE, "the encoding says another width");
        assert!((encoding >> 10 & 3 == 1) == A::READ_ONLY, "the encoding says another access");
        assert!(encoding & 1 == 0, "the upper half of a field");
        Self { encoding, kind: PhantomData }
    }

    /// What VMREAD and VMWRITE call it.
    #[must_use]
    pub const fn encoding(self) -> u32 {
        self.encoding
    }
}

/// Reads a field of the current VMCS.
///
/// # Errors
/// [`VmxError`]: there is no current VMCS, or the CPU does not have the field.
pub fn read<W: Width, A: Access>(cpu: &impl Instructions, field: Field<W, A>) -> Result<W::Value, VmxError> {
    cpu.vmread(field.encoding).map(W::from_u64)
}

/// Writes a field of the current VMCS.
///
/// # Errors
/// As [`read`].
pub fn write<W: Width>(
    cpu: &impl Instructions,
    field: Field<W, ReadWrite>,
    value: W::Value,
) -> Result<(), VmxError> {
    cpu.vmwrite(field.encoding, value.into())
}

macro_rules! fields {
    ($($name:ident: $width:ident, $access:ident = $encoding:literal, $doc:literal;)*) => {
        $(
            #[doc = $doc]
            pub const $name: Field<$width, $access> = Field::new($encoding);
        )*
        /// All of them, for the tests.
        #[cfg(all(test, not(loom)))]
        pub(crate) const ALL: &[(&str, u32)] = &[$((stringify!($name), $encoding)),*];
    };
}

fields! {
    VPID: Bits16, ReadWrite = 0x0000, "Virtual-processor identifier.";
    PML_INDEX: Bits16, ReadWrite = 0x0812, "The entry of the page-modification log that is written next.";
    HOST_ES: Bits16, ReadWrite = 0x0c00, "Host ES.";
    HOST_CS: Bits16, ReadWrite = 0x0c02, "Host CS.";
    HOST_SS: Bits16, ReadWrite = 0x0c04, "Host SS.";
    HOST_DS: Bits16, ReadWrite = 0x0c06, "Host DS.";
    HOST_FS: Bits16, ReadWrite = 0x0c08, "Host FS.";
    HOST_GS: Bits16, ReadWrite = 0x0c0a, "Host GS.";
    HOST_TR: Bits16, ReadWrite = 0x0c0c, "Host TR.";
    IO_BITMAP_A: Bits64, ReadWrite = 0x2000, "Address of the bitmap of ports 0 to 7FFFH.";
    IO_BITMAP_B: Bits64, ReadWrite = 0x2002, "Address of the bitmap of ports 8000H to FFFFH.";
    MSR_BITMAP: Bits64, ReadWrite = 0x2004, "Address of the MSR bitmap.";
    PML_ADDRESS: Bits64, ReadWrite = 0x200e, "Address of the page-modification log.";
    TSC_OFFSET: Bits64, ReadWrite = 0x2010, "What is added to the time-stamp counter, where that is on.";
    EPT_POINTER: Bits64, ReadWrite = 0x201a, "EPTP.";
    XSS_EXITING_BITMAP: Bits64, ReadWrite = 0x202c, "The bits of IA32_XSS that make XSAVES exit.";
    ENCLS_EXITING_BITMAP: Bits64, ReadWrite = 0x202e, "The leaves of ENCLS that exit.";
    GUEST_PHYSICAL_ADDRESS: Bits64, ReadOnly = 0x2400, "Guest-physical address of an EPT violation or misconfiguration.";
    VMCS_LINK_POINTER: Bits64, ReadWrite = 0x2800, "All ones where no VMCS shadows this one.";
    GUEST_DEBUGCTL: Bits64, ReadWrite = 0x2802, "IA32_DEBUGCTL.";
    GUEST_PAT: Bits64, ReadWrite = 0x2804, "IA32_PAT.";
    GUEST_EFER: Bits64, ReadWrite = 0x2806, "IA32_EFER.";
    GUEST_PDPTE0: Bits64, ReadWrite = 0x280a, "First PDPTE of PAE paging.";
    GUEST_PDPTE1: Bits64, ReadWrite = 0x280c, "Second PDPTE.";
    GUEST_PDPTE2: Bits64, ReadWrite = 0x280e, "Third PDPTE.";
    GUEST_PDPTE3: Bits64, ReadWrite = 0x2810, "Fourth PDPTE.";
    HOST_PAT: Bits64, ReadWrite = 0x2c00, "Host IA32_PAT.";
    HOST_EFER: Bits64, ReadWrite = 0x2c02, "Host IA32_EFER.";
    PIN_CONTROLS: Bits32, ReadWrite = 0x4000, "Pin-based VM-execution controls.";
    PRIMARY_CONTROLS: Bits32, ReadWrite = 0x4002, "Primary processor-based VM-execution controls.";
    EXCEPTION_BITMAP: Bits32, ReadWrite = 0x4004, "The exceptions that exit.";
    PAGE_FAULT_MASK: Bits32, ReadWrite = 0x4006, "Page-fault error-code mask.";
    PAGE_FAULT_MATCH: Bits32, ReadWrite = 0x4008, "Page-fault error-code match.";
    CR3_TARGET_COUNT: Bits32, ReadWrite = 0x400a, "CR3-target count.";
    EXIT_CONTROLS: Bits32, ReadWrite = 0x400c, "Primary VM-exit controls.";
    EXIT_MSR_STORE_COUNT: Bits32, ReadWrite = 0x400e, "VM-exit MSR-store count.";
    EXIT_MSR_LOAD_COUNT: Bits32, ReadWrite = 0x4010, "VM-exit MSR-load count.";
    ENTRY_CONTROLS: Bits32, ReadWrite = 0x4012, "VM-entry controls.";
    ENTRY_MSR_LOAD_COUNT: Bits32, ReadWrite = 0x4014, "VM-entry MSR-load count.";
    ENTRY_INTERRUPTION: Bits32, ReadWrite = 0x4016, "VM-entry interruption information.";
    ENTRY_ERROR_CODE: Bits32, ReadWrite = 0x4018, "VM-entry exception error code.";
    ENTRY_INSTRUCTION_LENGTH: Bits32, ReadWrite = 0x401a, "VM-entry instruction length.";
    SECONDARY_CONTROLS: Bits32, ReadWrite = 0x401e, "Secondary processor-based VM-execution controls.";
    INSTRUCTION_ERROR: Bits32, ReadOnly = 0x4400, "VM-instruction error.";
    EXIT_REASON: Bits32, ReadOnly = 0x4402, "Exit reason.";
    EXIT_INTERRUPTION: Bits32, ReadOnly = 0x4404, "VM-exit interruption information.";
    EXIT_ERROR_CODE: Bits32, ReadOnly = 0x4406, "VM-exit interruption error code.";
    IDT_VECTORING: Bits32, ReadOnly = 0x4408, "IDT-vectoring information.";
    IDT_VECTORING_ERROR_CODE: Bits32, ReadOnly = 0x440a, "IDT-vectoring error code.";
    EXIT_INSTRUCTION_LENGTH: Bits32, ReadOnly = 0x440c, "VM-exit instruction length.";
    EXIT_INSTRUCTION_INFORMATION: Bits32, ReadOnly = 0x440e, "VM-exit instruction information.";
    GUEST_GDTR_LIMIT: Bits32, ReadWrite = 0x4810, "Limit of the guest's GDTR.";
    GUEST_IDTR_LIMIT: Bits32, ReadWrite = 0x4812, "Limit of the guest's IDTR.";
    GUEST_INTERRUPTIBILITY: Bits32, ReadWrite = 0x4824, "What keeps events from the guest.";
    GUEST_ACTIVITY: Bits32, ReadWrite = 0x4826, "Whether the guest runs, halts or waits.";
    GUEST_SYSENTER_CS: Bits32, ReadWrite = 0x482a, "IA32_SYSENTER_CS.";
    HOST_SYSENTER_CS: Bits32, ReadWrite = 0x4c00, "Host IA32_SYSENTER_CS.";
    CR0_MASK: Natural, ReadWrite = 0x6000, "The bits of CR0 that are the host's.";
    CR4_MASK: Natural, ReadWrite = 0x6002, "The bits of CR4 that are the host's.";
    CR0_SHADOW: Natural, ReadWrite = 0x6004, "What the guest reads of the host's bits in CR0.";
    CR4_SHADOW: Natural, ReadWrite = 0x6006, "What the guest reads of the host's bits in CR4.";
    EXIT_QUALIFICATION: Natural, ReadOnly = 0x6400, "Exit qualification.";
    GUEST_LINEAR_ADDRESS: Natural, ReadOnly = 0x640a, "Guest-linear address.";
    GUEST_CR0: Natural, ReadWrite = 0x6800, "CR0.";
    GUEST_CR3: Natural, ReadWrite = 0x6802, "CR3.";
    GUEST_CR4: Natural, ReadWrite = 0x6804, "CR4.";
    GUEST_GDTR_BASE: Natural, ReadWrite = 0x6816, "Base of the guest's GDTR.";
    GUEST_IDTR_BASE: Natural, ReadWrite = 0x6818, "Base of the guest's IDTR.";
    GUEST_DR7: Natural, ReadWrite = 0x681a, "DR7.";
    GUEST_RSP: Natural, ReadWrite = 0x681c, "RSP.";
    GUEST_RIP: Natural, ReadWrite = 0x681e, "RIP.";
    GUEST_RFLAGS: Natural, ReadWrite = 0x6820, "RFLAGS.";
    GUEST_PENDING_DEBUG: Natural, ReadWrite = 0x6822, "Pending debug exceptions.";
    GUEST_SYSENTER_ESP: Natural, ReadWrite = 0x6824, "IA32_SYSENTER_ESP.";
    GUEST_SYSENTER_EIP: Natural, ReadWrite = 0x6826, "IA32_SYSENTER_EIP.";
    HOST_CR0: Natural, ReadWrite = 0x6c00, "Host CR0.";
    HOST_CR3: Natural, ReadWrite = 0x6c02, "Host CR3.";
    HOST_CR4: Natural, ReadWrite = 0x6c04, "Host CR4.";
    HOST_FS_BASE: Natural, ReadWrite = 0x6c06, "Base of the host's FS.";
    HOST_GS_BASE: Natural, ReadWrite = 0x6c08, "Base of the host's GS.";
    HOST_TR_BASE: Natural, ReadWrite = 0x6c0a, "Base of the host's TR.";
    HOST_GDTR_BASE: Natural, ReadWrite = 0x6c0c, "Base of the host's GDTR.";
    HOST_IDTR_BASE: Natural, ReadWrite = 0x6c0e, "Base of the host's IDTR.";
    HOST_SYSENTER_ESP: Natural, ReadWrite = 0x6c10, "Host IA32_SYSENTER_ESP.";
    HOST_SYSENTER_EIP: Natural, ReadWrite = 0x6c12, "Host IA32_SYSENTER_EIP.";
    HOST_RSP: Natural, ReadWrite = 0x6c14, "Host RSP.";
    HOST_RIP: Natural, ReadWrite = 0x6c16, "Host RIP.";
}

/// Selector of a segment register of the guest's.
#[must_use]
pub const fn guest_selector(name: SegmentName) -> Field<Bits16, ReadWrite> {
    Field::new(0x0800 + 2 * name as u32)
}

/// Its limit.
#[must_use]
pub const fn guest_limit(name: SegmentName) -> Field<Bits32, ReadWrite> {
    Field::new(0x4800 + 2 * name as u32)
}

/// Its access rights.
#[must_use]
pub const fn guest_rights(name: SegmentName) -> Field<Bits32, ReadWrite> {
    Field::new(0x4814 + 2 * name as u32)
}

/// Its base.
#[must_use]
pub const fn guest_base(name: SegmentName) -> Field<Natural, ReadWrite> {
    Field::new(0x6806 + 2 * name as u32)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::{ALL, guest_base, guest_limit, guest_rights, guest_selector};
    use crate::state::SegmentName;

    #[test]
    fn no_two_fields_are_one() {
        let mut seen = std::collections::BTreeMap::new();
        let segments = SegmentName::ALL.into_iter().flat_map(|name| {
            [
                guest_selector(name).encoding(),
                guest_limit(name).encoding(),
                guest_rights(name).encoding(),
                guest_base(name).encoding(),
            ]
        });
        let named = ALL.iter().copied();
        for (name, encoding) in named.chain(segments.map(|encoding| ("a segment", encoding))) {
            assert_eq!(seen.insert(encoding, name), None, "{name}");
        }
    }
}
