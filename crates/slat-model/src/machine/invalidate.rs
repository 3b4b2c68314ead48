//! Instructions: each drops what its manual says, and no more.

use std::ops::Range;

use super::Machine;
use crate::instruction::{BarrierAccess, Dc, Domain, Instruction, Tlbi};
use crate::mmu::{Mmu, Root};
use crate::report::Report;
use crate::tlb::{Effect, First, Second};
use crate::walk::{EptRegime, Regime, bit, bits, field};

/// An invalidation that its barrier has yet to complete.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    effect: Effect,
    broadcast: bool,
    issued: u64,
}

impl Machine {
    pub(super) fn invalidate(&mut self, cpu: usize, instruction: Instruction) {
        let done = match self.mmu {
            Mmu::Ept(_) => self.intel(cpu, instruction),
            Mmu::Npt(_) => self.amd(cpu, instruction),
            Mmu::Stage2(_) => self.arm(cpu, instruction),
            Mmu::Gstage(_) => self.riscv(cpu, instruction),
        };
        if done.is_none() {
            self.report(Report::ReservedOperand { cpu, instruction });
        }
    }

    /// SDM volume 3C, "Operations that Invalidate Cached Mappings". `None` for a reserved operand, here and below.
    fn intel(&mut self, cpu: usize, instruction: Instruction) -> Option<()> {
        let Mmu::Ept(ept) = &self.mmu else { return None };
        let has = |n| bit(ept.capabilities, n);
        let vpid_0 = First { vpid: Some(0), ..First::default() };
        let (tag, second, first) = match instruction {
            Instruction::Invept { kind: 1, eptp } if has(20) && has(25) => {
                let regime = EptRegime::new(ept, eptp).ok()?; // VMfail
                (Some(regime.tag()), Some(Second::ALL), First::default())
            }
            Instruction::Invept { kind: 2, .. } if has(20) && has(26) => {
                (None, Some(Second::ALL), First::default())
            }
            Instruction::Invvpid { kind: 2, .. } if has(32) && has(42) => {
                (None, None, First { not_vpid_0: true, ..First::default() })
            }
            Instruction::Invvpid { vpid: 0, .. } => return None, // VMfail
            Instruction::Invvpid { kind: 0, vpid, linear } if has(32) && has(40) => {
                let gva = Some(page(linear & !0xfff, 1));
                (None, None, First { gva, vpid: Some(vpid), ..First::default() })
            }
            Instruction::Invvpid { kind: 1, vpid, .. } if has(32) && has(41) => {
                (None, None, First { vpid: Some(vpid), ..First::default() })
            }
            Instruction::Invvpid { kind: 3, vpid, .. } if has(32) && has(43) => {
                (None, None, First { vpid: Some(vpid), keeps_globals: true, ..First::default() })
            }
            // With "enable VPID" off, which VPID 0 stands for, transitions drop what VPID 0 has.
            Instruction::VmEntry | Instruction::VmExit => match self.cpus[cpu].root? {
                Root::Ept { vpid: 0, .. } => (None, None, vpid_0),
                _ => return Some(()),
            },
            _ => return None,
        };
        self.apply(cpu, &Effect { tag, second, first: Some(first) }, None);
        Some(())
    }

    /// APM volume 2, "TLB Management" of the SVM chapter, and volume 3 for INVLPGA, INVLPGB and TLBSYNC.
    fn amd(&mut self, cpu: usize, instruction: Instruction) -> Option<()> {
        match instruction {
            Instruction::Vmrun { tlb_control: 0 } => {}
            Instruction::Vmrun { tlb_control: 1 } => self.apply(cpu, &both(None), None),
            // Reserved without FlushByAsid, CPUID 8000_000Ah EDX[6].
            Instruction::Vmrun { tlb_control: 3 | 7 } if matches!(&self.mmu, Mmu::Npt(npt) if !npt.flush_by_asid) =>
            {
                return None;
            }
            Instruction::Vmrun { tlb_control: 3 } => {
                let tag = self.cpus[cpu].regime.as_ref()?.tag();
                self.apply(cpu, &both(Some(tag)), None);
            }
            Instruction::Vmrun { tlb_control: 7 } => {
                let tag = self.cpus[cpu].regime.as_ref()?.tag();
                let first = Some(First { keeps_globals: true, ..First::default() });
                self.apply(cpu, &Effect { first, ..both(Some(tag)) }, None);
            }
            Instruction::Invlpga { address, asid } => {
                let first = Some(First { gva: Some(page(address & !0xfff, 1)), ..First::default() });
                self.apply(cpu, &Effect { tag: Some(u64::from(asid)), second: None, first }, None);
            }
            Instruction::Invlpgb { rax, edx, ecx } => {
                if bits(rax, 11, 6) != 0 || ecx & 0x7fff_0000 != 0 {
                    return None;
                }
                let stride = if bit(u64::from(ecx), 31) { 512 } else { 1 };
                let gva =
                    bit(rax, 0).then(|| page(bits(rax, 63, 12), (u64::from(ecx & 0xffff) + 1) * stride));
                // Which nested translations go with a guest virtual address nobody can know.
                let second = (bit(rax, 5) && gva.is_none()).then_some(Second::ALL);
                let first = Some(First {
                    gva,
                    asid: bit(rax, 1).then_some(field(u64::from(edx), 27, 16)),
                    keeps_globals: !bit(rax, 3),
                    ..First::default()
                });
                let tag = bit(rax, 2).then_some(u64::from(edx & 0xffff));
                self.issue(cpu, Effect { tag, second, first }, true);
            }
            Instruction::Tlbsync => self.complete(cpu, true),
            _ => return None,
        }
        Some(())
    }

    /// Arm ARM, "TLB maintenance instructions" and "Ordering and completion of TLB maintenance instructions".
    fn arm(&mut self, cpu: usize, instruction: Instruction) -> Option<()> {
        match instruction {
            Instruction::Tlbi { operation, broadcast, operand } => {
                self.tlbi(cpu, operation, broadcast, operand)?;
            }
            Instruction::Dsb { domain, access } => self.dsb(cpu, domain, access),
            Instruction::Isb => self.cpus[cpu].previous_tag = None,
            Instruction::Dc { operation: Dc::Cvac | Dc::Civac, hpa } => {
                self.cpus[cpu].cleaned.push(hpa & !63)
            }
            // Invalidates without writing back: what the host wrote is lost, the line will never be clean.
            Instruction::Dc { operation: Dc::Ivac, .. } => {}
            _ => return None,
        }
        Some(())
    }

    fn dsb(&mut self, cpu: usize, domain: Domain, access: BarrierAccess) {
        if access == BarrierAccess::Loads {
            return;
        }
        self.clock += 1;
        let now = self.clock;
        let everywhere = domain != Domain::NonShareable;
        for (other, state) in self.cpus.iter_mut().enumerate() {
            if everywhere || other == cpu {
                state.tlb.order(Some(cpu), now);
            }
        }
        // "If the required access types of the DSB is reads and writes": only then it waits for maintenance.
        if access == BarrierAccess::All {
            self.complete(cpu, everywhere);
            for line in std::mem::take(&mut self.cpus[cpu].cleaned) {
                self.dirty_lines.remove(&line);
            }
        }
    }

    fn tlbi(&mut self, cpu: usize, operation: Tlbi, broadcast: bool, operand: u64) -> Option<()> {
        let Mmu::Stage2(features) = self.mmu.clone() else { return None };
        let state = &self.cpus[cpu];
        // A write of VTTBR_EL2 is not seen before a context synchronization event; here, never.
        let current = match state.previous_tag {
            Some(previous) => previous,
            None => state.regime.as_ref().map(|regime| regime.tag()),
        };
        // Without any VTTBR_EL2 so far, the VMID is UNKNOWN, and equal to no entry's.
        let current = current.unwrap_or(u64::MAX);
        let effect = match operation {
            Tlbi::Alle1 => both(None),
            Tlbi::Vmalls12e1 => both(Some(current)),
            Tlbi::Vmalle1 => Effect { second: None, ..both(Some(current)) },
            Tlbi::Ipas2e1 | Tlbi::Ipas2le1 => {
                let range = page(field(operand, 39, 0) << 12, 1);
                let level = match (field(operand, 47, 46), field(operand, 45, 44)) {
                    (0, _) => None,
                    (1, lookup @ 1..=3) if features.ttl => Some(3 - lookup as u8),
                    _ => return None,
                };
                by_ipa(current, range, level, operation == Tlbi::Ipas2le1)
            }
            Tlbi::Ripas2e1 | Tlbi::Ripas2le1 => {
                let base = field(operand, 36, 0) << 12;
                let pages = (field(operand, 43, 39) + 1) << (5 * field(operand, 45, 44) + 1);
                let level = match field(operand, 38, 37) {
                    0 => None,
                    lookup => Some(3 - lookup as u8),
                };
                let alignment = 1 << (12 + 9 * u32::from(level.unwrap_or(0)));
                if field(operand, 47, 46) != 1 || base & (alignment - 1) != 0 {
                    return None;
                }
                by_ipa(current, page(base, pages), level, operation == Tlbi::Ripas2le1)
            }
            Tlbi::Vae1 | Tlbi::Vaae1 => {
                // VA[55:12]; the upper range's addresses are sign-extended.
                let address = ((field(operand, 43, 0) << 20) as i64 >> 8) as u64;
                let asid = (operation == Tlbi::Vae1).then_some(field(operand, 63, 48));
                let first = First { gva: Some(page(address, 1)), asid, ..First::default() };
                Effect { tag: Some(current), second: None, first: Some(first) }
            }
            Tlbi::Aside1 => {
                let first =
                    First { asid: Some(field(operand, 63, 48)), keeps_globals: true, ..First::default() };
                Effect { tag: Some(current), second: None, first: Some(first) }
            }
        };
        self.issue(cpu, effect, broadcast);
        Some(())
    }

    /// Privileged ISA, "Hypervisor Memory-Management Fence Instructions", and the Svinval chapter.
    fn riscv(&mut self, cpu: usize, instruction: Instruction) -> Option<()> {
        match instruction {
            Instruction::HfenceGvma { address, vmid } => {
                let effect = self.gvma(address, vmid)?;
                self.apply(cpu, &effect, None);
            }
            Instruction::HfenceVvma { address, asid } => {
                let effect = self.vvma(cpu, address, asid)?;
                self.apply(cpu, &effect, None);
            }
            Instruction::HinvalGvma { address, vmid } => {
                let effect = self.gvma(address, vmid)?;
                self.issue(cpu, effect, false);
            }
            Instruction::HinvalVvma { address, asid } => {
                let effect = self.vvma(cpu, address, asid)?;
                self.issue(cpu, effect, false);
            }
            Instruction::SfenceWInval => {
                self.clock += 1;
                let now = self.clock;
                self.cpus[cpu].tlb.order(None, now);
            }
            Instruction::SfenceInvalIr => self.complete(cpu, false),
            _ => return None,
        }
        Some(())
    }

    fn gvma(&self, address: Option<u64>, vmid: Option<u64>) -> Option<Effect> {
        let Mmu::Gstage(hart) = &self.mmu else { return None };
        if vmid.is_some_and(|vmid| vmid >> hart.vmid_bits != 0) {
            return None;
        }
        let Some(address) = address else { return Some(both(vmid)) };
        // An address operand orders leaf entries only.
        let gpa = address.checked_mul(4)?;
        let range = Some(gpa..gpa.checked_add(1)?);
        let invalid_tables = !hart.address_fence_skips_invalid;
        let second = Second { range: range.clone(), level: None, tables: false, invalid_tables };
        let first = First { gpa: range, ..First::default() };
        Some(Effect { tag: vmid, second: Some(second), first: Some(first) })
    }

    fn vvma(&self, cpu: usize, address: Option<u64>, asid: Option<u64>) -> Option<Effect> {
        let tag = self.cpus[cpu].regime.as_ref()?.tag();
        let gva = address.map(|address| page(address & !0xfff, 1));
        // An ASID operand leaves global mappings alone.
        let first = First { gva, asid, keeps_globals: asid.is_some(), ..First::default() };
        Some(Effect { tag: Some(tag), second: None, first: Some(first) })
    }

    /// Drops what the CPU has by its root register.
    pub(super) fn drop_current(&mut self, cpu: usize) {
        if let Some(tag) = self.cpus[cpu].regime.as_ref().map(Regime::tag) {
            self.apply(cpu, &both(Some(tag)), None);
        }
    }

    /// Drops entries by hand, as hardware may at any time.
    #[cfg(test)]
    pub(crate) fn forget(&mut self, cpu: usize, effect: &Effect) {
        self.apply(cpu, effect, None);
    }

    fn apply(&mut self, cpu: usize, effect: &Effect, issued: Option<u64>) {
        let state = &mut self.cpus[cpu];
        state.tlb.invalidate(effect, issued);
        if let (Some(unseen), Some(regime)) = (&mut state.paused, &state.regime) {
            let all = effect.second == Some(Second::ALL);
            unseen.all |= all && effect.tag.is_none_or(|tag| tag == regime.tag());
        }
    }

    fn issue(&mut self, cpu: usize, effect: Effect, broadcast: bool) {
        let issued = self.clock;
        self.clock += 1;
        self.cpus[cpu].pending.push(Pending { effect, broadcast, issued });
    }

    /// A barrier: what this CPU issued is done, on all CPUs or on this one only.
    fn complete(&mut self, cpu: usize, everywhere: bool) {
        let pending = std::mem::take(&mut self.cpus[cpu].pending);
        for invalidation in &pending {
            for other in 0..self.cpus.len() {
                if other == cpu || (everywhere && invalidation.broadcast) {
                    self.apply(other, &invalidation.effect, Some(invalidation.issued));
                }
            }
        }
        if !everywhere {
            self.cpus[cpu].pending = pending.into_iter().filter(|pending| pending.broadcast).collect();
        }
    }
}

fn page(start: u64, pages: u64) -> Range<u64> {
    start..start.saturating_add(pages << 12)
}

fn both(tag: Option<u64>) -> Effect {
    Effect { tag, second: Some(Second::ALL), first: Some(First::default()) }
}

/// A level hint promises no more than the leaves of that level.
fn by_ipa(tag: u64, range: Range<u64>, level: Option<u8>, last: bool) -> Effect {
    let tables = level.is_none() && !last;
    let second = Second { range: Some(range), level, tables, invalid_tables: true };
    Effect { tag: Some(tag), second: Some(second), first: None }
}
