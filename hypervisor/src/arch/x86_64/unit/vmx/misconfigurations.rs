//! Entries that the CPU does not take: it says so, and software finds the entry and the reason.

use super::stage::{DATA, NOW, entry, format_of, load, map, spoil, stage};
use crate::arch::x86_64::bare::Vmx;
use crate::arch::x86_64::unit::context::{Context, RAM};
use crate::arch::x86_64::unit::{Failure, ensure_eq, guest_code};
use alloc::format;
use slat::{AllocOptions, GuestPhysAddr, LeafSize};
use slat_x86::vmx::Misconfiguration as Bad;
use slat_x86::vmx::find_misconfiguration;
use slat_x86::{Exit, General, Vcpu as _};

guest_code!(misconfigured_read, "mov rax, [rsi]", "hlt");

/// Large leaves lie here.
const LARGE: u64 = 0x40_0000;

pub(super) fn all(context: &Context<Vmx>) -> Result<(), Failure> {
    let format = format_of(context)?;
    let (mut space, mut state) = stage(context, format, misconfigured_read())?;
    map(&mut space, DATA, 0x1000, RAM, NOW)?;
    let large = AllocOptions { largest_leaf: LeafSize::Size2M, ..NOW };
    map(&mut space, LARGE, 0x20_0000, RAM, large)?;
    let width = 1 << context.vendor.capabilities.raw().physical_bits;
    let type_of = |entry: u64, kind: u64| entry & !0x38 | kind << 3;
    // Where, in which level, what is made of the entry, why it is wrong.
    type Spoil<'a> = &'a dyn Fn(u64) -> u64;
    let cases: &[(u64, u8, Spoil<'_>, Bad)] = &[
        (DATA, 0, &|entry| entry & !1, Bad::WriteWithoutRead),
        (DATA, 0, &|entry| entry & !5, Bad::WriteWithoutRead),
        (DATA, 0, &|entry| type_of(entry, 2), Bad::MemoryType(2)),
        (DATA, 0, &|entry| type_of(entry, 3), Bad::MemoryType(3)),
        (DATA, 0, &|entry| type_of(entry, 7), Bad::MemoryType(7)),
        (DATA, 0, &|entry| entry | width, Bad::AddressWidth(width)),
        (DATA, 1, &|entry| entry | 1 << 3, Bad::TableBits(1 << 3)),
        (DATA, 1, &|entry| entry | 1 << 6, Bad::TableBits(1 << 6)),
        (DATA, 1, &|entry| entry & !1, Bad::WriteWithoutRead),
        (DATA, 1, &|entry| entry | width, Bad::AddressWidth(width)),
        (DATA, 2, &|entry| entry | 1 << 5, Bad::TableBits(1 << 5)),
        (DATA, 3, &|entry| entry | 1 << 4, Bad::TableBits(1 << 4)),
        (DATA, 3, &|entry| entry | 1 << 7, Bad::TableBits(1 << 7)),
        (LARGE, 1, &|entry| entry | 1 << 13, Bad::LeafAlignment(1 << 13)),
        (LARGE, 1, &|entry| entry | 1 << 20, Bad::LeafAlignment(1 << 20)),
        (LARGE, 1, &|entry| type_of(entry, 7), Bad::MemoryType(7)),
        (LARGE, 1, &|entry| entry & !1, Bad::WriteWithoutRead),
    ];
    for (number, (gpa, level, make, reason)) in cases.iter().enumerate() {
        let (address, good) = entry(context.host, &space, *gpa, *level);
        // The code has tables of its own only below the last two levels.
        state.general.set(General::Rsi, *gpa);
        let mut vcpu = context.vcpu(&space, &state)?;
        let bad = make(good);
        spoil(context.host, address, bad);
        // What the CPU remembers of the table goes with the entry.
        let exit = vcpu.run(true);
        let found = find_misconfiguration(
            &format.capabilities(),
            space.root(),
            4,
            GuestPhysAddr::new(*gpa),
            |address| load(context.host, address),
        );
        spoil(context.host, address, good);
        let wrong = |what| format!("case {number}, entry {bad:#x} of level {level}: {what}");
        match exit {
            // The code itself cannot be fetched if an entry above it is wrong.
            Ok(Exit::Misconfiguration(at)) if at.as_u64() == *gpa || *level >= 1 => {}
            exit => return Err(wrong(format!("{exit:?}"))),
        }
        match found {
            Some(found) if found.level == *level && found.address == address && found.entry == bad => {
                ensure_eq!(found.reason, *reason, wrong("reason".into()));
            }
            found => return Err(wrong(format!("{found:?}"))),
        }
        // Nothing was carried out, and all is well again.
        ensure_eq!(vcpu.run(true), Ok(Exit::Halt), wrong("afterwards".into()));
    }
    Ok(())
}
