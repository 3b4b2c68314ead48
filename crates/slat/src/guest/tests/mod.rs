//! Walks over tables made by hand, in a memory of a few words.

mod arm;
mod riscv;
mod x86;

use super::*;
use crate::fault::{FaultCause, NestedPageFaultInfo};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::vec::Vec;

const READ: MappingFlags = MappingFlags::READ;
const WRITE: MappingFlags = MappingFlags::WRITE;
const EXECUTE: MappingFlags = MappingFlags::EXECUTE;
const USER: MappingFlags = MappingFlags::USER;

/// Entries by address; what is not there reads as zero.
#[derive(Default)]
struct Memory {
    entries: RefCell<BTreeMap<u64, u64>>,
    refused: BTreeMap<u64, TableFault>,
    /// Refused to compare-exchanges alone.
    read_only: BTreeMap<u64, TableFault>,
    loads: RefCell<Vec<(u64, EntryKind)>>,
    stores: RefCell<Vec<(u64, EntryKind)>>,
    /// How many compare-exchanges fail because somebody else was faster.
    contended: Cell<usize>,
}

impl Memory {
    fn new(entries: &[(u64, u64)]) -> Self {
        Self { entries: RefCell::new(entries.iter().copied().collect()), ..Self::default() }
    }

    fn get(&self, gpa: u64) -> u64 {
        self.entries.borrow().get(&gpa).copied().unwrap_or(0)
    }
}

impl TableMemory for Memory {
    fn load(&self, gpa: GuestPhysAddr, kind: EntryKind) -> Result<u64, TableFault> {
        self.loads.borrow_mut().push((gpa.as_u64(), kind));
        match self.refused.get(&gpa.as_u64()) {
            Some(fault) => Err(*fault),
            None => Ok(self.get(gpa.as_u64())),
        }
    }

    fn compare_exchange(
        &self,
        gpa: GuestPhysAddr,
        kind: EntryKind,
        old: u64,
        new: u64,
    ) -> Result<bool, TableFault> {
        let gpa = gpa.as_u64();
        if let Some(fault) = self.read_only.get(&gpa) {
            return Err(*fault);
        }
        if let Some(left) = self.contended.get().checked_sub(1) {
            self.contended.set(left);
            return Ok(false);
        }
        let same = self.get(gpa) == old;
        if same {
            self.stores.borrow_mut().push((gpa, kind));
            self.entries.borrow_mut().insert(gpa, new);
        }
        Ok(same)
    }
}

fn walk(
    info: &GuestPageWalkInfo,
    memory: &Memory,
    gva: u64,
    access: MappingFlags,
) -> Result<FirstStage, GuestWalkError> {
    info.first_stage(memory, GuestVirtAddr::new(gva), access)
}

/// The guest-physical address of a walk over these entries.
fn gpa(
    info: &GuestPageWalkInfo,
    entries: &[(u64, u64)],
    gva: u64,
    access: MappingFlags,
) -> Result<u64, GuestWalkError> {
    walk(info, &Memory::new(entries), gva, access).map(|found| found.gpa.as_u64())
}

const REFUSAL: TableFault = TableFault::Nested { access: READ, cause: FaultCause::NotPresent };

#[test]
fn a_table_that_the_second_level_refuses_is_a_nested_fault() {
    let info = GuestPageWalkInfo::riscv(8 << 60 | 1, 0, 0);
    let mut memory = Memory::new(&[(0x1000, 0x801)]);
    memory.refused.insert(0x2010, REFUSAL);
    let expected = NestedPageFaultInfo {
        gpa: GuestPhysAddr::new(0x2010),
        gva: Some(GuestVirtAddr::new(0x40_0123)),
        access: READ,
        cause: FaultCause::NotPresent,
        walk: true,
        width: None,
    };
    assert_eq!(walk(&info, &memory, 0x40_0123, WRITE), Err(GuestWalkError::Nested(expected)));
}

#[test]
fn a_guest_that_changes_its_tables_cannot_hold_the_walk() {
    let info = GuestPageWalkInfo::riscv(8 << 60 | 1, 0, 1 << 61).setting_marks();
    let memory = Memory::new(&[(0x1000, 0x0f)]);
    memory.contended.set(ATTEMPTS - 1);
    assert_eq!(walk(&info, &memory, 0x123, WRITE).map(|found| found.gpa.as_u64()), Ok(0x123));
    assert_eq!((memory.get(0x1000), memory.loads.borrow().len()), (0xcf, ATTEMPTS));
    let memory = Memory::new(&[(0x1000, 0x0f)]);
    memory.contended.set(ATTEMPTS);
    assert_eq!(walk(&info, &memory, 0x123, WRITE), Err(GuestWalkError::Contended));
    assert_eq!((memory.get(0x1000), memory.loads.borrow().len()), (0x0f, ATTEMPTS));
}

#[test]
fn marks_are_left_only_where_that_is_asked_for() {
    let info = GuestPageWalkInfo::riscv(8 << 60 | 1, 0, 1 << 61);
    let memory = Memory::new(&[(0x1000, 0x0f)]);
    let pure = walk(&info, &memory, 0x123, WRITE).expect("it would be marked");
    assert_eq!(memory.get(0x1000), 0x0f);
    assert_eq!(walk(&info.setting_marks(), &memory, 0x123, WRITE), Ok(pure));
    assert_eq!(memory.get(0x1000), 0xcf);
    assert_eq!(*memory.stores.borrow(), [(0x1000, EntryKind::Long)]);
}

#[test]
fn whose_the_page_is_counts_for_intel_and_who_asks_elsewhere() {
    let x86 = GuestPageWalkInfo::x86(0, 0, 0, 0, 0);
    let riscv = GuestPageWalkInfo::riscv(0, 0, 0);
    let found = FirstStage { user: false, ..walk(&x86, &Memory::default(), 0, READ).expect("flat") };
    assert_eq!(x86.second_access(&found, EXECUTE | USER), EXECUTE);
    assert_eq!(x86.second_access(&FirstStage { user: true, ..found }, EXECUTE), EXECUTE | USER);
    assert_eq!(riscv.second_access(&found, READ | WRITE | USER | MappingFlags::DEVICE), READ | WRITE | USER);
    assert_eq!(riscv.second_access(&FirstStage { user: true, ..found }, EXECUTE), EXECUTE);
}

#[test]
fn instruction_bytes_end_with_their_page() {
    let append = |bytes: &mut InstructionBytes, pc| {
        let mut length = 0;
        let read = |part: &mut [u8]| {
            length = part.len();
            part.fill(0x90);
            Ok::<(), ()>(())
        };
        bytes.append_from_page(GuestVirtAddr::new(pc), read).expect("read");
        length
    };
    let mut bytes = InstructionBytes::new();
    assert!(bytes.is_empty());
    assert_eq!(append(&mut bytes, 0x1fff), 1);
    assert!(!bytes.is_empty());
    assert_eq!((bytes.len(), bytes.as_slice()), (1, &[0x90][..]));
    assert_eq!(std::format!("{bytes:?}"), "InstructionBytes([90])");
    assert_eq!(append(&mut bytes, 0x2000), 14);
    assert_eq!((bytes.len(), bytes.as_slice()), (15, &[0x90; 15][..]));
    assert_eq!(append(&mut bytes, 0x3000), 0);
    assert_eq!(bytes.len(), 15);
    let mut none = InstructionBytes::new();
    assert_eq!(none.append_from_page(GuestVirtAddr::new(0), |_| Err(1)), Err(1));
    assert!(none.is_empty());
}

#[test]
fn faults_are_told() {
    let gva = GuestVirtAddr::new(0x5000);
    let text = |fault: GuestPageFault| std::format!("{}", GuestWalkError::Guest(fault));
    let page_fault = GuestPageFault::X86 { error_code: 0x13, cr2: gva };
    assert_eq!(text(page_fault), "the guest's own fault: page fault 0x13 at 0x5000");
    assert_eq!(text(GuestPageFault::X86NonCanonical(gva)), "the guest's own fault: 0x5000 is not canonical");
    let abort = ArmFault { status: 0x0f, write: true, fetch: false, user: true, far: gva };
    assert_eq!(
        text(GuestPageFault::Arm(abort)),
        "the guest's own fault: abort with ESR 0x9200004f at 0x5000"
    );
    let riscv = GuestPageFault::Riscv { scause: 13, stval: gva };
    assert_eq!(text(riscv), "the guest's own fault: exception 13 at 0x5000");
}

#[test]
fn the_esr_tells_who_did_what() {
    let far = GuestVirtAddr::new(0);
    for (fetch, user, write, esr) in [
        (false, false, false, 0x9600_0007_u64),
        (false, false, true, 0x9600_0047),
        (false, true, false, 0x9200_0007),
        (true, false, false, 0x8600_0007),
        (true, true, false, 0x8200_0007),
    ] {
        assert_eq!(ArmFault { status: 7, write, fetch, user, far }.esr(), esr);
    }
}

#[test]
fn bytes_of_a_cpu_are_taken_as_they_are() {
    assert_eq!(InstructionBytes::from_slice(&[]), None);
    assert_eq!(InstructionBytes::from_slice(&[0; 16]), None);
    let most: [u8; 15] = core::array::from_fn(|i| i as u8);
    assert_eq!(
        InstructionBytes::from_slice(&most).map(|bytes| bytes.as_slice().to_vec()),
        Some(most.to_vec())
    );
    assert_eq!(
        InstructionBytes::from_slice(&[0x90]).map(|bytes| (bytes.len(), bytes.is_empty())),
        Some((1, false))
    );
}
