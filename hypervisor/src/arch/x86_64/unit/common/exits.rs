//! Instructions that lead to exits, with values that no CPU takes; HLT, shutdown, external interrupts.

use super::scene::{self, CODE, ERROR_CODE, HANDLED, RESULT, RETURN, enter, halt};
use crate::arch::x86_64::bare::Vendor;
use crate::arch::x86_64::bare::vendor::Intercepts;
use crate::arch::x86_64::unit::context::{Context, Space};
use crate::arch::x86_64::unit::{Failure, UnitGuest, ensure, ensure_eq, failed, guest_code, nothing};
use alloc::format;
use slat::device::{AccessWidth, Port, PortRange};
use slat_x86::answer::{Answer, Machine, answer};
use slat_x86::cpuid::{Leaf, Policy};
use slat_x86::isa::common;
use slat_x86::port::Intercepted;
use slat_x86::{Control, CpuState, Exit, General, PortAccess, PortDirection, TableRegister, Vcpu as _};

pub(super) fn guests<V: Vendor>() -> [UnitGuest<Context<V>>; 9] {
    [
        UnitGuest { name: "cpuid", needs: nothing, run: cpuid },
        UnitGuest { name: "msr", needs: nothing, run: msr },
        UnitGuest { name: "control-registers", needs: nothing, run: control_registers },
        UnitGuest { name: "control-registers-refused", needs: checked_by_us, run: bad_control_registers },
        UnitGuest { name: "xsetbv", needs: xsave_exists, run: xsetbv },
        UnitGuest { name: "ports", needs: nothing, run: ports },
        UnitGuest { name: "virtualization-refused", needs: nothing, run: virtualization_refused },
        UnitGuest { name: "shutdown", needs: survives_shutdown, run: shutdown },
        UnitGuest { name: "mode-switch", needs: super::modes::no_paging, run: mode_switch },
    ]
}

/// The CPU itself, which has no register whose value guests learn.
struct RealCpu;

impl Machine for RealCpu {
    fn cpuid(&self, leaf: u32, subleaf: u32) -> Leaf {
        let [eax, ebx, ecx, edx] = common::cpuid(leaf, subleaf);
        Leaf { eax, ebx, ecx, edx }
    }

    fn read_msr(&self, _: u32) -> Option<u64> {
        None
    }
}

/// Runs the guest to its next HLT, behind which it goes on, with the answers that every hypervisor gives; the exits that were
/// answered.
fn answered<V: Vendor>(space: &Space<V>, vcpu: &mut V::Vcpu) -> Result<u32, Failure> {
    let mut exits = 0;
    loop {
        let exit = enter(space, vcpu)?;
        if exit == Exit::Halt {
            vcpu.advance();
            return Ok(exits);
        }
        exits += 1;
        if answer(vcpu, &exit, Policy::default(), &RealCpu) == Answer::Open {
            return Err(format!("{exit:x?} at {:#x}", vcpu.rip()));
        }
    }
}

fn general<V: Vendor>(vcpu: &V::Vcpu, register: General) -> u64 {
    vcpu.general().get(register)
}

guest_code!(
    ask_cpuid,
    "mov eax, 1",
    "xor ecx, ecx",
    "cpuid",
    "mov [0x61000], rcx",
    "mov eax, 0x80000001",
    "cpuid",
    "mov [0x61008], rcx",
    "mov eax, 0x40000000",
    "cpuid",
    "mov [0x61010], rbx",
    "mov eax, 0x8000000a",
    "cpuid",
    "hlt",
);

/// A guest sees neither VMX nor SVM, and that there is a hypervisor.
fn cpuid<V: Vendor>(context: &Context<V>) -> Result<(), Failure> {
    let space = scene::memory(context, ask_cpuid())?;
    let mut vcpu = context.vcpu(&space, &scene::state())?;
    ensure_eq!(answered(&space, &mut vcpu)?, 4, "exits");
    let features = space.word(RESULT)?;
    ensure_eq!(features & (1 << 5 | 1 << 31), 1 << 31, "VMX and the hypervisor's bit");
    ensure_eq!(space.word(RESULT + 8)? & 1 << 2, 0, "SVM");
    ensure_eq!(space.word(RESULT + 16)?, u64::from(u32::from_le_bytes(*b"slat")), "the name");
    // Leaf 8000_000AH, and upper halves.
    let registers = [General::Rax, General::Rbx, General::Rcx, General::Rdx];
    ensure_eq!(registers.map(|register| general::<V>(&vcpu, register)), [0; 4], "SVM's leaf");
    vcpu.unbind();
    Ok(())
}

guest_code!(read_register, "2:", "rdmsr", "hlt", "jmp 2b");
guest_code!(write_register, "2:", "wrmsr", "hlt", "jmp 2b");

/// Runs one RDMSR or WRMSR of the loops above, which are 2 bytes long: whether it was a general protection exception.
fn refused<V: Vendor>(space: &Space<V>, vcpu: &mut V::Vcpu, index: u32, value: u64) -> Result<bool, Failure> {
    let before = space.word(HANDLED)?;
    let general = vcpu.general_mut();
    general.set(General::Rcx, index.into());
    general.set_edx_eax(value);
    general.set(General::Rdi, 2);
    answered(space, vcpu)?;
    let handled = space.word(HANDLED)? - before;
    if handled == 1 {
        ensure_eq!(space.word(ERROR_CODE)?, 0, "error code");
        ensure_eq!(space.word(RETURN)?, CODE, "where the exception was");
    }
    Ok(handled == 1)
}

/// Registers of all kinds, with values that no CPU takes.
fn msr<V: Vendor>(context: &Context<V>) -> Result<(), Failure> {
    const EFER: u32 = 0xc000_0080;
    const STAR: u32 = 0xc000_0081;
    const LSTAR: u32 = 0xc000_0082;
    const FEATURE_CONTROL: u32 = 0x3a;
    const VM_CR: u32 = 0xc001_0114;
    const VM_HSAVE_PA: u32 = 0xc001_0117;
    // In no bitmap, at the ends of those that there are, and the hypervisor's own.
    let absent = [
        0x1fff,
        0x2000,
        0x4000_0000,
        0xbfff_ffff,
        0xc000_1fff,
        0xc000_2000,
        0xc001_1fff,
        0xc001_2000,
        u32::MAX,
    ];
    let space = scene::memory(context, read_register())?;
    let mut vcpu = context.vcpu(&space, &scene::state())?;
    for index in absent.into_iter().chain([VM_HSAVE_PA, 0x480, 0x200]) {
        ensure!(refused(&space, &mut vcpu, index, 0)?, "MSR {index:#x} can be read");
    }
    for (index, value) in [(EFER, 0x500), (FEATURE_CONTROL, 1), (VM_CR, 0x18)] {
        ensure!(!refused(&space, &mut vcpu, index, 0)?, "MSR {index:#x} cannot be read");
        ensure_eq!(vcpu.general().edx_eax(), value, "the value read");
    }
    vcpu.unbind();
    drop(vcpu);

    let space = scene::memory(context, write_register())?;
    let mut vcpu = context.vcpu(&space, &scene::state())?;
    for index in absent {
        ensure!(refused(&space, &mut vcpu, index, 0)?, "MSR {index:#x} can be written");
    }
    // LME cannot go, SVME cannot come, and there is no bit 63.
    for value in [0, 0x1500, 1 << 63 | 0x500, u64::MAX] {
        ensure!(refused(&space, &mut vcpu, EFER, value)?, "EFER can be {value:#x}");
        ensure_eq!(vcpu.control(Control::Efer), 0x500, "EFER");
    }
    for (index, value) in [(FEATURE_CONTROL, 5), (VM_CR, 0), (VM_HSAVE_PA, 0x1000)] {
        ensure!(refused(&space, &mut vcpu, index, value)?, "MSR {index:#x} can be {value:#x}");
    }
    // The guest's own, without an exit; non-canonical ones are refused by the CPU itself.
    ensure!(!refused(&space, &mut vcpu, STAR, 0x1234_5678_9abc_def0)?, "STAR cannot be written");
    ensure!(!refused(&space, &mut vcpu, EFER, 0x501)?, "EFER.SCE cannot be set");
    ensure_eq!(vcpu.control(Control::Efer), 0x501, "EFER");
    ensure!(!refused(&space, &mut vcpu, LSTAR, 0xffff_8000_0000_1000)?, "LSTAR cannot be written");
    vcpu.unbind();
    Ok(())
}

guest_code!(
    write_controls,
    "mov rax, cr0",
    "mov [0x61000], rax",
    "mov rax, cr4",
    "mov [0x61008], rax",
    "hlt",
    // Write protection, global pages.
    "mov rax, [0x61000]",
    "bts rax, 16",
    "mov cr0, rax",
    "mov rax, [0x61008]",
    "bts rax, 7",
    "mov cr4, rax",
    "mov rax, cr0",
    "mov [0x61000], rax",
    "mov rax, cr4",
    "mov [0x61008], rax",
    "hlt",
);

/// Control registers read as the guest wrote them.
fn control_registers<V: Vendor>(context: &Context<V>) -> Result<(), Failure> {
    let space = scene::memory(context, write_controls())?;
    let state = scene::state();
    let mut vcpu = context.vcpu(&space, &state)?;
    for expected in [[state.cr0, state.cr4], [state.cr0 | 1 << 16, state.cr4 | 1 << 7]] {
        answered(&space, &mut vcpu)?;
        ensure_eq!([space.word(RESULT)?, space.word(RESULT + 8)?], expected, "what the guest reads");
        let known = [vcpu.control(Control::Cr0), vcpu.control(Control::Cr4)];
        ensure_eq!(known, expected, "the registers");
    }
    vcpu.unbind();
    Ok(())
}

/// Under SVM the CPU checks what a guest writes, and both emulators take what no CPU takes.
fn checked_by_us<V: Vendor>(_: &Context<V>) -> Result<(), Failure> {
    ensure!(!scene::is_svm::<V>(), "no emulator of SVM checks control registers");
    Ok(())
}

guest_code!(
    write_bad_controls,
    // Paging without protected mode, VMXE, bits that do not exist: each MOV has three bytes.
    "mov edi, 3",
    "mov rbx, cr0",
    "mov rdx, cr4",
    "mov eax, 0x80000000",
    "mov cr0, rax",
    "mov rax, rdx",
    "bts rax, 13",
    "mov cr4, rax",
    "mov rax, rdx",
    "bts rax, 63",
    "mov cr4, rax",
    "mov rax, rbx",
    "bts rax, 63",
    "mov cr0, rax",
    "hlt",
);

/// Bad values are exceptions, and change nothing.
fn bad_control_registers<V: Vendor>(context: &Context<V>) -> Result<(), Failure> {
    let space = scene::memory(context, write_bad_controls())?;
    let state = scene::state();
    let mut vcpu = context.vcpu(&space, &state)?;
    answered(&space, &mut vcpu)?;
    ensure_eq!(space.word(HANDLED)?, 4, "general protection exceptions");
    ensure_eq!(
        [vcpu.control(Control::Cr0), vcpu.control(Control::Cr4)],
        [state.cr0, state.cr4],
        "the registers"
    );
    vcpu.unbind();
    Ok(())
}

fn xsave_exists<V: Vendor>(_: &Context<V>) -> Result<(), Failure> {
    let [_, _, features, _] = common::cpuid(1, 0);
    ensure!(features >> 26 & 1 == 1, "the CPU has no XSAVE");
    Ok(())
}

guest_code!(
    set_xcr0,
    "2:",
    "xsetbv",
    "hlt",
    "xor ecx, ecx",
    "xgetbv",
    "mov [0x61000], rax",
    "hlt",
    "mov eax, [0x61008]",
    "mov ecx, [0x61010]",
    "mov edx, [0x61018]",
    "jmp 2b",
);

/// XCR0 has what the guest set, and bad values are exceptions.
fn xsetbv<V: Vendor>(context: &Context<V>) -> Result<(), Failure> {
    let space = scene::memory(context, set_xcr0())?;
    let mut state = scene::state();
    // OSXSAVE and OSFXSR; XSETBV has three bytes.
    state.cr4 |= 1 << 18 | 1 << 9;
    state.general.set(General::Rdi, 3);
    state.general.set(General::Rax, 3);
    let mut vcpu = context.vcpu(&space, &state)?;
    let mut xcr0 = 3;
    // QEMU's SVM knows no exit for it: there the CPU itself does what is checked here.
    ensure!(answered(&space, &mut vcpu)? <= 1, "one exit at the most");
    answered(&space, &mut vcpu)?;
    ensure_eq!(space.word(RESULT)?, 3, "what the guest reads");
    // x87 cannot go, AVX needs SSE, bit 62 is nothing, and there is no XCR1.
    for (round, (index, value)) in
        (1..).zip([(0, 2), (0, 5), (0, 1 << 62 | 3), (1, 1), (0, 0), (u64::from(u32::MAX), 3)])
    {
        space.load(RESULT + 8, &(value & 0xffff_ffff_u64).to_le_bytes())?;
        space.load(RESULT + 16, &index.to_le_bytes())?;
        space.load(RESULT + 24, &(value >> 32).to_le_bytes())?;
        answered(&space, &mut vcpu)?;
        ensure_eq!(space.word(HANDLED)?, round, "general protection exceptions");
        answered(&space, &mut vcpu)?;
        ensure_eq!([vcpu.xcr0(), space.word(RESULT)?], [xcr0, xcr0], "XCR0");
    }
    xcr0 = 1;
    space.load(RESULT + 8, &xcr0.to_le_bytes())?;
    space.load(RESULT + 16, &[0; 16])?;
    answered(&space, &mut vcpu)?;
    answered(&space, &mut vcpu)?;
    ensure_eq!([vcpu.xcr0(), space.word(RESULT)?], [xcr0, xcr0], "XCR0");
    vcpu.unbind();
    Ok(())
}

guest_code!(
    use_ports,
    // The hypervisor's: from the first to the last port that there is.
    "mov dx, 0x604",
    "mov ax, 0x2000",
    "out dx, ax",
    "in al, 0",
    "mov dx, 0xffff",
    "in al, dx",
    "mov dx, 0x605",
    "mov eax, 0x12345678",
    "out dx, eax",
    "mov esi, 0x61000",
    "mov edi, 0x61000",
    "mov ecx, 2",
    "cld",
    "mov dx, 0x604",
    "rep outsb",
    "mov dx, 0x605",
    "insw",
    // Its neighbours are the guest's own: a POST code, and the mask of an interrupt controller.
    "out 0x80, al",
    "in al, 0x21",
    // An access that begins before an intercepted port and reaches it.
    "mov dx, 0x602",
    "in eax, dx",
    "hlt",
);

/// Ports of all widths, intercepted and not.
fn ports<V: Vendor>(context: &Context<V>) -> Result<(), Failure> {
    let ranges = [(0, 0), (0x604, 0x605), (0xffff, 0xffff)];
    let ports = ranges.into_iter().try_fold(Intercepted::NONE, |ports, (first, last)| {
        ports.with(PortRange::inclusive(Port(first), Port(last)).ok()?)
    });
    let ports = ports.ok_or("no room for ports")?;
    let space = scene::memory(context, use_ports())?;
    let intercepts = Intercepts { halt: true, ports, ..Intercepts::default() };
    let mut vcpu = context.vcpu_with(&intercepts, &space, &scene::state())?;
    let (byte, word, dword) = (AccessWidth::Byte, AccessWidth::Word, AccessWidth::Dword);
    let (input, output) = (PortDirection::In, PortDirection::Out);
    let single = |port, width, direction| PortAccess {
        port: Port(port),
        width,
        direction,
        string: false,
        repeat: false,
    };
    let expected = [
        single(0x604, word, output),
        single(0, byte, input),
        single(0xffff, byte, input),
        single(0x605, dword, output),
        PortAccess { string: true, repeat: true, ..single(0x604, byte, output) },
        PortAccess { string: true, ..single(0x605, word, input) },
        single(0x602, dword, input),
    ];
    for access in expected {
        ensure_eq!(enter(&space, &mut vcpu)?, Exit::Port(access), "exit");
        vcpu.advance();
    }
    halt(&space, &mut vcpu)?;
    vcpu.unbind();
    Ok(())
}

guest_code!(
    use_virtualization,
    "mov edi, 3",
    "mov eax, 0x61000",
    "vmrun rax",
    "vmload rax",
    "vmsave rax",
    "stgi",
    "clgi",
    "invlpga rax, ecx",
    "vmxoff",
    "vmlaunch",
    "mov edi, 4",
    "vmclear [rax]",
    "mov edi, 5",
    "hlt",
);

/// The guest's CPU has neither extension.
fn virtualization_refused<V: Vendor>(context: &Context<V>) -> Result<(), Failure> {
    let space = scene::memory(context, use_virtualization())?;
    let mut vcpu = context.vcpu(&space, &scene::state())?;
    answered(&space, &mut vcpu)?;
    ensure_eq!(space.word(HANDLED)?, 9, "invalid opcode exceptions");
    ensure_eq!(general::<V>(&vcpu, General::Rdi), 5, "how far the guest came");
    vcpu.unbind();
    Ok(())
}

pub(super) fn survives_shutdown<V: Vendor>(_: &Context<V>) -> Result<(), Failure> {
    ensure!(!scene::is_svm_of_bochs::<V>(), "Bochs gives up when a guest shuts down under SVM");
    Ok(())
}

guest_code!(undefined_alone, "ud2");

/// Without a descriptor table every exception ends in a shutdown.
fn shutdown<V: Vendor>(context: &Context<V>) -> Result<(), Failure> {
    let space = scene::memory(context, undefined_alone())?;
    let mut state = scene::state();
    state.idtr = TableRegister { base: 0, limit: 0 };
    let mut vcpu = context.vcpu(&space, &state)?;
    ensure_eq!(enter(&space, &mut vcpu)?, Exit::Shutdown, "exit");
    vcpu.unbind();
    Ok(())
}

guest_code!(
    climb,
    ".code16",
    "cli",
    "xor ax, ax",
    "mov ds, ax",
    "mov word ptr [0x7000], 31",
    "mov dword ptr [0x7002], 0x7100",
    "lgdt [0x7000]",
    "mov eax, cr0",
    "or al, 1",
    "mov cr0, eax",
    "jmp 2f",
    "2:",
    "hlt",
    "mov eax, cr4",
    "or al, 0x20",
    "mov cr4, eax",
    "mov eax, 0x30000",
    "mov cr3, eax",
    "mov ecx, 0xc0000080",
    "rdmsr",
    "or ax, 0x100",
    "wrmsr",
    "mov eax, cr0",
    "or eax, 0x80000000",
    "mov cr0, eax",
    // A far jump into 64-bit code: ljmp 0x10:0x1100.
    ".byte 0x66, 0xea",
    ".long 0x1100",
    ".word 0x10",
);
guest_code!(climbed, "mov rax, 0x1122334455667788", "mov [0x61000], rax", "hlt");

/// From real mode to 64-bit mode by the guest's own hand, through all the registers that it takes.
fn mode_switch<V: Vendor>(context: &Context<V>) -> Result<(), Failure> {
    let space = scene::memory(context, &[])?;
    space.load(0x1000, climb())?;
    space.load(0x1100, climbed())?;
    ensure!(climb().len() <= 0x100, "the code is too long");
    for (place, descriptor) in (0..).zip([0, 0, 0x00af_9b00_0000_ffff_u64, 0x00cf_9300_0000_ffff]) {
        space.load(0x7100 + 8 * place, &descriptor.to_le_bytes())?;
    }
    let mut vcpu = context.vcpu(&space, &CpuState::real_mode(0, 0x1000))?;
    answered(&space, &mut vcpu)?;
    ensure_eq!(vcpu.control(Control::Cr0) & 0x8000_0001, 1, "CR0 in protected mode");
    answered(&space, &mut vcpu)?;
    ensure_eq!(space.word(RESULT)?, 0x1122_3344_5566_7788, "what 64-bit code stored");
    ensure_eq!(vcpu.control(Control::Efer), 0x500, "EFER");
    let state = vcpu.state().map_err(|error| failed("state", error))?;
    ensure_eq!(state.cr0 & 0x8000_0001, 0x8000_0001, "CR0");
    vcpu.unbind();
    Ok(())
}
