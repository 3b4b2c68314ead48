//! Accesses by guest virtual address. A combined entry that refuses an access is passed over for a walk.

use std::sync::atomic::Ordering;

use super::second::Found;
use super::{Machine, Policy};
use crate::access::{Access, AccessKind, Translation};
use crate::mmu::{Mmu, Root};
use crate::stage1::{FirstLeaf, Progress, Stage1, VirtualFault};
use crate::tlb::Combined;

impl Machine {
    pub(super) fn access_both(
        &mut self,
        cpu: usize,
        gva: u64,
        access: Access,
        stage1: &Stage1,
    ) -> Result<Translation, VirtualFault> {
        self.check_isa(stage1);
        let cached = self.combined(cpu, gva, access, stage1);
        let takes_cached = match self.policy {
            Policy::Everything => true,
            Policy::Seeded(_) => self.random() >> 32 & 1 == 0,
        };
        if let Some(&translation) = cached.first().filter(|_| takes_cached) {
            return Ok(translation);
        }
        loop {
            let mut progress = stage1.start(gva, access);
            let leaf = loop {
                match progress {
                    Progress::Fault(fault) => return Err(fault),
                    Progress::Done(leaf) => break leaf,
                    Progress::Read(walk) => {
                        let read = access.of_walk(AccessKind::Read);
                        let found = self.second(cpu, walk.entry, read, false)?;
                        let raw = self.guest_entry(found.translation.hpa, walk.short);
                        progress = stage1.resume(walk, raw, gva, access);
                    }
                }
            };
            if !self.update_guest(cpu, &leaf, access)? {
                continue;
            }
            // Where stage 1 is off, entries that say so can be used.
            let found =
                self.second(cpu, leaf.gpa, final_access(&self.mmu, &leaf, access), !stage1.is_on())?;
            let (entry, translation) = self.combine(cpu, gva, (access, stage1), &leaf, &found);
            if stage1.is_on() || !matches!(self.mmu, Mmu::Stage2(_)) {
                self.cpus[cpu].tlb.insert_combined(entry);
            }
            return Ok(translation);
        }
    }

    pub(super) fn possible_both(
        &self,
        cpu: usize,
        gva: u64,
        access: Access,
        stage1: &Stage1,
    ) -> Vec<Result<Translation, VirtualFault>> {
        self.check_isa(stage1);
        let mut results = self.combined(cpu, gva, access, stage1).into_iter().map(Ok).collect();
        self.explore(cpu, gva, access, stage1, stage1.start(gva, access), &mut results);
        let mut distinct = Vec::new();
        for result in results {
            if !distinct.contains(&result) {
                distinct.push(result);
            }
        }
        distinct
    }

    /// Follows a walk through every result that each of its accesses can have.
    fn explore(
        &self,
        cpu: usize,
        gva: u64,
        access: Access,
        stage1: &Stage1,
        progress: Progress,
        results: &mut Vec<Result<Translation, VirtualFault>>,
    ) {
        match progress {
            Progress::Fault(fault) => results.push(Err(fault)),
            Progress::Read(walk) => {
                for candidate in self.candidates(cpu, walk.entry, access.of_walk(AccessKind::Read), false) {
                    match candidate.outcome.result {
                        Err(fault) => results.push(Err(VirtualFault::Second(fault))),
                        Ok(found) => {
                            let raw = self.guest_entry(found.hpa, walk.short);
                            let next = stage1.resume(walk.clone(), raw, gva, access);
                            self.explore(cpu, gva, access, stage1, next, results);
                        }
                    }
                }
            }
            Progress::Done(leaf) => {
                for update in &leaf.updates {
                    let write = access.of_walk(AccessKind::ReadWrite);
                    let mut passes = false;
                    for candidate in self.candidates(cpu, update.entry, write, false) {
                        match candidate.outcome.result {
                            Err(fault) => results.push(Err(VirtualFault::Second(fault))),
                            Ok(_) => passes = true,
                        }
                    }
                    if !passes {
                        return;
                    }
                }
                let last = final_access(&self.mmu, &leaf, access);
                for candidate in self.candidates(cpu, leaf.gpa, last, !stage1.is_on()) {
                    let (gpa, size, source) = candidate.leaf;
                    results.push(match candidate.outcome.result {
                        Err(fault) => Err(VirtualFault::Second(fault)),
                        Ok(translation) => {
                            let found = Found { translation, gpa, size, source, dirty: candidate.dirty };
                            Ok(self.combine(cpu, gva, (access, stage1), &leaf, &found).1)
                        }
                    });
                }
            }
        }
    }

    fn second(&mut self, cpu: usize, gpa: u64, access: Access, flat: bool) -> Result<Found, VirtualFault> {
        self.access_second(cpu, gpa, access, flat).map_err(VirtualFault::Second)
    }

    /// Sets the guest's flags; whether no entry has changed meanwhile.
    fn update_guest(&mut self, cpu: usize, leaf: &FirstLeaf, access: Access) -> Result<bool, VirtualFault> {
        for update in &leaf.updates {
            let found = self.second(cpu, update.entry, access.of_walk(AccessKind::ReadWrite), false)?;
            let hpa = found.translation.hpa;
            let Some(word) = self.ram.word(hpa) else { continue };
            let whole = word.load(Ordering::SeqCst);
            // What the entry is part of, and where.
            let (mask, shift) = if update.short { (0xffff_ffff, 8 * (hpa & 4)) } else { (u64::MAX, 0) };
            let old = whole & !(mask << shift) | update.old << shift;
            let new = whole & !(mask << shift) | update.new << shift;
            if word.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst).is_err() {
                return Ok(false);
            }
            self.mirror.write(hpa, new);
        }
        Ok(true)
    }

    /// An entry of the guest's; what is outside of the RAM reads as zero.
    fn guest_entry(&self, hpa: u64, short: bool) -> u64 {
        let word = self.ram.read(hpa).unwrap_or(0);
        if short { word >> (8 * (hpa & 4)) & 0xffff_ffff } else { word }
    }

    /// The cached combined entries that serve the access.
    fn combined(&self, cpu: usize, gva: u64, access: Access, stage1: &Stage1) -> Vec<Translation> {
        let state = &self.cpus[cpu];
        let (tag, vpid, asid) = (state.regime().tag(), vpid(state.root), stage1.asid());
        let serves = |entry: &&Combined| {
            (entry.tag, entry.vpid, entry.user) == (tag, vpid, access.user)
                && entry.paging == stage1.is_on()
                && (entry.asid == asid || entry.global)
                && gva >= entry.gva
                && gva - entry.gva < entry.size
                && entry.permissions.allow(access)
                && (entry.dirty || !access.writes())
        };
        let at = |entry: &Combined| Translation {
            hpa: entry.translation.hpa + (gva - entry.gva),
            ..entry.translation
        };
        state.tlb.combined.iter().filter(serves).map(at).collect()
    }

    fn combine(
        &self,
        cpu: usize,
        gva: u64,
        (access, stage1): (Access, &Stage1),
        leaf: &FirstLeaf,
        found: &Found,
    ) -> (Combined, Translation) {
        let size = leaf.size.min(found.size);
        let state = &self.cpus[cpu];
        let permissions = leaf.permissions.and(found.translation.permissions);
        let translation = Translation { size, permissions, ..found.translation };
        let entry = Combined {
            tag: state.regime().tag(),
            vpid: vpid(state.root),
            asid: leaf.asid,
            global: leaf.global,
            gva: gva & !(size - 1),
            size,
            permissions,
            translation: Translation { hpa: translation.hpa & !(size - 1), ..translation },
            dirty: leaf.dirty && found.dirty,
            user: access.user,
            paging: stage1.is_on(),
            gpa: found.gpa,
            gpa_size: found.size,
            source: found.source,
        };
        (entry, translation)
    }

    fn check_isa(&self, stage1: &Stage1) {
        let same = matches!(
            (&self.mmu, stage1),
            (Mmu::Ept(_) | Mmu::Npt(_), Stage1::X86 { .. })
                | (Mmu::Stage2(_), Stage1::Arm { .. })
                | (Mmu::Gstage(_), Stage1::Riscv { .. })
        );
        assert!(same, "the stage 1 of another ISA");
    }
}

fn vpid(root: Option<Root>) -> u16 {
    match root {
        Some(Root::Ept { vpid, .. }) => vpid,
        _ => 0,
    }
}

/// SDM, "Mode-Based Execute Control for EPT": what counts is whether the *page* is one of user mode.
fn final_access(mmu: &Mmu, leaf: &FirstLeaf, access: Access) -> Access {
    match mmu {
        Mmu::Ept(_) => Access { user: leaf.user, ..access },
        _ => access,
    }
}
