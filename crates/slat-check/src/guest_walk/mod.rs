//! Walks of guests' tables, slat's beside the model's: random and hostile tables, on every format and in every paging mode.
//!
//! The guest's memory is a few pages of every kind (`tables`). Each walk is done twice over the same tables, by
//! [`AddrSpace::translate_virt`] and by a CPU of the model, and must come to the same: the address and what both stages allow;
//! or the guest's fault, register by register; or the nested fault, with its address and access; and the same marks in the
//! guest's tables. Without marks it must leave every entry alone. [`Distortion`]s are mistakes that are made on purpose.

pub mod state;
mod tables;

use crate::host::Host;
use crate::platform::Platform;
use crate::random::Random;
use crate::run::AnyPlatform;
use slat::guest::{ArmFault, GuestPageFault, GuestPageWalkInfo, GuestTranslation, GuestWalkError};
use slat::{AddrSpace, FaultCause, GuestPhysAddr, GuestVirtAddr, MappingFlags, PAGE_SIZE, TableKind};
use slat_model::{
    Access, AccessKind, Domain, Fault, FaultKind, GuestSyndrome, Instruction, Stage1, Tlbi, Translation,
    VirtualFault,
};
use state::{Distortion, State};
use tables::Memory;

/// How many walks came to what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// An address.
    pub translated: u64,
    /// The guest's fault.
    pub guest: u64,
    /// A nested fault of the walk.
    pub nested_walk: u64,
    /// A nested fault of the access.
    pub nested_final: u64,
    /// Tables in no memory.
    pub not_memory: u64,
    /// Walks that have left marks.
    pub marked: u64,
}

impl Counts {
    /// All walks.
    #[must_use]
    pub fn walks(&self) -> u64 {
        self.translated + self.guest + self.nested_walk + self.nested_final + self.not_memory
    }

    /// Adds those of another run.
    pub fn add(&mut self, other: Self) {
        self.translated += other.translated;
        self.guest += other.guest;
        self.nested_walk += other.nested_walk;
        self.nested_final += other.nested_final;
        self.not_memory += other.not_memory;
        self.marked += other.marked;
    }
}

/// Checks `walks` walks of this seed.
///
/// # Errors
/// The first one that differs, told.
pub fn run(
    platform: &AnyPlatform,
    seed: u64,
    walks: u64,
    distortion: Option<Distortion>,
) -> Result<Counts, String> {
    match platform {
        AnyPlatform::Stage2(platform) => run_on(*platform, seed, walks, distortion),
        AnyPlatform::Ept(platform) => run_on(*platform, seed, walks, distortion),
        AnyPlatform::Npt(platform) => run_on(*platform, seed, walks, distortion),
        AnyPlatform::Gstage(platform) => run_on(*platform, seed, walks, distortion),
    }
}

fn run_on<P: Platform>(
    platform: P,
    seed: u64,
    walks: u64,
    distortion: Option<Distortion>,
) -> Result<Counts, String> {
    let host = Host::new(platform, 128, 1, None, seed);
    let memory = Memory::new(&host)?;
    let root = platform.root(memory.space.root_register(), memory.space.tag());
    host.machine.borrow_mut().load_root(0, root).map_err(|invalid| invalid.to_string())?;
    let mut random = Random::new(seed);
    let mut counts = Counts::default();
    while counts.walks() < walks {
        let state = State::random(P::TABLE, &mut random);
        let gva = tables::random_address(&state, &mut random);
        let words = memory.fill(&state, gva, &mut random);
        let state = state.with_registers_of(&memory);
        for _ in 0..3 {
            let walk = Walk { gva, access: random_access(&mut random) };
            let checked = check(&host, &memory, &state, distortion, walk, &words);
            let outcome = checked.map_err(|difference| {
                format!("seed {seed}, walk {}: {walk:x?} in {state:x?}: {difference}", counts.walks())
            })?;
            counts.add(outcome);
        }
    }
    Ok(counts)
}

/// A walk to be done.
#[derive(Clone, Copy, Debug)]
struct Walk {
    gva: u64,
    access: Access,
}

fn random_access(random: &mut Random) -> Access {
    use AccessKind::{Execute, Read, ReadWrite, Write};
    let access = Access::new(random.choose(&[Read, Read, Write, Write, ReadWrite, Execute, Execute]));
    if random.one_in(2) { access.by_user() } else { access }
}

fn flags_of(kind: AccessKind) -> MappingFlags {
    match kind {
        AccessKind::Read => MappingFlags::READ,
        AccessKind::Write => MappingFlags::WRITE,
        AccessKind::ReadWrite => MappingFlags::READ | MappingFlags::WRITE,
        AccessKind::Execute => MappingFlags::EXECUTE,
    }
}

/// Does one walk both ways.
fn check<P: Platform>(
    host: &Host<P>,
    memory: &Memory<'_, P>,
    state: &State,
    distortion: Option<Distortion>,
    walk: Walk,
    words: &[(u64, u64)],
) -> Result<Counts, String> {
    let read = || words.iter().map(|&(hpa, _)| host.ram().read(hpa)).collect::<Vec<_>>();
    let restore = || words.iter().for_each(|&(hpa, value)| assert!(host.ram().write(hpa, value)));
    let mut access = flags_of(walk.access.kind);
    access.set(MappingFlags::USER, walk.access.user);
    let gva = GuestVirtAddr::new(walk.gva);

    restore();
    let before = read();
    let mut info = state.info();
    if let Some(distortion) = distortion {
        distortion.apply(&mut info);
    }
    let pure = memory.space.translate_virt(&GuestPageWalkInfo { set_marks: false, ..info }, gva, access);
    if read() != before {
        return Err("a walk that was to change nothing left marks".into());
    }
    let found = memory.space.translate_virt(&info, gva, access);
    let marks = read();
    if found.is_ok() && pure != found {
        return Err(format!("with marks {found:x?}, without {pure:x?}"));
    }

    restore();
    let expected = model(host, walk, &state.stage1());
    let outcome = compare(memory, walk, &found, &expected)?;
    // What lies in no memory, the model does not know as such.
    if outcome.not_memory == 0 && marks != read() {
        let differing = words.iter().zip(&marks).zip(read());
        let differing: Vec<_> = differing.filter(|((_, slat), model)| *slat != model).collect();
        return Err(format!("{found:x?}, but marks differ (entry, value; slat; model): {differing:x?}"));
    }
    Ok(Counts { marked: u64::from(found.is_ok() && marks != before), ..outcome })
}

/// The walk of the model, by a CPU that remembers nothing.
fn model<P: Platform>(host: &Host<P>, walk: Walk, stage1: &Stage1) -> Result<Translation, VirtualFault> {
    let mut machine = host.machine.borrow_mut();
    let dsb = Instruction::Dsb { domain: Domain::InnerShareable, access: slat_model::BarrierAccess::All };
    let alle1 = Instruction::Tlbi { operation: Tlbi::Alle1, broadcast: false, operand: 0 };
    let forget: &[Instruction] = match P::TABLE {
        TableKind::Ept => &[Instruction::Invept { kind: 2, eptp: 0 }],
        TableKind::Npt => &[Instruction::Vmrun { tlb_control: 1 }],
        TableKind::Stage2 => &[alle1, dsb],
        TableKind::Gstage => &[
            Instruction::HfenceGvma { address: None, vmid: None },
            Instruction::HfenceVvma { address: None, asid: None },
        ],
    };
    forget.iter().for_each(|&instruction| machine.execute(0, instruction));
    let result = machine.access_virtual(0, walk.gva, walk.access, stage1);
    machine.take_reports();
    result
}

fn compare<P: Platform>(
    memory: &Memory<'_, P>,
    walk: Walk,
    found: &Result<GuestTranslation, GuestWalkError>,
    expected: &Result<Translation, VirtualFault>,
) -> Result<Counts, String> {
    let none = Counts::default();
    let (same, outcome) = match (found, expected) {
        (Ok(found), Ok(expected)) => {
            let same = same_translation(&memory.space, walk, found, expected);
            (same, Counts { translated: 1, ..none })
        }
        (Err(GuestWalkError::Guest(found)), Err(VirtualFault::Guest { syndrome, .. })) => {
            (same_fault(*found, *syndrome), Counts { guest: 1, ..none })
        }
        (Err(GuestWalkError::Nested(found)), Err(VirtualFault::Second(fault))) => {
            let cause = match fault.kind {
                FaultKind::NotPresent => FaultCause::NotPresent,
                FaultKind::AddressRange => FaultCause::AddressSize,
                FaultKind::AccessFlag => FaultCause::AccessFlag,
                _ => FaultCause::Permission,
            };
            let same = found.gpa.as_u64() == fault.gpa
                && found.gva == Some(GuestVirtAddr::new(walk.gva))
                && found.cause == cause
                && found.walk == fault.access.walk
                && same_access::<P>(&memory.space, found.access, fault);
            let count =
                Counts { nested_walk: u64::from(found.walk), nested_final: u64::from(!found.walk), ..none };
            (same, count)
        }
        (Err(GuestWalkError::NotMemory { gpa, .. }), expected) => {
            let trapped = matches!(expected, Err(VirtualFault::Second(Fault { kind: FaultKind::NotPresent, gpa: at, access, .. }))
                if *at == gpa.as_u64() && access.walk && memory.is_trap(*at));
            // The model reads zeroes there.
            (trapped || memory.is_linear(gpa.as_u64()), Counts { not_memory: 1, ..none })
        }
        _ => (false, none),
    };
    if same { Ok(outcome) } else { Err(format!("slat: {found:x?}, model: {expected:x?}")) }
}

fn same_translation<P: Platform>(
    space: &AddrSpace<&Host<P>, P>,
    walk: Walk,
    found: &GuestTranslation,
    expected: &Translation,
) -> bool {
    let allowed = expected.permissions;
    // On x86, whose the page is says which of the second level's permissions counts.
    let by_page = matches!(P::TABLE, TableKind::Ept | TableKind::Npt);
    let user = if by_page { found.flags.contains(MappingFlags::USER) } else { walk.access.user };
    let execute = if user { allowed.execute_user } else { allowed.execute };
    let expected_flags = [
        (MappingFlags::READ, allowed.read),
        (MappingFlags::WRITE, allowed.write),
        (MappingFlags::EXECUTE, execute),
    ];
    let second = space.query(found.gpa).map_or(0, |mapping| mapping.size.bytes());
    found.hpa.as_u64() == expected.hpa
        && space.translate(found.gpa) == Some(found.hpa)
        && found.page_size.min(second) == expected.size
        && expected_flags.iter().all(|&(flag, allowed)| found.flags.contains(flag) == allowed)
}

fn same_fault(found: GuestPageFault, expected: GuestSyndrome) -> bool {
    match (found, expected) {
        (GuestPageFault::X86 { error_code, cr2 }, GuestSyndrome::X86 { error_code: code, cr2: address }) => {
            error_code == code && cr2.as_u64() == address
        }
        (GuestPageFault::X86NonCanonical(_), GuestSyndrome::X86NonCanonical) => true,
        (GuestPageFault::Arm(fault), GuestSyndrome::Arm { esr, far }) => {
            let ArmFault { far: address, .. } = fault;
            fault.esr() == esr && address.as_u64() == far
        }
        (GuestPageFault::Riscv { scause, stval }, GuestSyndrome::Riscv { scause: cause, stval: value }) => {
            scause == cause && stval.as_u64() == value
        }
        _ => false,
    }
}

/// Whether the nested fault names what the hardware would have to be allowed.
fn same_access<P: Platform>(space: &AddrSpace<&Host<P>, P>, found: MappingFlags, fault: &Fault) -> bool {
    let mut expected = flags_of(fault.access.kind);
    let writes = match P::TABLE {
        TableKind::Npt => true,
        TableKind::Ept => space.format().rules().marks,
        _ => false,
    };
    if fault.access.walk {
        if writes {
            expected = MappingFlags::READ | MappingFlags::WRITE;
        }
        return found == expected;
    }
    // Whose the page is, the model does not tell where Intel asks for it.
    if !matches!(P::TABLE, TableKind::Ept | TableKind::Npt) {
        expected.set(MappingFlags::USER, fault.access.user);
    }
    found & !MappingFlags::USER == expected & !MappingFlags::USER
        && (matches!(P::TABLE, TableKind::Ept | TableKind::Npt) || found == expected)
}

/// The first guest physical address of page `n` of the guest's memory.
const fn page(n: u64) -> GuestPhysAddr {
    GuestPhysAddr::new(n * PAGE_SIZE)
}
