//! One binary for both vendors: the format is chosen at run time, by what the CPU is. And the same life of a guest on the other ISAs.
//!
//! `cargo run --example two-formats`
//!
//! ```text
//! Intel EPT: 4 levels, 48 bits, root register 0x8000001e
//!             read-only leaf 0x0010000080002031, 1 invalidation
//! AMD NPT: 4 levels, 48 bits, root register 0x80000000
//!             read-only leaf 0x8010000080002065, 1 invalidation
//! Arm stage 2: 3 levels, 40 bits, root register 0x1000080000000
//!             read-only leaf 0x014000008000377f, 1 invalidation
//! RISC-V: 3 levels, 41 bits, root register 0x8000100000080000
//!             read-only leaf 0x00000000200015d3, 1 invalidation
//! ```

use slat::format::ept::Ept;
use slat::format::npt::Npt;
use slat::format::stage2::Stage2;
use slat::{AddrSpace, FaultError, GuestPhysAddr, HostPhysAddr, MappingFlags, PAGE_SIZE};
use slat_check::platform::Platform;
use slat_examples::{Host, intel, riscv};

type Space<'h, P> = AddrSpace<&'h Host<P>, P>;

/// A guest of a hypervisor that runs on both vendors. Each half is compiled for its format alone: no walk asks which it is.
enum X86Guest<'h> {
    Intel(Space<'h, Ept>),
    Amd(Space<'h, Npt>),
}

impl X86Guest<'_> {
    fn translate(&self, gpa: GuestPhysAddr) -> Option<HostPhysAddr> {
        match self {
            Self::Intel(space) => space.translate(gpa),
            Self::Amd(space) => space.translate(gpa),
        }
    }
}

fn guest<P: Platform>(host: &Host<P>, format: P) -> Result<Space<'_, P>, Box<dyn std::error::Error>> {
    let mut space = AddrSpace::with_format(host, format, GuestPhysAddr::new(0), 1 << 30, 1)?;
    let ram = MappingFlags::READ | MappingFlags::WRITE | MappingFlags::EXECUTE | MappingFlags::USER;
    space.map_alloc(GuestPhysAddr::new(0), 64 << 20, ram, false)?;
    Ok(space)
}

/// The same life on each format; what differs is printed.
fn live<P: Platform>(name: &str, format: P) -> Result<(), Box<dyn std::error::Error>> {
    let host = Host::new(format, 256, 1);
    let mut space = guest(&host, format)?;
    let gpa = GuestPhysAddr::new(0x20_3000);
    host.enter(0, &space);
    let store = |space: &Space<'_, P>| -> Result<(), FaultError> {
        while let Err(fault) = host.store(0, gpa, 7) {
            space.handle_nested_fault(&fault)?;
        }
        Ok(())
    };
    store(&space)?;
    let geometry = format.geometry();
    println!(
        "{name}: {} levels, {} bits, root register {:#x}",
        geometry.levels,
        geometry.gpa_bits,
        space.root_register()
    );

    // The same change: read-only. The entry and the invalidation are the format's business.
    let before = host.invalidations();
    space.protect(gpa, PAGE_SIZE, MappingFlags::READ)?;
    println!(
        "{:>11} read-only leaf {:#018x}, {} invalidation",
        "",
        host.last_store(),
        host.invalidations() - before
    );
    let refused = store(&space);
    assert!(matches!(refused, Err(FaultError::Permission { .. })), "{refused:?}");
    assert_eq!(host.load(0, gpa), Ok(7));
    host.leave(0);
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (an_intel, an_amd) = (Host::new(intel(false), 256, 1), Host::new(Npt::default(), 256, 1));
    for vendor in ["GenuineIntel", "AuthenticAMD"] {
        // At boot, by CPUID.
        let guest = match vendor {
            "GenuineIntel" => X86Guest::Intel(guest(&an_intel, intel(false))?),
            _ => X86Guest::Amd(guest(&an_amd, Npt::default())?),
        };
        assert_eq!(guest.translate(GuestPhysAddr::new(0)), None);
    }
    live("Intel EPT", intel(false))?;
    live("AMD NPT", Npt::default())?;
    live("Arm stage 2", Stage2::default())?;
    live("RISC-V", riscv())
}
