//! The CPUs of the machine under those of the guest: vCPU n runs on CPU n.
//!
//! CPU 0 lends the run to CPU 1 and joins it when it has ended. Until the guest starts its second CPU, and while it has turned
//! it off, CPU 1 sleeps here, or changes the guest's memory where that is wanted.

use super::machine;
use super::physical::Physical;
use super::second::beside;
use super::vendor::{Host, Vendor};
use crate::arch::x86_64::vcpu::X86Vcpu;
use crate::cpus::{Cpus, Power};
use crate::run::{Left, Machine, Outcome};
use alloc::string::{String, ToString};
use core::hint::spin_loop;
use core::sync::atomic::{AtomicBool, Ordering};

/// Turns of a loop between two rounds of churn beside the guest.
const PAUSE: u32 = 10_000;
/// Turns of a loop between two kicks of a CPU that is to notice the end.
const KICK_AGAIN: u32 = 10_000;
/// Kicks before that CPU is taken for lost.
const PATIENCE: u32 = 100_000;

/// A vCPU of `V`'s in the run loop.
pub(super) type RunVcpu<V> = X86Vcpu<<V as Vendor>::Vcpu, Physical<V>>;

/// The run, shared by its CPUs.
pub(super) struct Shared<'a, V: Vendor> {
    pub(super) vendor: &'a V,
    pub(super) host: Host,
    pub(super) cpus: &'a Cpus,
    pub(super) machine: &'static Machine<'static, Host, V::Format>,
    /// The root register of the guest's space.
    pub(super) root: u64,
    /// Whether CPU 1 churns while it has nothing else to do.
    pub(super) churns: bool,
}

impl<V: Vendor> Shared<'_, V> {
    /// Runs the guest to its end on its vCPUs, of which the first one is on.
    ///
    /// # Errors
    /// One line.
    pub(super) fn run(
        &self,
        first: &mut RunVcpu<V>,
        second: Option<&mut RunVcpu<V>>,
    ) -> Result<Outcome, String> {
        let nobody = || "the guest's CPUs have left it without an end".to_string();
        let Some(second) = second else { return self.enter(0, first)?.ok_or_else(nobody) };
        // What it lacks is told before the guest begins.
        beside(1, || self.vendor.turn_on(1), || ())?.0?;
        let done = AtomicBool::new(false);
        let on_second = || {
            let outcome = self.serve(1, second);
            done.store(true, Ordering::Release);
            outcome
        };
        let on_first = || {
            let outcome = self.enter(0, first);
            for _ in 0..PATIENCE {
                if done.load(Ordering::Acquire) {
                    break;
                }
                machine::kick(1);
                pause(KICK_AGAIN);
            }
            outcome
        };
        let outcomes = beside(1, on_second, on_first);
        let off = beside(1, || self.vendor.turn_off(1), || ());
        let (second, first) = outcomes?;
        off?;
        first?.or(second?).ok_or_else(nobody)
    }

    /// Runs `vcpu` on this CPU, `cpu`, until that leaves the guest; what came of the run if it was the one to end it.
    fn enter(&self, cpu: usize, vcpu: &mut RunVcpu<V>) -> Result<Option<Outcome>, String> {
        match self.machine.run(cpu, vcpu) {
            Left::Ended(end) => {
                // Taking the guest's memory away is no part of the test.
                self.host.maintenance().make_no_more_mistakes();
                self.machine.close(end, || ()).map(Some)
            }
            Left::Stopped | Left::Off => Ok(None),
        }
    }

    /// Runs `vcpu` on this CPU, `cpu`, whenever the guest turns that on.
    fn serve(&self, cpu: usize, vcpu: &mut RunVcpu<V>) -> Result<Option<Outcome>, String> {
        loop {
            if let Some(entry) = self.cpus.begin(cpu) {
                machine::reset_apic();
                vcpu.start_up(self.root, entry.address);
                if let Some(outcome) = self.enter(cpu, vcpu)? {
                    return Ok(Some(outcome));
                }
            } else if self.cpus.is_ending() {
                return Ok(None);
            } else if self.churns {
                self.machine.churn_beside(|| {
                    pause(PAUSE);
                    self.cpus.power(cpu) == Some(Power::Off)
                });
            } else {
                machine::wait();
            }
        }
    }
}

fn pause(turns: u32) {
    (0..turns).for_each(|_| spin_loop());
}
