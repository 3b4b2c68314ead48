use super::{Fields, decode, reason};
use crate::event::Event;
use crate::exit::{ControlAccess, ControlRegister, Exit, PortAccess, PortDirection};
use crate::state::{General, GeneralRegisters};
use crate::vmx::interruption::Interruption;
use slat::device::{AccessWidth, Port};
use slat::format::ept::Ept;
use slat::{FaultCause, GuestPhysAddr, GuestVirtAddr, MappingFlags};

fn general() -> GeneralRegisters {
    let mut general = GeneralRegisters::default();
    general.set(General::Rcx, 0xdead_beef_c000_0080);
    general.set(General::Rax, 0xffff_ffff_0000_0d01);
    general.set(General::Rdx, 0xffff_ffff_0000_0002);
    general
}

fn of(reason: u16, qualification: u64) -> Exit {
    decode(&Fields { reason, qualification, ..Fields::default() }, &general(), &Ept::default())
}

#[test]
fn reasons_have_the_numbers_of_the_manual() {
    let table = [
        (2, Exit::Shutdown),
        (3, Exit::Init),
        (7, Exit::InterruptWindow),
        (8, Exit::NmiWindow),
        (10, Exit::Cpuid),
        (12, Exit::Halt),
        (18, Exit::Hypercall),
        (31, Exit::ReadMsr(0xc000_0080)),
        (32, Exit::WriteMsr { index: 0xc000_0080, value: 0x2_0000_0d01 }),
        (40, Exit::Pause),
        (55, Exit::Xsetbv { index: 0xc000_0080, value: 0x2_0000_0d01 }),
        (62, Exit::ModificationLogFull),
        (33, Exit::Other { code: 33, information: 0 }),
        (0xffff, Exit::Other { code: 0xffff, information: 0 }),
    ];
    for (reason, exit) in table {
        assert_eq!(of(reason, 0), exit, "{reason}");
    }
    assert_eq!(of(4, 0x9f), Exit::StartUp(0x9f));
    // GETSEC, RDPMC, VMCLEAR to VMXON, MWAIT, MONITOR, INVEPT, INVVPID, VMFUNC, ENCLS.
    for reason in [11, 15, 19, 20, 21, 22, 23, 24, 25, 26, 27, 36, 39, 50, 53, 59, 60] {
        assert_eq!(of(reason, 0), Exit::Refused, "{reason}");
    }
}

#[test]
fn no_number_panics() {
    for reason in 0..=u16::from(u8::MAX) {
        for qualification in [0, 1, 0xffff_ffff, u64::MAX, 0x8000_0000_0000_0000] {
            let interruption = Interruption {
                information: qualification as u32,
                error_code: u32::MAX,
                instruction_length: u32::MAX,
            };
            let fields = Fields {
                reason,
                qualification,
                physical: u64::MAX,
                linear: u64::MAX,
                interruption,
                interrupted: None,
                virtual_nmis: true,
            };
            let _ = decode(&fields, &general(), &Ept::default());
        }
    }
}

#[test]
fn control_registers() {
    let control = |qualification| of(reason::CONTROL_REGISTER, qualification);
    let to = |register, general| Exit::Control(ControlAccess::Write(register, general));
    assert_eq!(control(0x000), to(ControlRegister::Cr0, General::Rax));
    assert_eq!(control(0x803), to(ControlRegister::Cr3, General::R8));
    assert_eq!(control(0xf04), to(ControlRegister::Cr4, General::R15));
    assert_eq!(control(0x708), to(ControlRegister::Cr8, General::Rdi));
    let from = Exit::Control(ControlAccess::Read(ControlRegister::Cr3, General::Rsp));
    assert_eq!(control(0x413), from);
    assert_eq!(control(0x020), Exit::Control(ControlAccess::ClearTaskSwitched));
    assert_eq!(control(0xfff3_0030), Exit::Control(ControlAccess::LoadStatusWord(0xfff3)));
    assert_eq!(control(0x005), Exit::Other { code: 28, information: 5 });
}

#[test]
fn ports() {
    let access = |qualification| match of(reason::IO, qualification) {
        Exit::Port(access) => Some(access),
        _ => None,
    };
    let out = PortAccess {
        port: Port(0x604),
        width: AccessWidth::Word,
        direction: PortDirection::Out,
        string: false,
        repeat: false,
    };
    assert_eq!(access(0x0604_0001), Some(out));
    let ins = PortAccess {
        port: Port(0xffff),
        width: AccessWidth::Dword,
        direction: PortDirection::In,
        string: true,
        repeat: true,
    };
    assert_eq!(access(0xffff_003b), Some(ins));
    assert_eq!(
        access(0x0000_0048),
        Some(PortAccess {
            port: Port(0),
            width: AccessWidth::Byte,
            direction: PortDirection::In,
            string: false,
            repeat: false,
        })
    );
    assert_eq!(access(2), None);
}

#[test]
fn interrupts_and_exceptions() {
    let with = |reason, information, error_code| {
        let interruption = Interruption { information, error_code, instruction_length: 0 };
        let fields = Fields { reason, interruption, ..Fields::default() };
        decode(&fields, &general(), &Ept::default())
    };
    assert_eq!(with(0, 0x8000_0202, 0), Exit::Nmi);
    assert_eq!(with(0, 0x8000_1202, 0), Exit::Nmi);
    assert_eq!(with(0, 0x8000_0b0e, 5), Exit::Exception { vector: 14, error_code: Some(5) });
    assert_eq!(with(0, 0x8000_0603, 0), Exit::Exception { vector: 3, error_code: None });
    assert_eq!(with(0, 0x8000_0501, 0), Exit::Exception { vector: 1, error_code: None });
    assert_eq!(with(0, 0, 0), Exit::Other { code: 0, information: 0 });
    assert_eq!(with(1, 0x8000_0031, 0), Exit::ExternalInterrupt(Some(0x31)));
    assert_eq!(with(1, 0, 0), Exit::ExternalInterrupt(None));
}

#[test]
fn violations() {
    let fault = |qualification, interrupted, virtual_nmis| {
        let fields = Fields {
            reason: reason::EPT_VIOLATION,
            qualification,
            physical: 0x1234_5678,
            linear: 0xffff_8000_0000_1678,
            interrupted,
            virtual_nmis,
            ..Fields::default()
        };
        match decode(&fields, &general(), &Ept::default()) {
            Exit::NestedPageFault(fault) => fault,
            exit => panic!("{exit:?}"),
        }
    };
    let read = fault(0x181, None, true);
    assert_eq!(read.info.gpa, GuestPhysAddr::new(0x1234_5678));
    assert_eq!(read.info.gva, Some(GuestVirtAddr::new(0xffff_8000_0000_1678)));
    assert_eq!((read.info.access, read.info.cause), (MappingFlags::READ, FaultCause::NotPresent));
    assert!(!read.info.walk && !read.read_and_write && !read.nmi_unblocked && read.granted.is_empty());

    let read_and_write = fault(0x1ab, None, true);
    assert_eq!(read_and_write.info.access, MappingFlags::WRITE);
    assert_eq!(read_and_write.info.cause, FaultCause::Permission);
    assert_eq!(read_and_write.granted, MappingFlags::READ | MappingFlags::EXECUTE);
    assert!(read_and_write.read_and_write);

    // A walk with accessed and dirty flags on is both, and no instruction of that kind.
    let walk = fault(0x08b, None, true);
    assert!(walk.info.walk && !walk.read_and_write && walk.granted == MappingFlags::READ);
    // The PDPTEs: no linear address, bit 8 means nothing.
    let pdptes = fault(0x001, None, true);
    assert!(!pdptes.info.walk && pdptes.info.gva.is_none());
    assert!(!fault(0x103, None, true).read_and_write);

    assert!(fault(0x1181, None, true).nmi_unblocked);
    assert!(!fault(0x1181, None, false).nmi_unblocked);
    assert!(!fault(0x1181, Some(Event::Nmi), true).nmi_unblocked);
    assert_eq!(fault(0x184, Some(Event::Nmi), true).interrupted, Some(Event::Nmi));
    assert_eq!(fault(0x1ac, None, true).granted, MappingFlags::READ | MappingFlags::EXECUTE);
}
