//! Exit codes, one by one.

use super::*;

fn record(code: u64) -> Record {
    let mut general = GeneralRegisters::default();
    general.set(General::Rax, 0xaaaa_aaaa_1111_2222);
    general.set(General::Rdx, 0xbbbb_bbbb_3333_4444);
    general.set(General::Rcx, 0xcccc_cccc_c000_0080);
    Record { code, general, protected: true, ..Record::default() }
}

fn exit(record: Record) -> Exit {
    match decode(&record) {
        Decoded::Exit(exit) => exit,
        other => panic!("{other:?}"),
    }
}

#[test]
fn instructions_are_named() {
    let table = [
        (0x72, Exit::Cpuid),
        (0x77, Exit::Pause),
        (0x78, Exit::Halt),
        (0x7f, Exit::Shutdown),
        (0x81, Exit::Hypercall),
        (0x60, Exit::ExternalInterrupt(None)),
        (0x61, Exit::Nmi),
        (0x63, Exit::Init),
        (0x7c, Exit::ReadMsr(0xc000_0080)),
        (0x8d, Exit::Xsetbv { index: 0xc000_0080, value: 0x3333_4444_1111_2222 }),
        // What is not intercepted and would be new.
        (0x62, Exit::Other { code: 0x62, information: 0 }),
        (0x9999, Exit::Other { code: 0x9999, information: 0 }),
    ];
    for (code, expected) in table {
        assert_eq!(exit(record(code)), expected, "{code:#x}");
    }
    let write = Exit::WriteMsr { index: 0xc000_0080, value: 0x3333_4444_1111_2222 };
    assert_eq!(exit(Record { info_1: 1, ..record(0x7c) }), write);
}

#[test]
fn a_guest_has_no_svm_of_its_own() {
    for code in
        [0x6f, 0x7a, 0x80, 0x82, 0x83, 0x84, 0x85, 0x86, 0x8a, 0x8b, 0x8c, 0x8e, 0xa0, 0xa1, 0xa3, 0xa4]
    {
        assert_eq!(exit(record(code)), Exit::Refused, "{code:#x}");
    }
}

#[test]
fn some_exits_are_the_vcpus_own() {
    let table = [
        (0x64, Decoded::InterruptWindow),
        (0x74, Decoded::Iret),
        (0x41, Decoded::Debug),
        (0x76, Decoded::Invd),
        (u64::MAX, Decoded::NotEntered),
        (0xffff_ffff, Decoded::NotEntered),
        (u64::MAX - 1, Decoded::NotEntered),
    ];
    for (code, expected) in table {
        assert_eq!(decode(&record(code)), expected, "{code:#x}");
    }
}

#[test]
fn ports_are_taken_apart() {
    let port = |info_1| match exit(Record { info_1, ..record(0x7b) }) {
        Exit::Port(access) => access,
        other => panic!("{other:?}"),
    };
    let out = PortAccess {
        port: Port(0x604),
        width: AccessWidth::Word,
        direction: PortDirection::Out,
        string: false,
        repeat: false,
    };
    assert_eq!(port(0x0604_0020), out);
    let input =
        PortAccess { port: Port(0xffff), width: AccessWidth::Byte, direction: PortDirection::In, ..out };
    assert_eq!(port(0xffff_0011), input);
    let string = PortAccess { port: Port(0), width: AccessWidth::Dword, string: true, repeat: true, ..out };
    assert_eq!(port(0x0000_004c), string);
    assert_eq!(port(0x0000_0244), PortAccess { repeat: false, ..string });
}

#[test]
fn exceptions_have_the_error_codes_that_they_have() {
    let with_code = Record { info_1: 0xdead_0000_0004, ..record(0x4e) };
    assert_eq!(exit(with_code), Exit::Exception { vector: 14, error_code: Some(4) });
    let real = Record { protected: false, ..with_code };
    assert_eq!(exit(real), Exit::Exception { vector: 14, error_code: None });
    assert_eq!(exit(record(0x46)), Exit::Exception { vector: 6, error_code: None });
    assert_eq!(exit(record(0x5f)), Exit::Exception { vector: 31, error_code: None });
}

#[test]
fn control_registers_are_told_where_the_cpu_tells() {
    let control = |code, info_1| exit(Record { info_1, ..record(code) });
    let mov = 1 << 63;
    let write = |register, from| Exit::Control(ControlAccess::Write(register, from));
    assert_eq!(control(0x10, mov | 15), write(ControlRegister::Cr0, General::R15));
    assert_eq!(control(0x65, mov | 2), write(ControlRegister::Cr0, General::Rdx));
    assert_eq!(control(0x18, mov), write(ControlRegister::Cr8, General::Rax));
    let read = Exit::Control(ControlAccess::Read(ControlRegister::Cr3, General::Rbx));
    assert_eq!(control(0x03, mov | 3), read);
    for (code, info_1) in [(0x10, 3), (0x65, 0), (0x12, mov), (0x1f, mov)] {
        assert_eq!(control(code, info_1), Exit::Other { code, information: info_1 });
    }
}

#[test]
fn nested_page_faults_say_what_the_table_has_to_do() {
    let fault = |info_1| exit(Record { info_1, info_2: 0x1234_5678, ..record(0x400) });
    let decoded = |info_1| match fault(info_1) {
        Exit::NestedPageFault(fault) => fault,
        other => panic!("{other:?}"),
    };
    let read = decoded(1 << 32 | 4);
    assert_eq!(read.info.gpa.as_u64(), 0x1234_5678);
    assert_eq!((read.info.access, read.info.cause), (MappingFlags::READ, FaultCause::NotPresent));
    assert!(read.granted.is_empty() && !read.info.walk);
    let write = decoded(1 << 32 | 7);
    assert_eq!((write.info.access, write.granted), (MappingFlags::WRITE, MappingFlags::READ));
    assert_eq!(write.info.cause, FaultCause::Permission);
    assert_eq!(decoded(1 << 32 | 0x15).info.access, MappingFlags::EXECUTE);
    assert!(decoded(1 << 33 | 7).info.walk);
    // QEMU has P clear, Bochs has it set.
    for present in [0, 1] {
        let reserved = fault(1 << 32 | 0xc | present);
        assert_eq!(reserved, Exit::Misconfiguration(GuestPhysAddr::new(0x1234_5678)));
    }
    let interrupted = Some(Event::ExternalInterrupt(0x30));
    let record = Record { interrupted, info_1: 1 << 32, ..record(0x400) };
    assert!(matches!(exit(record), Exit::NestedPageFault(fault) if fault.interrupted == interrupted));
}
