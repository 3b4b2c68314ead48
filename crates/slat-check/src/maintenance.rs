//! What a correct hypervisor executes on the model's CPUs when slat asks for maintenance.

use crate::platform::Platform;
use slat::{CacheActions, CacheMaintenance, Invalidation, Reach, TableKind};
use slat_model::{BarrierAccess, Dc, Domain, Instruction, InvalidRoot, Machine, Root};

/// The instructions of an invalidation that CPU `here` of so many asks for, and the CPU that executes each: it alone
/// where they reach the others by themselves, else each CPU.
#[must_use]
pub fn plan<P: Platform>(
    platform: &P,
    invalidation: &Invalidation<'_>,
    here: usize,
    cpus: usize,
) -> Vec<(usize, Instruction)> {
    let everywhere = invalidation.reach == Reach::AllCpus && !platform.broadcasts();
    let targets = if everywhere { 0..cpus } else { here..here + 1 };
    let here_and_elsewhere = (platform.maintenance(invalidation), platform.remote_maintenance(invalidation));
    let of = |cpu| if cpu == here { &here_and_elsewhere.0 } else { &here_and_elsewhere.1 };
    targets.flat_map(|cpu| of(cpu).iter().map(move |instruction| (cpu, *instruction))).collect()
}

/// Executes what `plan` says, under the tag of the space with this root register. `empty_root` is the address of a root
/// without entries, for a tag whose table is not loaded where it is needed.
///
/// # Errors
/// The CPU does not take the root register.
pub fn carry_out<P: Platform>(
    platform: &P,
    machine: &mut Machine,
    here: usize,
    (root, empty_root): (u64, u64),
    plan: &[(usize, Instruction)],
) -> Result<(), InvalidRoot> {
    match P::TABLE {
        TableKind::Ept | TableKind::Gstage => {
            plan.iter().for_each(|(cpu, instruction)| machine.execute(*cpu, *instruction));
        }
        TableKind::Npt => {
            for (cpu, instruction) in plan.iter().copied() {
                match (machine.root(cpu), instruction) {
                    (Some(Root::Npt { ncr3, .. }), Instruction::Vmrun { tlb_control: 3 }) if ncr3 != root => {
                        // It runs another guest: everything goes.
                        machine.execute(cpu, Instruction::Vmrun { tlb_control: 1 });
                    }
                    (None, Instruction::Vmrun { .. }) => {
                        // It runs no guest now: everything goes before the next one.
                        machine.load_root(cpu, platform.root(empty_root, 1))?;
                        machine.execute(cpu, Instruction::Vmrun { tlb_control: 1 });
                        machine.unload_root(cpu);
                    }
                    _ => machine.execute(cpu, instruction),
                }
            }
        }
        TableKind::Stage2 => {
            let before = machine.root(here);
            let elsewhere = !matches!(before, Some(Root::Stage2 { vttbr, .. }) if vttbr == root);
            if elsewhere {
                // The instructions take the tag from VTTBR_EL2; a table without entries goes with it.
                machine.load_root(here, platform.root(root & 0xffff_0000_0000_0000 | empty_root, 0))?;
                machine.execute(here, Instruction::Isb);
            }
            plan.iter().for_each(|(cpu, instruction)| machine.execute(*cpu, *instruction));
            if elsewhere {
                match before {
                    Some(before) => machine.load_root(here, before)?,
                    None => machine.unload_root(here),
                }
                machine.execute(here, Instruction::Isb);
            }
        }
    }
    Ok(())
}

/// Cleans and invalidates the frames of `maintenance` by CPU `here`, if that is to be done.
pub fn clean(machine: &mut Machine, here: usize, maintenance: &CacheMaintenance) {
    if !maintenance.actions.contains(CacheActions::CLEAN_INVALIDATE_TO_POC) {
        return;
    }
    let start = maintenance.start.as_u64();
    for hpa in (start..start + maintenance.bytes() as u64).step_by(64) {
        machine.execute(here, Instruction::Dc { operation: Dc::Civac, hpa });
    }
    machine.execute(here, Instruction::Dsb { domain: Domain::FullSystem, access: BarrierAccess::All });
}
