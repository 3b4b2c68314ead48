//! From scause, stval, htval and htinst of a guest-page fault to what the guest did (RISC-V privileged manual,
//! "Guest-Page Faults", "Transformed Instruction or Pseudoinstruction for mtinst or htinst").

use crate::addr::{GuestPhysAddr, GuestVirtAddr};
use crate::device::{AccessWidth, DataAccess};
use crate::fault::{FaultCause, NestedPageFaultInfo};
use crate::flags::MappingFlags;
use thiserror::Error;

/// hstatus.SPVP.
const HSTATUS_SPVP: u64 = 1 << 8;

// Exception codes of scause.
const INSTRUCTION: u64 = 20;
const LOAD: u64 = 21;
const STORE: u64 = 23;

// htinst of an implicit access of VS-stage translation: read or write of 32 or 64 bits.
const WALK_READS: [u64; 2] = [0x2000, 0x3000];
const WALK_WRITES: [u64; 2] = [0x2020, 0x3020];

// Major opcodes, bits 6:0 of an instruction.
const LOAD_INTEGER: u64 = 0x03;
const LOAD_FLOAT: u64 = 0x07;
const STORE_INTEGER: u64 = 0x23;
const STORE_FLOAT: u64 = 0x27;
const ATOMIC: u64 = 0x2f;

/// The registers that a guest-page fault leaves behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trap {
    /// scause.
    pub scause: u64,
    /// stval: the guest virtual address.
    pub stval: u64,
    /// htval: the guest-physical address, shifted right by 2.
    pub htval: u64,
    /// htinst; where the hart leaves it 0, what [`transform`](super::transform) makes of the instruction at sepc serves
    /// as well.
    pub htinst: u64,
}

impl Trap {
    /// The load or store of an integer register that led to the trap, from the transformed instruction in htinst. `None`
    /// where there is no such instruction (htinst is 0, or about a table walk), and where it moves something else: a
    /// floating-point register, a vector, or memory atomically. None either for the later part of a misaligned access,
    /// the parts of which fault by themselves, as no device could answer it.
    #[must_use]
    pub fn data_access(&self) -> Option<DataAccess> {
        let (opcode, size) = self.transformed()?;
        let unsigned = size & 4 != 0;
        let register = match opcode {
            LOAD_INTEGER => self.htinst >> 7,
            STORE_INTEGER => self.htinst >> 20,
            _ => return None,
        };
        let register = (register & 0x1f) as u8;
        Some(DataAccess {
            width: self.width()?,
            register: (register != 0).then_some(register),
            // No store has an unsigned form.
            sign_extend: opcode == LOAD_INTEGER && !unsigned,
            sixty_four: true,
        })
    }

    /// Bytes of the instruction that led to the trap, 2 or 4, where htinst has a transformed one: how far an emulator
    /// has to move sepc.
    #[must_use]
    pub fn instruction_length(&self) -> Option<u64> {
        (self.htinst & 1 != 0).then(|| 2 + (self.htinst & 2))
    }

    /// How many bytes the access moves, where htinst has a transformed instruction, atomic or floating-point ones
    /// included.
    fn width(&self) -> Option<AccessWidth> {
        let (opcode, size) = self.transformed()?;
        let scalar = match opcode {
            LOAD_INTEGER => size < 7,
            STORE_INTEGER | ATOMIC => size < 4,
            // The sizes left are those of quadruple precision and of vectors.
            LOAD_FLOAT | STORE_FLOAT => (1..4).contains(&size),
            _ => false,
        };
        scalar.then_some(AccessWidth::from_size(size))
    }

    /// Opcode and funct3 of the transformed instruction in htinst, unless its Addr. Offset is not 0. Bit 1 is clear if the
    /// instruction is a compressed one, expanded; bit 0 is clear in everything else, which is no opcode then.
    fn transformed(&self) -> Option<(u64, u64)> {
        let htinst = self.htinst;
        (htinst >> 15 & 0x1f == 0).then_some((htinst & 0x7f | 2, htinst >> 12 & 7))
    }
}

/// The trap is something else than a guest-page fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("scause {0:#x} is no guest-page fault")]
pub struct NotAGuestPageFault(pub u64);

/// A guest-page fault; its guest-physical address may still have to be found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The guest-physical address, or `None` where htval does not hold it.
    gpa: Option<GuestPhysAddr>,
    /// The virtual address of the access.
    pub gva: GuestVirtAddr,
    /// What the guest's instruction does: `READ`, `WRITE` or `EXECUTE`.
    pub original: MappingFlags,
    /// What was refused: the same, or what the guest's table walk on its behalf did.
    pub access: MappingFlags,
    /// Whether the hart says that the walk faulted, and not the access itself.
    pub walk: bool,
    /// How many bytes the access moves, where the hart reports that.
    pub width: Option<AccessWidth>,
}

impl Fault {
    /// The complete description, if htval holds the address. `None` means: find it by a walk of the guest's tables, as
    /// [`AddrSpace::locate_fault`](crate::AddrSpace::locate_fault) does, with [`gva`](Self::gva) and
    /// [`virtual_access`](Self::virtual_access).
    #[must_use]
    pub fn info(&self) -> Option<NestedPageFaultInfo> {
        let Self { gva, access, walk, width, .. } = *self;
        let cause = FaultCause::NotPresent;
        self.gpa.map(|gpa| NestedPageFaultInfo { gpa, gva: Some(gva), access, cause, walk, width })
    }

    /// What the guest's instruction does, with `USER` if it was in user mode, by hstatus as the trap left it (SPVP, bit 8:
    /// the mode that the guest was in).
    #[must_use]
    pub fn virtual_access(&self, hstatus: u64) -> MappingFlags {
        let user = if hstatus & HSTATUS_SPVP == 0 { MappingFlags::USER } else { MappingFlags::empty() };
        self.original.union(user)
    }
}

/// What the guest did. The hardware does not tell a missing translation from a missing permission or mark: the cause is
/// always [`FaultCause::NotPresent`].
///
/// A hart may write 0 to htval instead of the address ("Guest-Page Faults"), and then nothing says whether the guest's
/// table walk faulted: address 0 itself looks the same. Values that no address gives (beyond 62 bits) are taken for 0 too.
///
/// # Errors
/// [`NotAGuestPageFault`] if the trap is another one.
pub fn decode_fault(trap: &Trap) -> Result<Fault, NotAGuestPageFault> {
    let Trap { scause, stval, htval, htinst } = *trap;
    let original = match scause {
        INSTRUCTION => MappingFlags::EXECUTE,
        LOAD => MappingFlags::READ,
        STORE => MappingFlags::WRITE,
        _ => return Err(NotAGuestPageFault(scause)),
    };
    let (walk, access) = match htinst {
        read if WALK_READS.contains(&read) => (true, MappingFlags::READ),
        write if WALK_WRITES.contains(&write) => (true, MappingFlags::WRITE),
        _ => (false, original),
    };
    // stval has the two lowest bits, but belongs to the access and not to the walk on its behalf.
    let low = if walk { 0 } else { stval & 3 };
    let known = htval != 0 && htval >> 62 == 0;
    Ok(Fault {
        gpa: known.then(|| GuestPhysAddr::new(htval << 2 | low)),
        gva: GuestVirtAddr::new(stval),
        original,
        access,
        walk,
        width: trap.width(),
    })
}
