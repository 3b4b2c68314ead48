//! What a CPU could still use although the tables say something else by now.

use std::collections::BTreeSet;
use std::ops::Range;

use super::Machine;
use crate::access::{Access, Source};
use crate::report::Stale;
use crate::tlb::What;
use crate::walk::{Decoded, Node, Regime};

impl Machine {
    pub(super) fn stale_of(&self, cpu: usize, within: &Range<u64>) -> Vec<Stale> {
        let mut found = Vec::new();
        let state = &self.cpus[cpu];
        let regime = state.root.and(state.regime.as_ref()).filter(|regime| !regime.is_bare());
        if let Some(regime) = regime {
            for range in self.remembered(cpu, regime, within) {
                self.compare(cpu, regime, range, &mut found);
            }
        }
        found
    }

    /// A store changed what a CPU could have cached: the guest physical addresses that the entry translates.
    pub(super) fn note_change(&mut self, node: &Node, hpa: u64) {
        self.changed.insert((node.input(hpa), 1 << node.shift()));
    }

    /// The guest physical ranges for which a CPU has something other than a walk from the root.
    fn remembered(&self, cpu: usize, regime: &Regime, within: &Range<u64>) -> BTreeSet<(u64, u64)> {
        let mut ranges = BTreeSet::new();
        let mut add = |start: u64, size: u64| {
            let (from, to) = (start.max(within.start), start.saturating_add(size).min(within.end));
            if from < to {
                ranges.insert((from, to));
            }
        };
        for entry in self.cpus[cpu].tlb.overlapping(regime.tag(), within) {
            match entry.what {
                What::Leaf(_) | What::Flat(_) => add(entry.base, entry.size),
                What::Table(start) => regime.visit(&self.ram, &start, &mut |node, at, _, decoded| {
                    let (base, size) = (node.input(at), 1 << node.shift());
                    match decoded {
                        Decoded::Leaf(leaf) => add(base & !(leaf.size - 1), leaf.size),
                        Decoded::Table { .. } => return base < within.end && within.start < base + size,
                        Decoded::Fault(_) => {}
                    }
                    true
                }),
                What::Invalid(_) => {}
            }
        }
        ranges
    }

    /// Compares what the CPU could do in a range with what a walk says, leaf by leaf of the walk.
    fn compare(&self, cpu: usize, regime: &Regime, (start, end): (u64, u64), found: &mut Vec<Stale>) {
        let mut gpa = start;
        while gpa < end {
            let span: u64 = 1 << (12 + 9 * u32::from(regime.walk(&self.ram, gpa).level));
            for access in [Access::READ, Access::WRITE, Access::EXECUTE] {
                let candidates = self.candidates(cpu, gpa, access, true);
                let walked = candidates.iter().rev().find(|way| way.outcome.source == Source::Walk);
                let Some(walked) = walked.map(|way| way.outcome.result) else { continue };
                let differs = candidates.iter().find_map(|way| match (way.outcome.result, walked) {
                    (Ok(cached), Ok(walked))
                        if (cached.hpa, cached.memory) == (walked.hpa, walked.memory) =>
                    {
                        None
                    }
                    (cached, _) => cached.ok(),
                });
                if let Some(cached) = differs {
                    found.push(Stale { cpu, gpa, access, cached, walked });
                    break;
                }
            }
            let Some(next) = (gpa | (span - 1)).checked_add(1) else { break };
            gpa = next;
        }
    }
}
