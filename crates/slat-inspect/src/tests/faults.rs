//! What slat-model's CPUs report of a fault is read back: which access it was, and to which address.

use super::model::{Setup, case};
use crate::{FaultRegisters, Format};
use proptest::prelude::*;
use slat_model::{Fault, FaultKind, Syndrome};
use std::format;
use std::string::ToString;

/// The registers of a fault at a virtual address that equals the physical one.
fn registers(fault: &Fault) -> FaultRegisters {
    match fault.syndrome {
        Syndrome::Ept { reason: 48, qualification, gpa } => {
            FaultRegisters::EptViolation { qualification, gpa, linear: Some(fault.gpa) }
        }
        Syndrome::Ept { gpa, .. } => FaultRegisters::EptMisconfiguration { gpa },
        Syndrome::Npt { exitinfo1, exitinfo2 } => FaultRegisters::NestedPageFault { exitinfo1, exitinfo2 },
        Syndrome::Stage2 { esr, hpfar } => FaultRegisters::Abort { esr, far: Some(fault.gpa), hpfar },
        Syndrome::Gstage { scause, htval, htinst } => {
            FaultRegisters::Trap { scause, stval: fault.gpa, htval, htinst }
        }
    }
}

fn second_stages() -> impl Strategy<Value = Format> {
    prop::sample::select(
        Format::ALL.into_iter().filter(|format| format.is_second_stage()).collect::<std::vec::Vec<_>>(),
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_a_cpu_reports_is_read_back(case in second_stages().prop_flat_map(case)) {
        let setup = case.setup();
        for access in Setup::accesses() {
            let Some(fault) = setup.fault(access) else { continue };
            let registers = registers(&fault);
            let text = registers.to_string();
            if case.format == Format::Stage2 && fault.kind == FaultKind::Permission {
                prop_assert_eq!(registers.address(), None, "HPFAR_EL2 is UNKNOWN");
            } else if fault.gpa >> 50 == 0 {
                // htval 0 says that the address is not reported, which is that of the first bytes as well.
                let expected = (!case.format.is_riscv() || fault.gpa >> 2 != 0).then_some(fault.gpa);
                prop_assert_eq!(registers.address(), expected);
                prop_assert!(expected.is_none_or(|gpa| text.contains(&format!("{gpa:#x}"))), "{}", text);
            }
            let is_misconfiguration = matches!(registers, FaultRegisters::EptMisconfiguration { .. });
            let kind = registers.access().map(|access| access.kind);
            // AMD says of a fetch only where the host has NX; without it, it looks like a read.
            let no_fetches = case.format == Format::Npt && case.features & 1 != 0;
            if !no_fetches {
                prop_assert_eq!(kind, (!is_misconfiguration).then_some(access.kind), "{}", text);
            }
            prop_assert!(!registers.is_of_walk());
        }
    }
}
