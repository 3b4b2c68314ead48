//! Events whose delivery meets a page that is not there, NMIs, and the windows in which a guest takes what waits.

use super::scene::{self, CODE, ERROR_CODE, HANDLED, IDT, RETURN, STACK, enter, fault, halt};
use crate::arch::x86_64::bare::Vendor;
use crate::arch::x86_64::unit::context::{Context, RAM, Space};
use crate::arch::x86_64::unit::{Failure, UnitGuest, ensure, ensure_eq, failed, guest_code, nothing};
use alloc::format;
use slat::{GuestPhysAddr, MappingFlags, PAGE_SIZE};
use slat_x86::{Event, Exit, General, Vcpu as _};

pub(super) fn guests<V: Vendor>() -> [UnitGuest<Context<V>>; 8] {
    [
        UnitGuest { name: "delivery-unmapped-idt", needs: nothing, run: |context| all(context, &KINDS, IDT) },
        UnitGuest {
            name: "delivery-unmapped-stack",
            needs: nothing,
            run: |context| all(context, &KINDS, STACK),
        },
        UnitGuest {
            name: "software-interrupt-unmapped-idt",
            needs: software_is_told,
            run: |context| all(context, &SOFTWARE, IDT),
        },
        UnitGuest {
            name: "software-interrupt-unmapped-stack",
            needs: software_is_told,
            run: |context| all(context, &SOFTWARE, STACK),
        },
        UnitGuest { name: "delivery-forgotten", needs: nothing, run: forgotten },
        UnitGuest { name: "nmi", needs: nothing, run: nmi },
        UnitGuest { name: "interrupt-window", needs: nothing, run: interrupt_window },
        UnitGuest { name: "sti-shadow", needs: nothing, run: sti_shadow },
    ]
}

/// The interrupt of these tests.
pub(super) const VECTOR: u8 = 0x41;

guest_code!(software_interrupt, "int 0x41", "hlt");
guest_code!(breakpoint, "int3", "hlt");
guest_code!(undefined, "ud2", "hlt");
// A selector behind the end of the table.
guest_code!(protection, "mov ax, 0x28", "mov ds, eax", "hlt");
guest_code!(waiting, "sti", "nop", "hlt", "nop", "hlt");

/// One kind of event.
#[derive(Clone, Copy)]
pub(super) struct Kind {
    pub(super) name: &'static str,
    pub(super) code: fn() -> &'static [u8],
    /// What the hypervisor adds, at the first HLT; the rest is the guest's own.
    pub(super) injected: Option<Event>,
    /// What is interrupted.
    pub(super) event: Event,
    /// Where the handler returns to, from the start of the code; how far it goes on.
    pub(super) at: u64,
    pub(super) skips: u64,
    pub(super) error_code: Option<u64>,
}

/// Events of instructions.
const SOFTWARE: [Kind; 2] = [
    Kind {
        name: "INT n",
        code: software_interrupt,
        injected: None,
        event: Event::SoftwareInterrupt { vector: VECTOR, length: 2 },
        at: 2,
        skips: 0,
        error_code: None,
    },
    Kind {
        name: "INT3",
        code: breakpoint,
        injected: None,
        event: Event::SoftwareException { vector: 3, length: 1 },
        at: 1,
        skips: 0,
        error_code: None,
    },
];

/// All others.
pub(super) const KINDS: [Kind; 4] = [
    Kind {
        name: "#UD",
        code: undefined,
        injected: None,
        event: Event::UNDEFINED,
        at: 0,
        skips: 2,
        error_code: None,
    },
    Kind {
        name: "#GP",
        code: protection,
        injected: None,
        event: Event::Exception { vector: 13, error_code: Some(0x28) },
        at: 4,
        skips: 2,
        error_code: Some(0x28),
    },
    Kind {
        name: "an interrupt",
        code: waiting,
        injected: Some(Event::ExternalInterrupt(VECTOR)),
        event: Event::ExternalInterrupt(VECTOR),
        at: 3,
        skips: 0,
        error_code: None,
    },
    Kind {
        name: "an NMI",
        code: waiting,
        injected: Some(Event::Nmi),
        event: Event::Nmi,
        at: 3,
        skips: 0,
        error_code: None,
    },
];

/// A guest of `kind` whose delivery will meet no page at `gpa`, and its fault. Its HLT is behind it.
pub(super) fn until_fault<V: Vendor>(
    context: &Context<V>,
    kind: &Kind,
    gpa: u64,
) -> Result<(Space<V>, V::Vcpu), Failure> {
    let mut space = scene::memory(context, (kind.code)())?;
    let mut state = scene::state();
    state.general.set(General::Rdi, kind.skips);
    let mut vcpu = context.vcpu(&space, &state)?;
    if let Some(event) = kind.injected {
        halt(&space, &mut vcpu)?;
        vcpu.inject(event).map_err(|error| failed("inject", error))?;
    }
    protect(&mut space, gpa, MappingFlags::empty())?;
    let refused = fault(&space, &mut vcpu)?;
    let access = if gpa == STACK { MappingFlags::WRITE } else { MappingFlags::READ };
    ensure_eq!(refused.info.gpa.align_down(PAGE_SIZE).as_u64(), gpa, "GPA");
    ensure_eq!(refused.info.access & (MappingFlags::READ | MappingFlags::WRITE), access, "access");
    let same = match (refused.interrupted, kind.event) {
        // QEMU calls INT3 an INT n.
        (Some(Event::SoftwareInterrupt { vector: 3, .. }), Event::SoftwareException { vector: 3, .. }) => {
            true
        }
        (interrupted, event) => interrupted == Some(event),
    };
    ensure!(same, "interrupted: {:?}", refused.interrupted);
    protect(&mut space, gpa, RAM)?;
    Ok((space, vcpu))
}

fn protect<V: Vendor>(space: &mut Space<V>, gpa: u64, flags: MappingFlags) -> Result<(), Failure> {
    space.protect(GuestPhysAddr::new(gpa), PAGE_SIZE, flags).map_err(|error| failed("protect", error))
}

fn software_is_told<V: Vendor>(_: &Context<V>) -> Result<(), Failure> {
    ensure!(!scene::is_svm_of_bochs::<V>(), "Bochs's EXITINTINFO has exceptions and injected events only");
    Ok(())
}

/// Events of these kinds, delivered through a page that is missing at first.
fn all<V: Vendor>(context: &Context<V>, kinds: &[Kind], gpa: u64) -> Result<(), Failure> {
    for kind in kinds {
        delivered(context, kind, gpa).map_err(|failure| format!("{}: {failure}", kind.name))?;
    }
    Ok(())
}

fn delivered<V: Vendor>(context: &Context<V>, kind: &Kind, gpa: u64) -> Result<(), Failure> {
    let (space, mut vcpu) = until_fault(context, kind, gpa)?;
    halt(&space, &mut vcpu)?;
    ensure_eq!(space.word(HANDLED)?, 1, "how often the handler ran");
    ensure_eq!(space.word(RETURN)?, CODE + kind.at, "where it returns to");
    if let Some(error_code) = kind.error_code {
        ensure_eq!(space.word(ERROR_CODE)?, error_code, "error code");
    }
    ensure_eq!(vcpu.general().get(General::Rsp), STACK + PAGE_SIZE, "RSP");
    vcpu.unbind();
    Ok(())
}

/// The mistake of a hypervisor that forgets what it interrupted: an interrupt that nobody ever sees. It is what the others would
/// find.
fn forgotten<V: Vendor>(context: &Context<V>) -> Result<(), Failure> {
    // Not the NMI: the guest would block NMIs for ever, and Bochs 2.7 hands that on to the next vCPU.
    let interrupts = |kind: &&Kind| matches!(kind.injected, Some(Event::ExternalInterrupt(_)));
    for kind in KINDS.iter().filter(interrupts) {
        let (space, mut vcpu) = until_fault(context, kind, IDT)?;
        ensure_eq!(vcpu.take_interrupted(), Some(kind.event), "what was interrupted");
        halt(&space, &mut vcpu)?;
        ensure_eq!(space.word(HANDLED)?, 0, "how often the handler ran");
        vcpu.unbind();
    }
    Ok(())
}

guest_code!(counting, "hlt", "inc rbx", "inc rbx", "hlt");
// Halts in the handler of the NMI, too.
guest_code!(halting_handler, "inc qword ptr [0x60008]", "hlt", "iretq");

/// An NMI in a guest that takes no interrupts; a second one, while the handler of the first runs, waits for its IRET.
fn nmi<V: Vendor>(context: &Context<V>) -> Result<(), Failure> {
    const OWN_HANDLER: u64 = 0x2_1000;
    let space = scene::memory(context, counting())?;
    space.load(OWN_HANDLER, halting_handler())?;
    // The low half of the gate's offset is all that differs.
    space.load(IDT + 2 * 16, &(OWN_HANDLER as u16).to_le_bytes())?;
    let mut vcpu = context.vcpu(&space, &scene::state())?;
    halt(&space, &mut vcpu)?;
    ensure!(!vcpu.takes_interrupts(), "RFLAGS.IF is clear");
    vcpu.inject(Event::Nmi).map_err(|error| failed("inject", error))?;
    halt(&space, &mut vcpu)?;
    ensure!(space.word(HANDLED)? == 1, "the guest is at {:#x}, not in the handler", vcpu.rip());
    ensure_eq!(vcpu.general().get(General::Rbx), 0, "the code behind the first HLT");
    vcpu.inject(Event::Nmi).map_err(|error| failed("inject", error))?;
    halt(&space, &mut vcpu)?;
    ensure_eq!(space.word(HANDLED)?, 2, "how often the handler ran");
    ensure_eq!(vcpu.general().get(General::Rbx), 0, "the code between the NMIs");
    ensure_eq!(vcpu.general().get(General::Rsp), STACK + PAGE_SIZE - 40, "the second one is not nested");
    // Nobody waits, but the hypervisor wants to know.
    vcpu.set_nmi_window(true);
    ensure_eq!(enter(&space, &mut vcpu)?, Exit::NmiWindow, "exit");
    ensure_eq!(vcpu.rip(), CODE + 1, "where the guest takes NMIs again");
    vcpu.set_nmi_window(false);
    halt(&space, &mut vcpu)?;
    ensure_eq!(vcpu.general().get(General::Rbx), 2, "the code behind the NMIs");
    ensure_eq!(space.word(HANDLED)?, 2, "how often the handler ran");
    vcpu.unbind();
    Ok(())
}

guest_code!(
    opening,
    "inc rbx",
    "sti",
    "nop",
    "2:",
    "inc rbx",
    "pause",
    "cmp qword ptr [0x60008], 0",
    "je 2b",
    "cli",
    "hlt"
);

/// An interrupt waits until the guest sets RFLAGS.IF.
fn interrupt_window<V: Vendor>(context: &Context<V>) -> Result<(), Failure> {
    let space = scene::memory(context, opening())?;
    let mut vcpu = context.vcpu(&space, &scene::state())?;
    ensure!(!vcpu.takes_interrupts(), "RFLAGS.IF is clear");
    let refused = vcpu.inject(Event::ExternalInterrupt(VECTOR));
    ensure!(refused.is_err(), "an interrupt was taken for a guest that takes none");
    vcpu.set_interrupt_window(true);
    ensure_eq!(enter(&space, &mut vcpu)?, Exit::InterruptWindow, "exit");
    ensure!(vcpu.takes_interrupts(), "the window is no window");
    ensure_eq!(vcpu.rip(), CODE + 5, "where it opens: behind STI and the instruction after it");
    vcpu.set_interrupt_window(false);
    vcpu.inject(Event::ExternalInterrupt(VECTOR)).map_err(|error| failed("inject", error))?;
    halt(&space, &mut vcpu)?;
    ensure_eq!(space.word(HANDLED)?, 1, "how often the handler ran");
    ensure_eq!(space.word(RETURN)?, CODE + 5, "where it returns to");
    vcpu.unbind();
    Ok(())
}

guest_code!(shadow, "sti", "hlt", "nop", "hlt");

/// Going on behind an instruction ends the shadow of STI.
fn sti_shadow<V: Vendor>(context: &Context<V>) -> Result<(), Failure> {
    let space = scene::memory(context, shadow())?;
    let mut vcpu = context.vcpu(&space, &scene::state())?;
    ensure_eq!(enter(&space, &mut vcpu)?, Exit::Halt, "exit");
    ensure_eq!(vcpu.takes_interrupts(), false, "in the shadow");
    vcpu.advance();
    ensure_eq!(vcpu.takes_interrupts(), true, "behind it");
    vcpu.inject(Event::ExternalInterrupt(VECTOR)).map_err(|error| failed("inject", error))?;
    halt(&space, &mut vcpu)?;
    ensure_eq!(space.word(RETURN)?, CODE + 2, "where the handler returns to");
    vcpu.unbind();
    Ok(())
}
