//! What is done with a guest that has stopped in the middle of its work, as the parameters say; then it is told to go on.

use super::{RUN, Run, fail, say, timer};
use crate::arch::riscv64::bare::maintenance::Counted;
use crate::arch::riscv64::bare::vcpu::RiscvVcpu;
use crate::guests::{self, Verdict};
use crate::pool::Pool;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use slat::format::gstage::Gstage;
use slat_hv_protocol::pause::{Fork, Forked, PATTERN, Pause, Then};
use slat_hv_protocol::{End, Message, Mistake};

/// All guests of this machine.
pub(super) type Guests = guests::Guests<'static, &'static Pool<Counted>, Gstage, RiscvVcpu>;

/// What is to be done, and how fast the clock goes by which it is measured.
pub(super) struct Plan {
    pub(super) pause: Pause,
    pub(super) ticks_per_second: u64,
    pub(super) mistake: Mistake,
}

/// On the hart on which guest `index` has stopped.
pub(super) fn stopped(guests: &Guests, index: usize) -> Verdict {
    let Some(Run { plan: Some(plan), pool, .. }) = RUN.get() else {
        fail(format_args!("guest {index} was stopped, and nobody asked for it"))
    };
    let done = match plan.pause.then {
        Then::Fork { children } => fork(guests, index, plan, pool, children),
    };
    match done {
        Ok(()) => Verdict::GoesOn,
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
