//! Accesses by guest physical address: what could come of them, and what does.

use std::sync::atomic::Ordering;

use super::{Machine, Policy};
use crate::access::{Access, Fault, FaultKind, Memory, Outcome, Permissions, Source, Translation};
use crate::mmu::Mmu;
use crate::report::Report;
use crate::tlb::{Entry, Order, What};
use crate::walk::{Decoded, End, Leaf, Node, Path, Regime, translate};

/// One way that an access could take.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) outcome: Outcome,
    /// The walk, if there is one, and from when on it cannot be walked again.
    pub(super) walked: Option<(Path, Order)>,
    /// The range of the leaf and the host physical address of its entry.
    pub(super) leaf: (u64, u64, u64),
    /// Whether the leaf's dirty flag is set, or needs no setting.
    pub(super) dirty: bool,
}

/// A translation that an access took.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) translation: Translation,
    /// The guest physical range of the second-level leaf, and its entry.
    pub(super) gpa: u64,
    pub(super) size: u64,
    pub(super) source: u64,
    pub(super) dirty: bool,
}

impl Machine {
    /// Every way that an access can take at this moment, the stalest first. `flat`: it may use entries that combine with a stage 1
    /// that is off.
    pub(super) fn candidates(&self, cpu: usize, gpa: u64, access: Access, flat: bool) -> Vec<Candidate> {
        let state = &self.cpus[cpu];
        let regime = state.regime();
        if regime.is_bare() {
            return vec![bare(gpa)];
        }
        let (mut found, mut by_table) = (Vec::new(), Vec::new());
        for entry in state.tlb.matching(regime.tag(), gpa) {
            match entry.what {
                What::Flat(_) if !flat => {}
                What::Leaf(leaf) | What::Flat(leaf) => {
                    // With the dirty flag still to be set, the hardware has to walk.
                    if regime.check(&leaf, access).is_ok() && regime.dirties(&leaf, access) {
                        continue;
                    }
                    let source = match entry.what {
                        What::Flat(_) => Source::Combined(entry.source),
                        _ => Source::CachedLeaf(entry.source),
                    };
                    let result = regime.result(gpa, entry.level, End::Leaf(leaf), access);
                    let outcome = Outcome { result, source };
                    let range = (entry.base, entry.size, entry.source);
                    found.push(Candidate { outcome, walked: None, leaf: range, dirty: leaf.is_dirty() });
                }
                What::Invalid(kind) => {
                    let result = regime.result(gpa, entry.level, End::Fault(kind), access);
                    let outcome = Outcome { result, source: Source::CachedInvalid(entry.source) };
                    found.push(Candidate { outcome, walked: None, leaf: (0, 0, 0), dirty: false });
                }
                What::Table(node) => {
                    let path = regime.walk_from(&self.ram, node, gpa);
                    let source = Source::CachedTable(node.table);
                    by_table.push(walked(regime, path, entry.order, gpa, access, source));
                }
            }
        }
        let path = regime.walk(&self.ram, gpa);
        self.aliases(regime, &path, gpa, access, &mut found);
        found.append(&mut by_table);
        found.push(walked(regime, path, Order::Ordered { at: 0 }, gpa, access, Source::Walk));
        found
    }

    /// Svnapot: "implicit reads of NAPOT page table entries may create address-translation cache entries" for any of the pages
    /// that such an entry covers, so each of sixteen serves all, whatever the walk for `gpa` finds in its own.
    fn aliases(&self, regime: &Regime, path: &Path, gpa: u64, access: Access, found: &mut Vec<Candidate>) {
        const SIXTEEN: u64 = 16 * 8;
        let (Some((own, _)), Some(step)) = (path.last, path.steps.last()) else { return };
        if !regime.has_napot() || path.level != 0 {
            return;
        }
        let first = own & !(SIXTEEN - 1);
        for source in (first..first + SIXTEEN).step_by(8).filter(|entry| *entry != own) {
            let Some(raw) = self.ram.read(source) else { continue };
            let Decoded::Leaf(leaf) = regime.decode(&step.node, source, raw) else { continue };
            let serves = leaf.size > 1 << 12 && leaf.set_accessed == 0;
            if !serves || regime.check(&leaf, access).is_ok() && regime.dirties(&leaf, access) {
                continue;
            }
            let result = regime.result(gpa, path.level, End::Leaf(leaf), access);
            let outcome = Outcome { result, source: Source::CachedLeaf(source) };
            let range = (gpa & !(leaf.size - 1), leaf.size, source);
            found.push(Candidate { outcome, walked: None, leaf: range, dirty: leaf.is_dirty() });
        }
    }

    /// An access takes one of the candidates.
    pub(super) fn access_second(
        &mut self,
        cpu: usize,
        gpa: u64,
        access: Access,
        flat: bool,
    ) -> Result<Found, Fault> {
        self.cpus[cpu].previous_tag = None; // the entry to the guest synchronizes
        loop {
            let mut candidates = self.candidates(cpu, gpa, access, flat);
            let index = match self.policy {
                Policy::Everything => 0,
                Policy::Seeded(_) => (self.random() % candidates.len() as u64) as usize,
            };
            let candidate = candidates.swap_remove(index);
            let regime = self.cpus[cpu].regime().clone();
            if let Some((path, _)) = &candidate.walked {
                self.report_walk(cpu, gpa, path);
            }
            let translation = match candidate.outcome.result {
                Ok(translation) => translation,
                Err(fault) => {
                    if let Regime::Ept(_) = regime {
                        if fault.kind != FaultKind::Reserved {
                            self.cpus[cpu].tlb.drop_violated(regime.tag(), gpa);
                        }
                    } else if let Some((path, order)) = &candidate.walked {
                        self.keep(cpu, gpa, path, *order);
                    }
                    return Err(fault);
                }
            };
            let mut dirty = candidate.dirty;
            if let Some((mut path, order)) = candidate.walked {
                if !self.update(&regime, &mut path, access) {
                    continue; // somebody else changed an entry: walk again
                }
                self.keep(cpu, gpa, &path, order);
                if let End::Leaf(leaf) = path.end {
                    dirty = leaf.is_dirty();
                }
            }
            let (base, size, source) = candidate.leaf;
            return Ok(Found { translation, gpa: base, size, source, dirty });
        }
    }

    /// A speculative walk from the root.
    pub(super) fn fetch(&mut self, cpu: usize, gpa: u64) {
        let regime = self.cpus[cpu].regime().clone();
        if regime.is_bare() {
            return;
        }
        loop {
            let mut path = regime.walk(&self.ram, gpa);
            self.report_walk(cpu, gpa, &path);
            if self.update(&regime, &mut path, Access::READ) {
                self.keep(cpu, gpa, &path, Order::Ordered { at: 0 });
                return;
            }
        }
    }

    /// Sets the flags that the walk has to set, by compare-exchange as the hardware does; whether no entry has changed.
    fn update(&mut self, regime: &Regime, path: &mut Path, access: Access) -> bool {
        let mut updates = std::mem::take(&mut path.updates);
        if let (End::Leaf(leaf), Some((entry, raw))) = (&mut path.end, path.last) {
            if regime.dirties(leaf, access) {
                match updates.iter_mut().find(|update| update.0 == entry) {
                    Some(update) => update.2 |= leaf.set_dirty,
                    None => updates.push((entry, raw, leaf.set_dirty)),
                }
                leaf.set_dirty = 0;
            }
            leaf.set_accessed = 0;
        }
        for (entry, raw, set) in updates {
            let Some(word) = self.ram.word(entry) else { return false };
            if word.compare_exchange(raw, raw | set, Ordering::SeqCst, Ordering::SeqCst).is_err() {
                return false;
            }
            self.mirror.write(entry, raw | set);
            for step in path.steps.iter_mut().filter(|step| step.entry == entry) {
                step.raw |= set;
            }
            if let Some(last) = path.last.as_mut().filter(|last| last.0 == entry) {
                last.1 |= set;
            }
        }
        true
    }

    /// Keeps what a walk found.
    fn keep(&mut self, cpu: usize, gpa: u64, path: &Path, order: Order) {
        let arm = matches!(self.mmu, Mmu::Stage2(_));
        let state = &mut self.cpus[cpu];
        let regime = state.regime();
        let tag = regime.tag();
        let caches = {
            let regime = regime.clone();
            move |kind| regime.caches(kind)
        };
        let mut keep = |base, size, level, source, raw, what| {
            state.tlb.insert(Entry { tag, base, size, level, source, raw, what, order });
        };
        let mut cacheable = path.updates.is_empty();
        for step in &path.steps {
            // Where an accessed flag could not be set, nothing below may be kept either.
            cacheable &= path.updates.iter().all(|update| update.0 != step.entry);
            if cacheable {
                let Node { base, level, .. } = step.node;
                keep(base, step.node.span(), level + 1, step.entry, step.raw, What::Table(step.node));
            }
        }
        let Some((source, raw)) = path.last else { return };
        match path.end {
            End::Leaf(leaf) if cacheable && leaf.set_accessed == 0 => {
                let base = gpa & !(leaf.size - 1);
                keep(base, leaf.size, path.level, source, raw, What::Leaf(leaf));
                if arm {
                    keep(base, leaf.size, path.level, source, raw, What::Flat(leaf));
                }
            }
            End::Fault(kind) if caches(kind) => {
                let size = 1 << (12 + 9 * u32::from(path.level));
                keep(gpa & !(size - 1), size, path.level, source, raw, What::Invalid(kind));
            }
            _ => {}
        }
    }

    fn report_walk(&mut self, cpu: usize, gpa: u64, path: &Path) {
        if let Some(hpa) = path.outside {
            self.report(Report::TableOutsideRam { cpu, hpa, gpa });
        }
        if let (End::Fault(FaultKind::Reserved | FaultKind::AddressSize), Some((entry, value))) =
            (path.end, path.last)
        {
            self.report(Report::Reserved { cpu, entry, value, gpa });
        }
    }
}

fn walked(regime: &Regime, path: Path, order: Order, gpa: u64, access: Access, source: Source) -> Candidate {
    let outcome = Outcome { result: regime.result(gpa, path.level, path.end, access), source };
    let (leaf, dirty) = match (path.end, path.last) {
        (End::Leaf(leaf), Some((entry, _))) => ((gpa & !(leaf.size - 1), leaf.size, entry), leaf.is_dirty()),
        _ => ((0, 0, 0), false),
    };
    Candidate { outcome, walked: Some((path, order)), leaf, dirty }
}

/// hgatp MODE Bare: guest physical addresses are host physical ones.
fn bare(gpa: u64) -> Candidate {
    let size = 1 << 12;
    let leaf = Leaf {
        hpa: gpa & !(size - 1),
        size,
        permissions: Permissions::ALL,
        memory: Memory::Gstage { pbmt: 0 },
        set_accessed: 0,
        set_dirty: 0,
        access_faults: false,
        store_faults: false,
    };
    let outcome = Outcome { result: Ok(translate(&leaf, gpa)), source: Source::Walk };
    Candidate { outcome, walked: None, leaf: (leaf.hpa, size, 0), dirty: true }
}
