//! The run loop itself under a guest that is a page of code: begins as a kernel does, asks through the debug port and by
//! hypercalls, and turns itself off.

use super::exits;
use crate::arch::x86_64::bare::physical::Physical;
use crate::arch::x86_64::bare::vendor::{Intercepts, Vendor};
use crate::arch::x86_64::bare::{end_of_interrupt, interrupt_self, kick};
use crate::arch::x86_64::ports;
use crate::arch::x86_64::unit::context::Context;
use crate::arch::x86_64::unit::{Failure, UnitGuest, ensure, ensure_eq, failed, guest_code, nothing};
use crate::arch::x86_64::vcpu::{Config, X86Vcpu};
use crate::cpus::Cpus;
use crate::guest::Content;
use crate::run::{Job, Left, Machine, Outcome, Screen};
use crate::store::Swap;
use crate::vcpu::Vcpu as _;
use alloc::boxed::Box;
use alloc::string::String;
use core::hint::spin_loop;
use core::sync::atomic::{AtomicBool, Ordering};
use slat::GuestPhysAddr;
use slat::format::Format as _;
use slat_hv_protocol::{Churn, End, FaultPolicy, Leaf};
use slat_x86::cpuid::Policy;

pub(super) fn guests<V: Vendor>() -> [UnitGuest<Context<V>>; 5] {
    [
        UnitGuest { name: "debug-port-and-hypercalls", needs: no_paging, run: debug_port_and_hypercalls },
        UnitGuest { name: "power-off-and-reset", needs: may_shut_down, run: power_off_and_reset },
        UnitGuest { name: "screen-ends-the-run", needs: no_paging, run: screen_ends_the_run },
        UnitGuest { name: "hole-ends-the-run", needs: no_paging, run: hole_ends_the_run },
        UnitGuest { name: "halt-behind-sti", needs: no_paging, run: halt_behind_sti },
    ]
}

/// The run loop begins its guest without paging.
fn no_paging<V: Vendor>(context: &Context<V>) -> Result<(), String> {
    context.vendor.lacks_without_paging().map_or_else(|| nothing(context), |lacking| Err(lacking.into()))
}

/// Where the guest's code lies, and the first byte of what it is told.
const CODE: u64 = 0x1_0000;
/// Bytes of its RAM.
const MEMORY: u64 = 4 << 20;

// ESI: 1 for VMMCALL, 0 for VMCALL. Each command's answer goes to the buffer at 0x20000, which then is printed; the page at
// 0x30000 is written, moved, read, renewed, read.
guest_code!(
    asking,
    ".code32",
    "mov esp, 0x40000",
    // The text of the commands lies behind the code.
    "mov ebx, 0x10200",
    "2:",
    "mov edi, 0x20000",
    "mov dx, 0xe9",
    "3:",
    "mov al, [ebx]",
    "inc ebx",
    "test al, al",
    "jz 4f",
    "out dx, al",
    "cmp al, 10",
    "jne 3b",
    "9:",
    "in al, dx",
    "stosb",
    "test al, al",
    "jnz 9b",
    // Printed without the last byte.
    "push ebx",
    "mov eax, 0xc6000010",
    "mov ebx, 0x20000",
    "lea ecx, [edi - 0x20001]",
    "call 7f",
    "pop ebx",
    "test eax, eax",
    "jnz 8f",
    "jmp 2b",
    "4:",
    "mov dword ptr [0x30ff0], 0x600df00d",
    "mov eax, 0xc6000001",
    "mov ebx, 0x30000",
    "call 7f",
    "test eax, eax",
    "jnz 8f",
    "cmp dword ptr [0x30ff0], 0x600df00d",
    "jne 8f",
    "mov eax, 0xc6000003",
    "mov ebx, 0x30000",
    "call 7f",
    "cmp dword ptr [0x30ff0], 0",
    "jne 8f",
    // No page, and no call.
    "mov eax, 0xc6000001",
    "mov ebx, 0x30008",
    "call 7f",
    "cmp eax, -2",
    "jne 8f",
    "mov eax, 0x12345678",
    "call 7f",
    "cmp eax, -1",
    "jne 8f",
    "mov dx, 0x604",
    "mov ax, 0x2000",
    "out dx, ax",
    // Something was not as it should be: a reset says so.
    "8:",
    "mov al, 0xfe",
    "out 0x64, al",
    "7:",
    "test esi, esi",
    "jnz 6f",
    "vmcall",
    "ret",
    "6:",
    "vmmcall",
    "ret",
    ".org guest_asking + 0x200",
    ".ascii \"help\\nstats\\nquery 0x10010\\nmap\\n\"",
    ".byte 0",
);

fn debug_port_and_hypercalls<V: Vendor>(context: &Context<V>) -> Result<(), Failure> {
    let outcome = run(context, asking(), job(asking(), None), true)?;
    ensure_eq!(outcome.end, End::PowerOff, "end");
    let text = &outcome.buffer_calls.text;
    for part in
        ["query GPA, regs, map, dump, stats, faults, audit, flushes", "exits      ", "GPA 0x10010: -> "]
    {
        ensure!(text.contains(part), "{part:?} is not in {text:?}");
    }
    ensure_eq!(outcome.buffer_calls.done, 4, "texts printed");
    ensure_eq!(outcome.faults.unanswered, 0, "faults that nobody answered");
    Ok(())
}

guest_code!(off_by_word, ".code32", "mov dx, 0x604", "mov ax, 0x2000", "out dx, ax", "2: jmp 2b");
guest_code!(
    off_by_bytes,
    ".code32",
    "mov dx, 0x604",
    "xor al, al",
    "out dx, al",
    "inc dx",
    "mov al, 0x20",
    "out dx, al",
    "2: jmp 2b"
);
guest_code!(reset_by_keyboard, ".code32", "mov al, 0xfe", "out 0x64, al", "2: jmp 2b");
// No descriptor table has room for a handler of anything.
guest_code!(reset_by_fault, ".code32", "ud2", "2: jmp 2b");

fn may_shut_down<V: Vendor>(context: &Context<V>) -> Result<(), Failure> {
    exits::survives_shutdown(context)?;
    no_paging(context)
}

fn power_off_and_reset<V: Vendor>(context: &Context<V>) -> Result<(), Failure> {
    let ends = [
        (off_by_word(), End::PowerOff),
        (off_by_bytes(), End::PowerOff),
        (reset_by_keyboard(), End::Reset),
        (reset_by_fault(), End::Reset),
    ];
    for (index, (code, end)) in ends.into_iter().enumerate() {
        let outcome = run(context, code, job(code, None), false)?;
        ensure_eq!(outcome.end, end, alloc::format!("end {index}"));
    }
    Ok(())
}

// Fills the screen's third line, then polls the keyboard controller as memtest86+ does.
guest_code!(
    polling,
    ".code32",
    "mov dword ptr [0xb8140], 0x07610744",
    "mov dword ptr [0xb8144], 0x0774076e",
    "2: in al, 0x64",
    "jmp 2b",
);

fn screen_ends_the_run<V: Vendor>(context: &Context<V>) -> Result<(), Failure> {
    // With churn, which takes the screen's page again and again.
    let churn = Some(Churn { seed: 5, per_exit: 2, limit: 200 });
    let outcome = run(context, polling(), Job { churn, ..job(polling(), Some("Dant")) }, false)?;
    ensure_eq!(outcome.end, End::ScreenShows, "end");
    let screen = outcome.screen.unwrap_or_default();
    ensure_eq!(screen.lines().nth(2), Some("Dant"), "the third line");
    Ok(())
}

guest_code!(astray, ".code32", "mov dword ptr [0x800000], 1", "2: jmp 2b");

fn hole_ends_the_run<V: Vendor>(context: &Context<V>) -> Result<(), Failure> {
    let outcome = run(context, astray(), job(astray(), None), false)?;
    let End::Fault { description } = outcome.end else {
        return Err(alloc::format!("{:?} instead of a fault", outcome.end));
    };
    ensure!(description.contains("PC 0x10000: write of GPA 0x800000"), "{description}");
    Ok(())
}

// Executes STI as the last byte of a page; the handler of interrupt 0x41 counts, and notes where it returns to.
guest_code!(
    falling_asleep,
    ".code32",
    "mov esp, 0x40000",
    // All that the delivery needs is there: under SVM Bochs tells nothing of an interrupt whose delivery faulted.
    "push 0",
    "mov dword ptr [0x30000], 0",
    "lgdt [0x10100]",
    "lidt [0x10108]",
    "mov byte ptr [0x11fff], 0xfb",
    "mov eax, 0x11fff",
    "jmp eax",
    ".org guest_falling_asleep + 0x80",
    "inc dword ptr [0x30000]",
    "mov eax, [esp]",
    "mov [0x30004], eax",
    "iretd",
    ".org guest_falling_asleep + 0x100",
    ".word 0x1f",
    ".long 0x10120",
    ".org guest_falling_asleep + 0x108",
    // Only the gate of 0x41 is behind the code.
    ".word 0x20f",
    ".long 0x10140 - 8 * 0x41",
    ".org guest_falling_asleep + 0x120",
    ".quad 0, 0, 0x00cf9b000000ffff, 0x00cf93000000ffff",
    ".quad 0x00018e0000100080",
);
// On the next page, which is not there yet.
guest_code!(
    asleep,
    ".code32",
    "hlt",
    // A CPU that keeps interrupts away once more still does.
    "nop",
    "cli",
    "cmp dword ptr [0x30000], 1",
    "jne 3f",
    "cmp dword ptr [0x30004], 0x12001",
    "jb 3f",
    "mov dx, 0x604",
    "mov ax, 0x2000",
    "out dx, ax",
    // Behind its RAM, by where the handler returned to.
    "3:",
    "mov eax, [0x30004]",
    "mov [eax + 0x800000], eax",
);

/// An interrupt that waits while the guest is outside, between STI and HLT, wakes it up: it does not come before the HLT, which
/// nothing would end then.
fn halt_behind_sti<V: Vendor>(context: &Context<V>) -> Result<(), Failure> {
    const VECTOR: u8 = 0x41;
    /// How long a guest that sleeps on is left alone.
    const PATIENCE: u32 = 20_000_000;
    let mut job = job(falling_asleep(), None);
    job.content.add(CODE + 0x2000, asleep());
    let awake = AtomicBool::new(false);
    let wake = || {
        let slept = !(0..PATIENCE).any(|_| {
            spin_loop();
            awake.load(Ordering::Acquire)
        });
        while !awake.load(Ordering::Acquire) {
            kick(0);
            (0..1000).for_each(|_| spin_loop());
        }
        slept
    };
    interrupt_self(VECTOR);
    let here = || {
        let outcome = run(context, falling_asleep(), job, false);
        awake.store(true, Ordering::Release);
        outcome
    };
    let (slept, outcome) = context.beside(wake, here)?;
    end_of_interrupt();
    ensure!(!slept, "the guest sleeps on");
    ensure_eq!(outcome?.end, End::PowerOff, "end");
    Ok(())
}

fn job(code: &'static [u8], until: Option<&str>) -> Job<'static> {
    let mut content = Content::default();
    content.add(CODE, code);
    Job {
        ram: 0,
        memory: MEMORY,
        content,
        devices: &[],
        leaf: Leaf::Size4K,
        large_leaves_suit: true,
        on_fault: FaultPolicy::Stop,
        churn: None,
        uart: None,
        screen: Some(Screen { address: 0xb_8000, until: until.map(Into::into) }),
        shared_port: None,
        terminal: None,
        skip_copies: false,
        paging: None,
    }
}

/// Runs `job` from its code on, to its end.
fn run<V: Vendor>(
    context: &Context<V>,
    code: &[u8],
    job: Job<'static>,
    requests: bool,
) -> Result<Outcome, Failure> {
    ensure!(code.len() < 4096, "{} bytes of code", code.len());
    let format = context.vendor.format(None)?;
    let size = 1 << format.geometry().gpa_bits;
    let space = crate::run::space(context.host, format, size, 0, Swap::default());
    let space = space.map_err(|error| failed("a space", error))?;
    let root = space.root_register();
    let spaces_cpus = context.host.maintenance().register(root);
    let cpus: &Cpus = Box::leak(Box::new(Cpus::new(1, 0..MEMORY, |_| false)));
    let machine = Machine::new(space, cpus, job).map_err(|error| failed("regions", error))?;
    let machine: &Machine<'static, _, _> = Box::leak(Box::new(machine));
    let intercepts = Intercepts { ports: ports::intercepted(false), ..Intercepts::default() };
    let config = Config {
        vcpu: context.vendor.vcpu(&intercepts)?,
        hardware: Physical::<V>::new(context.host, spaces_cpus, machine),
        cpus,
        signals: Box::leak(Box::default()),
        policy: Policy::default(),
        requests,
        no_redelivery: false,
    };
    let mut vcpu = X86Vcpu::new(0, config);
    vcpu.setup(root, GuestPhysAddr::new(CODE), u64::from(V::FLUSH == "tlb_control"));
    let left = machine.run(0, &mut vcpu);
    drop(vcpu);
    let Left::Ended(end) = left else { return Err(alloc::format!("{left:?}")) };
    let outcome = machine.close(end, || ());
    context.host.maintenance().unregister(root);
    outcome
}
