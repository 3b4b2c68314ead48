//! What is done with a guest that has stopped in the middle of its work, as the parameters say; then it is told to go on.

use super::{RUN, Run, fail, say, timer};
use crate::arch::riscv64::bare::maintenance::Counted;
use crate::arch::riscv64::bare::vcpu::RiscvVcpu;
use crate::cpus::Cpus;
use crate::guests::{self, Verdict};
use crate::pool::Pool;
use crate::run::{self, Machine};
use crate::store::Swap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use slat::PAGE_SIZE;
use slat::format::Format as _;
use slat::format::gstage::Gstage;
use slat_hv_protocol::pause::{Fork, Forked, Moved, PATTERN, Pause, Round, Then};
use slat_hv_protocol::snapshot::{Saved, Snapshot, State, Writer};
use slat_hv_protocol::{End, Message, Mistake, Span};
use spin::Mutex;

/// The architecture, as snapshots name it.
const ARCH: &str = "riscv64";

/// All guests of this machine.
pub(super) type Guests = guests::Guests<'static, &'static Pool<Counted>, Gstage, RiscvVcpu>;

/// What is to be done, and what is needed for it.
pub(super) struct Plan {
    pub(super) pause: Pause,
    /// Of the clock by which it is measured.
    pub(super) ticks_per_second: u64,
    pub(super) mistake: Mistake,
    /// What the guest's CPU is like.
    pub(super) isa: String,
    /// Mode of hgatp.
    pub(super) mode: String,
    /// The guest's RAM.
    pub(super) ram: Span,
    /// How far a move has come; `None` before it.
    pub(super) moving: Mutex<Option<Moving>>,
    /// What spaces are made in.
    pub(super) format: Gstage,
    /// The memory for a snapshot; `None` once it has been taken.
    pub(super) area: Mutex<Option<&'static mut [u8]>>,
}

/// How far a move has come.
pub(super) struct Moving {
    rounds: Vec<Round>,
    /// Slices that the guest still works before the next round.
    slices: u32,
}

/// Slices that the guest works between rounds.
const SLICES: u32 = 6;

/// The most rounds. There are fewer if one has not left much less to be copied than the one before, as no further one would.
const ROUNDS_MAX: usize = 8;

impl Moving {
    /// Whether the next round is the last one.
    fn ends(&self) -> bool {
        let stays = match self.rounds[..] {
            [_, .., Round { pages: before, .. }, Round { pages, .. }] => pages > before / 4 * 3,
            _ => false,
        };
        stays || self.rounds.len() + 1 >= ROUNDS_MAX
    }
}

/// On the hart on which guest `index` has stopped, or has come to the end of a slice.
pub(super) fn stopped(guests: &Guests, index: usize) -> Verdict {
    let Some(Run { plan: Some(plan), pool, .. }) = RUN.get() else {
        fail(format_args!("guest {index} was stopped, and nobody asked for it"))
    };
    let done = match plan.pause.then {
        Then::Fork { children } => fork(guests, index, plan, pool, children).map(|()| Verdict::GoesOn),
        Then::Migrate => migrate(guests, index, plan, pool),
        Then::Snapshot => save(guests, index, plan).map(|()| Verdict::Ends(End::Saved)),
        // It was not to be stopped; that it could print the text again is its own affair.
        Then::Restore => Ok(Verdict::GoesOn),
    };
    match done {
        Ok(verdict) => verdict,
        Err(reason) => Verdict::Ends(End::Unsupported { description: reason }),
    }
}

/// Forks the guest so many times and tells each what to do.
fn fork(
    guests: &Guests,
    index: usize,
    plan: &Plan,
    pool: &Pool<Counted>,
    children: u32,
) -> Result<(), String> {
    let parent = guests.machine(index).ok_or("there is no such guest")?;
    let own = parent.own_frames();
    let mut forks = Vec::new();
    for number in 1..=children {
        let (taken, begin) = (pool.counts(), timer::now());
        let forked = guests.fork(index, timer::now);
        let ticks = timer::now().saturating_sub(begin);
        let (guest, space_ticks) = forked.map_err(|reason| format!("fork {number}: {reason}"))?;
        let now = pool.counts();
        // What earlier forks kept goes back by the way.
        let frames = (now.taken - taken.taken).saturating_sub(now.returned - taken.returned);
        forks.push(Fork { guest: guest as u32, space_ticks, ticks, frames });
    }
    if let (Mistake::SharedFrame, Some(child)) = (plan.mistake, guests.machine(index + 1)) {
        parent.share_with_fork(child, PATTERN)?;
    }
    say(&Message::Forked(Forked {
        ticks_per_second: plan.ticks_per_second,
        parent: own,
        forks: forks.clone(),
    }));
    let all = [index].into_iter().chain(forks.iter().map(|fork| fork.guest as usize));
    for (guest, command) in all.zip(&plan.pause.commands) {
        if let Some(machine) = guests.machine(guest) {
            machine.type_in(&format!("{command}\n"));
        }
    }
    forks.iter().for_each(|fork| guests.resume(fork.guest as usize));
    Ok(())
}

/// Tells the guest what to do when it has stopped; copies what there is when it is at that and has stopped again; then what it
/// writes meanwhile, in rounds; and in the end lets it go on in another place.
fn migrate(
    guests: &Guests,
    index: usize,
    plan: &Plan,
    pool: &'static Pool<Counted>,
) -> Result<Verdict, String> {
    let machine = guests.machine(index).ok_or("there is no such guest")?;
    let place = guests.machine(index + 1).ok_or("there is no place for it")?;
    let mut moving = plan.moving.lock();
    let Some(moving) = moving.as_mut() else {
        plan.pause.commands.iter().take(1).for_each(|command| machine.type_in(&format!("{command}\n")));
        *moving = Some(Moving { rounds: Vec::new(), slices: 0 });
        // It prints the text again when it is at what it was told.
        return Ok(Verdict::GoesOn);
    };
    moving.slices = moving.slices.saturating_sub(1);
    if moving.slices > 0 {
        return Ok(Verdict::Watch);
    }
    let begin = timer::now();
    let ends = moving.ends();
    let pages = match moving.rounds[..] {
        [] => {
            let size = 1 << plan.format.geometry().gpa_bits;
            let space = run::space(pool, plan.format, size, 0, Swap::default());
            machine.begin_move(place, space.map_err(|error| error.to_string())?)?
        }
        _ => {
            let lost = (ends && plan.mistake == Mistake::LostDirtyPage).then_some(PATTERN);
            machine.copy_round(place, lost)?
        }
    };
    moving.rounds.push(Round { pages, ticks: timer::now().saturating_sub(begin) });
    if !ends {
        moving.slices = SLICES;
        return Ok(Verdict::Watch);
    }
    let guest = guests.take_place(index)?;
    let stop_ticks = timer::now().saturating_sub(begin);
    let (rounds, ticks_per_second) = (moving.rounds.clone(), plan.ticks_per_second);
    say(&Message::Moved(Moved { ticks_per_second, guest: guest as u32, rounds, stop_ticks }));
    guests.resume(guest);
    Ok(Verdict::Ends(End::Moved))
}

/// Writes the guest away.
fn save(guests: &Guests, index: usize, plan: &Plan) -> Result<(), String> {
    let begin = timer::now();
    let machine = guests.machine(index).ok_or("there is no such guest")?;
    let area = plan.area.lock().take().ok_or("there is no memory for a snapshot")?;
    let state = State {
        arch: ARCH.to_string(),
        mode: plan.mode.clone(),
        isa: plan.isa.clone(),
        ram: plan.ram,
        regions: machine.regions(),
        cpu: guests.with_vcpu(index, 0, |vcpu| vcpu.to_words()).ok_or("it has no CPU")?,
        port: machine.port(),
    };
    let mut writer = Writer::new(area, &state).map_err(|error| error.to_string())?;
    machine.each_page(|gpa, page| writer.add(gpa, page))?;
    let (bytes, pages) = writer.finish().map_err(|error| error.to_string())?;
    let ticks = timer::now().saturating_sub(begin);
    let (of_pages, ticks_per_second) = (plan.ram.size / PAGE_SIZE, plan.ticks_per_second);
    say(&Message::Saved(Saved { bytes, pages, of_pages, ticks, ticks_per_second }));
    Ok(())
}

/// The snapshot in `image`, if a guest with this CPU and this RAM can go on from it.
pub(super) fn find(image: &'static [u8], isa: &str, ram: Span) -> Result<Snapshot<'static>, String> {
    let snapshot = Snapshot::read(image).map_err(|error| format!("the snapshot cannot be used: {error}"))?;
    let State { arch, isa: its, ram: whose, .. } = &snapshot.state;
    match () {
        () if arch != ARCH => Err(format!("the snapshot is of a guest on {arch}")),
        () if its != isa => {
            Err(format!("the snapshot is of a guest whose CPU is {its}, and this one is {isa}"))
        }
        () if *whose != ram => Err(format!(
            "the snapshot is of a guest with {} MiB of RAM at {:#x}",
            whose.size >> 20,
            whose.address
        )),
        () => Ok(snapshot),
    }
}

/// Makes a guest with the memory of `snapshot`, which has not begun, what it was.
pub(super) fn restore(
    state: &State,
    machine: &Machine<'static, &'static Pool<Counted>, Gstage>,
    cpus: &Cpus,
    vcpus: &mut [RiscvVcpu],
) -> Result<(), String> {
    if machine.regions() != state.regions {
        return Err("the snapshot is of a guest with other regions".to_string());
    }
    let done = vcpus.first_mut().is_some_and(|vcpu| vcpu.set_words(&state.cpu));
    if !done {
        return Err("the snapshot is of a CPU with other registers".to_string());
    }
    if !machine.set_port(&state.port) {
        return Err("the snapshot is of another serial port".to_string());
    }
    // It was turned on long ago, and goes on instead of beginning.
    cpus.pause(0);
    Ok(())
}
