//! What the examples stand on: a machine whose RAM and CPUs are `slat_model`'s, as the host of address spaces and as what
//! their guests run on.
//!
//! The CPUs remember every translation that the architecture lets them remember, until the right invalidation reaches them. So the
//! host checks two things all along, and panics where they do not hold: nothing is stale after an invalidation of all
//! CPUs, and no frame comes back that a CPU still reaches. Yours would have an allocator and IPIs in their place.

#![expect(unsafe_code, reason = "implements Hal on the model's RAM")]

use slat::format::ept::{self, Ept};
use slat::format::gstage::{self, Gstage};
use slat::{
    AddrSpace, CacheMaintenance, CustomBackend, GuestPhysAddr, Hal, HostPhysAddr, Invalidation,
    NestedPageFaultInfo, PAGE_SIZE, Reach,
};
use slat_check::maintenance;
use slat_check::platform::Platform;
use slat_model::{Access, Fault, Machine, Policy, Ram};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;

/// Host physical address of the first frame.
const RAM_START: u64 = 0x8000_0000;
/// Frames that stand at the end for a root without entries, as large as any format's.
const EMPTY_ROOT: u64 = 16;

/// EPT on an Intel CPU with four levels, both kinds of INVEPT (IA32_VMX_EPT_VPID_CAP bits 20, 25 and 26) and, if wanted, accessed and
/// dirty flags (21). No large leaves, so that pages are what is counted.
#[must_use]
pub fn intel(accessed_dirty: bool) -> Ept {
    let baseline = ept::Capabilities::BASELINE;
    let ept_vpid_cap = baseline.ept_vpid_cap | 1 << 20 | 1 << 25 | 1 << 26 | u64::from(accessed_dirty) << 21;
    Ept::new(ept::Capabilities { ept_vpid_cap, accessed_dirty, ..baseline }, 4)
        .expect("what it asks for is offered")
}

/// The G-stage in three levels, on a hart with VMIDs of 14 bits and no extension.
#[must_use]
pub fn riscv() -> Gstage {
    let capabilities = gstage::Capabilities { vmid_bits: 14, ..gstage::Capabilities::BASELINE };
    Gstage::new(gstage::Mode::Sv39x4, capabilities).expect("what it asks for is offered")
}

/// A machine with one kind of CPU: `P` is slat's format, and knows which CPU walks it.
#[derive(Debug)]
pub struct Host<P: Platform> {
    platform: P,
    ram: Ram,
    machine: RefCell<Machine>,
    free: RefCell<BTreeSet<u64>>,
    last_store: Cell<u64>,
    invalidations: Cell<usize>,
}

impl<P: Platform> Host<P> {
    /// A machine with `frames` frames of 4 KiB, all of them free, and `cpus` CPUs.
    ///
    /// # Panics
    /// If there are more frames than addresses.
    #[must_use]
    pub fn new(platform: P, frames: u64, cpus: usize) -> Self {
        let frames = frames.next_multiple_of(EMPTY_ROOT);
        let ram = Ram::new(RAM_START, (frames + EMPTY_ROOT) * PAGE_SIZE);
        let machine = Machine::new(platform.mmu(), ram.clone(), cpus, Policy::Everything);
        let free = (0..frames).map(|frame| RAM_START + frame * PAGE_SIZE).collect();
        Self {
            platform,
            ram,
            machine: RefCell::new(machine),
            free: RefCell::new(free),
            last_store: Cell::new(0),
            invalidations: Cell::new(0),
        }
    }

    /// Frames that are free.
    #[must_use]
    pub fn free_frames(&self) -> usize {
        self.free.borrow().len()
    }

    /// The last entry that was stored to a table.
    #[must_use]
    pub fn last_store(&self) -> u64 {
        self.last_store.get()
    }

    /// Invalidations of all CPUs so far.
    #[must_use]
    pub fn invalidations(&self) -> usize {
        self.invalidations.get()
    }

    /// A CPU enters the guest of `space`.
    ///
    /// # Panics
    /// If the CPU does not take the root register.
    pub fn enter<B: CustomBackend>(&self, cpu: usize, space: &AddrSpace<&Self, P, B>) {
        let root = self.platform.root(space.root_register(), space.tag());
        self.machine.borrow_mut().load_root(cpu, root).expect("a root register that the CPU takes");
    }

    /// A CPU leaves its guest. What it remembers, it goes on remembering.
    pub fn leave(&self, cpu: usize) {
        self.machine.borrow_mut().unload_root(cpu);
    }

    /// The guest on `cpu` loads the 8 bytes at `gpa`.
    ///
    /// # Errors
    /// The fault, decoded by slat from the registers that it leaves behind.
    pub fn load(&self, cpu: usize, gpa: GuestPhysAddr) -> Result<u64, NestedPageFaultInfo> {
        let hpa = self.access(cpu, gpa, Access::READ)?;
        Ok(self.ram.read(hpa).expect("memory"))
    }

    /// The guest on `cpu` stores 8 bytes at `gpa`.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn store(&self, cpu: usize, gpa: GuestPhysAddr, value: u64) -> Result<(), NestedPageFaultInfo> {
        let hpa = self.access(cpu, gpa, Access::WRITE)?;
        assert!(self.ram.write(hpa, value), "memory");
        Ok(())
    }

    fn access(&self, cpu: usize, gpa: GuestPhysAddr, access: Access) -> Result<u64, NestedPageFaultInfo> {
        let translated = self.machine.borrow_mut().access(cpu, gpa.as_u64(), access);
        translated.map(|translation| translation.hpa).map_err(|fault| self.decode(&fault))
    }

    fn decode(&self, fault: &Fault) -> NestedPageFaultInfo {
        self.platform.decode_fault(&fault.syndrome, fault.gpa).expect("a fault of the guest's")
    }
}

// SAFETY: each frame is handed out once until it comes back, and lies in the model's RAM, which is memory of this process; the guests'
// CPUs are models too, and forget what slat asks them to.
unsafe impl<P: Platform> Hal for Host<P> {
    fn alloc_frames(&self, count: usize, align: usize) -> Option<HostPhysAddr> {
        let mut free = self.free.borrow_mut();
        let run = |start: u64| (0..count as u64).map(move |frame| start + frame * PAGE_SIZE);
        let aligned = |start: &u64| (start - RAM_START) % (align as u64 * PAGE_SIZE) == 0;
        let start =
            *free.iter().find(|start| aligned(start) && run(**start).all(|frame| free.contains(&frame)))?;
        free.retain(|frame| !(start..start + count as u64 * PAGE_SIZE).contains(frame));
        Some(HostPhysAddr::new(start))
    }

    unsafe fn dealloc_frames(&self, start: HostPhysAddr, count: usize) {
        let frames = start.as_u64()..start.as_u64() + count as u64 * PAGE_SIZE;
        let reached = self.machine.borrow().reaches(frames.clone());
        assert_eq!(reached, None, "{frames:x?} came back although a CPU still reaches it");
        self.free.borrow_mut().extend(frames.step_by(PAGE_SIZE as usize));
    }

    fn phys_to_virt(&self, hpa: HostPhysAddr) -> *mut u8 {
        let offset = (hpa.as_u64() - RAM_START) as usize;
        self.ram.words().as_ptr().cast_mut().cast::<u8>().wrapping_add(offset)
    }

    fn invalidate(&self, invalidation: &Invalidation<'_>) {
        let mut machine = self.machine.borrow_mut();
        let plan = maintenance::plan(&self.platform, invalidation, 0, machine.cpus());
        let empty_root = RAM_START + self.ram.bytes() - EMPTY_ROOT * PAGE_SIZE;
        let roots = (invalidation.root, empty_root);
        maintenance::carry_out(&self.platform, &mut machine, 0, roots, &plan)
            .expect("a root without entries");
        if invalidation.reach == Reach::AllCpus {
            self.invalidations.set(self.invalidations.get() + 1);
            assert_eq!(machine.stale(), [], "a CPU still uses what is gone");
        }
    }

    fn maintain_cache(&self, work: &CacheMaintenance) {
        maintenance::clean(&mut self.machine.borrow_mut(), 0, work);
    }

    fn publish(&self) {
        let mut machine = self.machine.borrow_mut();
        self.platform.publication().iter().for_each(|instruction| machine.execute(0, *instruction));
    }

    fn table_stored(&self, entry: HostPhysAddr, value: u64) {
        self.last_store.set(value);
        self.machine.borrow_mut().stored(0, entry.as_u64(), value);
    }

    unsafe fn zero_frames(&self, start: HostPhysAddr, count: usize) {
        let frames = start.as_u64()..start.as_u64() + count as u64 * PAGE_SIZE;
        let words = frames.clone().step_by(8).map(|hpa| self.ram.write(hpa, 0));
        assert!(words.fold(true, |all, inside| all & inside), "frames of this host");
        self.machine.borrow_mut().host_wrote(frames);
    }
}

impl<P: Platform> Drop for Host<P> {
    fn drop(&mut self) {
        // What a CPU saw of reserved bits, missing cleaning or a missing break before a make.
        let reports = self.machine.get_mut().take_reports();
        assert!(reports.is_empty() || std::thread::panicking(), "{reports:#x?}");
    }
}
