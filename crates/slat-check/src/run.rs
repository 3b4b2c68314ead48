//! Runs sequences from beginning to end, on any of the four formats.

use crate::checks::{Check, Violation};
use crate::driver::{Driver, Settings};
use crate::host::Host;
use crate::mistakes::{Mistake, Mistaken};
use crate::operation::{self, Command, Operation};
use crate::platform::Platform;
use crate::random::Random;
use crate::shape::{Shape, Span};
use crate::specification::{Architecture, Rules};
use slat::format::Format;
use slat::format::ept::{self, Ept};
use slat::format::gstage::{self, Gstage};
use slat::format::npt::{self, Npt};
use slat::format::stage2::{Features, Stage2};
use slat::{LeafSize, MappingFlags};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Any of the four formats.
#[derive(Clone, Copy, Debug)]
pub enum AnyPlatform {
    /// Arm.
    Stage2(Stage2),
    /// Intel.
    Ept(Ept),
    /// AMD.
    Npt(Npt),
    /// RISC-V.
    Gstage(Gstage),
}

/// What was done and found in order.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Operations.
    pub operations: u64,
    /// Stores to tables.
    pub stores: u64,
    /// Pages looked at on a CPU after a store.
    pub looks: u64,
}

impl Counts {
    /// Adds those of another run.
    pub fn add(&mut self, other: Self) {
        self.operations += other.operations;
        self.stores += other.stores;
        self.looks += other.looks;
    }
}

/// Where and how a sequence failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The commands up to the one that failed (all of them if it was the end).
    pub commands: Vec<Command>,
    /// The violation.
    pub violation: Violation,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.violation)?;
        self.commands.iter().try_for_each(|command| writeln!(f, "  {command:?}"))
    }
}

impl AnyPlatform {
    /// What it can express.
    #[must_use]
    pub fn rules(&self) -> Rules {
        match self {
            Self::Stage2(format) => format.rules(),
            Self::Ept(format) => format.rules(),
            Self::Npt(format) => format.rules(),
            Self::Gstage(format) => format.rules(),
        }
    }

    /// The architecture.
    #[must_use]
    pub fn architecture(&self) -> Architecture {
        self.rules().architecture
    }

    /// Bits of a guest-physical address.
    #[must_use]
    pub fn gpa_bits(&self) -> u32 {
        match self {
            Self::Stage2(format) => format.geometry().gpa_bits,
            Self::Ept(format) => format.geometry().gpa_bits,
            Self::Npt(format) => format.geometry().gpa_bits,
            Self::Gstage(format) => format.geometry().gpa_bits,
        }
    }

    /// The largest leaf.
    fn largest_leaf(&self) -> slat::LeafSize {
        match self {
            Self::Stage2(format) => format.largest_leaf(),
            Self::Ept(format) => format.largest_leaf(),
            Self::Npt(format) => format.largest_leaf(),
            Self::Gstage(format) => format.largest_leaf(),
        }
    }

    /// Whether sixteen leaves can be one of 64 KiB.
    fn makes_groups(&self) -> bool {
        matches!(self, Self::Gstage(format) if format.group_bit() != 0)
    }

    /// Runs commands with all checks, with or without a mistake.
    ///
    /// # Errors
    /// The first violation, with the commands that led to it.
    pub fn run(
        &self,
        shape: &Shape,
        settings: Settings,
        mistake: Option<Mistake>,
        commands: &[Command],
    ) -> Result<Counts, Box<Failure>> {
        match (self, mistake) {
            (Self::Stage2(inner), None) => run(*inner, shape, settings, None, commands),
            (Self::Ept(inner), None) => run(*inner, shape, settings, None, commands),
            (Self::Npt(inner), None) => run(*inner, shape, settings, None, commands),
            (Self::Gstage(inner), None) => run(*inner, shape, settings, None, commands),
            (Self::Stage2(inner), Some(mistake)) => {
                run(Mistaken { inner: *inner, mistake }, shape, settings, Some(mistake), commands)
            }
            (Self::Ept(inner), Some(mistake)) => {
                run(Mistaken { inner: *inner, mistake }, shape, settings, Some(mistake), commands)
            }
            (Self::Npt(inner), Some(mistake)) => {
                run(Mistaken { inner: *inner, mistake }, shape, settings, Some(mistake), commands)
            }
            (Self::Gstage(inner), Some(mistake)) => {
                run(Mistaken { inner: *inner, mistake }, shape, settings, Some(mistake), commands)
            }
        }
    }
}

fn run<P: Platform>(
    platform: P,
    shape: &Shape,
    settings: Settings,
    mistake: Option<Mistake>,
    commands: &[Command],
) -> Result<Counts, Box<Failure>> {
    let host = Host::new(platform, shape.frames, settings.cpus, mistake, settings.seed);
    let fail =
        |count: usize, violation| Err(Box::new(Failure { commands: commands[..count].to_vec(), violation }));
    let panicked = |panic: Box<dyn std::any::Any + Send>| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
        // What was seen before the panic tells more.
        host.violation().unwrap_or_else(|| Violation::new(Check::Panic, text.unwrap_or_default()))
    };
    let made = catch_unwind(AssertUnwindSafe(|| Driver::new(&host, shape.clone(), settings)));
    let mut driver = match made.unwrap_or_else(|panic| Err(panicked(panic))) {
        Ok(driver) => driver,
        Err(violation) => return fail(0, violation),
    };
    for (index, command) in commands.iter().enumerate() {
        let applied = catch_unwind(AssertUnwindSafe(|| driver.apply(command)));
        if let Err(violation) = applied.unwrap_or_else(|panic| Err(panicked(panic))) {
            // Nobody knows what a space in which something is wrong would do when it is dropped.
            std::mem::forget(driver);
            return fail(index + 1, violation);
        }
    }
    let finished = catch_unwind(AssertUnwindSafe(|| driver.finish()));
    if let Err(violation) = finished.unwrap_or_else(|panic| Err(panicked(panic))) {
        return fail(commands.len(), violation);
    }
    let (stores, looks) = host.counts();
    Ok(Counts { operations: commands.len() as u64, stores, looks })
}

/// All formats in all their sizes, with and without what is optional, by name.
#[must_use]
pub fn platforms() -> Vec<(&'static str, AnyPlatform)> {
    let stage2 = |gpa_bits, features| {
        AnyPlatform::Stage2(Stage2::new(features, Some(gpa_bits)).expect("a width that exists"))
    };
    let arm = Features { pa_bits: 48, vmid_bits: 16, ..Features::BASELINE };
    let ept = |levels, mode_based_execute, accessed_dirty, more: u64| {
        let ept_vpid_cap = 1 << 6 | 1 << 7 | 1 << 14 | 1 << 20 | 1 << 21 | 1 << 25 | 1 << 26 | more;
        let capabilities =
            ept::Capabilities { ept_vpid_cap, physical_bits: 46, mode_based_execute, accessed_dirty };
        AnyPlatform::Ept(Ept::new(capabilities, levels).expect("offered"))
    };
    let large = 1 << 16 | 1 << 17;
    let npt = |levels, leaf_1g, accessed_dirty| {
        let capabilities =
            npt::Capabilities { physical_bits: 48, leaf_1g, no_execute: true, asids: 64, accessed_dirty };
        AnyPlatform::Npt(Npt::new(capabilities, levels).expect("in range"))
    };
    let hart =
        gstage::Capabilities { modes: gstage::Modes::all(), vmid_bits: 14, ..gstage::Capabilities::BASELINE };
    let gstage = |mode, capabilities| AnyPlatform::Gstage(Gstage::new(mode, capabilities).expect("offered"));
    use gstage::{Extensions, Mode};
    vec![
        ("stage2-2-levels", stage2(34, arm)),
        ("stage2-3-levels", stage2(39, Features { xnx: true, ..arm })),
        ("stage2-concatenated", stage2(40, Features { fwb: true, range_tlbi: true, ..arm })),
        ("stage2-4-levels", stage2(48, Features { fwb: true, xnx: true, idc: true, dic: true, ..arm })),
        ("ept-4-levels", ept(4, false, false, large)),
        ("ept-5-levels-marks", ept(5, false, true, large | 1)),
        ("ept-4-levels-mbec", ept(4, true, true, 1 << 16)),
        ("ept-small", ept(4, false, false, 0)),
        ("npt-4-levels", npt(4, false, false)),
        ("npt-4-levels-marks", npt(4, true, true)),
        ("npt-5-levels", npt(5, true, false)),
        ("gstage-sv39x4", gstage(Mode::Sv39x4, hart)),
        (
            "gstage-sv39x4-eager-svinval",
            gstage(
                Mode::Sv39x4,
                gstage::Capabilities { fence_new_entries: true, extensions: Extensions::SVINVAL, ..hart },
            ),
        ),
        (
            "gstage-sv39x4-marks-by-fault",
            gstage(Mode::Sv39x4, gstage::Capabilities { accessed_dirty: true, ..hart }),
        ),
        (
            "gstage-sv48x4",
            gstage(Mode::Sv48x4, gstage::Capabilities { extensions: Extensions::SVPBMT, ..hart }),
        ),
        (
            "gstage-sv57x4-marks",
            gstage(
                Mode::Sv57x4,
                gstage::Capabilities { accessed_dirty: true, extensions: Extensions::all(), ..hart },
            ),
        ),
        (
            "gstage-sv39x4-napot",
            gstage(
                Mode::Sv39x4,
                gstage::Capabilities { napot_leaves: true, extensions: Extensions::SVNAPOT, ..hart },
            ),
        ),
        (
            "gstage-sv48x4-napot-marks",
            gstage(
                Mode::Sv48x4,
                gstage::Capabilities {
                    accessed_dirty: true,
                    napot_leaves: true,
                    extensions: Extensions::all(),
                    ..hart
                },
            ),
        ),
    ]
}

/// The edges of tables around which operations fall on this format.
#[must_use]
pub fn edges(platform: &AnyPlatform) -> Vec<u64> {
    let mut edges = vec![(1 << 30) + (2 << 20), 1 << 30];
    if platform.gpa_bits() >= 40 {
        edges.push(1 << 39);
    }
    edges
}

/// A shape of random kind: mostly single pages, which are the fastest to check.
#[must_use]
pub fn random_shape(platform: &AnyPlatform, random: &mut Random) -> Shape {
    let edge = random.choose(&edges(platform));
    // The walker of the model looks at all of a root, and the largest one belongs to the fewest levels.
    let rare = if platform.gpa_bits() < 39 { 400 } else { 100 };
    match random.below(rare) {
        0 => Shape::blocks(edge),
        // A gigabyte of small pages takes a quarter of a million stores each time: that only costs time.
        1 if platform.largest_leaf() > slat::LeafSize::Size4K => Shape::gigabyte(edge & !((1 << 30) - 1)),
        1..4 => Shape::one_block(edge),
        // Where there are leaves of 64 KiB, that is what to look at.
        _ if platform.makes_groups() => Shape::groups(edge),
        other if other % 5 == 0 => Shape::three_pages(edge),
        _ => Shape::pages(edge),
    }
}

/// A random sequence, where it falls and how it is run.
#[derive(Clone, Debug)]
pub struct Case {
    /// Where operations fall.
    pub shape: Shape,
    /// How it is run.
    pub settings: Settings,
    /// The operations.
    pub commands: Vec<Command>,
}

/// The random sequence of `length` operations of this seed.
#[must_use]
pub fn random_case(platform: &AnyPlatform, seed: u64, length: usize) -> Case {
    let mut random = Random::new(seed);
    let shape = random_shape(platform, &mut random);
    let settings = Settings {
        cpus: random.choose(&[1, 2, 2, 4]),
        spaces: random.choose(&[1, 1, 2, 2, 3]),
        failing: random.one_in(5),
        seed,
    };
    // Where there are large leaves, one operation costs as much as a hundred on single pages.
    let length = if shape.complete { length } else { length / 4 };
    let mut commands: Vec<Command> = (0..length).map(|_| operation::random(&mut random)).collect();
    // As guests mostly begin: all of their memory in one region, to come with the first access.
    let span = Span { first: 0, length: shape.boundaries.len() as u8 - 2 };
    let flags = MappingFlags::PERMISSIONS;
    let (largest, around) = (LeafSize::Size2M, LeafSize::Size4K);
    let first = match random.below(4) {
        0 | 1 => Some(Operation::MapAlloc { span, flags, populate: false, largest, around }),
        2 => Some(Operation::MapPaged { span, flags }),
        _ => None,
    };
    if let Some(Operation::MapPaged { .. }) = first {
        // Pages come and go.
        for command in &mut commands {
            if random.one_in(2) {
                command.operation = operation::random_paging(&mut random, span);
            }
        }
    }
    if let Some(operation) = first {
        commands.insert(0, Command { space: 0, operation });
    }
    Case { shape, settings, commands }
}

/// Runs one random sequence of `length` operations.
///
/// # Errors
/// The first violation, with the commands that led to it.
pub fn run_random(
    platform: &AnyPlatform,
    seed: u64,
    length: usize,
    mistake: Option<Mistake>,
) -> Result<Counts, Box<Failure>> {
    let Case { shape, settings, commands } = random_case(platform, seed, length);
    platform.run(&shape, settings, mistake, &commands)
}

/// Leaves out commands as long as the sequence still fails in the same check: what remains is what it takes.
#[must_use]
pub fn minimise(
    platform: &AnyPlatform,
    shape: &Shape,
    settings: Settings,
    mistake: Option<Mistake>,
    mut failure: Box<Failure>,
) -> Box<Failure> {
    let mut index = 0;
    while index < failure.commands.len() {
        let mut fewer = failure.commands.clone();
        fewer.remove(index);
        match platform.run(shape, settings, mistake, &fewer) {
            Err(smaller) if smaller.violation.check == failure.violation.check => failure = smaller,
            _ => index += 1,
        }
    }
    failure
}
