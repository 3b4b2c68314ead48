//! What TLBs keep when a store takes something out of the tables, and what could still reach memory.

use std::collections::BTreeSet;
use std::ops::Range;

use super::{Cpu, Machine, Policy};
use crate::access::FaultKind;
use crate::mmu::{Mmu, Root};
use crate::ram::{Mirror, Words};
use crate::report::{Reach, Report};
use crate::tlb::{Entry, Order, What};
use crate::walk::{Decoded, Leaf, Node, Regime, needs_break_before_make};

/// A table that a CPU can walk to, and whether it could have done so already: not where an accessed flag on the way is clear
/// that the hardware would have set.
#[derive(Clone, Copy, PartialEq)]
struct Walkable {
    node: Node,
    used: bool,
    /// By a pointer that it has cached, which may lead to where there is no table any more.
    cached: bool,
}

impl Machine {
    /// A store: everything that was reachable by the old value is kept, then the new value is looked at.
    pub(super) fn capture(&mut self, storing: usize, hpa: u64, new: u64) {
        let hpa = hpa & !7;
        let Some(old) = self.mirror.read(hpa) else { return };
        if old == new {
            return;
        }
        let order = match self.mmu {
            Mmu::Ept(_) | Mmu::Npt(_) => Order::Ordered { at: self.clock },
            Mmu::Stage2(_) | Mmu::Gstage(_) => Order::Unordered { by: storing },
        };
        let mut reached = Vec::new();
        for cpu in 0..self.cpus.len() {
            let unseen = !self.cpus[cpu].sees(hpa);
            for Walkable { node, used, cached } in self.tables_at(cpu, hpa) {
                if used && !unseen {
                    self.keep_below(cpu, &node, hpa, old, order);
                    if old != 0 {
                        self.note_change(&node, hpa);
                    }
                }
                // A CPU that walks nothing may have dropped the pointer when it walks again.
                if !(cached && self.is_paused(cpu)) {
                    reached.push((cpu, node));
                }
            }
        }
        let tags = reached.iter().filter_map(|(cpu, _)| Some(self.live(*cpu)?.tag())).collect();
        self.check_break_before_make(hpa, new, &tags);
        self.mirror.write(hpa, new);
        for state in &mut self.cpus {
            state.stored_unseen(hpa);
        }
        for (cpu, node) in reached {
            self.check_new(cpu, &node, hpa, new);
        }
    }

    /// The host wrote to a frame: where that was a table that a CPU can walk to, each word is a store.
    pub(super) fn overwritten(&mut self, frame: u64) {
        let differs = |machine: &Self, hpa| {
            let old = machine.mirror.read(hpa).filter(|old| *old != 0)?;
            machine.ram.read(hpa).filter(|now| *now != old)
        };
        let words = || (frame..frame + 4096).step_by(8);
        let was_table = self.mirror.holds(frame) && words().any(|hpa| differs(self, hpa).is_some());
        if !was_table || (0..self.cpus.len()).all(|cpu| self.tables_at(cpu, frame).is_empty()) {
            return;
        }
        for hpa in words() {
            if let Some(now) = differs(self, hpa) {
                self.capture(0, hpa, now);
            }
        }
    }

    /// The CPU leaves its root: whatever it could have fetched stays.
    pub(super) fn leave(&mut self, cpu: usize) {
        let Some(regime) = self.live(cpu).cloned() else { return };
        let mut kept: Vec<Walkable> = Vec::new();
        for start in self.starts(cpu, &regime) {
            if start.used && !kept.iter().any(|known| known.node == start.node) {
                reached(&regime, &self.mirror, &self.cpus[cpu], start, &mut kept);
                self.keep_table(cpu, &regime, &start.node, Order::Ordered { at: 0 });
            }
        }
    }

    /// Brings the mirror up to date for all tables of a root that is about to be loaded.
    pub(super) fn refresh(&mut self, regime: &Regime) {
        if let Ok(root) = regime.root() {
            self.refresh_below(regime, &root);
        }
    }

    fn refresh_below(&mut self, regime: &Regime, node: &Node) {
        for entry in (node.table..node.table + node.bytes()).step_by(8) {
            let Some(raw) = self.ram.read(entry) else { continue };
            self.mirror.write(entry, raw);
            if raw != 0 && node.level > 0 {
                if let Decoded::Table { node: next, .. } = regime.decode(node, entry, raw) {
                    self.refresh_below(regime, &next);
                }
            }
        }
    }

    /// The translation that a CPU walks at present.
    fn live(&self, cpu: usize) -> Option<&Regime> {
        let state = &self.cpus[cpu];
        state.root.and(state.regime.as_ref()).filter(|regime| !regime.is_bare())
    }

    /// Where a CPU's walks can begin: at the root, or at a cached pointer to a table.
    fn starts(&self, cpu: usize, regime: &Regime) -> Vec<Walkable> {
        let used = !self.cpus[cpu].knows_nothing();
        let root = |node| Walkable { node, used, cached: false };
        let mut starts: Vec<Walkable> = regime.root().into_iter().map(root).collect();
        for node in self.cpus[cpu].tlb.tables(regime.tag()) {
            let start = Walkable { node, used: true, cached: true };
            if !starts.contains(&start) {
                starts.push(start);
            }
        }
        starts
    }

    /// The tables that hold this entry and that the CPU can walk to, by the memory before the store.
    fn tables_at(&self, cpu: usize, hpa: u64) -> Vec<Walkable> {
        let mut found = Vec::new();
        if let Some(regime) = self.live(cpu) {
            for start in self.starts(cpu, regime) {
                find(regime, &self.mirror, &self.cpus[cpu], start, hpa, &mut found);
            }
        }
        found
    }

    /// Keeps what one entry stands for, and all that is below it.
    fn keep_below(&mut self, cpu: usize, node: &Node, source: u64, raw: u64, order: Order) {
        let Some(regime) = self.live(cpu).cloned() else { return };
        self.keep_entry(cpu, &regime, node, source, raw, order);
    }

    fn keep_entry(&mut self, cpu: usize, regime: &Regime, node: &Node, source: u64, raw: u64, order: Order) {
        let (what, size) = match regime.decode(node, source, raw) {
            Decoded::Table { node: next, set_accessed: 0 } => {
                self.keep_table(cpu, regime, &next, order);
                (What::Table(next), next.span())
            }
            Decoded::Leaf(leaf) if leaf.set_accessed == 0 => (What::Leaf(leaf), leaf.size),
            Decoded::Fault(kind) if regime.caches(kind) => (What::Invalid(kind), 1 << node.shift()),
            _ => return,
        };
        let base = node.input(source) & !(size - 1);
        let entry = Entry { tag: regime.tag(), base, size, level: node.level, source, raw, what, order };
        self.remember(cpu, entry);
        if let (Mmu::Stage2(_), What::Leaf(leaf)) = (&self.mmu, what) {
            self.remember(cpu, Entry { what: What::Flat(leaf), ..entry });
        }
    }

    fn keep_table(&mut self, cpu: usize, regime: &Regime, node: &Node, order: Order) {
        for entry in (node.table..node.table + node.bytes()).step_by(8) {
            match self.mirror.read(entry).filter(|_| self.cpus[cpu].sees(entry)) {
                // An absent entry of a format that does not cache absence.
                Some(0) if !regime.caches(FaultKind::NotPresent) => {}
                Some(raw) => self.keep_entry(cpu, regime, node, entry, raw, order),
                None => {}
            }
        }
    }

    fn remember(&mut self, cpu: usize, entry: Entry) {
        let keeps = match self.policy {
            Policy::Everything => true,
            Policy::Seeded(_) => self.random() >> 32 & 1 == 0,
        };
        if keeps {
            self.cpus[cpu].tlb.insert(entry);
        }
    }

    /// `tags` are those under which the entry is reached: what is left under another one, of the table's life under an earlier
    /// VMID or of another table in the same frame, meets no translation by the new value. Where no CPU reaches it nobody knows
    /// under which it will be, and everything counts.
    fn check_break_before_make(&mut self, hpa: u64, new: u64, tags: &BTreeSet<u64>) {
        let Mmu::Stage2(arm) = self.mmu.clone() else { return };
        let mut found = Vec::new();
        for (cpu, state) in self.cpus.iter().enumerate() {
            for held in state.tlb.read_from(hpa).filter(|held| tags.is_empty() || tags.contains(&held.tag)) {
                if needs_break_before_make(&arm, held.level, held.raw, new) {
                    found.push(Report::BreakBeforeMake { cpu, entry: hpa, old: held.raw, new });
                }
            }
        }
        found.into_iter().for_each(|report| self.report(report));
    }

    /// Looks at an entry that a CPU can walk to from now on, and at what is below it.
    fn check_new(&mut self, cpu: usize, node: &Node, hpa: u64, raw: u64) {
        let Some(regime) = self.live(cpu).cloned() else { return };
        match regime.decode(node, hpa, raw) {
            Decoded::Fault(FaultKind::Reserved | FaultKind::AddressSize) => {
                self.report(Report::Reserved { cpu, entry: hpa, value: raw, gpa: node.input(hpa) });
            }
            Decoded::Fault(_) => {}
            Decoded::Leaf(leaf) => self.check_cleaned(hpa, &leaf),
            Decoded::Table { node: next, .. } => {
                for entry in (next.table..next.table + next.bytes()).step_by(8) {
                    let Some(below) = self.ram.read(entry) else {
                        let gpa = next.base;
                        self.report(Report::TableOutsideRam { cpu, hpa: entry, gpa });
                        return;
                    };
                    self.mirror.write(entry, below);
                    if below != 0 {
                        self.check_new(cpu, &next, entry, below);
                    }
                }
            }
        }
    }

    fn check_cleaned(&mut self, entry: u64, leaf: &Leaf) {
        if let Some(&line) = self.dirty_lines.range(leaf.hpa..leaf.hpa + leaf.size).next() {
            self.report(Report::NotCleaned { entry, line });
        }
    }

    /// `current`: only by what the root register that the CPU has makes it use. `walks`: by walks, too.
    pub(super) fn reaches_by(
        &self,
        cpu: usize,
        memory: &Range<u64>,
        current: bool,
        walks: bool,
    ) -> Option<Reach> {
        let overlaps = |start: u64, bytes: u64| start < memory.end && memory.start < start + bytes;
        let leads = |decoded: &Decoded| match decoded {
            Decoded::Leaf(leaf) => overlaps(leaf.hpa, leaf.size),
            Decoded::Table { node, .. } => overlaps(node.table, node.bytes()),
            Decoded::Fault(_) => false,
        };
        let state = &self.cpus[cpu];
        let (only, vpid) = match (current, state.root, &state.regime) {
            (false, ..) => (None, None),
            (true, Some(Root::Ept { vpid, .. }), Some(regime)) => (Some(regime.tag()), Some(vpid)),
            (true, Some(_), Some(regime)) => (Some(regime.tag()), None),
            (true, ..) => return None,
        };
        let usable = |tag: u64| only.is_none_or(|only| only == tag);
        let cached = state.tlb.leading_to(memory).filter(|entry| usable(entry.tag)).find_map(|entry| {
            let (gpa, source) = (entry.base, entry.source);
            match entry.what {
                What::Table(_) => Some(Reach::CachedTable { gpa, entry: source }),
                What::Leaf(_) => Some(Reach::CachedLeaf { gpa, entry: source }),
                What::Flat(_) => Some(Reach::Combined { gva: gpa, entry: source }),
                What::Invalid(_) => None,
            }
        });
        if cached.is_some() {
            return cached;
        }
        for entry in &state.tlb.combined {
            if !usable(entry.tag) || vpid.is_some_and(|vpid| vpid != entry.vpid) {
                continue;
            }
            if overlaps(entry.translation.hpa, entry.size) {
                return Some(Reach::Combined { gva: entry.gva, entry: entry.source });
            }
        }
        let regime = state.regime.as_ref().filter(|_| walks)?;
        let mut found = None;
        // What was walked from the root need not be walked again.
        let mut walked = BTreeSet::new();
        if state.root.is_some() {
            if regime.is_bare() {
                return Some(Reach::Root);
            }
            if let Ok(root) = regime.root() {
                if overlaps(root.table, root.bytes()) {
                    return Some(Reach::Root);
                }
                regime.visit(&self.ram, &root, &mut |node, entry, _, decoded| {
                    if found.is_none() && leads(decoded) {
                        found = Some(Reach::Walk { gpa: node.input(entry), entry });
                    }
                    if let Decoded::Table { node, .. } = decoded {
                        walked.insert((node.table, node.level, node.index_bits));
                    }
                    found.is_none()
                });
            }
        }
        let cached_tables: Vec<Node> = match only {
            Some(tag) => state.tlb.tables(tag).collect(),
            None => state.tlb.all_tables().collect(),
        };
        for start in cached_tables {
            if !walked.insert((start.table, start.level, start.index_bits)) {
                continue;
            }
            regime.visit(&self.ram, &start, &mut |node, entry, _, decoded| {
                if found.is_none() && leads(decoded) {
                    found = Some(Reach::CachedWalk { gpa: node.input(entry), entry });
                }
                found.is_none()
            });
        }
        found
    }

    /// A cached pointer to a table in this memory that a walk from the root does not come by any more.
    pub(super) fn dangling_by(&self, cpu: usize, memory: &Range<u64>) -> Option<Reach> {
        let state = &self.cpus[cpu];
        let regime = state.root.and(state.regime.as_ref())?;
        let root = regime.root().ok()?;
        state.tlb.leading_to(memory).filter(|entry| entry.tag == regime.tag()).find_map(|entry| {
            let What::Table(kept) = entry.what else { return None };
            let same =
                |node: &Node| (node.table, node.level, node.base) == (kept.table, kept.level, kept.base);
            let mut current = same(&root);
            regime.visit(&self.ram, &root, &mut |_, _, _, decoded| {
                current |= matches!(decoded, Decoded::Table { node, .. } if same(node));
                !current
            });
            (!current).then_some(Reach::CachedTable { gpa: entry.base, entry: entry.source })
        })
    }
}

/// Finds the tables below `start`.
fn reached(regime: &Regime, memory: &Mirror, cpu: &Cpu, start: Walkable, found: &mut Vec<Walkable>) {
    regime.visit(memory, &start.node, &mut |_, entry, _, decoded| match decoded {
        Decoded::Table { node, set_accessed: 0 } if cpu.sees(entry) => {
            found.push(Walkable { node: *node, ..start });
            true
        }
        _ => false,
    });
}

/// Finds the tables that hold `hpa`, at or below `start`.
fn find(regime: &Regime, memory: &Mirror, cpu: &Cpu, start: Walkable, hpa: u64, found: &mut Vec<Walkable>) {
    let node = start.node;
    if (node.table..node.table + node.bytes()).contains(&hpa)
        && !found.iter().any(|known| known.node == node && (known.used || !start.used))
    {
        found.push(start);
    }
    if node.level == 0 {
        return;
    }
    for entry in (node.table..node.table + node.bytes()).step_by(8) {
        let Some(raw) = memory.read(entry).filter(|&raw| raw != 0) else { continue };
        if let Decoded::Table { node: next, set_accessed } = regime.decode(&node, entry, raw) {
            let used = start.used && set_accessed == 0 && cpu.sees(entry);
            find(regime, memory, cpu, Walkable { node: next, used, ..start }, hpa, found);
        }
    }
}
