//! What the firmware's device tree tells of the harts, and what of it a guest may have.
//!
//! There are no ID registers for HS-mode: the tree is the only source. **A guest is shown an extension only if it is on the
//! list here:** one that adds registers which nobody switches between guests (vectors, pointer masking), or that
//! needs henvcfg (Svpbmt), stays hidden, and so does the hypervisor extension.

use super::flat_tree::FlatTree;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use slat::format::gstage::Extensions;
use thiserror::Error;

/// Single-letter extensions that a guest may have; all of them but the floating-point ones have no state of their own.
const LETTERS: &str = "imafdcb";

/// The same with longer names.
const NAMES: [&str; 22] = [
    "sstc",
    "svinval",
    "svnapot",
    "svvptc",
    "zba",
    "zbb",
    "zbc",
    "zbkb",
    "zbkc",
    "zbkx",
    "zbs",
    "zicbom",
    "zicboz",
    "zicntr",
    "zicond",
    "zicsr",
    "zifencei",
    "zihintntl",
    "zihintpause",
    "zawrs",
    "zcb",
    "zfa",
];

/// What the harts are like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Extensions that a guest is shown, in the order in which the firmware named them.
    pub extensions: Vec<String>,
    /// The ones that the hypervisor uses itself, hidden from guests or not.
    pub of_gstage: Extensions,
    /// Ticks of `time` in a second.
    pub timebase: u32,
    /// The widest paging mode, as the device tree names it.
    pub mmu_type: Option<String>,
    /// Bytes of a block of the cache for CBO instructions: for clean, invalidate and flush, and for zero.
    pub cache_blocks: [Option<u32>; 2],
}

/// The device tree does not tell what is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the firmware's device tree has no {0}")]
pub struct Missing(pub &'static str);

impl Host {
    /// What `tree` tells.
    ///
    /// # Errors
    /// [`Missing`], with the name of what is not there.
    pub fn from_tree(tree: &FlatTree<'_>) -> Result<Self, Missing> {
        let cpu = ["cpus", "cpu"];
        let (all, of_gstage): (Vec<String>, _) = match tree.property(&cpu, "riscv,isa-extensions") {
            Some(list) => {
                let names = String::from_utf8_lossy(list);
                (
                    names.split_terminator('\0').map(ToString::to_string).collect(),
                    Extensions::from_names(list),
                )
            }
            None => {
                let isa = tree.text(&cpu, "riscv,isa").ok_or(Missing("riscv,isa"))?;
                (split(isa), Extensions::from_isa_string(isa))
            }
        };
        let timebase = tree
            .number(&["cpus"], "timebase-frequency")
            .or_else(|| tree.number(&cpu, "timebase-frequency"))
            .ok_or(Missing("timebase-frequency"))?;
        let block = |name| tree.number(&cpu, name);
        Ok(Self {
            extensions: all.into_iter().filter(|name| is_for_guests(name)).collect(),
            of_gstage,
            timebase,
            mmu_type: tree.text(&cpu, "mmu-type").map(ToString::to_string),
            cache_blocks: [block("riscv,cbom-block-size"), block("riscv,cboz-block-size")],
        })
    }

    /// Whether a guest is shown the extension `name`.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.extensions.iter().any(|extension| extension == name)
    }

    /// The extensions as one string, `rv64` in front: the single letters together, the others behind underscores.
    #[must_use]
    pub fn isa(&self) -> String {
        let letters = self.extensions.iter().filter(|name| name.len() == 1).cloned();
        let others = self.extensions.iter().filter(|name| name.len() > 1);
        let others = others.flat_map(|name| ["_".to_string(), name.clone()]);
        ["rv64".to_string()].into_iter().chain(letters).chain(others).collect()
    }
}

fn is_for_guests(name: &str) -> bool {
    match name.len() {
        1 => LETTERS.contains(name),
        _ => NAMES.contains(&name),
    }
}

/// The extensions in an ISA string, without versions.
fn split(isa: &str) -> Vec<String> {
    let mut parts = isa.strip_prefix("rv64").unwrap_or_default().split('_');
    let letters = parts.next().unwrap_or_default();
    letters.chars().map(|letter| letter.to_string()).chain(parts.map(ToString::to_string)).collect()
}

#[cfg(test)]
mod tests;
