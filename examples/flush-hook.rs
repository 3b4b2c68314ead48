//! How a hypervisor checks its own [`Hal`] against the model of the hardware, on its development host.
//!
//! `Host` stands for yours. Its allocator is a list, its RAM is the model's, and its TLB shoot-down reaches other CPUs by a message
//! each, as IPIs would. Where yours talks to the hardware, this one tells the model: of every store to a table, and of
//! every INVEPT. Then the model answers what the hardware would never tell: whether any CPU could still use what is gone.
//!
//! The tests at the end are what you would put among your own.
//!
//! `cargo run --example flush-hook`
//!
//! ```text
//! a host that reaches both CPUs:
//!   0 complaints
//! a host that forgets CPU 1:
//!   14 complaints
//!   CPU 1 may still use GPA 0x0 (Write) as HPA 0x10008000, for which the tables give a fault: Permission at 0x0, level 0, Ept { reason: 30, qualification: 18a, gpa: 0 }
//!   frame 0x10007000 came back, but CPU 1 reaches it: CachedLeaf { gpa: 1000, entry: 10009008 }
//! ```

#![expect(unsafe_code, reason = "implements Hal")]

use slat::format::ept::Ept;
use slat::{AddrSpace, GuestPhysAddr, Hal, HostPhysAddr, Invalidation, MappingFlags, PAGE_SIZE, Reach};
use slat_model::{Access, Instruction, Machine, Mmu, Policy, Ram, Root};
use std::cell::RefCell;

const RAM_START: u64 = 0x1000_0000;
const RAM_FRAMES: u64 = 64;
const CPUS: usize = 2;

/// A host with two CPUs, of which CPU 0 runs slat.
struct Host {
    ram: Ram,
    machine: RefCell<Machine>,
    free: RefCell<Vec<u64>>,
    /// The CPUs to which an invalidation is sent beside this one. The mistake: a CPU that is missing here.
    others: Vec<usize>,
    complaints: RefCell<Vec<String>>,
}

impl Host {
    fn new(others: Vec<usize>) -> Self {
        let ram = Ram::new(RAM_START, RAM_FRAMES * PAGE_SIZE);
        let mmu = Mmu::Ept(slat_model::Ept::default());
        let machine = RefCell::new(Machine::new(mmu, ram.clone(), CPUS, Policy::Everything));
        let free = (0..RAM_FRAMES).rev().map(|frame| RAM_START + frame * PAGE_SIZE).collect();
        Self { ram, machine, free: RefCell::new(free), others, complaints: RefCell::default() }
    }

    fn complain(&self, complaint: String) {
        self.complaints.borrow_mut().push(complaint);
    }
}

// SAFETY: every frame is handed out once until it comes back, and lies in the model's RAM, which is memory of this process. Whether
// `invalidate` keeps its promise is what is to be found out; no pointer depends on it, for the guest is a model too.
unsafe impl Hal for Host {
    fn alloc_frames(&self, count: usize, align: usize) -> Option<HostPhysAddr> {
        // Single frames: EPT needs no more as long as no large leaf is asked for.
        let single = (count, align) == (1, 1);
        single.then(|| self.free.borrow_mut().pop().map(HostPhysAddr::new))?
    }

    unsafe fn dealloc_frames(&self, start: HostPhysAddr, count: usize) {
        let frames = start.as_u64()..start.as_u64() + count as u64 * PAGE_SIZE;
        // The first question: can any CPU still get at what is about to belong to somebody else?
        if let Some((cpu, how)) = self.machine.borrow().reaches(frames.clone()) {
            self.complain(format!("frame {start} came back, but CPU {cpu} reaches it: {how:x?}"));
        }
        self.free.borrow_mut().extend(frames.step_by(PAGE_SIZE as usize));
    }

    fn phys_to_virt(&self, hpa: HostPhysAddr) -> *mut u8 {
        let offset = (hpa.as_u64() - RAM_START) as usize;
        self.ram.words().as_ptr().cast_mut().cast::<u8>().wrapping_add(offset)
    }

    fn invalidate(&self, invalidation: &Invalidation<'_>) {
        let mut machine = self.machine.borrow_mut();
        let invept = Instruction::Invept { kind: 1, eptp: invalidation.root };
        machine.execute(0, invept);
        if invalidation.reach == Reach::AllCpus {
            self.others.iter().for_each(|cpu| machine.execute(*cpu, invept));
        }
        // The second question: after a complete invalidation nothing is stale, anywhere.
        let stale = machine.stale();
        drop(machine);
        stale.iter().for_each(|stale| self.complain(stale.to_string()));
    }

    fn table_stored(&self, entry: HostPhysAddr, value: u64) {
        self.machine.borrow_mut().stored(0, entry.as_u64(), value);
    }
}

/// A little life of a guest on both CPUs; what the model has to say about it.
fn complaints(host: &Host) -> Result<Vec<String>, Box<dyn std::error::Error>> {
    let (start, size) = (GuestPhysAddr::new(0), 8 * PAGE_SIZE);
    let rwx = MappingFlags::READ | MappingFlags::WRITE | MappingFlags::EXECUTE;
    let mut space: AddrSpace<&Host, Ept> = AddrSpace::with_format(host, Ept::default(), start, 1 << 30, 1)?;
    let root = Root::Ept { eptp: space.root_register(), vpid: 1 };
    for cpu in 0..CPUS {
        host.machine.borrow_mut().load_root(cpu, root)?;
    }
    space.map_alloc(start, size, rwx, true)?;
    for cpu in 0..CPUS {
        host.machine.borrow_mut().access(cpu, 0x1234, Access::WRITE)?;
    }
    space.protect(start, PAGE_SIZE, MappingFlags::READ)?;
    space.unmap(GuestPhysAddr::new(PAGE_SIZE), PAGE_SIZE)?;
    for cpu in 0..CPUS {
        host.machine.borrow_mut().unload_root(cpu);
    }
    drop(space);
    Ok(host.complaints.take())
}

/// The first of each kind of complaint, and how many there are.
fn show(complaints: &[String]) {
    println!("  {} complaints", complaints.len());
    for kind in ["may still use", "came back"] {
        let first = complaints.iter().find(|complaint| complaint.contains(kind));
        first.into_iter().for_each(|first| println!("  {first}"));
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (right, wrong) = (complaints(&Host::new(vec![1]))?, complaints(&Host::new(vec![]))?);
    println!("a host that reaches both CPUs:");
    show(&right);
    println!("a host that forgets CPU 1:");
    show(&wrong);
    assert!(right.is_empty() && !wrong.is_empty());
    Ok(())
}

#[test]
fn the_shoot_down_reaches_every_cpu() {
    let host = Host::new(vec![1]);
    assert_eq!(complaints(&host).expect("a guest's life"), [""; 0]);
    assert_eq!(host.free.borrow().len(), RAM_FRAMES as usize, "every frame came back");
}

#[test]
fn a_missing_shoot_down_is_caught() {
    let found = complaints(&Host::new(vec![])).expect("a guest's life");
    assert!(found.iter().any(|line| line.starts_with("CPU 1 may still use GPA 0x0 (Write)")), "{found:#?}");
    assert!(found.iter().any(|line| line.contains("came back, but CPU 1 reaches it")), "{found:#?}");
    assert!(!found.iter().any(|line| line.contains("CPU 0")), "{found:#?}");
}
