//! A hole in the guest's memory with an emulated UART behind it: RISC-V, where the hart does not say which register was stored.
//!
//! `cargo run --example device-hole`
//!
//! ```text
//! the UART printed: hello from a guest
//! beside it: address 0x10001000 is in no region
//! the guest's tables know nothing of it: 1
//! ```

use slat::device::{AccessWidth, DeviceAccess, DeviceId};
use slat::format::gstage::{Gstage, Trap, transform};
use slat::{
    AddrSpace, FaultError, FaultOutcome, GuestPageWalkInfo, GuestPhysAddr, GuestVirtAddr, MappingFlags,
};
use slat_examples::{Host, riscv};

type Guest<'h> = AddrSpace<&'h Host<Gstage>, Gstage>;

const RAM: GuestPhysAddr = GuestPhysAddr::new(0x8000_0000);
const UART: GuestPhysAddr = GuestPhysAddr::new(0x1000_0000);
const UART_ID: DeviceId = DeviceId(1);

/// The guest's program: `sb a0, 0(a1)`, and the same compressed with a 2-byte form, `c.sb a0, 0(a1)`.
const STORE_BYTE: [u8; 4] = 0x00a5_8023_u32.to_le_bytes();
const SHORT_STORE_BYTE: [u8; 2] = 0x8988_u16.to_le_bytes();

/// As much of a 16550 as an early console needs.
#[derive(Default)]
struct Uart {
    printed: String,
}

impl Uart {
    fn store(&mut self, offset: u64, value: u64) {
        if offset == 0 {
            self.printed.push(char::from(value as u8)); // the transmitter
        }
    }

    fn load(&self, offset: u64) -> u64 {
        if offset == 5 { 0x60 } else { 0 } // line status: ready for more
    }
}

/// The guest stores its register `a0` to `a1`, by the instruction at `pc`; the exits are answered as a hypervisor does.
/// Returns the program counter behind the instruction.
fn step(
    host: &Host<Gstage>,
    guest: &Guest<'_>,
    (pc, a0, a1): (GuestVirtAddr, u64, GuestPhysAddr),
    uart: &mut Uart,
) -> Result<GuestVirtAddr, Box<dyn std::error::Error>> {
    // The store is one of 8 bytes to the model; only what an exit says of it counts here.
    while let Err(fault) = host.store(0, a1, a0) {
        let FaultOutcome::Trap(access) = guest.handle_nested_fault(&fault)? else { continue };
        let DeviceAccess { device: UART_ID, offset, width: None, .. } = access else {
            return Err(format!("nobody emulates {access:?}").into());
        };
        // The hart left htinst at 0, so the instruction is read from the guest's memory; its paging is off (vsatp 0).
        let paging = GuestPageWalkInfo::riscv(0, 0, 0);
        let bytes = guest.fetch_instruction(&paging, pc, false)?;
        let htinst = transform(bytes.as_slice()).ok_or("no load or store")?;
        let trap = Trap { scause: 23, htinst, ..Trap::default() };
        let (data, length) =
            trap.data_access().zip(trap.instruction_length()).ok_or("no store of a register")?;
        assert_eq!((data.width, data.register), (AccessWidth::Byte, Some(10)), "a0 is register 10");
        assert_ne!(uart.load(5) & 0x20, 0);
        uart.store(offset, data.stored(Some(a0)));
        return Ok(GuestVirtAddr::new(pc.as_u64() + length));
    }
    Err("it was no device".into())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let host = Host::new(riscv(), 256, 1);
    let mut guest = Guest::with_format(&host, riscv(), GuestPhysAddr::new(0), 1 << 38, 1)?;
    let ram = MappingFlags::READ | MappingFlags::WRITE | MappingFlags::EXECUTE;
    guest.map_alloc(RAM, 64 << 20, ram, false)?;
    guest.map_trap(UART, 0x1000, UART_ID)?; // no frame, no entry: every access is an exit
    host.enter(0, &guest);

    guest.write(RAM, &STORE_BYTE)?;
    guest.write(GuestPhysAddr::new(RAM.as_u64() + 4), &SHORT_STORE_BYTE)?;
    let mut uart = Uart::default();
    for letter in "hello from a guest".bytes() {
        let mut pc = GuestVirtAddr::new(RAM.as_u64());
        if letter == b' ' {
            pc = GuestVirtAddr::new(pc.as_u64() + 4); // spaces go by the short form
        }
        // All but the lowest byte of the register is garbage that a store of one byte does not move.
        let after = step(&host, &guest, (pc, 0xdead_be00 | u64::from(letter), UART), &mut uart)?;
        assert_eq!(after.as_u64() - pc.as_u64(), if letter == b' ' { 2 } else { 4 });
    }
    println!("the UART printed: {}", uart.printed);
    assert_eq!(uart.printed, "hello from a guest");

    // Not all of the hole is a device, and what is beside it is nobody's.
    let beside = GuestPhysAddr::new(UART.as_u64() + 0x1000);
    let fault = host.store(0, beside, 0).expect_err("nothing is mapped there");
    let answer = guest.handle_nested_fault(&fault);
    println!("beside it: {}", answer.expect_err("nothing is mapped there"));
    assert!(matches!(answer, Err(FaultError::NoRegion(_))));

    println!("the guest's tables know nothing of it: {}", guest.stats().table.leaves_4k);
    host.leave(0);
    Ok(())
}
