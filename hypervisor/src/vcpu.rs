//! The shape that every virtual CPU has, whatever the ISA.
//!
//! Protocol: `new`, `setup` (or `set_root` and `set_entry`), then `bind` to the physical CPU, then `run` again and
//! again, then `unbind`; after that, `bind` and so on again. A vCPU that runs in slices may be bound to another physical CPU each time,
//! with a root that `set_root` has set anew; `set_entry` makes it begin like a new one, also if it has run before. Between `bind` and `unbind` the guest's system registers
//! are live in the CPU; `inject` and the resolution of a fault's address rely on that. What a guest does ends up in an
//! [`Exit`], never in a panic.

use crate::monitor::Command;
use alloc::string::String;
use core::fmt;
use slat::device::DataAccess;
use slat::guest::GuestPageWalkInfo;
use slat::{GuestPhysAddr, GuestVirtAddr, MappingFlags, NestedPageFaultInfo};

/// A virtual CPU.
pub trait Vcpu: Sized {
    /// What the vCPU is to be like.
    type Config;
    /// What the CPU needs to know about the second-level table: its root and its format.
    type Root;

    /// Whether it ever leaves with [`Exit::UnlocatedFault`]: where not, the walk of the guest's tables is no part of the program.
    const HIDES_ADDRESSES: bool = false;

    /// A vCPU that has not run.
    fn new(id: usize, config: Self::Config) -> Self;

    /// Where the guest begins, and the argument that its boot protocol hands over there.
    fn set_entry(&mut self, entry: GuestPhysAddr, argument: u64);

    /// The second-level table that the guest runs on.
    fn set_root(&mut self, root: Self::Root);

    /// Both at once: everything that a new vCPU needs before it is bound.
    fn setup(&mut self, root: Self::Root, entry: GuestPhysAddr, argument: u64) {
        self.set_root(root);
        self.set_entry(entry, argument);
    }

    /// Loads the vCPU's state into this physical CPU.
    fn bind(&mut self);

    /// Takes the vCPU's state out of this physical CPU. Twice is no different from once.
    fn unbind(&mut self);

    /// Runs the bound vCPU until something happens that it cannot answer by itself.
    fn run(&mut self) -> Exit;

    /// The guest's program counter.
    fn program_counter(&self) -> u64;

    /// General register `index`, or `None` if there is none.
    fn register(&self, index: usize) -> Option<u64>;

    /// Sets general register `index`, if there is one.
    fn set_register(&mut self, index: usize, value: u64);

    /// Writes the registers of the bound guest as its last exit left them, for people. The default knows the general ones by their
    /// numbers.
    ///
    /// # Errors
    /// Those of `out`.
    fn write_registers(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        writeln!(out, "pc {:#018x}", self.program_counter())?;
        let registers = (0..32).map_while(|index| Some((index, self.register(index)?)));
        registers.into_iter().try_for_each(|(index, value)| writeln!(out, "r{index} {value:#018x}"))
    }

    /// The load or store that led to the last [`Exit::NestedPageFault`], if the hardware has decoded it.
    fn data_access(&self) -> Option<DataAccess>;

    /// The guest's paging and whether it is in user mode, if the instruction of the last [`Exit::NestedPageFault`] has to be read from its memory because the
    /// hardware did not tell it: [`give_instruction`](Self::give_instruction) is called with it then. The default is for hardware that tells.
    fn wants_instruction(&self) -> Option<(GuestPageWalkInfo, bool)> {
        None
    }

    /// `bytes` begin with the instruction that led to the last [`Exit::NestedPageFault`].
    fn give_instruction(&mut self, bytes: &[u8]) {
        let _ = bytes;
    }

    /// Goes on behind the instruction that led to the last [`Exit::NestedPageFault`]: it was carried out.
    fn advance(&mut self);

    /// Waits until an interrupt for the guest is pending, whether the vCPU is bound or not.
    fn wait(&mut self);

    /// When the guest's timer will interrupt it, in the ticks of the scheduler's clock, if the hypervisor knows; `None` for never.
    /// Asked for when the guest waits, also of an unbound vCPU. The default is for guests whose timer interrupts them without the
    /// hypervisor.
    fn next_timer(&self) -> Option<u64> {
        None
    }

    /// Prints a part of the text of an [`Exit::Buffer`] that is a [`BufferCall::Console`]. The default is for vCPUs that
    /// never leave with one.
    fn write_console(&mut self, text: &[u8]) {
        let _ = text;
    }

    /// Tells the guest whether its last [`Exit::Request`] was carried out.
    fn answer_request(&mut self, done: bool);

    /// Tells the guest what came of its last [`Exit::Buffer`].
    fn answer_buffer_call(&mut self, answer: BufferAnswer);

    /// Lets the guest read the answer to its last [`Exit::Debug`]. The default is for vCPUs that never leave with one.
    fn answer_debug(&mut self, text: String) {
        let _ = text;
    }

    /// Delivers an event to the bound guest before it goes on.
    fn inject(&mut self, event: Event);
}

/// A vCPU that another one can go on as.
pub trait Replica: Vcpu {
    /// Becomes what `original` is, neither of them bound; what it shares with the other vCPUs of its guest stays its own.
    fn take_after(&mut self, original: &Self);
}

/// Why a guest stopped running.
#[derive(Debug)]
pub enum Exit {
    /// A second-level fault.
    NestedPageFault(NestedPageFaultInfo),
    /// A second-level fault whose address the CPU does not tell: to be found by a walk of the guest's tables, with its registers, for
    /// this virtual address and access.
    UnlocatedFault(GuestPageWalkInfo, GuestVirtAddr, MappingFlags),
    /// A second-level fault whose address the CPU does not tell any more: the guest has to repeat the access.
    RepeatAccess,
    /// A call to the firmware, which the vCPU has answered.
    FirmwareCall,
    /// A firmware call that asks for sleep until an interrupt, which the vCPU has answered.
    Suspend,
    /// A firmware call by which this vCPU goes off and the others go on.
    CpuOff,
    /// The guest asks for a change of the page at this address. Only offered to a guest that is to test this.
    Request(Request, GuestPhysAddr),
    /// The guest asks for something to be done with so many bytes of its memory from this address on.
    Buffer(BufferCall, GuestPhysAddr, u64),
    /// A firmware call that asks for power-off.
    PowerOff,
    /// A firmware call that asks for a reset.
    Reset,
    /// The guest has printed what ends its run.
    ConsoleShows,
    /// The guest has printed what stops it for a while.
    Paused,
    /// The guest waits for an interrupt, and none is pending where that is known.
    Wait,
    /// An exit that the vCPU has answered by itself.
    Answered,
    /// Another CPU has made this one leave the guest.
    Kicked,
    /// The vCPU's slice of time is over.
    Preempted,
    /// The guest asks, through the debug port, for a text about itself.
    Debug(Command),
    /// An instruction that the guest cannot have; it has received an exception instead.
    Refused,
    /// Something the hypervisor does not offer: one line that says what.
    Unsupported(String),
}

/// What a guest that tests the hypervisor may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Another frame with the same contents.
    Move,
    /// No permission to write any more.
    WriteProtect,
    /// The page is unmapped, and mapped anew to be populated by the next access.
    Renew,
}

/// What any guest may ask to be done with a piece of its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BufferCall {
    /// The text in it goes into the report.
    Print,
    /// The text in it goes to the console of the guest.
    Console,
    /// It is filled with a text about the run until now.
    Statistics,
}

/// What came of a [`BufferCall`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferAnswer {
    /// Bytes that were read or written, from the first one on; also if the rest could not be.
    pub done: u64,
    /// Whether that was all.
    pub status: Result<(), BufferError>,
}

/// Why a buffer could not be used from some byte on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BufferError {
    /// More bytes than one call may be about; nothing was done.
    TooLong,
    /// Nothing lies there, or the buffer wraps around.
    NoMemory,
    /// The guest itself may not read or write there.
    Denied,
    /// The registers of a device lie there.
    Device,
    /// The host has no frame left.
    OutOfFrames,
    /// The page is being replaced; to be repeated from there on.
    Busy,
}

/// What can be delivered to a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The access that led to the last [`Exit::NestedPageFault`] failed on the bus: nobody answers there.
    AccessFailed,
    /// The instruction at the program counter does not exist.
    UndefinedInstruction,
}
