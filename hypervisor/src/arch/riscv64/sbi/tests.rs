use super::*;

const RAM: core::ops::Range<u64> = 0x8000_0000..0x8100_0000;
const MACHINE: Machine = Machine { vendor: 0x489, architecture: 7, implementation: 9 };

fn cpus(count: usize) -> Cpus {
    Cpus::new(count, RAM, |_| true)
}

fn ask(cpus: &Cpus, extension: usize, function: usize, arguments: [u64; 5]) -> Answer {
    let call = Call { extension: extension as u64, function: function as u64, arguments };
    answer(&call, 0, cpus, &MACHINE)
}

fn call(extension: usize, function: usize, arguments: [u64; 5]) -> Answer {
    ask(&cpus(2), extension, function, arguments)
}

fn failed(code: i64) -> Answer {
    Answer::Return { error: code as u64, value: 0 }
}

#[test]
fn what_linux_asks_at_boot() {
    assert_eq!(call(0x10, 0, [0; 5]), value(0x0200_0000));
    assert_eq!(call(0x10, 1, [0; 5]), value(IMPLEMENTATION));
    assert_eq!(call(0x10, 4, [0; 5]), value(0x489));
    for (name, offered) in [
        (&b"TIME"[..], 1),
        (b"sPI", 1),
        (b"RFNC", 1),
        (b"HSM", 1),
        (b"SRST", 1),
        (b"DBCN", 1),
        (b"PMU", 0),
        (b"SUSP", 0),
        (b"CPPC", 0),
        (b"NACL", 0),
        (b"STA", 0),
        (b"FWFT", 0),
    ] {
        let number = name.iter().fold(0, |number, &byte| number << 8 | u64::from(byte));
        assert_eq!(
            call(0x10, 3, [number, 0, 0, 0, 0]),
            value(offered),
            "{}",
            alloc::string::String::from_utf8_lossy(name)
        );
    }
    assert_eq!(call(0x10, 3, [EXTENSION, 0, 0, 0, 0]), value(1));
    assert_eq!(call(0x10, 3, [u64::MAX, 0, 0, 0, 0]), value(0));
    assert_eq!(call(0x10, 7, [0; 5]), failed(-2));
}

#[test]
fn what_is_not_offered_is_not_supported() {
    for (extension, function) in [
        (0x504d55, 0),
        (time::EID_TIME, 1),
        (spi::EID_SPI, 1),
        (rfnc::EID_RFNC, 3),
        (rfnc::EID_RFNC, 6),
        (hsm::EID_HSM, 4),
        (srst::EID_SRST, 1),
        (dbcn::EID_DBCN, 3),
        (4, 0),
        (usize::MAX, usize::MAX),
    ] {
        assert_eq!(call(extension, function, [0; 5]), failed(-2), "{extension:#x} {function}");
    }
}

#[test]
fn time_and_interrupts() {
    assert_eq!(call(time::EID_TIME, 0, [5, 0, 0, 0, 0]), Answer::SetTimer(5));
    let send = |mask, base| call(spi::EID_SPI, 0, [mask, base, 0, 0, 0]);
    assert_eq!(send(0b10, 0), Answer::SendInterrupts(Harts(0b10)));
    assert_eq!(send(1, 1), Answer::SendInterrupts(Harts(0b10)));
    assert_eq!(send(0, 0), Answer::SendInterrupts(Harts(0)));
    assert_eq!(send(0x1234, u64::MAX), Answer::SendInterrupts(Harts(0b11)));
    for (mask, base) in [(0b100, 0), (0b11, 1), (1, 2), (1, 64), (1, u64::MAX - 1), (u64::MAX, 0), (2, 63)] {
        assert_eq!(send(mask, base), failed(-3), "{mask:#x} {base:#x}");
    }
    assert!(Harts(0b10).contains(1) && !Harts(0b10).contains(0) && !Harts(u64::MAX).contains(64));
}

#[test]
fn fences() {
    let fence = |function, start, size, asid| call(rfnc::EID_RFNC, function, [0b11, 0, start, size, asid]);
    let all = Harts(0b11);
    assert_eq!(fence(0, 1, 2, 3), Answer::Fence(all, Fence::Instructions));
    let everything = Fence::Addresses { range: None, asid: None };
    assert_eq!(fence(1, 0, 0, 7), Answer::Fence(all, everything));
    assert_eq!(fence(1, 0x1000, u64::MAX, 7), Answer::Fence(all, everything));
    let one = Fence::Addresses { range: Some((0x1000, 0x2000)), asid: Some(7) };
    assert_eq!(fence(2, 0x1000, 0x2000, 7), Answer::Fence(all, one));
    assert_eq!(fence(2, 0x1000, 0x2000, 1 << 16), failed(-3));
    assert_eq!(fence(1, u64::MAX, 2, 0), failed(-5));
    assert_eq!(call(rfnc::EID_RFNC, 1, [0b100, 0, 0, 0, 0]), failed(-3));
}

#[test]
fn a_second_cpu_goes_on_and_off() {
    let cpus = cpus(2);
    let hsm = |function, a0, a1, a2| ask(&cpus, hsm::EID_HSM, function, [a0, a1, a2, 0, 0]);
    assert_eq!(hsm(2, 1, 0, 0), value(1));
    assert_eq!(hsm(2, 2, 0, 0), failed(-3));
    for outside in [0, RAM.start - 4, RAM.end, u64::MAX] {
        assert_eq!(hsm(0, 1, outside, 0), failed(-5), "{outside:#x}");
    }
    assert_eq!(hsm(0, 2, RAM.start, 0), failed(-3));
    assert_eq!(hsm(0, u64::MAX, RAM.start, 0), failed(-3));
    assert_eq!(hsm(0, 0, RAM.start, 0), failed(-6));
    assert_eq!(hsm(0, 1, RAM.start, 42), value(0));
    assert_eq!(hsm(2, 1, 0, 0), value(2));
    assert_eq!(hsm(0, 1, RAM.start, 0), failed(-6));
    assert_eq!(cpus.begin(1), Some(Entry { address: RAM.start, argument: 42 }));
    assert_eq!(hsm(2, 1, 0, 0), value(0));
    assert_eq!(hsm(1, 0, 0, 0), Answer::CpuOff);
    let stop = Call { extension: hsm::EID_HSM as u64, function: 1, arguments: [0; 5] };
    assert_eq!(answer(&stop, 1, &cpus, &MACHINE), failed(-1), "nobody could start it again");
}

#[test]
fn suspension_keeps_the_registers_or_is_refused() {
    let suspend = |kind| call(hsm::EID_HSM, 3, [kind, 0, 0, 0, 0]);
    assert_eq!(suspend(0), Answer::Wait);
    assert_eq!(suspend(0x8000_0000), failed(-2));
    assert_eq!(suspend(0x1000_0000), failed(-2));
    assert_eq!(suspend(1), failed(-3));
    assert_eq!(suspend(1 << 32), failed(-3));
}

#[test]
fn the_end() {
    let reset = |kind, reason| call(srst::EID_SRST, 0, [kind, reason, 0, 0, 0]);
    assert_eq!(reset(0, 0), Answer::PowerOff);
    assert_eq!(reset(0, 1), Answer::PowerOff);
    assert_eq!(reset(1, 0), Answer::Reset);
    assert_eq!(reset(2, 0xe000_0000), Answer::Reset);
    assert_eq!(reset(3, 0), failed(-3));
    assert_eq!(reset(0, 2), failed(-3));
    assert_eq!(reset(0xf000_0000, 0), failed(-2));
    assert_eq!(reset(1 << 32, 0), failed(-3));
    assert_eq!(call(8, 0, [0; 5]), Answer::PowerOff);
}

#[test]
fn the_console_believes_no_length() {
    let write = |bytes, low, high| call(dbcn::EID_DBCN, 0, [bytes, low, high, 0, 0]);
    assert_eq!(write(5, RAM.start, 0), Answer::PrintBuffer(RAM.start, 5));
    assert_eq!(write(u64::MAX, u64::MAX, 0), Answer::PrintBuffer(u64::MAX, CONSOLE_MAX));
    assert_eq!(write(5, RAM.start, 1), failed(-3));
    assert_eq!(call(dbcn::EID_DBCN, 1, [u64::MAX; 5]), value(0));
    assert_eq!(
        call(dbcn::EID_DBCN, 2, [0x141, 0, 0, 0, 0]),
        Answer::Print { character: 0x41, legacy: false }
    );
    assert_eq!(call(1, 0, [0x41, 0, 0, 0, 0]), Answer::Print { character: 0x41, legacy: true });
    assert_eq!(call(2, 0, [0; 5]), Answer::ReturnLegacy(u64::MAX));
}

#[test]
fn what_was_printed_is_told() {
    let told = |done, status| printed(BufferAnswer { done, status });
    assert_eq!(told(0, Ok(())), (0, 0));
    assert_eq!(told(7, Ok(())), (0, 7));
    assert_eq!(told(7, Err(BufferError::NoMemory)), (0, 7));
    assert_eq!(told(0, Err(BufferError::NoMemory)), (-3_i64 as u64, 0));
    assert_eq!(told(0, Err(BufferError::Denied)), (-4_i64 as u64, 0));
    assert_eq!(told(0, Err(BufferError::OutOfFrames)), (-1_i64 as u64, 0));
}

#[test]
fn the_hypervisors_own_calls() {
    let own = |function, address, length| {
        let arguments = [address, length, 0, 0, 0];
        answer(&Call { extension: EXTENSION, function, arguments }, 0, &cpus(1), &MACHINE)
    };
    assert_eq!(own(1, 0x1000, 0), Answer::Request(Request::Move, 0x1000));
    assert_eq!(own(3, u64::MAX, 0), Answer::Request(Request::Renew, u64::MAX));
    assert_eq!(own(0x10, 1, 2), Answer::Buffer(BufferCall::Print, 1, 2));
    for function in [0, 4, 0x12, 0x1_0001, 0xc600_0001, u64::MAX] {
        assert_eq!(own(function, 0, 0), failed(-1), "{function:#x}");
    }
}
