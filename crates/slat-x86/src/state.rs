//! The registers of a guest's CPU, and the states in which one can begin.

/// General registers by their number in instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as the manuals name them")]
#[repr(u8)]
pub enum General {
    Rax,
    Rcx,
    Rdx,
    Rbx,
    Rsp,
    Rbp,
    Rsi,
    Rdi,
    R8,
    R9,
    R10,
    R11,
    R12,
    R13,
    R14,
    R15,
}

impl General {
    /// All of them; the place in this list is the number in instructions.
    pub const ALL: [Self; 16] = [
        Self::Rax,
        Self::Rcx,
        Self::Rdx,
        Self::Rbx,
        Self::Rsp,
        Self::Rbp,
        Self::Rsi,
        Self::Rdi,
        Self::R8,
        Self::R9,
        Self::R10,
        Self::R11,
        Self::R12,
        Self::R13,
        Self::R14,
        Self::R15,
    ];

    /// The register with this number, of which the four lowest bits count.
    #[must_use]
    pub const fn from_number(number: u64) -> Self {
        Self::ALL[(number & 15) as usize]
    }
}

/// The general registers, in memory in the order of [`General`]: RAX at offset 0, R15 at 120.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct GeneralRegisters {
    values: [u64; 16],
}

impl GeneralRegisters {
    /// The value of `register`.
    #[must_use]
    pub const fn get(&self, register: General) -> u64 {
        self.values[register as usize]
    }

    /// Sets `register`.
    pub const fn set(&mut self, register: General, value: u64) {
        self.values[register as usize] = value;
    }

    /// EDX:EAX as RDMSR, WRMSR, XGETBV and XSETBV use them.
    #[must_use]
    pub const fn edx_eax(&self) -> u64 {
        self.get(General::Rdx) << 32 | self.get(General::Rax) & 0xffff_ffff
    }

    /// Sets EDX:EAX; the upper halves of RDX and RAX become 0.
    pub const fn set_edx_eax(&mut self, value: u64) {
        self.set(General::Rax, value & 0xffff_ffff);
        self.set(General::Rdx, value >> 32);
    }
}

/// A segment register with its hidden part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// The visible part.
    pub selector: u16,
    /// Linear address of its first byte.
    pub base: u64,
    /// Offset of its last byte.
    pub limit: u32,
    /// Type in 3:0, S 4, DPL 6:5, P 7, AVL 12, L 13, D/B 14, G 15 as in bits 55:40 of a descriptor; 16 says that the
    /// register is unusable (Intel's own, SDM vol. 3C, "Guest Register State").
    pub rights: u32,
}

impl Segment {
    /// A null segment register.
    pub const UNUSABLE: Self = Self { selector: 0, base: 0, limit: 0, rights: 1 << 16 };

    /// A segment as real mode has it: 64 KiB from sixteen times `selector`.
    #[must_use]
    pub const fn real(selector: u16, code: bool) -> Self {
        Self { selector, base: (selector as u64) << 4, limit: 0xffff, rights: if code { 0x9b } else { 0x93 } }
    }

    /// 4 GiB from 0; 64-bit code if `long`.
    #[must_use]
    pub const fn flat(selector: u16, code: bool, long: bool) -> Self {
        let width = if code && long { 0xa000 } else { 0xc000 };
        Self { selector, base: 0, limit: 0xffff_ffff, rights: width | if code { 0x9b } else { 0x93 } }
    }
}

/// Segment registers, in the order in which the VMCS has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as the manuals name them")]
#[repr(u8)]
pub enum SegmentName {
    Es,
    Cs,
    Ss,
    Ds,
    Fs,
    Gs,
    Ldtr,
    Tr,
}

impl SegmentName {
    /// All of them.
    pub const ALL: [Self; 8] =
        [Self::Es, Self::Cs, Self::Ss, Self::Ds, Self::Fs, Self::Gs, Self::Ldtr, Self::Tr];
}

/// GDTR or IDTR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableRegister {
    /// Linear address of the table.
    pub base: u64,
    /// Offset of its last byte.
    pub limit: u16,
}

/// Everything that tells one state of a guest's CPU from another, but for floating point and MSRs of the host's policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuState {
    /// General registers.
    pub general: GeneralRegisters,
    /// Instruction pointer.
    pub rip: u64,
    /// Flags; bit 1 is always set.
    pub rflags: u64,
    /// CR0 as the guest sees it.
    pub cr0: u64,
    /// The address of the last page fault.
    pub cr2: u64,
    /// The root of the guest's own table.
    pub cr3: u64,
    /// CR4 as the guest sees it.
    pub cr4: u64,
    /// IA32_EFER as the guest sees it: SCE 0, LME 8, LMA 10, NXE 11.
    pub efer: u64,
    /// In the order of [`SegmentName`].
    pub segments: [Segment; 8],
    /// Global descriptor table.
    pub gdtr: TableRegister,
    /// Interrupt descriptor table.
    pub idtr: TableRegister,
    /// Debug control.
    pub dr7: u64,
    /// IA32_PAT.
    pub pat: u64,
}

const CR0_PE: u64 = 1 << 0;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;

impl CpuState {
    /// A CPU in real mode at `selector:offset` with everything else as after INIT (SDM vol. 3A, "Processor State After
    /// Reset"), but for caching, which is on: a start-up IPI with vector `v` begins at `v << 8 : 0`.
    #[must_use]
    pub const fn real_mode(selector: u16, offset: u16) -> Self {
        let data = Segment::real(0, false);
        Self {
            general: GeneralRegisters { values: [0; 16] },
            rip: offset as u64,
            rflags: 2,
            cr0: CR0_ET,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            efer: 0,
            segments: [
                data,
                Segment::real(selector, true),
                data,
                data,
                data,
                data,
                Segment { selector: 0, base: 0, limit: 0xffff, rights: 0x82 },
                Segment { selector: 0, base: 0, limit: 0xffff, rights: 0x8b },
            ],
            gdtr: TableRegister { base: 0, limit: 0xffff },
            idtr: TableRegister { base: 0, limit: 0x3ff },
            dr7: 0x400,
            // SDM vol. 3A, "IA32_PAT MSR": the value after reset.
            pat: 0x0007_0406_0007_0406,
        }
    }

    /// A CPU in 32-bit protected mode at `entry`, without paging, with flat segments (selectors 0x10 and 0x18) and no
    /// descriptor tables: as loaders hand over.
    #[must_use]
    pub const fn protected_mode(entry: u32) -> Self {
        let state = Self::real_mode(0, 0);
        Self {
            rip: entry as u64,
            cr0: CR0_PE | CR0_ET,
            segments: Self::flat_segments(false),
            gdtr: TableRegister { base: 0, limit: 0 },
            idtr: TableRegister { base: 0, limit: 0 },
            ..state
        }
    }

    /// A CPU in 64-bit mode at `entry`, on the tables of `cr3` (4 levels), with flat segments.
    #[must_use]
    pub const fn long_mode(entry: u64, cr3: u64) -> Self {
        let state = Self::protected_mode(0);
        Self {
            rip: entry,
            cr0: CR0_PE | CR0_ET | CR0_PG,
            cr3,
            cr4: CR4_PAE,
            efer: EFER_LME | EFER_LMA,
            segments: Self::flat_segments(true),
            ..state
        }
    }

    const fn flat_segments(long: bool) -> [Segment; 8] {
        let data = Segment::flat(0x18, false, false);
        [
            data,
            Segment::flat(0x10, true, long),
            data,
            data,
            data,
            data,
            Segment::UNUSABLE,
            Segment { selector: 0, base: 0, limit: 0xffff, rights: 0x8b },
        ]
    }

    /// One of the segment registers.
    #[must_use]
    pub const fn segment(&self, name: SegmentName) -> Segment {
        self.segments[name as usize]
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
