//! A space as text, for people.

use crate::addr::GuestPhysRange;
use crate::format::Format;
use crate::hal::Hal;
use crate::space::{AddrSpace, Backend, CustomBackend, NoBackend};
use crate::table::Mapping;
use core::fmt;

/// A space as text: a line for the space, one for each region, and below it one for each run of leaves that
/// continue each other. Made by [`AddrSpace::dump`].
pub struct Dump<'s, H: Hal, F: Format, B: CustomBackend = NoBackend> {
    space: &'s AddrSpace<H, F, B>,
}

impl<H: Hal, F: Format, B: CustomBackend> AddrSpace<H, F, B> {
    /// The space as text, regions and table:
    ///
    /// ```
    /// # use slat::{AddrSpace, GuestPhysAddr, HostPhysAddr, MappingFlags, test_util::HeapHal};
    /// # let mut space = AddrSpace::<HeapHal>::new_empty(GuestPhysAddr::new(0), 1 << 30)?;
    /// space.map_linear(GuestPhysAddr::new(0x9000), HostPhysAddr::new(0x4000), 0x3000, MappingFlags::READ)?;
    /// let text = space.dump().to_string();
    /// assert!(text.contains("0x9000..0xc000 r--- linear -> 0x4000"));
    /// assert!(text.contains("0x9000..0xc000 -> 0x4000 r--- 3 x 4K"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn dump(&self) -> Dump<'_, H, F, B> {
        Dump { space: self }
    }
}

/// Leaves that continue each other.
struct Run {
    first: Mapping,
    range: GuestPhysRange,
    leaves: u64,
}

impl Run {
    fn new(first: Mapping) -> Self {
        Self { first, range: first.range(), leaves: 1 }
    }

    fn extend(&mut self, next: &Mapping) -> bool {
        let continues = self.range.end() == next.gpa
            && self.first.hpa.checked_add(self.range.size()) == Some(next.hpa)
            && (self.first.flags, self.first.size, self.first.owned) == (next.flags, next.size, next.owned);
        if continues {
            self.range = self.range.hull(next.range());
            self.leaves += 1;
        }
        continues
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Mapping { hpa, flags, size, owned, .. } = self.first;
        write!(f, "    {} -> {hpa:#x} {flags} {} x {size}", self.range, self.leaves)?;
        f.write_str(if owned { " owned" } else { "" })
    }
}

impl<H: Hal, F: Format, B: CustomBackend> fmt::Display for Dump<'_, H, F, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let space = self.space;
        let levels = space.format().geometry().levels;
        writeln!(
            f,
            "space {}, root {:#x}, {levels} levels, tag {}",
            space.range(),
            space.root(),
            space.tag()
        )?;
        for region in space.regions() {
            write!(f, "  {} {} ", region.range, region.flags)?;
            match region.backend {
                Backend::Linear { hpa } => write!(f, "linear -> {hpa:#x}")?,
                Backend::Alloc { largest_leaf, .. } => write!(f, "alloc, leaves up to {largest_leaf}")?,
                Backend::Shared { memory, offset } => write!(f, "shared memory {} + {offset:#x}", memory.0)?,
                Backend::Private { memory, offset } => {
                    write!(f, "private copy of shared memory {} + {offset:#x}", memory.0)?;
                }
                Backend::Trap { device, offset } => write!(f, "{device} + {offset:#x}")?,
                Backend::Custom { source, offset } => write!(f, "custom {source} + {offset:#x}")?,
                Backend::Paged { source, offset } => write!(f, "paged {source} + {offset:#x}")?,
            }
            match region.pins {
                0 => writeln!(f)?,
                pins => writeln!(f, ", pinned {pins} x")?,
            }
            let mut run: Option<Run> = None;
            for mapping in space.mappings(region.range) {
                if run.as_mut().is_some_and(|run| run.extend(&mapping)) {
                    continue;
                }
                if let Some(done) = run.replace(Run::new(mapping)) {
                    writeln!(f, "{done}")?;
                }
            }
            if let Some(last) = run {
                writeln!(f, "{last}")?;
            }
        }
        Ok(())
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
