//! What a unit guest runs in: a host, the extension turned on, spaces with memory, the other CPU.

use super::failed;
use crate::arch::x86_64::bare::vendor::{self, Host, Intercepts, Vendor};
use crate::arch::x86_64::bare::{Cpus, beside, mask_interrupts, this_cpu};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Deref;
use slat::{AddrSpace, AllocOptions, FaultOutcome, GuestPhysAddr, LeafSize, MappingFlags, PAGE_SIZE};
use slat_x86::{CpuState, Exit, Vcpu as _};

/// The failure `$message` unless `$condition` holds.
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err(alloc::format!($($message)+));
        }
    };
}
pub(in crate::arch::x86_64) use ensure;

/// A failure that shows both values unless they are equal.
macro_rules! ensure_eq {
    ($left:expr, $right:expr, $what:expr) => {
        match (&$left, &$right) {
            (left, right) => {
                if left != right {
                    return Err(alloc::format!("{}: {left:x?} instead of {right:x?}", $what));
                }
            }
        }
    };
}
pub(in crate::arch::x86_64) use ensure_eq;

/// Everything that guest RAM allows.
pub(in crate::arch::x86_64) const RAM: MappingFlags =
    MappingFlags::READ.union(MappingFlags::WRITE).union(MappingFlags::EXECUTE).union(MappingFlags::USER);

/// The machine, without an extension.
pub(in crate::arch::x86_64) struct Bench {
    /// Where frames come from; those that do not come back are reported.
    pub(in crate::arch::x86_64) host: Host,
}

impl Bench {
    pub(super) fn new(host: Host) -> Self {
        Self { host }
    }

    /// Lets CPU 1 do `work` while this one does `here`; returns when both are done.
    ///
    /// # Errors
    /// One line if there is no CPU 1.
    pub(in crate::arch::x86_64) fn beside<R: Send, S>(
        &self,
        work: impl FnOnce() -> R + Send,
        here: impl FnOnce() -> S,
    ) -> Result<(R, S), String> {
        beside(1, work, here).map_err(ToString::to_string)
    }
}

/// A machine with the extension of vendor `V` turned on, on CPU 0.
pub(in crate::arch::x86_64) struct Context<V: Vendor> {
    bench: Bench,
    /// The vendor, with the capabilities of the CPU.
    pub(in crate::arch::x86_64) vendor: V,
}

impl<V: Vendor> Deref for Context<V> {
    type Target = Bench;

    fn deref(&self) -> &Bench {
        &self.bench
    }
}

impl<V: Vendor> Drop for Context<V> {
    fn drop(&mut self) {
        self.vendor.turn_off(0);
    }
}

impl<V: Vendor> Context<V> {
    pub(super) fn new(host: Host) -> Result<Self, String> {
        let vendor = V::detect(host)?;
        vendor.turn_on(0)?;
        mask_interrupts();
        Ok(Self { bench: Bench::new(host), vendor })
    }

    /// As [`beside`](Bench::beside), with the extension turned on on CPU 1 while it works.
    ///
    /// # Errors
    /// One line if there is no CPU 1, or it lacks something.
    pub(in crate::arch::x86_64) fn beside_on<R: Send, S>(
        &self,
        work: impl FnOnce() -> R + Send,
        here: impl FnOnce() -> S,
    ) -> Result<(R, S), String> {
        let work = || {
            self.vendor.turn_on(1)?;
            let result = work();
            self.vendor.turn_off(1);
            Ok(result)
        };
        let (result, here) = self.bench.beside(work, here)?;
        result.map(|result| (result, here))
    }

    /// A space without regions, for all of what the format can address.
    ///
    /// # Errors
    /// One line.
    pub(in crate::arch::x86_64) fn space(&self) -> Result<Space<V>, String> {
        let format = self.vendor.format(None)?;
        self.space_of(format)
    }

    /// The same in another `format` of the vendor's.
    ///
    /// # Errors
    /// One line.
    pub(in crate::arch::x86_64) fn space_of(&self, format: V::Format) -> Result<Space<V>, String> {
        let size = 1 << slat::format::Format::geometry(&format).gpa_bits;
        let space = AddrSpace::with_format(self.host, format, GuestPhysAddr::new(0), size, 0);
        let space = space.map_err(|error| failed("a space", error))?;
        let cpus = self.host.maintenance().register(space.root_register());
        Ok(Space { cpus, host: self.host, space })
    }

    /// A space with RAM from 0 to `bytes` in leaves of 4 KiB, populated by faults.
    ///
    /// # Errors
    /// One line.
    pub(in crate::arch::x86_64) fn ram(&self, bytes: u64) -> Result<Space<V>, String> {
        let mut space = self.space()?;
        let options =
            AllocOptions { populate: false, largest_leaf: LeafSize::Size4K, fault_around: LeafSize::Size4K };
        space
            .map_alloc_with(GuestPhysAddr::new(0), bytes, RAM, options)
            .map_err(|error| failed("RAM", error))?;
        Ok(space)
    }

    /// A vCPU that exits on HLT, bound to this CPU, on `space` and in `state`.
    ///
    /// # Errors
    /// One line.
    pub(in crate::arch::x86_64) fn vcpu(
        &self,
        space: &Space<V>,
        state: &CpuState,
    ) -> Result<V::Vcpu, String> {
        self.vcpu_with(&Intercepts { halt: true, ..Intercepts::default() }, space, state)
    }

    /// The same with other intercepts.
    ///
    /// # Errors
    /// One line.
    pub(in crate::arch::x86_64) fn vcpu_with(
        &self,
        intercepts: &Intercepts,
        space: &Space<V>,
        state: &CpuState,
    ) -> Result<V::Vcpu, String> {
        let mut vcpu = self.vendor.vcpu(intercepts)?;
        vcpu.bind(this_cpu()).map_err(|error| failed("bind", error))?;
        vcpu.set_root(space.root_register()).map_err(|error| failed("set_root", error))?;
        vcpu.set_state(state).map_err(|error| failed("set_state", error))?;
        Ok(vcpu)
    }
}

/// An address space and the CPUs that run it.
pub(in crate::arch::x86_64) struct Space<V: Vendor> {
    /// Which CPUs have to be told of a change.
    pub(in crate::arch::x86_64) cpus: Arc<Cpus>,
    host: Host,
    space: AddrSpace<Host, V::Format>,
}

impl<V: Vendor> Deref for Space<V> {
    type Target = AddrSpace<Host, V::Format>;

    fn deref(&self) -> &Self::Target {
        &self.space
    }
}

impl<V: Vendor> core::ops::DerefMut for Space<V> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.space
    }
}

impl<V: Vendor> Drop for Space<V> {
    fn drop(&mut self) {
        // Whoever was inside has left, so there is nobody to be told of what the space does when it goes.
        self.host.maintenance().unregister(self.space.root_register());
    }
}

impl<V: Vendor> Space<V> {
    /// Copies `bytes` into the guest's memory at `gpa`, which has a region of RAM.
    ///
    /// # Errors
    /// One line.
    pub(in crate::arch::x86_64) fn load(&self, gpa: u64, bytes: &[u8]) -> Result<(), String> {
        self.space.memory().write(GuestPhysAddr::new(gpa), bytes).map_err(|error| failed("load", error))
    }

    /// The 8 bytes of the guest's memory at `gpa` as a number.
    ///
    /// # Errors
    /// One line.
    pub(in crate::arch::x86_64) fn word(&self, gpa: u64) -> Result<u64, String> {
        let mut bytes = [0; 8];
        self.space
            .memory()
            .read(GuestPhysAddr::new(gpa), &mut bytes)
            .map_err(|error| failed("word", error))?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Puts a guest's own tables at `gpa`: `pages` pages that map the first GiB one to one, as CR3 wants them (4 levels; a
    /// page directory of 2 MiB leaves). Takes three pages.
    ///
    /// # Errors
    /// One line.
    pub(in crate::arch::x86_64) fn load_identity_tables(&self, gpa: u64) -> Result<(), String> {
        const TABLE: u64 = 7;
        const LEAF: u64 = 0x87;
        self.load(gpa, &(gpa + PAGE_SIZE + TABLE).to_le_bytes())?;
        self.load(gpa + PAGE_SIZE, &(gpa + 2 * PAGE_SIZE + TABLE).to_le_bytes())?;
        let leaves: Vec<u8> = (0..512).flat_map(|index: u64| (index << 21 | LEAF).to_le_bytes()).collect();
        self.load(gpa + 2 * PAGE_SIZE, &leaves)
    }

    /// Enters the guest once, with the maintenance that an entry owes.
    ///
    /// # Errors
    /// One line if the CPU refuses.
    pub(in crate::arch::x86_64) fn enter(&self, vcpu: &mut V::Vcpu) -> Result<Exit, String> {
        self.entrance().enter::<V>(vcpu)
    }

    /// The way into the space, for a CPU that runs its guest while this one changes it.
    pub(in crate::arch::x86_64) fn entrance(&self) -> Entrance {
        Entrance { cpus: Arc::clone(&self.cpus), host: self.host }
    }

    /// Runs the guest until it exits for something else than a fault that the space can answer, or an NMI of the host's.
    ///
    /// # Errors
    /// One line if the CPU refuses, or a fault cannot be answered.
    pub(in crate::arch::x86_64) fn run(&self, vcpu: &mut V::Vcpu) -> Result<Exit, String> {
        loop {
            match self.enter(vcpu)? {
                Exit::NestedPageFault(fault) => match self.space.handle_nested_fault(&fault.info) {
                    Ok(
                        FaultOutcome::Populated(_)
                        | FaultOutcome::Spurious
                        | FaultOutcome::Marked
                        | FaultOutcome::MadeWritable
                        | FaultOutcome::Retry,
                    ) => {}
                    outcome => return Err(format!("{}: {outcome:?}", fault.info)),
                },
                Exit::Nmi => {}
                exit => return Ok(exit),
            }
        }
    }
}

/// How a CPU gets into a space.
pub(in crate::arch::x86_64) struct Entrance {
    cpus: Arc<Cpus>,
    host: Host,
}

impl Entrance {
    /// Enters the guest once, with the maintenance that an entry owes.
    ///
    /// # Errors
    /// One line if the CPU refuses.
    pub(in crate::arch::x86_64) fn enter<V: Vendor>(&self, vcpu: &mut V::Vcpu) -> Result<Exit, String> {
        let cpu = this_cpu();
        let flush = vendor::enter::<V>(self.host, &self.cpus, cpu);
        let exit = vcpu.run(flush);
        vendor::leave(self.host, &self.cpus, cpu);
        if let Ok(Exit::NestedPageFault(fault)) = &exit {
            vendor::faulted(self.host, &fault.info);
        }
        exit.map_err(|error| failed("entry", error))
    }
}
