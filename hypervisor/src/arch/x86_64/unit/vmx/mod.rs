//! Unit guests on VMX with EPT.

mod cpus;
mod dirty_log;
mod events;
mod interrupts;
mod marks;
mod misconfigurations;
mod pae;
mod stage;
mod violations;

use super::context::Context;
use super::{Failure, UnitGuest, nothing};
use crate::arch::x86_64::bare::Vmx;
use alloc::string::{String, ToString as _};

const fn guest(
    name: &'static str,
    needs: fn(&Context<Vmx>) -> Result<(), String>,
    run: fn(&Context<Vmx>) -> Result<(), Failure>,
) -> UnitGuest<Context<Vmx>> {
    UnitGuest { name, needs, run }
}

fn lacks(has: bool, what: &str) -> Result<(), String> {
    if has { Ok(()) } else { Err(what.to_string()) }
}

fn unrestricted(context: &Context<Vmx>) -> Result<(), String> {
    lacks(context.vendor.capabilities.unrestricted_guest(), "unrestricted guest")
}

fn execute_only(context: &Context<Vmx>) -> Result<(), String> {
    lacks(context.vendor.capabilities.execute_only(), "execute-only translations")
}

fn accessed_dirty(context: &Context<Vmx>) -> Result<(), String> {
    lacks(context.vendor.capabilities.accessed_dirty(), "accessed and dirty flags")
}

fn virtual_nmis(context: &Context<Vmx>) -> Result<(), String> {
    lacks(context.vendor.capabilities.virtual_nmis(), "virtual NMIs")
}

fn log(context: &Context<Vmx>) -> Result<(), String> {
    lacks(context.vendor.capabilities.modification_log(), "page-modification logging")
}

/// All of them.
pub(in crate::arch::x86_64) const GUESTS: &[UnitGuest<Context<Vmx>>] = &[
    guest("ept-violations", nothing, violations::accesses),
    guest("ept-violations-of-walks", nothing, violations::walks),
    guest("ept-read-only-tables", nothing, violations::read_only_tables),
    guest("ept-execute-only", execute_only, violations::execute_only),
    guest("ept-violation-in-real-mode", unrestricted, violations::real_mode),
    guest("ept-misconfigurations", nothing, misconfigurations::all),
    guest("ept-accessed-dirty", accessed_dirty, marks::accessed_dirty),
    guest("ept-log", log, marks::log),
    guest("ept-log-of-a-large-leaf", log, marks::log_of_a_large_leaf),
    guest("ept-dirty-log", nothing, dirty_log::exact),
    guest("ept-dirty-log-without-a-drain", log, dirty_log::without_a_drain),
    guest("vmx-redelivery", nothing, events::redelivery),
    guest("vmx-lost-event", nothing, events::lost_event),
    guest("vmx-double-fault", nothing, events::double_fault),
    guest("vmx-nmi-unblocking", virtual_nmis, events::nmi_unblocking),
    guest("vmx-nmis-wait", virtual_nmis, events::nmis_wait),
    guest("vmx-redelivery-in-real-mode", unrestricted, events::real_mode),
    guest("vmx-pdptes", unrestricted, pae::pdptes),
    guest("vmx-interrupt-exits", nothing, interrupts::exits),
    guest("vmx-interrupts-pass-through", nothing, interrupts::pass_through),
    guest("vmx-interrupt-wakes", nothing, interrupts::wakes),
    guest("vmx-moves", nothing, cpus::moves),
    guest("vmx-elsewhere", nothing, cpus::elsewhere),
    guest("vmx-drops", nothing, cpus::drops),
    guest("vmx-kicks", nothing, cpus::kicks),
    // The last one: Bochs 2.7 leaves SMIs masked on a CPU that waited, so that no guest can be entered there any more.
    guest("vmx-start-up-ipi", nothing, cpus::start_up_ipi),
];
